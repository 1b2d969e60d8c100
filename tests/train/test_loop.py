"""The training loop: what it computes, what it writes, and that stopping it in any way loses nothing (law 7)."""

import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers, muon

from tests import ROOT
from tests.conftest import assert_close
from tests.helpers.toy_stage import ToyLoader, toy_config, toy_evaluate, toy_loss, toy_stage
from wanstreamer_jax.config import TrainConfig
from wanstreamer_jax.config_files import config_from_dict, load_config
from wanstreamer_jax.errors import CheckpointError, ConfigError, TrainingError
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train import loop
from wanstreamer_jax.train.metric_log import MEASURED, MetricLog, read_metrics
from wanstreamer_jax.train.optim import MATRICES, decayed, learning_rate, make_optimizer, matrix_axes
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import init_state, loss_and_grads, train_step, update_average
from wanstreamer_jax.weights.store import checkpoint_steps, read_weights


def losses(run) -> dict[int, float]:
  return {line["step"]: line["loss"] for line in read_metrics(run) if "loss" in line}


def without_timing(run) -> list[dict]:
  return [{name: line[name] for name in line if name not in MEASURED} for line in read_metrics(run)]


# What a step computes.


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.86819805, 0.55, 0.23180195, 0.1, 0.1]),
    ("wsd", [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.55, 0.1]),
  ],
)
def test_schedules(schedule, expected):
  """Warm-up over 4 of 8 steps; wsd decays over the last quarter."""
  train = TrainConfig(schedule=schedule, learning_rate=1.0, warmup=4, steps=8, decay=0.25, final_lr_scale=0.1)
  np.testing.assert_allclose([float(learning_rate(train, step)) for step in range(len(expected))], expected, rtol=1e-6)


def test_decay_pulls_matrices_only():
  names = {"layers.q_proj.w": (2, 4, 4), "layers.q_proj.b": (2, 4), "norm.scale": (4,), "kinds": (5, 4), "w": (4,)}
  tree: dict = {}
  for name, shape in names.items():
    *folders, last = name.split(".")
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = np.zeros(shape)
  assert [name for name, pulled in named_leaves(decayed(tree)).items() if pulled] == ["layers.q_proj.w"]


def test_adamw_equals_optax():
  train = TrainConfig(schedule="constant", warmup=1, clip=0.1, weight_decay=0.1)
  params = {"w": jnp.arange(6.0).reshape(2, 3)}
  grads = {"w": jnp.ones((2, 3))}
  peer = optax.chain(
    optax.clip_by_global_norm(0.1), optax.adamw(train.learning_rate, b1=train.beta1, b2=train.beta2, weight_decay=0.1)
  )
  ours = make_optimizer(train)
  a, b = params, params
  state, peer_state = ours.init(a), peer.init(b)
  for _ in range(3):
    updates, state = ours.update(grads, state, a, step=0)
    a = optax.apply_updates(a, updates)
    updates, peer_state = peer.update(grads, peer_state, b)
    b = optax.apply_updates(b, updates)
  assert_close(a, b, 1e-6)


def test_muon_equals_optax_and_moves_only_matrices_of_layers():
  """Layers are a batch of matrices, heads belong to their columns or rows; the embedding is Adam's."""
  train = TrainConfig(optimizer="muon", schedule="constant", warmup=1, clip=0.0, weight_decay=0.0)
  layers = {"up_proj": {"w": (2, 4, 6)}, "q_proj": {"w": (2, 4, 2, 3)}, "o_proj": {"w": (2, 2, 3, 4)}}
  shapes = {"tokens": {"embedding": (5, 4)}, "transformer": {"layers": layers}}
  axes = {"up_proj": {"w": (1, 2)}, "q_proj": {"w": (1, (2, 3))}, "o_proj": {"w": ((1, 2), 3)}}
  is_shape = lambda x: isinstance(x, tuple)
  params = jax.tree.map(jnp.zeros, shapes, is_leaf=is_shape)
  random = np.random.default_rng(0)
  grads = jax.tree.map(lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32), shapes, is_leaf=is_shape)
  numbers = {"tokens": {"embedding": None}, "transformer": {"layers": axes}}
  numbers = jax.tree.map(lambda x: x and MuonDimensionNumbers(*x), numbers, is_leaf=lambda x: x is None or is_shape(x))
  peer = muon(train.learning_rate, consistent_rms=0.2, muon_weight_dimension_numbers=numbers)
  ours = make_optimizer(train)
  state, peer_state = ours.init(params), peer.init(params)
  for _ in range(2):
    updates, state = ours.update(grads, state, params, step=0)
    peer_updates, peer_state = peer.update(grads, peer_state, params)
  assert_close(updates["transformer"], peer_updates["transformer"], 1e-6)
  adam = optax.adam(train.learning_rate, b1=train.beta1, b2=train.beta2)  # that of optax's muon is Nesterov's
  state = adam.init(params["tokens"])
  for _ in range(2):
    expected, state = adam.update(grads["tokens"], state)
  assert_close(updates["tokens"], expected, 1e-6)


