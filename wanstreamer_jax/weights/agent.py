"""An `Agent` on disk: joined from trained parts, exported as one folder, loaded. It can be loaded from anywhere."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from wanstreamer_jax.codecs.interface import AudioCodec, VideoCodec
from wanstreamer_jax.codecs.make import make_audio_codec, make_video_codec
from wanstreamer_jax.codecs.wan import WanCodec
from wanstreamer_jax.config import Config, MediaConfig, ReadoutsConfig
from wanstreamer_jax.config_files import apply_override, flat_fields
from wanstreamer_jax.data.encode import fingerprint, world_text
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.data.world_file import load_world, write_world
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.files import Path
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.weights.store import (
  export_weights,
  first_difference,
  fit_weights,
  part_of,
  read_weights,
)

DEMO = "demo"
RUN_PATHS = (
  "data.path", "data.heldout", "train.run", "train.init", "train.language_model", "train.hearing", "train.seeing",
  "train.codecs", "train.mesh",
)  # fmt: skip
MEDIA_OF = {  # what a codec is made for; the voice's codec knows nothing of pictures
  "audio_codec": ("media.sample_rate",),
  "video_codec": ("media.height", "media.width", "media.fps"),
}
READOUTS = "readouts."  # how the names of a streamer's leaves begin that training alone has
DEMO_FOLDER = pathlib.Path(__file__).parent / "demo"


def resolve(checkpoint: Path) -> epath.Path:
  """The folder of a checkpoint; "demo" names the weights that this package ships."""
  if str(checkpoint) != DEMO:
    return epath.Path(checkpoint)
  if not DEMO_FOLDER.is_dir():
    raise CheckpointError(f"this installation has no demo weights in {DEMO_FOLDER}; give --checkpoint a folder")
  return epath.Path(DEMO_FOLDER)


def load_agent(checkpoint: Path = DEMO, overrides: Sequence[str] = ()) -> Agent:
  """An agent from an exported folder, in float32. Raises CheckpointError.

  overrides: changes of its config as on the command line, such as "flow.guidance=1.5".
  """
  folder = resolve(checkpoint)
  config, values = read_weights(folder)
  config = config.replace()
  for override in overrides:
    apply_override(config, override)
  return jax.device_put(fit_weights(values, abstract_agent(config.freeze()), folder))


def load_codecs(config: Config, audio_codec: Path, video_codec: Path) -> tuple[AudioCodec, VideoCodec]:
  """Both codecs with their weights, each from its training run, from `codec import` or from an exported agent.

  The video codec has the decoder that its weights come with, whichever `config` names: latents do not depend on it.
  Raises CheckpointError when the weights are missing, of another kind or of another shape than `config` says.
  """
  (heard, sound), (seen, pictures) = read_weights(audio_codec), read_weights(video_codec)
  for part, stored, path in (("audio_codec", heard, audio_codec), ("video_codec", seen, video_codec)):
    kind, wanted = (getattr(c, part).kind for c in (stored, config))
    if kind != wanted:
      raise CheckpointError(f"{path} has {part}.kind {kind}, but the config {wanted}: give the codec of the config")
  config = _with_decoder_of(config, seen)
  audio, video = jax.eval_shape(
    lambda: (
      make_audio_codec(config.audio_codec, rngs=nnx.Rngs(0)),
      make_video_codec(config.video_codec, rngs=nnx.Rngs(0)),
    )
  )
  fit = lambda values, abstract, path: fit_weights(part_of(values, named_leaves(abstract)), abstract, path)
  return jax.device_put((fit(sound, audio, audio_codec), fit(pictures, video, video_codec)))


def _with_decoder_of(config: Config, codec: Config) -> Config:
  """`config` with the decoder of another config's video codec of the same kind."""
  video, other = config.video_codec, codec.video_codec
  if video.kind != other.kind or (video.decoder, video.tae) == (other.decoder, other.tae):
    return config
  return config.replace(video_codec=video.replace(decoder=other.decoder, tae=other.tae.replace())).freeze()


def assemble(streamer: Path, audio_codec: Path, video_codec: Path) -> Agent:
  """An agent from the training runs or exports of its three parts, with the config of the streamer's run.

  Any part may also come from an exported agent, such as "demo".
  Raises CheckpointError when a codec is not the one that this config describes.
  """
  config, own = read_weights(resolve(streamer))
  codecs = {"audio_codec": (audio_codec, *read_weights(resolve(audio_codec)))}
  codecs["video_codec"] = (video_codec, *read_weights(resolve(video_codec)))
  config = _with_decoder_of(without_readouts(without_paths(config)), codecs["video_codec"][1])
  abstract = abstract_agent(config)
  own = {name: value for name, value in own.items() if not name.startswith(READOUTS)}
  own = checked_part("streamer", streamer, own, abstract.streamer)
  values = {f"streamer.{name}": value for name, value in own.items()}
  for part, (path, codec, found) in codecs.items():
    wanted, has = (codec_fields(c, part) for c in (config, codec))
    for name in wanted:
      if wanted[name] != has.get(name):
        raise CheckpointError(
          f"{path} has {name} = {has.get(name)!r}, but {streamer} was trained with {wanted[name]!r}: "
          "give the codec that made the latents it was trained on"
        )
    found = checked_part(part, path, found, getattr(abstract, part))
    values |= {f"{part}.{name}": value for name, value in found.items()}
  return fit_weights(values, abstract, streamer)


