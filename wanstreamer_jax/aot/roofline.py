"""Computes the shortest time of a compiled program from a TPU's published rates.

Every resource works at its full published rate, and all of them at the same time: matrix units, HBM, the links of each
torus dimension (ICI), the network between slices (DCN). The busiest one bounds the step. Nothing here is measured.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from wanstreamer_jax.aot.collectives import SLICES, Axes, Traffic
from wanstreamer_jax.parallel.machine import CHIPS, Chip

INSIDE = 6.0  # rate between the two halves of a chip, in ICI links (docs/tpu7x, dual-chiplet architecture)


class TorusSide(NamedTuple):
  """How a group of devices lies along one dimension of the torus."""

  name: str
  members: int
  stride: int  # links from one member to the next, which other groups share
  closed: bool  # a ring, not a line


def sides(mesh: Mesh, axes: Axes) -> list[TorusSide]:
  """The torus dimensions that the devices along some mesh axes span, inside one slice."""
  place = tuple(slice(None) if axis in axes else 0 for axis in mesh.axis_names)
  group = [_coordinates(device) for device in np.asarray(mesh.devices[place]).ravel()]
  group = [at for at in group if at["slice"] == group[0]["slice"]]
  everywhere = [_coordinates(device) for device in mesh.devices.flat]
  chip = CHIPS[mesh.devices.flat[0].device_kind]
  found = []
  for name in ("x", "y", "z", "core"):
    at = sorted({position[name] for position in group})
    if len(at) > 1:
      stride, size = int(min(np.diff(at))), 1 + max(position[name] for position in everywhere)
      closes = size == 16 if chip.sides == 2 else size % 4 == 0
      found.append(TorusSide(name, len(at), stride, name != "core" and closes and len(at) * stride == size))
  return found


def _coordinates(device: Any) -> dict[str, int]:
  at = dict(zip(("x", "y", "z"), device.coords))
  return {**at, "core": device.core_on_chip, "slice": getattr(device, "slice_index", None) or 0}


def seconds_on_links(kind: str, traffic: Traffic, size: int, span: list[TorusSide], chip: Chip) -> float:
  """Seconds of a collective of `size` devices over the given dimensions. Rings use both directions of every link.

  Gathers and reductions use all dimensions at once. An all-to-all is bound by the cut through the middle of the longest
  one: half of all bytes cross it. A permutation is taken to be between neighbours.
  """
  link = chip.link / chip.cores
  rate = lambda side: (INSIDE if side.name == "core" else 1.0) * link / side.stride * (2 if side.closed else 1)
  if not span:
    return 0.0
  if kind == "all-to-all":
    whole = traffic.bytes * size / (size - 1)
    return max(whole * side.members / 4 / rate(side) for side in span)
  if kind == "collective-permute":
    return traffic.bytes / min(map(rate, span))
  return traffic.bytes / sum(map(rate, span))


class Roofline(NamedTuple):
  """Seconds that each resource is busy in one run, and what that means."""

  busy: dict[str, float]  # "compute", "HBM", "ICI x", ..., "DCN"
  collectives: list[dict[str, Any]]  # one row per kind and axes: kind, axes, count, bytes, seconds, over
  mfu: float  # useful FLOPs over the step's time at the full rate of all chips

  @property
  def bound(self) -> str:
    return max(self.busy, key=lambda name: self.busy[name])

  @property
  def seconds(self) -> float:
    """Of the busiest resource: everything overlaps."""
    return max(self.busy.values())

  @property
  def serial(self) -> float:
    """Of all resources one after the other: nothing overlaps."""
    dimensions = [value for name, value in self.busy.items() if name.startswith("ICI")]
    rest = [value for name, value in self.busy.items() if not name.startswith("ICI")]
    return sum(rest) + max(dimensions, default=0.0)


def roofline(
  mesh: Mesh, flops: float, useful: float, memory: float, traffic: Mapping[tuple[str, Axes], Traffic]
) -> Roofline | None:
  """The bound of one run; None for a chip without published figures.

  flops: that one chip computes; useful: of all chips together; memory: HBM bytes of one chip.
  """
  chip = CHIPS.get(mesh.devices.flat[0].device_kind)
  if chip is None:
    return None
  busy = {"compute": flops / chip.flops, "HBM": memory / chip.bandwidth}
  rows = []
  for (kind, axes), moved in traffic.items():
    span = [] if axes == SLICES else sides(mesh, axes)
    if axes == SLICES:
      seconds = moved.bytes / chip.dcn if chip.dcn else 0.0
      busy["DCN"] = busy.get("DCN", 0.0) + seconds
    else:
      seconds = seconds_on_links(kind, moved, math.prod(mesh.shape[axis] for axis in axes), span, chip)
      for side in span:
        busy[f"ICI {side.name}"] = busy.get(f"ICI {side.name}", 0.0) + seconds
    over = "DCN" if axes == SLICES else " ".join(f"{s.name}{s.members}{'o' if s.closed else ''}" for s in span)
    rows.append({
      "kind": kind, "axes": list(axes), "count": moved.count, "bytes": moved.bytes, "seconds": seconds, "over": over,
    })  # fmt: skip
  step = max(busy.values())
  return Roofline(busy, rows, useful / (step * mesh.size * chip.flops) if step else 0.0)
