"""duplex_world, a procedural world: seed -> session of two people who talk, with ground truth.

`world` makes sessions; `script` is what both people do; `body`, `faces`, `speech`, `phones`, `voice` and `espeak` show
and sound it; `lexicon` holds their words; `reacting` is the user live, for closed loops; `source` feeds `data.make`.
"""
