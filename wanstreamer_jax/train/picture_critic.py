"""Discriminators of the video codec's stage 0, an option of its training.

As those of sound (`train/critic.py`), whose losses and rules they share. One looks at every frame alone, the other at
what changed since the frame before; each says of every patch whether it is of an original. Steps down fold squares of
2x2 pixels into channels. Letters: F frames, H W pixels, C channels. Unbatched.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.config import TrainConfig
from wanstreamer_jax.nn.causal_conv import normal_weight
from wanstreamer_jax.nn.folding import space_to_depth
from wanstreamer_jax.train.critic import Judgement, Kernel, plane

STEPS = 3  # each halves rows and columns: a score is for a patch of 8x8 pixels and what surrounds it


class PatchCritic(nnx.Module):
  """Judges patches of single images [H, W, C]."""

  def __init__(self, inputs: int, channels: int, *, rngs: nnx.Rngs):
    widths = [inputs, *[channels * 2**i for i in range(STEPS)]]
    kernels = [normal_weight(rngs, (3, 3, 4 * a, b), 1.4) for a, b in itertools.pairwise(widths)]
    self.layers = nnx.List([Kernel(w) for w in kernels])
    self.judge = Kernel(normal_weight(rngs, (3, 3, widths[-1], 1)))

  def __call__(self, images: Float[Array, "F H W C"]) -> Judgement:
    return jax.vmap(self.image)(images)

  def image(self, x: Float[Array, "H W C"]) -> Judgement:
    features = []
    for layer in self.layers:
      x = jax.nn.leaky_relu(plane(layer, space_to_depth(x, 2)), 0.1)
      features.append(x)
    return Judgement(plane(self.judge, x), features)


class PictureCritic(nnx.Module):
  """Both discriminators."""

  def __init__(self, train: TrainConfig, *, rngs: nnx.Rngs):
    self.frame, self.motion = (PatchCritic(3, train.critic_channels, rngs=rngs) for _ in range(2))

  def __call__(self, clip: Float[Array, "F H W 3"]) -> list[Judgement]:
    """A clip of at least two frames in [-1, 1]."""
    return [self.frame(clip), self.motion(jnp.diff(clip, axis=0))]
