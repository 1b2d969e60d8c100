"""Merges attention over several parts of keys, each computed by its best kernel. The result is one softmax.

A kernel returns out_i and lse_i = log sum exp(scores), float32, for its own part i. As a `Partial` they are joined like
all others (`attention_parts.join`) into out and lse of all parts.

Backward is one rule for all parts: a kernel's own backward, given the *merged* out and lse, returns its part's share,

    P_i = exp(scores_i - lse)    dV_i = P_i^T dO    dS_i = P_i (dO V_i^T - rowsum(dO out))

so that no kernel's lse is ever differentiated (jax 0.10.2's cuDNN path would drop that gradient in silence).
"""

import dataclasses
import functools
import inspect
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.nn.attention import partial_attention, scaled_scores
from wanstreamer_jax.nn.attention_parts import (
  MASKED,
  KeyValue,
  Part,
  Partial,
  Queries,
  fold_heads,
  join,
  stack,
  unfold_heads,
)
from wanstreamer_jax.nn.backend import platform

# The parameters of the backward rule of cuDNN attention inside of jax, which `CuDNN` calls with the lse of all pieces.
# No public function takes an lse: jax.nn.dot_product_attention returns one, and drops the gradient that flows into it.
BACKWARD = (
  "scale", "seed", "dropout_rate", "variadic_args", "mask_type", "layout", "sliding_window_length", "is_training",
  "return_residual", "res", "grad_output",
)  # fmt: skip


