"""Sees some frames of a unit through a pretrained vision Transformer. Neighbouring patches become one token."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import Config
from wanstreamer_jax.nn.folding import space_to_depth
from wanstreamer_jax.perception.projection import Projection
from wanstreamer_jax.perception.vision_transformer import VisionTransformer


class SiglipVideoEncoder(nnx.Module):
  """User frames of one unit -> its tokens. It has no state: memory is the Transformer's.

  It looks at the last of every `perception.video_every` frames. `trunk` is what an importer fills.
  """

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    sizes, side = config.perception.siglip2, config.perception.video_merge
    self.trunk = VisionTransformer(config, rngs=rngs)
    inputs = config.pictures_per_unit * side**2 * sizes.width
    self.project = Projection(inputs, 2 * sizes.width, config.model.width, rngs=rngs)
    self.config = config

  def __call__(self, frames: Float[Array, "frames H W 3"]) -> Float[Array, "RQ D"]:
    every = frames.shape[0] // self.config.pictures_per_unit
    seen = jnp.clip(frames[every - 1 :: every], -1.0, 1.0)
    features = jax.vmap(self.trunk)(seen)  # [pictures, R, Q, C]
    x = space_to_depth(jnp.concatenate(list(features), axis=-1), self.config.perception.video_merge)
    return self.project(x.reshape(-1, x.shape[-1]))
