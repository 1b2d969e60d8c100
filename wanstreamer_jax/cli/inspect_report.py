"""`wanstreamer inspect`: prints a layout, a checkpoint or a model; draws the mask.

Each function returns lines of text for the terminal; only `draw_mask` writes a file.
"""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax import units
from wanstreamer_jax.cli.inspect_parts import part_lines
from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import CheckpointError, UserError
from wanstreamer_jax.files import save_figure
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.weights import store
from wanstreamer_jax.weights.agent import resolve

LETTERS = {"WORLD": "W", "COMMIT": "C", "HEAR": "H", "STATE": "S", "TEXT": "T", "REFEED": "R", "PERFORM": "P"}
COLORS = {
  "WORLD": "#8d99ae", "COMMIT": "#4c956c", "HEAR": "#e07a5f", "STATE": "#3d405b", "TEXT": "#3d7ea6",
  "REFEED": "#c9ada7", "PERFORM": "#9a6fb0",
}  # fmt: skip
INVISIBLE = "#f6f5f2"  # the colour of a key that a query does not see
MAX_PICTURE_TOKENS = 6000  # a dense mask of this side is 36 MB


class MaskPart(NamedTuple):
  """A run of tokens along either side of a mask's picture."""

  label: str  # a phase's letter and the unit, such as "C0"; WORLD is "W"
  phase: str
  tokens: int


