"""Language models start a streamer with the logits of transformers' own implementation, and come back out (law 8)."""

import dataclasses
import json
import pathlib
import shutil
import tracemalloc
from copy import deepcopy
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests import CONFIGS
from tests.conftest import assert_close
from tests.helpers.language_models import save_model, save_tokenizer
from tests.helpers.toy_stage import toy_stage
from wanstreamer_jax.cli.main import main
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import CheckpointError, ConfigError, DataError
from wanstreamer_jax.model.streamer import WanStreamer, text_only_logits
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train.language_model import language_model_params
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import state_shardings
from wanstreamer_jax.weights.qwen import LanguageModel, language_model_config
from wanstreamer_jax.weights.qwen_config import with_language_model
from wanstreamer_jax.weights.qwen_export import write_language_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NANO = CONFIGS / "nano.py"
TOKENS = 370  # ids of the test's tokenizer that are ordinary text
ROWS = 500


def from_hf(folder: pathlib.Path, out: pathlib.Path, *overrides: str) -> Config:
  """The config that the command line writes for a folder."""
  assert main(["config", "from-hf", str(folder), "--base", str(NANO), "--out", str(out)]) == 0
  return load_config(out, overrides)


def started(config: Config, mesh: str = "data=1") -> WanStreamer:
  """The parameters that training starts from."""
  stage, devices = get_stage("duplex"), make_mesh(mesh)
  abstract, shardings = state_shardings(stage, config, devices)
  with jax.set_mesh(devices):
    return language_model_params(stage, config, abstract.params, shardings.params)


def theirs(model: Any, ids: np.ndarray) -> np.ndarray:
  with torch.no_grad():
    return model(torch.tensor(ids[None], dtype=torch.long)).logits[0].float().numpy()


def random_ids(count: int = 48) -> np.ndarray:
  return np.random.default_rng(0).integers(0, TOKENS, count).astype(np.int32)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
  """(folder, transformers' model): tied, in one file, with heads wider than width / heads."""
  folder = tmp_path_factory.mktemp("models") / "qwen3"
  return folder, save_model("Qwen3", folder, ROWS)


@pytest.fixture
def copy(qwen3, tmp_path):
  return shutil.copytree(qwen3[0], tmp_path / "copy")


@pytest.mark.parametrize(
  ("kind", "tied", "changes"),
  [
    ("Qwen3", False, {"head_dim": 20, "num_attention_heads": 6, "num_key_value_heads": 3, "rms_norm_eps": 1e-5}),
    ("Qwen2", True, {"hidden_size": 72, "num_attention_heads": 6, "num_key_value_heads": 1, "intermediate_size": 100}),
  ],
)
def test_logits_equal_transformers_there_and_back(kind, tied, changes, tmp_path):
  model, ids = save_model(kind, tmp_path / "model", ROWS, tied, **changes), random_ids()
  experts = ["model.experts=latent"] if tied else []
  config = from_hf(tmp_path / "model", tmp_path / "config.py", *experts)
  assert (config.model.vocab, config.model.pad, config.model.tokens) == (512, 373, 375)
  streamer = started(config)
  logits = np.asarray(jax.jit(text_only_logits)(streamer, ids))
  own = np.setdiff1d(np.arange(ROWS), [373, 374])  # PAD and <cut> are new
  assert_close(logits[:, own], theirs(model, ids)[:, own], 1e-5)
  if experts:
    leaves = named_leaves(streamer.transformer)
    for name in ("gate_proj.w", "up_proj.w", "down_proj.w"):
      np.testing.assert_array_equal(leaves[f"layers.latent_mlp.{name}"], leaves[f"layers.mlp.{name}"])
  write_language_model(on_host(streamer), config, tmp_path / "out", "f32")
  back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
  assert_close(theirs(back, ids), logits, 1e-5)
  reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  words = "what do you see <unk>? Größe 世界"
  assert reader(words).input_ids == LanguageModel(tmp_path / "model", config).tokenizer.encode(words)
  assert (reader.pad_token, reader.pad_token_id) == ("<pad>", 373)
  again = with_language_model(load_config(NANO), tmp_path / "out")  # its tokenizer has the control tokens already
  assert again.model == config.model.replace(experts="shared")


def on_host(streamer: WanStreamer) -> dict[str, np.ndarray]:
  return {name: np.asarray(leaf) for name, leaf in named_leaves(streamer).items()}


def test_several_files_in_bf16_give_the_same_bits(qwen3, tmp_path):
  folder, model = qwen3
  half = deepcopy(model).to(torch.bfloat16)
  for name, size in (("many", "100KB"), ("half", "5GB")):
    half.save_pretrained(tmp_path / name, max_shard_size=size)
    shutil.copy(folder / "tokenizer.json", tmp_path / name)
  assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
  config = with_language_model(load_config(NANO), tmp_path / "half")
  many, one = (LanguageModel(tmp_path / name, config) for name in ("many", "half"))
  everything = (slice(None),) * 4
  for name in one.names:
    np.testing.assert_array_equal(*(m.read(name, everything[: len(m.shape(name))]) for m in (many, one)))
  rows = half.model.embed_tokens.weight.detach().float().numpy()
  np.testing.assert_array_equal(one.read("tokens.embedding", everything[:2])[:TOKENS], rows[:TOKENS])


