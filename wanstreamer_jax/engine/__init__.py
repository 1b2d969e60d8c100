"""One engine for all who run the agent unit by unit: `stream`, `serve`, `eval` and `bench`.

Modules:
    engine.py      The engine: sessions of one agent in lockstep, a unit at a time, behind plain NumPy units
    interface.py   What others know of an engine: the phases of a unit, what comes out of it, what it can be asked
    phases.py      The five phases of a unit, compiled: the one place where the model's functions become programs
    placement.py   Where the performer runs: with the thinker, on a device of its own, or spread over several ...
    request.py     What a session asks of the agent: who it is, its noise, and how it draws words and latents
"""
