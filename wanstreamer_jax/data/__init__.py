"""Sessions, where they come from, and records of them for training.

Modules:
    encode.py          Media records into latent records: what the agent shows and sounds, as codec latents ...
    loader.py          Batches of crops: the rows of global batches that one host reads, in the order of `mixture.py`
    loudness.py        How loud sound is, and the one level above which somebody is taken to speak
    make.py            Writes the sessions of any `SessionSource` as a folder of media records
    media.py           Media files in and out: any file that PyAV reads becomes user units on the system's clock
    media_probe.py     What a media file holds: checks, streams, and exact lengths, found by reading it through once
    media_writer.py    Media files out: H.264 and AAC in mp4, with exactly the frames and samples that were given
    mixture.py         What training reads and in which order: folders of records mixed by weights, and the crop ...
    record_folder.py   A folder of unit and session records: `manifest.json` and sharded ArrayRecord files
    record_writer.py   Writes folders of records: shard by shard, by many processes on many hosts, restartable
    recordings.py      Recordings of two people as sessions: a folder of media files and a JSON-lines manifest over it
    records.py         What one stored unit and one stored session look like: NumPy layouts, and the way from a ...
    session.py         The session: two sides of one conversation on one clock, as media, timed text, world ...
    stats.py           What a folder of records holds, in numbers: sizes, who speaks how much, text, spill, events
    tfds_builder.py    Records as a TensorFlow Datasets dataset, for people whose tools read TFDS. TensorFlow ...
    tokenizer.py       Text in and out: a `tokenizer.json` read with the `tokenizers` library
    world_file.py      World files: the JSON that tells the agent who it is, how it looks and how it sounds
"""
