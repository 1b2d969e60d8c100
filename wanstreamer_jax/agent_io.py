"""An `Agent` on disk: assembled from the runs that trained its parts, exported as one folder, loaded from anywhere."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from wanstreamer_jax.codecs.audio_vae import AudioVAE
from wanstreamer_jax.codecs.video_vae import VideoVAE
from wanstreamer_jax.config import Config, MediaConfig
from wanstreamer_jax.config_files import apply_override, flat_fields
from wanstreamer_jax.data.records import video_to_float
from wanstreamer_jax.data.session import World as SessionWorld
from wanstreamer_jax.data.world_file import load_world, write_world
from wanstreamer_jax.errors import CheckpointError, DataError
from wanstreamer_jax.model.streamer import WanStreamer, World
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.perception.text import TextTokenizer
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.weights import Path, export_weights, first_difference, fit_weights, part_of, read_weights

DEMO = "demo"
RUN_PATHS = ("data.path", "data.heldout", "train.run", "train.init", "train.codecs", "train.mesh")
DEMO_FOLDER = pathlib.Path(__file__).parent / "demo_weights"


def resolve(checkpoint: Path) -> epath.Path:
  """The folder of a checkpoint; "demo" is the weights that this package carries."""
  if str(checkpoint) != DEMO:
    return epath.Path(checkpoint)
  if not DEMO_FOLDER.is_dir():
    raise CheckpointError(f"this installation has no demo weights in {DEMO_FOLDER}; give --checkpoint a folder")
  return epath.Path(DEMO_FOLDER)


def load_agent(checkpoint: Path = DEMO, overrides: Sequence[str] = ()) -> Agent:
  """An agent from an exported folder, in float32. Raises CheckpointError with one line that says what is wrong.

  overrides: fields of its config that whoever runs it may choose, as on the command line: "flow.guidance=1.5".
  """
  folder = resolve(checkpoint)
  config, values = read_weights(folder)
  config = config.replace()
  for override in overrides:
    apply_override(config, override)
  return jax.device_put(fit_weights(values, abstract_agent(config.freeze()), folder))


def assemble(streamer: Path, audio_vae: Path, video_vae: Path) -> Agent:
  """An agent from the training runs or exports of its three parts, with the config of the streamer's run.

  An exported agent, "demo" too, may stand for any part that it holds.
  Raises CheckpointError when a codec is not the one that this config describes.
  """
  config, own = read_weights(resolve(streamer))
  config = without_paths(config)
  abstract = abstract_agent(config)
  own = _checked("streamer", streamer, own, abstract.streamer)
  values = {f"streamer.{name}": value for name, value in own.items()}
  for part, path in (("audio_vae", audio_vae), ("video_vae", video_vae)):
    codec, found = read_weights(resolve(path))
    for section in ("media", part):
      wanted, has = (flat_fields(getattr(c, section)) for c in (config, codec))
      for name in wanted:
        if wanted[name] != has[name]:
          raise CheckpointError(
            f"{path} has {section}.{name} = {has[name]!r}, but {streamer} was trained with {wanted[name]!r}: "
            "give the codec whose latents it was trained on"
          )
    found = _checked(part, path, found, getattr(abstract, part))
    values |= {f"{part}.{name}": value for name, value in found.items()}
  return fit_weights(values, abstract, streamer)


def _checked(part: str, path: Path, values: dict[str, np.ndarray], abstract: Any) -> dict[str, np.ndarray]:
  """The named values of a part. Raises CheckpointError unless they are its weights."""
  wanted = {name: leaf.shape for name, leaf in named_leaves(abstract).items()}
  values = part_of(values, wanted)
  problem = first_difference({name: value.shape for name, value in values.items()}, wanted)
  if problem:
    raise CheckpointError(f"{path} does not hold the weights of the {part} of this config: {problem}")
  return values


def without_paths(config: Config) -> Config:
  """The config as others can use it: without the folders of the machine that trained."""
  config, default = config.replace(), Config()
  for name in RUN_PATHS:
    section, field = name.split(".")
    setattr(getattr(config, section), field, getattr(getattr(default, section), field))
  return config.freeze()


def with_streamer(streamer: WanStreamer, audio_vae: AudioVAE, video_vae: VideoVAE) -> Agent:
  """An agent from its three modules."""
  agent = abstract_agent(streamer.config)
  parts = {"streamer": streamer, "audio_vae": audio_vae, "video_vae": video_vae}
  leaves = {f"{part}.{name}": leaf for part, tree in parts.items() for name, leaf in named_leaves(tree).items()}
  return fill_leaves(agent, leaves)


def abstract_agent(config: Config) -> Agent:
  """The agent's tree of shapes."""
  return jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))


