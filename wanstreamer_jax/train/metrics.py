"""What a run reports: `RUN/metrics.jsonl` (every step), TensorBoard (every log), a progress bar.

A line of metrics.jsonl is {"step": updates done, "loss": ..., ...}; evaluations have their own lines with "eval/..."
keys. Numbers are float32 written exactly, so two equal runs have equal lines, `units_per_s` and `seconds` aside.
"""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from wanstreamer_jax.errors import TrainingError

METRICS_FILE = "metrics.jsonl"
QUIET = 5.0  # seconds between two lines where there is no terminal


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The lines of RUN/metrics.jsonl; a torn last line is left out."""
  file = pathlib.Path(run) / METRICS_FILE
  return _whole_lines(file.read_text()) if file.exists() else []


def _whole_lines(text: str) -> list[dict[str, Any]]:
  lines = []
  for line in text.splitlines():
    try:
      lines.append(json.loads(line))
    except ValueError:
      break  # the process was killed while it wrote this line; nothing after it can be trusted
  return lines


class MetricLog:
  """Writes the metrics of one run from step `start` on; what an earlier process wrote beyond `start` is dropped."""

  def __init__(self, run: pathlib.Path, start: int, steps: int, units_per_step: int):
    from tensorboardX import SummaryWriter
    from tqdm import tqdm

    self.run, self._units, self._steps = run, units_per_step, steps
    self.evaluated = False  # whether step `start` has its evaluation already
    try:
      self._truncate(start)
      self._file = (run / METRICS_FILE).open("a")
      self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
    except OSError as error:
      raise self._failed(error) from error
    self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, disable=None)
    self._clock, self._since, self._said = time.perf_counter(), start, 0.0

  def _truncate(self, start: int) -> None:
    kept = [line for line in read_metrics(self.run) if line["step"] <= start]
    self.evaluated = any(line["step"] == start and _is_evaluation(line) for line in kept)
    file = self.run / METRICS_FILE
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(temporary, file)

  def restart_clock(self) -> None:
    """Leaves out what was just done (an evaluation, a compilation) from the speed."""
    self._clock = time.perf_counter()

  def steps(self, first: int, records: Sequence[dict[str, float]]) -> None:
    """Metrics of the updates first, first + 1, ... (counted from 1), in order."""
    if not records:
      return
    last = first + len(records) - 1
    seconds = time.perf_counter() - self._clock
    speed = self._units * (last - self._since) / max(seconds, 1e-9)
    lines = [{"step": first + index, "loss": record["loss"], **record} for index, record in enumerate(records)]
    lines[-1] |= {"units_per_s": round(speed, 2), "seconds": round(seconds, 3)}
    self._write(lines)
    means = {name: sum(record[name] for record in records) / len(records) for name in records[0]}
    self._show(last, {**means, "units_per_s": speed}, prefix="train/")
    self._bar.set_postfix(loss=f"{means['loss']:.4g}", units_per_s=f"{speed:.0f}", refresh=False)
    self._bar.update(last - self._bar.n)
    now = time.perf_counter()
    if self._bar.disable and (now > self._said + QUIET or last == self._steps):  # no terminal: lines instead of a bar
      left = seconds / max(last - self._since, 1) * (self._steps - last)
      print(f"step {last}/{self._steps} loss {means['loss']:.4g} {speed:.0f} units/s, {left:.0f} s left", flush=True)
      self._said = now
    self._clock, self._since = now, last

  def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
    """Metrics of an evaluation after `step` updates."""
    record = {f"eval/{name}": float(value) for name, value in metrics.items()}
    self._write([{"step": step, **record}])
    self._show(step, record, prefix="")
    text = ", ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
    self._bar.write(f"step {step}: {text}", file=sys.stdout)

  def _write(self, lines: list[dict[str, Any]]) -> None:
    try:
      self._file.write("".join(json.dumps(_plain(line)) + "\n" for line in lines))
      self._file.flush()  # before the next checkpoint begins: a restart from it finds these lines
    except OSError as error:
      raise self._failed(error) from error

  def _show(self, step: int, metrics: dict[str, float], prefix: str) -> None:
    try:
      for name, value in metrics.items():
        self._board.add_scalar(prefix + name, value, step)
      self._board.flush()
    except OSError as error:
      raise self._failed(error) from error

  def _failed(self, error: OSError) -> TrainingError:
    return TrainingError(f"cannot write metrics to {self.run}: {error.strerror or error}; checkpoints stay as they are")

  def __enter__(self) -> "MetricLog":
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.close()
    try:
      self._board.close()
      self._file.close()
    except OSError:
      pass  # said already, or lost with nothing but a buffer


def _is_evaluation(line: dict[str, Any]) -> bool:
  return any(name.startswith("eval/") for name in line)


def _plain(line: dict[str, Any]) -> dict[str, Any]:
  """JSON has no NaN: such a value is written as null."""
  return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in line.items()}
