"""Programs compiled on a CPU for TPUs that are not attached: their memory, FLOPs, traffic and shortest step time.

`compile` makes the programs, `hlo` and `collectives` read what the compiler made of them, `roofline` bounds their time,
and `report`, `pods` and `growth` print tables, docs/scale.md and docs/scale.png.
"""
