"""Checkpoints and exported weights: whole or not there, clear about what they are, restored onto any mesh."""

import dataclasses
import json
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.toy_stage import HIDDEN, WIDTH, Toy, toy_config, toy_stage
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.parallel import hosts
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train.checkpoint import Checkpoints
from wanstreamer_jax.train.state import Spikes, init_state, state_shardings
from wanstreamer_jax.weights.store import checksum, export_weights, load_export, load_weights, meta_digest, read_weights

STAGE = toy_stage()


def frozen_config(run, **train):
  return toy_config(run, **train).freeze()


def made_state(config, mesh):
  _, shardings = state_shardings(STAGE, config, mesh)
  return jax.jit(lambda: init_state(STAGE, config), out_shardings=shardings)()


def at_step(state, step: int):
  """The state with other numbers everywhere, as if `step` updates had been made."""
  moved = jax.tree.map(lambda leaf: leaf + 0.001 * step if leaf.ndim else leaf, state)
  ema = jax.tree.map(lambda leaf: leaf * 2, moved.ema)
  spikes = Spikes(jnp.float32(0.5), jnp.int32(step))
  return dataclasses.replace(moved, step=jnp.int32(step), ema=ema, spikes=spikes)


@pytest.fixture
def run(tmp_path):
  """A run folder with whole checkpoints of steps 1 and 2; (folder, config, state of step 2)."""
  config = frozen_config(tmp_path / "run")
  state = made_state(config, make_mesh("data=1"))
  with Checkpoints(tmp_path / "run" / "checkpoints", config) as checkpoints:
    for step in (1, 2):
      checkpoints.save(at_step(state, step), step)
  return tmp_path / "run", config, at_step(state, 2)


def restore(folder, config, spec="data=1"):
  mesh = make_mesh(spec)
  abstract, shardings = state_shardings(STAGE, config, mesh)
  with Checkpoints(folder / "checkpoints", config) as checkpoints:
    return checkpoints.restore(abstract, shardings)


def steps_on_disk(folder) -> list[str]:
  return sorted(entry.name for entry in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("spec", ["data=1", "fsdp=8", "data=2,fsdp=4"])
def test_a_checkpoint_is_restored_bit_for_bit_onto_any_mesh(run, spec):
  folder, config, state = run
  restored = restore(folder, config, spec)
  assert_close(jax.device_get(restored), jax.device_get(state), 0)
  assert restored.params.up_proj.w[...].sharding.num_devices == make_mesh(spec).size
  assert restored.params.up_proj.w[...].is_fully_replicated == ("fsdp" not in spec)


def test_a_run_without_checkpoints_has_nothing_to_restore(tmp_path):
  assert restore(tmp_path, frozen_config(tmp_path)) is None


def test_the_last_ones_are_kept(tmp_path):
  config = frozen_config(tmp_path, keep=2)
  state = made_state(config, make_mesh("data=1"))
  with Checkpoints(tmp_path / "checkpoints", config) as checkpoints:
    for step in (1, 2, 3, 4):
      checkpoints.save(at_step(state, step), step)
  assert steps_on_disk(tmp_path) == ["3", "4"]


def test_those_of_every_so_many_steps_are_kept_for_good(tmp_path):
  config = frozen_config(tmp_path, keep=1, keep_every=3)
  state = made_state(config, make_mesh("data=1"))
  with Checkpoints(tmp_path / "checkpoints", config) as checkpoints:
    for step in (1, 2, 3, 4, 5, 6, 7):
      checkpoints.save(at_step(state, step), step)
  assert steps_on_disk(tmp_path) == ["3", "6", "7"]


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
  config = frozen_config(tmp_path)
  state = made_state(config, make_mesh("data=1"))
  expected = jax.device_get(state)
  with Checkpoints(tmp_path / "checkpoints", config) as checkpoints:
    checkpoints.save(state, 0)
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0, state), donate_argnums=0)
    jax.block_until_ready(step(state))
  assert_close(jax.device_get(restore(tmp_path, config)), expected, 0)


def truncate(file: pathlib.Path) -> None:
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage(folder: pathlib.Path, how: str) -> None:
  state = folder / "state"
  if how == "truncated data":
    for file in (state / "ocdbt.process_0" / "d").iterdir():
      truncate(file)
  elif how == "missing data":
    shutil.rmtree(state / "ocdbt.process_0")
  elif how == "emptied files":
    for file in state.rglob("*"):
      if file.is_file():
        file.write_bytes(b"")
  elif how == "no arrays":
    shutil.rmtree(state)
  elif how == "no manifest":
    (state / "manifest.ocdbt").unlink()
  elif how == "truncated meta":
    truncate(folder / "meta" / "metadata")
  elif how == "no meta":
    shutil.rmtree(folder / "meta")


