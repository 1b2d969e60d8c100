"""What `wanstreamer aot` reports. Reading a program's text needs no TPU compiler; compiling one does (libtpu)."""

import argparse
import importlib.util
import math
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from tests.helpers.encoders import config_with
from wanstreamer_jax.aot import compile, hlo, pods, report, roofline
from wanstreamer_jax.aot.collectives import Traffic, collectives, replica_groups
from wanstreamer_jax.cli.aot import aot as aot_command
from wanstreamer_jax.cli.inspect_parts import agent_parts
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.encode import latent_dtypes
from wanstreamer_jax.data.loader import PREVIOUS, SESSION_FIELDS, UNIT_FIELDS, WITH_PAST, batch_shapes
from wanstreamer_jax.data.records import session_dtype, unit_dtype
from wanstreamer_jax.errors import ConfigError, UserError
from wanstreamer_jax.model.attention_tpu import two_copy_pattern
from wanstreamer_jax.nn.attention_splash import LANES, kernel_flops
from wanstreamer_jax.parallel.mesh import make_mesh, parse_mesh
from wanstreamer_jax.units import build_layout

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

# ruff: noqa: E501 (a compiler wrote these lines)
MESH = {"data": 1, "fsdp": 2, "tensor": 2, "context": 1}
PROGRAM = """
HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %index = s32[] get-tuple-element(%state), index=0
  ROOT %more = pred[] compare(%index, %seven), direction=LT
}

%piece (x: bf16[4,4]) -> bf16[8,4] {
  %x = bf16[4,4] parameter(0)
  ROOT %gather.1 = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=5, replica_groups=[2,2]<=[4], dimensions={0}, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.1 (y: f32[8,4]) -> f32[4,4] {
  %y = f32[8,4] parameter(0)
  %whole = f32[8,4] all-reduce(%y), channel_id=1, replica_groups={{0,2},{1,3}}, to_apply=%add
  ROOT %part = f32[4,4] dynamic-slice(%whole, %place), dynamic_slice_sizes={4,4}
}

%one_layer (stack: f32[7,8,4], at: s32[]) -> f32[8,4] {
  %stack = f32[7,8,4] parameter(0)
  %at = s32[] parameter(1)
  %one = f32[1,8,4] dynamic-slice(%stack, %at), dynamic_slice_sizes={1,8,4}
  ROOT %layer = f32[8,4] bitcast(%one)
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = bf16[4,4]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %y = f32[8,4]{1,0:S(1)} get-tuple-element(%state), index=2
  %stack = f32[7,8,4] get-tuple-element(%state), index=3
  %index = s32[]{:S(2)} get-tuple-element(%state), index=0
  %layer = f32[8,4]{1,0:S(1)} fusion(%stack, %index), kind=kLoop, calls=%one_layer
  %part.1 = bf16[8,4]{1,0:S(1)} fusion(%x), kind=kCustom, calls=%piece
  %gather.2 = bf16[8,4]{1,0:S(1)} all-gather(%x), channel_id=5, replica_groups=[2,2]<=[4], dimensions={0}, frontend_attributes={chain_id="0"}
  %scattered = f32[4,4]{1,0:S(1)} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
  %there = (f32[8,4]{1,0:S(1)}, f32[8,4]{1,0:S(1)}, u32[], u32[]) collective-permute-start(%y), channel_id=1, source_target_pairs={{0,2},{1,3},{2,0},{3,1}}
  %and = (f32[8,4]{1,0:S(1)}, f32[8,4]{1,0:S(1)}, u32[], u32[]) collective-permute-start(%y), channel_id=1, source_target_pairs={{0,2},{1,3},{2,0},{3,1}}
  %product = f32[8,8]{1,0:S(1)} convolution(%y, %y), dim_labels=bf_oi->bf
  ROOT %next = (s32[], f32[8,4]) tuple(%index, %y)
}

ENTRY %main (x: f32[8,4]) -> f32[] {
  %p = f32[3]{0} parameter(0)
  %q = f32[] parameter(1)
  %r = f32[2,4] parameter(2)
  %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body
  %sums = (f32[3]{0}, f32[]) all-reduce(%p, %q), channel_id=9, replica_groups={}, to_apply=%add
  %begin = (f32[2,4], f32[4,4]) all-gather-start(%r), channel_id=10, replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={0}
  %end = f32[8,4] all-gather-done(%begin)
  %got = (bf16[6,8,128], u32[]{:S(2)}, token[]) recv(%token), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %out = f32[] get-tuple-element(%sums), index=1
}
"""


