"""What an update is (groups, accumulation, skipped spikes, Muon on a mesh), its FLOPs, and what a run reports of it."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.models import SIZES, abstract_codecs, abstract_duplex
from tests.helpers.toy_stage import ToyLoader, toy_config, toy_loss, toy_stage
from wanstreamer_jax.aot.collectives import collectives
from wanstreamer_jax.aot.hlo import Program
from wanstreamer_jax.config import ModelConfig, TrainConfig
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.model.tokens import Latents, Past
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import named_leaves, param_shardings
from wanstreamer_jax.teacher_forcing import Inputs
from wanstreamer_jax.train import duplex, flops, loop
from wanstreamer_jax.train.metric_log import MetricLog, describe, read_metrics
from wanstreamer_jax.train.optim import GROUPS, make_optimizer, muon, orthogonal
from wanstreamer_jax.train.stage import Ratio
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import (
  SPIKE_START,
  Spikes,
  compile_step,
  init_state,
  loss_and_grads,
  state_shardings,
  train_step,
)
from wanstreamer_jax.units import CLEAN_PHASES, NOISY_PHASES, build_layout


def toy_steps(config, steps, **stage):
  """States after 0, 1, ... updates of the toy stage."""
  stage = toy_stage(**stage)
  step = jax.jit(lambda state, batch: train_step(stage, config, state, batch))
  states = [init_state(stage, config)]
  for index in range(steps):
    states.append(step(states[-1], ToyLoader(config).batch_at(index))[0])
  return states


# Groups.


@pytest.mark.parametrize("size", [*SIZES, "codecs"])
def test_every_parameter_belongs_to_exactly_one_group(size):
  trees = abstract_codecs("tiny.py").values() if size == "codecs" else [abstract_duplex(size)]
  for name in (name for tree in trees for name in named_leaves(tree)):
    assert len([group for group, rule in GROUPS.items() if rule.matches(name)]) == 1, name


def test_a_group_has_its_own_rate_and_a_frozen_one_no_moments():
  base = toy_config("unused", clip=1e9, weight_decay=0.0, warmup=1)
  whole = toy_steps(base.freeze(), 1)
  config = toy_config("unused", clip=1e9, weight_decay=0.0, warmup=1, groups="up_proj=0.25, .*scale=0").freeze()
  parts = toy_steps(config, 1)
  moved = lambda states: jax.tree.map(jnp.subtract, states[1].params, states[0].params)
  full, own = named_leaves(moved(whole)), named_leaves(moved(parts))
  assert_close(own["up_proj.w"], 0.25 * full["up_proj.w"], 1e-4)  # differences of float32 parameters
  assert_close(own["down_proj.w"], full["down_proj.w"], 1e-4)
  assert not np.any(own["norm.scale"])
  assert sorted({name.rpartition(".mu.")[2] for name in named_leaves(parts[1].optimizer) if ".mu." in name}) == [
    "down_proj.w", "up_proj.w",
  ]  # fmt: skip


def test_the_last_entry_that_names_a_parameter_decides():
  config = toy_config("unused", groups=r".*=0, down_proj\.w=1").freeze()
  states = toy_steps(config, 1)
  before, after = named_leaves(states[0].params), named_leaves(states[1].params)
  assert [name for name in before if not np.array_equal(before[name], after[name])] == ["down_proj.w"]


@pytest.mark.parametrize(
  ("groups", "message"),
  [
    ("language", r"'language' is not NAME=RATE with a rate of at least 0"),
    ("language=-1", r"'language=-1' is not NAME=RATE"),
    ("(=1", r"'\(=1' is not NAME=RATE"),
    (
      "langage=0.1",
      r"names 'langage', which is not a parameter of this model: expected one of down_proj, norm, up_proj",
    ),
  ],
)
def test_groups_that_name_nothing_are_refused(groups, message):
  with pytest.raises(ConfigError, match=message):
    jax.eval_shape(lambda: init_state(toy_stage(), toy_config("unused", groups=groups).freeze()))


def test_masters_and_moments_are_float32_where_activations_are_not():
  config = load_config("configs/qwen2p5_1p5b.py")
  assert config.model.dtype == "bfloat16"
  state = jax.eval_shape(lambda: init_state(get_stage("duplex"), config))
  for part in (state.params, state.ema, [x for x in jax.tree.leaves(state.optimizer) if x.ndim]):
    assert {leaf.dtype for leaf in jax.tree.leaves(part)} == {np.dtype(np.float32)}


# Accumulation.


@pytest.mark.parametrize(("parts", "mesh"), [(2, "data=1"), (8, "data=1"), (2, "data=2,fsdp=2")])
def test_accumulated_parts_are_the_whole_batch_draws_included(parts, mesh):
  def outcome(config):
    stage, mesh = toy_stage(loss=uneven_loss), make_mesh(config.train.mesh)
    with jax.set_mesh(mesh):
      state = jax.jit(lambda: init_state(stage, config), out_shardings=state_shardings(stage, config, mesh)[1])()
      gradients = jax.jit(lambda params, batch: loss_and_grads(stage, config, params, batch, jnp.int32(3)))
      found = gradients(state.params, ToyLoader(config).batch_at(0))
      _, metrics = compile_step(stage, config, mesh)(state, ToyLoader(config).batch_at(0))
    return jax.device_get((found, metrics["loss"]))

  assert_close(
    outcome(toy_config("unused", accumulate=parts, mesh=mesh).freeze()), outcome(toy_config("unused").freeze())
  )


def uneven_loss(model, batch, keys):
  """With a metric that speaks of some rows only."""
  loss, _ = toy_loss(model, batch, keys)
  some = batch["x"][:, 0] > 0
  return loss, {"part": Ratio(jnp.mean(some * batch["y"][:, 1]), jnp.mean(some.astype(jnp.float32)))}


def test_parts_that_do_not_divide_are_refused():
  with pytest.raises(ConfigError, match=r"sessions at a time = data.batch / train.accumulate: 8 / 3 is not a whole"):
    toy_config("unused", accumulate=3).freeze()
  with pytest.raises(
    ConfigError, match=r"8 / train.accumulate 4 = 2 rows at a time, which do not divide over .* 8 dev"
  ):
    compile_step(toy_stage(), toy_config("unused", accumulate=4).freeze(), make_mesh("data=8"))


# Spikes.


def test_the_rule_for_spikes():
  spikes, taken = Spikes.none(), []
  see = jax.jit(lambda spikes, norm, step: spikes.see(norm, step, 10.0))
  norms = [100.0, *[1.0] * (SPIKE_START - 1), 9.0, 15.0, np.nan, np.inf, 1.0, *[50.0] * 200]
  for step, norm in enumerate(norms):
    spikes, accepted = see(spikes, jnp.float32(norm), jnp.int32(step))
    taken.append(bool(accepted))
  assert all(taken[: SPIKE_START + 1])  # the first norms judge nobody, and 9 is less than 10 times
  assert taken[SPIKE_START + 1 : SPIKE_START + 5] == [False, False, False, True]
  later = taken[SPIKE_START + 5 :]
  assert not any(later[:10])  # 50 times the usual norm
  assert all(later[100:])  # which became usual
  assert int(spikes.skipped) == taken.count(False)


def spike_at(step, factor=1e3):
  """The toy's loss, of a thousandfold gradient at one step."""

  def loss(model, batch, keys):
    value, metrics = toy_loss(model, batch, keys)
    return jnp.where(batch["step"][0] == step, factor, 1.0) * value, metrics

  return loss


