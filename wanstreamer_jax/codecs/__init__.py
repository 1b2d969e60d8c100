"""Audio and video to continuous latents and back, causal and streamable.

Modules:
    audio_vae.py       Causal audio VAE: samples to continuous latents at 12.5 or 25 Hz and back, with no lookahead
    losses.py          Distances between media and their reconstructions: pure functions, unbatched, smooth ...
    pitch.py           Pitch from autocorrelation (Boersma 1993): an input of the encoder, and the target of the ...
    posterior.py       What the latents of both codecs share: a Gaussian posterior, and the standardisation ...
    source_filter.py   Streaming source-filter synthesis: pulses and noise through time-varying minimum-phase filters
    video_vae.py       Causal video VAE: 8x8 in space and 4x in time; the first frame alone, then groups of 4
"""
