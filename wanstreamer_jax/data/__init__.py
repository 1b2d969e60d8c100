"""Sessions, where they come from, and records of them for training.

Modules:
    encode.py          Media through the codecs: folders of media records into latent records, and one session's ...
    loader.py          Batches of crops: the rows of global batches that one host reads, in the order of `mixture.py`
    loudness.py        How loud sound is, and the one level above which somebody is taken to speak
    make.py            Writes the sessions of any `SessionSource` as a folder of media records
    media.py           Reads media files: any file that PyAV can read becomes user units on the system's clock
    media_probe.py     What a media file holds: checks, streams and exact lengths, found by reading it through once
    media_writer.py    Writes media files: H.264 and AAC in mp4, with exactly the frames and samples that were given
    mixture.py         What training reads and in which order: folders of records, mixed by weights, and the crop ...
    record_folder.py   A folder of unit and session records, read: `manifest.json` and sharded ArrayRecord files
    record_writer.py   Writes folders of records: shard by shard, by many processes on many hosts, restartable
    recordings.py      Recordings of two people as sessions: a folder of media files and a JSON-lines manifest ...
    records.py         Layouts of a stored unit and a stored session as NumPy dtypes, and conversion of a ...
    session.py         The session: two sides of one conversation on one clock, as media, timed text, world ...
    stats.py           Statistics of a folder of records: size, how much each side speaks, text, spill, events
    tfds_builder.py    Records as a TensorFlow Datasets dataset, for tools that read TFDS. TensorFlow itself is ...
    tokenizer.py       Text to token ids and back, by a `tokenizer.json` that the `tokenizers` library reads
    world_file.py      World files: JSON that tells the agent who it is, how it looks and how it sounds
"""
