"""`wanstreamer bench`: the commands that measure this machine, from `step` to `gpu`."""

import argparse
import os
import pathlib
from typing import Any

from wanstreamer_jax.cli.parsing import (
  add_agent,
  add_command,
  add_config,
  add_group,
  add_json,
  add_out,
  add_service,
  agent_overrides,
  folder,
  load_config,
  number,
)
from wanstreamer_jax.cli.results import add_record
from wanstreamer_jax.errors import UserError


def add_bench(commands: Any) -> None:
  examples = """
    wanstreamer bench step --config configs/demo.py
    wanstreamer bench train --config configs/tiny.py
    wanstreamer bench loader data_cache/latents --config configs/tiny.py
    wanstreamer bench serve --slots 2 --clients 3
    wanstreamer bench session --minutes 60
    wanstreamer bench codec demo runs/neural
  """
  group = add_group(commands, "bench", "measure on this machine", examples)
  for add in (add_step, add_train, add_serve, add_session, add_loader, add_world, add_codec, add_gpu):
    add(group)


def add_step(group: Any) -> None:
  summary = "time every phase of a unit, beside the floor that this machine's measured rates give"
  examples = """
    wanstreamer bench step --config configs/demo.py
    wanstreamer bench step --config configs/demo.py --json --runs 500 --config.flow.steps=2
  """
  parser = add_command(group, "step", summary, examples, bench_step)
  add_config(parser)
  parser.add_argument("--runs", type=number(int, 50), default=100, metavar="N", help="units to time (default: 100)")
  add_json(parser)
  add_record(parser)