@pytest.mark.parametrize("changes", [[], ["model.modulation=layer", "model.experts=latent", "model.qkv_bias=True"]])
def test_muon_knows_the_inputs_of_every_matrix_that_it_moves(changes):
  config = load_config("configs/tiny.py", changes)
  streamer = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  moved = {name: leaf for name, leaf in named_leaves(streamer).items() if MATRICES.matches(name)}
  assert {name.split(".")[-2] for name in moved} == {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "stem", "conv", "out", "patch",
    "merge",
  }  # fmt: skip
  model, channels = config.model, config.perception.audio_channels
  inner = {"o_proj": model.heads * model.head_dim, "down_proj": model.mlp}
  for name, axes in matrix_axes(moved).items():
    leaf = moved[name]
    inputs, outputs = (np.prod([leaf.shape[axis] for axis in part]) for part in axes)
    layers = model.layers if name.startswith("transformer") else 1
    assert inputs * outputs * layers == leaf.size, name
    if name.startswith("transformer"):
      assert inputs == inner.get(name.split(".")[-2], model.width), name
    elif ".layers." in name:
      assert inputs in (channels, 2 * channels), name


def test_the_average_is_the_bias_corrected_one():
  decay, zero_started, average = 0.9, np.float64(0), jnp.float32(123.0)  # the start value has no weight
  for step, value in enumerate([3.0, -1.0, 2.0, 5.0], start=1):
    zero_started = decay * zero_started + (1 - decay) * value
    average = update_average(average, jnp.float32(value), decay, jnp.int32(step))
    np.testing.assert_allclose(average, zero_started / (1 - decay**step), rtol=1e-5)


def test_frozen_parameters_stand_still_bit_for_bit():
  stage, config = toy_stage(frozen=(r"norm\.scale", r"up_proj\.w")), toy_config("unused", weight_decay=0.5).freeze()
  state = before = init_state(stage, config)
  step = jax.jit(lambda state, batch: train_step(stage, config, state, batch))
  for index in range(3):
    state, _ = step(state, ToyLoader(config).batch_at(index))
  for tree, start in ((state.params, before.params), (state.ema, before.params)):
    for name, leaf in named_leaves(tree).items():
      still = np.array_equal(leaf, named_leaves(start)[name])
      assert still == (name != "down_proj.w"), name
  assert sorted({name.rpartition(".mu.")[2] for name in named_leaves(state.optimizer) if ".mu." in name}) == [
    "down_proj.w"
  ]


def test_the_draws_of_a_step_depend_on_the_seed_and_the_step_only():
  stage, config = toy_stage(), toy_config("unused").freeze()
  other = toy_config("unused", seed=1).freeze()
  params, batch = init_state(stage, config).params, ToyLoader(config).batch_at(0)
  loss = jax.jit(lambda config, step: loss_and_grads(stage, config, params, batch, step)[0][0], static_argnums=0)
  found = [float(loss(*case)) for case in ((config, 0), (config, 1), (other, 0), (config, 0))]
  assert len(set(found)) == 3
  assert found[0] == found[3]


def test_no_average_when_it_is_off():
  state = init_state(toy_stage(), toy_config("unused", ema=0.0).freeze())
  assert state.ema is None
  assert state.averaged is state.params


# What a run writes.


