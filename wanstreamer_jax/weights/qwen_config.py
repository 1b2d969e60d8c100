"""Writes the config file of a streamer that starts from a language model: the diff of another config file."""

import math
import os
import pathlib
from typing import Any

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import config_from_dict, config_to_dict, flat_fields, load_config
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.files import Path, write_text
from wanstreamer_jax.weights.qwen import GEOMETRY, ROWS, LanguageModel, folder_tokenizer, language_model_config

TEMPLATE = '''"""{base} with the geometry and the tokenizer of {folder}.

    wanstreamer train --config={out}

Written by `wanstreamer config from-hf`. {about}
"""

import pathlib

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import run_config_file

BASE = pathlib.Path(__file__).parent / {relative!r}


def get_config() -> Config:
  config = run_config_file(str(BASE){argument})
{changes}
  return config
'''


def write_config(folder: Path, base: str, out: Path) -> list[str]:
  """Writes `out`, the config `base` with the geometry of `folder`, and checks that all of its weights fit.

  Returns lines for the user. Raises CheckpointError, DataError or ConfigError, before anything is written, for a folder
  or a base that cannot be used, and for a file that exists.
  """
  out = pathlib.Path(out)
  if out.suffix != ".py" or out.exists():
    raise ConfigError(f"--out {out}: expected the name of a new Python file, such as {out.with_suffix('')}_new.py")
  before = load_config(base)
  after = with_language_model(before, folder)
  model, own = LanguageModel(folder, after), flat_fields(before)
  changed = {name: value for name, value in flat_fields(after).items() if own[name] != value}
  stored = sum(math.prod(tensor.shape) for tensor in model.stored())
  about = (
    f"{stored / 1e6:.1f} M weights, {model.stored_rows} rows and {after.model.vocab - model.stored_rows} new ones."
  )
  file, colon, argument = base.partition(".py:")
  relative = os.path.relpath(file + ".py" if colon else file, out.parent)
  out.parent.mkdir(parents=True, exist_ok=True)
  text = TEMPLATE.format(
    base=base, folder=folder, out=out, about=about, relative=relative,
    argument=f" + {':' + argument!r}" if colon else "",
    changes="\n".join(f"  config.{name} = {value!r}" for name, value in changed.items()),
  )  # fmt: skip
  write_text(out, text)
  tokenizer = model.tokenizer
  return [
    f"{out}: {base} with {len(changed)} fields of {folder}; {about}",
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
