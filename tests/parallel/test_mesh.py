"""The mesh, the sharding rules (law 9) and their effect on numbers: none (law 4)."""

import functools
import math
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from tests import CONFIGS
from tests.conftest import assert_close
from tests.helpers.models import SIZES, abstract_codecs, abstract_duplex, duplex_batch
from tests.helpers.toy_stage import ToyLoader, toy_config, toy_stage
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.parallel import mesh as meshes
from wanstreamer_jax.parallel.rules import Rule, fill_leaves, matching_rules, named_leaves, param_shardings, partition
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import compile_step, init_state, loss_and_grads, state_shardings
from wanstreamer_jax.units import CLEAN_PHASES, NOISY_PHASES, build_layout


@pytest.mark.parametrize("size", SIZES)
def test_every_parameter_of_every_size_matches_exactly_one_rule(size):
  for name, leaf in named_leaves(abstract_duplex(size)).items():
    matches = matching_rules(name)
    assert len(matches) == 1, f"{name} matches {matches}"
    assert len(matches[0].axes) <= leaf.ndim, f"{name} {leaf.shape}: {matches[0]}"


def test_every_codec_parameter_matches_exactly_one_rule():
  pytest.importorskip("wanstreamer_jax.codecs.native_video_codec")
  for name, leaf in named_leaves(abstract_codecs("demo.py")).items():
    matches = matching_rules(name)
    assert len(matches) == 1, f"{name} matches {matches}"
    assert len(matches[0].axes) <= leaf.ndim, f"{name} {leaf.shape}: {matches[0]}"


def test_large_models_are_split_by_fsdp_almost_whole():
  """What a device keeps on fsdp=8 is an eighth, up to vectors: no large leaf slipped through as replicated."""
  mesh = AbstractMesh((1, 8, 1, 1), meshes.AXES)
  kept = total = 0
  for name, leaf in named_leaves(abstract_duplex("qwen2p5_1p5b.py:192x336")).items():
    spec = partition(name, leaf.shape, mesh)
    total += leaf.size
    kept += leaf.size // math.prod(mesh.shape[axis] for axis in spec if axis)
  assert total > 1e9
  assert kept < total / 8 * 1.02


def pods() -> dict[tuple[str, str], str]:
  from configs.pods import MESHES

  return MESHES


