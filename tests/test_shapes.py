"""The annotated shapes are checked while tests run: a wrong one is an error, in arguments and in results."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from jaxtyping import Array, Float, Int, jaxtyped

from tests.helpers.shapes import checked
from wanstreamer_jax.model.tokens import text_valid


@jaxtyped(typechecker=checked)
def product(a: Float[Array, "T D"], b: Float[Array, "D V"] | None = None) -> tuple[Float[Array, "T V"], int]:
  return (a if b is None else a @ b), 1


def test_a_letter_is_one_size_in_a_call():
  assert jax.jit(product)(jnp.ones((2, 3)), jnp.ones((3, 4)))[0].shape == (2, 4)
  assert jax.vmap(product)(jnp.ones((5, 2, 3)))[0].shape == (5, 2, 3)
  for wrong in ((jnp.ones((2, 3)), jnp.ones((4, 3))), (jnp.ones(3),), (jnp.ones((2, 3), int),)):
    with pytest.raises(jaxtyping.TypeCheckError):
      product(*wrong)


def test_a_result_is_checked():
  @jaxtyped(typechecker=checked)
  def first(x: Int[Array, "T"]) -> Int[Array, ""]:
    return x[:1]

  with pytest.raises(jaxtyping.TypeCheckError, match="return"):
    first(jnp.arange(3))


def test_the_package_is_checked():
  with pytest.raises(jaxtyping.TypeCheckError, match="text_valid"):
    text_valid(jnp.ones((2, 3)), 0)
