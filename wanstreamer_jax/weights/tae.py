"""Imports the small decoder for Wan's latents, TAEW2.1 or TAEW2.2, from safetensors.

Its layers are numbered as in a torch Sequential; activations and repetitions of pixels have numbers too. Its encoder is
not used: latents are those of Wan's own encoder. A step in time that does not double the frames may be stored with the
channels of both frames; the last one's count.
"""

import numpy as np

from wanstreamer_jax.config import TaeConfig, WanConfig
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.weights.tensors import Tensors

PREFIX = "decoder"
CONV_IN, FIRST_STAGE = 1, 3  # places in the Sequential


def tae_config(tensors: Tensors, wan: WanConfig) -> TaeConfig:
  """The geometry, from the shapes of tensors: the format has no config.json. wan: the codec that makes the latents.

  Raises CheckpointError: another architecture, or a decoder of other latents.
  """
  outputs, inputs = _shape(tensors, f"{PREFIX}.{CONV_IN}.weight")[:2]
  if inputs != wan.latent_dim:
    raise CheckpointError(
      f"{tensors.source} decodes latents of {inputs} channels, but the codec's have {wan.latent_dim}: expected TAEW2.1 "
      "for 16 and TAEW2.2 for 48"
    )
  channels, blocks, place = [outputs], 0, FIRST_STAGE
  while f"{PREFIX}.{place}.conv.0.weight" in tensors.left:
    count = 0
    while f"{PREFIX}.{place + count}.conv.0.weight" in tensors.left:
      count += 1
    if blocks and count != blocks:
      raise CheckpointError(f"{tensors.source} has {count} memory blocks at {PREFIX}.{place}, but {blocks} before")
    blocks, place = count, place + count + 3  # pixels are repeated, the step in time, a convolution
    channels.append(_shape(tensors, f"{PREFIX}.{place - 1}.weight")[0])
  if len(channels) != 4:
    raise CheckpointError(
      f"{tensors.source} has {len(channels) - 1} stages of memory blocks: expected 3, as TAEW2.1 has"
    )
  return TaeConfig(channels=tuple(channels), blocks=blocks)


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
  if name not in tensors.left:
    raise CheckpointError(f"{tensors.source} has no tensor {name}: expected the decoder of TAEW2.1 or TAEW2.2")
  shape = tensors.left[name].shape
  if len(shape) != 4:
    raise CheckpointError(f"{tensors.source}: {name} has shape {list(shape)}: expected a convolution's 4 numbers")
  return shape


def take_tae(tensors: Tensors, cfg: TaeConfig) -> int:
  """Moves the decoder's tensors under our names; returns how many tensors of the encoder are left out."""
  _conv(tensors, f"{PREFIX}.{CONV_IN}", "decoder.conv_in")
  place = FIRST_STAGE
  for i, (inputs, outputs) in enumerate(zip(cfg.channels, cfg.channels[1:])):
    ours = f"decoder.stages.{i}"
    for j in range(cfg.blocks):
      for k, name in ((0, "conv_in"), (2, "conv_mid"), (4, "conv_out")):
        _conv(tensors, f"{PREFIX}.{place}.conv.{k}", f"{ours}.blocks.{j}.{name}")
      place += 1
    _without_bias(tensors, f"{PREFIX}.{place + 1}.conv.weight", f"{ours}.grow", inputs * (1, 2, 2)[i])
    _without_bias(tensors, f"{PREFIX}.{place + 2}.weight", f"{ours}.conv", outputs)
    place += 3
  _conv(tensors, f"{PREFIX}.{place + 1}", "decoder.conv_out")  # behind an activation
  return tensors.skip(r"encoder\..*")


def _converted(w: np.ndarray) -> np.ndarray:
  """[out, in, rows, columns] with a time axis of 1: [1, rows, columns, in, out]."""
  return w.transpose(2, 3, 1, 0)[None]


def _conv(tensors: Tensors, theirs: str, ours: str) -> None:
  tensors.take(f"{theirs}.weight", f"{ours}.w", _converted)
  tensors.take(f"{theirs}.bias", f"{ours}.b")


def _without_bias(tensors: Tensors, theirs: str, ours: str, outputs: int) -> None:
  tensors.take(theirs, f"{ours}.w", lambda w: _converted(w)[..., -outputs:])
  tensors.put(f"{ours}.b", np.zeros(outputs, np.float32))
