"""`wanstreamer bench`: measurements of this machine."""

import argparse
import os
import pathlib
from typing import Any

from wanstreamer_jax.cli.parsing import (
  add_agent,
  add_command,
  add_config,
  add_group,
  agent_overrides,
  folder,
  load_config,
  number,
)


def add_bench(commands: Any) -> None:
  examples = """
    wanstreamer bench step --config configs/demo.py
    wanstreamer bench train --config configs/tiny.py
    wanstreamer bench loader data_cache/latents --config configs/tiny.py
    wanstreamer bench serve --slots 2 --clients 3
    wanstreamer bench session --minutes 60
  """
  group = add_group(commands, "bench", "measure on this machine", examples)

  step = add_command(
    group, "step", "time every phase of a unit, beside the floor that this machine's measured rates give",
    """
    wanstreamer bench step --config configs/demo.py
    wanstreamer bench step --config configs/demo.py --json --runs 500 --config.flow.steps=2
    """, bench_step,
  )  # fmt: skip
  add_config(step)
  step.add_argument("--runs", type=number(int, 50), default=100, metavar="N", help="units to time (default: 100)")
  step.add_argument("--json", action="store_true", help="print JSON instead of a table")

  train = add_command(
    group, "train", "time the training step, beside the matrix products that this machine reaches",
    """
    wanstreamer bench train --config configs/tiny.py
    wanstreamer bench train --config configs/tiny.py --records data_cache/latents --trace out/profile
    wanstreamer bench train --config configs/qwen2p5_1p5b.py --text-only --batch 4
    wanstreamer bench train --config configs/qwen2p5_1p5b.py --against transformers --batch 4
    """, bench_train,
  )  # fmt: skip
  add_config(train)
  train.add_argument("--batch", type=number(int, 1), metavar="B", help="rows of a step (default: data.batch)")
  train.add_argument("--units", type=number(int, 1), metavar="N", help="units of a crop (default: data.units)")
  train.add_argument("--steps", type=number(int, 4), default=40, metavar="N", help="steps to time (default: 40)")
  train.add_argument("--text-only", action="store_true", help="dense causal text of this geometry too, in turns")
  train.add_argument(
    "--text-tokens", type=number(int, 2), metavar="T", help="tokens of a row of text (default: a crop's, at most 4096)"
  )
  train.add_argument(
    "--against", choices=("transformers",), help="text alone, in turns with Hugging Face's (extra `oracles`)"
  )
  train.add_argument("--records", metavar="DIR", help="read batches from this folder (default: one random batch)")
  train.add_argument("--trace", type=folder, metavar="DIR", help="write a profile of three steps")
  train.add_argument("--json", action="store_true", help="print JSON instead of a table")

  serve = add_command(
    group, "serve", "serve clients over real sockets on this machine and measure what they receive",
    """
    wanstreamer bench serve --slots 2 --clients 3 --seconds 60
    wanstreamer bench serve --config configs/qwen2p5_1p5b.py --config.model.dtype=bfloat16 --placement split --trace out
    """, bench_serve,
  )  # fmt: skip
  add_agent(serve)
  add_config(serve, required=False)
  serve.add_argument("--placement", choices=("fused", "split", "group"), default="fused", help="as of `serve`")
  serve.add_argument("--performers", type=number(int, 1), metavar="N", help="devices of a group (default: all others)")
  serve.add_argument("--slots", type=number(int, 1), default=1, help="how many are served at once (default: 1)")
  serve.add_argument("--clients", type=number(int, 1), default=1, help="how many connect (default: 1)")
  serve.add_argument("--seconds", type=number(float, 4), default=30.0, help="how long they stay (default: 30)")
  serve.add_argument("--trace", metavar="DIR", help="write what ran when: trace.json for Perfetto, trace.png")
  serve.add_argument("--json", action="store_true", help="print JSON instead of a table")

  session = add_command(
    group, "session", "hold one long session faster than real time: do units stay as fast, memory as small",
    """
    wanstreamer bench session --minutes 60 --out out/session
    wanstreamer bench session --config configs/demo.py --minutes 60
    """, bench_session,
  )  # fmt: skip
  add_agent(session)
  add_config(session, required=False)
  session.add_argument("--minutes", type=number(float, 0.1), default=60.0, help="how long (default: 60)")
  session.add_argument(
    "--out", type=folder, metavar="DIR", default="out/session", help="for session.json and session.png"
  )

  loader = add_command(
    group, "loader", "measure how fast training batches are read from a folder of records",
    """
    wanstreamer bench loader data_cache/latents --config configs/tiny.py --seconds 10
    wanstreamer bench loader world:3,calls:1 --config configs/demo.py --step-seconds 0.2 --hosts 4
    wanstreamer bench loader data/latents --config configs/pods.py:qwen2p5_1p5b,v6e:16x16 --topology v6e:16x16 --mfu 0.5
    """, bench_loader,
  )  # fmt: skip
  loader.add_argument("path", metavar="DIR", help="a folder of records, or a mixture as data.path may be")
  add_config(loader)
  loader.add_argument("--seconds", type=number(float, 0.1), default=5.0, help="how long (default: 5)")
  loader.add_argument("--step-seconds", type=number(float, 1e-6), metavar="S", help="compare with steps of this length")
  loader.add_argument("--hosts", type=number(int, 1), default=1, help="that share a step's reading (default: 1)")
  loader.add_argument("--topology", metavar="T", help="compare with steps on these TPUs, such as v5e:2x2 (extra `aot`)")
  loader.add_argument("--mfu", type=number(float, 0.01, 1), default=0.5, help="of steps on --topology (default: 0.5)")


