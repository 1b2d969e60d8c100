"""One training loop for all stages: `train(stage, config)`.

A run is a folder (`config.train.run`):
  config.json     the exact config of the last start
  metrics.jsonl   one line per step and per evaluation (train/metrics.py)
  tensorboard/    the same for TensorBoard
  checkpoints/    whole states (train/checkpoint.py)
  lock            held by the process that trains
  pictures/       what evaluations draw

Starting a run that has checkpoints continues it. Update number `step` takes batch `step` and random key
`fold_in(seed, step)`, and nothing else changes the state, so a continued run repeats the undisturbed one bit for bit on
the same devices (on GPUs with XLA_FLAGS=--xla_gpu_deterministic_ops=true).
"""

import contextlib
import fcntl
import functools
import math
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import config_to_dict, write_json
from wanstreamer_jax.errors import TrainingError
from wanstreamer_jax.machine import peak_flops
from wanstreamer_jax.parallel.mesh import check_batch, enable_compilation_cache, make_mesh
from wanstreamer_jax.train.checkpoint import Checkpoints
from wanstreamer_jax.train.feed import Feed
from wanstreamer_jax.train.flops import model_flops
from wanstreamer_jax.train.metrics import MetricLog
from wanstreamer_jax.train.stage import Stage
from wanstreamer_jax.train.state import TrainState, compile_step, fresh_state, init_state, state_shardings
from wanstreamer_jax.weights import load_weights


def train(stage: Stage, config: Config) -> TrainState:
  """Trains to `config.train.steps` updates, from the run's last checkpoint if it has one. Returns the last state.

  Raises ConfigError (mesh, batch), CheckpointError, TrainingError (a loss that is not finite, a folder that cannot be
  written), and KeyboardInterrupt after Ctrl-C, with the work saved and the message to show.
  """
  enable_compilation_cache()
  mesh = make_mesh(config.train.mesh)
  check_batch(config.data.batch, mesh)
  loader = stage.make_loader(config)
  run = make_run_folder(config)
  with (
    only_trainer(run),
    jax.set_mesh(mesh),
    Interrupt() as interrupt,
    Checkpoints(run / "checkpoints", config) as checkpoints,
  ):
    state = start_state(stage, config, mesh, checkpoints)
    start = int(state.step)
    write_json(run / "config.json", config_to_dict(config))
    with (
      MetricLog(run, start, config.train.steps, stage.units(config)) as log,
      Feed(loader, mesh, start, config.train.steps) as feed,
    ):
      state = _updates(stage, config, mesh, state, checkpoints, log, feed, interrupt)
    if stage.finish is not None:
      stage.finish(state.averaged, config, run)
    return state


def make_run_folder(config: Config) -> pathlib.Path:
  run = pathlib.Path(config.train.run)
  try:
    run.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise TrainingError(f"cannot make the run folder {run}: {error.strerror}; set train.run") from error
  return run


@contextlib.contextmanager
def only_trainer(run: pathlib.Path) -> Iterator[None]:
  """Holds the run's folder for this process: two that train into one folder would destroy each other's files."""
  with (run / "lock").open("w") as file:
    try:
      # A record lock: gone with this process however it ends, and not inherited by its workers.
      fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
      raise TrainingError(f"{run} is being trained by another process; wait for it, or set train.run") from None
    yield


def start_state(stage: Stage, config: Config, mesh: Mesh, checkpoints: Checkpoints) -> TrainState:
  """In this order: the run's last checkpoint, the weights of `train.init`, a fresh start; born where they belong."""
  abstract, shardings = state_shardings(stage, config, mesh)
  state = checkpoints.restore(abstract, shardings)
  if state is not None:
    print(f"continuing {config.train.run} from step {int(state.step)}", flush=True)
    return state
  if config.train.init:
    weights = jax.device_put(load_weights(config.train.init, abstract.params), shardings.params)
    return jax.jit(functools.partial(fresh_state, stage, config), out_shardings=shardings)(weights)
  return jax.jit(functools.partial(init_state, stage, config), out_shardings=shardings)()


