"""Small language models as folders: random weights of transformers' classes, and a real byte-level BPE tokenizer."""

import json
import pathlib
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = ("the agent says that it is red and blue", "one two three four five six seven", "Größe, Straße und Wörter",
         "what do you see? i see a circle and a square", "你好，世界。这是红色的。")  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIZES = {
  "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def save_tokenizer(folder: pathlib.Path, size: int = 400) -> int:
  """A byte-level BPE in Qwen's form, with "<unk>" as an ordinary piece of text. Returns the number of its ids."""
  trained = tokenizers.Tokenizer(models.BPE())
  trained.normalizer = normalizers.NFC()
  trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trained.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trained.train_from_iterator(
    TEXTS * 4, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
  )
  values = json.loads(trained.to_str())
  ids = values["model"]["vocab"]
  for left, right in (("u", "nk"), ("<", "unk"), ("n", "k"), ("<unk", ">")):
    for piece in (left, right, left + right):
      ids.setdefault(piece, len(ids))
  merges = [["n", "k"], ["u", "nk"], ["<", "unk"], ["<unk", ">"]]
  values["model"]["merges"] += [pair for pair in merges if pair not in values["model"]["merges"]]
  whole = tokenizers.Tokenizer.from_str(json.dumps(values))
  whole.add_special_tokens(list(SPECIAL))
  folder.mkdir(parents=True, exist_ok=True)
  whole.save(str(folder / "tokenizer.json"))
  return whole.get_vocab_size(with_added_tokens=True)


def save_model(kind: str, folder: pathlib.Path, rows: int = 500, tied: bool = True, **changes: Any) -> Any:
  """A small random model ("Qwen2", "Qwen3") on disk, with no norm at one and no bias at zero, and its tokenizer.

  rows: of the embedding; more than the tokenizer has, as in the published models. Returns transformers' model.
  """
  import torch
  import transformers

  assert save_tokenizer(folder) < rows
  extra = {"head_dim": 32} if kind == "Qwen3" else {}
  rope = {"rope_type": "default", "rope_theta": 1e6}
  sizes = SIZES | {"vocab_size": rows} | extra | changes
  config = getattr(transformers, f"{kind}Config")(**sizes, rope_parameters=rope, tie_word_embeddings=tied)
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
