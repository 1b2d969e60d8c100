"""The bench measures every phase, and the floor counts what must be done."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from wanstreamer_jax import bench
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.cost import Cost, count
from wanstreamer_jax.model.streamer import World
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


def test_the_demo_reads_its_transformer_once_per_pass():
  config = load_config("configs/demo.py")
  agent = jax.eval_shape(lambda: Agent(config, rngs=nnx.Rngs(0)))
  state = jax.eval_shape(lambda a: start_session(a, jax.random.PRNGKey(0), World.empty(config)), agent)
  user = bench.random_unit(config)
  costs = bench.phase_costs(agent, state, user)
  size = lambda x: x.size * x.dtype.itemsize
  matrices = sum(size(x) for x in jax.tree.leaves(agent.streamer.transformer.layers) if x.ndim > 2)
  kv = sum(map(size, state.cache.kv))
  for phase, passes in (("think", 1 + config.layout.text_slots), ("perform", config.flow.steps)):
    assert passes * (matrices + kv) < costs[phase].bytes < 1.3 * passes * (matrices + kv)


def test_two_devices_are_judged_by_the_sums_of_units():
  times = {"commit": [1.0] * 100, "think": [10.0, 90.0] * 50, "perform": [90.0, 10.0] * 50}
  assert bench.split_throughput(times, 1)["p95_ms"] == 101  # and not 1 + 90 + 90
  assert bench.split_throughput(times, 2)["p95_ms"] == 91


def test_bench_step_reports_every_phase():
  config = load_config("configs/nano.py", ["layout.text_slots=1", "flow.steps=1"])
  result = json.loads(json.dumps(bench.bench_step(config, runs=50)))
  assert list(result["phases"]) == list(bench.PHASES)
  for row in [*result["phases"].values(), result["step"]]:
    assert 0 < row["floor_ms"] < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert row["compile_s"] > 0
    assert row["gflop"] > 0
  total = sum(row["gflop"] for row in result["phases"].values())
  assert result["step"]["gflop"] == pytest.approx(total)
  text = "\n".join(bench.report_lines(result))
  for word in ("commit", "perceive", "think", "perform", "render", "step", "GFLOP/s", "GB/s", "float32", "cores"):
    assert word in text


def test_too_few_runs_are_refused():
  command = [sys.executable, "-m", "wanstreamer_jax", "bench", "step", "--config", "configs/nano.py", "--runs", "10"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2
  assert "'10' is not a whole number of at least 50" in done.stderr
