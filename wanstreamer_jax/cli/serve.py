"""`wanstreamer serve` runs the live service; `wanstreamer client` streams a file to it."""

import argparse
import dataclasses
import os
import pathlib
from typing import Any

from wanstreamer_jax.cli.parsing import add_agent, add_command, add_out, add_service, add_world, agent_overrides, number


def add_serve(commands: Any) -> None:
  examples = """
    wanstreamer serve                                        # the shipped weights, one session at a time, this machine
    wanstreamer serve --checkpoint runs/demo/agent --slots 4
    wanstreamer serve --host 0.0.0.0 --token "$(openssl rand -hex 16)" --certificate cert.pem --key key.pem
  """
  parser = add_command(commands, "serve", "let people talk with the agent in a browser", examples, serve)
  add_agent(parser)
  add_service(parser)
  parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
  parser.add_argument("--port", type=number(int, 0, 65535), default=8765, help="default: 8765; 0 takes any free one")
  parser.add_argument("--token", default=os.environ.get("WANSTREAMER_TOKEN", ""),
                      help="token that clients add to the address; needed with --host (default: $WANSTREAMER_TOKEN, "
                      "which other users of this machine cannot see)")  # fmt: skip
  parser.add_argument(
    "--origin", action="append", default=[], metavar="URL", help="origin of another page that may connect"
  )
  add_world(parser)
  parser.add_argument("--longest", type=number(float, 1), default=3600.0, help="limit of a session (default: 3600 s)")
  parser.add_argument("--state", metavar="DIR", help="save sessions at SIGTERM, continue them at a start within 30 s")
  parser.add_argument(
    "--drain", type=number(float, 0), default=0.0, help="seconds that sessions may go on after SIGTERM"
  )
  parser.add_argument(
    "--certificate", metavar="PEM", default="", help="TLS certificate; browsers need it off localhost"
  )
  parser.add_argument("--key", metavar="PEM", default="", help="its key")


def serve(args: argparse.Namespace) -> None:
  from wanstreamer_jax.serve.server import ServeOptions, listen, structured_logs
  from wanstreamer_jax.serve.server import serve as run
  from wanstreamer_jax.serve.session_log import throughput

  options = ServeOptions(
    host=args.host, port=args.port, token=args.token, origins=tuple(args.origin), max_seconds=args.longest,
    certificate=args.certificate, key=args.key, drain=args.drain,
    state=pathlib.Path(args.state) if args.state else None,
  )  # fmt: skip
  listening, context = listen(options)
  print("loading and compiling (the second start is faster)", flush=True)
  from wanstreamer_jax.data.duplex_world.source import world_config
  from wanstreamer_jax.engine.engine import Engine
  from wanstreamer_jax.engine.request import Request
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache
  from wanstreamer_jax.weights import agent as agent_weights

  enable_compilation_cache()
  agent = agent_weights.load_agent(args.checkpoint, agent_overrides(args))
  world = agent_weights.load_session_world(args.checkpoint, args.world, agent.config.media)
  capacity = int(1000 * args.longest / agent.config.media.unit_ms) if agent.config.layout.window is None else None
  engine = Engine(agent, args.slots, capacity, args.placement, args.performers)
  agent = engine.agent  # in the dtypes of its use: the loaded float32 weights go
  engine.check(Request(world))  # before everything is compiled
  engine.prepare(lambda line: print(line, flush=True))
  print(throughput(engine.measure(), agent.config.media.unit_ms, args.slots, engine.overlaps), flush=True)
  structured_logs()
  simulated, voice = world_config(agent.config), bool(agent.config.layout.voice_units)
  run(engine, dataclasses.replace(options, world=world, voice=voice, simulated=simulated), listening, context)


def add_client(commands: Any) -> None:
  examples = """
    wanstreamer client clip.mp4 --server http://127.0.0.1:8765 --out answer
  """
  parser = add_command(commands, "client", "stream a media file to a live server, save its answer", examples, client)
  parser.add_argument("input", metavar="FILE", help="any media file")
  parser.add_argument(
    "--server", metavar="URL", required=True, help="the server's address, with ?token=... if it needs one"
  )
  add_out(parser, "folder for agent.mp4, agent.vtt and units.jsonl")


def client(args: argparse.Namespace) -> None:
  import numpy as np

  from wanstreamer_jax.serve.stream_live import stream_to

  figures = stream_to(args.server, args.input, args.out)
  latency = (
    f"latency p50 {figures['p50_ms']:.0f} ms, p95 {figures['p95_ms']:.0f}, p99 {figures['p99_ms']:.0f} (unit captured "
    "-> answer here)"
  )
  if np.isnan(figures["p50_ms"]):
    latency = f"no latency: {args.input} has no sound, by which it is measured"
  print(f"{latency}; {100 * figures['late']:.1f} % of units late\n{args.out}")
