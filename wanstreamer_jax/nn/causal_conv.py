"""Causal convolutions, one body for offline and streaming: `(x, state) -> (y, state)`.

Everything is unbatched. A state is what a layer remembers of its past inputs; `initial_state` is a past of zeros, and
offline processing is one big chunk from there. Outputs at time t depend on inputs up to t only, on any split into
chunks.

Formulations are those that are fast on every backend: a 1-D convolution is one product over taps stacked on channels,
a 3-D one is a 2-D convolution over time-shifted copies stacked on channels (XLA's own 3-D one is 2-3.5x slower on
CPU), upsampling is a product and a reshape (depth to space). Letters: T time, H W rows and columns, C channels.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanstreamer_jax.errors import ConfigError


def stack_taps(x: Float[Array, "S C"], kernel: int, stride: int = 1, dilation: int = 1) -> Float[Array, "T KC"]:
  """Windows of `kernel` inputs side by side on channels, oldest first: T = 1 + (S - span) // stride."""
  span = (kernel - 1) * dilation + 1
  length = 1 + (x.shape[0] - span) // stride
  taps = [x[i * dilation : i * dilation + (length - 1) * stride + 1 : stride] for i in range(kernel)]
  return jnp.concatenate(taps, axis=-1)


def run_layers(layers: Iterable[Any], x: Array, states: Iterable[Any], *arguments: Any) -> tuple[Array, list[Any]]:
  """Layers `(x, state, *arguments) -> (x, state)` one after another: the last one's output, and all their states."""
  after = []
  for layer, before in zip(layers, states, strict=True):
    x, new = layer(x, before, *arguments)
    after.append(new)
  return x, after


def normal_weight(rngs: nnx.Rngs, shape: tuple[int, ...], scale: float = 1.0) -> nnx.Param:
  """Normal values of variance scale^2 / fan-in, all axes but the last being inputs."""
  fan_in = 1
  for size in shape[:-1]:
    fan_in *= size
  return nnx.Param(jax.random.normal(rngs.params(), shape) * scale * fan_in**-0.5)


class CausalConv1d(nnx.Module):
  """Causal 1-D convolution; with `stride`, output t is made when the stride's last input has arrived.

  State: the last span - stride inputs, [P, Cin], span = (kernel - 1) * dilation + 1.
  """

  def __init__(
    self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, scale: float = 1.0,
    rngs: nnx.Rngs,
  ):  # fmt: skip
    if (kernel - 1) * dilation + 1 < stride:
      raise ConfigError(f"a causal convolution of kernel {kernel}, dilation {dilation} skips inputs at stride {stride}")
    self.inputs, self.kernel, self.stride, self.dilation = inputs, kernel, stride, dilation
    self.w = normal_weight(rngs, (kernel, inputs, outputs), scale)
    self.b = nnx.Param(jnp.zeros(outputs))

  def initial_state(self) -> Float[Array, "P Cin"]:
    return jnp.zeros(((self.kernel - 1) * self.dilation + 1 - self.stride, self.inputs))

  def __call__(
    self, x: Float[Array, "S Cin"], state: Float[Array, "P Cin"]
  ) -> tuple[Float[Array, "T Cout"], Float[Array, "P Cin"]]:
    """S inputs (a multiple of the stride) to T = S / stride outputs."""
    if x.shape[0] % self.stride:
      raise ValueError(f"{x.shape[0]} inputs are not a whole number of strides of {self.stride}")
    past = jnp.concatenate([state, x])
    taps = stack_taps(past, self.kernel, self.stride, self.dilation)
    y = taps @ self.w[...].reshape(taps.shape[-1], -1) + self.b[...]
    return y, past[past.shape[0] - state.shape[0] :]


class UpsampleConv1d(nnx.Module):
  """Causal transposed convolution of kernel `taps * ratio`, in polyphase form: a convolution, then channels to time.

  All phases of an output start equal, so an untrained layer repeats its input instead of modulating it.
  """

  def __init__(self, inputs: int, outputs: int, ratio: int, *, taps: int = 2, rngs: nnx.Rngs):
    self.ratio = ratio
    self.conv = CausalConv1d(inputs, outputs * ratio, taps, rngs=rngs)
    self.conv.w = nnx.Param(jnp.tile(self.conv.w[..., :outputs], (1, 1, ratio)))

  def initial_state(self) -> Float[Array, "P Cin"]:
    return self.conv.initial_state()

  def __call__(
    self, x: Float[Array, "T Cin"], state: Float[Array, "P Cin"]
  ) -> tuple[Float[Array, "rT Cout"], Float[Array, "P Cin"]]:
    y, state = self.conv(x, state)
    return y.reshape(x.shape[0] * self.ratio, -1), state