def export_agent(agent: Agent, folder: Path, dtype: str = "bf16", world_file: str | None = None) -> int:
  """Writes an agent as one folder, with its world where one is given. Returns the size of the weights in bytes.

  Raises DataError or MediaError, before anything is written, for a world that the agent cannot take.
  """
  config = agent.config
  world = load_world(world_file, config.media) if world_file else None
  if world is not None:
    world_text(config, TextTokenizer(config.data.tokenizer), world)
    portrait = world.portrait if config.layout.portrait else None
    voice = world.voice if config.layout.voice_units else None
    world = SessionWorld(world.fields, portrait, voice)
  size = export_weights(agent, config, folder, dtype)
  if world is not None:
    write_world(pathlib.Path(folder), world, config.media)
  return size


def own_world(checkpoint: Path) -> epath.Path:
  """Where the world of an exported agent lies, if it has one."""
  return resolve(checkpoint) / "world.json"


def load_session_world(checkpoint: str, world_file: str | None, media: MediaConfig) -> SessionWorld:
  """The world that a file describes, or else the one beside the weights, or none at all."""
  own = own_world(checkpoint)
  chosen = world_file or (own if own.exists() else None)
  return load_world(chosen, media) if chosen else SessionWorld()


def world_arrays(agent: Agent, tokenizer: TextTokenizer, world: SessionWorld, cut: bool = False) -> World:
  """A session's world as the model takes it: text as ids, portrait and voice as latents.

  Raises DataError when the text has more tokens than the layout has room for; or cuts it, as records of training do.
  """
  config, empty = agent.config, World.empty(agent.config)
  result = empty._replace(text=jnp.asarray(world_text(config, tokenizer, world, cut)))
  if world.portrait is not None and config.layout.portrait:
    portrait = _encode_portrait(agent.video_vae, world.portrait)
    result = result._replace(portrait=portrait, portrait_valid=jnp.ones((), bool))
  if world.voice is not None and config.layout.voice_units:
    samples = np.zeros(config.layout.voice_units * config.media.samples, np.float32)
    samples[: len(world.voice)] = world.voice[: len(samples)]
    result = result._replace(voice=_encode_voice(agent.audio_vae, samples), voice_valid=jnp.ones((), bool))
  return result


def world_text(config: Config, tokenizer: TextTokenizer, world: SessionWorld, cut: bool = False) -> np.ndarray:
  """The world's text as PAD-filled ids: int32 [layout.world_text]. Raises DataError when it is too long, or cuts it."""
  capacity = config.layout.world_text
  ids = tokenizer.encode(world.text()) if world.fields and capacity else []
  if len(ids) > capacity and not cut:
    raise DataError(
      f"the world text has {len(ids)} tokens: this model takes {capacity} (layout.world_text); shorten the fields"
    )
  text = np.full(capacity, tokenizer.pad_id, np.int32)
  text[: len(ids[:capacity])] = ids[:capacity]
  return text


@jax.jit
def _encode_portrait(video_vae: VideoVAE, portrait: jax.Array) -> jax.Array:
  """uint8 [H, W, 3] -> [h, w, Z]."""
  return video_vae.encode_first(video_to_float(portrait)[None])[0].mean[0]


@jax.jit
def _encode_voice(audio_vae: AudioVAE, samples: jax.Array) -> jax.Array:
  """float32 [S] -> [T, Z]."""
  return audio_vae.encode(samples, audio_vae.encoder_state())[0].mean
