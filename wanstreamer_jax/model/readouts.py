"""Auxiliary readouts of what is known of the user; in training only.

They read linearly out of hidden states what the records know, and give perception and the Transformer a gradient in
every unit, where words about what is seen and heard come once in many. Their loss is in `train/readouts.py`; exports
and served agents have none of them.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from wanstreamer_jax.config import Config
from wanstreamer_jax.nn.blocks import Linear, RMSNorm


class Readout(nnx.Module):
  """Logits of the classes of all labels of a head, side by side, from tokens that are put in a row; 0 at first."""

  def __init__(self, tokens: int, width: int, classes: int, *, rngs: nnx.Rngs):
    self.norm = RMSNorm(width)
    self.logits = Linear(tokens * width, classes, rngs=rngs, scale=0.0, bias=True)

  def __call__(self, hidden: Float[Array, "T D"]) -> Float32[Array, "C"]:
    return self.logits(self.norm(hidden.astype(jnp.float32)).reshape(-1))


class Readouts(nnx.Module):
  """The heads that `config.readouts` gives a weight, and how much each class and each word weighs: constants that the
  duplex stage takes from the records (`train/readouts.py`)."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    chosen, model = config.readouts, config.model
    visible, (rows, columns) = sum(chosen.sizes.values()), config.user_video_grid

    def head(name: str, tokens: int, classes: int) -> Readout | None:
      return Readout(tokens, model.width, classes, rngs=rngs) if chosen.of(name) else None

    self.state = head("state", 1, visible + chosen.acts)
    self.seen = head("seen", rows * columns, visible)
    self.heard = head("heard", config.perception.audio_tokens, model.vocab)
    self.class_weight = nnx.Param(jnp.ones(visible + chosen.acts)) if self.state or self.seen else None
    self.heard_weight = nnx.Param(jnp.ones(model.vocab)) if self.heard else None
    self.word_weight = nnx.Param(jnp.ones(model.vocab)) if config.train.rare_words else None
    self.config = config


def make_readouts(config: Config, *, rngs: nnx.Rngs) -> Readouts | None:
  """The readouts of a config; None where training has none."""
  wanted = any(map(config.readouts.of, ("state", "seen", "heard"))) or config.train.rare_words
  return Readouts(config, rngs=rngs) if wanted else None


def columns(config: Config) -> dict[str, slice]:
  """{kind of label: where its classes are} among the logits of `state`; `seen` has the same without the act."""
  found, start = {}, 0
  for name, size in (*config.readouts.sizes.items(), ("act", config.readouts.acts)):
    found[name] = slice(start, start + size)
    start += size
  return found