def test_a_run_learns_and_leaves_its_files(tmp_path):
  config = toy_config(tmp_path / "run", steps=30, learning_rate=0.02, eval_every=12, checkpoint_every=8).freeze()
  state = loop.train(toy_stage(), config)
  assert int(state.step) == 30
  run = tmp_path / "run"
  found = losses(run)
  assert list(found) == list(range(1, 31))
  assert np.mean([found[step] for step in range(25, 31)]) < 0.6 * found[1]
  assert [line["batch_step"] for line in read_metrics(run) if "loss" in line] == list(range(30))  # data in order
  assert [line["step"] for line in read_metrics(run) if "eval/error" in line] == [12, 24, 30]
  assert sorted(file.stem for file in (run / "pictures").iterdir()) == ["12", "24", "30"]
  assert checkpoint_steps(run / "checkpoints") == [24, 30]  # the last step too
  stated, tokenizer = loop.with_tokenizer_hash(config)
  assert config_from_dict(json.loads((run / "config.json").read_text())) == stated
  assert hashlib.sha256((run / "tokenizer.json").read_bytes()).hexdigest() == stated.data.tokenizer_sha256
  assert tokenizer is not None
  assert list((run / "tensorboard").glob("events*"))
  assert_close(read_weights(run)[1], jax.device_get(named_leaves(state.ema)), 0)


def test_lines_beyond_the_checkpoint_and_torn_ones_are_dropped(tmp_path):
  lines = [json.dumps({"step": step, "loss": 0.5}) for step in range(1, 8)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo')
  with MetricLog(tmp_path, 4, 10, 1) as log:
    assert list(losses(tmp_path)) == [1, 2, 3, 4]
    assert not log.evaluated
    log.steps(5, [{"loss": 0.25, "other": float("nan")}])
    log.evaluation(5, {"error": 1.0})
  assert [line["loss"] for line in read_metrics(tmp_path) if "loss" in line] == [0.5] * 4 + [0.25]
  with MetricLog(tmp_path, 5, 10, 1) as log:
    assert log.evaluated


def test_a_finished_run_is_left_as_it_is(tmp_path):
  config = toy_config(tmp_path, steps=4).freeze()
  loop.train(toy_stage(), config)
  before = read_metrics(tmp_path)
  loop.train(toy_stage(), config)
  assert read_metrics(tmp_path) == before


def test_a_run_starts_from_given_weights(tmp_path):
  loop.train(toy_stage(), toy_config(tmp_path / "first", steps=4).freeze())
  config = toy_config(tmp_path / "second", steps=1, learning_rate=0.0, init=str(tmp_path / "first")).freeze()
  state = loop.train(toy_stage(), config)
  assert_close(named_leaves(jax.device_get(state.params)), read_weights(tmp_path / "first")[1], 0)


def test_resuming_on_another_mesh_keeps_the_order_and_the_loss(tmp_path):
  runs = {}
  for name, mesh in (("one", "data=1"), ("other", "data=2,fsdp=4")):
    run = tmp_path / name
    loop.train(toy_stage(), toy_config(run, steps=4, schedule="constant").freeze())
    loop.train(toy_stage(), toy_config(run, steps=6, mesh=mesh, schedule="constant").freeze())
    runs[name] = read_metrics(run)
  one, other = ([line for line in lines if "loss" in line] for lines in runs.values())
  assert [line["batch_step"] for line in one] == [line["batch_step"] for line in other] == list(range(6))
  assert one[4]["loss"] == pytest.approx(other[4]["loss"], rel=1e-5)


# What stops a run.


def nan_from(step: int):
  def loss(model, batch, keys):
    value, metrics = toy_loss(model, batch, keys)
    return jnp.where(batch["step"][0] >= step, jnp.nan, value), metrics

  return loss


def test_a_loss_that_is_not_finite_stops_and_spares_the_checkpoint(tmp_path):
  config = toy_config(tmp_path, steps=12).freeze()
  expected = r"step 6 is not finite: loss = nan; the first bad tensor is the loss, in batch 5; .*checkpoints is un"
  with pytest.raises(TrainingError, match=expected):
    loop.train(toy_stage(loss=nan_from(5)), config)
  assert checkpoint_steps(tmp_path / "checkpoints") == [4]
  assert max(losses(tmp_path)) == 4


class Spoiled(ToyLoader):
  """A number of batch 5 is no number; the batches say their sessions."""

  def batch_at(self, step):
    batch = super().batch_at(step)
    if step == 5:
      batch["x"][3, 2] = np.nan
    return {**batch, "session": 100 + np.arange(len(batch["x"]), dtype=np.int32)}


def test_a_batch_that_is_not_finite_is_named_with_its_sessions(tmp_path):
  expected = r"the first bad tensor is the input x \(and \d+ more\), in batch 5 of sessions 100, 101, 102, 103"
  with pytest.raises(TrainingError, match=expected):
    loop.train(toy_stage(make_loader=Spoiled), toy_config(tmp_path).freeze())


def test_a_gradient_that_is_not_finite_is_named(tmp_path):
  """The derivative of a square root at zero: the loss is finite, and the first batch is replayed from the start."""

  def loss(model, batch, keys):
    value, metrics = toy_loss(model, batch, keys)
    zero = jnp.where(batch["step"][0] == 1, 0.0, 1.0)
    return value + jnp.sum(jnp.sqrt(zero * model.down_proj.w[...] ** 2)), metrics

  expected = r"step 2 is not finite: grad_norm = nan.*the first bad tensor is the gradient down_proj\.w, in batch 1"
  with pytest.raises(TrainingError, match=expected):
    loop.train(toy_stage(loss=loss), toy_config(tmp_path).freeze())


def test_what_the_loader_raises_comes_out(tmp_path):
  class Broken(ToyLoader):
    def batch_at(self, step):
      if step == 5:
        raise ConfigError("record 17 is broken")
      return super().batch_at(step)

  with pytest.raises(ConfigError, match="record 17 is broken"):
    loop.train(toy_stage(make_loader=Broken), toy_config(tmp_path).freeze())
  assert checkpoint_steps(tmp_path / "checkpoints") == [4]


def test_a_config_that_does_not_fit_writes_nothing(tmp_path):
  loop.train(toy_stage(), toy_config(tmp_path, steps=2).freeze())
  before = (tmp_path / "config.json").read_text()
  with pytest.raises(CheckpointError, match=r"another config: train\.beta1: 0\.9 -> 0\.5"):
    loop.train(toy_stage(), toy_config(tmp_path, steps=4, beta1=0.5).freeze())
  with pytest.raises(ConfigError, match=r"data\.batch is 8, which does not divide over data=3"):
    loop.train(toy_stage(), toy_config(tmp_path, mesh="data=3").freeze())
  assert (tmp_path / "config.json").read_text() == before


def test_a_run_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(TrainingError, match=r"cannot make the run folder .*file/run: Not a directory; set train\.run"):
    loop.train(toy_stage(), toy_config(tmp_path / "file" / "run").freeze())


def test_pictures_that_cannot_be_written(tmp_path):
  def evaluate(model, config, run, step):
    raise OSError(28, "No space left on device")

  with pytest.raises(TrainingError, match=r"cannot write the evaluation of step 4 to .*: No space left on device"):
    loop.train(toy_stage(evaluate=evaluate), toy_config(tmp_path).freeze())
  assert checkpoint_steps(tmp_path / "checkpoints") == [4]


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path):
  calls = []

  def evaluate(model, config, run, step):
    calls.append(step)
    if len(calls) == 1:
      raise KeyboardInterrupt
    return toy_evaluate(model, config, run, step)

  config = toy_config(tmp_path, steps=8).freeze()
  with pytest.raises(KeyboardInterrupt):
    loop.train(toy_stage(evaluate=evaluate), config)
  loop.train(toy_stage(evaluate=evaluate), config)
  assert calls == [4, 4, 8]


