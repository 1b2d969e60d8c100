"""Sessions, where they come from, and their records for training.

`session` is the type that everything here makes or reads. Sources of sessions: `duplex_world/`, a procedural world, and
`recordings` with `media` and `media_probe`. `make` writes them as records, `encode` turns those into latents;
`records`, `record_folder` and `record_writer` are the format on disk, `stats` and `tfds_builder` read it for people and
other tools. `mixture` and `loader` give batches in a fixed order. `tokenizer`, `world_file`, `loudness` and
`media_writer` also serve the agent at run time.
"""
