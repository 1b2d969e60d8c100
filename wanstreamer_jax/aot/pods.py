"""Compiles the larger sizes for the pods that suit them and writes `docs/scale.md`. The page helps to plan a booking.

One cell is one program on one pod. Results are kept in a JSON file beside the document as they are finished, so that a
stopped command continues where it was. A cell whose config has changed is compiled again.
"""

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from wanstreamer_jax.aot.compile import DECODERS, SENSES
from wanstreamer_jax.aot.report import report_lines
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import REPOSITORY, flat_fields, load_config
from wanstreamer_jax.errors import UserError
from wanstreamer_jax.files import write_text
from wanstreamer_jax.parallel.machine import CHIPS, GIB

STORAGE = ("data.user_video", "data.agent_video", "data.video_piece")
HOURS = 10_000  # of conversation, the amount of training that the document plans for


@dataclasses.dataclass(frozen=True)
class PodCell:
  """One program. config: a file of configs/ and its argument; window: of the unit step, in seconds."""

  config: str
  topology: str
  what: str
  slices: int = 1
  window: int = 0
  overrides: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    slices = f"{self.slices} x " if self.slices > 1 else ""
    window = f", {self.window} s" if self.window else ""
    return " ".join([f"{self.what}: {self.config}{window}, {slices}{self.topology}", *self.overrides])

  @property
  def path(self) -> str:
    return str(REPOSITORY / "configs" / self.config)

  def changes(self) -> list[str]:
    """What its config changes of the file's config. Several slices share a larger batch."""
    config, changes = load_config(self.path, self.overrides), list(self.overrides)
    if self.slices > 1:
      changes += [f"train.mesh=data={self.slices},{config.train.mesh}", f"data.batch={self.slices * config.data.batch}"]
    if self.window:
      changes.append(f"layout.window={round(self.window * 1000 / config.media.unit_ms)}")
    return changes

  def load(self) -> Config:
    """Its frozen config."""
    return load_config(self.path, self.changes())


def _on(size: str, topology: str, slices: int = 1) -> tuple[PodCell, ...]:
  """Training with both published picture sizes: sessions of 60 s of the small one, of 20 s of the large one."""
  of = f"pods.py:{size},{topology}"
  return tuple(PodCell(f"{of},{pictures}", topology, "train", slices) for pictures in ("192x336", "640x368"))


CELLS = (
  PodCell("demo.py", "v5e:2x2", "train"),
  *_on("qwen2p5_1p5b", "v5e:16x16"),
  *_on("qwen2p5_1p5b", "v6e:16x16"),
  *_on("qwen3_1p7b", "v5e:16x16"),
  *_on("qwen3_1p7b", "v6e:16x16"),
  *_on("qwen3_1p7b", "v5p:4x4x4"),
  *_on("qwen3_8b", "v5p:4x4x8"),
  *_on("qwen3_8b", "v6e:16x16"),
  *_on("qwen3_8b", "v5p:4x4x8", slices=2),
  PodCell("demo.py", "v5e:2x2", "step", window=10),
  *(
    PodCell(f"real.py:{size},{pictures}", topology, "step", window=seconds)
    for size in ("qwen2p5_1p5b", "qwen3_1p7b")
    for topology in ("v6e:1x1", "v5p:2x2x1")
    for pictures, seconds in (("192x336", 60), ("640x368", 20))
  ),
)


def compile_cells(
  store: pathlib.Path, cells: Sequence[PodCell], only: str = "", plan: bool = False
) -> dict[str, dict[str, Any]]:
  """Results by the names of cells: those of `store`, and those that were missing there or are of another config than
  today's, compiled now. Results of another config that were not compiled again have "older": True.

  only: compile only cells whose names contain it. plan: stop at the memory plan (`compile.plan_memory`); without it, a
  stored plan counts as missing.
  """
  done = json.loads(store.read_text()) if store.exists() else {}
  for number, cell in enumerate(cells):
    key = fingerprint(cell.load())
    found = done.get(cell.name, {})
    if only not in cell.name or (found.get("key") == key and (plan or found.get("code", True))):
      continue
    print(f"{time.strftime('%H:%M:%S')} {number + 1} of {len(cells)}: {cell.name}", flush=True)
    done[cell.name] = {"key": key, **compile_cell(cell, plan)}
    store.parent.mkdir(parents=True, exist_ok=True)
    write_text(store, json.dumps(done, indent=1) + "\n")
  older = lambda cell: {"older": True} if done[cell.name]["key"] != fingerprint(cell.load()) else {}
  return {cell.name: done[cell.name] | older(cell) for cell in cells if cell.name in done}


