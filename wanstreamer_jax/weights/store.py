"""Reads and writes exported weights (safetensors); reads training checkpoints (Orbax).

An export is a folder with `weights.safetensors` and `config.json`, and where there is text `tokenizer.json`, the file
that its config's `data.tokenizer_sha256` names; a training checkpoint is a folder
`RUN/checkpoints/STEP` that train/checkpoint.py wrote. Both carry their config and a format number. In memory weights
are float32 and named as in parallel/rules.py. Any path may lie in an object store, `gs://bucket/folder`.
"""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from wanstreamer_jax.config import AudioCodecConfig, Config, VideoCodecConfig
from wanstreamer_jax.config_files import config_from_dict, config_to_dict
from wanstreamer_jax.data.tokenizer import older_sha256
from wanstreamer_jax.errors import CheckpointError, ConfigError, one_line_with_type
from wanstreamer_jax.files import Path, absolute_path, is_remote, local_copy, replacing
from wanstreamer_jax.parallel.renamed import current_name
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves

FORMAT = 2  # 1: heads that state velocities, kinds in another order
WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
EXPORTED = "weights"  # folder of a finished codec run that holds the standardised codec, as an export
META_FILE = "meta/metadata"  # inside a training checkpoint
COMMITTED = "commit_success.txt"  # what Orbax writes last into a checkpoint of an object store
SCALE = ":scale"  # suffix of the int8 rows' scales
# Constants that older weights lack, the leaf that has stood beside each of them, and what they were then.
ADDED: dict[str, tuple[str, Callable[[Config, int], np.ndarray]]] = {
  "heads.audio_variance": ("heads.audio.b", lambda config, _: _full(config.audio_codec, config.flow.audio_std**2)),
  "heads.video_variance": ("heads.video.b", lambda config, _: _full(config.video_codec, config.flow.video_std**2)),
  "standard.residual_std": ("standard.latent_std", lambda _, channels: np.zeros(channels, np.float32)),
}
EXACT = re.compile(r"(.*\.)?heads\.(audio|video)_variance")  # leaves that every export keeps in float32
MIN_INT8_ROW = 16  # shorter rows stay bf16, since their scales would take the space that int8 saves

# The client of Google's store logs a traceback for every failure that it raises; here a failure is one line.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def export_weights(
  params: Any, config: Config, path: Path, dtype: str = "bf16", tokenizer: bytes | None = None
) -> int:  # fmt: skip
  """Writes weights and config as a folder. Returns its size in bytes. Raises CheckpointError if it cannot be written.

  dtype: "f32", "bf16" or "int8". int8 has one float32 scale per row (the last axis); short rows and vectors stay bf16.
  tokenizer: a tokenizer.json, which from then on is the config's.
  """
  if dtype not in ("f32", "bf16", "int8"):
    raise CheckpointError(f"export dtype is {dtype!r}: expected f32, bf16 or int8")
  from safetensors.numpy import save

  tensors: dict[str, np.ndarray] = {}
  for name, leaf in named_leaves(params).items():
    tensors.update(_pack(name, np.asarray(jax.device_get(leaf)), dtype))
  folder = epath.Path(path)
  data = save(tensors)
  if tokenizer is not None:
    own = config.data.replace(tokenizer=TOKENIZER_FILE, tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest())
    config = config.replace(data=own).freeze()
  header: dict[str, Any] = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
  header |= {"tokenizer": TOKENIZER_FILE} if tokenizer is not None else {}  # older exports have none
  header["config"] = config_to_dict(config)
  files = {CONFIG_FILE: (json.dumps(header, indent=2) + "\n").encode(), WEIGHTS_FILE: data}
  files |= {TOKENIZER_FILE: tokenizer} if tokenizer is not None else {}
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as all_files:  # none gets its name before all are written
      for name, content in files.items():
        all_files.enter_context(replacing(folder / name)).write_bytes(content)
  except OSError as error:
    raise CheckpointError(f"cannot write weights to {folder}: {error.strerror or error}") from error
  return sum(map(len, files.values()))


