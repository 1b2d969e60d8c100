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


def qwen_tokenizer(folder: pathlib.Path) -> bool:
  """Qwen's tokenizer of 151,643 pieces, from the ranks that pip's dashscope ships; False where it is not installed.

  A piece is joined from two others, in the order of the ranks.
  """
  import base64
  import importlib.util

  found = importlib.util.find_spec("dashscope")
  file = pathlib.Path(found.origin).parent / "resources" / "qwen.tiktoken" if found and found.origin else None
  if file is None or not file.is_file():
    return False
  lines = (line.split() for line in file.read_bytes().splitlines() if line)
  ranks = {base64.b64decode(piece): int(rank) for piece, rank in lines}
  joined = [
    (rank, ranks[piece[:cut]], piece[:cut], piece[cut:])
    for piece, rank in ranks.items()
    for cut in range(1, len(piece))
    if piece[:cut] in ranks and piece[cut:] in ranks
  ]
  spelled = {byte: letter for letter, byte in zip(*letters_of_bytes())}
  spell = lambda piece: "".join(spelled[byte] for byte in piece)
  vocab = {spell(piece): rank for piece, rank in ranks.items()}
  merges = [(spell(left), spell(right)) for _, _, left, right in sorted(joined)]
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
  tokenizer.normalizer = normalizers.NFC()
  split = pre_tokenizers.Split(tokenizers.Regex(QWEN_PIECES), "isolated")
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(list(SPECIAL))
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / "tokenizer.json"))
  return True


# Words with one character before them, single digits, marks, and white space.
QWEN_PIECES = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def letters_of_bytes() -> tuple[list[str], list[int]]:
  """The letters that stand for bytes in byte-level tokenizers, and these bytes."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in shown]
  return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(hidden))], shown + hidden