class Piece(NamedTuple):
  """One part. q: [T, N, H]; k, v: [S, M, H]; see: what the kernel needs to know about the mask; it has no gradient."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  see: jax.Array


class Kernel(Protocol):
  """Attention over one part; scores are scaled by H^-0.5."""

  def forward(self, piece: Piece) -> tuple[jax.Array, jax.Array]:
    """-> out [T, N, H], lse float32 [T, N]."""
    ...

  def backward(self, piece: Piece, out: jax.Array, lse: jax.Array, grad: jax.Array) -> tuple[Any, Any, Any]:
    """Gradients of q, k and v, given the merged out and lse and the gradient of out."""
    ...


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def merge(kernels: tuple[Kernel, ...], pieces: tuple[Piece, ...]) -> jax.Array:
  """Softmax attention over all pieces at once: [T, N, H]. kernels: one for each piece, hashable. Every query must see a
  key of some piece."""
  return _forward(kernels, pieces)[0]


def _forward(kernels: tuple[Kernel, ...], pieces: tuple[Piece, ...]) -> tuple[jax.Array, jax.Array]:
  """-> out [T, N, H], lse float32 [T, N], of all pieces."""
  found = [Partial.of(*kernel.forward(piece)) for kernel, piece in zip(kernels, pieces)]
  out, lse = join(stack(found)).normalise()
  return out.astype(pieces[0].q.dtype), lse


def _merge_forward(kernels: tuple[Kernel, ...], pieces: tuple[Piece, ...]) -> tuple[jax.Array, Any]:
  out, lse = _forward(kernels, pieces)
  return out, (pieces, out, lse)


def _merge_backward(kernels: tuple[Kernel, ...], kept: Any, grad: jax.Array) -> tuple[tuple[Any, ...]]:
  pieces, out, lse = kept
  return (tuple(Piece(*k.backward(piece, out, lse, grad), None) for k, piece in zip(kernels, pieces)),)  # type: ignore


merge.defvjp(_merge_forward, _merge_backward)


@dataclasses.dataclass(frozen=True)
class Dense:
  """The plain computation, anywhere. see: bool [T, S]."""

  def mask(self, piece: Piece) -> jax.Array:
    """bool [T, S]."""
    return piece.see

  def forward(self, piece: Piece) -> tuple[jax.Array, jax.Array]:
    part = Part(*KeyValue(piece.k, piece.v).by_head(), self.mask(piece))
    out, lse = partial_attention(Queries(piece.q, piece.q), part).normalise()
    tokens = piece.q.shape[0]
    return unfold_heads(out, tokens).astype(piece.q.dtype), unfold_heads(lse, tokens)

  def backward(self, piece: Piece, out: jax.Array, lse: jax.Array, grad: jax.Array) -> tuple[Any, Any, Any]:
    tokens, key_heads = piece.q.shape[0], piece.k.shape[1]
    k, v = piece.k.astype(jnp.float32), piece.v.astype(jnp.float32)
    q, out, grad = (fold_heads(x.astype(jnp.float32), key_heads) for x in (piece.q, out, grad))  # [M, R, H]
    scale, groups = q.shape[-1] ** -0.5, q.shape[1] // tokens
    scores = jnp.where(jnp.tile(self.mask(piece), (groups, 1)), scaled_scores(piece.q, piece.k.swapaxes(0, 1)), MASKED)
    weights = jnp.exp(scores - fold_heads(lse, key_heads)[..., None])
    d_weights = jnp.einsum("mrh,smh->mrs", grad, v)
    d_scores = weights * (d_weights - jnp.sum(grad * out, axis=-1)[..., None]) * scale
    dq = unfold_heads(jnp.einsum("mrs,smh->mrh", d_scores, k), tokens)
    dk, dv = jnp.einsum("mrs,mrh->smh", d_scores, q), jnp.einsum("mrs,mrh->smh", weights, grad)
    return dq.astype(piece.q.dtype), dk.astype(piece.k.dtype), dv.astype(piece.v.dtype)


@dataclasses.dataclass(frozen=True)
class FirstKeys(Dense):
  """`Dense` for a piece whose `see` is a number: int32, at least 1; every query sees this number of first keys."""

  def mask(self, piece: Piece) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(piece.k.shape[0]) < piece.see, (piece.q.shape[0], piece.k.shape[0]))


@dataclasses.dataclass(frozen=True)
class CuDNN:
  """`FirstKeys` as cuDNN's flash attention, on GPUs from Ampere on, in bfloat16. No mask is ever written down."""

  def forward(self, piece: Piece) -> tuple[jax.Array, jax.Array]:
    cudnn = _cudnn()
    q, k, v, *lengths = self._batch_of_one(piece)
    scale = piece.q.shape[-1] ** -0.5
    out, lse = cudnn.dot_product_attention(
      q, k, v, q_seqlen=lengths[0], kv_seqlen=lengths[1], scale=scale, mask_type=cudnn.MaskType.PADDING,
      return_residual=True,
    )  # fmt: skip
    return out[0], lse[0].T

  def backward(self, piece: Piece, out: jax.Array, lse: jax.Array, grad: jax.Array) -> tuple[Any, Any, Any]:
    cudnn = _cudnn()
    none = jnp.zeros(0, piece.q.dtype)
    kept = (*self._batch_of_one(piece)[:3], none, *self._batch_of_one(piece)[3:], none, none, none, none)
    # The library's own rule, whose residuals are its out and lse; here they are the merged ones.
    dq, dk, dv, *_ = cudnn._dot_product_attention_bwd_rule(
      piece.q.shape[-1] ** -0.5, 42, 0.0, (False, False), cudnn.MaskType.PADDING, cudnn.AttentionLayout.BTNH.value,
      None, True, False, (*kept, lse.T[None], out[None]), grad[None],
    )  # fmt: skip
    return dq[0], dk[0], dv[0]

  def _batch_of_one(self, piece: Piece) -> tuple[jax.Array, ...]:
    seen = piece.see.astype(jnp.int32)[None]
    queries = seen * 0 + piece.q.shape[0]  # batched like `seen`: cuDNN's vmap rule wants both or neither batched
    return piece.q[None], piece.k[None], piece.v[None], queries, seen


def _cudnn() -> Any:
  """jax's cuDNN attention. Raises ConfigError if the program is not for a GPU."""
  if platform() != "gpu":
    raise ConfigError(
      f"model.attention is 'cudnn', for NVIDIA GPUs, but this is a {platform()}: set model.attention=xla"
    )
  try:
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    found = tuple(inspect.signature(cudnn._dot_product_attention_bwd_rule).parameters)
  except (ImportError, AttributeError):
    found = ()
  if found != BACKWARD:
    raise ConfigError(
      f"model.attention is 'cudnn', which needs internal functions of jax that jax {jax.__version__} has changed: "
      "install jax==0.10.2, or set model.attention=xla"
    )
  return cudnn
