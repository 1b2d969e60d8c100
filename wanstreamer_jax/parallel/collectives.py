"""Which collectives a compiled program runs, how often, and over how many bytes: read from its HLO text."""

import collections
import dataclasses
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(body|condition|calls|to_apply|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Traffic:
  """count: collectives run. bytes: their results on one chip."""

  count: int = 0
  bytes: int = 0


@dataclasses.dataclass
class _Computation:
  """One computation of the text: its collectives, whom it calls how often, and its loop bound if it is a condition."""

  collectives: list[tuple[str, str, int]] = dataclasses.field(default_factory=list)  # kind, channel, bytes
  calls: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # callee, condition of the loop or ""
  constants: list[int] = dataclasses.field(default_factory=list)
  less_than: bool = False


def collectives(hlo: str) -> dict[str, Traffic]:
  """Traffic by kind, for one run of the program.

  hlo: `compiled.as_text()`. Loops count as often as they turn (a scan's condition is a comparison with a constant;
  other loops count once). A collective that the compiler cut into several overlapped pieces keeps its channel and
  counts once.
  """
  computations, entry = _parse(hlo)
  times = collections.Counter({entry: 1})
  pending = [(entry, 1)]
  while pending:
    name, repeats = pending.pop()
    for callee, condition in computations[name].calls:
      if callee in computations:
        turns = repeats * (_turns(computations[condition]) if condition in computations else 1)
        if turns > times[callee]:
          times[callee] = turns
          pending.append((callee, turns))
  found: dict[tuple[str, str], Traffic] = {}
  for name, computation in computations.items():
    for kind, channel, size in computation.collectives:
      before = found.get((kind, channel), Traffic())
      found[kind, channel] = Traffic(max(before.count, times[name]), max(before.bytes, times[name] * size))
  total = dict.fromkeys(KINDS, Traffic())
  for (kind, _), traffic in found.items():
    total[kind] = Traffic(total[kind].count + traffic.count, total[kind].bytes + traffic.bytes)
  return {kind: traffic for kind, traffic in total.items() if traffic.count}


def _parse(hlo: str) -> tuple[dict[str, _Computation], str]:
  """(computations by name, the entry's name)."""
  computations: dict[str, _Computation] = {}
  entry, current = "", _Computation()
  for number, line in enumerate(hlo.splitlines()):
    header = _COMPUTATION.match(line)
    if header:
      current = computations.setdefault(header[2], _Computation())
      entry = header[2] if header[1] else entry
      continue
    instruction = _INSTRUCTION.match(line)
    if not instruction:
      continue
    shape, operation, rest = instruction.groups()
    kind = operation.removesuffix("-start")
    if kind in KINDS:
      channel = re.search(r"channel_id=(\d+)", rest)
      current.collectives.append((kind, channel[1] if channel else f"line {number}", _size(shape, operation)))
    if operation == "constant" and re.match(r"-?\d+\)", rest):
      current.constants.append(int(rest.partition(")")[0]))
    current.less_than |= operation == "compare" and "direction=LT" in rest
    current.calls += _calls(rest)
  return computations, entry


def _calls(rest: str) -> Iterator[tuple[str, str]]:
  """(callee, loop condition or "") for every computation that an instruction names."""
  named = {role: [name.strip(" %") for name in names.strip("{}").split(",")] for role, names in _CALLED.findall(rest)}
  condition = named.get("condition", [""])[0]
  for role, names in named.items():
    for name in names:
      yield name, condition if role == "body" else ""


def _turns(condition: _Computation) -> int:
  return max(condition.constants) if condition.less_than and condition.constants else 1


def _size(shape: str, operation: str) -> int:
  """Bytes of a result's shape. The tuple of a -start holds operands and results: its second half counts."""
  sizes = []
  for kind, axes in _SHAPE.findall(shape):
    bits = _BITS.get(kind) or int(re.sub(r"^[a-z]+(\d+).*", r"\1", kind) if re.search(r"\d", kind) else 8)
    count = 1
    for axis in filter(None, axes.split(",")):
      count *= int(axis)
    sizes.append(count * bits // 8)
  if operation.endswith("-start") and operation != "all-reduce-start":
    sizes = [max(sizes, default=0)] if len(sizes) <= 4 else sizes[len(sizes) // 2 :]
  return sum(sizes)
