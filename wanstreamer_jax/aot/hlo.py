"""Parses the text of a compiled program (HLO): instructions, how often each runs, cost.

The compiler's own figures count the body of a loop once, although layers are scanned; here a loop counts for all its
iterations. Written for the text that the TPU compiler dumps after its optimisations, which jax cannot parse.
"""

import collections
import dataclasses
import functools
import graphlib
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(body|condition|calls|to_apply|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_NAME = re.compile(r"%([\w.\-]+)")
# Operations that move no HBM bytes by themselves: aliases, and calls of computations that are counted on their own.
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
  "partition-id", "replica-id", "opt-barrier", "async-start",
}  # fmt: skip


class HloShape(NamedTuple):
  """One array of an instruction's result. large: whether it lies in HBM (layouts name other memories by S(n))."""

  dims: tuple[int, ...]
  bytes: int
  large: bool


class Instruction(NamedTuple):
  """name = shapes operation(operands), attributes. `literal` is the text between the parentheses."""

  name: str
  shapes: tuple[HloShape, ...]
  operation: str
  operands: tuple[str, ...]
  literal: str
  attributes: str

  @property
  def bytes(self) -> int:
    return sum(shape.bytes for shape in self.shapes)

  def stated(self, what: str) -> int | None:
    """A figure that a kernel states about itself: "flops" or "bytes_accessed" (`pl.CostEstimate`)."""
    found = re.search(rf'"cost_estimate":\{{[^}}]*"{what}":"(\d+)"', self.attributes)
    return int(found[1]) if found and self.operation == "custom-call" else None

  def called(self, role: str) -> list[str]:
    """Names of the computations that it calls as `role`, e.g. "body"."""
    return [name for found, names in _CALLED.findall(self.attributes) if found == role for name in _names(names)]


@dataclasses.dataclass
class Computation:
  """Instructions by name, in order; the last one's name is not always the root's."""

  instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
  root: str = ""

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    found = collections.defaultdict(list)
    for instruction in self.instructions.values():
      for operand in dict.fromkeys(instruction.operands):
        found[operand].append(instruction)
    return found

  def parameter(self, index: int) -> Instruction | None:
    """The parameter `index`; None if the compiler has dropped it."""
    found = (i for i in self.instructions.values() if i.operation == "parameter" and i.literal == str(index))
    return next(found, None)


def parse_shapes(text: str) -> tuple[HloShape, ...]:
  """The arrays of a shape such as "(bf16[8,4]{1,0:T(8,128)S(1)}, f32[])"."""
  shapes = []
  for kind, axes, layout in _SHAPE.findall(text):
    dims = tuple(int(axis) for axis in axes.split(",") if axis)
    bits = re.sub(r"^[a-z]+(\d+).*", r"\1", kind)
    width = _BITS.get(kind, int(bits) if bits.isdecimal() else 8)
    shapes.append(HloShape(dims, math.ceil(math.prod(dims) * width / 8), not re.search(r"S\([1-9]", layout)))
  return tuple(shapes)


def _names(text: str) -> list[str]:
  return [name.strip(" %") for name in text.strip("{}").split(",") if name.strip(" %")]


