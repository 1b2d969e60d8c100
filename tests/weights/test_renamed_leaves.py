"""Checkpoints and exports from before a leaf got its name: read as if they had been written today."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import assert_close
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.encode import fingerprint
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train import checkpoint
from wanstreamer_jax.train.checkpoint import Checkpoints, flatten_state
from wanstreamer_jax.train.optim import decayed
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import state_shardings
from wanstreamer_jax.weights.agent import load_agent
from wanstreamer_jax.weights.store import META_FILE, current_name, meta_digest, read_weights

STEP = 3


def names_of_before(state):
  """`flatten_state` as it was."""
  parts = flatten_state(state)
  return {
    part: {name.replace("see.w", "see.conv"): leaf for name, leaf in leaves.items()} for part, leaves in parts.items()
  }


def test_latents_of_the_shipped_codecs_still_fit():
  """Recorded when they were shipped: latents that were made since then are of these codecs."""
  agent = load_agent("demo")
  made_by = "4c7b765dd9c6afc44130a50676d08e580af94fce5e31c106091d2257057b13f3"
  assert fingerprint(agent.audio_codec, agent.video_codec) == made_by


def test_names():
  assert current_name("see.conv") == "see.w"
  assert current_name("streamer.see.conv") == "streamer.see.w"
  assert current_name("inner_state.1.mu.see.conv") == "inner_state.1.mu.see.w"
  for name in ("see.w", "hear.conv.w", "oversee.conv", "see.conv_in.w", "encoder.layers.1.conv.w"):
    assert current_name(name) == name


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
  """(folder, config, state) of a run whose checkpoint has the old names, with Muon and Adam moments and an average."""
  folder = tmp_path_factory.mktemp("old")
  config = load_config("configs/nano.py", ["train.optimizer=muon", "train.ema=0.9", f"train.run={folder}"])
  abstract, _ = state_shardings(get_stage("duplex"), config, make_mesh("data=1"))
  r = np.random.default_rng(0)
  state = jax.device_put(jax.tree.map(lambda leaf: (9 * r.random(leaf.shape)).astype(leaf.dtype), abstract))
  state = dataclasses.replace(state, step=jnp.int32(STEP))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoint, "flatten_state", names_of_before)
    with Checkpoints(folder / "checkpoints", config) as checkpoints:
      checkpoints.save(state, STEP)
  return folder, config, state


def restore(folder, config, spec):
  abstract, shardings = state_shardings(get_stage("duplex"), config, make_mesh(spec))
  with Checkpoints(folder / "checkpoints", config) as checkpoints:
    return checkpoints.restore(abstract, shardings)


def read_meta(folder):
  return json.loads((folder / "checkpoints" / str(STEP) / META_FILE).read_text())


@pytest.mark.parametrize("spec", ["data=1", "fsdp=8"])
def test_an_old_run_goes_on(old_run, spec):
  folder, config, state = old_run
  saved = [name for leaves in read_meta(folder)["leaves"].values() for name in leaves]
  assert [name.endswith("see.conv") for name in saved].count(True) == 4  # weight, two moments of Adam, average
  assert not [name for name in saved if name.endswith("see.w")]
  assert_close(jax.device_get(restore(folder, config, spec)), jax.device_get(state), 0)


def test_weights_of_an_old_run_are_read(old_run):
  folder, _, state = old_run
  assert_close(read_weights(folder)[1], jax.device_get(named_leaves(state.ema)), 0)


def test_checksums_of_an_old_run_are_compared(old_run, tmp_path):
  folder, config, _ = old_run
  shutil.copytree(folder / "checkpoints", tmp_path / "run" / "checkpoints")
  meta = read_meta(folder)
  meta["checksums"]["ema"]["see.conv"] ^= 1
  meta["digest"] = meta_digest(meta)
  (tmp_path / "run" / "checkpoints" / str(STEP) / META_FILE).write_text(json.dumps(meta))
  with pytest.raises(CheckpointError, match=r"is damaged: ema see\.conv does not match"):
    read_weights(tmp_path / "run")
  with pytest.raises(CheckpointError, match=r"is damaged: ema see\.w does not match"):
    restore(tmp_path / "run", config, "data=1")


def test_weight_decay_sees_the_leaf():
  abstract, _ = state_shardings(get_stage("duplex"), load_config("configs/nano.py"), make_mesh("data=1"))
  assert named_leaves(decayed(abstract.params))["see.w"]
