"""Training checkpoints (Orbax): atomic, written in the background, for any mesh. Any number of processes can restore
them.

`RUN/checkpoints/STEP/` holds `state` (arrays, flat by name: step, params, optimizer, ema, spikes) and `meta` (format,
config, code, shapes, and a checksum of every array). A checkpoint is written under a temporary name and renamed when it
is complete (in object stores: completed by a last file); only then are older ones removed. Every process writes its own
shards of one checkpoint, and all restore the same one. weights/store.py reads the weights alone.
"""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from wanstreamer_jax.config import Config, TrainConfig
from wanstreamer_jax.config_files import config_to_dict, flat_fields
from wanstreamer_jax.errors import CheckpointError, LostHostError, UserError, one_line_with_type
from wanstreamer_jax.files import Path, absolute_path, is_remote
from wanstreamer_jax.parallel import hosts
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.train import provenance
from wanstreamer_jax.train.state import TrainState
from wanstreamer_jax.weights.store import (
  FORMAT,
  META_FILE,
  added_since,
  checkpoint_steps,
  checksum,
  current_name,
  first_difference,
  meta_digest,
  read_header,
  read_meta,
)

# Fields that may differ between a run and its continuation. They change the numbers of later steps only by rounding, or
# only how many steps there are (train.steps also moves the end of a decaying schedule). data.path may differ too, since
# data are moved and mixtures change, but a notice is printed. The tokenizer's path is free, its hash is not.
FREE_FIELDS = (
  "name", "data.path", "data.heldout", "data.user_video", "data.agent_video", "data.user_video_crf",
  "data.agent_video_crf", "data.video_piece", "train.steps", "train.minutes", "train.mesh", "train.log_every",
  "train.eval_every", "train.checkpoint_every", "train.keep", "train.keep_every", "train.run", "train.init",
  "train.codecs", "train.language_model", "train.hearing", "train.seeing", "data.tokenizer",
  "flow.steps", "flow.shift", "flow.guidance", "model.kv_cache", "model.remat", "model.attention",
)  # fmt: skip
FREE_SECTIONS = ("eval.",)
UNFINISHED = "*.orbax-checkpoint-tmp*"
PARTS = ("params", "optimizer", "ema", "spikes")


def flatten_state(state: TrainState) -> dict[str, dict[str, Any]]:
  """{part: {leaf name: leaf}}; the inverse is `unflatten_state`. Parts without leaves are left out."""
  parts = {part: named_leaves(getattr(state, part)) for part in PARTS}
  return {"step": {"step": state.step}, **{part: leaves for part, leaves in parts.items() if leaves}}


def unflatten_state(abstract: TrainState, parts: dict[str, dict[str, Any]]) -> TrainState:
  filled = {part: fill_leaves(getattr(abstract, part), parts.get(part, {})) for part in PARTS}
  return TrainState(step=parts["step"]["step"], **filled)