def bench_step(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.bench import unit_step

  unit_step.bench_step_command(config, args.runs, args.json)


def add_train(group: Any) -> None:
  summary = "time the training step, beside the matrix products that this machine reaches"
  examples = """
    wanstreamer bench train --config configs/tiny.py
    wanstreamer bench train --config configs/tiny.py --records data_cache/latents --trace out/profile
    wanstreamer bench train --config configs/qwen2p5_1p5b.py --with-text --batch 4
    wanstreamer bench train --config configs/qwen2p5_1p5b.py --against transformers --batch 4
  """
  parser = add_command(group, "train", summary, examples, bench_train)
  add_config(parser)
  parser.add_argument("--batch", type=number(int, 1), metavar="B", help="rows of a step (default: data.batch)")
  parser.add_argument("--units", type=number(int, 1), metavar="N", help="units of a crop (default: data.units)")
  parser.add_argument("--steps", type=number(int, 4), default=40, metavar="N", help="steps to time (default: 40)")
  parser.add_argument("--with-text", action="store_true", help="also time dense causal text of this geometry, in turns")
  parser.add_argument(
    "--text-tokens",
    type=number(int, 2),
    metavar="T",
    help="tokens in a row of text (default: as in a crop, at most 4096)",
  )
  parser.add_argument(
    "--against", choices=("transformers",), help="time text alone, in turns with Hugging Face's (extra `oracles`)"
  )
  parser.add_argument("--records", metavar="DIR", help="read batches from this folder (default: one random batch)")
  parser.add_argument("--trace", type=folder, metavar="DIR", help="write a profile of three steps")
  add_json(parser)
  add_record(parser)


def bench_train(args: argparse.Namespace) -> None:
  given = {"data.batch": args.batch, "data.units": args.units, "data.path": args.records}
  args.overrides += [f"--config.{name}={value}" for name, value in given.items() if value is not None]
  config = load_config(args)
  if args.against:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two frameworks share the device's memory
  from wanstreamer_jax.bench import train_step
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache

  enable_compilation_cache()
  sizes = train_step.StepSizes(
    args.steps, args.text_tokens, args.with_text, args.against or "", args.records is not None
  )
  trace = pathlib.Path(args.trace) if args.trace else None
  train_step.bench_train_command(config, sizes, trace, args.json)


def add_serve(group: Any) -> None:
  summary = "serve clients over real sockets on this machine and measure what they receive"
  examples = """
    wanstreamer bench serve --slots 2 --clients 3 --seconds 60
    wanstreamer bench serve --config configs/qwen2p5_1p5b.py --config.model.dtype=bfloat16 --placement split --trace out
  """
  parser = add_command(group, "serve", summary, examples, bench_serve)
  add_agent(parser)
  add_config(parser, required=False)
  add_service(parser)
  parser.add_argument("--clients", type=number(int, 1), default=1, help="how many clients connect (default: 1)")
  parser.add_argument("--seconds", type=number(float, 4), default=30.0, help="how long they stay (default: 30)")
  parser.add_argument(
    "--trace", metavar="DIR", help="write a timeline of what ran: trace.json for Perfetto and trace.png"
  )
  add_json(parser)
  add_record(parser)


def bench_serve(args: argparse.Namespace) -> None:
  from wanstreamer_jax.bench import service
  from wanstreamer_jax.engine.engine import Engine
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache

  enable_compilation_cache()
  agent = agent_of(args)
  units = round(2 * args.seconds * 1000 / agent.config.media.unit_ms) + 100  # for layouts with full history
  engine = Engine(agent, args.slots, units, args.placement, args.performers)
  del agent  # in float32; the engine's is in the dtypes of its use
  engine.prepare()
  trace = pathlib.Path(args.trace) if args.trace else None
  service.bench_serve_command(engine, args.clients, args.seconds, args.json, trace)


def add_session(group: Any) -> None:
  summary = "run one long session faster than real time, to see whether units stay fast and memory small"
  examples = """
    wanstreamer bench session --minutes 60 --out out/session
    wanstreamer bench session --config configs/demo.py --minutes 60
  """
  parser = add_command(group, "session", summary, examples, bench_session)
  add_agent(parser)
  add_config(parser, required=False)
  parser.add_argument("--minutes", type=number(float, 0.1), default=60.0, help="how long (default: 60)")
  add_out(parser, "folder for session.json and session.png", default="out/session")
  add_record(parser)


def bench_session(args: argparse.Namespace) -> None:
  from wanstreamer_jax.bench import long_session
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache

  enable_compilation_cache()
  agent = agent_of(args)
  long_session.bench_session_command(agent, args.minutes, pathlib.Path(args.out))


def add_loader(group: Any) -> None:
  summary = "measure how fast training batches are read from a folder of records"
  examples = """
    wanstreamer bench loader data_cache/latents --config configs/tiny.py --seconds 10
    wanstreamer bench loader world:3,calls:1 --config configs/demo.py --step-seconds 0.2 --hosts 4
    wanstreamer bench loader data/latents --config configs/pods.py:qwen2p5_1p5b,v6e:16x16 --topology v6e:16x16 --mfu 0.5
  """
  parser = add_command(group, "loader", summary, examples, bench_loader)
  parser.add_argument("path", metavar="DIR", help="a folder of records, or a mixture as data.path may be")
  add_config(parser)
  parser.add_argument("--seconds", type=number(float, 0.1), default=5.0, help="how long (default: 5)")
  parser.add_argument("--step-seconds", type=number(float, 1e-6), metavar="S", help="compare with steps of this length")
  parser.add_argument("--hosts", type=number(int, 1), default=1, help="hosts that share the reading (default: 1)")
  parser.add_argument("--topology", metavar="T", help="compare with steps on these TPUs, such as v5e:2x2 (extra `aot`)")
  parser.add_argument(
    "--mfu", type=number(float, 0.01, 1), default=0.5, help="MFU of the steps on --topology (default: 0.5)"
  )
  add_record(parser)


def bench_loader(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.bench.loader import bench_loader

  seconds, hosts = args.step_seconds, args.hosts
  if args.topology:
    from wanstreamer_jax.aot import compile

    devices = compile.topology_devices(args.topology)
    useful = compile.train_program(config, devices).useful  # what MFU counts
    seconds = useful / (args.mfu * len(devices) * compile.CHIPS[devices[0].device_kind].flops)
    hosts = len({device.process_index for device in devices})
  bench_loader(config, args.path, seconds=args.seconds, step_seconds=seconds, hosts=hosts)


def add_world(group: Any) -> None:
  summary = "measure how fast a core renders sessions of duplex_world"
  examples = """
    wanstreamer bench world --config configs/tiny.py
    wanstreamer bench world --config configs/demo.py --seconds 20
  """
  parser = add_command(group, "world", summary, examples, bench_world)
  add_config(parser)
  parser.add_argument("--seconds", type=number(float, 0.1), default=10.0, help="how long (default: 10)")
  add_record(parser)


def bench_world(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.bench.world import bench_world

  bench_world(config, args.seconds)


def add_codec(group: Any) -> None:
  summary = "how near audio codecs come to one voice, two at once, chords, noise, and a voice in a room"
  examples = """
    wanstreamer bench codec demo
    wanstreamer bench codec runs/source_filter runs/neural --speech ~/speech --record docs/results.md
  """
  parser = add_command(group, "codec", summary, examples, bench_codec)
  parser.add_argument("runs", nargs="+", metavar="RUN", help="training runs or exports of codecs, or exported agents")
  parser.add_argument("--seconds", type=number(float, 1), default=6.0, metavar="S", help="of a clip (default: 6)")
  parser.add_argument("--clips", type=number(int, 1), default=8, metavar="N", help="of each kind (default: 8)")
  parser.add_argument("--speech", metavar="DIR", default="", help="sound files of speech (default: the formant voices)")
  add_json(parser)
  add_record(parser)


def bench_codec(args: argparse.Namespace) -> None:
  from wanstreamer_jax.bench import codec

  codec.bench_codec_command(args.runs, args.seconds, args.clips, args.speech, args.json)


def add_gpu(group: Any) -> None:
  summary = "measure all that needs one large GPU, in one process: unit step, attention, training"
  examples = """
    wanstreamer bench gpu --out out/gpu_bench.json --budget 540
    wanstreamer bench gpu --small --out out/gpu_small.json       does everything run? at nano size, on any machine

    Parts run in the order of their importance, and the file is written after each of them.
  """
  parser = add_command(group, "gpu", summary, examples, bench_gpu)
  parser.add_argument("--out", metavar="FILE", default="out/gpu_bench.json", help="(default: out/gpu_bench.json)")
  parser.add_argument("--budget", type=number(float, 1), default=540.0, metavar="S", help="seconds (default: 540)")
  parser.add_argument("--batch", type=number(int, 1), default=2, metavar="B", help="rows of a large training step")
  parser.add_argument("--attention", choices=("cudnn", "xla"), default="cudnn", help="of the training pass")
  parser.add_argument("--small", action="store_true", help="everything at nano size")
  add_record(parser)


def bench_gpu(args: argparse.Namespace) -> None:
  from wanstreamer_jax.bench import gpu

  out = pathlib.Path(args.out)
  if out.is_dir() or not out.name:
    raise UserError(f"--out {args.out!r} is no file name: give one like out/gpu_bench.json")
  out.parent.mkdir(parents=True, exist_ok=True)
  gpu.bench_gpu(out, args.budget, gpu.Scale(args.small, args.attention, args.batch))


def agent_of(args: argparse.Namespace) -> Any:
  """The checkpoint's agent, or with `--config` one with random weights."""
  from wanstreamer_jax import config_files
  from wanstreamer_jax.bench import unit_step
  from wanstreamer_jax.weights import agent as agent_weights

  if not args.config:
    return agent_weights.load_agent(args.checkpoint, agent_overrides(args))
  return unit_step.random_agent(config_files.load_config(args.config, [*agent_overrides(args), *args.overrides]))
