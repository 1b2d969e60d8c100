"""Tokens, Transformer, heads and attention kernels, and the streamer that joins them.

Modules:
    attention.py       Attention of a step that reads the cache, and of the pass over [clean | noisy]
    attention_gpu.py   The training pass's attention on GPUs, in chunks
    attention_tpu.py   The training pass's attention as one TPU kernel
    decoder_layer.py   One decoder layer: pre-norm attention and SwiGLU; adaptive norms carry the flow time
    heads.py           Output heads: text logits (tied to the embedding) and velocities of the latents
    readouts.py        Auxiliary readouts of what is known of the user; in training only
    streamer.py        WanStreamer joins perception, tokens, Transformer and heads
    tokens.py          Embeds text ids, latents and perceived units as tokens and gives them coordinates
    transformer.py     The one Transformer (stacked, scanned layers) and the KV-cache that it writes
    ulysses.py         One session on several devices: attention exchanges tokens for heads, and back
"""