def fingerprint(config: Config) -> str:
  """A hash of the fields that differ from their defaults, so that a new field at its default changes nothing; how
  pictures are stored changes no program either."""
  defaults = flat_fields(Config())
  fields = {name: value for name, value in flat_fields(config).items() if not name.startswith(STORAGE)}
  changed = {name: value for name, value in fields.items() if value != defaults[name]}
  return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]


def compile_cell(cell: PodCell, plan: bool) -> dict[str, Any]:
  """The result of `wanstreamer aot` in a process of its own, whose memory ends with it; {"error": a line} where the
  command refuses, as it does for a program that does not fit."""
  command = [sys.executable, "-m", "wanstreamer_jax", "aot", "--config", cell.path, "--topology", cell.topology]
  command += ["--what", cell.what, "--slices", str(cell.slices), "--json", *(["--plan"] if plan else [])]
  changes = [f"--config.{change}" for change in cell.changes()]
  run = subprocess.run([*command, *changes], capture_output=True, text=True)
  if run.returncode not in (0, 2):
    raise UserError(f"{cell.name}: aot ended with code {run.returncode}: {run.stderr.strip()[-500:]}")
  line = (run.stderr.strip().splitlines() or [""])[-1]
  return {"error": line.removeprefix("wanstreamer: error: ")} if run.returncode else json.loads(run.stdout)


def document(results: dict[str, dict[str, Any]]) -> str:
  """docs/scale.md."""
  cells = [(cell, results[cell.name]) for cell in CELLS if cell.name in results]
  missing = [cell.name for cell in CELLS if cell.name not in results]
  train = [_train_row(cell, result) for cell, result in cells if cell.what == "train"]
  step = [_step_row(cell, result) for cell, result in cells if cell.what == "step"]
  tables = [f"### {cell.name}\n\n```\n{_table(result)}\n```" for cell, result in cells]
  planned = [cell.name for cell, result in cells if not result.get("code", True)]
  notes = [f"Not compiled yet: {'; '.join(missing)}."] if missing else []
  if any(result.get("older") for _, result in cells):
    notes.append(OLDER)
  if planned:
    which = "all of them" if len(planned) == len(cells) else "; ".join(planned)
    notes.append(f"Programs and memory were planned, with no code generated (`--plan`): {which}.")
  return "\n\n".join([
    HEAD, *notes, "## Training", TRAIN_TEXT, "\n".join([TRAIN_HEAD, _rule(TRAIN_HEAD), *train]),
    "## One session, live", STEP_TEXT, "\n".join([STEP_HEAD, _rule(STEP_HEAD), *step]),
    "## Every table", TABLES_TEXT, *tables,
  ]) + "\n"  # fmt: skip


HEAD = """# Which pod for which size

Written by `wanstreamer aot --all --out docs/scale.md`; do not edit. Each row is the real program of one config,
compiled for that pod by the TPU compiler on a machine without TPUs.

**What this shows:** memory, products and collectives are the compiler's own figures, but nothing was run. Times are
lower bounds computed from published rates (`wanstreamer_jax/aot/roofline.py`), not measurements."""

OLDER = "Rows marked (older) were compiled for a config that had this name before: small native ears, eyes and codecs."

TRAIN_TEXT = f"""`at best`: the busiest of matrix units, HBM, torus links and the network between slices works at its
published rate all the time, and all other work overlaps with it. `serial`: the same rates, but nothing overlaps. A real
step takes longer than `at best`; with a good schedule it takes less than `serial` plus launch gaps. MFU divides what
the model needs (three times the forward pass, no recomputation, no masked attention) by `at best`. The last two columns
are for one pass over {HOURS:,} hours of conversation, at best and serial: book time for the second."""
TRAIN_HEAD = (
  "| size, frames | session | pod | mesh | batch, tokens | HBM of chip | step: at best, serial | bound by | MFU | "
  f"tokens/s | {HOURS:,} h: hours | chip-hours |"
)
STEP_TEXT = """One unit is 160 ms of the conversation, and its step must take less. Codecs, all solver steps and the
whole history are included; the host's work and the network to the browser are not. Attention over the history is a
kernel (`nn/attention_cache.py`); everything that it computes and reads is counted, padding included. The work of the
vector units is not in the bound, since their rates are not published: 60 billion exponentials a unit at 192x336, 250
billion at 640x368. The last two columns are the products of encoders and decoders and their time at the full rate of
the matrix units, both of which are in the unit as well. Latents of Wan2.2 are decoded by TAEW2.2's layout: its own
decoder would need 4.7 TFLOP a unit at 192x336."""
STEP_HEAD = (
  "| size, frames | history | chip | HBM of chip | unit: at best, serial | bound by | hear and see | speak and draw |"
)


