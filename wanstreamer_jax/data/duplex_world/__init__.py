"""The procedural world: a seed gives a session with ground truth.

Modules:
    body.py               A body has a look and a voice, and moves on a clock
    build_tokenizer.py    Makes the shipped `data/tokenizer.json` from duplex_world's vocabulary
    espeak.py             Speaks words with espeak-ng (an optional extra); returns phone and word times
    espeak_child.py       Speaks one utterance with espeak-ng in a process of its own
    faces.py              Draws faces as anti-aliased signed-distance shapes, at any frame size
    glyphs.py             A small stroke font: capital letters and digits as lines and arcs, drawn by their distance
    lexicon.py            The language of duplex_world: phrasings, personas and objects
    motion.py             How a body moves: lips by phone, and smooth gestures, each a pure function of time
    phones.py             Phones of English: how they sound, how the mouth looks, and how words are spelled
    reacting.py           The live user of duplex_world: it hears the agent and reacts, unit by unit
    reader_phrasings.py   Phrasings of each act by a reader who had not seen the grammar; they are for evaluation only
    script.py             The script: a user who acts and reacts, and an agent that answers perfectly
    source.py             duplex_world as a `data.make.SessionSource`
    speech.py             A formant voice in NumPy: words to speech with phone and word times; deterministic
    things.py             What a person of duplex_world can hold up: shapes, and cards with a letter or a digit
    voice.py              The voice of a speaker of duplex_world, as numbers
    world.py              duplex_world: an endless, seeded world of two drawn people who talk
"""
