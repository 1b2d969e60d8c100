"""Imported language models give the logits of transformers' own implementation (law 8)."""

import json
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.model.streamer import WanStreamer, text_only_logits
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.weights.qwen import language_model_config, load_language_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
  "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def save(kind: str, folder: pathlib.Path, tied: bool = True):
  """A small random language model on disk, with no norm at one and no bias at zero."""
  extra = {"head_dim": 32} if kind == "Qwen3" else {}
  rope = {"rope_type": "default", "rope_theta": 1e6}
  config = getattr(transformers, f"{kind}Config")(**SIZES, **extra, rope_parameters=rope, tie_word_embeddings=tied)
  torch.manual_seed(0)
  model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "norm" in name or name.endswith("bias"):
        parameter.add_(0.1 * torch.randn_like(parameter))
      elif "layers" in name:
        parameter.mul_(4)  # transformers' initial weights are so small that attention would not matter
  model.save_pretrained(folder)
  return model


def streamer_for(folder: pathlib.Path, **changes) -> WanStreamer:
  """A streamer of the folder's geometry. Its weights are random, but words have no kind of their own yet."""
  config: Config = load_config("configs/nano.py").replace()
  config.model = language_model_config(folder).replace(**changes)
  config = config.freeze()
  abstract = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  normal = np.random.default_rng(0).standard_normal
  leaves = {name: normal(leaf.shape).astype(np.float32) for name, leaf in named_leaves(abstract).items()}
  return fill_leaves(abstract, leaves | {"tokens.kinds": np.zeros_like(leaves["tokens.kinds"])})


def logits_of(folder: pathlib.Path, ids: np.ndarray, **changes) -> np.ndarray:
  return jax.jit(text_only_logits)(load_language_model(folder, streamer_for(folder, **changes)), ids)


def flatten_rope(folder: pathlib.Path) -> None:
  """Rewrites config.json as transformers 4 and the hub have it."""
  file = folder / "config.json"
  values = json.loads(file.read_text())
  values |= {"rope_theta": values.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
  values["torch_dtype"] = values.pop("dtype")
  file.write_text(json.dumps(values))


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_equal_transformers(kind, tied, tmp_path):
  model = save(kind, tmp_path, tied)
  ids = np.random.default_rng(0).integers(0, SIZES["vocab_size"], 48).astype(np.int32)
  with torch.no_grad():
    expected = model(torch.tensor(ids[None], dtype=torch.long)).logits[0].numpy()
  changes = {"experts": "latent", "modulation": "layer"} if tied else {}
  assert_close(logits_of(tmp_path, ids, **changes), expected, 1e-5)
  config = language_model_config(tmp_path)
  flatten_rope(tmp_path)
  assert language_model_config(tmp_path) == config


def test_several_files_in_bf16(tmp_path):
  model = save("Qwen2", tmp_path / "one").to(torch.bfloat16)
  model.save_pretrained(tmp_path / "many", max_shard_size="100KB")
  model.save_pretrained(tmp_path / "half")
  assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
  many, half = (load_language_model(tmp_path / name, streamer_for(tmp_path / "one")) for name in ("many", "half"))
  jax.tree.map(np.testing.assert_array_equal, many, half)
  expected = model.model.embed_tokens.weight.detach().float().numpy()
  np.testing.assert_array_equal(half.tokens.embedding[...], expected)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "llama"}, "model_type 'llama': expected qwen2"),
    ({"use_sliding_window": True}, "use_sliding_window True"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rope_type 'yarn'"),
    ({"vocab_size": None}, "config.model.vocab"),
    ({"num_hidden_layers": 4}, "has no tensor 'model.layers.3"),
    ({"num_hidden_layers": 2}, "unknown tensor 'model.layers.2.input_layernorm.weight'"),
    ({"intermediate_size": 128}, "mlp.down_proj.w has shape"),
  ],
)
def test_folders_that_do_not_fit_are_refused(change, message, tmp_path):
  save("Qwen2", tmp_path)
  streamer = None
  file = tmp_path / "config.json"
  values = json.loads(file.read_text())
  if "vocab_size" in change:
    streamer, change = streamer_for(tmp_path), {"vocab_size": 513}
  file.write_text(json.dumps(values | change))
  with pytest.raises(CheckpointError, match=message):
    load_language_model(tmp_path, streamer or streamer_for(tmp_path))


def test_missing_and_damaged_files_are_refused(tmp_path):
  with pytest.raises(CheckpointError, match=r"config.json is missing"):
    language_model_config(tmp_path)
  save("Qwen3", tmp_path)
  streamer = streamer_for(tmp_path)
  weights = tmp_path / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:1000])
  with pytest.raises(CheckpointError, match="cannot read the weights"):
    load_language_model(tmp_path, streamer)