def bench_loader(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.cli import data_handlers

  seconds, hosts = args.step_seconds, args.hosts
  if args.topology:
    from wanstreamer_jax.aot import compile

    devices = compile.topology_devices(args.topology)
    useful = compile.train_program(config, devices).useful  # what MFU counts
    seconds = useful / (args.mfu * len(devices) * compile.CHIPS[devices[0].device_kind].flops)
    hosts = len({device.process_index for device in devices})
  data_handlers.bench_loader(config, args.path, seconds=args.seconds, step_seconds=seconds, hosts=hosts)


def agent_of(args: argparse.Namespace) -> Any:
  """The checkpoint's agent, or with `--config` one with random weights."""
  from wanstreamer_jax import config_files
  from wanstreamer_jax.bench import unit_step
  from wanstreamer_jax.weights import agent as agent_weights

  if not args.config:
    return agent_weights.load_agent(args.checkpoint, agent_overrides(args))
  return unit_step.random_agent(config_files.load_config(args.config, [*agent_overrides(args), *args.overrides]))


def bench_serve(args: argparse.Namespace) -> None:
  from wanstreamer_jax.bench import service
  from wanstreamer_jax.engine.engine import SlotEngine
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache

  enable_compilation_cache()
  agent = agent_of(args)
  units = round(2 * args.seconds * 1000 / agent.config.media.unit_ms) + 100  # for layouts with full history
  engine = SlotEngine(agent, args.slots, units, args.placement, args.performers)
  del agent  # in float32; the engine's is in the dtypes of its use
  engine.prepare()
  trace = pathlib.Path(args.trace) if args.trace else None
  service.bench_serve_command(engine, args.clients, args.seconds, args.json, trace)


def bench_session(args: argparse.Namespace) -> None:
  from wanstreamer_jax.bench import long_session
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache

  enable_compilation_cache()
  agent = agent_of(args)
  long_session.bench_session_command(agent, args.minutes, pathlib.Path(args.out))


def bench_train(args: argparse.Namespace) -> None:
  given = {"data.batch": args.batch, "data.units": args.units, "data.path": args.records}
  args.overrides += [f"--config.{name}={value}" for name, value in given.items() if value is not None]
  config = load_config(args)
  if args.against:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two frameworks share the device's memory
  from wanstreamer_jax.bench import train_step
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache

  enable_compilation_cache()
  sizes = train_step.Sizes(args.steps, args.text_tokens, args.text_only, args.against or "", args.records is not None)
  trace = pathlib.Path(args.trace) if args.trace else None
  train_step.bench_train_command(config, sizes, trace, args.json)


def bench_step(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.bench import unit_step

  unit_step.bench_step_command(config, args.runs, args.json)
