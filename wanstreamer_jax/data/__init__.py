"""Sessions, where they come from, and the records that training reads.

Modules:
    duplex_world/        The procedural world: a seed gives a session with ground truth
    importers/           Write manifests of recordings for corpora that people have
    augment.py           Changes what the user shows and says in training: other microphones, rooms, cameras
    device_crops.py      Crops of the users' pictures that an accelerator keeps, and what changes in each
    encode.py            Encodes media records into latent records, and the world of a session into arrays
    labels.py            Labels of what the user holds, does and says in every unit, for auxiliary readouts
    lateness.py          How late agents write their words: texts against the slots of units
    loader.py            Loads batches of crops: the rows of each global batch that this host reads
    loudness.py          Measures loudness, and defines the one level above which somebody counts as speaking
    make.py              Defines `SessionSource`, and writes the sessions of any as a folder of media records
    manifest.py          Reads manifests of recordings: JSON lines, one recording of two people each
    media.py             Reads any media file that PyAV can read, as user units on the system's clock
    media_probe.py       Checks a media file and measures its streams exactly, by reading it through once
    media_writer.py      Writes media files (H.264 and AAC in mp4) with exactly the given frames and samples
    mixture.py           Defines which crops training reads, and in which order
    own_world.py         Chooses a portrait and a voice sample out of a recording, for an agent who has none
    quality.py           Measures recordings while they are read, so that bad ones are seen
    record_folder.py     Reads a folder of unit and session records: `manifest.json` and ArrayRecord shards
    record_writer.py     Writes folders of records in shards, by many processes on many hosts; restartable
    recording_check.py   Looks at all recordings of a manifest before hours of work
    recording_media.py   Opens the media of one recording and puts all its streams on one clock
    recordings.py        Reads recordings of two people as sessions
    records.py           The stored form of a unit and of a session, as NumPy dtypes
    remote.py            Copies folders of records from object stores to this machine, as they are needed
    render.py            Processes that render sessions of duplex_world and hand them over in memory
    rendered.py          Training data that are rendered while training runs: `data.path = "world://SEED"`
    session.py           The session: both sides of one conversation on one clock
    sounds.py            Sounds to train and to judge audio codecs on: voices, chords, noise, rooms
    stats.py             Statistics of a folder of records: size, shares of speech, text, spill, events
    tfds_builder.py      Exports records as a TensorFlow Datasets dataset
    tokenizer.py         Converts text to token ids and back with a `tokenizer.json`
    transcripts.py       Reads words with their times, as a manifest or an aligner's file gives them
    video_pieces.py      Stores pictures as short pieces of H.264, each of which is decoded by itself
    world_file.py        Reads world files: JSON that gives the agent its name, other fields, looks and voice
"""