DAMAGES = [
  "truncated data", "missing data", "emptied files", "no arrays", "no manifest", "truncated meta", "no meta",
]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_last_checkpoint_is_said_and_the_one_before_is_taken(run, how, capsys):
  folder, config, _ = run
  damage(folder / "checkpoints" / "2", how)
  restored = restore(folder, config)
  assert int(restored.step) == 1
  out = capsys.readouterr().out
  assert "checkpoints/2 is incomplete or damaged" in out
  assert "trying the one before it" in out
  assert steps_on_disk(folder) == ["1", "damaged-2"]
  with Checkpoints(folder / "checkpoints", config) as checkpoints:  # step 2 can be written again
    checkpoints.save(at_step(restored, 2), 2)
  assert int(restore(folder, config).step) == 2


def rot(file: pathlib.Path, where: float) -> None:
  data = bytearray(file.read_bytes())
  data[int(where * (len(data) - 1))] ^= 16
  file.write_bytes(data)


def test_a_flipped_bit_is_noticed_wherever_it_is(run, capsys):
  """Either the numbers are those that were written, or the checkpoint before is taken; never anything else."""
  folder, config, state = run
  kept = folder / "kept"
  shutil.copytree(folder / "checkpoints", kept)
  arrays = [file for file in (folder / "checkpoints/2").rglob("*") if file.is_file() and "/d/" in str(file)]
  rotten = [(file, where) for file in arrays for where in (0.0, 0.3, 0.5, 0.8, 1.0)]
  rotten += [(folder / "checkpoints/2/meta/metadata", where) for where in (0.2, 0.6)]
  noticed = 0
  for file, where in rotten:
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(kept, folder / "checkpoints")
    rot(file, where)
    restored = restore(folder, config)
    if int(restored.step) == 2:
      assert_close(jax.device_get(restored), jax.device_get(state), 0)
    else:
      noticed += 1
      assert "trying the one before it" in capsys.readouterr().out
      assert int(restored.step) == 1
  assert noticed >= 5  # most files of so small a checkpoint are copies of each other


def test_numbers_that_changed_behind_the_storage_are_noticed_by_their_checksum(run, capsys):
  """As of a bit that flipped in the memory of a host: the files are whole, the numbers are not."""
  folder, config, _ = run
  meta = json.loads((folder / "checkpoints/2/meta/metadata").read_text())
  meta["checksums"]["params"]["up_proj.w"] ^= 1
  meta["checksums"]["ema"]["up_proj.w"] ^= 1
  change_meta(folder, checksums=meta["checksums"])
  with pytest.raises(CheckpointError, match=r"2 is damaged: ema up_proj\.w does not match its checksum"):
    read_weights(folder)
  assert int(restore(folder, config).step) == 1
  assert "checkpoints/2 is damaged: " in capsys.readouterr().out


def test_damage_that_another_process_met_counts_here_too(run, monkeypatch, capsys):
  """Every process reads its own part of the arrays, and all must go back to the same step."""
  folder, config, _ = run
  elsewhere = iter(["damage elsewhere", ""])
  gathered = lambda text: [text] if text.startswith("[") else [text, next(elsewhere)]
  monkeypatch.setattr(hosts, "gather_texts", gathered)
  assert int(restore(folder, config).step) == 1
  assert "warning: damage elsewhere; moved to damaged-2" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [np.float32, jnp.bfloat16, np.int32, np.uint8, np.bool_])
def test_a_checksum_is_the_same_anywhere_and_changes_with_any_bit(kind):
  values = (np.arange(24).reshape(2, 3, 4) % 2).astype(kind)
  found = int(checksum(values))
  mesh = make_mesh("data=2,fsdp=4")
  for axes in ((), ("data",), (None, None, "fsdp")):
    placed = jax.device_put(values, jax.NamedSharding(mesh, jax.P(*axes)))
    assert int(jax.jit(lambda x: checksum(x, jnp))(placed)) == found
  flipped, swapped = values.copy(), values.copy()
  flipped[1, 2, 3] = 1 - flipped[1, 2, 3]
  swapped[0, 0] = values[0, 0, ::-1]
  assert len({found, int(checksum(flipped)), int(checksum(swapped))}) == 3
  assert int(checksum(np.float32(0))) != int(checksum(np.float32(1)))


def test_a_checkpoint_of_before_checksums_is_read(run):
  folder, config, state = run
  meta = json.loads((folder / "checkpoints/2/meta/metadata").read_text())
  for name in ("checksums", "digest", "code"):
    del meta[name]
  (folder / "checkpoints/2/meta/metadata").write_text(json.dumps(meta))
  assert_close(jax.device_get(restore(folder, config)), jax.device_get(state), 0)


