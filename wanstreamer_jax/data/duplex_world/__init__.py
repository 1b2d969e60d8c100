"""The procedural world: seed -> session, with ground truth.

Modules:
    body.py              A body: a look and a voice on a clock
    build_tokenizer.py   Makes the shipped `data/tokenizer.json` from duplex_world's vocabulary
    espeak.py            espeak-ng voices, an optional extra: words in, speech with phone and word times out
    espeak_child.py      Speaks one utterance with espeak-ng, in a process of its own: a request on stdin, phones ...
    faces.py             Drawn faces: anti-aliased signed-distance shapes, all frames of a chunk at once, at any ...
    lexicon.py           What is said in duplex_world: phrasings, personas, objects, and which of them are kept ...
    phones.py            Phones of English: what each one sounds like (formant targets, sources) and looks like ...
    reacting.py          The user of duplex_world, live: it hears the agent and reacts, unit by unit
    script.py            The play: a user who acts and reacts, and an agent who answers perfectly
    source.py            duplex_world as a source of records
    speech.py            A formant voice: words in, speech with phone and word times out
    voice.py             A speaker of duplex_world, in numbers
    world.py             duplex_world: a procedural, seeded, endless world of two drawn people who talk
"""
