"""Lists the collectives of a compiled program: mesh axes, count and bytes."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from wanstreamer_jax.aot.hlo import Instruction, Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Traffic:
  """count: how many collectives run. bytes: what one chip receives for them with the best known algorithm."""

  count: int = 0
  bytes: float = 0.0

  def __add__(self, other: "Traffic") -> "Traffic":
    return Traffic(self.count + other.count, self.bytes + other.bytes)


Axes = tuple[str, ...]
SLICES: Axes = ("slices",)  # between slices, over the data centre's network: a part of the mesh axis `data`


def collectives(program: Program, mesh: Mapping[str, int]) -> dict[tuple[str, Axes], Traffic]:
  """Traffic of one run by (kind, axes of the mesh that the groups span), in the order of KINDS.

  mesh: axis sizes, outermost first; the program numbers devices in the mesh's order. A collective that the compiler cut
  into pieces, each beside a product, counts once (its pieces share a chain). An all-reduce of which every chip keeps
  only a part counts as a reduce-scatter.
  """
  chains: dict[tuple[str, Axes, str], Traffic] = {}
  total: dict[tuple[str, Axes], Traffic] = {}
  for name, computation in program.computations.items():
    times = program.times.get(name, 0)
    for instruction in computation.instructions.values() if times else ():
      kind = instruction.operation.removesuffix("-start")
      between = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
      if kind == "recv" and between:  # the hosts exchange these data for their chips
        across = (between[1].lower().replace("_", "-"), SLICES)
        total[across] = total.get(across, Traffic()) + Traffic(times, times * instruction.shapes[0].bytes)
      if kind not in KINDS:
        continue
      axes, size = _axes(instruction, mesh)
      if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        received = _result_bytes(instruction) * (size - 1) / size
        kind = "reduce-scatter"
      else:
        received = _received(kind, _result_bytes(instruction), size)
      traffic = Traffic(times, times * received)
      chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
      if chain:
        key = (kind, axes, chain[1])
        chains[key] = max(chains.get(key, Traffic()), traffic, key=lambda found: found.bytes)
      else:
        total[kind, axes] = total.get((kind, axes), Traffic()) + traffic
  for (kind, axes, _), traffic in chains.items():
    total[kind, axes] = total.get((kind, axes), Traffic()) + traffic
  order = {kind: place for place, kind in enumerate(KINDS)}
  return {key: total[key] for key in sorted(total, key=lambda key: (order.get(key[0], len(order)), key))}


def _received(kind: str, result: int, size: int) -> float:
  """Bytes that one of `size` chips receives from the others, for `result` bytes on each."""
  if kind == "reduce-scatter":
    return float(result * (size - 1))
  if kind == "collective-permute":
    return float(result)
  return result * (size - 1) / size * (2 if kind == "all-reduce" else 1)


def _result_bytes(instruction: Instruction) -> int:
  """Bytes of the results. The tuple of a "-start" operation holds operands, results and flags."""
  shapes = instruction.shapes
  if instruction.operation in ("all-gather-start", "collective-permute-start"):
    count = len(instruction.operands)
    return sum(shape.bytes for shape in shapes[count : 2 * count])
  return sum(shape.bytes for shape in shapes)


def _axes(instruction: Instruction, mesh: Mapping[str, int]) -> tuple[Axes, int]:
  """(the mesh axes along which members of a group differ, members of a group)."""
  groups = replica_groups(instruction.attributes, math.prod(mesh.values()))
  coordinates = np.unravel_index(groups, tuple(mesh.values()))
  spanned = (axis for axis, at in zip(mesh, coordinates) if (at != at[:, :1]).any())
  return tuple(spanned), groups.shape[1]


def replica_groups(attributes: str, devices: int) -> np.ndarray:
  """The groups of a collective as it prints them, or the pairs of a permutation: int [groups, members].

  The forms: {{0,2},{1,3}}; {} for all devices; [2,2]<=[2,2]T(1,0), rows of a transposed range; and mesh['a'=2,'b'=2]
  {'b'}, the named axes of a mesh of its own. Raises ValueError for others.
  """
  found = re.search(r"(?:replica_groups|source_target_pairs)=(.*)", attributes)
  if not found or found[1].startswith("{}"):
    return np.arange(devices)[None]
  text = found[1]
  listed = re.match(r"\{(\{[\d,{}]*\})\}", text)
  if listed:
    return np.array([[int(i) for i in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])])
  rows = re.match(r"\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text)
  if rows:
    return _iota(rows[3]).reshape(int(rows[1]), int(rows[2]))
  named = re.match(r"mesh\[([^\]]*)\](?:,? ?device_ids=\(?(\[[\d,]+\](?:T\([\d,]+\))?)\)?)? *\{([^}]*)\}", text)
  if named:
    sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
    order = _iota(named[2]).reshape(-1) if named[2] else np.arange(math.prod(sizes.values()))
    return _of_axes(order.reshape(tuple(sizes.values())), list(sizes), named[3])
  raise ValueError(f"replica groups of an unknown form: {text[:100]}")


def _iota(text: str) -> np.ndarray:
  """[2,4]T(1,0): a range of that shape, transposed."""
  dims, _, order = text.partition("T")
  shape = [int(size) for size in re.findall(r"\d+", dims)]
  out = np.arange(math.prod(shape)).reshape(shape)
  return out.transpose([int(axis) for axis in re.findall(r"\d+", order)]) if order else out


def _of_axes(ids: np.ndarray, names: list[str], axes: str) -> np.ndarray:
  """Groups along the named axes of a mesh of ids; 'a':(2)4 is a part of an axis: 4 steps, after 2 larger ones."""
  for name, before, size in re.findall(r"'([^']+)':\((\d+)\)(\d+)", axes):
    place, whole = names.index(name), ids.shape[names.index(name)]
    split = (int(before), int(size), whole // int(before) // int(size))
    ids = ids.reshape(*ids.shape[:place], *split, *ids.shape[place + 1 :])
    names[place : place + 1] = [f"{name}<", f"{name}:({before}){size}", f"{name}>"]
  wanted = [name + rest for name, rest in re.findall(r"'([^']+)'((?::\(\d+\)\d+)?)", axes)]
  members = [names.index(name) for name in wanted]
  return np.moveaxis(ids, members, range(-len(members), 0)).reshape(-1, math.prod(ids.shape[i] for i in members))
