"""Layers that are given plain numbers and know nothing of units or configs.

Modules:
    attention.py            One attention: grouped queries over several parts of keys, joined in one softmax
    attention_blocks.py     Attention of a row in blocks of queries, which meet only keys that they may see
    attention_cache.py      A TPU kernel (Pallas) by which a few queries read many keys; it writes no cache
    attention_merge.py      Merges attention over several parts of keys, each computed by its best kernel
    attention_parts.py      The parts of attention over several arrays of keys, and how they become one softmax
    attention_splash.py     One splash-attention call (Pallas) over [prefix | clean groups | noisy groups]
    backend.py              Tells which platform the traced program will run on: some kernels exist for one only
    blocks.py               Building blocks of decoder layers: RMSNorm, Linear, SwiGLU, output projection
    causal_conv.py          Causal convolutions, one body for offline and streaming: `(x, state) -> (y, state)`
    encoder_layer.py        Pre-norm Transformer layers with LayerNorm and a GELU MLP, of pretrained encoders
    folding.py              Folds space and time into channels, and back
    local_attention.py      Causal attention over the last `window` steps: `(x, state) -> (y, state)`
    mel.py                  Power spectra and the mel scale, for perception, codecs, codec losses and metrics
    resample.py             Causal resampling by a rational factor
    rotary.py               Multimodal rotary embedding (M-RoPE) with exact angles at any session length
    windowed_attention.py   Causal attention over the last `window` steps, as speech tokenizers have it
"""
