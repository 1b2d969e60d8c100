"""Writes the config file of a streamer that starts from a language model.

It is the diff of another config file.
"""

import math
from typing import Any

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import (
  check_new_config,
  config_from_dict,
  config_to_dict,
  load_config,
  write_config_diff,
)
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.files import Path
from wanstreamer_jax.weights.perception import with_encoders
from wanstreamer_jax.weights.qwen import GEOMETRY, ROWS, LanguageModel, folder_tokenizer, language_model_config


def write_config(folder: Path, base: str, out: Path, hearing: Path = "", seeing: Path = "") -> list[str]:
  """Writes `out`, the config `base` with the geometry of `folder`, and checks that all of its weights fit.

  hearing, seeing: folders of encoders (`weights/perception.py`), which then hear and see.

  Returns lines for the user. Raises CheckpointError, DataError or ConfigError, before anything is written, for a folder
  or a base that cannot be used, and for a file that exists.
  """
  check_new_config(out)
  before = load_config(base)
  after = with_encoders(with_language_model(before, folder), hearing, seeing)
  model = LanguageModel(folder, after)
  stored = sum(math.prod(tensor.shape) for tensor in model.stored())
  about = (
    f"{stored / 1e6:.1f} M weights, {model.stored_rows} rows and {after.model.vocab - model.stored_rows} new ones."
  )
  changed = write_config_diff(out, base, after, f"the geometry and the tokenizer of {folder}", about)
  tokenizer = model.tokenizer
  return [
    f"{out}: {base} with {changed} fields of {folder}; {about}",
    f"tokenizer: {tokenizer.vocab_size} tokens; PAD is {tokenizer.pad_id}, <cut> is {tokenizer.cut_id}"
    + (f" ({len(tokenizer.added)} added)" if tokenizer.added else ""),
    f"next: wanstreamer data make --config {out} --out DIR, or wanstreamer train --config {out}",
  ]


def with_language_model(config: Config, folder: Path) -> Config:
  """`config`, frozen, with the geometry and the tokenizer of the folder, which training starts from."""
  found, tokenizer = language_model_config(folder), folder_tokenizer(folder)
  values: dict[str, Any] = config_to_dict(config)
  rows = max(found.vocab, tokenizer.vocab_size)
  values["model"] |= {name: getattr(found, name) for name in GEOMETRY}
  values["model"] |= {"vocab": -(-rows // ROWS) * ROWS, "pad": tokenizer.pad_id, "tokens": tokenizer.vocab_size}
  values["data"] |= {"tokenizer": str(tokenizer.path), "tokenizer_sha256": tokenizer.sha256}
  values["train"] |= {"language_model": str(folder), "init": ""}
  changed = config_from_dict(values)
  tokenizer_of(changed)
  return changed
