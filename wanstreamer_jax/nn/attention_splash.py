"""One splash-attention call (Pallas) over [prefix | clean groups | noisy groups]. It runs on TPUs.

A clean query sees the clean keys before some bound. A noisy query sees the clean keys up to the end of its group and,
among the noisy keys, a first part of its own group's. Two groups (c clean, n noisy tokens each; x = sees):

          prefix c0 c1 n0 n1
  prefix    x    .  .  .  .
  c0        x    x  .  .  .
  c1        x    x  x  .  .
  n0        x    x  .  x  .
  n1        x    x  x  .  x

With `stride` > 1 only one group of every `stride` consecutive ones has noisy tokens; which one is known only at run
time. With stride = 2 the only noisy group has the row of n0 or that of n1, without the other's key.

The kernel skips blocks without a visible pair, and computes the masks of the others from one number per query. A clean
query carries its last visible key, b >= 0. A noisy one carries three fields, b = -1 - (noisy group, place in its
stride, visible keys of its own group). Shifts unpack them, because the TPU lowering of integer division needs a live
device. Keys that do not exist in this session are masked by segment ids: queries and existing keys have 0, missing keys
have 1.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.nn.backend import platform

LANES = 128  # head dimensions and blocks are padded to whole vector registers
_FIELD = 16  # bits of "keys seen of its own group"; the rest is the group


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Who sees whom, as static numbers; also the mask function that runs inside the kernel.

  prefix, groups: tokens before the first group; number of groups.
  prefix_bounds: for each prefix token, how many prefix keys it sees.
  clean_bounds: for each clean token of a group, how many of its own group's clean keys it sees (and all before them).
  noisy_bounds: for each noisy token of a group, how many of its own group's noisy keys it sees (and all clean keys up
    to the end of its group).
  stride: one of every `stride` consecutive groups has noisy tokens; it divides `groups`.
  """

  groups: int
  prefix_bounds: tuple[int, ...]
  clean_bounds: tuple[int, ...]
  noisy_bounds: tuple[int, ...]
  stride: int = 1

  @property
  def prefix(self) -> int:
    return len(self.prefix_bounds)

  @property
  def clean(self) -> int:
    """Tokens of the prefix and of all groups' clean parts."""
    return self.prefix + self.groups * len(self.clean_bounds)

  @property
  def tokens(self) -> int:
    return self.clean + self.groups // self.stride * len(self.noisy_bounds)

  @property
  def _stride_bits(self) -> int:
    return (self.stride - 1).bit_length()

  def bounds(self, padded: int) -> np.ndarray:
    """The number that each query carries: int32 [padded]; noisy groups are the first of their strides. Queries of the
    padding see only the first key, and no query sees the padding."""
    noisy_groups = self.groups // self.stride
    if noisy_groups << self._stride_bits >= 1 << (31 - _FIELD) or len(self.noisy_bounds) >= 1 << _FIELD:
      raise ConfigError(f"splash attention: {self.groups} groups of {len(self.noisy_bounds)} tokens are too many")
    group = np.arange(self.groups)[:, None]
    clean = self.prefix + group * len(self.clean_bounds) + np.array(self.clean_bounds, np.int64) - 1
    noisy = -1 - ((group[:noisy_groups] << self._stride_bits + _FIELD) + np.array(self.noisy_bounds, np.int64))
    parts = [np.array(self.prefix_bounds, np.int64) - 1, clean.reshape(-1), noisy.reshape(-1)]
    return np.concatenate([*parts, np.zeros(padded - self.tokens, np.int64)]).astype(np.int32)

  def bounds_at(self, place: jax.Array, padded: int) -> jax.Array:
    """`bounds` where noisy groups are those at `place` of their strides: int32 [groups / stride], below `stride`."""
    moved = jnp.repeat(place << _FIELD, len(self.noisy_bounds), total_repeat_length=self.tokens - self.clean)
    return jnp.asarray(self.bounds(padded)).at[self.clean : self.tokens].add(-moved)

  def __call__(self, bound: Any, key: Any) -> Any:
    """The mask, from the numbers that queries carry and key indices (int32 of one shape, in NumPy or inside the
    kernel)."""
    end, start, stop = self.noisy_ranges(bound)
    own = (key >= start) & (key < stop)
    return (key <= bound) | ((bound < 0) & ((key < end) | own))

  def noisy_ranges(self, bound: Any) -> tuple[Any, Any, Any]:
    """Unpacks a noisy query's number: the end of its visible clean keys, and start and stop of the noisy ones."""
    packed = -1 - bound
    where, seen = packed >> _FIELD, packed & ((1 << _FIELD) - 1)
    group, place = where >> self._stride_bits, where & ((1 << self._stride_bits) - 1)
    start = self.clean + group * len(self.noisy_bounds)
    end = self.prefix + (group * self.stride + place + 1) * len(self.clean_bounds)
    return end, start, start + seen


