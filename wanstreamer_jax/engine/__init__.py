"""The one engine that runs the agent unit by unit: `stream`, `serve`, `eval`, `bench`.

Modules:
    engine.py      The engine steps all sessions of one agent together, one unit at a time
    interface.py   What callers may rely on: phases of a unit, its result, the calls of an engine
    phases.py      Compiles the five phases of a unit: no other module makes programs of model code
    placement.py   Places the performer: beside the thinker, on its own device, or on several
    request.py     What a session asks of the agent: its world, its seed and its sampling options
"""
