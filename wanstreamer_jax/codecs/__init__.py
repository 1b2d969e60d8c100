"""Encodes audio and video as continuous latents and decodes them; causal, streamable.

Modules:
    audio_vae.py       Causal audio VAE: samples to continuous latents at 12.5 or 25 Hz, and back
    losses.py          Distances between media and their reconstructions, smooth enough to train on
    pitch.py           Estimates pitch by autocorrelation (Boersma 1993), for the audio encoder and its loss
    posterior.py       The parts that both codecs share: a Gaussian posterior and standardised latents
    source_filter.py   Streaming source-filter synthesis: pulses and noise through time-varying filters
    video_vae.py       Causal video VAE: 8x8 in space and 4x in time
"""
