"""The procedural world: a seed gives a session with ground truth.

Modules:
    allophones.py        How phones sound among their neighbours: stops before vowels and elsewhere, dark l, vowels before voiceless sounds
    body.py              A body has a look and a voice, and moves on a clock
    build_tokenizer.py   Makes the shipped `data/tokenizer.json` from duplex_world's vocabulary
    espeak.py            Speaks words with espeak-ng (an optional extra); returns phone and word times
    espeak_child.py      Speaks one utterance with espeak-ng in a process of its own
    faces.py             Draws faces as anti-aliased signed-distance shapes, at any frame size
    flite.py             Speaks words with flite (an optional program); returns phone and word times
    lexicon.py           The language of duplex_world: phrasings, personas and objects
    phones.py            Phones of English: how they sound, how the mouth looks, and how words are spelled
    reacting.py          The live user of duplex_world: it hears the agent and reacts, unit by unit
    script.py            The script: a user who acts and reacts, and an agent that answers perfectly
    source.py            duplex_world as a `data.make.SessionSource`
    speech.py            A formant voice in NumPy: words to speech with phone and word times; deterministic
    voice.py             The voice of a speaker of duplex_world, as numbers
    voices.py            Who speaks how: voices of users and agents drawn from the engines of `data.voices`, and a cough
    world.py             duplex_world: an endless, seeded world of two drawn people who talk
"""
