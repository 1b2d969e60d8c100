"""Logs a run: `RUN/metrics.jsonl`, TensorBoard, and lines on the terminal. The JSON file has a line for every step,
TensorBoard a point for every log.

A line of metrics.jsonl is {"step": updates done, "loss": ..., ...} with the fields of FIELDS. Those of MEASURED are
only in the last line of every `train.log_every` steps. Numbers are float32 and written exactly, so that two equal runs
have equal lines apart from MEASURED. TensorBoard has means over the steps between two logs, as train/NAME.
"""

import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from wanstreamer_jax.errors import TrainingError
from wanstreamer_jax.files import write_text
from wanstreamer_jax.parallel.machine import memory_bytes

METRICS_FILE = "metrics.jsonl"
QUIET = 5.0  # least seconds between two lines where standard output is no terminal
SHOWN = ("text", "audio", "video")  # parts of the loss that a terminal line shows

FIELDS = {  # every field by a pattern of its name; losses are those of the weights before the update
  r"step": "updates done or skipped",
  r"loss": "the loss, mean over the batch",
  r"text": "cross-entropy of the agent's text slots that exist, nats",
  r"token_nll": "the same, of text tokens alone (no PAD)",
  r"onset_nll": "the same, of the first word after a unit without words",
  r"token_accuracy": "share of text tokens that are the likeliest ones",
  r"z_squared": "mean of log(Z)^2 of the text logits; with train.z_loss",
  r"(audio|video)": "mean squared error of the velocities, over crops that have the stream; null where there was none",
  r"(audio|video)_tau_[0-3]": "the same, of units whose flow time is in [i/4, (i+1)/4); null where there was none",
  r"(stft|mel|pitch|kl|reconstruction|edge)": "parts of a codec's loss (train/codec_losses.py)",
  r"psnr": "of the video codec's reconstruction, dB",
  r"learning_rate": "of this update, before relative rates of groups",
  r"grad_norm": "L2 norm of the gradient, before clipping",
  r"grad_norm_usual": "the usual gradient norm (train/state.py, Spikes)",
  r"(grad|update)_norm/\w+": "L2 norms by parameter group, of the gradient before clipping and of the update",
  r"skipped": "updates skipped so far because their gradient norm was above train.spike times the usual one",
  r"eval/.*": "an evaluation's metric, on its own line (the stage's `evaluate`)",
  r"started": "unix time of the run's first start, on a line of its own",
  r"units_per_s": "units trained on per second, since the last log",
  r"seconds": "seconds between two logs, without compilation and evaluations",
  r"mfu": "model FLOPs (train/flops.py) / seconds / peak of all devices: bfloat16's data sheet, or a measured product",
  r"input_stall": "share of `seconds` spent waiting for the next batch",
  r"memory_gb": "peak memory of one device of this host, GB; not on CPUs",
  r"goodput": "share of the time since the first start that went into steps that were kept, restarts included",
}
MEASURED = ("started", "units_per_s", "seconds", "mfu", "input_stall", "memory_gb", "goodput")


def describe(name: str) -> str | None:
  """What a field means; None for an unknown field."""
  return next((text for pattern, text in FIELDS.items() if re.fullmatch(pattern, name)), None)


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
      break  # the process was killed while it wrote this line, so nothing after it can be trusted
  return lines


