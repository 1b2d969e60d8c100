"""One training loop for all stages: `train(stage, config)`.

A run is a folder (`config.train.run`), here or in an object store (train/run_folder.py):
  config.json     the exact config of the last start
  code.json       the code of that start: git revision, whether it was changed, versions; the language model's hash
  metrics.jsonl   one line per step and per evaluation (train/metric_log.py)
  tensorboard/    the same for TensorBoard
  checkpoints/    whole states (train/checkpoint.py)
  tokenizer.json  of the text that it was trained on, for exports
  lock            held by the process that trains
  pictures/       what evaluations draw

Starting a run that has checkpoints continues it. Update number `step` takes batch `step` and random key
`fold_in(seed, step)`, and nothing else changes the state, so a continued run repeats an uninterrupted one bit for bit
on the same devices (on GPUs with XLA_FLAGS=--xla_gpu_deterministic_ops=true).

In a job of several processes (parallel/hosts.py) all run this loop. The first one writes the files and evaluates; all
of them write checkpoints, and all stop at the same step.
"""

import contextlib
import dataclasses
import functools
import math
import os
import signal
import threading
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import config_to_dict
from wanstreamer_jax.data.rendered import RenderedLoader
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import ConfigError, Stopped, TrainingError
from wanstreamer_jax.files import replacing, write_json
from wanstreamer_jax.parallel import hosts
from wanstreamer_jax.parallel.machine import peak_flops
from wanstreamer_jax.parallel.mesh import check_batch, enable_compilation_cache, make_mesh
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.train import provenance
from wanstreamer_jax.train.checkpoint import Checkpoints
from wanstreamer_jax.train.clock import Clock
from wanstreamer_jax.train.flops import model_flops
from wanstreamer_jax.train.language_model import language_model_params
from wanstreamer_jax.train.metric_log import MetricLog
from wanstreamer_jax.train.nonfinite import first_nonfinite
from wanstreamer_jax.train.prefetch import Prefetcher
from wanstreamer_jax.train.run_folder import RunFolder
from wanstreamer_jax.train.senses import senses
from wanstreamer_jax.train.stage import Batch, BatchLoader, Stage
from wanstreamer_jax.train.state import TrainState, compile_step, fresh_state, init_state, state_shardings
from wanstreamer_jax.weights.agent import resolve
from wanstreamer_jax.weights.store import TOKENIZER_FILE

WITHOUT_TEXT = ("audio_codec", "video_codec")  # stages


def train(stage: Stage, config: Config) -> TrainState:
  """Trains to `config.train.steps` updates, from the run's last checkpoint if it has one. Returns the last state.

  Raises ConfigError (mesh, batch, processes that disagree), CheckpointError, TrainingError (a loss that is not finite,
  a folder that cannot be written), LostHostError (another process is gone), and KeyboardInterrupt, whose message is to
  be shown, after Ctrl-C, when the work is saved.
  """
  if not config.train.run.strip("/ "):
    raise ConfigError(
      f"train.run is {config.train.run!r}: give a folder of its own, like runs/tiny, or gs://bucket/run"
    )
  clock = Clock(config.train.minutes)
  config, tokenizer = with_tokenizer_hash(config)
  enable_compilation_cache()
  hosts.check_same(provenance.facts(config))
  mesh = make_mesh(config.train.mesh)
  check_batch(config.data.batch, mesh)
  loader = stage.make_loader(config)
  with (
    loader if isinstance(loader, contextlib.AbstractContextManager) else contextlib.nullcontext(),
    hosts.only_first_speaks(),
    RunFolder(config.train.run) as run,
    jax.set_mesh(mesh),
    Interrupt() as interrupt,
    Checkpoints(run.checkpoints, config) as checkpoints,
    hosts.peers_watched(),
  ):
    state = start_state(stage, config, mesh, checkpoints)
    start = int(state.step)
    write_json(run.local / "config.json", config_to_dict(config))
    about = provenance.code() | provenance.brought_parts(config) | provenance.codecs_of(loader)
    write_json(run.local / "code.json", about)
    if tokenizer is not None:
      with replacing(run.local / TOKENIZER_FILE) as temporary:
        temporary.write_bytes(tokenizer.blob)
    with (
      MetricLog(run.local, start, config.train.steps, stage.units(config), clock.left if clock.runs else None) as log,
      Prefetcher(loader, mesh, start, config.train.steps) as prefetcher,
    ):
      state = _Updates(stage, config, mesh, loader, run, checkpoints, log, prefetcher, interrupt, clock).run_from(state)
    finish = stage.finish
    if finish is not None:
      hosts.on_first(state.averaged, lambda weights: finish(weights, config, run.local))
    return state