def test_nothing_moves_between_host_and_device_in_a_step(tmp_path, monkeypatch):
  monkeypatch.setattr(loop.Prefetcher, "next", lambda self: ToyLoader(toy_config("unused")).batch_at(0))
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    loop.train(toy_stage(), toy_config(tmp_path).freeze())


def test_stages_by_name():
  with pytest.raises(ConfigError, match=r"unknown train\.stage: 'duplx'; did you mean 'duplex'"):
    get_stage("duplx")


# Law 7: processes that are killed and interrupted.


class Process:
  """The toy stage trained by another process, 10 ms a step."""

  def __init__(self, run: pathlib.Path, steps: int, *overrides: str, slow: float = 0.01):
    command = [sys.executable, "tests/helpers/toy_stage.py", str(run), str(steps), str(slow), *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    self.run = run
    self.process = subprocess.Popen(
      command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

  def wait_for_step(self, step: int) -> None:
    deadline = time.monotonic() + 300
    while max(losses(self.run), default=0) < step:
      assert self.process.poll() is None, self.process.communicate()
      assert time.monotonic() < deadline, f"no step {step} within five minutes"
      time.sleep(0.005)

  def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) after the signal."""
    if number is not None:
      self.process.send_signal(number)
    out, err = self.process.communicate(timeout=300)
    return self.process.returncode, out, err


STEPS, OPTIONS = 60, ("train.checkpoint_every=7", "train.log_every=3", "train.eval_every=20")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  run = tmp_path_factory.mktemp("undisturbed")
  status, _, err = Process(run, STEPS, *OPTIONS, slow=0.0).end()
  assert status == 0, err
  return run


def test_law_7_killed_at_random_moments_a_run_repeats_the_undisturbed_one_bit_for_bit(undisturbed, tmp_path):
  generator = random.Random()
  for earliest in (1, 25):
    process = Process(tmp_path, STEPS, *OPTIONS)
    process.wait_for_step(earliest + generator.randrange(20))
    time.sleep(generator.uniform(0, 0.1))
    assert process.end(signal.SIGKILL)[0] == -signal.SIGKILL
  status, _, err = Process(tmp_path, STEPS, *OPTIONS, slow=0.0).end()
  assert status == 0, err
  assert without_timing(tmp_path) == without_timing(undisturbed)
  expected, actual = read_weights(undisturbed)[1], read_weights(tmp_path)[1]
  assert all(np.array_equal(actual[name], expected[name]) for name in expected)


def test_law_7_ctrl_c_saves_says_so_and_goes_on(undisturbed, tmp_path):
  process = Process(tmp_path, STEPS, *OPTIONS)
  process.wait_for_step(9)
  with pytest.raises(TrainingError, match="is being trained by another process; wait for it, or set"):
    loop.train(toy_stage(), toy_config(tmp_path).freeze())
  status, _, err = process.end(signal.SIGINT)
  stopped = checkpoint_steps(tmp_path / "checkpoints")[-1]
  assert status == 130
  assert (
    err.strip() == f"wanstreamer: stopped at step {stopped} of {STEPS}, saved; the same command continues from there"
  )
  assert max(losses(tmp_path)) == stopped
  status, out, err = Process(tmp_path, STEPS, *OPTIONS, slow=0.0).end()
  assert status == 0, err
  assert f"from step {stopped}" in out
  assert without_timing(tmp_path) == without_timing(undisturbed)


@pytest.mark.parametrize("moment", ["loader", "log"])
def test_sigterm_saves_at_whatever_moment_it_comes(tmp_path, monkeypatch, moment):
  class Terminated(ToyLoader):
    def batch_at(self, step):
      if step == 5 and moment == "loader":
        os.kill(os.getpid(), signal.SIGTERM)
      return super().batch_at(step)

  steps = MetricLog.steps

  def terminated_steps(self, first, records, waited):
    if first == 5 and moment == "log":
      os.kill(os.getpid(), signal.SIGTERM)
    steps(self, first, records, waited)

  monkeypatch.setattr(MetricLog, "steps", terminated_steps)
  with pytest.raises(KeyboardInterrupt, match="saved; the same command") as stopped:
    loop.train(toy_stage(make_loader=Terminated), toy_config(tmp_path, steps=50).freeze())
  last = checkpoint_steps(tmp_path / "checkpoints")[-1]
  assert f"stopped at step {last} of 50" in str(stopped.value)
  assert 0 < last < 10  # batches are read ahead


def test_a_second_ctrl_c_stops_at_once():
  before = signal.getsignal(signal.SIGINT)
  with loop.Interrupt() as interrupt:
    signal.raise_signal(signal.SIGINT)
    assert interrupt.requested
    with pytest.raises(KeyboardInterrupt, match="stopped at once; the last checkpoint is kept"):
      signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is before


def test_law_9_a_step_changes_no_leaf_of_its_input():
  stage, config = toy_stage(), toy_config("unused").freeze()
  state = init_state(stage, config)
  before = jax.tree.map(np.array, state)
  jax.jit(lambda state, batch: train_step(stage, config, state, batch))(state, ToyLoader(config).batch_at(0))
  assert_close(state, before, 0)
  leaves = jax.tree.leaves(state.params, is_leaf=lambda x: isinstance(x, nnx.Variable))
  assert [type(leaf) for leaf in leaves] == [nnx.Param] * len(leaves)


@pytest.mark.parametrize("run", ["", " ", "/"])
def test_a_run_needs_a_folder_of_its_own(run):
  config = toy_config(run, 1).freeze()
  with pytest.raises(ConfigError, match="train.run is .*: give a folder of its own"):
    loop.train(toy_stage(), config)