def _updates(
  stage: Stage,
  config: Config,
  mesh: Mesh,
  state: TrainState,
  checkpoints: Checkpoints,
  log: MetricLog,
  feed: Feed,
  interrupt: "Interrupt",
) -> TrainState:
  """The steps from state.step to train.steps, with their logs, checkpoints and evaluations."""
  train, start = config.train, int(state.step)
  run = pathlib.Path(train.run)
  evaluate = functools.partial(_evaluate, stage, config, run, log)
  if start > 0 and _due(start, train.eval_every, train.steps) and not log.evaluated:
    evaluate(state, start)  # killed between the checkpoint and its evaluation
  compiled, pending = None, []
  for done in range(start + 1, train.steps + 1):
    batch = feed.next()
    if compiled is None:
      compiled = _compile(stage, config, mesh, state, batch)
      log.compare_with(model_flops(stage, config, batch) / (mesh.size * peak_flops(config.model.dtype)[0]))
      feed.waited()
      log.restart_clock()
    with jax.transfer_guard("disallow"):
      state, metrics = compiled(state, batch)
    pending.append(metrics)
    stop = interrupt.requested  # read once: a signal that comes later in this round belongs to the next
    save = stop or done == train.steps or _due(done, train.checkpoint_every, train.steps)
    if save or _due(done, train.log_every, train.steps):
      log.steps(done - len(pending) + 1, _fetch(pending, done, run), feed.waited())
      pending = []
    if save:
      checkpoints.save(state, done)
    if stop:
      checkpoints.wait()
      raise KeyboardInterrupt(f"stopped at step {done} of {train.steps}, saved; the same command goes on from there")
    if _due(done, train.eval_every, train.steps):
      evaluate(state, done)
  checkpoints.wait()
  return state


def _due(done: int, every: int, steps: int) -> bool:
  """Whether something that happens every so many updates (0: never) happens now; always after the last."""
  return every > 0 and (done % every == 0 or done == steps)


def _compile(stage: Stage, config: Config, mesh: Mesh, state: TrainState, batch: dict[str, jax.Array]) -> Any:
  begin = time.perf_counter()
  compiled = compile_step(stage, config, mesh).lower(state, batch).compile()
  print(f"compiled the {stage.name} step in {time.perf_counter() - begin:.1f} s", flush=True)
  return compiled


def _fetch(pending: list[dict[str, jax.Array]], done: int, run: pathlib.Path) -> list[dict[str, float]]:
  """Host copies of the last updates' metrics. Raises TrainingError at the first that is not finite."""
  records = [{name: float(value) for name, value in metrics.items()} for metrics in jax.device_get(pending)]
  for step, record in zip(range(done - len(records) + 1, done + 1), records):
    if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
      broken = ", ".join(f"{name} = {value}" for name, value in record.items() if not math.isfinite(value))
      raise TrainingError(
        f"step {step} is not finite: {broken}; {run / 'checkpoints'} is as it was before. "
        "Lower train.learning_rate or train.clip, or look at that step's batch"
      )
  return records


def _evaluate(stage: Stage, config: Config, run: pathlib.Path, log: MetricLog, state: TrainState, step: int) -> None:
  if stage.evaluate is None:
    return
  try:
    metrics = stage.evaluate(state.averaged, config, run, step)
  except OSError as error:
    raise TrainingError(f"cannot write the evaluation of step {step} to {run}: {error.strerror or error}") from error
  log.evaluation(step, metrics)
  log.restart_clock()


class Interrupt:
  """Ctrl-C (SIGINT) and SIGTERM ask the loop to save and stop after its step; a second one stops at once.

  A context manager. Outside the main thread, where Python takes no signals, it never asks.
  """

  def __init__(self) -> None:
    self.requested = False
    self._before: dict[int, Any] = {}

  def __enter__(self) -> "Interrupt":
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._before[number] = signal.signal(number, self._ask)
    return self

  def _ask(self, number: int, frame: object) -> None:
    if self.requested:
      raise KeyboardInterrupt("stopped at once; the last checkpoint stays whole")
    self.requested = True
    print("\nstopping after this step and its checkpoint; again to stop at once", flush=True)

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
