"""Counts the least that a program must do: FLOPs of its products, bytes that it reads. Products include convolutions;
the bytes are those of weights and caches.

It counts in the traced program, because the compiler's own figures count the body of a loop once (layers are scanned)
and nothing inside kernels. Arguments may be shapes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core

# Operations whose result still counts as the array in memory that they read (updates write in place).
_VIEWS = {
  "convert_element_type", "reshape", "transpose", "squeeze", "slice", "dynamic_slice", "split", "copy", "expand_dims",
  "dynamic_update_slice", "scatter",
}  # fmt: skip


class Cost(NamedTuple):
  """flops: of products and convolutions (a multiply-add is two). bytes: of the arguments that they read, at every use.
  kernels: names of the Pallas kernels that state no cost and are not counted."""

  flops: float = 0.0
  bytes: float = 0.0
  kernels: tuple[str, ...] = ()

  def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
    return Cost(self.flops + other.flops, self.bytes + other.bytes, self.kernels + other.kernels)

  def times(self, repeats: int) -> "Cost":
    return Cost(repeats * self.flops, repeats * self.bytes, repeats * self.kernels)


def count(function: Callable[..., Any], *args: Any, without: str = "") -> Cost:
  """The cost of `function(*args)`; args may be ShapeDtypeStructs. Loops without a known length count once.

  without: a `jax.named_scope` whose operations are not counted.
  """
  closed = jax.make_jaxpr(function)(*args)
  stored = [_itemsize(var) for var in closed.jaxpr.invars]
  return _count(closed.jaxpr, stored, without)[0]


def _itemsize(var: Any) -> int:
  return getattr(getattr(var.aval, "dtype", None), "itemsize", 0)


def _count(jaxpr: core.Jaxpr, stored: list[int], without: str) -> tuple[Cost, list[int]]:
  """(cost, `stored` of the results). stored: for each argument, bytes per element if it lies in memory, else 0."""
  sizes: dict[Any, int] = dict(zip(jaxpr.invars, stored))
  get = lambda var: 0 if isinstance(var, core.Literal) else sizes.get(var, 0)
  total = Cost()
  for eqn in jaxpr.eqns:
    if without and without in str(eqn.source_info.name_stack):
      continue
    inputs = [get(var) for var in eqn.invars]
    name = eqn.primitive.name
    if name in _VIEWS and inputs[0]:
      sizes.update(dict.fromkeys(eqn.outvars, inputs[0]))
    elif name in ("dot_general", "conv_general_dilated"):
      shapes: list[Any] = [var.aval for var in eqn.invars]
      read = sum(size * math.prod(aval.shape) for size, aval in zip(inputs, shapes))
      total += Cost(_dot_flops(eqn) if name == "dot_general" else _conv_flops(eqn), read)
    elif name == "jit":
      cost, results = _count(eqn.params["jaxpr"].jaxpr, inputs, without)
      total += cost
      sizes.update(zip(eqn.outvars, results))
    else:
      total += _inner(eqn, inputs, without)
  return total, [get(var) for var in jaxpr.outvars]


def _inner(eqn: Any, inputs: list[int], without: str) -> Cost:
  """The cost of an equation that contains programs and is no plain call: loops, branches, transformed functions."""
  name, params = eqn.primitive.name, eqn.params
  if name == "pallas_call":
    stated = params["cost_estimate"]
    return Cost(kernels=(str(params["name"]),)) if stated is None else Cost(stated.flops, stated.bytes_accessed)
  if name == "scan":
    constants, carried = _scan_parts(params)
    stored = inputs[:constants] + [0] * carried + inputs[constants + carried :]
    return _count(params["jaxpr"].jaxpr, stored, without)[0].times(params["length"])
  if name == "while":
    return _count(params["body_jaxpr"].jaxpr, [0] * len(params["body_jaxpr"].jaxpr.invars), without)[0]
  if name == "cond":
    branches = [_count(branch.jaxpr, inputs[1:], without)[0] for branch in params["branches"]]
    return max(branches, key=lambda cost: cost.flops)
  repeats = params["mesh"].size if name == "shard_map" else 1
  total = Cost()
  for inner in (params.get("jaxpr"), params.get("call_jaxpr")):
    if inner is not None:
      total += _count(getattr(inner, "jaxpr", inner), inputs, without)[0]
  return total.times(repeats)


def _scan_parts(params: Any) -> tuple[int, int]:
  """How many of a scan's inputs are constants, and how many are carried from one turn to the next."""
  if "num_consts" in params:
    return params["num_consts"], params["num_carry"]
  constants, carried, _ = params["ft_in"].unpack()  # as in jax 0.11.2
  return len(constants), len(carried)


def _dot_flops(eqn: Any) -> float:
  ((contracted, _), _) = eqn.params["dimension_numbers"]
  depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
  return 2.0 * eqn.outvars[0].aval.size * depth


def _conv_flops(eqn: Any) -> float:
  kernel = eqn.invars[1].aval.shape
  outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
  return 2.0 * eqn.outvars[0].aval.size * math.prod(kernel) / outputs
