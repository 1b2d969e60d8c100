"""Teacher-forced errors on held-out records, beside trivial baselines (law 10). Both come from the same run.

Latent error: mean squared error of the one-step posterior mean at flow time 1. There z = eps and the velocity is
eps - z0, so z - v is the model's E[z0 | everything before]; errors are in units of the latents' own variance (they are
standardised, so 1.0 is what always answering the mean scores). A perfect *sample* would score twice the conditional
variance and can lose to copying; the posterior mean cannot. Errors are split by what the agent is doing: speaking,
listening, or in a transition (its voice starts or stops in the unit or at its beginning). Text: cross-entropy in nats
on tokens that are words, and on onsets (the first word after a silent unit) apart.

Baselines: `shuffled_user` has another session's user; `text_only` has no user audio and video; `copy_previous`
answers with the previous unit's latents (it has no opinion on text).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.data.loader import Crop
from wanstreamer_jax.eval.baselines import VARIANTS
from wanstreamer_jax.eval.metrics import mean
from wanstreamer_jax.eval.turns import SPEECH_GAP, merge, runs
from wanstreamer_jax.flow import velocity
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.teacher_forcing import (
  Inputs,
  crop_conditions,
  crop_past,
  last_units,
  onsets,
  squared_errors,
  teacher_forced,
  text_scores,
)

STATES = ("speaking", "listening", "transitions")
ABSENT = "absent"  # the state of a unit that is not counted


class UnitErrors(NamedTuple):
  """Errors of every unit of a crop. audio, video: mean squared latent error [K]; nll: of text slots [K, n]."""

  audio: jax.Array
  video: jax.Array
  nll: jax.Array


def unit_errors(streamer: WanStreamer, crop: Crop, key: jax.Array) -> UnitErrors:
  """One crop through the teacher-forced pass at flow time 1, with its true, clean history."""
  past, units = crop_past(crop), crop.agent_text.shape[0]
  clean = last_units(past.latents, units)
  noise = Latents(*(jax.random.normal(k, x.shape) for k, x in zip(jax.random.split(key), clean)))
  predictions = teacher_forced(streamer, crop_conditions(streamer, crop), Inputs(past, noise, jnp.ones(units)))
  errors = squared_errors(predictions.velocity, jax.tree.map(velocity, clean, noise))  # of v, which is that of z - v
  return _existing(errors, text_scores(streamer, predictions.text, crop.agent_text).nll, crop)


def _existing(errors: Latents, nll: jax.Array, crop: Crop) -> UnitErrors:
  """Errors of streams that exist and of words that are known; NaN, which no mean counts, for the others."""
  exists = last_units(crop_past(crop).valid, nll.shape[0])
  video, audio = (jnp.where(exists[:, i], x, jnp.nan) for i, x in enumerate((errors.video, errors.audio)))
  return UnitErrors(audio, video, jnp.where(crop.agent_text_valid[:, None], nll, jnp.nan))


def copy_errors(crop: Crop) -> UnitErrors:
  """The same errors of answering with the previous unit's latents (zeros, the mean, where there is none)."""
  latents, units = crop_past(crop).latents, crop.agent_text.shape[0]
  before = jax.tree.map(lambda x: x[-units - 1 : -1], latents)
  errors = squared_errors(before, last_units(latents, units))
  return _existing(errors, jnp.full(crop.agent_text.shape, jnp.nan), crop)


def variant_of(crops: Crop, variant: str) -> Crop:
  """A batch of crops as a variant sees it; see the module's docstring."""
  if variant == "shuffled_user":
    users = {name: x for name, x in crops._asdict().items() if name.startswith("user_")}
    return crops._replace(**{name: np.roll(x, 1, axis=0) for name, x in users.items()})
  if variant == "text_only":
    no = np.zeros_like(crops.user_audio_valid)
    return crops._replace(user_audio_valid=no, user_video_valid=no)
  return crops


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


def _exists(crops: Crop) -> np.ndarray:
  """Units in which the agent has a stream: bool [B, K]. Past the end of a shorter session there are none."""
  video, audio = (
    np.asarray(x)[:, -crops.agent_text.shape[1] :] for x in (crops.agent_video_valid, crops.agent_audio_valid)
  )
  return video | audio | np.asarray(crops.agent_text_valid)


class Tally:
  """Errors of all crops so far, by variant."""

  def __init__(self, streamer: WanStreamer, seed: int = 0):
    self.streamer, self.key = streamer, jax.random.key(seed)
    self._errors = jax.jit(jax.vmap(unit_errors, in_axes=(None, 0, 0)))
    self._copy = jax.jit(jax.vmap(copy_errors))
    self.kept: dict[str, list[UnitErrors]] = {variant: [] for variant in VARIANTS}
    self.states: list[np.ndarray] = []
    self.tokens: list[np.ndarray] = []
    self.onsets: list[np.ndarray] = []
    self.count = 0

  def add(self, crops: Crop, speaking: np.ndarray, counted: int | None = None) -> None:
    """Scores crops [B, K, ...] of different sessions, the first `counted` of which count (all, unless it is given).

    speaking: bool [B, K, F], whether the agent speaks.
    """
    rows = len(crops.agent_text)
    if rows < 2:
      raise ValueError(f"a batch of {rows} row: shuffled_user needs at least 2 sessions")
    keys = jax.vmap(lambda i: jax.random.fold_in(self.key, i))(jnp.arange(self.count, self.count + rows))
    for variant in VARIANTS:
      seen = variant_of(crops, variant)
      errors = self._copy(seen) if variant == "copy_previous" else self._errors(self.streamer, seen, keys)
      self.kept[variant].append(jax.tree.map(lambda x: x[:counted], jax.device_get(errors)))
    fps, text = self.streamer.config.media.fps, crops.agent_text[:counted]
    pad = self.streamer.config.model.pad
    states = np.stack([unit_states(row, fps) for row in speaking[:counted]])
    self.states.append(np.where(_exists(crops)[:counted], states, ABSENT))
    known = np.asarray(crops.agent_text_valid[:counted])
    self.tokens.append((text != pad) & known[..., None])
    self.onsets.append(np.stack([np.asarray(onsets(jnp.asarray(row), pad)) for row in text]) & known)
    self.count += rows

  def result(self) -> dict[str, Any]:
    """{"units": n, variant: {"audio" and "video": {state: error, "all": error}, "text": {"tokens", "onsets"}}}."""
    states, tokens, first = (np.concatenate(x) for x in (self.states, self.tokens, self.onsets))
    counts = {state: int((states == state).sum()) for state in STATES}
    out: dict[str, Any] = {
      "units": {**counts, "all": sum(counts.values()), "tokens": int(tokens.sum()), "onsets": int(first.sum())}
    }
    for variant, parts in self.kept.items():
      errors: Any = UnitErrors(*(np.concatenate(x) for x in zip(*parts)))  # type: ignore[arg-type]
      out[variant] = {
        "audio": _by_state(errors.audio, states),
        "video": _by_state(errors.video, states),
        "text": {"tokens": mean(errors.nll[tokens]), "onsets": mean(errors.nll[..., 0][first])},
      }
    return out


def _by_state(errors: np.ndarray, states: np.ndarray) -> dict[str, float]:
  found = {state: mean(errors[states == state]) for state in STATES}
  return found | {"all": mean(errors)}
