"""`wanstreamer data import | check`: recordings, before `data make` reads them."""

import argparse
import shlex
from typing import Any

from wanstreamer_jax.cli.parsing import Parser, add_command, add_config, load_config, number

IMPORTERS = ("seamless", "ami", "stereo")
ROLES = ("agent", "both")
MOST_LINES = 20  # about what was left out


def add_import(group: Any) -> None:
  summary = "write the manifest of a corpus that was downloaded, or of a folder of two-channel files"
  examples = """
    wanstreamer data import seamless /data/seamless --out seamless.jsonl     Seamless Interaction, both roles
    wanstreamer data import ami /data/ami --out ami.jsonl --pairs 2
    wanstreamer data import stereo /data/calls --out calls.jsonl --roles agent
    wanstreamer data check seamless.jsonl --config configs/tiny.py

    Media stay where they are. docs/data.md says what the terms of these corpora are and what each layout looks like.
  """
  parser = add_command(group, "import", summary, examples, data_import)
  parser.add_argument("kind", choices=IMPORTERS, help="the layout of the folder")
  parser.add_argument("folder", metavar="FOLDER")
  parser.add_argument("--out", metavar="M.jsonl", required=True, help="the manifest to write")
  parser.add_argument(
    "--roles", choices=ROLES, default="both", help="who is the agent: the one that the layout names, or both in turn"
  )
  parser.add_argument("--no-crop", dest="crop", action="store_false", help="seamless: whole pictures")
  parser.add_argument("--pairs", type=number(int, 1), default=1, help="ami: pairs of people of a meeting (default: 1)")


def data_import(args: argparse.Namespace) -> None:
  from wanstreamer_jax.data.importers.ami import ami
  from wanstreamer_jax.data.importers.imported import ImportOptions
  from wanstreamer_jax.data.importers.seamless import seamless
  from wanstreamer_jax.data.importers.stereo import stereo

  importer = {"seamless": seamless, "ami": ami, "stereo": stereo}[args.kind]
  found = importer(args.folder, ImportOptions(args.roles, args.crop, args.pairs))
  found.write(args.out)
  print(f"{args.out}: {len(found.lines)} recordings, roles: {args.roles}")
  print(f"left out: {len(found.left_out)}")
  for what, why in found.left_out[:MOST_LINES]:
    print(f"  {what}: {why}")
  if len(found.left_out) > MOST_LINES:
    print(f"  ... and {len(found.left_out) - MOST_LINES} more")
  print(found.terms)
  print(f"next: wanstreamer data check {shlex.quote(args.out)} --config CONFIG")


def add_check(group: Any) -> None:
  summary = "look at all recordings of a manifest before hours of work"
  examples = """
    wanstreamer data check calls.jsonl --config configs/tiny.py
    wanstreamer data check calls.jsonl --config configs/tiny.py --audio-codec runs/audio_codec \\
      --video-codec runs/video_codec
    wanstreamer data check calls.jsonl --config configs/tiny.py --quality
    wanstreamer data check calls.jsonl --config configs/tiny.py --quality --drop silent,mixed --out good.jsonl

    Without --quality it opens headers only. Its exit status is 2 if any recording cannot be used. --drop takes words of
    the flags that --quality prints; nothing is left out that was not named.
  """
  parser = add_command(group, "check", summary, examples, data_check)
  parser.add_argument("manifest", metavar="M.jsonl")
  add_config(parser)
  add_roles(parser)
  add_codecs(parser)
  parser.add_argument("--quality", action="store_true", help="also read all of every recording and print what is odd")
  parser.add_argument("--drop", metavar="WORDS", default="", help="with --quality: flags whose recordings to leave out")
  parser.add_argument(
    "--out", metavar="M.jsonl", default="", help="with --drop: the manifest to write, beside the other"
  )


def add_roles(parser: Parser) -> None:
  parser.add_argument("--roles", choices=ROLES, default="", help="for recordings that do not say (default: agent)")


def add_codecs(parser: Parser) -> None:
  for kind in ("audio", "video"):
    parser.add_argument(
      f"--{kind}-codec", metavar="C", default="", help=f"also check that this {kind} codec fits the config"
    )


def check_codecs(args: argparse.Namespace, config: Any) -> None:
  """Raises CheckpointError unless the codecs that were named are those of the config."""
  if args.audio_codec or args.video_codec:
    from wanstreamer_jax.errors import ConfigError
    from wanstreamer_jax.weights.agent import load_codecs, resolve

    if not (args.audio_codec and args.video_codec):
      raise ConfigError("give both --audio-codec and --video-codec, as `data encode` will need them")
    load_codecs(config, resolve(args.audio_codec), resolve(args.video_codec))
    print("the codecs fit the config")


def data_check(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.data import quality, recording_check
  from wanstreamer_jax.data.recordings import RecordingsSource
  from wanstreamer_jax.errors import DataError

  if bool(args.drop) != bool(args.out) or (args.drop and not args.quality):
    raise DataError("--drop, --out and --quality go together: which flags to leave out, and where to write the rest")
  recording_check.check_config(config)
  check_codecs(args, config)
  source = RecordingsSource.open(args.manifest, config, skip_bad=True, roles=args.roles)
  outlook = recording_check.check_recordings(source)
  for where, reason in outlook.problems:
    print(f"{where}: {reason}")
  print(*outlook.lines(), sep="\n")
  if args.quality:
    entries = list(recording_check.measure(source))
    print(*map(quality.line, entries), *quality.lines(entries), sep="\n")
    if args.drop:
      kept, dropped = recording_check.write_without(source, entries, args.drop.split(","), args.out)
      print(f"{args.out}: {kept} recordings; {len(dropped)} left out", *(f"  {name}" for name in dropped), sep="\n")
  if outlook.problems:
    raise DataError(
      f"{len(outlook.problems)} recordings of {args.manifest} cannot be used: correct their lines, or pass --skip-bad "
      "to data make"
    )