def test_collectives_count_once_for_every_turn_once_for_all_their_pieces_and_by_axis():
  assert collectives(hlo.Program(PROGRAM), MESH) == {
    ("all-gather", ("tensor",)): Traffic(7 + 1, 7 * 8 * 4 * 2 / 2 + 4 * 4 * 4 / 2),
    ("all-reduce", ("fsdp", "tensor")): Traffic(1, 2 * (3 * 4 + 4) * 3 / 4),
    ("all-reduce", ("slices",)): Traffic(1, 6 * 8 * 128 * 2),
    ("reduce-scatter", ("fsdp",)): Traffic(7, 7 * 8 * 4 * 4 / 2),
    ("collective-permute", ("fsdp",)): Traffic(2 * 7, 2 * 7 * 8 * 4 * 4),
  }


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("{{0,2},{1,3}}", [[0, 2], [1, 3]]),
    ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("mesh['a'=2,'b'=4] {'b':(1)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
    ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
  ],
)
def test_replica_groups_of_every_form(text, expected):
  assert replica_groups(f", channel_id=1, replica_groups={text}, dimensions={{0}}", 8).tolist() == expected


def test_replica_groups_of_an_unknown_form_are_a_defect():
  with pytest.raises(ValueError, match="unknown form: someday"):
    replica_groups("replica_groups=someday", 4)


def test_products_and_memory_count_for_every_turn():
  program = hlo.Program(PROGRAM)
  assert program.product_flops() == 7 * 2 * 8 * 8 * 4
  layer = 8 * 4 * 4  # one of seven is read, by the fusion that slices it; the loop's other values lie in other memory
  entry = 2 * (3 * 4 + 4) + 2 * 4 * 4 + 2 * 4 * 4 + 6 * 8 * 128 * 2 + (2 * 4 + 1)  # the last: the loop's condition
  assert program.memory_bytes() == 7 * layer + entry


def test_what_a_kernel_says_of_itself_counts_for_every_turn():
  """Its operand is a whole stack, of which it reads a layer."""
  kernel = """  %kernel = f32[8,4] custom-call(%stack), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"","cost_estimate":{"flops":"123","transcendentals":"45","bytes_accessed":"678"}}}
"""
  plain, program = (hlo.Program(PROGRAM.replace("  %product =", more + "  %product =")) for more in ("", kernel))
  assert program.product_flops() - plain.product_flops() == 7 * 123
  assert program.memory_bytes() - plain.memory_bytes() == 7 * 678


def test_loops_that_were_unrolled_turn_less_often():
  """7 turns, two in each body: 4 of them; the counter's own addition tells."""
  unrolled = PROGRAM.replace(
    "  ROOT %next = (s32[], f32[8,4]) tuple(%index, %y)",
    """  %one = s32[] constant(1)
  %once = s32[] add(%index, %one)
  %twice = s32[] add(%one, %once)
  ROOT %next = (s32[], f32[8,4]) tuple(%twice, %y)""",
  )
  assert hlo.Program(unrolled).product_flops() == 4 * 2 * 8 * 8 * 4


def test_a_slice_inside_a_fusion_inside_a_fusion_reads_its_part():
  inner = PROGRAM.replace(
    "%body (",
    """%around (stack: f32[7,8,4], at: s32[]) -> f32[8,4] {
  %stack = f32[7,8,4] parameter(0)
  %at = s32[] parameter(1)
  ROOT %layer = f32[8,4] fusion(%stack, %at), kind=kLoop, calls=%one_layer
}

%body (""",
  ).replace("fusion(%stack, %index), kind=kLoop, calls=%one_layer", "fusion(%stack, %index), kind=kLoop, calls=%around")
  assert inner.count("calls=%around") == 1
  assert hlo.Program(inner).memory_bytes() == hlo.Program(PROGRAM).memory_bytes()


