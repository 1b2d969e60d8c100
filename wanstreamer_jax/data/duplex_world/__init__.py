"""The procedural world: seed -> session, with ground truth.

Modules:
    body.py              A body: a look and a voice on a clock
    build_tokenizer.py   Makes the shipped `data/tokenizer.json` from duplex_world's vocabulary
    espeak.py            espeak-ng voices, an optional extra: words to speech with phone and word times
    espeak_child.py      Speaks one utterance with espeak-ng in its own process: a request on stdin, phones and ...
    faces.py             Drawn faces: anti-aliased signed-distance shapes, all frames of a chunk at once, at any ...
    lexicon.py           The language of duplex_world: phrasings, personas, objects, and which of them are kept ...
    phones.py            Phones of English: how each one sounds (formant targets, sources) and looks (visemes) ...
    reacting.py          The user of duplex_world, live: it hears the agent and reacts, unit by unit
    script.py            The script: a user who acts and reacts, and an agent who answers perfectly
    source.py            duplex_world as a `data.make.SessionSource`
    speech.py            A formant voice: words to speech with phone and word times, deterministic, in NumPy
    voice.py             The voice of a speaker of duplex_world, as numbers
    world.py             duplex_world: a procedural, seeded, endless world of two drawn people who talk
"""