def test_only_damaged_checkpoints_are_an_error(run):
  folder, config, _ = run
  for step in ("1", "2"):
    damage(folder / "checkpoints" / step, "no manifest")
  with pytest.raises(
    CheckpointError, match="no undamaged checkpoint is left in .*checkpoints/1 is incomplete or damaged"
  ):
    restore(folder, config)


def test_an_unfinished_checkpoint_is_not_one(run):
  folder, config, _ = run
  shutil.copytree(folder / "checkpoints" / "2", folder / "checkpoints" / "3.orbax-checkpoint-tmp")
  assert int(restore(folder, config).step) == 2
  config, _ = read_weights(folder)
  assert "3" not in steps_on_disk(folder)


def change_meta(folder: pathlib.Path, **changes) -> None:
  file = folder / "checkpoints" / "2" / "meta" / "metadata"
  meta = {**json.loads(file.read_text()), **changes}
  file.write_text(json.dumps({**meta, "digest": meta_digest(meta)}))


def test_another_config_is_refused_with_its_first_difference(run, capsys):
  folder, _, _ = run
  expected = r"run was trained with another config: train\.learning_rate: 0\.001 -> 0\.5 \(and 1 more\); restore that"
  with pytest.raises(CheckpointError, match=expected):
    restore(folder, frozen_config(folder, learning_rate=0.5, beta1=0.8))
  free = toy_config(folder, steps=99, log_every=3, keep=5, mesh="data=1")
  free.flow.steps, free.flow.guidance, free.model.remat = 9, 2.0, "full"
  assert int(restore(folder, free.freeze()).step) == 2  # these do not change the steps to come
  assert "data.path" not in capsys.readouterr().out


def test_other_data_are_said(run, capsys):
  folder, _, _ = run
  other = frozen_config(folder).replace()
  before, other.data.path = other.data.path, "calls:2,world:1"
  assert int(restore(folder, other.freeze()).step) == 2
  assert f"data.path was '{before}' up to step 2 and is 'calls:2,world:1' now: unless" in capsys.readouterr().out


@pytest.mark.parametrize(("version", "advice"), [(7, "update it"), (1, "train or export it again")])
def test_another_format_is_refused(run, version, advice):
  folder, config, _ = run
  change_meta(folder, format=version)
  with pytest.raises(CheckpointError, match=rf"checkpoints/2 has format {version}; .* reads format 2: {advice}"):
    restore(folder, config)
  with pytest.raises(CheckpointError, match=f"has format {version}"):
    read_weights(folder)


def test_another_model_is_refused(run):
  folder, config, _ = run
  leaves = json.loads((folder / "checkpoints/2/meta/metadata").read_text())["leaves"]
  leaves["params"]["up_proj.w"] = [1, 2]
  change_meta(folder, leaves=leaves)
  message = r"of another model: params up_proj\.w has shape \[1, 2\], expected \[16, 32\]"
  with pytest.raises(CheckpointError, match=message):
    restore(folder, config)


def limit_file_size(size: int | None) -> None:
  """Writing beyond `size` bytes in any file fails from now on, as on a full disk; None lifts that."""
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if size is None else size, hard))


@pytest.fixture
def full_disk():
  yield lambda: limit_file_size(1024)
  limit_file_size(None)


def test_a_full_disk_keeps_the_previous_checkpoint_whole(run, full_disk, capfd):
  folder, config, state = run
  checkpoints = Checkpoints(folder / "checkpoints", config)
  full_disk()
  message = r"cannot write the checkpoint of step 3 to .*: File too large; the checkpoint of step 2 is kept"
  with pytest.raises(CheckpointError, match=message), checkpoints:
    checkpoints.save(at_step(state, 3), 3)  # asynchronous: the error comes out of the context manager
  limit_file_size(None)
  assert [name for name in steps_on_disk(folder) if name.isdecimal()] == ["1", "2"]
  assert "Traceback" not in "".join(capfd.readouterr())
  assert_close(jax.device_get(restore(folder, config)), jax.device_get(state), 0)


def test_too_little_space_is_noticed_before_anything_is_written(run, monkeypatch):
  folder, config, state = run
  monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 1000))
  message = r"step 3 to .*: No space left on device \(0\.0 MB needed, 0\.0 MB free\); the checkpoint of step 2 is kept"
  with pytest.raises(CheckpointError, match=message), Checkpoints(folder / "checkpoints", config) as checkpoints:
    checkpoints.save(at_step(state, 3), 3)
  assert steps_on_disk(folder) == ["1", "2"]


def abstract_toy():
  return jax.eval_shape(lambda: Toy(rngs=nnx.Rngs(0)))