@pytest.mark.parametrize("names", pods(), ids="-".join)
def test_weights_are_split_over_a_whole_pod(names):
  """Every parameter divides the meshes of configs/pods.py; what a chip keeps is its share, up to vectors."""
  sizes = meshes.parse_mesh(pods()[names])
  mesh = AbstractMesh(tuple(sizes.values()), meshes.AXES)
  kept = total = 0
  for name, leaf in named_leaves(abstract_duplex(f"{names[0]}.py:192x336")).items():
    spec = partition(name, leaf.shape, mesh)
    axes = [axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
    total += leaf.size
    kept += leaf.size / math.prod(mesh.shape[axis] for axis in axes)
  assert kept < total / mesh.size + 3e6
  config = load_config(CONFIGS / f"pods.py:{','.join(names)}")
  assert mesh.size == math.prod(int(side) for side in names[1].partition(":")[2].split("x"))
  assert config.model.heads % sizes["context"] == config.data.units % sizes["context"] == 0


def test_rules_speak_for_the_last_dimensions():
  mesh = AbstractMesh((1, 2, 2, 1), meshes.AXES)
  assert partition("a.layers.q_proj.w", (24, 64, 4, 16), mesh) == PartitionSpec(None, "fsdp", "tensor", None)
  assert partition("q_proj.w", (64, 4, 16), mesh) == PartitionSpec("fsdp", "tensor", None)
  assert partition("k_proj.w", (64, 1, 16), mesh) == PartitionSpec("fsdp", None, None)  # 1 key head on tensor=2


def test_no_rule_two_rules_and_too_many_axes_are_refused():
  mesh = AbstractMesh((1, 2, 1, 1), meshes.AXES)
  with pytest.raises(ConfigError, match=r"'some\.new_table' must match one rule.*matches: none"):
    partition("some.new_table", (4, 4), mesh)
  with pytest.raises(ConfigError, match=r"matches: 'w', '\[a-z\]'"):
    partition("a.w", (4, 4), mesh, (Rule("w"), Rule("[a-z]")))
  with pytest.raises(ConfigError, match="names 2 dimensions"):
    partition("a.w", (4,), mesh, (Rule("w", (None, "fsdp")),))


def test_names_of_leaves():
  tree = {"a": [np.zeros(1), np.ones(2)], "value": {"value": np.zeros(3)}}
  assert list(named_leaves(tree)) == ["a.0", "a.1", "value"]
  leaves = {name: name for name in named_leaves(tree)}
  assert fill_leaves(tree, leaves) == {"a": ["a.0", "a.1"], "value": {"value": "value"}}
  with pytest.raises(ConfigError, match="same dotted name"):
    named_leaves({"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)})


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("data=2,fdsp=4", "unknown axis 'fdsp'; did you mean 'fsdp'"),
    ("model=2", "unknown axis 'model'; known: data, fsdp, tensor, context"),
    ("data=two", "'data' needs a positive whole number"),
    ("data", "'data' needs a positive whole number"),
    ("data=0", "'data' needs a positive whole number"),
    ("data=2,data=4", "'data' is given twice"),
    ("data=4,fsdp=4", r"needs 16 devices \(data=4 x fsdp=4\), but there are 8"),
  ],
)
def test_meshes_that_cannot_be(spec, message):
  with pytest.raises(ConfigError, match=message):
    meshes.make_mesh(spec)


def test_meshes():
  assert dict(meshes.make_mesh("").shape) == {"data": 8, "fsdp": 1, "tensor": 1, "context": 1}
  assert dict(meshes.make_mesh(" data=2, fsdp=4 ").shape) == {"data": 2, "fsdp": 4, "tensor": 1, "context": 1}
  assert meshes.make_mesh("data=1").size == 1  # fewer than there are: the first ones
  mesh = meshes.make_mesh("data=2,fsdp=4")
  meshes.check_batch(16, mesh)
  with pytest.raises(ConfigError, match=r"data\.batch is 12, which does not divide over data=2 x fsdp=4 = 8"):
    meshes.check_batch(12, mesh)


def test_batches_are_split_over_data_and_fsdp():
  mesh = meshes.make_mesh("data=2,fsdp=4")
  placed = meshes.place_batch({"x": np.arange(16).reshape(8, 2)}, mesh)["x"]
  assert [shard.data.shape for shard in placed.addressable_shards] == [(1, 2)] * 8
  np.testing.assert_array_equal(placed, np.arange(16).reshape(8, 2))


def test_constrain_is_the_identity_without_a_mesh_and_names_axes_in_one():
  x = jnp.ones((8, 16))
  assert meshes.constrain(x, None, "tensor") is x
  with jax.set_mesh(meshes.make_mesh("data=1")):
    assert meshes.constrain(x, None, "tensor") is x
  with jax.set_mesh(meshes.make_mesh("data=2,tensor=4")):
    y = jax.jit(jax.vmap(lambda row: meshes.constrain(row * 2, "tensor")))(x)
  assert y.sharding.spec[1] == "tensor"
  assert_close(y, 2 * x)


def test_the_compilation_cache_keeps_what_was_configured(tmp_path):
  before = jax.config.jax_compilation_cache_dir
  assert str(meshes.enable_compilation_cache(tmp_path)) == before
  try:
    jax.config.update("jax_compilation_cache_dir", None)
    assert meshes.enable_compilation_cache(tmp_path / "cache") == tmp_path / "cache"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "file").write_text("")
    assert meshes.enable_compilation_cache(tmp_path / "file") is None
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


@functools.cache
def sharded_loss_and_grads(spec: str):
  """(loss, gradients, step-1 metrics) of the toy stage on a mesh, on the host."""
  mesh, stage, config = meshes.make_mesh(spec), toy_stage(), toy_config("unused").freeze()
  _, shardings = state_shardings(stage, config, mesh)
  batch = meshes.place_batch(ToyLoader(config).batch_at(0), mesh)
  state = jax.jit(lambda: init_state(stage, config), out_shardings=shardings)()
  (loss, _), grads = jax.jit(
    lambda params, batch: loss_and_grads(stage, config, params, batch, jnp.int32(3)),
    in_shardings=(shardings.params, meshes.batch_sharding(mesh)),
  )(state.params, batch)
  split = [not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params)]
  _, metrics = compile_step(stage, config, mesh)(state, batch)
  return jax.device_get((loss, grads, metrics)), any(split)


@pytest.mark.parametrize("spec", ["data=8", "fsdp=8", "data=2,fsdp=4", "fsdp=4,tensor=2"])
def test_law_4_loss_and_gradients_of_every_mesh_equal_one_devices(spec):
  expected, _ = sharded_loss_and_grads("data=1")
  actual, split = sharded_loss_and_grads(spec)
  assert split == ("fsdp" in spec)
  assert_close(actual, expected, 1e-5)


