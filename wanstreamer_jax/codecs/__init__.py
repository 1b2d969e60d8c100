"""Encodes audio and video as continuous latents and decodes them; causal, streamable.

Modules:
    interface.py             The two contracts that every codec meets: `AudioCodec` and `VideoCodec`
    losses.py                Distances between media and their reconstructions, smooth enough to train on
    make.py                  Makes the codecs that a config names
    native_video_codec.py    The native video codec, a causal VAE: the first frame alone, then groups of 4
    neural_codec.py          The native codec of any sound: ConvNeXt blocks over spectra, and an inverse STFT
    pitch.py                 Estimates pitch by autocorrelation (Boersma 1993), for the audio encoder and its loss
    pocket.py                The tokenizer of Pocket TTS: 24 kHz speech to 32 numbers at 12.5 Hz, and back
    posterior.py             The parts that both codecs share: a Gaussian posterior and standardised latents
    source_filter.py         Streaming source-filter synthesis: pulses and noise through time-varying filters
    source_filter_codec.py   Causal audio VAE: samples to continuous latents at 12.5 or 25 Hz, and back
    spectral_codec.py        What the native audio codecs share: an encoder of causal log-spectra
    tae.py                   A small decoder for the latents of Wan's video VAEs
    wan.py                   The video VAEs of Wan2.1 and Wan2.2: causal, 4x in time and 8x8 or 16x16 in space
"""