def start_state(stage: Stage, config: Config, mesh: Mesh, checkpoints: Checkpoints) -> TrainState:
  """The run's last checkpoint, else the weights of `train.init`, else random ones with those of `train.language_model`,
  `train.hearing` and `train.seeing` in their places; all are created on their own devices.
  """
  abstract, shardings = state_shardings(stage, config, mesh)
  state = checkpoints.restore(abstract, shardings)
  if state is not None:
    print(f"continuing {config.train.run} from step {int(state.step)}", flush=True)
    return state
  constants = (stage.constants(config) if stage.constants else {}) | senses(config, abstract.params)
  if config.train.init:
    weights = stage.load(resolve(config.train.init), abstract.params, config)
  elif config.train.language_model:
    weights = language_model_params(stage, config, abstract.params, shardings.params)
  elif constants:
    weights = jax.jit(lambda: init_state(stage, config).params, out_shardings=shardings.params)()
  else:
    return jax.jit(functools.partial(init_state, stage, config), out_shardings=shardings)()
  weights = jax.device_put(fill_leaves(weights, named_leaves(weights) | constants), shardings.params)
  return jax.jit(functools.partial(fresh_state, stage, config), out_shardings=shardings)(weights)


def with_tokenizer_hash(config: Config) -> tuple[Config, TextTokenizer | None]:
  """The config with the hash of its tokenizer, so that checkpoints and exports say whose ids the embedding has, and
  the tokenizer, which the run keeps for exports; None for stages without text."""
  if config.train.stage in WITHOUT_TEXT:
    return config, None
  tokenizer = tokenizer_of(config)
  return config.replace(data=config.data.replace(tokenizer_sha256=tokenizer.sha256)).freeze(), tokenizer


@dataclasses.dataclass(frozen=True)
class _Updates:
  """The updates between one start of a run and its end, with their logs, checkpoints and evaluations."""

  stage: Stage
  config: Config
  mesh: Mesh
  loader: BatchLoader
  run: RunFolder
  checkpoints: Checkpoints
  log: MetricLog
  prefetcher: Prefetcher
  interrupt: "Interrupt"
  clock: Clock

  def run_from(self, state: TrainState) -> TrainState:
    """From state.step to train.steps, or to the end by the clock."""
    train, start = self.config.train, int(state.step)
    evaluated = hosts.from_first(self.log.evaluated)
    if start > 0 and _due(start, train.eval_every, train.steps) and not evaluated:
      self._evaluate(state, start)  # the run was killed between this checkpoint and its evaluation
    stage, compiled, pending = None, None, []
    for done in range(start + 1, train.steps + 1):
      batch = self.prefetcher.next()
      if compiled is None or stage is not self._stage_of(done):
        stage = self._stage_of(done)
        compiled = self._compile(stage, state, batch)
        self.prefetcher.waited()
        self.log.restart_clock()
      with jax.transfer_guard("disallow"):
        state, metrics = compiled(state, batch, *self.clock.arguments(self.mesh))
      pending.append(metrics)
      stop = self.interrupt.asked(done)  # asked once: a signal that arrives later counts for the next step
      last = done == train.steps or self.clock.over()
      save = stop or last or self._save_due(done)
      if save or done == train.first_steps or _due(done, train.log_every, train.steps):
        records = _to_host(pending)
        broken = next((index for index, record in enumerate(records) if _broken(record)), None)
        if broken is not None:
          del state, metrics  # frees memory for the search for the cause
          raise self._not_finite(done - len(records) + 1 + broken, records[broken])
        self.log.steps(done - len(pending) + 1, records, self.prefetcher.waited())
        self.run.copy()
        pending = []
      if save:
        self.checkpoints.save(state, done)
      if stop:
        self.checkpoints.wait()
        raise Stopped(f"stopped at step {done} of {train.steps}, saved; the same command continues from there")
      if _due(done, train.eval_every, train.steps):
        self._evaluate(state, done)
      if last:
        break
    self.checkpoints.wait()
    return state

  def _save_due(self, done: int) -> bool:
    train = self.config.train
    return self.clock.save_due() if self.clock.runs else _due(done, train.checkpoint_every, train.steps)

  def _stage_of(self, done: int) -> Stage:
    """The stage that makes the update after which `done` are done."""
    return self.stage.of_update(self.config, done - 1)

  def _compile(self, stage: Stage, state: TrainState, batch: Batch) -> Any:
    begin = time.perf_counter()
    share = self.clock.arguments(self.mesh, 0.0)  # of this shape; the schedule begins with the first update
    step = compile_step(stage, self.config, self.mesh, self.clock.runs)
    compiled = step.lower(state, batch, *share).compile()
    print(f"compiled the {stage.name} step in {time.perf_counter() - begin:.1f} s", flush=True)
    peak, _ = peak_flops(self.config.model.dtype)
    self.log.compare_with(model_flops(stage, self.config, batch) / (self.mesh.size * peak))
    return compiled

  def _evaluate(self, state: TrainState, step: int) -> None:
    evaluate = self.stage.evaluate
    if evaluate is None:
      return
    try:
      metrics = hosts.on_first(state.averaged, lambda weights: evaluate(weights, self.config, self.run.local, step))
    except OSError as error:
      raise TrainingError(
        f"cannot write the evaluation of step {step} to {self.run.path}: {error.strerror or error}"
      ) from error
    self.log.evaluation(step, metrics or {})
    self.run.copy()
    self.log.restart_clock()

  def _not_finite(self, step: int, record: dict[str, float]) -> TrainingError:
    """The error of an update whose loss or gradient is not finite, with the first bad tensor and the batch."""
    names = sorted(_broken(record), key=lambda name: name != "loss")
    more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
    broken = ", ".join(f"{name} = {record[name]}" for name in names[:3]) + more
    if isinstance(self.loader, RenderedLoader):
      return TrainingError(
        f"step {step} is not finite: {broken}; its batch was rendered and is gone; {self.run.checkpoints} is "
        "unchanged. Lower train.learning_rate or train.clip"
      )
    print(
      f"step {step} is not finite ({broken}); repeating the steps since the last checkpoint to find the cause",
      flush=True,
    )
    state = start_state(self.stage, self.config, self.mesh, self.checkpoints)
    with Prefetcher(self.loader, self.mesh, int(state.step), step) as prefetcher:
      stage, compiled = None, None
      for done in range(int(state.step) + 1, step):
        if compiled is None or stage is not self._stage_of(done):
          stage = self._stage_of(done)
          compiled = compile_step(stage, self.config, self.mesh, self.clock.runs)
        state, _ = compiled(state, prefetcher.next(), *self.clock.arguments(self.mesh))
      cause = first_nonfinite(self._stage_of(step), self.config, state, prefetcher.next())
    return TrainingError(
      f"step {step} is not finite: {broken}; {cause}; {self.run.checkpoints} is unchanged. "
      "Lower train.learning_rate or train.clip, or inspect that batch"
    )