def made_by_others(streamer: Path, agent: Agent) -> bool:
  """Whether the run of `streamer` states that other codec weights than the agent's made the latents it learned from."""
  try:
    stated = json.loads((resolve(streamer) / "code.json").read_text()).get("codecs")
  except (OSError, ValueError, AttributeError):
    return False  # an export, a single checkpoint, or an older run
  return stated is not None and stated != fingerprint(agent.audio_codec, agent.video_codec)


def codec_fields(config: Config, part: str) -> dict[str, Any]:
  """The fields that a codec's weights depend on, by their dotted names: those of its medium and of its own kind."""
  kind = getattr(config, part).kind
  medium = MEDIA_OF[part]
  return {
    name: value
    for name, value in flat_fields(config).items()
    if name.startswith(f"{part}.{kind}.") or name == f"{part}.kind" or name in medium
  }


def checked_part(part: str, path: Path, values: dict[str, np.ndarray], abstract: Any) -> dict[str, np.ndarray]:
  """The named values of a part. Raises CheckpointError unless they are its weights."""
  wanted = {name: leaf.shape for name, leaf in named_leaves(abstract).items()}
  values = part_of(values, wanted)
  problem = first_difference({name: value.shape for name, value in values.items()}, wanted)
  if problem:
    raise CheckpointError(f"{path} does not hold the weights of the {part} of this config: {problem}")
  return values


def without_paths(config: Config) -> Config:
  """The config without the paths of the machine that trained, as an export carries it."""
  config, default = config.replace(), Config()
  for name in RUN_PATHS:
    section, field = name.split(".")
    setattr(getattr(config, section), field, getattr(getattr(default, section), field))
  return config.freeze()


def without_readouts(config: Config) -> Config:
  """The config of a streamer without the auxiliary readouts of its training (`model/readouts.py`)."""
  train = config.train.replace(rare_words=0.0, readout_warmup=0)
  return config.replace(readouts=ReadoutsConfig(), train=train).freeze()


def with_streamer(streamer: WanStreamer, audio_codec: AudioCodec, video_codec: VideoCodec) -> Agent:
  """An agent from its three modules, without the streamer's readouts."""
  config = without_readouts(streamer.config)
  if isinstance(video_codec, WanCodec):
    fields = video_codec.decoder_fields
    config = config.replace(video_codec=config.video_codec.replace(**fields)).freeze()
  agent = abstract_agent(config)
  parts = {"streamer": streamer, "audio_codec": audio_codec, "video_codec": video_codec}
  leaves = {f"{part}.{name}": leaf for part, tree in parts.items() for name, leaf in named_leaves(tree).items()}
  return fill_leaves(agent, leaves)


def abstract_agent(config: Config) -> Agent:
  """An agent whose leaves are shapes (`jax.eval_shape`)."""
  return jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))


def export_agent(agent: Agent, folder: Path, dtype: str = "bf16", world_file: str | None = None) -> int:
  """Writes an agent as one folder, with its tokenizer, and with a world if one is given. Returns its size in bytes.

  Raises DataError or MediaError, before anything is written, for a tokenizer that is not the one of the training and
  for a world that the agent cannot use.
  """
  config = agent.config
  tokenizer = tokenizer_of(config)
  world = load_world(world_file, config.media) if world_file else None
  if world is not None:
    world_text(config, tokenizer, world)
    portrait = world.portrait if config.layout.portrait else None
    voice = world.voice if config.layout.voice_units else None
    world = World(world.fields, portrait, voice)
  size = export_weights(agent, config, folder, dtype, tokenizer.blob)
  if world is not None:
    write_world(pathlib.Path(folder), world, config.media)
  return size


def own_world(checkpoint: Path) -> epath.Path:
  """Path of the world file of an exported agent, which need not exist."""
  return resolve(checkpoint) / "world.json"


def load_session_world(checkpoint: str, world_file: str | None, media: MediaConfig) -> World:
  """The world of a file, else the one beside the weights, else an empty one."""
  own = own_world(checkpoint)
  chosen = world_file or (own if own.exists() else None)
  return load_world(chosen, media) if chosen else World()