class CausalConv3d(nnx.Module):
  """3-D convolution, causal in time and zero-padded ("same") in space.

  State: the last kernel[0] - 1 input frames, [P, H, W, Cin].
  """

  def __init__(
    self, inputs: int, outputs: int, kernel: tuple[int, int, int], *, scale: float = 1.0, rngs: nnx.Rngs
  ):  # fmt: skip
    self.inputs, self.kernel = inputs, tuple(kernel)
    self.w = normal_weight(rngs, (*kernel, inputs, outputs), scale)
    self.b = nnx.Param(jnp.zeros(outputs))

  def initial_state(self, height: int, width: int) -> Float[Array, "P H W Cin"]:
    return jnp.zeros((self.kernel[0] - 1, height, width, self.inputs))

  def __call__(
    self, x: Float[Array, "T H W Cin"], state: Float[Array, "P H W Cin"]
  ) -> tuple[Float[Array, "T H W Cout"], Float[Array, "P H W Cin"]]:
    past = jnp.concatenate([state, x])
    taps = jnp.concatenate([past[i : i + x.shape[0]] for i in range(self.kernel[0])], axis=-1)
    weight = self.w[...].transpose(1, 2, 0, 3, 4)
    weight = weight.reshape(*self.kernel[1:], taps.shape[-1], -1)
    if self.kernel[1:] == (1, 1):
      y = taps @ weight[0, 0]
    else:
      layout = ("NHWC", "HWIO", "NHWC")
      y = jax.lax.conv_general_dilated(taps, weight, (1, 1), "SAME", dimension_numbers=layout)
    return y + self.b[...], past[x.shape[0] :]


def within_frame(conv: CausalConv3d, x: Float[Array, "T H W C"]) -> Float[Array, "T H W D"]:
  """A convolution without memory in time."""
  y, _ = conv(x, conv.initial_state(*x.shape[1:3]))
  return y


class ChannelNorm(nnx.Module):
  """RMS norm over channels, separately at every position: no information crosses time or space."""

  def __init__(self, channels: int):
    self.scale = nnx.Param(jnp.ones(channels))

  def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * self.scale[...]


class Residual1d(nnx.Module):
  """x + conv_1(act(norm(conv_k(act(norm(x)))))), the branch damped at initialisation."""

  def __init__(self, channels: int, kernel: int, *, rngs: nnx.Rngs):
    self.norm_in, self.norm_out = ChannelNorm(channels), ChannelNorm(channels)
    self.conv_in = CausalConv1d(channels, channels, kernel, rngs=rngs)
    self.conv_out = CausalConv1d(channels, channels, 1, scale=0.2, rngs=rngs)

  def initial_state(self) -> dict[str, Array]:
    return {"conv_in": self.conv_in.initial_state(), "conv_out": self.conv_out.initial_state()}

  def __call__(self, x: Float[Array, "T C"], state: dict[str, Array]) -> tuple[Float[Array, "T C"], dict[str, Array]]:
    y, conv_in = self.conv_in(jax.nn.silu(self.norm_in(x)), state["conv_in"])
    y, conv_out = self.conv_out(jax.nn.silu(self.norm_out(y)), state["conv_out"])
    return x + y, {"conv_in": conv_in, "conv_out": conv_out}


class ConvNeXt1d(nnx.Module):
  """x + down(gelu(up(norm(depthwise(x))))), the branch damped at initialisation (ConvNeXt, arXiv 2201.03545).

  The depthwise convolution of `kernel` inputs alone sees time. State: its last kernel - 1 inputs, [P, C].
  """

  def __init__(self, channels: int, kernel: int, expansion: int, *, rngs: nnx.Rngs):
    self.channels, self.kernel = channels, kernel
    self.w = normal_weight(rngs, (kernel, channels))
    self.norm = ChannelNorm(channels)
    self.up = CausalConv1d(channels, expansion * channels, 1, rngs=rngs)
    self.down = CausalConv1d(expansion * channels, channels, 1, scale=0.3, rngs=rngs)

  def initial_state(self) -> Float[Array, "P C"]:
    return jnp.zeros((self.kernel - 1, self.channels))

  def __call__(
    self, x: Float[Array, "T C"], state: Float[Array, "P C"]
  ) -> tuple[Float[Array, "T C"], Float[Array, "P C"]]:
    past = jnp.concatenate([state, x])
    taps = [past[tap : tap + x.shape[0]] * self.w[tap] for tap in range(self.kernel)]
    y, _ = self.up(self.norm(functools.reduce(jnp.add, taps)), self.up.initial_state())
    y, _ = self.down(jax.nn.gelu(y), self.down.initial_state())
    return x + y, past[x.shape[0] :]


class Residual3d(nnx.Module):
  """x + conv_1x3x3(act(norm(conv_kx3x3(act(norm(x)))))), the branch damped at initialisation."""

  def __init__(self, channels: int, time_kernel: int, *, rngs: nnx.Rngs):
    self.norm_in, self.norm_out = ChannelNorm(channels), ChannelNorm(channels)
    self.conv_in = CausalConv3d(channels, channels, (time_kernel, 3, 3), rngs=rngs)
    self.conv_out = CausalConv3d(channels, channels, (1, 3, 3), scale=0.2, rngs=rngs)

  def initial_state(self, height: int, width: int) -> dict[str, Array]:
    return {
      "conv_in": self.conv_in.initial_state(height, width),
      "conv_out": self.conv_out.initial_state(height, width),
    }

  def __call__(
    self, x: Float[Array, "T H W C"], state: dict[str, Array]
  ) -> tuple[Float[Array, "T H W C"], dict[str, Array]]:
    y, conv_in = self.conv_in(jax.nn.silu(self.norm_in(x)), state["conv_in"])
    y, conv_out = self.conv_out(jax.nn.silu(self.norm_out(y)), state["conv_out"])
    return x + y, {"conv_in": conv_in, "conv_out": conv_out}