def test_a_spike_leaves_everything_but_the_step_as_it_was():
  step = SPIKE_START + 3
  states = toy_steps(toy_config("unused").freeze(), step + 2, loss=spike_at(step))
  before, after, next_one = states[step], states[step + 1], states[step + 2]
  for part in ("params", "optimizer", "ema"):
    assert_close(getattr(after, part), getattr(before, part), 0)
  assert [int(state.step) for state in (before, after, next_one)] == [step, step + 1, step + 2]
  assert [int(state.spikes.skipped) for state in (before, after, next_one)] == [0, 1, 1]
  assert not np.array_equal(next_one.params.up_proj.w[...], after.params.up_proj.w[...])
  off = toy_steps(toy_config("unused", spike=0.0).freeze(), step + 1, loss=spike_at(step))
  assert not np.array_equal(off[-1].params.up_proj.w[...], off[-2].params.up_proj.w[...])


def test_a_skipped_update_is_told_and_a_resumed_run_repeats_it(tmp_path, capsys):
  step = SPIKE_START + 3
  stage = toy_stage(loss=spike_at(step))
  options = {"checkpoint_every": 50, "eval_every": 0, "log_every": 5, "schedule": "constant"}
  loop.train(stage, toy_config(tmp_path / "whole", steps=60, **options).freeze())
  told = capsys.readouterr().out
  assert f"step {step + 1} skipped: gradient norm " in told
  assert "(1 skipped so far)" in told
  for steps in (52, 60):
    loop.train(stage, toy_config(tmp_path / "halves", steps=steps, **options).freeze())
  whole, halves = (
    [
      (line["loss"], line["skipped"], line["grad_norm_usual"])
      for line in read_metrics(tmp_path / run)
      if "loss" in line
    ]
    for run in ("whole", "halves")
  )
  assert whole == halves
  assert [skipped for _, skipped, _ in whole] == [0.0] * step + [1.0] * (60 - step)