def _pack(name: str, value: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
  import ml_dtypes

  if dtype == "f32" or EXACT.fullmatch(name):
    return {name: value.astype(np.float32)}
  if dtype == "bf16" or value.ndim < 2 or value.shape[-1] < MIN_INT8_ROW:
    return {name: value.astype(ml_dtypes.bfloat16)}
  scale = np.abs(value).max(-1, keepdims=True).astype(np.float32) / 127
  rounded = np.rint(value / np.where(scale == 0, 1, scale)).astype(np.int8)
  return {name: rounded, name + SCALE: scale}


def load_export(path: Path) -> tuple[Config, dict[str, np.ndarray]]:
  """(config, {name: float32 array}) of an exported folder. Raises CheckpointError."""
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  folder = epath.Path(path)
  config = read_header(folder, CONFIG_FILE)
  header = json.loads((folder / CONFIG_FILE).read_text())
  config = _with_own_tokenizer(config, folder) if header.get("tokenizer") else config
  try:
    with local_copy(folder / WEIGHTS_FILE) as file:
      with open(file, "rb") as stream:  # the whole file is not held a second time
        found = hashlib.file_digest(stream, "sha256").hexdigest()
      tensors = load_file(file)
  except (OSError, SafetensorError) as error:
    raise CheckpointError(f"cannot read {folder / WEIGHTS_FILE}: {error}; the file is missing or incomplete") from error
  stated = header.get("sha256")
  if stated is not None and stated != found:
    raise CheckpointError(
      f"{folder / WEIGHTS_FILE} is not the file that {CONFIG_FILE} beside it describes: it is damaged or from "
      "another export; copy the folder again"
    )
  values = {}
  for name, value in tensors.items():
    if not name.endswith(SCALE):
      values[current_name(name)] = value.astype(np.float32) * tensors.get(name + SCALE, np.float32(1))
  return config, values


def _with_own_tokenizer(config: Config, folder: epath.Path) -> Config:
  """The config of an export with the path of the tokenizer beside its weights.

  Raises CheckpointError when that file is missing or another one.
  """
  file, stated = folder / TOKENIZER_FILE, config.data.tokenizer_sha256
  try:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
  except OSError as error:
    raise CheckpointError(
      f"{file} is missing: the weights beside it were trained with that tokenizer; copy the folder again"
    ) from error
  if found != stated:
    raise CheckpointError(
      f"{file} is not the tokenizer that {CONFIG_FILE} beside it describes (SHA-256 {found[:12]}..., expected "
      f"{stated[:12]}...): it is damaged or from another export; copy the folder again"
    )
  return config.replace(data=config.data.replace(tokenizer=str(file))).freeze()


def _full(codec: AudioCodecConfig | VideoCodecConfig, value: float) -> np.ndarray:
  return np.full(codec.latent_dim, value, np.float32)


def added_since(shapes: Mapping[str, tuple[int, ...]], config: Config) -> dict[str, np.ndarray]:
  """The constants that weights of these names and shapes lack because they are older, by name."""
  found = {}
  for added, (beside, value) in ADDED.items():
    for name, shape in shapes.items():
      front = name.removesuffix(beside)
      if front != name and front + added not in shapes and (not front or front.endswith(".")):
        found[front + added] = value(config, shape[-1])
  return found


def _with_runs_tokenizer(config: Config, folder: epath.Path) -> Config:
  """The config of a checkpoint with the path of the tokenizer that its run keeps, RUN/tokenizer.json, if that is it.

  Otherwise, as in older runs, the path stays the one of the machine that trained."""
  file, stated = folder.parent.parent / TOKENIZER_FILE, config.data.tokenizer_sha256
  if not (stated and file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == stated):
    return config
  return config.replace(data=config.data.replace(tokenizer=str(file))).freeze()


def _with_tokenizer_of_its_time(config: Config) -> Config:
  """The config of weights that do not say which tokenizer they had: it was the default of their time."""
  if config.data.tokenizer != "default" or config.data.tokenizer_sha256:
    return config
  return config.replace(data=config.data.replace(tokenizer_sha256=older_sha256())).freeze()


def read_header(folder: epath.Path, file_name: str) -> Config:
  """The config that was written beside weights. Raises CheckpointError: missing, damaged, or of another format."""
  file = folder / file_name
  try:
    header = json.loads(file.read_text())
    version, values = header["format"], header["config"]
  except OSError as error:
    raise CheckpointError(f"no checkpoint at {folder}: {file_name} is missing ({error.strerror})") from error
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"{file} is damaged or does not belong to a checkpoint: {error}") from error
  if version != FORMAT:
    newer = isinstance(version, int) and version > FORMAT
    advice = "update it" if newer else "train or export it again"
    raise CheckpointError(f"{folder} has format {version}; this program reads format {FORMAT}: {advice}")
  try:
    return config_from_dict(values)
  except ConfigError as error:
    raise CheckpointError(f"{folder} holds a config that this program cannot use: {error}") from error