@functools.cache
def duplex_program(spec: str, *overrides: str):
  """Loss and gradients of the real duplex stage, small, compiled for a mesh, and its arguments: noise on, every leaf
  random."""
  small = ["data.batch=8", "data.units=4", "model.heads=4", "model.kv_heads=2", *overrides]
  config = load_config(CONFIGS / "nano.py", small)
  mesh, stage = meshes.make_mesh(spec), get_stage("duplex")
  abstract, shardings = state_shardings(stage, config, mesh)
  batch = meshes.place_batch(duplex_batch(config, config.data.batch), mesh)
  # Drawn by name, so that a new parameter leaves the others as they are: with some draws, queries of the ears are
  # nearly 0, and their norm makes gradients of mere rounding.
  draw = lambda name, shape: 0.1 * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
  drawn = {name: np.asarray(draw(name, leaf.shape), np.float32) for name, leaf in named_leaves(abstract.params).items()}
  params = jax.device_put(fill_leaves(abstract.params, drawn), shardings.params)
  with jax.set_mesh(mesh):
    program = jax.jit(
      lambda params, batch: loss_and_grads(stage, config, params, batch, jnp.int32(3)),
      in_shardings=(shardings.params, meshes.batch_sharding(mesh)),
    )
    return program.lower(params, batch).compile(), params, batch


@functools.cache
def duplex_loss_and_grads(spec: str, *overrides: str):
  """((loss, metrics), gradients), on the host."""
  program, *arguments = duplex_program(spec, *overrides)
  return jax.device_get(program(*arguments))


def check_mesh(spec: str, *overrides: str) -> None:
  (loss, metrics), grads = duplex_loss_and_grads(spec, *overrides)
  plain = [override for override in overrides if not override.startswith("model.attention")]
  (expected, expected_metrics), expected_grads = duplex_loss_and_grads("data=1", *plain)
  assert_close((loss, metrics), (expected, expected_metrics), 1e-5)
  assert_close(named_leaves(grads), named_leaves(expected_grads), 1e-5)


DUPLEX_MESHES = ("data=2,context=2,tensor=2", "fsdp=2,context=4")
MORE_MESHES = (
  "data=8", "fsdp=8", "data=2,fsdp=4", "fsdp=4,tensor=2", "data=4,context=2", "context=4", "context=2,tensor=2",
  "fsdp=2,context=2,tensor=2",
)  # fmt: skip


@pytest.mark.parametrize(
  "spec", [*DUPLEX_MESHES, *(pytest.param(spec, marks=pytest.mark.slow) for spec in MORE_MESHES)]
)
def test_law_4_loss_and_gradients_of_the_duplex_stage(spec):
  check_mesh(spec)


@pytest.mark.slow
@pytest.mark.parametrize(
  "overrides",
  [
    ("train.noisy_units=2",),  # of 4
    ("layout.commit_delay=2", "layout.sinks=1"),
    ("model.attention=splash", "data.batch=2"),
    ("model.attention=splash", "data.batch=2", "train.noisy_units=2", "model.remat=full"),
  ],
)
def test_law_4_with_a_part_of_the_tokens_on_each_device(overrides):
  check_mesh("data=2,context=2,tensor=2", *overrides)


def test_tokens_are_exchanged_for_heads_and_never_gathered():
  """Whatever is gathered and as large as one session's activations is a weight."""
  program, params, _ = duplex_program("fsdp=2,context=4")
  config = load_config(CONFIGS / "nano.py", ["data.units=4"])
  layout = build_layout(config)
  tokens = layout.world_tokens + 4 * layout.tokens(*CLEAN_PHASES, *NOISY_PHASES)
  text = program.as_text()
  assert "all-to-all" in text
  gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather", text)
  sizes = {math.prod(int(side) for side in shape.split(",")) for shape in gathered}
  weights = {
    leaf.size // (config.model.layers if ".layers." in name else 1) for name, leaf in named_leaves(params).items()
  }
  assert {size for size in sizes if size >= tokens * config.model.width} <= weights


def test_what_does_not_divide_over_context_is_refused():
  with pytest.raises(ConfigError, match=r"model.heads is 2, which does not divide over tensor=4 x context=1"):
    get_stage("duplex").make_loader(load_config(CONFIGS / "nano.py", ["train.mesh=data=2,tensor=4"]))
  for overrides, message in (
    (("model.heads=2", "model.kv_heads=2"), r"model.heads is 2, which does not divide over tensor=1 x context=4"),
    (("data.units=6",), r"data.units is 6, which does not divide over context=4: use 8"),
    (("train.noisy_units=2",), r"train.noisy_units is 2, which does not divide over context=4"),
  ):
    with pytest.raises(ConfigError, match=message):
      duplex_program("fsdp=2,context=4", *overrides)


def test_param_shardings_follow_parameters_into_the_optimiser_state():
  mesh, config = meshes.make_mesh("fsdp=8"), toy_config("unused").freeze()
  abstract, shardings = state_shardings(toy_stage(), config, mesh)
  specs = {name: sharding.spec for name, sharding in named_leaves(shardings).items()}
  moments = [name for name in specs if name.endswith("up_proj.w")]
  assert len(moments) == 4  # params, two moments, average
  assert {specs[name] for name in moments} == {PartitionSpec("fsdp", None)}
  assert specs["step"] == PartitionSpec()
  assert jax.tree.structure(param_shardings(abstract, mesh)) == jax.tree.structure(abstract)