def current_names(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Parts by today's names of leaves, of parts by the names that they were saved under."""
  return {part: {current_name(name): leaf for name, leaf in leaves.items()} for part, leaves in parts.items()}


def _as_saved(parts: dict[str, dict[str, Any]], saved: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """The inverse of `current_names`; saved: anything by the names of the checkpoint."""
  names = {part: {current_name(name): name for name in leaves} for part, leaves in saved.items()}
  return {part: {names[part][name]: leaf for name, leaf in leaves.items()} for part, leaves in parts.items()}


def _check_shapes(folder: epath.Path, saved: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> None:
  """Raises CheckpointError unless the saved parts hold the wanted leaves. saved: shapes as lists; wanted: arrays."""
  for part, leaves in wanted.items():
    found = {name: tuple(shape) for name, shape in saved.get(part, {}).items()}
    difference = first_difference(found, {name: leaf.shape for name, leaf in leaves.items()})
    if difference:
      raise CheckpointError(f"checkpoint {folder} is of another model: {part} {difference}; use another train.run")


def changed_fields(saved: Config, current: Config) -> list[str]:
  """Fields in which a run cannot be continued, as "train.learning_rate: 0.001 -> 0.002"."""
  before, now = flat_fields(saved), flat_fields(current)
  return [
    f"{name}: {before[name]!r} -> {now[name]!r}"
    for name in now
    if before[name] != now[name] and name not in FREE_FIELDS and not name.startswith(FREE_SECTIONS)
    if not (name == "data.tokenizer_sha256" and not before[name])  # older checkpoints do not have it
  ]


@jax.jit
def _checksums(leaves: list[jax.Array]) -> jax.Array:
  return jnp.stack([checksum(leaf, jnp) for leaf in leaves])


def checksums(parts: dict[str, dict[str, jax.Array]]) -> dict[str, dict[str, int]]:
  """A checksum of every leaf (`store.checksum`), the same on any mesh. In a job of several processes all call this."""
  found = iter(np.asarray(_checksums(jax.tree.leaves(parts))).tolist())
  return jax.tree.map(lambda _: next(found), parts)


def kept(train: TrainConfig) -> Any:
  """Orbax's policy: keeps the last `train.keep` checkpoints, and every `train.keep_every`-th step for good."""
  latest = checkpoint_managers.LatestN(train.keep)
  if not train.keep_every:
    return latest
  return checkpoint_managers.AnyPreservationPolicy([latest, checkpoint_managers.EveryNSteps(train.keep_every)])


class Checkpoints:
  """The checkpoints of one run. A context manager: leaving it waits for the last write.

  A failed write raises CheckpointError at the next call; earlier checkpoints stay as they were. In a job of several
  processes all of them make the same calls.
  """

  def __init__(self, folder: Path, config: Config):
    self.folder = absolute_path(folder)
    self.config = config
    self._saving: int | None = None
    _quiet_orbax()
    options = ocp.CheckpointManagerOptions(
      preservation_policy=kept(config.train), enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._manager = ocp.CheckpointManager(self.folder, options=options)
    except OSError as error:
      raise CheckpointError(f"cannot write checkpoints to {self.folder}: {error.strerror or error}") from error
    except Exception as error:
      if not is_remote(self.folder):
        raise
      reason = one_line_with_type(error)
      raise CheckpointError(f"cannot reach {self.folder}: {reason}; check the bucket and gcsfs") from error

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
    if isinstance(error, LostHostError):
      return  # finishing a write needs every process
    problem: UserError | None = None
    for close in (self.wait, self._manager.close):
      try:
        close()
      except UserError as failure:
        problem = failure
      except Exception as failure:  # close() repeats what wait() raised
        problem = problem or self._failed(failure)
    if not is_remote(self.folder):
      for unfinished in self.folder.glob(UNFINISHED):
        shutil.rmtree(unfinished, ignore_errors=True)  # frees its space on a disk that may be full
    if problem and error is None:
      raise problem

  def save(self, state: TrainState, step: int) -> None:
    """Starts writing; the arrays are copied before this returns, so the state may be donated to the next step."""
    parts = flatten_state(state)
    shapes = {part: {name: list(leaf.shape) for name, leaf in leaves.items()} for part, leaves in parts.items()}
    meta = {
      "format": FORMAT, "config": config_to_dict(self.config), "code": provenance.code(), "leaves": shapes,
      "checksums": checksums(parts),
    }  # fmt: skip
    meta["digest"] = meta_digest(meta)
    self.wait()
    self._saving = step
    self._check_space(sum(leaf.nbytes for leaf in jax.tree.leaves(parts)))
    items = ocp.args.Composite(state=ocp.args.PyTreeSave(parts), meta=ocp.args.JsonSave(meta))
    try:
      self._manager.save(step, args=items, force=True)
    except Exception as error:
      raise self._failed(error) from error

  def wait(self) -> None:
    """Returns when the last checkpoint is whole on disk. Raises CheckpointError if it could not be written."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._failed(error) from error
    self._saving = None

  def _check_space(self, size: int) -> None:
    """Raises CheckpointError when the disk has no room for `size` bytes, before anything is written."""
    if is_remote(self.folder):
      return
    free = shutil.disk_usage(self.folder).free
    if free < size:
      raise self._failed(OSError(f"No space left on device ({size / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free)"))

  def _failed(self, error: Exception) -> UserError:
    loss = hosts.lost(error)
    if loss is not None:
      return loss
    step, self._saving = self._saving, None
    try:
      steps = checkpoint_steps(self.folder)
      kept = f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no earlier checkpoint"
    except Exception:  # the store does not answer
      kept = "earlier checkpoints are kept"
    failure = CheckpointError(f"cannot write the checkpoint of step {step} to {self.folder}: {_reason(error)}; {kept}")
    if is_remote(self.folder):
      failure.status = LostHostError.status  # object stores fail now and then: launchers start the job again
    return failure

  def restore(self, abstract: TrainState, shardings: TrainState) -> TrainState | None:
    """The last complete checkpoint, placed as `shardings` say; None if the run has none.

    A damaged checkpoint is reported and moved aside (`damaged-STEP`), and the one before it is tried. Raises
    CheckpointError for a newer format, another config or another model, and when all checkpoints are damaged.
    """
    steps = json.loads(hosts.gather_texts(json.dumps(checkpoint_steps(self.folder)))[0])
    problem = ""
    for step in reversed(steps):
      state, damage = self._restore_step(step, abstract, shardings)
      if not damage:
        if problem:
          self._manager.reload()
        return state
      problem = damage
      self._move_aside(step)
      print(f"warning: {problem}; moved to damaged-{step}; trying the one before it", flush=True)
    if problem:
      raise CheckpointError(f"no undamaged checkpoint is left in {self.folder}; the last problem: {problem}")
    return None

  def _move_aside(self, step: int) -> None:
    aside = self.folder / f"damaged-{step}"
    if hosts.is_first():
      if aside.exists():
        aside.rmtree()
      (self.folder / str(step)).rename(aside)
    hosts.wait_for_all(f"moved checkpoint {step}")

  def _restore_step(self, step: int, abstract: TrainState, shardings: TrainState) -> tuple[TrainState | None, str]:
    """(state, "") or (None, what is damaged), the same in every process."""
    parts: dict[str, Any] | None = None
    sums: dict[str, Any] = {}
    damage = ""
    try:
      parts, sums = self._read(step, abstract, shardings)
    except _Damaged as error:
      damage = str(error)
    damage = next(filter(None, hosts.gather_texts(damage)), "")  # every process reads its own shards
    if damage or parts is None:
      return None, damage
    wrong = [
      f"{part} {name}" for part, found in checksums(parts).items() for name, value in found.items()
      if value != sums.get(part, {}).get(name, value)  # older checkpoints have no checksums
    ]  # fmt: skip
    if wrong:
      return None, f"checkpoint {self.folder / str(step)} is damaged: {wrong[0]} does not match its checksum"
    return unflatten_state(abstract, parts), ""

  def _read(self, step: int, abstract: TrainState, shardings: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parts, their checksums) of a checkpoint. Raises _Damaged, or CheckpointError if it is of another run."""
    folder = self.folder / str(step)
    meta = self._read_meta(folder)
    saved = current_names(meta["leaves"])
    added: dict[str, dict[str, np.ndarray]] = {
      part: added_since(saved[part], self.config) for part in ("params", "ema") if part in saved
    }
    later = {part: {name: x.shape for name, x in leaves.items()} for part, leaves in added.items()}
    _check_shapes(folder, {part: x | later.get(part, {}) for part, x in saved.items()}, flatten_state(abstract))
    placed = flatten_state(
      jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract, shardings)
    )
    stored = {part: {name: x for name, x in leaves.items() if name in saved[part]} for part, leaves in placed.items()}
    target = _as_saved(stored, meta["leaves"])
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    try:
      restore = ocp.args.PyTreeRestore(target, restore_args=arguments)
      # The bare handler, since a Checkpointer would wait for all processes, even for one that found damage.
      parts = ocp.PyTreeCheckpointHandler().restore(folder / "state", args=restore)
      jax.block_until_ready(parts)
    except Exception as error:
      raise _Damaged(f"checkpoint {folder} is incomplete or damaged ({one_line_with_type(error)})") from error
    if int(np.asarray(parts["step"]["step"])) != step:
      raise _Damaged(f"checkpoint {folder} holds step {int(np.asarray(parts['step']['step']))}")
    parts = current_names(parts)
    for part, leaves in added.items():
      parts[part] |= {name: jax.device_put(x, placed[part][name].sharding) for name, x in leaves.items()}
    return parts, current_names(meta.get("checksums", {}))

  def _read_meta(self, folder: epath.Path) -> dict[str, Any]:
    try:
      meta = read_meta(folder)
    except CheckpointError as error:
      raise _Damaged(str(error)) from error
    saved = read_header(folder, META_FILE)
    changes = changed_fields(saved, self.config)
    if changes:
      more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
      raise CheckpointError(
        f"{self.folder.parent} was trained with another config: {changes[0]}{more}; "
        "restore that value, or set train.run to a new folder (and train.init to start from these weights)"
      )
    if saved.data.path != self.config.data.path:
      print(
        f"data.path was {saved.data.path!r} up to step {folder.name} and is {self.config.data.path!r} now: unless "
        "both hold the same records, the next batches are those of a run that used the new path from the start",
        flush=True,
      )
    return meta


class _Damaged(Exception):
  """A checkpoint that cannot be read; the one before it may be."""


def _reason(error: Exception) -> str:
  """The operating system's reason, taken out of Orbax's long message."""
  text = str(error)
  if isinstance(error, OSError) and error.errno is None:
    return text
  for known in ("No space left on device", "File too large", "Permission denied", "Read-only file system",
                "Disk quota exceeded"):  # fmt: skip
    if known in text:
      return known
  return one_line_with_type(error)


class _NoOrbax(logging.Filter):
  """Hides Orbax's own log of failures, several tracebacks for each, which are raised here as one CheckpointError."""

  def filter(self, record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()


def _quiet_orbax() -> None:
  for logger in (logging.getLogger("absl"), logging.getLogger("asyncio")):
    if not any(isinstance(known, _NoOrbax) for known in logger.filters):
      logger.addFilter(_NoOrbax())
  if getattr(sys.unraisablehook, "__name__", "") != "without_orbax":
    sys.unraisablehook = _without_orbax(sys.unraisablehook)


def _without_orbax(before: Callable[[Any], Any]) -> Callable[[Any], None]:
  """Hides what TensorStore raises when it calls into Orbax's closed event loop after a failed read or write."""

  def without_orbax(problem: Any) -> None:
    if "Event loop is closed" not in str(problem.exc_value):
      before(problem)

  return without_orbax