def checkpoint_steps(folder: Path) -> list[int]:
  """Steps of the complete checkpoints in RUN/checkpoints, oldest first.

  Unfinished ones have other names. In object stores, which cannot rename a folder, they lack the file COMMITTED.
  """
  root = epath.Path(folder)
  steps = sorted(int(entry.name) for entry in root.iterdir() if entry.name.isdecimal()) if root.is_dir() else []
  if not is_remote(folder):
    return steps
  return [step for step in steps if (root / str(step) / COMMITTED).exists()]


def find_weights(path: Path) -> epath.Path:
  """The folder to read: an export, RUN (its export, else its last checkpoint), RUN/checkpoints, or one checkpoint."""
  folder = epath.Path(path)
  if (folder / EXPORTED / WEIGHTS_FILE).exists():
    return folder / EXPORTED
  if (folder / WEIGHTS_FILE).exists() or (folder / "state").is_dir():
    return folder
  for parent in (folder / "checkpoints", folder):
    steps = checkpoint_steps(parent)
    if steps:
      return parent / str(steps[-1])
  if not folder.exists():
    raise CheckpointError(f"no checkpoint at {folder}: there is no such folder")
  raise CheckpointError(f"no checkpoint in {folder}: expected {WEIGHTS_FILE}, or checkpoints/STEP of a training run")


def read_weights(path: Path) -> tuple[Config, dict[str, np.ndarray]]:
  """(config, {name: float32 array}) of an export or a training checkpoint; the averaged weights where it has them."""
  folder = find_weights(path)
  if (folder / WEIGHTS_FILE).exists():
    config, values = load_export(folder)
  else:
    config = _with_runs_tokenizer(read_header(folder, META_FILE), folder)
    values = read_checkpoint(folder, "ema" if config.train.ema else "params")
  config = _with_tokenizer_of_its_time(config)
  return config, values | added_since({name: value.shape for name, value in values.items()}, config)


def checksum(leaf: Any, xp: Any = np) -> Any:
  """A uint32 over a leaf's bits. It changes when a single bit does, and when two different numbers are swapped.

  leaf: an array of 1-, 2- or 4-byte numbers; xp: numpy or jax.numpy. Integer sums do not depend on their order, so that
  the checksum is the same on any mesh and for any number of processes.
  """
  words = leaf.astype(np.uint8) if leaf.dtype == bool else leaf.view(f"uint{8 * leaf.dtype.itemsize}")
  place = xp.uint32(0)
  for size in leaf.shape:  # index of each number in the whole leaf, [*leaf.shape]; needs no reshape of sharded leaves
    place = place[..., None] * xp.uint32(size) + xp.arange(size, dtype=xp.uint32)
  weight = (place * xp.uint32(0x9E3779B1)) | xp.uint32(1)  # odd, hence invertible: no bit is lost
  return xp.sum(words.astype(xp.uint32) * weight, dtype=xp.uint32)


