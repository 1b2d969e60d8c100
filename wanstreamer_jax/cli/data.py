"""`wanstreamer data make | preview | stats | encode | tfds`: sessions as records."""

import argparse
import shlex
from typing import Any

from wanstreamer_jax.cli.parsing import Parser, add_command, add_config, add_group, add_out, load_config, number


def add_data(commands: Any) -> None:
  examples = """
    wanstreamer data make --config configs/tiny.py --out data_cache/train --sessions 2000 --workers 2
    wanstreamer data stats data_cache/train
    wanstreamer data encode data_cache/train --config configs/tiny.py --out data_cache/latents \\
      --audio-vae runs/audio_vae --video-vae runs/video_vae
  """
  group = add_group(commands, "data", "make, look at and encode training sessions", examples)
  for add in (add_make, add_preview, add_stats, add_encode, add_tfds):
    add(group)


def add_make(group: Any) -> None:
  summary = "write sessions of duplex_world, or a folder of recordings, as records"
  examples = """
    wanstreamer data make --config configs/tiny.py --out data_cache/train --sessions 2000 --workers 2
    wanstreamer data make --config configs/tiny.py --out data_cache/heldout --sessions 100 --split heldout
    wanstreamer data make --config configs/tiny.py --out data_cache/mine --source recordings --manifest mine.jsonl
    wanstreamer data make --config configs/tiny.py --out shared/train --sessions 100000 --workers 32 --shard 3/8

    The same command continues what was interrupted; the files are the same for any number of workers and hosts.
    On many hosts with one file system, each makes its --shard I/N, I from 0 (such as $SLURM_PROCID/$SLURM_NTASKS);
    the last one finishes the folder. report.json tells what was skipped, and why.
  """
  parser = add_command(group, "make", summary, examples, data_make)
  add_config(parser)
  add_out(parser)
  parser.add_argument("--source", choices=("duplex_world", "recordings"), default="duplex_world")
  parser.add_argument("--manifest", metavar="M.jsonl", default="", help="of --source recordings: a line per recording")
  parser.add_argument("--sessions", type=number(int, 1), default=1000, help="how many (default: 1000)")
  add_split(parser)
  parser.add_argument("--first-seed", type=number(int, 0), default=0, metavar="N", help="of the first session")
  parser.add_argument("--workers", type=number(int, 1), default=1, help="processes (default: 1)")
  add_share(parser)


def data_make(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.cli.data_handlers import make_records

  make_records(
    config, args.out, source=args.source, manifest=args.manifest, sessions=args.sessions, split=args.split,
    first_seed=args.first_seed, workers=args.workers, share=args.share, skip_bad=args.skip_bad,
  )  # fmt: skip


def add_preview(group: Any) -> None:
  summary = "film one session of duplex_world with its scripted agent, and draw its timeline"
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
  parser.add_argument("--tokenizer", default="default", help="a tokenizer.json (default: the shipped one)")
  parser.add_argument("--sample", type=number(int, 1), default=200, help="sessions whose words are counted")
  parser.add_argument("--verify", action="store_true", help="also compare every file with the manifest's hashes")


def data_stats(args: argparse.Namespace) -> None:
  from wanstreamer_jax.cli.data_handlers import print_stats

  print_stats(args.path, tokenizer=args.tokenizer, sample=args.sample, verify=args.verify)


def add_encode(group: Any) -> None:
  summary = "turn media records into latent records, once, for training"
  examples = """
    wanstreamer data encode data_cache/train --config configs/tiny.py --out data_cache/latents \\
      --audio-vae runs/audio_vae --video-vae runs/video_vae
    wanstreamer data encode shared/train --config configs/demo.py --out shared/latents --shard 3/8 \\
      --audio-vae runs/audio_vae --video-vae runs/video_vae

    The same command continues what was interrupted. --shard is as in `data make`: one process per accelerator.
  """
  parser = add_command(group, "encode", summary, examples, data_encode)
  parser.add_argument("path", metavar="DIR", help="a folder of media records")
  add_config(parser)
  add_out(parser)
  parser.add_argument("--audio-vae", metavar="C", required=True, help="its training run, or an exported agent")
  parser.add_argument("--video-vae", metavar="C", required=True, help="its training run, or an exported agent")
  parser.add_argument("--batch", type=number(int, 1), default=8, help="sessions at a time (default: 8)")
  add_share(parser)


def data_encode(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.cli.data_handlers import encode_records
  from wanstreamer_jax.weights.agent import resolve

  audio_vae, video_vae = str(resolve(args.audio_vae)), str(resolve(args.video_vae))
  encode_records(
    config, args.path, args.out, audio_vae=audio_vae, video_vae=video_vae, batch=args.batch,
    share=args.share, skip_bad=args.skip_bad,
  )  # fmt: skip


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
  parser.add_argument("--runner", default="", help="of Apache Beam, such as DirectRunner (default: this process)")
  parser.add_argument("--options", default="", help="pipeline options of the runner, in one text")


def data_tfds(args: argparse.Namespace) -> None:
  from wanstreamer_jax.cli.data_handlers import export_tfds

  export_tfds(args.path, args.out, runner=args.runner, options=shlex.split(args.options))


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