class MetricLog:
  """Writes the metrics of one run from step `start` on. Lines of an earlier process beyond `start` are dropped."""

  def __init__(
    self, run: pathlib.Path, start: int, steps: int, units_per_step: int, left: Callable[[], float] | None = None
  ):
    """left: seconds until the end of a run that ends by the clock."""
    from tqdm import tqdm

    self.run, self._units, self._steps, self._left = run, units_per_step, steps, left
    self.evaluated = False  # whether step `start` has its evaluation already
    self._at_peak = 0.0  # seconds of a step at the devices' peak rate; 0: unknown
    try:
      kept = self._truncate(start)
      self._file = (run / METRICS_FILE).open("a")
      self._board = _tensorboard(run, start)
    except OSError as error:
      raise self._failed(error) from error
    self._bar = tqdm(total=None if left else steps, initial=start, unit="step", dynamic_ncols=True, disable=None)
    self._good = sum(line.get("seconds", 0.0) for line in kept)  # of the steps of earlier processes
    self._skipped = max((line.get("skipped", 0) for line in kept), default=0)
    started = [line["started"] for line in kept if "started" in line]
    self._started = started[0] if started else time.time()
    if not started:
      self._write([{"step": start, "started": self._started}])
    self._clock, self._since, self._said = time.perf_counter(), start, 0.0

  def _truncate(self, start: int) -> list[dict[str, Any]]:
    """Drops lines beyond `start` and returns the others."""
    kept = [line for line in read_metrics(self.run) if line["step"] <= start]
    self.evaluated = any(line["step"] == start and _is_evaluation(line) for line in kept)
    file = self.run / METRICS_FILE
    write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
    return kept

  def compare_with(self, seconds_at_peak: float) -> None:
    """Reports `mfu` from now on: the seconds of a step at the devices' peak rate over those that it takes."""
    self._at_peak = seconds_at_peak

  def restart_clock(self) -> None:
    """Keeps what was just done (an evaluation, a compilation) out of the reported speed."""
    self._clock = time.perf_counter()

  def steps(self, first: int, records: Sequence[dict[str, float]], waited: float = 0.0) -> None:
    """Metrics of the updates first, first + 1, ... (counted from 1), in order. waited: seconds without a batch."""
    if not records:
      return
    last = first + len(records) - 1
    measured = self._measure(last, waited)
    lines = [{"step": first + index, "loss": record["loss"], **record} for index, record in enumerate(records)]
    lines[-1] |= measured
    self._write(lines)
    means = {name: _mean([record[name] for record in records]) for name in records[0]}
    self._show(last, {**means, **measured}, prefix="train/")
    self._report_skips(first, records)
    self._print_progress(last, means, measured)
    self._clock, self._since = time.perf_counter(), last

  def _measure(self, last: int, waited: float) -> dict[str, float]:
    """The fields of MEASURED since the last log."""
    seconds, steps = max(time.perf_counter() - self._clock, 1e-9), last - self._since
    self._good += seconds
    measured = {"units_per_s": round(self._units * steps / seconds, 2), "seconds": round(seconds, 3)}
    if self._at_peak:
      measured["mfu"] = round(steps * self._at_peak / seconds, 4)
    measured["input_stall"] = round(min(waited / seconds, 1.0), 4)
    memory = memory_bytes()
    if memory is not None:
      measured["memory_gb"] = round(memory / 1e9, 3)
    measured["goodput"] = round(min(self._good / max(time.time() - self._started, 1e-9), 1.0), 4)
    return measured

  def _report_skips(self, first: int, records: Sequence[dict[str, float]]) -> None:
    for step, record in enumerate(records, start=first):
      if record.get("skipped", 0) > self._skipped:
        self._skipped = record["skipped"]
        self._print(
          f"step {step} skipped: gradient norm {record['grad_norm']:.4g}, usually {record['grad_norm_usual']:.4g} "
          f"({self._skipped:.0f} skipped so far)"
        )

  def _print_progress(self, last: int, means: dict[str, float], measured: dict[str, float]) -> None:
    """Prints the main figures: at every log on a terminal, every QUIET seconds elsewhere."""
    self._bar.update(last - self._bar.n)
    now = time.perf_counter()
    if self._bar.disable and now <= self._said + QUIET and last != self._steps:
      return
    self._said = now
    parts = " ".join(f"{name} {means[name]:.4g}" for name in SHOWN if name in means)
    line = [
      f"step {last}{'' if self._left else f'/{self._steps}'} loss {means['loss']:.4g}"
      + (f" ({parts})" if parts else "")
    ]
    if "grad_norm" in means:
      line.append(f"gradient {means['grad_norm']:.3g}")
    line.append(f"{measured['units_per_s']:.0f} units/s")
    shares = {"mfu": "MFU", "input_stall": "waiting", "goodput": "goodput"}
    line += [f"{title} {measured[name]:.0%}" for name, title in shares.items() if name in measured]
    if "memory_gb" in measured:
      line.append(f"{measured['memory_gb']:.1f} GB")
    left = self._left() if self._left else measured["seconds"] / max(last - self._since, 1) * (self._steps - last)
    self._print(", ".join([*line, f"{_duration(left)} left"]))

  def _print(self, text: str) -> None:
    if self._bar.disable:
      print(text, flush=True)
    else:
      self._bar.write(text, file=sys.stdout)

  def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
    """Metrics of an evaluation after `step` updates."""
    record = {f"eval/{name}": float(value) for name, value in metrics.items()}
    self._write([{"step": step, **record}])
    self._show(step, record, prefix="")
    text = ", ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
    self._print(f"step {step}: {text}")

  def _write(self, lines: list[dict[str, Any]]) -> None:
    try:
      self._file.write("".join(json.dumps(_plain(line)) + "\n" for line in lines))
      self._file.flush()  # before the next checkpoint begins: a restart from it finds these lines
    except OSError as error:
      raise self._failed(error) from error

  def _show(self, step: int, metrics: dict[str, float], prefix: str) -> None:
    if self._board is None:
      return
    try:
      for name, value in metrics.items():
        if math.isfinite(value):  # a flow-time bin without a unit has no mean
          self._board.add_scalar(prefix + name, value, step)
      self._board.flush()
    except OSError as error:
      raise self._failed(error) from error

  def _failed(self, error: OSError) -> TrainingError:
    return TrainingError(f"cannot write metrics to {self.run}: {error.strerror or error}; checkpoints are not affected")

  def __enter__(self) -> "MetricLog":
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.close()
    try:
      if self._board is not None:
        self._board.close()
      self._file.close()
    except OSError:
      pass  # it was reported already, or only a buffer is lost


def _tensorboard(run: pathlib.Path, start: int) -> Any:
  """A writer of RUN/tensorboard for steps behind `start`; None, said in a line, without the package."""
  try:
    from tensorboardX import SummaryWriter
  except ModuleNotFoundError:
    print("tensorboardX is not installed: metrics go to metrics.jsonl only", flush=True)
    return None
  return SummaryWriter(str(run / "tensorboard"), purge_step=start + 1, filename_suffix=f".{start}")


def _mean(values: list[float]) -> float:
  """Mean of the values that are not NaN; a flow-time bin is empty at some steps."""
  found = [value for value in values if not math.isnan(value)]
  return sum(found) / len(found) if found else math.nan


def _duration(seconds: float) -> str:
  """A duration as short text: 40 s, 12 min, 3.5 h."""
  if seconds < 120:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _is_evaluation(line: dict[str, Any]) -> bool:
  return any(name.startswith("eval/") for name in line)


def _plain(line: dict[str, Any]) -> dict[str, Any]:
  """The line with null in place of NaN and infinity, which JSON lacks."""
  return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in line.items()}
