"""What `wanstreamer aot` reports. Reading a program's text needs no TPU compiler; compiling one does (libtpu)."""

import importlib.util
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from wanstreamer_jax import aot
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.crops import FIELDS
from wanstreamer_jax.data.encode import latent_dtypes
from wanstreamer_jax.data.loader import CARRIED
from wanstreamer_jax.data.records import session_dtype, unit_dtype
from wanstreamer_jax.errors import ConfigError, UserError
from wanstreamer_jax.model.kernels import two_copy_pattern
from wanstreamer_jax.nn.splash import LANES, kernel_flops
from wanstreamer_jax.parallel.collectives import Traffic, collectives
from wanstreamer_jax.units import build_layout

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

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
  ROOT %gather.1 = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=5, dimensions={0}
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %part.1 = bf16[8,4] fusion(%x), kind=kCustom, calls=%piece
  %gather.2 = bf16[8,4]{1,0} all-gather(%x), channel_id=5, dimensions={0}
  %scatter = f32[2,4] reduce-scatter(%y), channel_id=6, to_apply=%add
  ROOT %next = (s32[], f32[8,4]) tuple(%index, %y)
}

ENTRY %main (x: f32[8,4]) -> f32[] {
  %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body
  %sums = (f32[3]{0}, f32[]) all-reduce(%p, %q), channel_id=9, to_apply=%add
  %begin = (f32[2,4], f32[8,4]) all-gather-start(%r), channel_id=10, dimensions={0}
  %end = f32[8,4] all-gather-done(%begin)
  ROOT %out = f32[] get-tuple-element(%sums), index=1
}
"""


def test_collectives_count_once_for_every_turn_and_once_for_all_their_pieces():
  assert collectives(PROGRAM) == {
    "all-gather": Traffic(7 + 1, 7 * 8 * 4 * 2 + 8 * 4 * 4),
    "all-reduce": Traffic(1, 3 * 4 + 4),
    "reduce-scatter": Traffic(7, 7 * 2 * 4 * 4),
  }


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
  batch = aot.duplex_batch(config)
  previous = {f"previous_{name}" for name in CARRIED}
  assert set(batch) == {*FIELDS, *(session.names or ()), "session", "start", *previous}
  for name in FIELDS:
    expected = np.zeros((config.data.batch, config.data.units), units)[name]
    assert (batch[name].shape, batch[name].dtype) == (expected.shape, expected.dtype)
  for name in set(session.names or ()) - {"seed"}:
    expected = np.zeros(config.data.batch, session)[name]
    assert (batch[name].shape, batch[name].dtype) == (expected.shape, expected.dtype)


def test_without_libtpu_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'wanstreamer-jax\[aot\]'"):
    aot.topology_devices("v5e:2x2")


@needs_libtpu
def test_an_unknown_topology_is_refused():
  command = [sys.executable, "-m", "wanstreamer_jax", "aot", "--config", "configs/nano.py", "--what", "step"]
  done = subprocess.run([*command, "--topology", "v5e:3x5"], capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1
  assert "topology 'v5e:3x5' is not one that libtpu knows" in done.stderr


@needs_libtpu
def test_other_stages_meshes_and_batches_that_do_not_fit_are_refused():
  devices = aot.topology_devices("v5e:2x2")
  for override, message in (
    ("train.stage=audio_vae", "aot compiles the duplex stage only"),
    ("train.mesh=fsdp=8", "needs 8 devices"),
    ("data.batch=3", "does not divide"),
  ):
    with pytest.raises(ConfigError, match=message):
      aot.train_program(load_config("configs/nano.py", [override]), devices)


def test_a_program_that_is_too_large_is_explained():
  error = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (512.00G) exceeds available HBM (15.75G). HLO module: jit_f."
  )
  explained = aot._explained(error, "demo: unit step")
  assert isinstance(explained, ConfigError)
  assert str(explained).startswith("demo: unit step needs 512.00G of a chip's 15.75G: use more chips")
  other = jax.errors.JaxRuntimeError("INTERNAL: something else")
  assert aot._explained(other, "demo") is other


@needs_libtpu
def test_the_training_step_compiles_for_several_chips():
  overrides = ["data.batch=4", "data.units=3", "model.layers=3", "model.attention=splash", "model.dtype=bfloat16"]
  config = load_config("configs/nano.py", overrides)
  with jax.default_matmul_precision("default"):  # float32 passes over bfloat16 operands are no instruction of a TPU
    result = aot.compile_for(config, "v5e:2x2", "train")
  assert result["device"] == "TPU v5 lite"
  assert 0 < result["memory"]["arguments: state"] < result["memory"]["arguments"] < result["memory"]["peak"]
  assert result["collectives"]["all-gather"]["count"] >= 3 * 7  # every matrix of every layer
  assert result["flops"]["attention kernels"] > 0
  text = "\n".join(aot.report_lines(result))
  for word in ("fsdp=4", "splash", "of HBM", "fits", "all-gather", "by hand: attention kernels", "by the compiler"):
    assert word in text


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
  ("config", "topology"), [("configs/demo.py", "v5e:2x2"), ("configs/qwen2p5_1p5b.py", "v6e:2x4")]
)
@pytest.mark.parametrize("what", ["train", "step"])
def test_the_real_sizes_compile_and_fit(config, topology, what):
  result = aot.compile_for(load_config(config), topology, what)
  assert result["memory"]["peak"] < result["hbm"]