def _due(done: int, every: int, steps: int) -> bool:
  """Whether something that happens every `every` updates (0: never) is due after `done`; always after the last."""
  return every > 0 and (done % every == 0 or done == steps)


def _to_host(pending: list[dict[str, jax.Array]]) -> list[dict[str, float]]:
  """Host copies of the last updates' metrics."""
  return [{name: float(value) for name, value in metrics.items()} for metrics in jax.device_get(pending)]


def _broken(record: dict[str, float]) -> list[str]:
  """The metrics that are not finite, if the loss or the gradient is among them."""
  if math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]):
    return []
  return [name for name, value in record.items() if not math.isfinite(value)]


class Interrupt:
  """Ctrl-C (SIGINT) and SIGTERM ask the loop to save and stop after the current step; a second signal stops at once.

  A context manager. Outside the main thread, where Python receives no signals, it never asks. In a job of several
  processes jax handles SIGTERM: its coordination service informs all of them and lets them agree on a coming step. A
  process that gets Ctrl-C sends SIGTERM to itself.
  """

  def __init__(self) -> None:
    self.requested = False
    self._before: dict[int, Any] = {}

  def __enter__(self) -> "Interrupt":
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT,) if hosts.several() else (signal.SIGINT, signal.SIGTERM):
        self._before[number] = signal.signal(number, self._ask)
    return self

  def asked(self, step: int) -> bool:
    """Whether to save and stop after this step; called once after every step, by all processes."""
    if hosts.several():
      return multihost_utils.reached_preemption_sync_point(step)
    return self.requested

  def _ask(self, number: int, frame: object) -> None:
    if self.requested:
      raise KeyboardInterrupt("stopped at once; the last checkpoint is kept")
    self.requested = True
    print("\nstopping after this step and its checkpoint; a second signal stops at once", flush=True)
    if hosts.several():
      os.kill(os.getpid(), signal.SIGTERM)

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