def visited_blocks(pattern: Pattern, block: int) -> np.ndarray:
  """The blocks of the mask with a visible pair: bool [query blocks, key blocks]. O(tokens + blocks^2) work.

  A block of queries visits the key blocks from 0 to the farthest end of its queries' clean keys, and those between the
  first start and the last stop of their noisy keys:

      key blocks   0  1  2  3  4 | 5  6  7  8      clean | noisy
      visited      x  x  x  .  . | .  x  x  .
  """
  padded = -(-pattern.tokens // block) * block
  bounds = pattern.bounds(padded).astype(np.int64)
  end, start, stop = pattern.noisy_ranges(bounds)
  noisy = bounds < 0
  # The group of a noisy query within its stride is known only at run time: it may be the last one.
  end = np.where(noisy, end + (pattern.stride - 1) * len(pattern.clean_bounds), bounds + 1)
  by_block = lambda x: x.reshape(-1, block)  # [query blocks, block]
  last_end = by_block(end).max(axis=1)[:, None]
  first_start = by_block(np.where(noisy, start, padded)).min(axis=1)[:, None]
  last_stop = by_block(np.where(noisy, stop, 0)).max(axis=1)[:, None]
  first_key = np.arange(0, padded, block)
  return (first_key < last_end) | ((first_key < last_stop) & (first_key + block > first_start))


def block_size(tokens: int) -> int:
  """Side of the kernel's blocks: large for long sequences, where the padding is small beside them."""
  return 1024 if tokens >= 64 * 1024 else 512 if tokens >= 8 * 512 else LANES


def _mask_info(visited: np.ndarray) -> MaskInfo:
  """The grid of the kernel. Each row visits its blocks after idle steps on the first of them, so that all rows are as
  long as the longest. An idle step computes nothing and fetches nothing new:

      row   visited          step 0   step 1   step 2
      0     x . . .          (0)      (0)      0
      1     x x . .          (0)      0        1
      2     x . . x          (0)      0        3
      3     x x . x          0        1        3

  The library's own preparation would evaluate every block of the mask in Python, four times."""
  order = np.argsort(visited, axis=1, kind="stable")[:, -visited.sum(axis=1).max() :]  # visited blocks come last
  runs = np.take_along_axis(visited, order, axis=1)
  blocks = np.where(runs, order, visited.argmax(axis=1)[:, None])
  return MaskInfo(blocks.astype(np.int16)[None], None, runs.astype(np.int8)[None], None, None)


@functools.lru_cache(maxsize=16)
def mask_infos(pattern: Pattern, block: int) -> tuple[MaskInfo, MaskInfo]:
  """The blocks that the kernels visit: forward and dq go row by row, dkv column by column. NumPy arrays [1, query
  blocks, key blocks]; the last (dkv: the second) axis is as long as needed. There may be no device to put them on
  (wanstreamer aot)."""
  visited = visited_blocks(pattern, block)
  return _mask_info(visited), jax.tree.map(lambda x: x.swapaxes(1, 2), _mask_info(visited.T))


def _kernel(pattern: Pattern, block: int, bounds: Any, interpret: bool) -> Any:
  """The library's kernel under our mask: `pattern` is called on blocks of `bounds` (q_sequence) and of key indices."""
  sizes = kernels.BlockSizes(
    block_q=block, block_kv=block, block_kv_compute=block,
    block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
  )  # fmt: skip
  forward, backward = (info._replace(q_sequence=bounds) for info in mask_infos(pattern, block))
  return kernels.SplashAttentionKernel(
    forward, forward, backward, block_sizes=sizes, is_mqa=False, save_residuals=False,
    mask_value=kernels.DEFAULT_MASK_VALUE, attn_logits_soft_cap=None, residual_checkpoint_name=None,
    mask_function=pattern, interpret=interpret,
  )  # fmt: skip


def kernel_flops(name: str, pattern: Pattern, heads: int, widths: tuple[int, int]) -> float:
  """FLOPs of one call of the kernel `name` for one session, over the blocks that it visits.

  widths: of queries and keys, and of values, before padding. The compiler counts none of this.
  """
  block = block_size(pattern.tokens)
  visited = int(visited_blocks(pattern, block).sum()) * block * block
  key, value = (-(-width // LANES) * LANES for width in widths)
  # Products of a block: q k^T and p v; q k^T, dO v^T and dS k; q k^T, dO v^T, p^T dO and dS^T q.
  depth = {"fwd": key + value, "dq": 2 * key + value, "dkv": 2 * key + 2 * value}
  part = next(part for part in depth if f"_{part}_" in name)
  return 2.0 * visited * heads * depth[part]


def splash(
  q: jax.Array, k: jax.Array, v: jax.Array, exists: jax.Array, pattern: Pattern, place: jax.Array | None = None
) -> jax.Array:
  """Softmax attention of all tokens in one kernel call, under the mask of `pattern` and `exists`, on one device.

  q: [T, N, C] already scaled; k: [T, M, C]; v: [T, M, H]; exists: bool [T], the keys that exist; place: int32
  [groups / stride], which group of every stride has noisy tokens -> [T, N, H]. On a mesh, call it inside
  `jax.shard_map`. Runs on TPUs, and interpreted (slowly) on CPUs; raises ConfigError elsewhere.
  """
  if platform() not in ("tpu", "cpu"):
    raise ConfigError(f"model.attention is 'splash', a TPU kernel, but this is a {platform()}: set model.attention=xla")
  tokens, width = q.shape[0], v.shape[2]
  block = block_size(tokens)
  padded = -(-tokens // block) * block

  def to_kernel(x: jax.Array) -> jax.Array:
    """[T, heads, H] -> [heads, padded T, padded H]; zeros in a head change no score."""
    lanes = -(-x.shape[2] // LANES) * LANES
    return jnp.pad(x, ((0, padded - tokens), (0, 0), (0, lanes - x.shape[2]))).transpose(1, 0, 2)

  missing = jnp.pad(~exists, (0, padded - tokens)).astype(jnp.int32)
  ids = kernels.SegmentIds(jnp.zeros(padded, jnp.int32), missing)
  bounds = pattern.bounds(padded) if place is None else pattern.bounds_at(place, padded)
  kernel = _kernel(pattern, block, bounds, interpret=platform() == "cpu")
  out: Any = kernel(to_kernel(q), to_kernel(k), to_kernel(v), segment_ids=ids)
  return out[:, :tokens, :width].transpose(1, 0, 2)
