"""The engine wrapped for evaluation: sessions side by side, and the baseline variants.

The noise of a session comes from its own seed, so the session does not depend on its neighbours. Variants: `model`;
`shuffled_user` (session i is shown the user of session i + 1); `text_only` (the user's audio and video are missing);
`copy_previous` (after its first unit, the agent repeats its latents and writes nothing).

Three more are no agents at all and need no weights (`Puppets`): `metronome` says a word of 0.2 s every 2.4 s, whatever
the user does, `slow_metronome` one of 0.4 s every 3.2 s, which is about the pace of a conversation, and `silent` says
nothing; all show a still picture. They are there for turn-taking: what the deaf and blind reach is worth nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.session import MediaUnit
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.engine.engine import SILENCE, Engine, ThinkerOutput
from wanstreamer_jax.engine.interface import UnitOutput
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.model.streamer import WorldArrays
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.rollout import Sampling

VARIANTS = ("model", "shuffled_user", "text_only", "copy_previous")
BEATS = {"metronome": (2.4, 0.2), "slow_metronome": (3.2, 0.4)}  # seconds between words, and of each
PUPPETS = (*BEATS, "silent")
WORD = "red"  # that metronomes say
VOWEL = (220.0, 440.0, 660.0)  # Hz of its sound


class Answers(NamedTuple):
  """What B agents did in one unit. audio: float32 [B, samples]; video: uint8 [B, F, H, W, 3]; text: int32 [B, n]."""

  audio: np.ndarray
  video: np.ndarray
  text: np.ndarray


class Lockstep:
  """Sessions of one variant in all slots of an engine, whatever was in them."""

  def __init__(self, engine: Engine, worlds: Sequence[WorldArrays], seeds: Sequence[int], variant: str = "model"):
    """worlds, seeds: one for every slot. Raises ValueError for an unknown variant."""
    if variant not in VARIANTS:
      raise ValueError(f"variant is {variant!r}: expected one of {', '.join(VARIANTS)}")
    if variant == "shuffled_user" and engine.slots < 2:
      raise ValueError("shuffled_user needs at least 2 sessions side by side")
    self.engine, self.variant = engine, variant
    self._latents: Latents | None = None  # copy_previous: what is repeated
    for slot in range(engine.slots):
      engine.begin(slot, seeds[slot], worlds[slot], Sampling.of(engine.agent.config))

  def step(self, users: Sequence[MediaUnit], typed: Sequence[list[str]]) -> Answers:
    """One unit of all sessions' users, and what they typed. Raises CheckpointError when a session is not finite."""
    if self._latents is not None:
      unit = self.engine.render(self._latents)
      config = self.engine.agent.config
      text = np.full((len(unit.audio), config.layout.text_slots), config.model.pad, np.int32)
      return Answers(unit.audio, unit.video, text)
    thought = self.engine.think(*self._perceived(users, typed))
    outputs = self.engine.perform(thought)
    if self.variant == "copy_previous":
      self._latents = self.engine.latents
    return _stack(thought, outputs)

  def _perceived(
    self, users: Sequence[MediaUnit], typed: Sequence[list[str]]
  ) -> tuple[Sequence[MediaUnit], Sequence[list[str]]]:
    """What the agents of this variant perceive."""
    if self.variant == "shuffled_user":
      return [*users[1:], users[0]], [*typed[1:], typed[0]]
    if self.variant == "text_only":
      return [SILENCE] * len(users), typed
    return users, typed


class Puppets:
  """Sessions of one of PUPPETS side by side; `step` is that of `Lockstep`."""

  def __init__(self, config: Config, tokenizer: TextTokenizer, portraits: Sequence[np.ndarray | None],
               seeds: Sequence[int], variant: str):  # fmt: skip
    """portraits: what is shown all the time, uint8 [H, W, 3] for each session; grey where there is none. seeds: draw
    when each metronome begins. Raises ValueError for an unknown variant."""
    if variant not in PUPPETS:
      raise ValueError(f"variant is {variant!r}: expected one of {', '.join(PUPPETS)}")
    media = config.media
    grey = np.full((media.height, media.width, 3), 128, np.uint8)
    still = np.stack([grey if portrait is None else portrait for portrait in portraits])
    self._video = np.repeat(still[:, None], media.frames, axis=1)
    self._beat = BEATS.get(variant)
    self._starts = np.array([np.random.default_rng(seed).uniform() for seed in seeds])  # in periods
    self._config, self._word = config, tokenizer.encode(WORD)
    self._unit = 0

  def step(self, users: Sequence[MediaUnit], typed: Sequence[list[str]]) -> Answers:
    """One unit, whatever the users do."""
    media, layout = self._config.media, self._config.layout
    text = np.full((len(self._video), layout.text_slots), self._config.model.pad, np.int32)
    audio = np.zeros((len(self._video), media.samples), np.float32)
    if self._beat is not None:
      period, beat = self._beat
      time = (self._unit * media.samples + np.arange(media.samples)) / media.sample_rate
      into = time - period * self._starts[:, None]  # [B, samples]
      sounding = (into >= 0) & (into % period < beat)
      audio = np.where(sounding, 0.1 * sum(np.sin(2 * np.pi * hertz * time) for hertz in VOWEL), 0).astype(np.float32)
      begins = sounding.any(axis=1) & (into[:, 0] % period > beat)
      slots = min(layout.text_slots, len(self._word))
      text[begins, :slots] = self._word[:slots]
    self._unit += 1
    return Answers(audio, self._video, text)


def _stack(thought: ThinkerOutput, outputs: Sequence[UnitOutput | None]) -> Answers:
  units = [output for output in outputs if output is not None]
  if len(units) < len(outputs):
    raise CheckpointError("a session is no longer finite: the weights are damaged, or training diverged")
  return Answers(np.stack([unit.audio for unit in units]), np.stack([unit.video for unit in units]), thought.text)
