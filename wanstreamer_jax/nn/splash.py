"""One splash-attention call (TPU, Pallas) over [prefix | groups of clean tokens | groups of late tokens].

A clean query sees the clean keys before some bound. A late query sees the clean keys up to the end of its group and,
among the late keys, a first part of its own group's. Two groups (c clean, l late tokens each; x = sees):

          prefix c0 c1 l0 l1
  prefix    x    .  .  .  .
  c0        x    x  .  .  .
  c1        x    x  x  .  .
  l0        x    x  .  x  .
  l1        x    x  x  .  x

All of that is static, so the kernel skips blocks nobody sees and computes the others' masks from one number a query:
a clean query carries its last visible key, b >= 0; a late one carries b = -1 - (group * 2^16 + keys seen of its own
group). No division: the TPU lowering of integer division asks for a live device, so shifts unpack it. What is not
static (keys that do not exist in this session) is a segment id: queries and existing keys have 0, missing keys 1.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as mask_info
from jax.sharding import PartitionSpec

from wanstreamer_jax.errors import ConfigError

LANES = 128  # head dimensions and blocks are padded to whole vector registers
NONE, SOME, ALL = 0, 1, 2  # what of a block of the mask is visible
_FIELD = 16  # bits of "keys seen of its own group"; the rest is the group


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Who sees whom, as static numbers; also the mask function that runs inside the kernel.

  prefix, groups: tokens before the first group; number of groups.
  prefix_bounds: for each prefix token, how many prefix keys it sees.
  clean_bounds: for each clean token of a group, how many of its own group's clean keys it sees (and all before them).
  late_bounds: for each late token of a group, how many of its own group's late keys it sees (and all clean keys up to
    the end of its group).
  """

  groups: int
  prefix_bounds: tuple[int, ...]
  clean_bounds: tuple[int, ...]
  late_bounds: tuple[int, ...]

  @property
  def prefix(self) -> int:
    return len(self.prefix_bounds)

  @property
  def clean(self) -> int:
    """Tokens of the prefix and of all groups' clean parts."""
    return self.prefix + self.groups * len(self.clean_bounds)

  @property
  def tokens(self) -> int:
    return self.clean + self.groups * len(self.late_bounds)

  def bounds(self, padded: int) -> np.ndarray:
    """What each query carries: int32 [padded]. Queries of the padding see the first key only, and nobody sees them."""
    group = np.arange(self.groups)[:, None]
    clean = self.prefix + group * len(self.clean_bounds) + np.array(self.clean_bounds, np.int64) - 1
    late = -1 - ((group << _FIELD) + np.array(self.late_bounds, np.int64))
    parts = [np.array(self.prefix_bounds, np.int64) - 1, clean.reshape(-1), late.reshape(-1)]
    out = np.concatenate([*parts, np.zeros(padded - self.tokens, np.int64)])
    if self.groups >= 1 << (31 - _FIELD) or len(self.late_bounds) >= 1 << _FIELD:
      raise ConfigError(f"splash attention: {self.groups} groups of {len(self.late_bounds)} tokens are too many")
    return out.astype(np.int32)

  def __call__(self, bound, key):
    """The mask of what queries carry and of key indices (int32 of one shape, in NumPy or inside the kernel)."""
    packed = -1 - bound
    group, seen = packed >> _FIELD, packed & ((1 << _FIELD) - 1)
    end = self.prefix + (group + 1) * len(self.clean_bounds)
    start = self.clean + group * len(self.late_bounds)
    own = (key >= start) & (key < start + seen)
    return (key <= bound) | ((bound < 0) & ((key < end) | own))


