"""`wanstreamer data make | preview | stats | encode`: sessions as records."""

import argparse
from typing import Any

from wanstreamer_jax.commands.parsing import add_command, add_config, add_group, folder, load_config, number


def add_data(commands: Any) -> None:
  examples = """
    wanstreamer data make --config configs/tiny.py --out data_cache/train --sessions 2000 --workers 2
    wanstreamer data stats data_cache/train
    wanstreamer data encode data_cache/train --config configs/tiny.py --out data_cache/latents \\
      --audio-vae runs/audio_vae --video-vae runs/video_vae
  """
  group = add_group(commands, "data", "make, look at and encode training sessions", examples)

  make = add_command(
    group, "make", "write sessions of duplex_world, or a folder of recordings, as records",
    """
    wanstreamer data make --config configs/tiny.py --out data_cache/train --sessions 2000 --workers 2
    wanstreamer data make --config configs/tiny.py --out data_cache/heldout --sessions 100 --split heldout
    wanstreamer data make --config configs/tiny.py --out data_cache/mine --source recordings --manifest mine.jsonl

    The same command continues what was interrupted; the files are the same for any number of workers.
    """, data_make,
  )  # fmt: skip
  add_config(make)
  make.add_argument("--out", type=folder, metavar="DIR", required=True, help="folder to write")
  make.add_argument("--source", choices=("duplex_world", "recordings"), default="duplex_world")
  make.add_argument("--manifest", metavar="M.jsonl", default="", help="of --source recordings: a line per recording")
  make.add_argument("--sessions", type=number(int, 1), default=1000, help="how many (default: 1000)")
  make.add_argument(
    "--split", choices=("train", "heldout"), default="train", help="heldout: other voices, looks, words"
  )
  make.add_argument("--first-seed", type=number(int, 0), default=0, metavar="N", help="of the first session")
  make.add_argument("--workers", type=number(int, 1), default=1, help="processes (default: 1)")

  preview = add_command(
    group, "preview", "film one session of duplex_world with its scripted agent, and draw its timeline",
    """
    wanstreamer data preview --config configs/tiny.py --seed 7 --out out/preview
    wanstreamer stream out/preview/user.mp4 --world out/preview/world.json --out out     a model answers the same user
    """, data_preview,
  )  # fmt: skip
  add_config(preview)
  preview.add_argument("--out", type=folder, metavar="DIR", required=True, help="folder to write")
  preview.add_argument("--seed", type=number(int, 0), default=0, help="which session (default: 0)")
  preview.add_argument("--split", choices=("train", "heldout"), default="train", help="heldout: other voices, looks")

  stats = add_command(
    group, "stats", "print what a folder of records holds",
    """
    wanstreamer data stats data_cache/train
    wanstreamer data stats data_cache/train --sample 1000 --verify
    """, data_stats,
  )  # fmt: skip
  stats.add_argument("path", metavar="DIR", help="a folder of records")
  stats.add_argument("--tokenizer", default="default", help="a tokenizer.json (default: the shipped one)")
  stats.add_argument("--sample", type=number(int, 1), default=200, help="sessions whose words are counted")
  stats.add_argument("--verify", action="store_true", help="also compare every file with the manifest's hashes")

  encode = add_command(
    group, "encode", "turn media records into latent records, once, for training",
    """
    wanstreamer data encode data_cache/train --config configs/tiny.py --out data_cache/latents \\
      --audio-vae runs/audio_vae --video-vae runs/video_vae
    """, data_encode,
  )  # fmt: skip
  encode.add_argument("path", metavar="DIR", help="a folder of media records")
  add_config(encode)
  encode.add_argument("--out", type=folder, metavar="DIR", required=True, help="folder to write")
  encode.add_argument("--audio-vae", metavar="C", required=True, help="its training run, or an exported agent")
  encode.add_argument("--video-vae", metavar="C", required=True, help="its training run, or an exported agent")
  encode.add_argument("--batch", type=number(int, 1), default=8, help="sessions at a time (default: 8)")


def data_make(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.data.commands import make_records

  make_records(
    config, args.out, source=args.source, manifest=args.manifest, sessions=args.sessions, split=args.split,
    first_seed=args.first_seed, workers=args.workers,
  )  # fmt: skip


def data_preview(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.serve.preview import preview

  for line in preview(config, args.out, args.seed, args.split).lines()[1:]:
    print(line)


def data_stats(args: argparse.Namespace) -> None:
  from wanstreamer_jax.data.commands import print_stats

  print_stats(args.path, tokenizer=args.tokenizer, sample=args.sample, verify=args.verify)


def data_encode(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.agent_io import resolve
  from wanstreamer_jax.data.commands import encode_records

  audio_vae, video_vae = str(resolve(args.audio_vae)), str(resolve(args.video_vae))
  encode_records(config, args.path, args.out, audio_vae=audio_vae, video_vae=video_vae, batch=args.batch)
