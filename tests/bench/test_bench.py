"""The bench measures every phase, and the floor counts what must be done."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.fake_sessions import FakeSource
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.bench import train_step, unit_step
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.make import make
from wanstreamer_jax.model.streamer import WorldArrays, text_only_logits
from wanstreamer_jax.parallel import machine
from wanstreamer_jax.parallel.cost import Cost, count
from wanstreamer_jax.rollout import Agent, start_session

shape = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)


def test_products_count_once_for_every_turn_of_a_loop():
  def scanned(weights, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  assert count(scanned, shape(5, 8, 8), shape(3, 8))[:2] == (5 * 2 * 3 * 8 * 8, 5 * 8 * 8 * 4)


def test_what_was_computed_is_not_read_again():
  cost = count(lambda w, x: (x * 2) @ w.astype(jnp.bfloat16).T, shape(16, 8), shape(4, 8))
  assert cost == Cost(2 * 4 * 8 * 16, 16 * 8 * 4)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.vmap(f, in_axes=(None, 0))])
def test_programs_inside_programs_count(wrap):
  rows = 3
  cost = count(wrap(lambda w, x: x @ w), shape(8, 8), shape(rows, 8))
  assert cost.flops == 2 * rows * 8 * 8
  assert cost.bytes == (8 * 8 + rows * 8) * 4


def test_a_gradient_costs_two_more_products():
  value = lambda w, x: jnp.sum((jnp.tanh(x) @ w) ** 2)
  assert count(jax.grad(value, (0, 1)), shape(8, 8), shape(4, 8)).flops == 3 * 2 * 4 * 8 * 8


def test_convolutions_and_branches_count():
  window = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  assert count(window, shape(1, 10, 10, 4), shape(3, 3, 4, 6)).flops == 2 * 10 * 10 * 6 * 9 * 4
  either = lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)
  assert count(either, shape(8, 8), shape(4, 8)).flops == 2 * 4 * 8 * 8


def test_a_scope_can_be_left_out():
  def layers(weights, x):
    def layer(x, w):
      with jax.named_scope("mixing"):
        y = x @ w[0]
      return jnp.tanh(y) @ w[1], None

    return jnp.sum(jax.lax.scan(jax.checkpoint(layer), x, weights)[0])

  one = 2 * 3 * 8 * 8
  weights, x = shape(5, 2, 8, 8), shape(3, 8)
  assert count(layers, weights, x).flops == 5 * 2 * one
  assert count(layers, weights, x, without="mixing").flops == 5 * one
  assert count(jax.grad(layers), weights, x, without="mixing").flops == 5 * 3 * one  # a gradient's too


@pytest.mark.parametrize("cache", ["plain", "int8"])
def test_the_demo_reads_its_transformer_once_per_pass(cache):
  config = load_config("configs/demo.py", [f"model.kv_cache={cache}"])
  agent = jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))
  state = jax.eval_shape(lambda a: start_session(a, jax.random.key(0), WorldArrays.empty(config)), agent)
  user = unit_step.random_unit(config)
  costs = unit_step.phase_costs(agent, state, user)
  size = lambda x: x.size * x.dtype.itemsize
  matrices = sum(size(x) for x in jax.tree.leaves(agent.streamer.transformer.layers) if x.ndim > 2)
  kv = sum(map(size, jax.tree.leaves(state.cache.kv)))
  for phase, passes in (("think", 1 + config.layout.text_slots), ("perform", config.flow.steps)):
    assert passes * (matrices + kv) < costs[phase].bytes < 1.3 * passes * (matrices + kv)


def test_two_devices_are_judged_by_the_sums_of_units():
  times = {"commit": [1.0] * 100, "think": [10.0, 90.0] * 50, "perform": [90.0, 10.0] * 50}
  assert unit_step.split_throughput(times, 1)["p95_ms"] == 101  # and not 1 + 90 + 90
  assert unit_step.split_throughput(times, 2)["p95_ms"] == 91


def test_bench_step_reports_every_phase():
  config = load_config("configs/nano.py", ["layout.text_slots=1", "flow.steps=1"])
  result = json.loads(json.dumps(unit_step.bench_step(config, runs=50)))
  assert list(result["phases"]) == list(unit_step.PHASES)
  for row in [*result["phases"].values(), result["step"]]:
    assert 0 < row["floor_ms"] < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert row["compile_s"] > 0
    assert row["gflop"] > 0
  total = sum(row["gflop"] for row in result["phases"].values())
  assert result["step"]["gflop"] == pytest.approx(total)
  text = "\n".join(unit_step.report_lines(result))
  for word in ("commit", "perceive", "think", "perform", "render", "step", "GFLOP/s", "GB/s", "float32", "cores"):
    assert word in text


def test_bench_step_needs_no_media_or_records():
  """Machines with accelerators have jax, and little else."""
  missing = ["av", "grain", "array_record", "portpicker", "matplotlib", "aiohttp"]
  code = f"import sys, wanstreamer_jax.bench.unit_step; assert not set({missing}) & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_too_few_runs_are_refused():
  command = [sys.executable, "-m", "wanstreamer_jax", "bench", "step", "--config", "configs/nano.py", "--runs", "10"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2
  assert "'10' is not a whole number of at least 50" in done.stderr


# bench train.


def fake(name, milliseconds, tokens, units=0):
  """A contender whose steps take what they are said to take, on a clock of the test's."""
  return train_step.Contender(name, f"{name} of the test", lambda: milliseconds, 2e9, tokens, units, 1000, 0.5, 10**9)


