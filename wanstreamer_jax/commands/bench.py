"""`wanstreamer bench`: measurements of this machine."""

import argparse
import pathlib
from typing import Any

from wanstreamer_jax.commands.parsing import add_command, add_config, add_group, folder, load_config, number


def add_bench(commands: Any) -> None:
  examples = """
    wanstreamer bench step --config configs/demo.py
    wanstreamer bench loader data_cache/latents --config configs/tiny.py
    wanstreamer bench serve --slots 2 --visitors 3
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

  serve = add_command(
    group, "serve", "serve visitors over real sockets on this machine and time what they meet",
    """
    wanstreamer bench serve --slots 2 --visitors 3 --seconds 60
    wanstreamer bench serve --config configs/qwen2p5_1p5b.py --config.model.dtype=bfloat16 --placement split --trace out
    """, bench_serve,
  )  # fmt: skip
  serve.add_argument("--checkpoint", metavar="C", default="demo", help="exported weights (default: the shipped ones)")
  add_config(serve, required=False)
  serve.add_argument("--placement", choices=("fused", "split", "group"), default="fused", help="as of `serve`")
  serve.add_argument("--performers", type=number(int, 1), metavar="N", help="devices of a group (default: all others)")
  serve.add_argument("--kv", choices=("plain", "int8"), default="plain", help="how the KV-cache is kept")
  serve.add_argument("--slots", type=number(int, 1), default=1, help="how many are served at once (default: 1)")
  serve.add_argument("--visitors", type=number(int, 1), default=1, help="how many come (default: 1)")
  serve.add_argument("--seconds", type=number(float, 4), default=30.0, help="how long they stay (default: 30)")
  serve.add_argument("--trace", metavar="DIR", help="write what ran when: trace.json for Perfetto, trace.png")
  serve.add_argument("--json", action="store_true", help="print JSON instead of a table")

  session = add_command(
    group, "session", "hold one long session faster than real time: do units stay as fast, memory as small",
    """
    wanstreamer bench session --minutes 60 --out out/session
    """, bench_session,
  )  # fmt: skip
  session.add_argument("--checkpoint", metavar="C", default="demo", help="exported weights (default: the shipped ones)")
  session.add_argument("--minutes", type=number(float, 0.1), default=60.0, help="how long (default: 60)")
  session.add_argument("--kv", choices=("plain", "int8"), default="plain", help="how the KV-cache is kept")
  session.add_argument(
    "--out", type=folder, metavar="DIR", default="out/session", help="for session.json and session.png"
  )

  loader = add_command(
    group, "loader", "measure how fast training batches are read from a folder of records",
    """
    wanstreamer bench loader data_cache/latents --config configs/tiny.py --seconds 10
    """, bench_loader,
  )  # fmt: skip
  loader.add_argument("path", metavar="DIR", help="a folder of records")
  add_config(loader)
  loader.add_argument("--seconds", type=number(float, 0.1), default=5.0, help="how long (default: 5)")


def bench_loader(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax.data import commands

  commands.bench_loader(config, args.path, seconds=args.seconds)


def bench_serve(args: argparse.Namespace) -> None:
  from wanstreamer_jax import agent_io, bench, bench_serve
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache
  from wanstreamer_jax.serve.slots import SlotEngine

  enable_compilation_cache()
  if args.config:
    config = load_config(args).replace()
    config.model.kv_cache = args.kv
    agent = bench.random_agent(config.freeze())
  else:
    agent = agent_io.load_agent(args.checkpoint, kv_cache=args.kv)
  units = round(2 * args.seconds * 1000 / agent.config.media.unit_ms) + 100  # for layouts with full history
  engine = SlotEngine(agent, args.slots, units, args.placement, args.performers)
  engine.prepare()
  trace = pathlib.Path(args.trace) if args.trace else None
  bench_serve.bench_serve_command(engine, args.visitors, args.seconds, args.json, trace)


def bench_session(args: argparse.Namespace) -> None:
  from wanstreamer_jax import agent_io, bench_session
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache

  enable_compilation_cache()
  agent = agent_io.load_agent(args.checkpoint, kv_cache=args.kv)
  bench_session.bench_session_command(agent, args.minutes, pathlib.Path(args.out))


def bench_step(args: argparse.Namespace) -> None:
  config = load_config(args)
  from wanstreamer_jax import bench

  bench.bench_step_command(config, args.runs, args.json)
