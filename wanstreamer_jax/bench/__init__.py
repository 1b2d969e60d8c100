"""Measures this machine beside its theoretical limits; one module per command.

Modules:
    codec.py          `wanstreamer bench codec`: how near audio codecs come to sounds of several kinds
    gpu.py            `wanstreamer bench gpu`: measures one large GPU at the published sizes
    loader.py         `wanstreamer bench loader`: how fast batches are read, without and with augmentation
    long_session.py   `wanstreamer bench session`: runs one long session faster than real time
    service.py        `wanstreamer bench serve`: puts load on the live service over real sockets
    trace.py          Writes a trace for Perfetto and draws the paper's Figure 2 from measured times
    train_step.py     `wanstreamer bench train`: times the real training step beside the machine's peak
    transformers.py   A training step in Hugging Face transformers (torch), for `bench train --against`
    unit_step.py      Times each phase of a unit on this machine, beside the least time it could take
    world.py          `wanstreamer bench world`: how fast a core renders sessions of duplex_world
"""