def test_every_leaf_is_born_on_its_own_devices(qwen3):
  """On a mesh of four devices the values are those of one, and no part of a leaf is read twice."""
  config = with_language_model(load_config(NANO), qwen3[0])
  whole, split = on_host(started(config)), started(config, "fsdp=2,tensor=2")
  for name, leaf in named_leaves(split).items():
    np.testing.assert_array_equal(np.asarray(leaf), whole[name], err_msg=name)
  assert named_leaves(split)["tokens.embedding"].sharding.shard_shape((512, 64)) == (256, 32)
  model, parts = LanguageModel(qwen3[0], config), []
  read = model.read
  model.read = lambda name, index: parts.append(index) or read(name, index)
  sharding = NamedSharding(make_mesh("fsdp=2,tensor=2"), PartitionSpec(None, "fsdp"))
  model.place("transformer.layers.mlp.gate_proj.w", sharding)
  assert len(parts) == 2  # tensor ranks have the same part


def test_a_host_never_holds_the_model(tmp_path):
  """The peak of the host's memory is a part of one leaf and one tensor, not the float32 model."""
  save_model("Qwen3", tmp_path, ROWS, num_hidden_layers=24, intermediate_size=512)
  model = LanguageModel(tmp_path, with_language_model(load_config(NANO), tmp_path))
  sizes = {name: 4 * np.prod(model.shape(name)) for name in model.names}
  tracemalloc.start()
  for name in model.names:
    *others, last = model.shape(name)
    model.read(name, (*(slice(None),) * len(others), slice(0, last // 2)))  # as one of two devices asks for it
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 0.75 * max(sizes.values()) < 0.25 * sum(sizes.values())


def test_new_rows_are_the_mean_of_the_others_with_a_little_noise(qwen3):
  folder, _ = qwen3
  config = with_language_model(load_config(NANO), folder)
  model = LanguageModel(folder, config)
  rows = model.read("tokens.embedding", (slice(None), slice(None)))
  old, new = rows[:373], rows[[373, 374, *range(ROWS, 512)]]
  assert np.abs(new - old.mean(0)).max() < 0.6 * old.std(0).max()
  assert len(np.unique(new[:, 0])) == len(new)
  np.testing.assert_array_equal(model.read("tokens.embedding", (slice(370, 505), slice(7, 9))), rows[370:505, 7:9])
  other = LanguageModel(folder, config.replace(train=config.train.replace(seed=1)).freeze())
  assert not np.array_equal(other.read("tokens.embedding", (slice(373, 374), slice(None)))[0], rows[373])


def test_a_run_starts_from_the_folder_and_exports_what_transformers_loads(qwen3, tmp_path, capsys):
  """The command line's whole way but the updates: config, training state with provenance, checkpoint, `export --hf`."""
  from wanstreamer_jax.train import provenance
  from wanstreamer_jax.train.checkpoint import Checkpoints
  from wanstreamer_jax.train.loop import start_state, with_tokenizer_hash

  folder, model = qwen3
  config = from_hf(folder, tmp_path / "config.py", f"train.run={tmp_path / 'run'}", "train.mesh=data=1")
  assert with_tokenizer_hash(config)[0] == config
  found = provenance.brought_parts(config)["language_model"]
  assert found["bytes"] == (folder / "model.safetensors").stat().st_size
  assert provenance.facts(config)["language_model"] == found
  mesh, stage = make_mesh("data=1"), dataclasses.replace(get_stage("duplex"), constants=None)  # those are of records
  with jax.set_mesh(mesh), Checkpoints(tmp_path / "run" / "checkpoints", config) as checkpoints:
    checkpoints.save(start_state(stage, config, mesh, checkpoints), 1)
    checkpoints.wait()
  assert main(["export", "--streamer", str(tmp_path / "run"), "--hf", str(tmp_path / "hf"), "--dtype", "f32"]) == 0
  assert "AutoModelForCausalLM" in capsys.readouterr().out
  back, ids = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval(), random_ids()
  own = np.setdiff1d(np.arange(ROWS), [373, 374])
  assert_close(theirs(back, ids)[:, own], theirs(model, ids)[:, own], 1e-5)
  capsys.readouterr()
  assert main(["export", "--streamer", str(tmp_path / "run"), "--hf", str(tmp_path / "hf")]) == 2
  assert "is not empty" in capsys.readouterr().err


def change_json(file: pathlib.Path, **change: Any) -> None:
  file.write_text(json.dumps(json.loads(file.read_text()) | change))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "llama"}, "model_type 'llama': expected qwen2 .* give the folder of such a model"),
    ({"use_sliding_window": True}, "use_sliding_window True"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rope_type 'yarn'"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"vocab_size": 1000}, "has vocab 1000, but config.model.vocab is 512.*config from-hf"),
    ({"vocab_size": 499}, r"embed_tokens.weight with shape \[500, 64\]: expected \[499, 64\]"),
    ({"num_hidden_layers": 4}, "has layers 4, but config.model.layers is 3: write a config"),
    ({"intermediate_size": 128}, "has mlp 128, but config.model.mlp is 160"),
  ],
)
def test_folders_that_do_not_fit_are_one_line(qwen3, copy, change, message):
  config = with_language_model(load_config(NANO), qwen3[0])
  change_json(copy / "config.json", **change)
  with pytest.raises(CheckpointError, match=message) as caught:
    LanguageModel(copy, config)
  assert "\n" not in str(caught.value)