def test_batch_dimensions_as_window_positions_are_counted_once():
  """A product of 6 pairs of matrices, as the TPU compiler writes it: padded windows that meet one element each."""
  text = """
ENTRY %main (x: f32[2,89,1,64]) -> f32[2,89,6,48] {
  %x = f32[2,89,1,64] parameter(0)
  %w = f32[6,64,48,1] parameter(1)
  ROOT %y = f32[2,89,6,48] convolution(%x, %w), window={size=1x6 pad=0_0x5_5 rhs_reversal=0x1}, dim_labels=0b1f_1io0->0b1f
}
"""
  assert hlo.Program(text).product_flops() == 2 * 2 * 89 * 6 * 48 * 64


def chip_at(x: int, y: int, index: int = 0) -> types.SimpleNamespace:
  return types.SimpleNamespace(
    coords=(x, y, 0), core_on_chip=0, slice_index=index, device_kind="TPU v5 lite", platform="tpu"
  )


def test_axes_are_found_on_the_torus():
  chips = np.array([[chip_at(x, y) for y in range(16)] for x in range(16)])
  mesh = types.SimpleNamespace(axis_names=("fsdp", "context"), devices=chips.reshape(64, 4))
  across, along = roofline.sides(mesh, ("fsdp",)), roofline.sides(mesh, ("context",))
  assert [tuple(side) for side in along] == [("y", 4, 1, False)]  # a line of four
  assert [tuple(side) for side in across] == [("x", 16, 1, True), ("y", 4, 4, True)]


def test_seconds_on_links_are_those_of_rings_lines_and_cuts():
  chip, moved = roofline.CHIPS["TPU v5 lite"], Traffic(1, 15e9)
  ring, line = roofline.TorusSide("x", 16, 1, True), roofline.TorusSide("y", 16, 1, False)
  assert chip.link == 50e9
  gather = lambda *span: roofline.seconds_on_links("all-gather", moved, 16, list(span), chip)
  assert gather(ring) == pytest.approx(15 / 100)  # from both sides
  assert gather(line) == pytest.approx(15 / 50)
  assert gather(ring, line) == pytest.approx(15 / 150)
  exchange = roofline.seconds_on_links("all-to-all", moved, 16, [ring], chip)
  assert exchange == pytest.approx(16 * 16 / 8 / 50)  # 16 GB on each of 16, a quarter of all over two links, each way


def test_kernel_flops_are_those_of_the_visited_blocks():
  config = load_config("configs/nano.py")
  pattern = two_copy_pattern(build_layout(config), 1)
  assert pattern.tokens <= LANES  # one block
  product = 2 * LANES * LANES * LANES
  flops = lambda name: kernel_flops(name, pattern, 3, (24, 20))
  assert flops("splash_mha_fwd_segmented") == 3 * 2 * product
  assert flops("splash_mha_dq_segmented") == 3 * 3 * product
  assert flops("splash_mha_dkv_segmented") == 3 * 4 * product


def test_the_batch_has_the_shapes_of_latent_records():
  config = load_config("configs/nano.py", ["layout.voice_units=2"])
  source = types.SimpleNamespace(unit_dtype=unit_dtype(config, ()), session_dtype=session_dtype(config))
  units, session = latent_dtypes(source, config)
  batch = batch_shapes(config)
  for name in UNIT_FIELDS:
    length = config.data.units + PREVIOUS * (name in WITH_PAST)
    expected = np.zeros((config.data.batch, length), units)[name]
    assert (getattr(batch, name).shape, getattr(batch, name).dtype) == (expected.shape, expected.dtype)
  for name in SESSION_FIELDS:
    expected = np.zeros(config.data.batch, session)[name]
    assert (getattr(batch, name).shape, getattr(batch, name).dtype) == (expected.shape, expected.dtype)


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'wanstreamer-jax\[aot\]'"):
    compile.topology_devices("v5e:2x2")


