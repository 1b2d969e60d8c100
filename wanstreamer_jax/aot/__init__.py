"""Compiles programs for TPUs on a machine without any; reports memory and time.

Modules:
    collectives.py   Lists the collectives of a compiled program: mesh axes, count and bytes
    compile.py       Compiles the real programs for TPUs on a machine without any; reports what they need
    growth.py        Draws how the cost of a training step grows with session length, batch and devices
    hlo.py           Parses the text of a compiled program (HLO): instructions, how often each runs, cost
    pods.py          Compiles the larger sizes for the pods that suit them and writes `docs/scale.md`
    report.py        Formats what `wanstreamer aot` prints: memory, computation, traffic and time
    roofline.py      Computes the shortest time of a compiled program from a TPU's published rates
"""