class Program:
  """The parsed text. computations: by name. times: how often each runs in one run of the program."""

  def __init__(self, text: str):
    self.computations: dict[str, Computation] = {}
    self.entry = ""
    current = Computation()
    for line in text.splitlines():
      header = _COMPUTATION.match(line)
      if header:
        current = self.computations.setdefault(header[2], Computation())
        self.entry = header[2] if header[1] else self.entry
        continue
      found = _INSTRUCTION.match(line)
      if found:
        root, name, shape, operation, rest = found.groups()
        literal, _, attributes = rest.partition(")")
        operands = tuple(_NAME.findall(literal))
        current.instructions[name] = Instruction(name, parse_shapes(shape), operation, operands, literal, attributes)
        current.root = name if root else current.root
    self.times = self._times()

  def _calls(self, name: str) -> Iterator[tuple[str, int, bool]]:
    """(callee, its runs per run of `name`, whether it is the body of a single operation) for every call."""
    for instruction in self.computations[name].instructions.values():
      conditions, bodies = instruction.called("condition"), instruction.called("body")
      turns = self._turns(conditions[0], bodies[0]) if conditions and bodies else 1
      for role in ("body", "condition", "branch_computations", "to_apply", "calls"):
        inside = role in ("to_apply", "calls") and instruction.operation not in ("call", "async-start")
        for callee in instruction.called(role):
          if callee in self.computations:
            yield callee, turns if role == "body" else 1, inside

  def _times(self) -> dict[str, int]:
    order = graphlib.TopologicalSorter(
      {name: [callee for callee, _, _ in self._calls(name)] for name in self.computations}
    )
    times = collections.Counter({self.entry: 1})
    self.inner: set[str] = set()
    for name in reversed(tuple(order.static_order())):  # callers before those they call
      for callee, turns, inside in self._calls(name):
        times[callee] += times[name] * turns
        if inside or name in self.inner:
          self.inner.add(callee)
    return dict(times)

  def _turns(self, condition: str, body: str) -> int:
    """Iterations of a loop whose condition is `counter < constant`, from 0, as in scans; other loops count once."""
    found = self.computations.get(condition)
    if found is None or body not in self.computations:
      return 1
    inside = [self.computations[name] for i in found.instructions.values() for name in i.called("calls")]
    everything = [i for computation in (found, *inside) for i in computation.instructions.values()]
    below = any(i.operation == "compare" and "direction=LT" in i.attributes for i in everything)
    constants = [int(i.literal) for i in everything if i.operation == "constant" and re.fullmatch(r"\d+", i.literal)]
    if not below or not constants:
      return 1
    places = [int(i.attributes.split("index=")[1].split(",")[0]) for i in everything if _element(i)]
    return -(-max(constants) // _counter_step(self.computations[body], places[0] if places else 0))

  def runs(self) -> Iterator[tuple[Computation, Instruction, int]]:
    """Every instruction that runs, with its computation and how often; those inside operations included."""
    for name, computation in self.computations.items():
      if self.times.get(name, 0):
        for instruction in computation.instructions.values():
          yield computation, instruction, self.times[name]

  def product_flops(self) -> float:
    """FLOPs of one chip in matrix products and convolutions, and in kernels that state theirs."""
    of = lambda c, i: _product_flops(c, i) if i.operation in ("convolution", "dot") else i.stated("flops") or 0
    return float(sum(times * of(computation, instruction) for computation, instruction, times in self.runs()))

  def memory_bytes(self) -> float:
    """HBM bytes that the operations read and write: what a kernel states, else each operand and result once."""
    total = 0
    for name, computation in self.computations.items():
      if name not in self.inner and self.times.get(name, 0):
        moved = sum(self._moved(computation, i) for i in computation.instructions.values())
        total += self.times[name] * moved
    return float(total)

  def _moved(self, computation: Computation, instruction: Instruction) -> int:
    """HBM bytes of one operation that is not inside another."""
    operation = instruction.operation
    if operation in _FREE or operation.endswith(("-done", "-update")):
      return 0
    if operation == "custom-call" and not instruction.operands:  # only reserves memory
      return 0
    stated = instruction.stated("bytes_accessed")
    if stated is not None:
      return stated
    inside = self._inside(instruction)
    read = 0
    for index, name in enumerate(instruction.operands):
      source = computation.instructions.get(name)
      if source is not None and len(source.shapes) == 1 and source.shapes[0].large:
        whole = source.shapes[0].bytes
        read += self._read(inside, index, whole) if inside else _part(instruction, index, whole)
    results = instruction.shapes[:1] if operation.endswith("-start") else instruction.shapes  # then come its operands
    roots = _roots(inside) if inside else [instruction]
    within = inside or computation
    written = sum(
      _update(within, root) or shape.bytes
      for shape, root in itertools.zip_longest(results, roots)
      if shape and shape.large
    )
    return read + written

  def _inside(self, instruction: Instruction) -> Computation | None:
    called = instruction.called("calls") if instruction.operation == "fusion" else []
    return self.computations.get(called[0]) if called else None

  def _read(self, inside: Computation, index: int, whole: int) -> int:
    """Bytes that a fusion reads of its operand `index`, of `whole` bytes: all, unless all its users take only parts."""
    pending, total = [inside.parameter(index)], 0
    while pending:
      source = pending.pop()
      if source is None:
        continue
      for user in inside.users[source.name]:
        nested = self._inside(user)
        if user.operation == "bitcast":
          pending.append(user)
        else:
          for place in (place for place, name in enumerate(user.operands) if name == source.name):
            total += self._read(nested, place, whole) if nested else _part(user, place, whole)
    return min(total, whole)


def _element(instruction: Instruction) -> bool:
  return instruction.operation == "get-tuple-element"


def _counter_step(body: Computation, place: int) -> int:
  """By how much a loop's body raises the element `place` of its state: more than 1 if iterations were unrolled."""
  state = body.instructions[body.root].operands
  value, total = body.instructions.get(state[place]) if place < len(state) else None, 0
  while value is not None and value.operation == "add":
    operands = [body.instructions[name] for name in value.operands if name in body.instructions]
    constants = [int(i.literal) for i in operands if i.operation == "constant" and re.fullmatch(r"\d+", i.literal)]
    total += sum(constants)
    value = next((i for i in operands if i.operation != "constant"), None)
  return total or 1


def _part(instruction: Instruction, index: int, whole: int) -> int:
  """Bytes that an operation reads of an operand: slices and gathers only their result, updates in place nothing."""
  if index == 0 and instruction.operation in ("dynamic-slice", "slice", "gather"):
    return min(whole, instruction.bytes)
  if index == 0 and instruction.operation in ("dynamic-update-slice", "scatter"):
    return 0
  return whole


def _update(computation: Computation, instruction: Instruction | None) -> int:
  """Bytes that an update in place writes; 0 for everything else."""
  if instruction is None or instruction.operation != "dynamic-update-slice":
    return 0
  update = computation.instructions.get(instruction.operands[1])
  return update.bytes if update else 0


def _roots(inside: Computation) -> list[Instruction | None]:
  """The instruction that computes each result of a fusion, behind bitcasts."""
  root = inside.instructions[inside.root]
  made = [inside.instructions.get(name) for name in root.operands] if root.operation == "tuple" else [root]
  return [_behind(inside, value) for value in made]


def _behind(inside: Computation, value: Instruction | None) -> Instruction | None:
  while value is not None and value.operation == "bitcast":
    value = inside.instructions.get(value.operands[0])
  return value


def _product_flops(computation: Computation, instruction: Instruction) -> float:
  """2 x results x terms. TPUs run every product as a convolution, batch dimensions as window positions."""
  left, right = (computation.instructions[name].shapes[0].dims for name in instruction.operands[:2])
  out = instruction.shapes[0].dims
  if instruction.operation == "dot":
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    return 2.0 * math.prod(out) * math.prod(left[int(d)] for d in found[1].split(",") if d) if found else 0.0
  labels = re.search(r"dim_labels=([a-z0-9]+)_([a-z0-9]+)->([a-z0-9]+)", instruction.attributes)
  if not labels:
    return 0.0
  lhs, rhs, result = labels.groups()
  window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", instruction.attributes) or [""])[0]))
  pairs = 1
  for axis in sorted(set(lhs) - set("bf")):
    low, _ = _window_field(window, "pad", axis, "0_0").split("_")
    stride, dilate, kernel_dilate = (
      int(_window_field(window, name, axis, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    size, kernel = left[lhs.index(axis)], right[rhs.index(axis)]
    pairs *= _window_pairs(size, kernel, out[result.index(axis)], stride, int(low), dilate, kernel_dilate)
  return 2.0 * out[result.index("b")] * out[result.index("f")] * right[rhs.index("i")] * pairs


def _window_field(window: dict[str, str], name: str, axis: str, default: str) -> str:
  """One dimension's value of a window such as {"size": "3x3", "stride": "2x1"}."""
  return window[name].split("x")[int(axis)] if name in window else default


@functools.cache
def _window_pairs(size: int, kernel: int, out: int, stride: int, low: int, dilate: int, kernel_dilate: int) -> int:
  """How many (result, kernel) positions of one window dimension meet an element of the input."""
  total = 0
  for k in range(kernel):
    for o in range(out) if out * kernel <= 1 << 20 else ():
      place = o * stride - low + k * kernel_dilate
      total += 0 <= place <= (size - 1) * dilate and place % dilate == 0
  return total or min(size, out) * min(kernel, size)
