"""A vision Transformer of SigLIP's kind (arXiv 2502.14786). Patches have learnt places; pictures come one at a time.

The picture is resized to a grid of patches of its own aspect, at most `patches` of them, as SigLIP 2's NaFlex variant
does; the places that were learnt on a square grid are resized to that grid as well. 192x336 pixels are 12x21 patches
of 16 without any resizing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import Config
from wanstreamer_jax.nn.blocks import Linear
from wanstreamer_jax.nn.encoder_layer import EncoderLayer, LayerNorm
from wanstreamer_jax.nn.folding import space_to_depth


class VisionTransformer(nnx.Module):
  """Pictures in [-1, 1] -> a feature of every patch. The layers are stacked and scanned."""

  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    sizes = config.perception.siglip2
    self.patch = Linear(sizes.patch**2 * 3, sizes.width, rngs=rngs, bias=True)
    self.places = nnx.Param(jax.random.normal(rngs.params(), (sizes.places, sizes.width)) * sizes.width**-0.5)
    keys = jax.random.split(rngs.params(), sizes.layers)
    make = lambda key: EncoderLayer(sizes.width, sizes.heads, sizes.mlp, sizes.epsilon, rngs=nnx.Rngs(key))
    self.layers = jax.vmap(make)(keys)
    self.final_norm = LayerNorm(sizes.width, sizes.epsilon)
    self.config = config

  def __call__(self, picture: Float[Array, "H W 3"]) -> Float[Array, "R Q D"]:
    """One picture -> features of R x Q patches."""
    sizes, (rows, columns) = self.config.perception.siglip2, self.config.siglip2_grid
    x = resized(picture, rows * sizes.patch, columns * sizes.patch).astype(self.config.model.dtype)
    x = self.patch(space_to_depth(x, sizes.patch)).reshape(rows * columns, -1)
    x = x + (place_weights(sizes.places, rows, columns) @ self.places[...]).astype(x.dtype)
    body = lambda x, layer: (layer(x), None)
    if self.config.model.remat != "none":
      body = jax.checkpoint(body)
    x, _ = jax.lax.scan(body, x, self.layers)
    return self.final_norm(x).reshape(rows, columns, -1)


def resized(picture: Float[Array, "H W C"], height: int, width: int) -> Float[Array, "h w C"]:
  """Bilinear, with the antialiasing of Pillow and torchvision where it shrinks."""
  if picture.shape[:2] == (height, width):
    return picture
  rows, columns = (triangles(old, new) for old, new in zip(picture.shape[:2], (height, width)))
  return jnp.einsum("hH,wW,HWc->hwc", rows, columns, picture)


@functools.cache
def triangles(old: int, new: int) -> np.ndarray:
  """[new, old]: the weights that resize a line linearly, from pixel centre to pixel centre, wider where it shrinks."""
  scale = old / new
  centre = (np.arange(new) + 0.5) * scale - 0.5
  weights = np.maximum(0, 1 - np.abs(np.arange(old) - centre[:, None]) / max(scale, 1))
  return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def place_weights(places: int, rows: int, columns: int) -> np.ndarray:
  """[rows * columns, places]: resizes the learnt square grid of places to rows x columns."""
  side = round(places**0.5)
  weights = triangles(side, rows)[:, None, :, None] * triangles(side, columns)[None, :, None, :]
  return weights.reshape(rows * columns, places)
