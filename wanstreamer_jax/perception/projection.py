"""From a pretrained encoder's features to tokens."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.nn.blocks import Linear, RMSNorm


class Projection(nnx.Module):
  """Neighbouring features, joined along channels, -> a token: out(norm(silu(merge x)))."""

  def __init__(self, inputs: int, hidden: int, width: int, *, rngs: nnx.Rngs):
    self.merge = Linear(inputs, hidden, rngs=rngs, bias=True)
    self.norm = RMSNorm(hidden)
    self.out = Linear(hidden, width, rngs=rngs)

  def __call__(self, x: Float[Array, "*T I"]) -> Float[Array, "*T D"]:
    return self.out(self.norm(jax.nn.silu(self.merge(x))))
