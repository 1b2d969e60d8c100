"""`wanstreamer data make | preview | stats | encode | tfds`: makes and reads records."""

import argparse
import shlex
from typing import Any

from wanstreamer_jax.cli import recordings
from wanstreamer_jax.cli.parsing import Parser, add_command, add_config, add_group, add_out, load_config, number


def add_data(commands: Any) -> None:
  examples = """
    wanstreamer data make --config configs/tiny.py --out data_cache/train --sessions 2000 --workers 2
    wanstreamer data stats data_cache/train
    wanstreamer data encode data_cache/train --config configs/tiny.py --out data_cache/latents \\
      --audio-codec runs/audio_codec --video-codec runs/video_codec
  """
  group = add_group(commands, "data", "make, look at and encode training sessions", examples)
  for add in (recordings.add_import, recordings.add_check, add_make, add_preview, add_stats, add_encode, add_tfds):
    add(group)


def add_make(group: Any) -> None:
  summary = "write sessions of duplex_world, a folder of recordings, or sounds for codecs, as records"
  examples = """
    wanstreamer data make --config configs/tiny.py --out data_cache/train --sessions 2000 --workers 2
    wanstreamer data make --config configs/tiny.py --out data_cache/heldout --sessions 100 --split heldout
    wanstreamer data make --config configs/tiny.py --out data_cache/mine --source recordings --manifest mine.jsonl
    wanstreamer data make --config configs/tiny.py --out data_cache/sounds --source sounds --speech ~/speech
    wanstreamer data make --config configs/tiny.py --out shared/train --sessions 100000 --workers 32 --shard 3/8

    The same command continues what was interrupted; the files are the same for any number of workers and hosts.
    Hosts that share a file system each make one --shard I/N, from 0 to N - 1 (such as $SLURM_PROCID/$SLURM_NTASKS);
    the last one finishes the folder. report.json tells what was skipped, and why.
  """
  parser = add_command(group, "make", summary, examples, data_make)
  add_config(parser)
  add_out(parser)
  parser.add_argument("--source", choices=("duplex_world", "recordings", "sounds", "voices"), default="duplex_world")
  parser.add_argument(
    "--manifest", metavar="M.jsonl", default="", help="for --source recordings: a file with a line per recording"
  )
  parser.add_argument(
    "--speech",
    metavar="DIR",
    default="",
    help="for --source sounds or voices: files of speech, one folder below DIR for a voice",
  )
  parser.add_argument("--sessions", type=number(int, 1), default=1000, help="how many (default: 1000)")
  recordings.add_roles(parser)
  recordings.add_codecs(parser)
  add_split(parser)
  parser.add_argument("--first-seed", type=number(int, 0), default=0, metavar="N", help="of the first session")
  parser.add_argument("--workers", type=number(int, 1), default=1, help="processes (default: 1)")
  parser.add_argument(
    "--late-words", type=number(float, 0, 1), default=0.05, metavar="SHARE",
    help="let this share of the agent's words end later than they begin to sound, for want of slots (default: 0.05)",
  )  # fmt: skip
  add_share(parser)