def test_without_a_config_one_line_says_what_is_needed():
  arguments = argparse.Namespace(all=False, growth=False, config=None, topology="v5e:2x2")
  with pytest.raises(
    UserError, match="aot needs --config and --topology, --all or --growth; see wanstreamer aot --help"
  ):
    aot_command(arguments)


@needs_libtpu
def test_an_unknown_topology_is_refused():
  command = [sys.executable, "-m", "wanstreamer_jax", "aot", "--config", "configs/nano.py", "--what", "step"]
  done = subprocess.run([*command, "--topology", "v5e:3x5"], capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1
  assert "topology 'v5e:3x5' is not one that libtpu knows" in done.stderr


@needs_libtpu
def test_other_stages_meshes_and_batches_that_do_not_fit_are_refused():
  devices = compile.topology_devices("v5e:2x2")
  for override, message in (
    ("train.stage=audio_codec", "aot compiles the duplex stage only"),
    ("train.mesh=fsdp=8", "needs 8 devices"),
    ("train.mesh=fsdp=2", "uses 2 of the topology's 4 chips: use all of them"),
    ("train.mesh=fsdp=2,context=2", "model.heads is 3, which does not divide over tensor=1 x context=2"),
    ("data.batch=3", "does not divide"),
  ):
    config = load_config("configs/nano.py", ["model.heads=3", "model.kv_heads=3", "model.attention=splash", override])
    with pytest.raises(ConfigError, match=message):
      compile.train_program(config, devices)


@needs_libtpu
def test_an_axis_may_take_a_part_of_a_torus_side():
  mesh = make_mesh("fsdp=32,context=8", compile.topology_devices("v6e:16x16"))
  (side,) = roofline.sides(mesh, ("context",))
  assert tuple(side)[1:] == (8, 1, False)  # eight neighbours in a line


@needs_libtpu
def test_slices_are_joined_by_data_alone():
  devices = compile.topology_devices("v5e:2x2", slices=2)
  mesh = make_mesh("data=4,fsdp=2", devices)
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  assert (slices == np.array([0, 0, 1, 1]).reshape(4, 1, 1, 1)).all()
  with pytest.raises(ConfigError, match="data=1 does not divide over 2 slices.*a multiple of 2"):
    make_mesh("fsdp=8", devices)
  with pytest.raises(ConfigError, match="needs 4 devices.*but there are 8"):
    make_mesh("data=2,fsdp=2", devices)


def test_a_program_that_is_too_large_is_explained():
  error = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (512.00G) exceeds available HBM (15.75G). HLO module: jit_f."
  )
  config = load_config("configs/nano.py", ["data.batch=8"])
  explained = compile._explained(error, "demo: training step", compile._train_advice(config, shards=4))
  assert isinstance(explained, ConfigError)
  assert str(explained) == (
    "demo: training step needs 512.00G of a chip's 15.75G: use data.batch=4, model.remat=full, more chips, a larger "
    "context in train.mesh or shorter data.units"
  )
  other = jax.errors.JaxRuntimeError("INTERNAL: something else")
  assert compile._explained(other, "demo", "") is other


