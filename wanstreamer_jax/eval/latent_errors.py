"""Teacher-forced errors on held-out records, beside trivial baselines from the same run (law 10).

Latent error: mean squared error of the one-step posterior mean at flow time 1. There z = eps and the velocity is
eps - z0, so z - v is the model's E[z0 | everything before]; errors are in units of the latents' own variance (they are
standardised, so 1.0 is what always answering the mean scores). A perfect *sample* would score twice the conditional
variance and can lose to copying; the posterior mean cannot. Errors are split by what the agent is doing: speaking,
listening, or in a transition (its voice starts or stops in the unit or at its beginning). Text: cross-entropy in nats
on tokens that are words, and on onsets (the first word after a silent unit) apart.

Baselines: `shuffled_user` has another session's user; `text_only` has no user sound and picture; `copy_previous`
answers with the previous unit's latents (it has no opinion on text).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.eval.baselines import VARIANTS
from wanstreamer_jax.eval.metrics import mean
from wanstreamer_jax.eval.turns import SPEECH_GAP, merge, runs
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.model.tokens import PAD, Latents
from wanstreamer_jax.teacher_forcing import (
  Row,
  crop_heard,
  crop_history,
  crop_latents,
  crop_world,
  onsets,
  text_entropy,
)

Batch = dict[str, np.ndarray]  # rows of `crops`, with a leading axis, each of another session


class UnitErrors(NamedTuple):
  """Errors of every unit of a crop. audio, video: mean squared latent error [K]; entropy: [K, n]."""

  audio: jax.Array
  video: jax.Array
  entropy: jax.Array


def unit_errors(streamer: WanStreamer, row: Row, key: jax.Array) -> UnitErrors:
  """One crop through the teacher-forced pass at flow time 1, with its true, clean history."""
  latents = crop_latents(row)
  total, units = latents.audio.shape[0], row["agent_text"].shape[0]
  clean = jax.tree.map(lambda x: x[-units:], latents)
  keys = jax.random.split(key)
  noise = Latents(*(jax.random.normal(k, x.shape) for k, x in zip(keys, clean)))
  config = streamer.config
  predictions = streamer.teacher_forced(
    crop_world(row, config),
    crop_heard(streamer, row),
    crop_history(row, latents, jnp.zeros(total), jnp.ones(total, bool), config.layout.commit_delay),
    row["agent_text"],
    noise,
    jnp.ones(units),
    row["start"],
    jnp.zeros((), jnp.int32),
  )
  answer = jax.tree.map(lambda z, v: z - v, noise, predictions.velocity)
  return UnitErrors(*_squared(answer, clean), text_entropy(streamer, predictions.text, row["agent_text"])[0])


def copy_errors(row: Row) -> UnitErrors:
  """The same errors of answering with the previous unit's latents (zeros, the mean, where there is none)."""
  latents, units = crop_latents(row), row["agent_text"].shape[0]
  clean = jax.tree.map(lambda x: x[-units:], latents)
  before = jax.tree.map(lambda x: x[-units - 1 : -1], latents)
  return UnitErrors(*_squared(before, clean), jnp.full(row["agent_text"].shape, jnp.nan))


def _squared(answer: Latents, truth: Latents) -> tuple[jax.Array, jax.Array]:
  """Mean squared error per unit: (audio [K], video [K])."""
  error = lambda a, b: jnp.mean(jnp.square(a - b).reshape(a.shape[0], -1), axis=1)
  return error(answer.audio, truth.audio), error(answer.video, truth.video)


def variant_of(batch: Batch, variant: str) -> Batch:
  """The batch as a variant sees it; see the module's docstring."""
  if variant == "shuffled_user":
    return {name: np.roll(x, 1, axis=0) if name.startswith("user_") else x for name, x in batch.items()}
  if variant == "text_only":
    return batch | {name: np.zeros_like(batch[name]) for name in ("user_audio_valid", "user_video_valid")}
  return batch


def unit_states(speaking: np.ndarray, fps: int) -> np.ndarray:
  """What the agent does in each unit, from its speaking frames bool [K, F]: "speaking", "listening", "transitions".

  Pauses up to 0.3 s count as speech. A transition is a unit in which, or at whose beginning, speech starts or stops.
  """
  flat = np.zeros(speaking.size, bool)
  for start, end in merge(runs(speaking.reshape(-1)) / fps, SPEECH_GAP):
    flat[round(start * fps) : round(end * fps)] = True
  frames = flat.reshape(speaking.shape)
  before = np.concatenate([frames[:1, 0], frames[:-1, -1]])
  steady = (frames == before[:, None]).all(axis=1)
  return np.where(~steady, "transitions", np.where(before, "speaking", "listening"))


class Tally:
  """Errors of all crops so far, by variant."""

  def __init__(self, streamer: WanStreamer, seed: int = 0):
    self.streamer, self.key = streamer, jax.random.key(seed)
    self._errors = jax.jit(jax.vmap(unit_errors, in_axes=(None, 0, 0)))
    self._copy = jax.jit(jax.vmap(copy_errors))
    self.kept: dict[str, list[UnitErrors]] = {variant: [] for variant in VARIANTS}
    self.states: list[np.ndarray] = []
    self.words: list[np.ndarray] = []
    self.onsets: list[np.ndarray] = []
    self.count = 0

  def add(self, batch: Batch, counted: int | None = None) -> None:
    """Scores crops [B, K, ...] of different sessions, the first `counted` of which count (all, unless it is given).
    `agent_speaking` bool [B, K, F] comes beside `crops.FIELDS`."""
    rows = len(batch["agent_text"])
    if rows < 2:
      raise ValueError(f"a batch of {rows} row: shuffled_user needs at least 2 sessions")
    inputs = {name: x for name, x in batch.items() if name != "agent_speaking"}
    keys = jax.vmap(lambda i: jax.random.fold_in(self.key, i))(jnp.arange(self.count, self.count + rows))
    for variant in VARIANTS:
      seen = variant_of(inputs, variant)
      errors = self._copy(seen) if variant == "copy_previous" else self._errors(self.streamer, seen, keys)
      self.kept[variant].append(jax.tree.map(lambda x: x[:counted], jax.device_get(errors)))
    fps, text = self.streamer.config.media.fps, batch["agent_text"][:counted]
    self.states.append(np.stack([unit_states(row, fps) for row in batch["agent_speaking"][:counted]]))
    self.words.append(text != PAD)
    self.onsets.append(np.stack([np.asarray(onsets(jnp.asarray(row))) for row in text]))
    self.count += rows

  def result(self) -> dict[str, Any]:
    """{"units": n, variant: {"audio" and "video": {state: error, "all": error}, "text": {"words", "onsets"}}}."""
    states, words, first = (np.concatenate(x) for x in (self.states, self.words, self.onsets))
    counts = {state: int((states == state).sum()) for state in ("speaking", "listening", "transitions")}
    out: dict[str, Any] = {
      "units": {**counts, "all": states.size, "words": int(words.sum()), "onsets": int(first.sum())}
    }
    for variant, parts in self.kept.items():
      errors: Any = UnitErrors(*(np.concatenate(x) for x in zip(*parts)))  # type: ignore[arg-type]
      out[variant] = {
        "audio": _by_state(errors.audio, states),
        "video": _by_state(errors.video, states),
        "text": {"words": mean(errors.entropy[words]), "onsets": mean(errors.entropy[..., 0][first])},
      }
    return out


def _by_state(errors: np.ndarray, states: np.ndarray) -> dict[str, float]:
  found = {state: mean(errors[states == state]) for state in ("speaking", "listening", "transitions")}
  return found | {"all": mean(errors)}
