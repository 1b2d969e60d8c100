"""The encoders through which the agent hears and sees its user.

Modules:
    audio_encoder.py   The audio encoder: causal log-mel frames, a convolution and causal attention
    video_encoder.py   The video encoder turns the frames of a unit into a few tokens
"""
