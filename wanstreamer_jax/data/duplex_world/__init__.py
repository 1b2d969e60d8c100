"""The procedural world: a seed gives a session with ground truth.

Modules:
    actor.py              The user's means: to speak, ask, show, type, cough and wait
    acts_seen.py          What the user shows and asks about
    acts_talk.py          What the user asks and tells without showing anything
    acts_turns.py         Acts about taking turns
    allophones.py         How phones sound among their neighbours
    asides.py             Words that mean nothing, in what the users of training say
    body.py               A body has a look and a voice, and moves on a clock
    build_tokenizer.py    Makes the shipped `data/tokenizer.json` from duplex_world's vocabulary
    espeak.py             Speaks words with espeak-ng (an optional extra); returns phone and word times
    espeak_child.py       Speaks one utterance with espeak-ng in a process of its own
    faces.py              Draws people at any size
    features.py           Eyes, brows and mouth, painted in every frame as distances
    flite.py              Speaks words with flite (an optional program); returns phone and word times
    flite_library.py      Speaks with flite's own libraries, without the start of a program for every utterance
    glyphs.py             A small stroke font of capital letters and digits, drawn by their distance
    grammar.py            Composes the user's sentences from `phrases.py` and keeps some of them for evaluation
    hands.py              Hands that wave, show a thumb or hold something, drawn once and moved
    lanes.py              Pictures as 64-bit pixels, and sprites that are moved, turned and bent in them
    language.py           What is said in duplex_world, counted
    lexicon.py            The words of duplex_world besides its phrasings
    looks.py              How people of duplex_world look; some hair styles and walls are kept for evaluation
    motion.py             How a body moves: lips by phone, and smooth gestures, each a pure function of time
    perfect_agent.py      The agent that answers perfectly: every request one unit after it is complete
    personas.py           Who the agent is
    phones.py             Phones of English: how they sound, how the mouth looks, and how words are spelled
    phrases.py            The parts of which duplex_world's sentences are composed
    portrait.py           Wall, clothes, neck, hair and head, drawn once for a look and a size
    pronunciations.py     How duplex_world's words are spoken
    reacting.py           The live user of duplex_world: it hears the agent and reacts, unit by unit
    reader_phrasings.py   Phrasings of each act by a reader who had not seen the grammar
    renaming.py           Another name, home and likes for the agent of a crop
    script.py             The script of a user who acts and reacts, and how often it does what
    source.py             duplex_world as a `data.make.SessionSource`
    speech.py             A formant voice in NumPy: words to speech with phone and word times; deterministic
    sprites.py            Draws sprites: soft, shaded parts in float32 planes, packed at the end
    stage.py              What both sides of a script share
    things.py             What a person of duplex_world can hold up: shapes, and cards with a letter or a digit
    voice.py              The voice of a speaker of duplex_world, as numbers
    voices.py             Who speaks how
    world.py              duplex_world: an endless, seeded world of two drawn people who talk
"""