def rewrite(file: pathlib.Path, change: Any) -> None:
  """Changes the tensors of a safetensors file."""
  from safetensors.numpy import load_file, save_file

  tensors = load_file(file)
  change(tensors)
  save_file(tensors, file)


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.pop(NORM), f"has no tensor '{NORM}': copy"),
    (lambda t: t.update(extra=t[NORM]), "unknown tensor 'extra'"),
    (lambda t: t.update({NORM: t[NORM].astype(np.int8)}), f"{NORM} as I8: expected F32, BF16, F16; give the folder"),
    (lambda t: t.update({NORM: t[NORM][:5]}), rf"{NORM} with shape \[5\]: expected \[64\]"),
  ],
)
def test_tensors_that_do_not_fit_are_one_line(qwen3, copy, change, message):
  config = with_language_model(load_config(NANO), qwen3[0])
  rewrite(copy / "model.safetensors", change)
  with pytest.raises(CheckpointError, match=message):
    LanguageModel(copy, config)


def test_missing_and_damaged_files_are_one_line(qwen3, copy, tmp_path, capsys):
  config = with_language_model(load_config(NANO), qwen3[0])
  with pytest.raises(CheckpointError, match=r"config.json is missing"):
    language_model_config(tmp_path)
  weights = copy / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:-1000])
  with pytest.raises(CheckpointError, match=r"but its header says \d+: copy the folder again"):
    LanguageModel(copy, config)
  weights.write_bytes(b"garbage")
  with pytest.raises(CheckpointError, match="is incomplete or no safetensors file"):
    LanguageModel(copy, config)
  weights.unlink()
  (copy / "pytorch_model.bin").write_bytes(b"")
  with pytest.raises(CheckpointError, match="pytorch_model.bin is pickled"):
    LanguageModel(copy, config)
  index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
  (copy / "model.safetensors.index.json").write_text(json.dumps(index))
  with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors is missing .*: copy"):
    LanguageModel(copy, config)
  (copy / "tokenizer.json").unlink()
  assert main(["config", "from-hf", str(copy), "--base", str(NANO), "--out", str(tmp_path / "c.py")]) == 2
  assert "has no tokenizer.json: download it" in capsys.readouterr().err
  assert not (tmp_path / "c.py").exists()


def test_the_tokenizer_must_be_the_folders_own(qwen3, tmp_path):
  config = with_language_model(load_config(NANO), qwen3[0])
  save_tokenizer(tmp_path, 350)
  with pytest.raises(DataError, match="pads with id"):
    LanguageModel(qwen3[0], with_data(config, tokenizer=str(tmp_path), tokenizer_sha256=""))
  with pytest.raises(DataError, match="has SHA-256"):
    LanguageModel(qwen3[0], with_data(config, tokenizer=str(tmp_path)))
  with pytest.raises(ConfigError, match="weights come from one of them"):
    config.replace(train=config.train.replace(init="demo")).freeze()


def with_data(config: Config, **changes: str) -> Config:
  return config.replace(data=config.data.replace(**changes)).freeze()


def test_a_stage_without_text_refuses_a_language_model(qwen3):
  config, stage, mesh = with_language_model(load_config(NANO), qwen3[0]), toy_stage(), make_mesh("data=1")
  abstract, shardings = state_shardings(stage, config, mesh)
  with pytest.raises(ConfigError, match=r"stage 'toy' has no tokens.embedding of shape \[512, 64\]"):
    language_model_params(stage, config, abstract.params, shardings.params)


def test_config_files_of_transformers_4(copy):
  config = language_model_config(copy)
  file = copy / "config.json"
  values = json.loads(file.read_text())
  theta = values.pop("rope_parameters")["rope_theta"]
  file.write_text(json.dumps(values | {"rope_theta": theta, "rope_scaling": None, "torch_dtype": values.pop("dtype")}))
  assert language_model_config(copy) == config
