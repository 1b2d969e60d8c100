"""One engine for all who run the agent unit by unit: `stream`, `serve`, `eval` and `bench`.

Modules:
    engine.py      Many sessions in lockstep: the unit step of one agent over stacked states, one compiled ...
    phases.py      The engine: the unit step of one agent, compiled phase by phase, behind plain NumPy units
    placement.py   Where the performer runs: with the thinker, on a device of its own, or spread over several ...
    request.py     What a session asks of the agent: who it is, its noise, and how it draws words and latents
"""