def test_weights_of_a_run_are_the_averaged_ones_of_its_last_checkpoint(run):
  folder, config, state = run
  for path in (folder, folder / "checkpoints", folder / "checkpoints" / "2"):
    assert_close(load_weights(path, abstract_toy()), jax.device_get(state.ema), 0)
  read = read_weights(folder)[0]  # a config that states no tokenizer is older than the second one, and is told so
  assert read.data.tokenizer_sha256
  assert read.replace(data=config.data) == config


def test_weights_that_cannot_be_read(run, tmp_path):
  folder, _, _ = run
  with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere: there is no such folder"):
    read_weights(tmp_path / "nowhere")
  (tmp_path / "empty").mkdir()
  with pytest.raises(CheckpointError, match=r"no checkpoint in .*empty: expected weights\.safetensors"):
    read_weights(tmp_path / "empty")
  damage(folder / "checkpoints" / "2", "emptied files")
  with pytest.raises(CheckpointError, match=r"checkpoints/2 is incomplete or damaged"):
    read_weights(folder)


@pytest.fixture
def model():
  model = Toy(rngs=nnx.Rngs(0))
  model.norm.scale[...] = jnp.linspace(0.5, 2, WIDTH)
  model.up_proj.w[...] = model.up_proj.w[...].at[3].set(0.0).at[5].multiply(100.0)  # rows of zeros, of large values
  return model


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 0), ("bf16", 2**-8), ("int8", 0.5 / 127)])
def test_an_export_gives_the_weights_back(model, tmp_path, dtype, tolerance):
  config = frozen_config("unused")
  size = export_weights(model, config, tmp_path / "out", dtype)
  found, values = load_export(tmp_path / "out")
  assert found == config
  assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "weights.safetensors"]
  assert size == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
  for name, leaf in named_leaves(model).items():
    expected = np.asarray(leaf)
    assert values[name].dtype == np.float32
    bound = tolerance * np.abs(expected).max(-1, keepdims=True) if expected.ndim > 1 else 2**-8 * np.abs(expected)
    assert (np.abs(values[name] - expected) <= bound * (dtype != "f32")).all(), name
  assert_close(load_weights(tmp_path / "out", abstract_toy()), jax.device_get(model), 0.005 if tolerance else 0)


def test_an_int8_export_is_about_a_byte_a_number(tmp_path):
  rows, columns = 64, 256
  export_weights({"w": jnp.ones((rows, columns))}, frozen_config("unused"), tmp_path / "out", "int8")
  assert (tmp_path / "out" / "weights.safetensors").stat().st_size < rows * (columns + 4) + 200


def test_exports_that_cannot_be(model, tmp_path, full_disk):
  config, out = frozen_config("unused"), tmp_path / "out"
  with pytest.raises(CheckpointError, match="export dtype is 'int4': expected f32, bf16 or int8"):
    export_weights(model, config, out, "int4")
  export_weights(model, config, out, "f32")
  full_disk()
  with pytest.raises(CheckpointError, match=r"cannot write weights to .*out: File too large"):
    export_weights(model, config, out, "bf16")
  limit_file_size(None)
  assert_close(load_weights(out, abstract_toy()), jax.device_get(model), 0)  # the one before is whole
  assert len(list(out.iterdir())) == 2


def test_exports_that_do_not_fit(model, tmp_path):
  config, out = frozen_config("unused"), tmp_path / "out"
  export_weights(model, config, out, "f32")
  wanted = {**named_leaves(abstract_toy()), "extra": jax.ShapeDtypeStruct((3,), jnp.float32)}
  wanted["up_proj.w"] = jax.ShapeDtypeStruct((WIDTH, HIDDEN + 1), jnp.float32)
  message = r"out does not fit this model: up_proj\.w has shape \[16, 32\], expected \[16, 33\] \(and 1 more\); use the"
  with pytest.raises(CheckpointError, match=message):
    load_weights(out, wanted)
  truncate(out / "weights.safetensors")
  with pytest.raises(CheckpointError, match=r"cannot read .*weights\.safetensors.*missing or incomplete"):
    load_export(out)
  export_weights(model, config, out)
  data = bytearray((out / "weights.safetensors").read_bytes())
  data[-3] ^= 1  # a bit rots
  (out / "weights.safetensors").write_bytes(data)
  with pytest.raises(CheckpointError, match=r"is not the file that config\.json beside it describes"):
    load_export(out)
  (out / "config.json").write_text('{"format": 7, "config": {}}')
  with pytest.raises(CheckpointError, match="has format 7; this program reads format 2: update it"):
    load_export(out)
  (out / "config.json").write_text('{"format": 2, "config": {"trian": {}}}')
  with pytest.raises(CheckpointError, match="holds a config that this program cannot use: .*did you mean 'train'"):
    load_export(out)
  (out / "config.json").write_text("{")
  with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
    load_export(out)
