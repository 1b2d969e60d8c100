"""Attention over parts, merged: the numbers and gradients of one softmax over all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import assert_close
from tests.nn.test_attention_splash import LAYOUTS, UNITS, nano, random_attention
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.attention import teacher_forced_attention
from wanstreamer_jax.model.attention_gpu import _chunking, teacher_forced_attention_gpu
from wanstreamer_jax.nn import attention_merge as merging
from wanstreamer_jax.nn.attention import attend
from wanstreamer_jax.nn.attention_merge import CuDNN, Dense, FirstKeys, Piece, merge
from wanstreamer_jax.nn.attention_parts import KeyValue, Part, Queries
from wanstreamer_jax.units import NOISY_PHASES, build_layout

KEYS, SEEN = 6, 5


def tensors(*heads: int) -> list[jax.Array]:
  """Random [7 tokens, heads, 8] for queries and [6 tokens, heads, 8] for keys and values."""
  normal = np.random.default_rng(0).standard_normal
  return [jnp.asarray(normal((7 if i == 0 else KEYS, n, 8)), jnp.float32) for i, n in enumerate(heads)]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_values_and_gradients_are_those_of_one_softmax(key_heads):
  q, k, v, k2, v2 = tensors(4, *(key_heads,) * 4)
  mask = jnp.asarray(np.random.default_rng(1).random((7, KEYS)) < 0.5).at[3].set(False)  # one row sees nothing here
  first = jnp.broadcast_to(jnp.arange(KEYS) < SEEN, mask.shape)

  def merged(q, k, v, k2, v2):
    pieces = (Piece(q, k, v, mask), Piece(2 * q, k2, v2, jnp.int32(SEEN)))
    return merge((Dense(), FirstKeys()), pieces)

  def whole(q, k, v, k2, v2):
    return attend(Queries(q, q), [Part(*KeyValue(k, v).by_head(), mask), Part(*KeyValue(2 * k2, v2).by_head(), first)])

  value = lambda attention, *args: jnp.sum(jnp.sin(attention(*args)))
  grads = lambda attention: jax.value_and_grad(functools.partial(value, attention), range(5))(q, k, v, k2, v2)
  assert_close(jax.jit(merged)(q, k, v, k2, v2), whole(q, k, v, k2, v2), 1e-5)
  assert_close(grads(merged), grads(whole), 1e-5)


@pytest.mark.parametrize(
  ("overrides", "first", "picked"),
  [((), 50, range(UNITS)), (LAYOUTS["split"], 0, (1, 2)), (LAYOUTS["no world"], 7, range(UNITS))],
)
def test_the_training_pass_in_chunks_equals_the_dense_mask(overrides, first, picked):
  config = nano(*overrides, "model.heads=4", "model.kv_heads=2")
  attention, inputs, out, valid = random_attention(config, first, tuple(picked))
  in_chunks = functools.partial(teacher_forced_attention_gpu, history=FirstKeys(), size=1)

  def value(way, *inputs):
    mixed = attention(way, *inputs)
    return jnp.sum(mixed * out), mixed * valid

  by = lambda way: jax.jit(jax.grad(functools.partial(value, way), (0, 1, 2), has_aux=True))(*inputs)
  assert_close(by(in_chunks), by(teacher_forced_attention), 1e-5)


def test_chunks_are_whole_units_and_whole_strides():
  layout = build_layout(nano())
  both = layout.clean_tokens + layout.tokens(*NOISY_PHASES)
  chunks = lambda units, copies, size: _chunking(layout, units, copies, size).chunks
  assert chunks(12, 12, 4 * both) == 3
  assert chunks(12, 4, 1) == 4  # no chunk is without a noisy copy
  assert chunks(7, 7, 4 * both) == 7


def test_cudnn_is_called_as_jax_defines_it(monkeypatch):
  """Shapes only, since there is no GPU: forward with its lse, and backward with the merged ones, batched by vmap."""
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn, "check_is_flash_attention", lambda *_: None)
  like = lambda *shape: jax.ShapeDtypeStruct((3, *shape), jnp.bfloat16)

  def loss(q, k, v, seen):
    return jnp.sum(jnp.sin(merge((CuDNN(), Dense()), (Piece(q, k, v, seen), Piece(q, k, v, jnp.ones((16, 24), bool))))))

  grads = jax.eval_shape(
    jax.vmap(jax.grad(loss, (0, 1, 2))), like(16, 4, 64), like(24, 2, 64), like(24, 2, 64),
    jax.ShapeDtypeStruct((3,), jnp.int32),
  )  # fmt: skip
  assert [grad.shape for grad in grads] == [(3, 16, 4, 64), (3, 24, 2, 64), (3, 24, 2, 64)]


def test_cudnn_is_refused_where_jax_is_another_inside(monkeypatch):
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert merging._cudnn() is cudnn
  monkeypatch.setattr(cudnn, "_dot_product_attention_bwd_rule", lambda scale, seed, residuals, grad: None)
  with pytest.raises(ConfigError, match=r"jax [\d.]+ has changed: install jax==0.10.2, or set"):
    CuDNN().forward(Piece(*tensors(2, 2, 2), jnp.int32(1)))


def test_cudnn_is_refused_elsewhere_and_sinks_by_chunks():
  with pytest.raises(ConfigError, match="'cudnn', for NVIDIA GPUs, but this is a cpu: set model.attention=xla"):
    CuDNN().forward(Piece(*tensors(2, 2, 2), jnp.int32(1)))
  attention, inputs, *_ = random_attention(nano("layout.sinks=2"), 0)
  with pytest.raises(ConfigError, match=r"needs layout.sinks=0 \(now 2\)"):
    attention(functools.partial(teacher_forced_attention_gpu, history=FirstKeys()), *inputs)
