"""`wanstreamer stream`: the agent answers a media file."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from wanstreamer_jax.cli.parsing import add_agent, add_command, add_out, add_world, agent_overrides, number


def add_stream(commands: Any) -> None:
  examples = """
    wanstreamer stream clip.mp4 --out out
    wanstreamer stream question.wav --out out --world ada.json --text "1.2:hello" --text "4:what do you see?"
    wanstreamer stream clip.webm --out out --checkpoint runs/demo/agent --seed 7 --realtime
  """
  parser = add_command(commands, "stream", "let the agent hear, see and answer a media file", examples, stream)
  parser.add_argument("input", metavar="INPUT", help="any video, audio, or still image with audio, that PyAV reads")
  add_out(parser, "folder for videos, captions, log and timeline")
  add_agent(parser)
  add_world(parser)
  parser.add_argument(
    "--text", metavar="S:TEXT", action="append", default=[], help="type TEXT to the agent at S seconds"
  )
  parser.add_argument("--seed", type=number(int, 0), default=0, help="seed of the agent's noise (default: 0)")
  parser.add_argument(
    "--temperature", type=number(float, 0), default=0.0, help="temperature of words; 0 is greedy (default)"
  )
  parser.add_argument("--pad-bias", type=float, default=0.0, help="below 0 the agent says more, above 0 less")
  parser.add_argument("--realtime", action="store_true", help="feed units on the wall clock, count missed deadlines")


def stream(args: argparse.Namespace) -> None:
  from wanstreamer_jax.data.media_probe import check_file
  from wanstreamer_jax.engine.request import Request
  from wanstreamer_jax.serve.stream_file import StreamOptions, parse_text_event, stream_file

  events = tuple(parse_text_event(text) for text in args.text)
  request = Request(seed=args.seed, temperature=args.temperature, pad_bias=args.pad_bias)
  check_file(Path(args.input))
  print("loading and compiling; the second time is faster", flush=True)
  from wanstreamer_jax.data.media import MediaReader
  from wanstreamer_jax.engine.engine import Engine
  from wanstreamer_jax.parallel.mesh import enable_compilation_cache
  from wanstreamer_jax.weights import agent as agent_weights

  enable_compilation_cache()
  agent = agent_weights.load_agent(args.checkpoint, agent_overrides(args))
  units = len(MediaReader(args.input, agent.config.media)) if agent.config.layout.window is None else None
  engine = Engine(agent, capacity=units)
  del agent  # in float32; the engine's is in the dtypes of its use
  world = agent_weights.load_session_world(args.checkpoint, args.world, engine.media)
  summary = stream_file(
    engine, args.input, args.out, StreamOptions(dataclasses.replace(request, world=world), events, args.realtime)
  )
  print(*summary.lines(), sep="\n")
