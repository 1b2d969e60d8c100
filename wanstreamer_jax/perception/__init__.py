"""The encoders through which the agent hears and sees its user.

Modules:
    audio_encoder.py        The audio encoder: causal log-mel frames, a convolution and causal attention
    make.py                 Makes the encoders that a config names
    moonshine_encoder.py    Hears through a streaming speech encoder of Moonshine's kind
    pocket_encoder.py       Hears through the encoder of Pocket TTS' tokenizer
    projection.py           From a pretrained encoder's features to tokens
    siglip_encoder.py       Sees some frames of a unit through a pretrained vision Transformer
    video_encoder.py        The video encoder turns the frames of a unit into a few tokens
    vision_transformer.py   A vision Transformer of SigLIP's kind (arXiv 2502.14786)
"""