# Muon.


def test_muons_matrices_are_exchanged_once_not_gathered_at_every_product():
  """Split over fsdp, a stack of matrices becomes whole ones per device, by all-to-all, and goes back the same way."""
  mesh = make_mesh("fsdp=8")
  leaf = {"up_proj": {"w": jax.ShapeDtypeStruct((8, 32, 64), jnp.float32)}}
  places = param_shardings(leaf, mesh)
  with jax.set_mesh(mesh):
    compiled = jax.jit(orthogonal, in_shardings=(places,), out_shardings=places).lower(leaf).compile()
  found = collectives(Program(compiled.as_text()), mesh.shape)
  assert {place: traffic.count for place, traffic in found.items()} == {("all-to-all", ("fsdp",)): 2}
  x = np.random.default_rng(0).standard_normal((8, 32, 64)).astype(np.float32)
  split = compiled(jax.device_put({"up_proj": {"w": x}}, places))
  assert_close(split, orthogonal({"up_proj": {"w": jnp.asarray(x)}}), 1e-5)
  values = np.linalg.svd(np.asarray(split["up_proj"]["w"]) / (0.2 * 8), compute_uv=False)
  assert values.min() > 0.6
  assert values.max() < 1.3


def test_an_update_of_muon_moves_each_matrix_once_and_no_momentum():
  """There and back for a stack; a single matrix is gathered, and every device keeps its part of the result."""
  mesh = make_mesh("fsdp=8")
  shapes = {"transformer.layers.up_proj.w": (8, 32, 64), "hear.out.w": (32, 64)}
  grads = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  state = jax.eval_shape(muon().init, grads)
  places = param_shardings((grads, state), mesh)
  with jax.set_mesh(mesh):
    compiled = jax.jit(muon().update, in_shardings=places, out_shardings=places).lower(grads, state).compile()
  found = collectives(Program(compiled.as_text()), mesh.shape)
  assert {place: traffic.count for place, traffic in found.items()} == {
    ("all-gather", ("fsdp",)): 1, ("all-to-all", ("fsdp",)): 2,
  }  # fmt: skip


def test_muons_moments_are_sharded_as_their_parameters():
  tree = {"transformer": {"layers": {"up_proj": {"w": jax.ShapeDtypeStruct((8, 32, 64), jnp.float32)}}}}
  mesh = make_mesh("fsdp=8")
  state = jax.eval_shape(make_optimizer(TrainConfig(optimizer="muon")).init, tree)
  (own,) = jax.tree.leaves(param_shardings(tree, mesh))
  moments = [
    place for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(param_shardings(state, mesh))) if leaf.ndim
  ]
  assert [place.spec for place in moments] == [own.spec]


# Losses that are reported, and the z-loss.


def test_losses_by_flow_time():
  """Of four units with a noisy copy out of eight the last does not exist."""
  errors, zeros = jnp.array([1.0, 4.0, 9.0, 16.0]), Latents(jnp.zeros((4, 1)), jnp.zeros((4, 1)))
  inputs = Inputs(
    Past.clean(zeros, jnp.ones((10, 2))), zeros, jnp.array([0.1, 0.6, 0.74, 0.999]), jnp.array([1, 2, 5, 7])
  )
  loss, bins = duplex._flow_loss(errors, jnp.arange(8) < 7, inputs)
  assert loss == pytest.approx(2 * (1 + 4 + 9) / 7)
  np.testing.assert_allclose([float(ratio.value) for ratio in bins], [1, np.nan, (4 + 9) / 2, np.nan])


def test_z_loss():
  """Slots after the first PAD do not count; log Z of uniform logits of V words is log V more than they are."""
  text, uniform = jnp.array([[5, 0, 0], [7, 8, 9]]), lambda hidden: jnp.full((*hidden.shape[:-1], 16), 2.0)
  config = lambda weight: SimpleNamespace(train=TrainConfig(z_loss=weight), model=ModelConfig())
  streamer = lambda weight: SimpleNamespace(logits=uniform, config=config(weight))
  plain, _ = duplex.text_losses(streamer(0.0), jnp.zeros((2, 3, 4)), text)
  loss, metrics = duplex.text_losses(streamer(0.5), jnp.zeros((2, 3, 4)), text)
  square = (2 + np.log(16)) ** 2
  assert metrics["z_squared"] == pytest.approx(square, rel=1e-6)
  assert loss - plain == pytest.approx(0.5 * square * 5 / 2, rel=1e-5)


