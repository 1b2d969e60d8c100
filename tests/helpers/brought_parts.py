"""What users bring, in miniature: a Qwen3 folder with its own tokenizer, and recordings of two people.

Everything is random or made up, and small; the layouts are those of the real things. `python -m
tests.helpers.brought_parts FOLDER` writes all of it, for trying commands by hand.
"""

import json
import pathlib
import sys

import numpy as np

from tests.helpers import pretrained
from tests.helpers.media_files import write_audio, write_video

QWEN3 = {
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 48, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu",
  "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, "max_position_embeddings": 512,
  "attention_bias": False, "use_sliding_window": False, "torch_dtype": "bfloat16",
}  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PROSE = (
  "hello there how are you today I am fine thank you and what about yourself the weather has been lovely this week "
  "we went to the lake and counted seven ducks yes really no not at all could you repeat that please of course "
)
SECONDS = 9.0
RATES = (44_100, 48_000, 16_000, 8_000, 24_000, 22_050)


def write_language_model(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """A random Qwen3 in two bfloat16 shards, with a byte-level BPE tokenizer trained on a little prose."""
  import ml_dtypes
  from safetensors.numpy import save_file

  folder.mkdir(parents=True, exist_ok=True)
  vocab = write_tokenizer(folder)
  width, heads, keys, size = (
    QWEN3[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
  )
  shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
  for layer in range(QWEN3["num_hidden_layers"]):
    prefix, mlp = f"model.layers.{layer}.", QWEN3["intermediate_size"]
    shapes |= {
      f"{prefix}self_attn.{name}_proj.weight": (n * size, width) for name, n in (("q", heads), ("k", keys), ("v", keys))
    }
    shapes |= {f"{prefix}self_attn.o_proj.weight": (width, heads * size)}
    shapes |= {f"{prefix}self_attn.{name}_norm.weight": (size,) for name in "qk"}
    shapes |= {f"{prefix}mlp.{name}_proj.weight": (mlp, width) for name in ("gate", "up")}
    shapes |= {f"{prefix}mlp.down_proj.weight": (width, mlp)}
    shapes |= {f"{prefix}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
  rng = np.random.default_rng(seed)
  tensors = {}
  for name, shape in shapes.items():
    values = rng.standard_normal(shape) * (0.1 if len(shape) == 1 else shape[-1] ** -0.5) + (len(shape) == 1)
    tensors[name] = values.astype(ml_dtypes.bfloat16)
  names = sorted(tensors)
  shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
  for file, held in shards.items():
    save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
  weight_map = {name: file for file, held in shards.items() for name in held}
  index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  (folder / "config.json").write_text(json.dumps(QWEN3 | {"vocab_size": vocab}))
  return folder


def write_tokenizer(folder: pathlib.Path) -> int:
  """Writes tokenizer.json and tokenizer_config.json as Qwen's are laid out. Returns the embedding's rows: more than
  the tokenizer has entries, as in the real files."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
  tokenizer.train_from_iterator([PROSE] * 4, trainer)
  tokenizer.add_special_tokens(list(SPECIAL))
  tokenizer.save(str(folder / "tokenizer.json"))
  about = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
  (folder / "tokenizer_config.json").write_text(json.dumps(about))
  return -(-tokenizer.get_vocab_size() // 16) * 16


def write_recordings(folder: pathlib.Path, count: int = 6, size: tuple[int, int] = (48, 64)) -> pathlib.Path:
  """Two-sided recordings of SECONDS each, and `calls.jsonl`: odd rates, one without words, one whose user is silent.

  Returns the manifest.
  """
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  with open(folder / "calls.jsonl", "w") as manifest:
    for number in range(count):
      line = {"id": f"call-{number}"}
      for side, offset in (("user", 0.0), ("agent", SECONDS / 2)):
        rate, silent = RATES[number % len(RATES)], number == 1 and side == "user"
        words = make_words(rng, offset)
        audio = np.zeros(round(SECONDS * rate), np.float32) if silent else voice(words, rate, 110 + 30 * number)
        name = f"{number}-{side}"
        write_audio(folder / f"{name}.wav", audio, rate)
        fps = (25, 30, 24)[number % 3]
        sound = voice(words, 48_000, 110 + 30 * number) if number == count - 1 else None  # also a clip to stream
        write_video(folder / f"{name}.mp4", talking_squares(words, fps, size, number), fps=fps, sound=sound)
        line[side] = {"video": f"{name}.mp4", "audio": f"{name}.wav"}
        if number != 2 and not silent:
          line[side]["words"] = [{"text": text, "start": start, "end": end} for text, start, end in words]
      manifest.write(json.dumps(line) + "\n")
  return folder / "calls.jsonl"


def make_words(rng: np.random.Generator, offset: float) -> list[tuple[str, float, float]]:
  """Eight words from `offset` seconds on: (text, start, end)."""
  texts, start, words = PROSE.split(), offset + 0.4, []
  for text in rng.choice(texts, 8):
    end = start + 0.12 + 0.05 * len(text)
    words.append((str(text), round(start, 3), round(end, 3)))
    start = end + 0.08
  return [word for word in words if word[2] < SECONDS - 0.1]


def voice(words: list[tuple[str, float, float]], rate: int, pitch: float) -> np.ndarray:
  """A buzz while words sound: float32 [SECONDS * rate]."""
  t = np.arange(round(SECONDS * rate)) / rate
  buzz = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 6) if pitch * k < rate / 2)
  level = np.zeros_like(t)
  for _, start, end in words:
    inside = (t >= start) & (t < end)
    level[inside] = np.sin(np.pi * (t[inside] - start) / (end - start))
  return (0.2 * level * buzz).astype(np.float32)


def talking_squares(words, fps: int, size: tuple[int, int], number: int) -> list[np.ndarray]:
  """A face of squares whose mouth is open while a word sounds: uint8 [height, width, 3] per frame."""
  height, width = size
  frames = []
  for index in range(round(SECONDS * fps)):
    frame = np.full((height, width, 3), (60 + 20 * number, 90, 140), np.uint8)
    frame[height // 6 : -height // 8, width // 4 : -width // 4] = (220, 180, 150)
    frame[height // 3 : height // 3 + 4, width // 3 : width // 3 + 4] = 30
    frame[height // 3 : height // 3 + 4, -width // 3 - 4 : -width // 3] = 30
    speaks = any(start <= (index + 0.5) / fps < end for _, start, end in words)
    mouth = 2 + 4 * speaks * (index % 3 > 0)
    frame[2 * height // 3 : 2 * height // 3 + mouth, width // 2 - 6 : width // 2 + 6] = (150, 40, 50)
    frames.append(frame)
  return frames


def write_everything(folder: pathlib.Path) -> None:
  """All parts that the commands under "The whole way, in miniature" in docs/training.md name, below `folder`."""
  write_language_model(folder / "qwen3")
  pretrained.pocket_folder(folder / "pocket", pretrained.NANO_POCKET)
  pretrained.wan_folder(folder / "wan", pretrained.WAN2P2)
  pretrained.tae_folder(folder / "tae", pretrained.WAN2P2)
  write_recordings(folder / "recordings")
  lines = (folder / "recordings" / "calls.jsonl").read_text().splitlines(keepends=True)
  (folder / "recordings" / "train.jsonl").write_text("".join(lines[:4]))
  (folder / "recordings" / "heldout.jsonl").write_text("".join(lines[4:]))


def main(folder: str) -> None:
  write_everything(pathlib.Path(folder))


if __name__ == "__main__":
  main(sys.argv[1])