def table(rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> list[str]:
  """Rows (the first is the header) as aligned text; the columns in `right` are right-aligned."""
  columns = [[str(cell) for cell in column] for column in zip(*rows)]
  for i, column in enumerate(columns):
    width = max(map(len, column))
    columns[i] = [cell.rjust(width) if i in right else cell.ljust(width) for cell in column]
  return ["  ".join(row).rstrip() for row in zip(*columns)]


def count(number: int) -> str:
  """1234567 -> "1 234 567"."""
  return f"{number:_}".replace("_", " ")


def bytes_text(size: float) -> str:
  """3221225472 -> "3.0 GiB"."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if size < 1024 or unit == "GiB":
      break
    size /= 1024
  return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"


# Layout


def layout_lines(config: Config) -> list[str]:
  """The unit of a frozen config as a table: who is in it, in cache order, and what that costs."""
  layout, media = units.build_layout(config), config.media
  rows: list[Sequence[Any]] = [("phase", "segment", "tokens", "blocks", "scope", "content of", "first (t, h, w)")]
  for segment in (*layout.world, *layout.unit):
    first, last = segment.blocks[0], segment.blocks[-1]
    content = "WORLD" if segment.phase == "WORLD" else f"unit k-{segment.delay}" if segment.delay else "unit k"
    scope = "k+1" if segment.noisy else "0"
    position = "word's ordinal" if segment.text and segment.phase == "WORLD" else str(segment.positions[0])
    span = str(first) if first == last else f"{first}..{last}"
    rows.append((segment.phase, segment.name, segment.tokens, span, scope, content, position))
  window = "full history" if config.layout.window is None else f"window of {config.layout.window} units"
  return [
    f"{config.name}: {media.width}x{media.height} pixels, a unit is {media.unit_ms} ms = {media.frames} frames = "
    f"{count(media.samples)} samples = {config.audio_latents} audio latents",
    f"commit_delay {config.layout.commit_delay}, {window}, {config.layout.sinks} sink units, rope {config.layout.rope}",
    "",
    *table(rows, right=(2,)),
    "",
    *cost_lines(config, layout),
  ]


def cost_lines(config: Config, layout: units.Layout) -> list[str]:
  """Tokens and KV-cache bytes of a layout."""
  model = config.model
  token_bytes = 2 * model.layers * model.kv_heads * model.head_dim * np.dtype(jnp.dtype(model.dtype)).itemsize
  minute = math.ceil(60_000 / config.media.unit_ms)
  window = config.layout.window
  rows: list[Sequence[Any]] = [("", "tokens", f"KV-cache ({bytes_text(token_bytes)} a token)")]
  sizes = [("WORLD, pinned", layout.world_tokens), ("a unit, kept", layout.clean_tokens)]
  sizes += [("a minute", minute * layout.clean_tokens)]
  if window is not None:
    sizes += [(f"whole cache, {window} units", layout.cache_tokens(window))]
  rows += [(name, count(tokens), bytes_text(tokens * token_bytes)) for name, tokens in sizes]
  rows += [("a unit, noisy (never kept)", count(layout.tokens(*units.NOISY_PHASES)), "")]
  return table(rows, right=(1, 2))


def session_mask(config: Config, unit_count: int) -> tuple[np.ndarray, list[MaskPart]]:
  """`visible` over a session of a few units, in the order [WORLD | kept of all units | noisy of all units].

  Returns (bool [T, T], rows are queries; the T tokens of either side in parts, one for each segment).
  Raises UserError where that is too large to draw.
  """
  layout = units.build_layout(config)
  tokens = layout.world_tokens + unit_count * (layout.clean_tokens + layout.tokens(*units.NOISY_PHASES))
  if tokens > MAX_PICTURE_TOKENS:
    raise UserError(
      f"{unit_count} units are {tokens} tokens, too many to draw (at most {MAX_PICTURE_TOKENS}); use fewer --units"
    )
  coords, parts = [units.world_coords(layout, {})], [MaskPart("W", s.phase, s.tokens) for s in layout.world]
  for phases in (units.CLEAN_PHASES, units.NOISY_PHASES):
    segments = layout.phase(*phases)
    for k in range(unit_count):
      absent = {s.name: units.Dynamic(valid=jnp.asarray(False)) for s in segments if s.delay > k}
      coords.append(units.unit_coords(layout, segments, jnp.asarray(k, jnp.int32), absent))
      parts += [MaskPart(f"{LETTERS[s.phase]}{k}", s.phase, s.tokens) for s in segments]
  everything = units.Coords.concatenate(*coords)
  return np.asarray(units.visible(everything, everything, config.layout.window)), parts


def merged(parts: Sequence[MaskPart]) -> list[MaskPart]:
  """Neighbouring parts of one label as one."""
  runs = [list(run) for _, run in itertools.groupby(parts, key=lambda part: part.label)]
  return [run[0]._replace(tokens=sum(part.tokens for part in run)) for run in runs]


def mask_lines(config: Config, unit_count: int) -> list[str]:
  """The mask in characters, a row and a column for each phase of each unit: x all, / some, . none."""
  mask, parts = session_mask(config, unit_count)
  groups = merged(parts)
  starts = np.cumsum([0, *(group.tokens for group in groups)])[:-1]
  seen = np.add.reduceat(np.add.reduceat(mask.astype(np.int64), starts, 0), starts, 1)  # [groups, groups], pairs
  width = max(len(group.label) for group in groups) + 1
  lines = [" " * (width + 2) + "".join(group.label.ljust(width) for group in groups).rstrip()]
  for group, row in zip(groups, seen):
    pairs = [group.tokens * keys.tokens for keys in groups]
    cells = ["." if not n else "x" if n == whole else "/" for n, whole in zip(row, pairs)]
    lines.append("  " + group.label.ljust(width) + "".join(cell.ljust(width) for cell in cells).rstrip())
  phases = {group.phase for group in groups}
  legend = ", ".join(f"{letter} {phase}" for phase, letter in LETTERS.items() if phase in phases)
  return ["who (row) sees whom (column): x all, / some (token by token), . none", *lines, f"  {legend}"]


def draw_mask(config: Config, unit_count: int, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes the mask as a PNG, one pixel or more for each token, coloured by the key's phase. Returns the path."""
  from matplotlib.figure import Figure

  out = pathlib.Path(path)
  if out.suffix.lower() != ".png":
    raise UserError(f"--png is {str(out)!r}: expected a name that ends in .png")
  mask, parts = session_mask(config, unit_count)
  figure = Figure(figsize=(9, 9), layout="constrained")
  axes = figure.add_subplot()
  axes.imshow(colored(mask, parts), interpolation="nearest")
  label_axes(axes, merged(parts))
  axes.set_title(f"{config.name}: visible(query, key), {unit_count} units, {len(mask)} tokens", fontsize=10)
  try:
    save_figure(out, figure, dpi=150)
  except OSError as error:
    raise UserError(f"cannot write {out}: {error.strerror or error}") from error
  return out


def colored(mask: np.ndarray, parts: Sequence[MaskPart]) -> np.ndarray:
  """A mask [T, T] as a picture, RGB [T, T, 3]: every key that is seen has the colour of its phase."""
  from matplotlib.colors import to_rgb

  colors = np.asarray([to_rgb(COLORS[part.phase]) for part in parts])
  palette = np.repeat(colors, [part.tokens for part in parts], axis=0)  # [T, 3], one colour a key
  return np.where(mask[:, :, None], palette[None, :, :], to_rgb(INVISIBLE))


def label_axes(axes: Any, groups: Sequence[MaskPart]) -> None:
  """Names the groups along both sides of a mask's picture and draws lines between them."""
  tokens = np.asarray([group.tokens for group in groups])
  ends = np.cumsum(tokens) - 0.5  # a pixel's centre is a whole number, its border half of one more
  for end in ends[:-1]:
    axes.axhline(end, color="white", linewidth=0.6)
    axes.axvline(end, color="white", linewidth=0.6)
  labels = [group.label for group in groups]
  axes.set_xticks(ends - tokens / 2, labels, fontsize=7, rotation=90 if len(groups) > 30 else 0)
  axes.set_yticks(ends - tokens / 2, labels, fontsize=7)
  axes.xaxis.tick_top()
  axes.tick_params(length=0)
  axes.set_xlabel("key")
  axes.set_ylabel("query")


# Weights


def tree_lines(shapes: Mapping[str, Sequence[int]], depth: int) -> list[str]:
  """{dotted name: shape} as an indented tree with parameter counts; below `depth`, names are summed up."""
  sums: dict[tuple[str, ...], list[int]] = {}
  for name, shape in shapes.items():
    path = tuple(name.split("."))
    for level in range(min(depth, len(path)) + 1):
      entry = sums.setdefault(path[:level], [0, 0])
      entry[0] += math.prod(shape)
      entry[1] += 1
  rows: list[Sequence[Any]] = [("parameters", "arrays", "name", "shape")]
  for path, (parameters, arrays) in sums.items():
    label = "  " * (len(path) - 1) + path[-1] if path else "total"
    leaf = shapes.get(".".join(path))
    rows.append((count(parameters), arrays, label, "" if leaf is None else list(leaf)))
  return table(rows, right=(0, 1))


def checkpoint_lines(path: str | os.PathLike[str], depth: int) -> list[str]:
  """What lies at `path` (an export, a training run or one of its checkpoints), without loading it."""
  folder = store.find_weights(resolve(path))
  exported = (folder / store.WEIGHTS_FILE).exists()
  name = store.CONFIG_FILE if exported else store.META_FILE
  config, header = store.read_header(folder, name), json.loads((folder / name).read_text())
  shapes, stored = export_shapes(folder / store.WEIGHTS_FILE) if exported else run_shapes(header["leaves"])
  size = sum((root / name).stat().length for root, _, names in folder.walk() for name in names)
  return [
    f"{folder}: {'exported weights' if exported else f'training checkpoint of step {folder.name}'}, "
    f"format {header['format']}, {bytes_text(size)} on disk",
    f"config {config.name!r}, stage {config.train.stage!r}, "
    f"{config.media.width}x{config.media.height} pixels; stored as {stored}",
    "",
    *tree_lines(shapes, depth),
  ]


def export_shapes(file: pathlib.Path) -> tuple[dict[str, list[int]], str]:
  """({name: shape}, "n bf16, m i8") of a safetensors file, from its header alone."""
  from safetensors import SafetensorError, safe_open

  shapes: dict[str, list[int]] = {}
  kinds: dict[str, int] = {}
  try:
    with safe_open(file, "np") as tensors:
      for name in sorted(tensors.keys()):
        if not name.endswith(store.SCALE):
          piece = tensors.get_slice(name)
          shapes[name] = list(piece.get_shape())
          kinds[piece.get_dtype().lower()] = kinds.get(piece.get_dtype().lower(), 0) + math.prod(shapes[name])
  except (OSError, SafetensorError) as error:
    raise CheckpointError(f"cannot read {file}: {error}; the file is missing or incomplete") from error
  return shapes, ", ".join(f"{count(number)} {kind}" for kind, number in kinds.items())


def run_shapes(leaves: Mapping[str, dict[str, list[int]]]) -> tuple[dict[str, list[int]], str]:
  """({name: shape} of the parameters, what else is stored) of a training checkpoint."""
  others = ", ".join(part for part in leaves if part != "params")
  return leaves["params"], f"float32, with {others}"


def model_lines(config: Config, depth: int) -> list[str]:
  """What each part of the agent costs, and its parameters as a tree, through `jax.eval_shape`."""
  from flax import nnx

  from wanstreamer_jax.rollout import Agent

  agent = jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))
  shapes = {name: leaf.shape for name, leaf in named_leaves(agent).items()}
  total = sum(math.prod(shape) for shape in shapes.values())
  sizes = ", ".join(
    f"{bytes_text(total * size)} as {kind}" for kind, size in (("float32", 4), ("bf16", 2), ("int8", 1))
  )
  return [
    f"{config.name}: {count(total)} parameters, {sizes}", "",
    *part_lines(config, count, bytes_text, table), "",
    *tree_lines(shapes, depth),
  ]  # fmt: skip
