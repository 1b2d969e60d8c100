"""`wanstreamer train` and `export`: from a config file to weights."""

import argparse
from typing import Any

from wanstreamer_jax.cli.parsing import add_command, add_config, folder, load_config, number
from wanstreamer_jax.errors import UserError

ENDLESS = 2**30  # updates, of a run that ends by the clock


def add_train(commands: Any) -> None:
  examples = """
    wanstreamer train --config=configs/tiny.py
    wanstreamer train --config=configs/tiny.py --config.train.steps=500 --config.train.run=runs/short
    wanstreamer train --config=configs/tiny.py --config.train.mesh=data=2,fsdp=4
    wanstreamer train --config=configs/tiny.py --config.train.run=gs://bucket/runs/tiny
    wanstreamer train --config=configs/demo.py --minutes 60 --config.data.path=world://0 --config.train.codecs=demo
    wanstreamer train --config=configs/tiny.py --coordinator 10.0.0.2:8476 --processes 4 --process 1

    The same command continues a run that was stopped.
  """
  parser = add_command(commands, "train", "train a stage from a config file, or continue its run", examples, train)
  add_config(parser)
  parser.add_argument(
    "--minutes", metavar="M", type=number(float, 0.01),
    help="end after so many minutes, whatever train.steps says, with the schedule at its end",
  )  # fmt: skip
  job = parser.add_argument_group(
    "several hosts", "Cloud TPU, GKE, Slurm and Open MPI need none of these: the same command on every host is enough."
  )
  job.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others")
  job.add_argument("--processes", metavar="N", type=number(int, 1), help="how many processes there are")
  job.add_argument("--process", metavar="I", type=number(int, 0), help="which of them this is, from 0")
  job.add_argument(
    "--heartbeat", metavar="S", type=number(int, 5), default=100,
    help="end when a process is silent for this many seconds (default: 100)",
  )  # fmt: skip


def train(args: argparse.Namespace) -> None:
  from wanstreamer_jax.parallel import hosts

  with hosts.joined(args.coordinator, args.processes, args.process, args.heartbeat):
    if args.minutes is not None:
      args.overrides = [f"train.steps={ENDLESS}", *args.overrides, f"train.minutes={args.minutes}"]
    config = load_config(args)  # a host where it fails tells the others
    from wanstreamer_jax.train.loop import train as train_stage
    from wanstreamer_jax.train.stages import get_stage

    train_stage(get_stage(config.train.stage), config)


def add_export(commands: Any) -> None:
  examples = """
    wanstreamer export --streamer runs/tiny/duplex \\
      --audio-codec runs/tiny/audio_codec --video-codec runs/tiny/video_codec \\
      --world runs/tiny/persona/world.json --out runs/tiny/agent
    wanstreamer export --streamer runs/demo --audio-codec demo --video-codec demo \\
      --dtype int8 --compute float32 --out out/small
    wanstreamer export --streamer runs/qwen3 --hf out/qwen3         its text path, for transformers

    `wanstreamer data preview --config configs/tiny.py --seed 1 --out runs/tiny/persona` makes such a world.
  """
  parser = add_command(commands, "export", "join trained parts into one folder for `stream`", examples, export)
  parser.add_argument("--streamer", metavar="C", required=True, help="the run of stage `duplex`")
  parser.add_argument("--audio-codec", metavar="C", help="the run of stage `audio_codec`, or an exported agent")
  parser.add_argument("--video-codec", metavar="C", help="the run of stage `video_codec`, or an exported agent")
  parser.add_argument(
    "--hf", metavar="DIR", type=folder, help="write the language model alone, as a folder that transformers loads"
  )
  parser.add_argument(
    "--world", metavar="W.json", help="persona and portrait to store beside the weights, for everyone who runs them"
  )
  parser.add_argument("--out", metavar="DIR", type=folder, help="folder to write the agent to")
  parser.add_argument(
    "--dtype", choices=("f32", "bf16", "int8"), default="bf16", help="number format on disk (default: bf16)"
  )
  parser.add_argument(
    "--compute", choices=("float32", "bfloat16"), help="number format of activations (default: as in the training)"
  )


def export(args: argparse.Namespace) -> None:
  from wanstreamer_jax.weights import agent as agent_weights

  if args.hf:
    export_language_model(args)
    return
  missing = [name for name in ("audio_codec", "video_codec", "out") if getattr(args, name) is None]
  if missing:
    raise UserError(f"export needs --{missing[0].replace('_', '-')} too (or --hf DIR for the language model alone)")
  agent = agent_weights.assemble(args.streamer, args.audio_codec, args.video_codec)
  if agent_weights.made_by_others(args.streamer, agent):
    print(
      f"note: other weights than those of {args.audio_codec} and {args.video_codec} made the latents that "
      f"{args.streamer} learned from (or the same, rounded): if it is not rounding, sound and pictures will be wrong"
    )
  if args.compute:
    agent.config = agent.config.replace(model=agent.config.model.replace(dtype=args.compute)).freeze()
  size = agent_weights.export_agent(agent, args.out, args.dtype, args.world)
  print(f"{args.out}: {size / 1e6:.1f} MB; try it: wanstreamer stream CLIP --checkpoint {args.out} --out out")
  if not agent_weights.own_world(args.out).exists():
    print("it has no persona and no portrait: export it with --world W.json, or give --world to `stream` and `serve`")


def export_language_model(args: argparse.Namespace) -> None:
  from wanstreamer_jax.weights.qwen_export import export_streamer

  given = [name for name in ("audio_codec", "video_codec", "out", "world") if getattr(args, name) is not None]
  if given:
    raise UserError(f"--hf writes the language model alone: leave --{given[0].replace('_', '-')} out")
  size = export_streamer(args.streamer, args.hf, args.dtype)
  print(f"{args.hf}: {size / 1e6:.1f} MB; try it: transformers.AutoModelForCausalLM.from_pretrained({args.hf!r})")