def meta_digest(meta: Mapping[str, Any]) -> str:
  """SHA-256 of a checkpoint's meta, apart from its `digest` field."""
  rest = {name: value for name, value in meta.items() if name != "digest"}
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_meta(folder: epath.Path) -> dict[str, Any]:
  """The meta of a training checkpoint. Raises CheckpointError when it is missing or damaged."""
  try:
    meta = json.loads((folder / META_FILE).read_text())
    whole = meta.get("digest") in (None, meta_digest(meta))  # older checkpoints have none
  except (OSError, ValueError, AttributeError) as error:
    raise CheckpointError(f"checkpoint {folder} is incomplete or damaged ({one_line_with_type(error)})") from error
  if not whole:
    raise CheckpointError(f"checkpoint {folder} is incomplete or damaged ({META_FILE} does not match its digest)")
  return meta


def read_checkpoint(folder: epath.Path, part: str) -> dict[str, np.ndarray]:
  """One part ("params" or "ema") of a training checkpoint as host arrays. Raises CheckpointError."""
  import orbax.checkpoint as ocp

  meta = read_meta(folder)
  try:
    shapes, sums = dict(meta["leaves"][part]), meta.get("checksums", {}).get(part, {})  # older ones have no checksums
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"checkpoint {folder} is damaged: {META_FILE} does not list its {part}") from error
  target = {part: {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}}
  arguments = {part: {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in shapes}}
  try:
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    restore = ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=True)
    values = dict(handler.restore(absolute_path(folder) / "state", args=restore)[part])
  except Exception as error:  # Orbax and TensorStore raise many types
    raise CheckpointError(f"checkpoint {folder} is incomplete or damaged: {one_line_with_type(error)}") from error
  for name, value in values.items():
    if name in sums and int(checksum(value)) != sums[name]:
      raise CheckpointError(f"checkpoint {folder} is damaged: {part} {name} does not match its checksum")
  return {current_name(name): value for name, value in values.items()}


def load_weights(path: Path, abstract: Any) -> Any:
  """The weights at `path` in the shape of `abstract`, as float32 host arrays.

  path: an export, a training run or one of its checkpoints. From an exported agent the part with these names is taken.
  abstract: the parameters' tree of `jax.eval_shape`.
  Raises CheckpointError, naming the first parameter that is missing, unknown, or of another shape.
  """
  _, values = read_weights(path)
  return fit_weights(part_of(values, named_leaves(abstract)), abstract, path)


def part_of(values: dict[str, np.ndarray], names: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The values of the part ("streamer", "audio_codec", ...) of an exported agent that has all of `names`, without the
  part's name in front; all values if no part has them."""
  for part in sorted({name.partition(".")[0] for name in values}):
    if all(f"{part}.{name}" in values for name in names):
      return {name: values[f"{part}.{name}"] for name in names}
  return values


def fit_weights(values: Mapping[str, np.ndarray], abstract: Any, path: Path) -> Any:
  """`abstract` filled with named values. Raises CheckpointError unless names and shapes agree."""
  wanted = {name: leaf.shape for name, leaf in named_leaves(abstract).items()}
  problem = first_difference({name: value.shape for name, value in values.items()}, wanted)
  if problem:
    raise CheckpointError(f"{path} does not fit this model: {problem}; use the config that it was trained with")
  return fill_leaves(abstract, dict(values))


def first_difference(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str | None:
  """The first parameter (and how many more) in which two tables of shapes differ, in words; None if they are equal."""
  problems = [f"{name} has shape {list(found[name])}, expected {list(wanted[name])}"
              for name in wanted if name in found and tuple(found[name]) != tuple(wanted[name])]  # fmt: skip
  problems += [f"{name} is missing" for name in wanted if name not in found]
  problems += [f"{name} is unknown" for name in found if name not in wanted]
  more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
  return problems[0] + more if problems else None