# Model FLOPs.


@pytest.mark.parametrize(
  "changes", [[], ["layout.window=3"], ["layout.window=2", "layout.sinks=1", "layout.refeed=True"]]
)
def test_the_pairs_are_those_that_the_rule_shows(changes):
  from wanstreamer_jax.units import Coords, Dynamic, unit_coords, visible, world_coords

  config, units = load_config("configs/nano.py", changes), 5
  layout = build_layout(config)
  here = lambda segments: {
    segment.name: Dynamic(True, None, jnp.zeros(segment.tokens, jnp.int32)) for segment in segments
  }
  parts = [world_coords(layout, here(layout.world))]
  for phases in (CLEAN_PHASES, NOISY_PHASES):
    segments = layout.phase(*phases)
    parts += [unit_coords(layout, segments, jnp.int32(unit), here(segments)) for unit in range(units)]
  coords = Coords.concatenate(*parts)
  sinks = config.layout.sinks
  if sinks:
    coords = dataclasses.replace(coords, pinned=coords.pinned | ((coords.unit < sinks) & (coords.scope == 0)))
  assert flops.visible_pairs(layout, units, units) == int(visible(coords, coords, config.layout.window).sum())


def test_model_flops_count_nothing_twice_and_nothing_masked():
  from wanstreamer_jax.data.loader import batch_shapes

  stage = get_stage("duplex")
  config = load_config("configs/nano.py", ["data.units=2", "model.remat=full"])
  count = flops.model_flops(stage, config, batch_shapes(config))
  plain = load_config("configs/nano.py", ["data.units=2", "train.accumulate=2"])
  assert flops.model_flops(stage, plain, batch_shapes(plain)) == count
  masked = flops.duplex_attention_flops(config)
  tokens = build_layout(config).world_tokens + 2 * build_layout(config).tokens(*CLEAN_PHASES, *NOISY_PHASES)
  assert masked < 2 * flops.attention_flops(config, tokens**2) / 2
  weights = sum(leaf.size for leaf in jax.tree.leaves(abstract_duplex_layers(config)) if leaf.ndim > 2)
  assert count - masked > 6 * weights * tokens * config.data.batch


def abstract_duplex_layers(config):
  from wanstreamer_jax.model.streamer import WanStreamer

  return jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)).transformer.layers)


# What a run reports.


def test_every_field_is_documented():
  from wanstreamer_jax.data.loader import batch_shapes

  config = load_config("configs/nano.py", ["data.units=2", "train.z_loss=1e-4"])
  stage = get_stage("duplex")
  state = jax.eval_shape(lambda: init_state(stage, config))
  _, metrics = jax.eval_shape(lambda *args: train_step(stage, config, *args), state, batch_shapes(config))
  assert [name for name in metrics if describe(name) is None] == []
  assert {"audio_tau_0", "video_tau_3", "grad_norm/language", "update_norm/perception", "z_squared"} <= set(metrics)


def test_goodput_and_shares_survive_a_restart(tmp_path, monkeypatch):
  now = [1000.0]
  monkeypatch.setattr("time.time", lambda: now[0])
  monkeypatch.setattr("time.perf_counter", lambda: now[0])
  record = {"loss": 1.0, "grad_norm": 1.0, "skipped": 0.0}
  with MetricLog(tmp_path, 0, 100, 7) as log:
    now[0] += 10  # compiling
    log.restart_clock()
    log.compare_with(0.5)
    now[0] += 20
    log.steps(1, [record] * 10, waited=5.0)
    now[0] += 20
    log.steps(11, [record] * 10)  # lost: the next process starts from step 10
  now[0] += 50  # nobody trains
  with MetricLog(tmp_path, 10, 100, 7) as log:
    now[0] += 20
    log.steps(11, [record] * 10)
  lines = [line for line in read_metrics(tmp_path) if "goodput" in line]
  assert [line["step"] for line in lines] == [10, 20]
  assert lines[0] | {"loss": 1.0} == lines[0]
  assert [lines[0][name] for name in ("seconds", "units_per_s", "mfu", "input_stall")] == [20.0, 3.5, 0.25, 0.25]
  assert lines[0]["goodput"] == pytest.approx(20 / 30, abs=1e-4)
  assert lines[1]["goodput"] == pytest.approx(40 / 120, abs=1e-4)
