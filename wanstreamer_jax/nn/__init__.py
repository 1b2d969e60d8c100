"""Layers that know no units: numbers are passed in, and nothing of a config.

Modules:
    attention.py          One attention: grouped queries over several parts of keys, joined in one softmax
    attention_cache.py    A few queries over a long part of keys as one TPU kernel (Pallas): no score ever leaves ...
    attention_merge.py    Attention whose keys lie in several parts, each seen by the kernel that suits it ...
    attention_parts.py    What attention over several parts of keys is made of, and how the parts become one softmax
    attention_splash.py   One splash-attention call (TPU, Pallas) over [prefix | groups of clean tokens | groups ...
    backend.py            What the program being traced will run on: some kernels exist for one kind of processor only
    blocks.py             What decoder layers are made of: RMSNorm, Linear, SwiGLU, the projection that joins heads
    causal_conv.py        Causal convolutions, one body for offline and streaming: `(x, state) -> (y, state)`
    folding.py            Space and time folded into channels, and back
    local_attention.py    Causal attention over the last `window` steps of a stream: `(x, state) -> (y, state)` ...
    mel.py                Power spectra and the mel scale, for perception, codecs, codec losses and metrics
    rotary.py             Multimodal rotary embedding (M-RoPE) with exact angles at any session length
"""