def data_make(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.data.make import make
  from wanstreamer_jax.data.record_folder import RecordFolder

  source = make_source(args, config)
  recordings.check_codecs(args, config)
  made = make(config, source, args.out, args.workers, args.share, args.skip_bad, late=args.late_words)
  if made is None:
    print(unfinished(args))
    return
  count, text = int(RecordFolder(args.out).lengths.sum()), made["stats"]["text"]["agent"]
  print(f"{args.out}: {made['sessions']} sessions, {count} units, {count * config.media.unit_ms / 3_600_000:.2f} h")
  late = sum(text.get(f"late_{units}", 0) for units in (1, 2, 3))
  print(
    f"agent words {text['words']}: {text['spilled']} delayed to a later unit, {late} of them past their onset, "
    f"{text['dropped']} cut off by a session's end"
  )
  print(skipped(args.out))
  print_quality(args.out)
  print(f"next: wanstreamer data stats {shlex.quote(args.out)}, or data encode (see wanstreamer data encode --help)")


def make_source(args: argparse.Namespace, config: Any) -> Any:
  """The `data.make.SessionSource` that was asked for. Raises DataError for options that do not fit together."""
  from wanstreamer_jax.errors import DataError

  if args.source == "recordings":
    from wanstreamer_jax.data import recording_check
    from wanstreamer_jax.data.recordings import RecordingsSource

    if not args.manifest:
      raise DataError("--source recordings needs --manifest M.jsonl, one line per recording")
    recording_check.check_config(config)
    source = RecordingsSource.open(args.manifest, config, args.skip_bad, args.roles)
    outlook = recording_check.check_recordings(source)
    if not args.skip_bad:
      outlook.require_none()
    print(*outlook.lines(), sep="\n")
    return source
  if args.skip_bad:
    raise DataError(f"--skip-bad goes with --source recordings: {args.source} has no bad sessions")
  if args.manifest or args.roles:
    raise DataError("--manifest and --roles go with --source recordings")
  if args.source in ("sounds", "voices"):
    from wanstreamer_jax.data.sounds import SoundSource

    return SoundSource.of(config, args.first_seed, args.sessions, args.speech, args.source)
  if args.speech:
    raise DataError("--speech goes with --source sounds or voices")
  from wanstreamer_jax.data.duplex_world.source import DuplexSource

  return DuplexSource.of(config, args.split, args.first_seed, args.sessions)


def unfinished(args: argparse.Namespace) -> str:
  index, count = args.share
  return f"{args.out}: share {index}/{count} is done; the last of the other shares finishes the folder"


def skipped(out: str) -> str:
  """One line on what the report of a folder says was left out."""
  from wanstreamer_jax.data.record_writer import REPORT, read_report

  report = read_report(out)
  first = "".join(f": {entry['where']}: {entry['reason']}" for entry in report["skipped"][:1])
  return f"skipped {len(report['skipped'])}{first} ({REPORT}); {report['unused_units']} units at ends left over"


def print_quality(out: str) -> None:
  """What the report of a folder says of the quality of its recordings, if it was made from any."""
  from wanstreamer_jax.data.quality import lines
  from wanstreamer_jax.data.record_writer import REPORT, read_report

  entries = read_report(out).get("quality", [])
  if entries:
    print(*lines(entries), f"  figures of each in {REPORT}; nothing was left out for them", sep="\n")


def add_preview(group: Any) -> None:
  summary = "render one session of duplex_world with its scripted agent, and draw its timeline"
  examples = """
    wanstreamer data preview --config configs/tiny.py --seed 7 --out out/preview
    wanstreamer stream out/preview/user.mp4 --world out/preview/world.json --out out     a model answers the same user
  """
  parser = add_command(group, "preview", summary, examples, data_preview)
  add_config(parser)
  add_out(parser)
  parser.add_argument("--seed", type=number(int, 0), default=0, help="which session (default: 0)")
  add_split(parser)


def data_preview(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.serve.preview import preview

  for line in preview(config, args.out, args.seed, args.split).lines()[1:]:
    print(line)


def add_stats(group: Any) -> None:
  summary = "print what a folder of records holds"
  examples = """
    wanstreamer data stats data_cache/train
    wanstreamer data stats data_cache/train --sample 1000 --verify
  """
  parser = add_command(group, "stats", summary, examples, data_stats)
  parser.add_argument("path", metavar="DIR", help="a folder of records")
  parser.add_argument(
    "--tokenizer", default="default", help="the tokenizer.json of the records (default: the shipped one)"
  )
  parser.add_argument("--sample", type=number(int, 1), default=200, help="sessions whose words are counted")
  parser.add_argument("--verify", action="store_true", help="also compare every file with the manifest's hashes")


def data_stats(args: argparse.Namespace) -> None:
  from wanstreamer_jax.data.record_folder import RecordFolder
  from wanstreamer_jax.data.stats import lines, stats
  from wanstreamer_jax.data.tokenizer import TextTokenizer

  print(*lines(stats(args.path, TextTokenizer(args.tokenizer), args.sample)), sep="\n")
  if args.verify:
    RecordFolder(args.path).verify()
    print("all files match the manifest's hashes")


def add_encode(group: Any) -> None:
  summary = "turn media records into latent records, once, for training"
  examples = """
    wanstreamer data encode data_cache/train --config configs/tiny.py --out data_cache/latents \\
      --audio-codec runs/audio_codec --video-codec runs/video_codec
    wanstreamer data encode shared/train --config configs/demo.py --out shared/latents --shard 3/8 \\
      --audio-codec runs/audio_codec --video-codec runs/video_codec

    The same command continues what was interrupted. --shard is as in `data make`: one process per accelerator.
  """
  parser = add_command(group, "encode", summary, examples, data_encode)
  parser.add_argument("path", metavar="DIR", help="a folder of media records")
  add_config(parser)
  add_out(parser)
  parser.add_argument("--audio-codec", metavar="C", required=True, help="its training run, or an exported agent")
  parser.add_argument("--video-codec", metavar="C", required=True, help="its training run, or an exported agent")
  parser.add_argument("--batch", type=number(int, 1), default=8, help="sessions at a time (default: 8)")
  add_share(parser)


def data_encode(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.data.encode import encode
  from wanstreamer_jax.data.record_folder import RecordFolder
  from wanstreamer_jax.weights.agent import load_codecs, resolve

  codecs = load_codecs(config, resolve(args.audio_codec), resolve(args.video_codec))
  made = encode(args.path, *codecs, config, args.out, args.batch, args.share, args.skip_bad)
  if made is None:
    print(unfinished(args))
    return
  print(f"{args.out}: {made['sessions']} sessions, {int(RecordFolder(args.out).lengths.sum())} units of latents")
  print(skipped(args.out))


def add_tfds(group: Any) -> None:
  summary = "export records as a TensorFlow Datasets dataset, here or by Apache Beam on a cluster"
  examples = """
    wanstreamer data tfds data_cache/train --out data_cache/tfds
    wanstreamer data tfds data_cache/train --out data_cache/tfds --runner DirectRunner \\
      --options="--direct_num_workers=8 --direct_running_mode=multi_processing"
    wanstreamer data tfds /shared/train --out gs://B/tfds --runner DataflowRunner \\
      --options="--project=P --region=R --temp_location=gs://B/tmp"

    The dataset is the same for any runner and number of workers. A runner needs the extra `beam`.
  """
  parser = add_command(group, "tfds", summary, examples, data_tfds)
  parser.add_argument("path", metavar="DIR", help="a folder of records")
  parser.add_argument("--out", metavar="DIR", required=True, help="folder to write: DIR/duplex/1.0.0")
  parser.add_argument(
    "--runner", default="", help="runner of Apache Beam, such as DirectRunner (default: this process)"
  )
  parser.add_argument("--options", default="", help="pipeline options of the runner, in one string")


def data_tfds(args: argparse.Namespace) -> None:
  from wanstreamer_jax.data.tfds_builder import export

  builder = export(args.path, args.out, args.runner, shlex.split(args.options))
  for name, split in builder.info.splits.items():
    print(f"{builder.data_path}: {split.num_examples} units in {split.num_shards} shards, split {name}")
  print(f'read it: tensorflow_datasets.builder_from_directory("{builder.data_path}").as_data_source("{name}")')


def add_split(parser: Parser) -> None:
  parser.add_argument(
    "--split", choices=("train", "heldout"), default="train", help="heldout: other voices, looks, words"
  )


def add_share(parser: Parser) -> None:
  """What `make` and `encode` need to be one of several processes that write one folder."""
  parser.add_argument(
    "--shard", dest="share", type=share, metavar="I/N", default=(0, 1),
    help="make every N-th shard from the I-th on (default: 0/1)",
  )  # fmt: skip
  parser.add_argument("--skip-bad", action="store_true", help="leave out and report what cannot be read")


def share(text: str) -> tuple[int, int]:
  """An argparse type: one of several equal shares, as I/N with I from 0."""
  index, slash, count = text.partition("/")
  if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
    raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
  return int(index), int(count)
