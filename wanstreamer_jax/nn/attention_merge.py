"""Attention whose keys lie in several parts, each seen by the kernel that suits it, merged into one softmax.

A kernel answers for its own part i with out_i and lse_i = log sum exp(scores), float32. Then

    lse = log sum_i exp(lse_i)        out = sum_i exp(lse_i - lse) out_i

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
from wanstreamer_jax.nn.attention_parts import MASKED
from wanstreamer_jax.nn.backend import platform

# The parameters of the backward rule of cuDNN attention inside of jax, which `CuDNN` calls with the lse of all pieces.
# No public function takes one: jax.nn.dot_product_attention gives its lse, and drops the gradient that flows into it.
BACKWARD = (
  "scale", "seed", "dropout_rate", "variadic_args", "mask_type", "layout", "sliding_window_length", "is_training",
  "return_residual", "res", "grad_output",
)  # fmt: skip


class Piece(NamedTuple):
  """One part. q: [T, N, H]; k, v: [S, M, H]; see: what the kernel wants to know of the mask, no number of the model."""

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
  outs, lses = zip(*(kernel.forward(piece) for kernel, piece in zip(kernels, pieces)))
  lse = functools.reduce(jnp.logaddexp, lses)
  out = sum(jnp.exp(part - lse)[..., None] * out.astype(jnp.float32) for out, part in zip(outs, lses))
  return out.astype(outs[0].dtype), lse


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

  def forward(self, piece: Piece) -> tuple[jax.Array, jax.Array]:
    scores = self._scores(piece)
    highest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    lse = self._by_token(highest + jnp.log(total))[..., 0]
    return self._mix(weights / total, piece).astype(piece.q.dtype), lse

  def backward(self, piece: Piece, out: jax.Array, lse: jax.Array, grad: jax.Array) -> tuple[Any, Any, Any]:
    wide = lambda x: x.astype(jnp.float32)
    grouped = lambda x: x.reshape(x.shape[0], piece.k.shape[1], -1, *x.shape[2:])
    weights = jnp.exp(self._scores(piece) - jnp.moveaxis(grouped(lse), 0, 2)[..., None])  # [M, G, T, S]
    grad, q = grouped(wide(grad)), grouped(wide(piece.q))
    rows = jnp.einsum("tmgh,tmgh->mgt", grad, grouped(wide(out)))
    d_scores = weights * (jnp.einsum("tmgh,smh->mgts", grad, wide(piece.v)) - rows[..., None]) * q.shape[-1] ** -0.5
    dq = jnp.einsum("mgts,smh->tmgh", d_scores, wide(piece.k)).reshape(piece.q.shape)
    dk, dv = jnp.einsum("mgts,tmgh->smh", d_scores, q), jnp.einsum("mgts,tmgh->smh", weights, grad)
    return dq.astype(piece.q.dtype), dk.astype(piece.k.dtype), dv.astype(piece.v.dtype)

  def _scores(self, piece: Piece) -> jax.Array:
    """Masked, scaled: float32 [M, G, T, S]."""
    q = piece.q.reshape(piece.q.shape[0], piece.k.shape[1], -1, piece.q.shape[-1])
    scores = jnp.einsum("tmgh,smh->mgts", q, piece.k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.where(piece.see, scores, MASKED)

  def _mix(self, weights: jax.Array, piece: Piece) -> jax.Array:
    v = piece.v.astype(piece.q.dtype)
    mixed = jnp.einsum("mgts,smh->tmgh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return mixed.reshape(piece.q.shape)

  def _by_token(self, x: jax.Array) -> jax.Array:
    """[M, G, T, ...] -> [T, N, ...]."""
    moved = jnp.moveaxis(x, 2, 0)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])


@dataclasses.dataclass(frozen=True)
class FirstKeys(Dense):
  """`Dense` for a piece whose `see` is a number: int32, at least 1; every query sees so many first keys."""

  def _scores(self, piece: Piece) -> jax.Array:
    return super()._scores(piece._replace(see=jnp.arange(piece.k.shape[0]) < piece.see))


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
    queries = seen * 0 + piece.q.shape[0]  # batched like `seen`: cuDNN's rule for vmap wants both or none
    return piece.q[None], piece.k[None], piece.v[None], queries, seen


def _cudnn() -> Any:
  """jax's cuDNN attention. Raises ConfigError where the program is not for a GPU."""
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
      f"model.attention is 'cudnn', which calls inside of jax, and jax {jax.__version__} is another there: install "
      "jax==0.10.2, or set model.attention=xla"
    )
  return cudnn