@needs_libtpu
def test_the_training_step_compiles_for_several_chips():
  overrides = [
    "data.batch=2", "data.units=4", "model.layers=3", "model.attention=splash", "model.dtype=bfloat16",
    "train.mesh=fsdp=2,context=2",
  ]  # fmt: skip
  config = load_config("configs/nano.py", overrides)
  with jax.default_matmul_precision("default"):  # float32 passes over bfloat16 operands are no instruction of a TPU
    result = compile.compile_for(config, "v5e:2x2", "train")
  assert result["device"] == "TPU v5 lite"
  memory, bound = result["memory"], result["roofline"]
  assert 0 < memory["weights"] < memory["optimiser"] < memory["peak"]
  gathers = [row["count"] for row in bound["collectives"] if row["kind"] == "all-gather"]
  assert sum(gathers) >= 3 * 7  # every matrix of every layer
  exchanges = [row for row in bound["collectives"] if row["kind"] == "all-to-all" and row["axes"] == ["context"]]
  assert sum(row["count"] for row in exchanges) >= 3 * 4  # of every layer: to heads and back, there and in the gradient
  assert result["flops"]["attention kernels"] > 0
  assert result["flops"]["products"] <= result["flops_compiled"]
  assert bound["seconds"] == max(bound["busy"].values()) == bound["busy"][bound["bound"]]
  assert 0 < bound["mfu"] < 1
  text = "\n".join(report.report_lines(result))
  for word in ("fsdp=2,context=2", "splash", "of HBM", "fits", "all-to-all over context", "counted: attention kernels",
               "by the compiler", "ICI x", "bound by", "MFU at best"):  # fmt: skip
    assert word in text


def test_the_cells_of_the_document_are_distinct_and_their_meshes_fill_their_pods():
  assert len({cell.name for cell in pods.CELLS}) == len(pods.CELLS)
  for cell in pods.CELLS:
    mesh = parse_mesh(cell.load().train.mesh)
    chips = math.prod(int(side) for side in cell.topology.partition(":")[2].split("x")) * cell.slices
    assert cell.what == "step" or not cell.load().train.mesh or math.prod(mesh.values()) == chips


def test_the_document_is_resumed_and_says_what_is_missing(tmp_path, monkeypatch):
  compiled = []

  def fake(cell, plan):
    compiled.append((cell.name, plan))
    return {"error": f"{cell.config} needs 99G of a chip's 16G: use more chips", "code": not plan}

  monkeypatch.setattr(pods, "compile_cell", fake)
  names = ["train: demo.py, v5e:2x2", "step: demo.py, 10 s, v5e:2x2"]
  pods.scale_command(tmp_path / "scale.md", only="demo", plan=True)
  pods.scale_command(tmp_path / "scale.md", only="demo", plan=True)  # nothing is planned twice
  assert compiled == [(name, True) for name in names]
  text = (tmp_path / "scale.md").read_text()
  assert "needs 99G of a chip's 16G: use more chips" in text
  assert "Not compiled yet: train: pods.py:qwen2p5_1p5b,v5e:16x16,192x336, v5e:16x16;" in text
  assert "no code generated (`--plan`): all of them." in text
  pods.scale_command(tmp_path / "scale.md", only="demo", plan=False)  # but compiled where code is wanted
  assert compiled[2:] == [(name, False) for name in names]
  assert "no code generated" not in (tmp_path / "scale.md").read_text()


def test_a_config_is_known_by_what_it_sets():
  plain = load_config("configs/nano.py")
  same = load_config("configs/nano.py", [f"train.seed={plain.train.seed}"])
  other = load_config("configs/nano.py", ["train.seed=7"])
  assert pods.fingerprint(plain) == pods.fingerprint(same) != pods.fingerprint(other)


@needs_libtpu
def test_a_cell_that_is_refused_is_a_result():
  cell = pods.PodCell("nano.py", "v5e:2x2", "train", overrides=("data.batch=3",))
  assert "data.batch is 3, which does not divide" in pods.compile_cell(cell, plan=True)["error"]


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("cell", pods.CELLS, ids=lambda cell: cell.name)
def test_every_cell_of_the_document_fits(cell):
  result = pods.compile_cell(cell, plan=True)
  assert "error" not in result, result["error"]
  assert result["memory"]["peak"] < result["hbm"]


def test_a_step_says_what_encoders_and_decoders_are_of_it():
  config = config_with("pocket", "siglip2")
  flops = compile.step_program(config, jax.devices()).flops
  parts = {part.name: part.flops for part in agent_parts(config)[0]}
  assert flops[compile.SENSES] == parts["hears"] + parts["sees"]
  assert flops[compile.DECODERS] == parts["speaks"] + parts["draws"]
  assert flops["products"] > flops[compile.SENSES] + flops[compile.DECODERS]
