"""What hears, sees, thinks, performs, speaks and draws, and what each part costs.

Nothing is allocated: parameters and states are those of `jax.eval_shape`, FLOPs are counted in the traced programs
(`parallel/cost.py`: products and convolutions, a multiply-add is two).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from wanstreamer_jax.bench.unit_step import nbytes, phase_costs, random_unit
from wanstreamer_jax.config import Config
from wanstreamer_jax.engine.phases import abstract_states
from wanstreamer_jax.parallel.cost import count
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.rollout import Agent


class AgentPart(NamedTuple):
  """A row of the table. parameters: None where another row counts them. state: bytes that a session keeps."""

  name: str
  what: str
  parameters: int | None
  flops: float  # a unit
  state: int


def agent_parts(config: Config) -> tuple[list[AgentPart], list[AgentPart]]:
  """(the parts of a live unit, those that only make records and start sessions)."""
  agent = jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))
  states = abstract_states(agent, 1, 60_000 // config.media.unit_ms)  # a minute, for layouts without a window
  state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)
  costs = {name: cost.flops for name, cost in phase_costs(agent, state, random_unit(config)).items()}
  media, streamer, sizes = config.media, agent.streamer, {n: leaf.size for n, leaf in named_leaves(agent).items()}
  of = lambda *starts: sum(size for name, size in sizes.items() if name.startswith(starts))
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  voice, picture = agent.audio_codec, agent.video_codec
  z_audio = array(config.audio_latents, config.audio_codec.latent_dim)
  z_video = array(1, config.latent_height, config.latent_width, config.video_codec.latent_dim)
  sound, frames = array(media.samples), array(media.frames, media.height, media.width, 3)
  encoders = ("audio_codec.encoder", "video_codec.encoder")
  live = [
    AgentPart("hears", _hearing(config, streamer.hear.delay), of("streamer.hear."),
              count(lambda e, x, s: e(x, s), streamer.hear, sound, state.hearing).flops, nbytes(state.hearing)),
    AgentPart("sees", _seeing(config), of("streamer.see."),
              count(lambda e, x: e(x), streamer.see, frames).flops, 0),
    AgentPart("thinks", _thinking(config), of("streamer.") - of("streamer.hear.", "streamer.see."),
              costs["commit"] + costs["think"], nbytes(state.cache)),
    AgentPart("performs", f"the same Transformer, {config.flow.steps} solver steps", None, costs["perform"],
              nbytes((state.past, state.anchor))),
    AgentPart("speaks", f"{config.audio_codec.kind}'s decoder{_late(config.audio_codec.delay / media.sample_rate)}",
              of("audio_codec.") - of(encoders[0]), count(lambda c, z, s: c.decode(z, s), voice, z_audio,
              state.audio_decoder).flops, nbytes(state.audio_decoder)),
    AgentPart("draws", _drawing(config), of("video_codec.") - of(encoders[1]),
              count(lambda c, z, s: c.decode(z, s), picture, z_video, state.video_decoder).flops,
              nbytes(state.video_decoder)),
  ]  # fmt: skip
  before = jax.eval_shape(lambda c: c.encoder_state(), voice)
  first = jax.eval_shape(lambda c: c.primed_encoder_state(media.height, media.width), picture)
  offline = [
    AgentPart("voice", f"{config.audio_codec.kind}'s encoder", of(encoders[0]),
              count(lambda c, x, s: c.encode(x, s), voice, sound, before).flops, nbytes(before)),
    AgentPart("pictures", f"{config.video_codec.kind}'s encoder", of(encoders[1]),
              count(lambda c, x, s: c.encode(x, s), picture, frames, first).flops, nbytes(first)),
  ]  # fmt: skip
  return live, offline


def _late(seconds: float) -> str:
  return f", {1000 * seconds:.0f} ms late" if seconds else ""


def _hearing(config: Config, delay: float) -> str:
  p = config.perception
  kind = {"native": f"mel frames, {p.audio_layers} layers of {p.audio_channels}", "pocket": "pocket's encoder"}
  moonshine = f"moonshine, {len(p.moonshine.past)} layers of {p.moonshine.width}"
  return f"{kind.get(p.audio, moonshine)}, {p.audio_tokens} tokens a unit{_late(delay)}"


def _seeing(config: Config) -> str:
  p, (rows, columns) = config.perception, config.user_video_grid
  what = f"convolutions, {p.video_channels} channels, every frame"
  if p.video == "siglip2":
    grid, pictures = config.siglip2_grid, config.pictures_per_unit
    what = f"siglip2, {p.siglip2.layers} layers of {p.siglip2.width}, {grid[0]}x{grid[1]} patches, {pictures} of "
    what += f"{config.media.frames} frames"
  return f"{what}, {rows * columns} tokens a unit"


def _thinking(config: Config) -> str:
  model, window = config.model, config.layout.window
  seconds = 60.0 if window is None else window * config.media.unit_ms / 1000
  return f"{model.layers} layers of {model.width}, {config.layout.text_slots} words a unit, {seconds:.0f} s of history"


def _drawing(config: Config) -> str:
  codec = config.video_codec
  return f"the small decoder for {codec.kind}" if codec.decoder == "tae" else f"{codec.kind}'s decoder"


def _giga(flops: float) -> str:
  return f"{flops / 1e9:.3g}" if flops < 100e9 else f"{flops / 1e9:,.0f}".replace(",", " ")


def part_rows(parts: Sequence[AgentPart], text: Any, size: Any) -> list[Sequence[str]]:
  """Rows of a table; text, size: how counts and bytes are written."""
  return [
    (p.name, p.what, "" if p.parameters is None else text(p.parameters), _giga(p.flops),
     size(p.state) if p.state else "")
    for p in parts
  ]  # fmt: skip


def part_lines(config: Config, text: Any, size: Any, table: Any) -> list[str]:
  """The two tables of `wanstreamer inspect model`."""
  live, offline = agent_parts(config)
  head = ("", "by", "parameters", "GFLOP a unit", "state")
  total, unit = sum(part.flops for part in live), config.media.unit_ms / 1000
  return [
    "a live unit",
    *table([head, *part_rows(live, text, size)], right=(2, 3, 4)),
    f"  together {_giga(total)} GFLOP a unit, {total / unit / 1e12:.3g} TFLOP a second; a session keeps "
    f"{size(math.fsum(part.state for part in live))}",
    "",
    "records and portraits only",
    *table([head, *part_rows(offline, text, size)], right=(2, 3, 4)),
  ]
