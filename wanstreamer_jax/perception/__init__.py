"""How the agent hears and sees its user.

Modules:
    audio.py   How the agent hears: causal log-mel frames, grouped into tokens, a causal convolution and causal ...
    video.py   How the agent sees: the frames of a unit become a few tokens
"""