class PatternMask(masks._ComputableMask):  # its base is private, but the only way to a mask computed in the kernel
  """A Pattern as splash wants it. Blocks are summed up from the rows' bounds: O(tokens) work a block row, where asking
  for every element would take half a minute at 35k tokens."""

  def __init__(self, pattern: Pattern, block: int):
    padded = -(-pattern.tokens // block) * block
    super().__init__(shape=(padded, padded), mask_function=pattern)
    self.pattern, self.block = pattern, block
    self.q_sequence = pattern.bounds(padded)
    self.kinds = _block_kinds(pattern, self.q_sequence, block)

  def __getitem__(self, index) -> np.ndarray:
    """Two entries that answer any() and all() for one whole block, which is all that splash asks of a computed mask."""
    rows, columns = index
    assert rows.stop - rows.start == columns.stop - columns.start == self.block
    kind = self.kinds[rows.start // self.block, columns.start // self.block]
    return np.array([[kind != NONE, kind == ALL]])

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, PatternMask):
      return NotImplemented
    return (self.pattern, self.block) == (other.pattern, other.block)

  def __hash__(self) -> int:
    return hash((self.pattern, self.block))


def _block_kinds(pattern: Pattern, bounds: np.ndarray, block: int) -> np.ndarray:
  """NONE, SOME or ALL for every block of the mask: int8 [blocks, blocks]. SOME is always allowed, only slower."""
  packed = -1 - bounds.astype(np.int64)
  group, seen = packed >> _FIELD, packed & ((1 << _FIELD) - 1)
  late = bounds < 0
  end = np.where(late, pattern.prefix + (group + 1) * len(pattern.clean_bounds), bounds + 1)
  start = np.where(late, pattern.clean + group * len(pattern.late_bounds), 0)
  stop = np.where(late, start + seen, 0)
  first = np.arange(len(bounds) // block) * block  # of the key blocks
  last = first + block
  out = np.zeros((len(first), len(first)), np.int8)
  for i, rows in enumerate(np.arange(len(bounds)).reshape(-1, block)):
    e, a, b = end[rows, None], start[rows, None], stop[rows, None]
    some = (first < e) | ((first < b) & (last > a))
    every = (last <= e) | ((first >= a) & (last <= b))
    out[i] = np.where(every.all(0), ALL, np.where(some.any(0), SOME, NONE))
  return out


def block_size(tokens: int) -> int:
  """Side of the kernel's blocks: 512 for long sequences, where the padding is small beside them."""
  return 512 if tokens >= 8 * 512 else LANES


@functools.lru_cache(maxsize=16)
def _kernel(pattern: Pattern, heads: int, block: int, interpret: bool) -> kernels.SplashAttentionKernel:
  """The kernel of a pattern, holding NumPy arrays only, so that it can be made inside any trace and kept."""
  sizes = kernels.BlockSizes(
    block_q=block, block_kv=block, block_kv_compute=block,
    block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
  )  # fmt: skip
  mask = masks.MultiHeadMask([PatternMask(pattern, block)] * heads)
  # As in the library's make_splash_mha, which would put these arrays on a device: there may be none (wanstreamer aot).
  forward, _ = mask_info.process_mask(mask, (block, block), head_shards=1, q_seq_shards=1)
  backward, _ = mask_info.process_mask_dkv(mask, (block, block), head_shards=1, q_seq_shards=1)
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
  visited = int((PatternMask(pattern, block).kinds != NONE).sum()) * block * block
  key, value = (-(-width // LANES) * LANES for width in widths)
  depth = {"fwd": key + value, "dq": 2 * key + value, "dkv": 2 * key + 2 * value}
  part = next(part for part in depth if f"_{part}_" in name)
  return 2.0 * visited * heads * depth[part]


def splash(q: jax.Array, k: jax.Array, v: jax.Array, exists: jax.Array, pattern: Pattern) -> jax.Array:
  """Softmax attention of all tokens in one kernel call, under the mask of `pattern` and `exists`.

  q: [T, N, C] already scaled; k: [T, M, C]; v: [T, M, H]; exists: bool [T], keys that anybody may see -> [T, N, H].
  Where a mesh is set, heads are split over `tensor` if they divide; sessions are split where the caller's
  `jax.vmap(..., spmd_axis_name=...)` says so. Runs on TPUs, and interpreted (slowly) on CPUs.
  """
  mesh = jax.sharding.get_abstract_mesh()
  interpret = _platform(mesh) == "cpu"
  if mesh.empty or mesh.size == 1:
    return _splash(q, k, v, exists, pattern, interpret)
  tensor = dict(mesh.shape).get("tensor", 1)
  heads = PartitionSpec(None, "tensor" if tensor > 1 and k.shape[1] % tensor == 0 else None)
  local = functools.partial(_splash, pattern=pattern, interpret=interpret)
  # A kernel is opaque to XLA's partitioner: without shard_map it is refused on a mesh.
  specs = (heads, heads, heads, PartitionSpec())
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, exists)


def _splash(
  q: jax.Array, k: jax.Array, v: jax.Array, exists: jax.Array, pattern: Pattern, interpret: bool
) -> jax.Array:
  tokens, heads, width = q.shape[0], q.shape[1], v.shape[2]
  block = block_size(tokens)
  padded = -(-tokens // block) * block

  def to_kernel(x: jax.Array) -> jax.Array:
    """[T, heads, H] -> [heads, padded T, padded H]; zeros in a head change no score."""
    lanes = -(-x.shape[2] // LANES) * LANES
    return jnp.pad(x, ((0, padded - tokens), (0, 0), (0, lanes - x.shape[2]))).transpose(1, 0, 2)

  missing = jnp.pad(~exists, (0, padded - tokens)).astype(jnp.int32)
  ids = kernels.SegmentIds(jnp.zeros(padded, jnp.int32), missing)
  out: Any = _kernel(pattern, heads, block, interpret)(to_kernel(q), to_kernel(k), to_kernel(v), segment_ids=ids)
  return out[:, :tokens, :width].transpose(1, 0, 2)


def _platform(mesh: jax.sharding.AbstractMesh) -> str:
  """What the program being traced will run on: the mesh's devices if there are any, else the default device.

  Raises ConfigError on GPUs, for which there is no such kernel.
  """
  device = None if mesh.empty else mesh.abstract_device
  platform = jax.default_backend() if device is None else device.platform
  if platform not in ("tpu", "cpu"):
    raise ConfigError(f"model.attention is 'splash', a TPU kernel, but this is a {platform}: set model.attention=xla")
  return platform