def test_bench_train_takes_turns_and_compares(monkeypatch):
  order = []
  contenders = [fake("two copies", 40.0, 100, 8), fake("text", 20.0, 100), fake("transformers", 30.0, 100)]
  monkeypatch.setattr(train_step, "make_contenders", lambda *_: contenders)
  monkeypatch.setattr(machine, "timed", lambda step: order.append(step()) or (step(), None))
  monkeypatch.setattr(machine, "product_rate", lambda dtype: 1e12)
  result = train_step.bench_train(load_config("configs/nano.py", ["train.mesh=data=1"]), train_step.StepSizes(steps=8))
  assert order == [40, 40, 20, 20, 30, 30] * train_step.TURNS
  row = json.loads(json.dumps(result))["contenders"]["two copies"]
  assert [row[name] for name in ("median_ms", "floor_ms", "mfu", "units_per_s")] == [40.0, 2.0, 0.05, 200.0]
  assert {title: ratio["median"] for title, ratio in result["ratios"].items()} == {
    "two copies / text, MFU": 0.5,
    "text / transformers, tokens per second": 1.5,
  }
  text = "\n".join(train_step.report_lines(result))
  for word in ("TFLOP/s", "warm-up", "turns", "float32", "cores", "MFU", "p95", "spread", "waiting", "floor"):
    assert word in text


def test_the_text_that_is_timed_is_the_language_model():
  streamer = nano_agent().streamer
  ids = np.random.default_rng(0).integers(1, 100, (2, 13)).astype(np.int32)
  loss, _ = jax.jit(lambda streamer, ids: train_step.text_loss(streamer, {"ids": ids}, None))(streamer, ids)
  logits = jax.jit(jax.vmap(text_only_logits, (None, 0)))(streamer, ids[:, :-1])
  picked = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, 1:, None], axis=-1)
  assert_close(loss, -jnp.mean(picked), 1e-5)


@pytest.mark.slow
def test_bench_train_really_trains():
  config = load_config("configs/nano.py", ["data.units=2", "train.mesh=data=1", "train.minutes=5"])
  result = json.loads(json.dumps(train_step.bench_train(config, train_step.StepSizes(steps=4, text=16, text_too=True))))
  for row in result["contenders"].values():
    assert 0 < row["floor_ms"] < row["median_ms"] <= row["p95_ms"]
    assert 0 < row["mfu"] < 1


@pytest.mark.slow
def test_bench_train_reads_records_and_writes_a_profile(tmp_path):
  config = load_config("configs/nano.py", ["data.units=2", "train.mesh=data=1", "train.stage=audio_codec"]).replace()
  make(config, FakeSource(config, 4, 4), tmp_path / "media", progress=False)
  config.data.path = str(tmp_path / "media")
  sizes = train_step.StepSizes(steps=4, records=True)
  result = train_step.bench_train(config.freeze(), sizes, tmp_path / "profile")
  assert 0 < result["contenders"]["audio_codec"]["input_stall"] < 1
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
  assert f"profile: {tmp_path}/profile" in train_step.report_lines(result)[-1]
