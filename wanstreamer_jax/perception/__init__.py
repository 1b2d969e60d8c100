"""How the agent hears and sees its user.

Modules:
    audio_encoder.py   How the agent hears: causal log-mel frames, grouped into tokens, a causal convolution and ...
    video_encoder.py   How the agent sees: the frames of a unit become a few tokens
"""