TABLES_TEXT = """All figures are for one chip. Links: the dimensions of the torus along which the members of a
collective's groups lie, and their number; `o` marks a closed ring. HBM counts every operand of every operation once;
kernels count with the bytes that they state."""


def _rule(head: str) -> str:
  return "|" + "---|" * (head.count("|") - 1)


def _pod(cell: PodCell) -> str:
  return f"{cell.slices} x {cell.topology}" if cell.slices > 1 else cell.topology


def _size(cell: PodCell, result: dict[str, Any]) -> str:
  """The config's name without the pod: "qwen3_8b, 640x368"."""
  name = (
    cell.config.removeprefix("pods.py:").removeprefix("real.py:").replace(f",{cell.topology}", "").replace(".py", "")
  )
  name = name.replace(":", ", ").replace(",", ", ").replace(",  ", ", ")
  return f"{name} (older)" if result.get("older") else name


def _seconds(cell: PodCell) -> str:
  config = cell.load()
  return (
    f"{(config.data.units if cell.what == 'train' else config.layout.window or 0) * config.media.unit_ms / 1000:.0f} s"
  )


def _memory(result: dict[str, Any]) -> str:
  peak, hbm = result["memory"]["peak"], result["hbm"]
  return f"{peak / GIB:.1f} of {hbm / GIB:.1f} GiB ({peak / hbm:.0%})"


def _train_row(cell: PodCell, result: dict[str, Any]) -> str:
  if "error" in result:
    return f"| {_size(cell, result)} | {_seconds(cell)} | {_pod(cell)} | {result['error']} |"
  train, batch = cell.load().train, cell.load().data.batch
  roofline, amount = result["roofline"], result["amount"]
  times = (roofline["seconds"], roofline["serial"])
  steps = HOURS * 3_600_000 / result["unit_ms"] / amount["units"]
  hours = [steps * seconds / 3600 for seconds in times]
  return (
    f"| {_size(cell, result)} | {_seconds(cell)} | {_pod(cell)}, {result['used']} chips | {train.mesh or 'fsdp'} | "
    f"{batch}, {amount['tokens'] / 1e6:.2f} M | {_memory(result)} | {times[0]:.2f} s, {times[1]:.2f} s | "
    f"{roofline['bound']} | "
    f"{roofline['mfu']:.0%} | {amount['tokens'] / times[0] / 1e6:.2f} M | {hours[0]:,.0f} to {hours[1]:,.0f} | "
    f"{hours[0] * result['used']:,.0f} to {hours[1] * result['used']:,.0f} |"
  )


def _step_row(cell: PodCell, result: dict[str, Any]) -> str:
  if "error" in result:
    return f"| {_size(cell, result)} | {_seconds(cell)} | {_pod(cell)} | {result['error']} |"
  roofline = result["roofline"]
  return (
    f"| {_size(cell, result)} | {_seconds(cell)} | one of {_pod(cell)} | {_memory(result)} | "
    f"{roofline['seconds'] * 1e3:.1f} ms, {roofline['serial'] * 1e3:.1f} ms | {roofline['bound']} | "
    f"{_share(result, SENSES)} | {_share(result, DECODERS)} |"
  )


def _share(result: dict[str, Any], part: str) -> str:
  """What a part of the unit costs: "46 GFLOP, 0.1 ms" at the rate of the matrix units."""
  if part not in result["flops"]:
    return "not counted"
  flops = result["flops"][part]
  return f"{flops / 1e9:.3g} GFLOP, {1e3 * flops / CHIPS[result['device']].flops:.3g} ms"


def _table(result: dict[str, Any]) -> str:
  return result["error"] if "error" in result else "\n".join(report_lines(result))


def scale_command(out: pathlib.Path, only: str, plan: bool) -> None:
  """Compiles what is missing and writes the document; the cells are kept beside it."""
  results = compile_cells(out.with_suffix(".json"), CELLS, only, plan)
  write_text(out, document(results))
  print(f"wrote {out}: {len(results)} of {len(CELLS)} cells")
