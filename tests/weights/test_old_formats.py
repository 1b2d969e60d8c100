"""What earlier commits wrote still loads: weights, runs to continue, records.

The files of `old_formats` are those of commit 947cc5a for the config `nano`, shortened: the meta of a training
checkpoint after 3 steps of AdamW, and the manifest of a folder of latents. The arrays that they describe are made here.
"""

import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from wanstreamer_jax.config_files import config_from_dict
from wanstreamer_jax.data.record_folder import MANIFEST, RecordFolder
from wanstreamer_jax.data.tokenizer import OLDER, TextTokenizer
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train.checkpoint import Checkpoints, flatten_state
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import state_shardings
from wanstreamer_jax.weights.agent import DEMO_FOLDER, load_agent
from wanstreamer_jax.weights.store import CONFIG_FILE, META_FILE, WEIGHTS_FILE, current_name, load_weights

OLD = pathlib.Path(__file__).parent / "old_formats"
STEP = 3


@pytest.fixture(scope="module")
def meta():
  return json.loads((OLD / "checkpoint.json").read_text())


@pytest.fixture(scope="module")
def config(meta):
  return config_from_dict(meta["config"])


def numbered(shapes: dict[str, list[int]], first: int) -> dict[str, np.ndarray]:
  """An array for every name, each full of a number of its own: first, first + 1, ..."""
  return {name: np.full(shape, first + i, np.float32) for i, (name, shape) in enumerate(shapes.items())}


def numbers(leaves) -> dict[str, float]:
  """The number that fills each leaf, by the name that it has now."""
  arrays = {current_name(name): np.asarray(leaf) for name, leaf in leaves.items()}
  assert all((array == array.flat[0]).all() for array in arrays.values())
  return {name: float(array.flat[0]) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def checkpoint(meta, tmp_path_factory):
  """RUN/checkpoints of such a run, without checksums and digest, which still older ones lack."""
  folder = tmp_path_factory.mktemp("run") / "checkpoints"
  parts = {part: numbered(shapes, 1000 * i) for i, (part, shapes) in enumerate(meta["leaves"].items())}
  counts = {name: np.int32(STEP) for name in meta["leaves"]["optimizer"] if name.endswith("count")}
  parts["optimizer"] |= counts
  parts["step"]["step"], parts["spikes"]["skipped"] = np.int32(STEP), np.int32(0)
  ocp.PyTreeCheckpointer().save(folder / str(STEP) / "state", parts)
  (folder / str(STEP) / META_FILE).parent.mkdir()
  (folder / str(STEP) / META_FILE).write_text(json.dumps(meta))
  return folder, parts


CONSTANTS = {"heads.audio_variance": np.float32(0.36), "heads.video_variance": np.float32(0.2**2)}  # as they were


def abstract_streamer(config):
  return jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))


def test_the_weights_of_a_checkpoint_are_its_average(config, checkpoint):
  folder, parts = checkpoint
  loaded = load_weights(folder.parent, abstract_streamer(config))
  assert numbers(named_leaves(loaded)) == numbers(parts["ema"]) | CONSTANTS


def test_an_export_loads(meta, config, tmp_path):
  values = numbered(meta["leaves"]["params"], 1)
  save_file(values, tmp_path / WEIGHTS_FILE)
  (tmp_path / CONFIG_FILE).write_text(json.dumps({"format": meta["format"], "config": meta["config"]}))
  assert numbers(named_leaves(load_weights(tmp_path, abstract_streamer(config)))) == numbers(values) | CONSTANTS


def test_a_run_continues(config, checkpoint):
  folder, parts = checkpoint
  mesh = make_mesh("data=1")
  abstract, shardings = state_shardings(get_stage("duplex"), config, mesh)
  with Checkpoints(folder, config) as checkpoints:
    state = checkpoints.restore(abstract, shardings)
  assert int(state.step) == STEP
  found = flatten_state(state)
  for part in ("params", "optimizer", "ema"):
    assert numbers(found[part]) == numbers(parts[part]) | (CONSTANTS if part != "optimizer" else {}), part


def test_the_shipped_weights_load_whole():
  stored = load_file(DEMO_FOLDER / WEIGHTS_FILE)
  assert not any(name.endswith(":scale") for name in stored)  # int8 would have to be scaled here
  loaded = named_leaves(load_agent())
  assert loaded.keys() == stored.keys()
  for name, leaf in loaded.items():
    np.testing.assert_array_equal(leaf, stored[name].astype(np.float32), err_msg=name)


def test_records_open_and_suit_their_config(config, tmp_path):
  manifest = json.loads((OLD / "latents.json").read_text())
  (tmp_path / MANIFEST).write_text(json.dumps(manifest))
  for file in manifest["shards"][0]["files"].values():
    with (tmp_path / file["name"]).open("wb") as empty:
      empty.truncate(file["bytes"])
  folder = RecordFolder(tmp_path)
  folder.check(config, TextTokenizer(OLDER))
  assert (folder.kind, folder.sessions, folder.units) == ("latents", 1, 16)
