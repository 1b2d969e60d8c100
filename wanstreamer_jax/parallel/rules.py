"""Where every parameter lies on the mesh: one table outside the model.

A parameter's name is its path in the module, joined by dots and without the trailing `.value`, e.g.
`transformer.layers.q_proj.w`. Exactly one rule must match each name (law 9). A rule is about the *last* dimensions of a
leaf, so that stacked layers (with a leading L axis) and a single one share it. The names of optimiser moments and
averages end in the parameter's own name, so that they follow the same rules; scalars (counters) are replicated.
"""

import dataclasses
import math
import re
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from wanstreamer_jax.errors import ConfigError

Axis = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Rule:
  """`pattern` must match a whole name or its end (at a dot); `axes` name the mesh axes of the last dimensions."""

  pattern: str
  axes: tuple[Axis, ...] = ()

  def matches(self, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?({self.pattern})", name) is not None


FSDP = ("fsdp", "context")  # devices along `context` work on the same rows, so they share weights as well

# Letters: V vocabulary, D model, N query heads, K key heads, H head dim, F MLP, C condition, I and O the rest.
# FSDP splits the larger of a matrix's outer dimensions, `tensor` splits heads and MLP columns; vectors and small tables
# are replicated. A new kind of parameter needs a new line: on purpose there is no catch-all.
RULES: tuple[Rule, ...] = (
  # Attention and MLPs of all modules
  Rule(r"[qkv]_proj\.w", (FSDP, "tensor", None)),  # [D, N or K, H]
  Rule(r"[qkv]_proj\.b", ("tensor", None)),  # [N or K, H]
  Rule(r"o_proj\.w", ("tensor", None, FSDP)),  # [N, H, D]
  Rule(r"(gate|up)_proj\.w", (FSDP, "tensor")),  # [D, F]
  Rule(r"down_proj\.w", ("tensor", FSDP)),  # [F, D]
  # Into and out of the Transformer
  Rule(r"tokens\.embedding", ("tensor", FSDP)),  # [V, D]
  Rule(r"tokens\.\w+_in\.w", (None, FSDP)),  # [I, D]
  Rule(r"tokens\.(kinds|state)"),  # [a few, D]
  Rule(r"heads\.text\.w", (FSDP, "tensor")),  # [D, V]
  Rule(r"heads\.(audio|video|carry|anchor)\.w", (FSDP, None)),  # [D, O]
  Rule(r"heads\.(audio|video)_variance"),  # [Z]
  Rule(r"readouts\.\w+\.logits\.w", (FSDP, None)),  # [T D, C]
  Rule(r"readouts\.\w+_weight"),  # [C]
  Rule(r"flow_time\.proj\.w"),  # [C, C]
  Rule(r"(shared_modulation|modulation\.proj)\.w", (None, None, FSDP)),  # [C, 6, D]
  Rule(r"modulation\.bias"),  # [6, D]
  # Perception
  Rule(r"(hear|see)\.(project\.)?\w+\.w", (None, FSDP)),  # [I, O]
  Rule(r"see\.trunk\.places"),  # [places, D]
  Rule(r"hear\.trunk\.log_gain"),
  Rule(r"see\.w"),  # [3, 3, I, I]
  Rule(r"see\.(fine|coarse)\.\d+\.w", (None, FSDP)),  # [3, 3, I, I]
  # Codecs and pretrained encoders: kernels [..., I, O]
  Rule(r"(encoder|decoder|trunk)\.[\w.]+(?<!_proj)\.w", (FSDP,)),
  Rule(r"head\.w", (None,)),
  Rule(r"standard\.\w+"),
  Rule(r"critic\.[\w.]+\.w"),  # small, and of the training alone
  # Norms and biases
  Rule(r"\w*norm\w*\.scale"),
  Rule(r"(?<![qkv]_proj\.)b"),
  Rule(r"\w+_gain\.gain"),  # of residual branches
)


def path_name(path: tuple[Any, ...]) -> str:
  """The dotted name of a leaf: `.layers[0].w.value` is "layers.0.w"."""
  parts = []
  for entry in path:
    key = getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", None)))
    parts.append(str(key))
  if len(parts) > 1 and parts[-1] == "value":  # nnx.Param's own field
    parts.pop()
  return ".".join(parts)


def named_leaves(tree: Any) -> dict[str, Any]:
  """All leaves of a tree by name, in the tree's order. Names are unique."""
  leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
  if len(leaves) != len(jax.tree.leaves(tree)):
    raise ConfigError("two leaves of the tree have the same dotted name; rename one of the modules")
  return leaves


def fill_leaves(tree: Any, leaves: dict[str, Any]) -> Any:
  """`tree` with every leaf replaced by the one of the same name."""
  return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], tree)


def matching_rules(name: str, rules: tuple[Rule, ...] = RULES) -> list[Rule]:
  return [rule for rule in rules if rule.matches(name)]


def partition(
  name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: tuple[Rule, ...] = RULES
) -> PartitionSpec:
  """The axes of one leaf. Raises ConfigError unless exactly one rule matches.

  An axis that does not divide its dimension is dropped there (2 key heads on tensor=4 are replicated).
  """
  matches = matching_rules(name, rules)
  if len(matches) != 1:
    found = ", ".join(repr(rule.pattern) for rule in matches) or "none"
    raise ConfigError(f"parameter {name!r} must match one rule of parallel/rules.py, but matches: {found}")
  axes = matches[0].axes
  if len(axes) > len(shape):
    raise ConfigError(f"parameter {name!r} has shape {shape}, but its rule names {len(axes)} dimensions: {axes}")
  whole = (None,) * (len(shape) - len(axes))
  return PartitionSpec(*whole, *(_divisible(axis, size, mesh) for axis, size in zip(axes, shape[len(whole) :])))


def _divisible(axis: Axis, size: int, mesh: Mesh | AbstractMesh) -> Axis:
  """Of several mesh axes, those of more than one device, as long as their product divides the dimension."""
  names: tuple[str, ...] = ()
  for name in (axis,) if isinstance(axis, str) else axis or ():
    if mesh.shape[name] > 1 and size % (mesh.shape[name] * math.prod(mesh.shape[n] for n in names)) == 0:
      names += (name,)
  return names[0] if len(names) == 1 else names or None


def param_shardings(tree: Any, mesh: Mesh | AbstractMesh, rules: tuple[Rule, ...] = RULES) -> Any:
  """A tree of NamedSharding for parameters, or for a training state that contains them.

  tree: arrays or ShapeDtypeStructs (`jax.eval_shape`), e.g. a module, its optimiser state, its average.
  """

  def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    spec = partition(path_name(path), leaf.shape, mesh, rules) if leaf.ndim else PartitionSpec()
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(place, tree)
