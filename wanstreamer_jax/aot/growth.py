"""Draws how the cost of a training step grows with session length, batch and devices. The figure is `docs/scale.png`.

It shows two things side by side: rooflines of compiled TPU programs, and steps timed on this machine's CPU, whose
devices are virtual ones on the same cores. Each line is relative to its first point and is drawn beside the growth of
its FLOPs.
"""

import functools
import pathlib
import statistics
import time
from typing import NamedTuple

import jax
import numpy as np

from wanstreamer_jax.aot.pods import PodCell, compile_cells
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import REPOSITORY, load_config
from wanstreamer_jax.data.loader import batch_shapes
from wanstreamer_jax.files import save_figure
from wanstreamer_jax.parallel.cost import count
from wanstreamer_jax.parallel.mesh import make_mesh, place_batch
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import compile_step, init_state, state_shardings, train_step

VIRTUAL_DEVICES = 4
ROUNDS = 5  # of all points in turn, so that other load on the machine affects all of them; the median counts


class Point(NamedTuple):
  """One step: units of a session, sessions of a batch, devices."""

  units: int
  batch: int
  devices: int = 1


SERIES = {  # what grows: the points on the CPU, and those compiled for v5e
  "units of a session": ([Point(u, 1) for u in (20, 40, 80, 160)], [Point(u, 4, 4) for u in (40, 80, 160, 320)]),
  "sessions of a batch": ([Point(20, b) for b in (1, 2, 4, 8)], [Point(40, b, 4) for b in (4, 8, 16)]),
  "devices, one batch": ([Point(20, 4, d) for d in (1, 2, 4)], [Point(40, 16, d) for d in (4, 8, 16)]),
}
SLICES = {4: "v5e:2x2", 8: "v5e:2x4", 16: "v5e:4x4"}
WIDE = (  # of the compiled programs: wide enough to keep a chip busy
  "model.width=1024", "model.heads=8", "model.kv_heads=8", "model.head_dim=128", "model.mlp=2816",
  "model.dtype=bfloat16", "model.attention=splash", "model.remat=full", "train.optimizer=adamw",
)  # fmt: skip


def overrides(point: Point) -> tuple[str, ...]:
  return (f"data.units={point.units}", f"data.batch={point.batch}", f"layout.window={point.units}")


def cell(point: Point) -> PodCell:
  """A point as a program for TPUs."""
  return PodCell("tiny.py", SLICES[point.devices], "train", overrides=(*WIDE, *overrides(point)))


def compiled(store: pathlib.Path, plan: bool) -> dict[Point, tuple[float, float]]:
  """(shortest seconds, counted FLOPs of all chips) of every point for TPUs; compiles what `store` lacks."""
  points = dict.fromkeys(point for _, line in SERIES.values() for point in line)
  results = compile_cells(store, [cell(point) for point in points], plan=plan)
  of = lambda result: (result["roofline"]["seconds"], sum(result["flops"].values()) * result["used"])
  return {point: of(results[cell(point).name]) for point in points}


def measured() -> dict[Point, tuple[float, float]]:
  """(median seconds, FLOPs) of every point on this machine, of the size `tiny`, timed in turns."""
  points = dict.fromkeys(point for line, _ in SERIES.values() for point in line)
  runs = {point: _Run(load_config(REPOSITORY / "configs/tiny.py", overrides(point)), point.devices) for point in points}
  times: dict[Point, list[float]] = {point: [] for point in points}
  for _ in range(ROUNDS):
    for point, run in runs.items():
      times[point].append(run.step())
  return {point: (statistics.median(times[point]), run.flops) for point, run in runs.items()}


class _Run:
  """A compiled training step with its state and a batch of zeros, warmed up."""

  def __init__(self, config: Config, devices: int):
    stage, mesh = get_stage("duplex"), make_mesh(f"data={devices}")
    shapes = batch_shapes(config)
    with jax.set_mesh(mesh):
      abstract, shardings = state_shardings(stage, config, mesh)
      self.flops = count(functools.partial(train_step, stage, config), abstract, shapes).flops
      self.state = jax.jit(functools.partial(init_state, stage, config), out_shardings=shardings)()
      self.batch = place_batch(jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), shapes), mesh)
      self.function = compile_step(stage, config, mesh).lower(self.state, self.batch).compile()
    self.step()

  def step(self) -> float:
    begin = time.perf_counter()
    self.state, metrics = self.function(self.state, self.batch)
    jax.block_until_ready((self.state, metrics))
    return time.perf_counter() - begin


Lines = dict[Point, tuple[float, float]]


def relative(points: list[Point], found: Lines) -> tuple[list[float], list[float], list[float]]:
  """(what grows, seconds, FLOPs), each over the first point's."""
  changed = next(i for i in range(3) if points[0][i] != points[-1][i])
  over = lambda values: [value / values[0] for value in values]
  return over([p[changed] for p in points]), over([found[p][0] for p in points]), over([found[p][1] for p in points])


def report_lines(cpu: Lines, tpu: Lines) -> list[str]:
  """The ratios as text."""
  lines = [f"{'':22}{'':6}{'grows':>8}{'time':>8}{'FLOPs':>8}   seconds"]
  for name, series in SERIES.items():
    for where, points, found in zip(("CPU", "v5e"), series, (cpu, tpu)):
      for grown, seconds, flops, point in zip(*relative(points, found), points):
        lines.append(f"{name:22}{where:6}{grown:7.0f}x{seconds:7.2f}x{flops:7.2f}x   {found[point][0]:.4g}")
  return lines


def draw(path: pathlib.Path, cpu: Lines, tpu: Lines) -> None:
  """Three panels on logarithmic axes; a line of slope 1 is "twice as much takes twice as long"."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(13, 4.4), layout="constrained")
  panels = figure.subplots(1, 3)
  for axes, (name, series) in zip(panels, SERIES.items()):
    for label, colour, points, found in zip(
      ("CPU, timed", "v5e, compiled, at best"), ("#178f82", "#4292c6"), series, (cpu, tpu)
    ):
      grown, seconds, flops = relative(points, found)
      spread = name.startswith("devices") and found is tpu  # chips share the work; virtual devices share the cores too
      due = [f / g for f, g in zip(flops, grown)] if spread else flops
      axes.plot(grown, due, ":", color=colour, linewidth=1.4, label=f"{label.partition(',')[0]}: its FLOPs"
                + (" a chip" if spread else ""))  # fmt: skip
      axes.plot(grown, seconds, "o-", color=colour, label=label)
      axes.annotate(f"{seconds[-1]:.2f}x", (grown[-1], seconds[-1]), xytext=(6, -3), textcoords="offset points",
                    color=colour)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel=f"{name}, over the first point")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.margins(x=0.2)
    axes.grid(color="#e5e5e5")
    axes.legend(frameon=False, fontsize=8)
  panels[0].set_ylabel("time of a step, and FLOPs, over the first point")
  panels[-1].set_title("the CPU's devices are virtual ones on the same cores", fontsize=9)
  save_figure(path, figure, dpi=110)


def growth_command(out: pathlib.Path, plan: bool) -> None:
  """Measures, compiles what is missing, and writes the picture. Must be the first use of jax in its process."""
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", VIRTUAL_DEVICES)
  cpu = measured()
  tpu = compiled(out.with_suffix(".json"), plan)
  draw(out, cpu, tpu)
  print("\n".join([*report_lines(cpu, tpu), f"wrote {out}"]))
