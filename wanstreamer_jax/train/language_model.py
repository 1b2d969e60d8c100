"""Starts a streamer from the folder of `train.language_model`.

Every leaf is created on its own devices. No host holds the model: it reads, leaf by leaf and tensor by tensor, the
parts that its own devices will hold.
"""

import time

import jax

from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.train.stage import Params, Stage
from wanstreamer_jax.weights.qwen import LanguageModel


def language_model_params(stage: Stage, config: Config, abstract: Params, shardings: Params) -> Params:
  """The parameters of a stage, with the language model's where it has some and the stage's own random ones elsewhere.

  abstract, shardings: trees of shapes and of places, as `train.state.state_shardings` gives them for `params`.
  Raises CheckpointError or DataError for a folder that does not fit the config, ConfigError for a stage without text.
  """
  begin, model = time.perf_counter(), LanguageModel(config.train.language_model, config)
  wanted, places = named_leaves(abstract), named_leaves(shardings)
  for name in model.names:
    if name not in wanted or wanted[name].shape != model.shape(name):
      raise ConfigError(
        f"train.language_model: stage {stage.name!r} has no {name} of shape {list(model.shape(name))}: a language "
        "model starts stages of the streamer; for others leave train.language_model empty"
      )
  key, _ = jax.random.split(jax.random.key(config.train.seed))  # as `init_state`
  others = {name: place for name, place in places.items() if name not in model.names}

  def init() -> dict[str, jax.Array]:
    leaves = named_leaves(stage.init(config, key))
    return {name: leaves[name] for name in others}  # the compiler leaves out what is not returned

  leaves = jax.jit(init, out_shardings=others)() | {name: model.place(name, places[name]) for name in model.names}
  seconds = time.perf_counter() - begin
  print(f"read language model {config.train.language_model} in {seconds:.1f} s", flush=True)
  return fill_leaves(abstract, leaves)
