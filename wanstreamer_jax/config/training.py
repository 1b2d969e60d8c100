"""Data, augmentation, optimisation and evaluation."""

import math
import re
from typing import Literal

from wanstreamer_jax.config.section import Section, field, section
from wanstreamer_jax.errors import ConfigError

VOICE_ENGINES = ("formant", "flite", "espeak")


@section
class DataConfig(Section):
  """Where records come from. `path` holds a records folder made by `wanstreamer data make` (or `encode`), or several
  that are mixed by weights: "world-latents:3,calls-latents:1" (data/mixture.py). "world://SEED" renders duplex_world
  while it trains (data/rendered.py)."""

  path: str = "data_cache/world"
  units: int = field(40, ge=1)  # length of a training crop
  heldout: str = ""  # records of held-out sessions, for what is watched during training
  world: Literal["small", "full"] = "small"  # vocabulary and cast of duplex_world
  session_units: int = field(125, ge=1)  # length of a stored session (20 s)
  min_session_units: int = field(12, ge=1)  # what is left at a recording's end is a session if it is as long
  batch: int = field(8, ge=1)  # sessions per step, over all devices
  # The sessions are divided into this many equal shares, and the rows of a batch among them, so that a host reads (and
  # fetches from an object store) the shares of its rows only. 1: every row may be any session.
  shares: int = field(1, ge=1)
  seed: int = field(0, ge=0)
  shuffle: bool = True
  # Synthesisers of duplex_world's voices, each as likely: "formant", "flite" (a program), "espeak" (an extra).
  voices: str = "formant"
  agent_voices: str = ""  # the same of its agents alone, of which flite is understood best; empty: as `voices`
  # Of duplex_world's training sessions, the share whose user's voice is far from the usual (`voices.far_voice`); of the
  # user's sentences in which not every word counts, the share with words that mean nothing (`asides.py`).
  accents: float = field(0.0, ge=0, le=1)
  asides: float = field(0.0, ge=0, le=1)
  # Share of duplex_world's training sessions in which both cameras are off: they are made several times faster, and
  # teach what is heard and read alone (names, words to repeat, sums). And of the others, the share in which the agent's
  # camera is off alone and the user's shows every second picture: made three times faster than with both, they teach
  # what is asked of what is seen. A run that renders its sessions itself draws as many crops from each of these kinds,
  # whatever their share.
  camera_off: float = field(0.0, ge=0, le=1)
  agent_unseen: float = field(0.0, ge=0, le=1)
  # How much oftener than in evaluation the users of training ask what joins a word that they say with what is seen
  # or known (yes or no, which one, sums), or is to be said again, and cough while it is answered: what takes most
  # examples.
  emphasis: float = field(1.0, gt=0)
  by_speaker: bool = False  # speakers take turns, however many sessions each has
  own_portrait: bool = True  # a recording without a portrait gives a frame of its agent
  own_voice: bool = True  # and a stretch of its agent's voice, where the layout has a voice sample
  # How `data make` and `data encode` store pictures (data/video_pieces.py). Raw ones are 0.77 MB a unit at 192x336.
  user_video: Literal["raw", "h264"] = "raw"
  agent_video: Literal["raw", "h264"] = "raw"  # of media records; codecs are trained on what is left of them
  user_video_crf: int = field(20, ge=0, le=51)  # x264's quality: lower is better; 18 to 20 is 6 to 13 kB a unit there
  agent_video_crf: int = field(14, ge=0, le=51)
  video_piece: int = field(4, ge=1, le=64)  # units that are compressed together
  text_lead: int = field(1, ge=0)  # units between the writing and the sounding of a word
  # Recordings draw one of these each, and the agent is told which: by its records, and text_lead when it is served.
  text_leads: tuple[int, ...] | None = field(None, ge=0)
  tokenizer: str = "default"  # the shipped one, or the path of a tokenizer.json
  tokenizer_sha256: str = ""  # of that file; any other is refused. Empty: not checked; training fills it in

  def check_rules(self) -> None:
    for name in ("voices", "agent_voices"):
      text = getattr(self, name)
      engines = [engine.strip() for engine in text.split(",")]
      known = len(set(engines)) == len(engines) and set(engines) <= set(VOICE_ENGINES)
      if not known and text != "mixed" and (text or name == "voices"):
        raise ConfigError(
          f"data.{name} is {text!r}: expected engines once each, with commas, of {', '.join(VOICE_ENGINES)}, as in "
          "formant,flite"
        )
    if self.text_leads is not None and self.text_lead not in self.text_leads:
      raise ConfigError(
        f"data.text_lead is {self.text_lead}, which the agent is told when it is served, but data.text_leads is "
        f"{self.text_leads}: add it there"
      )


@section
class AugmentConfig(Section):
  """What training changes in the user's stream (data/augment.py), so that other microphones, rooms and cameras are
  nothing new, and in who the agent is. A number alone is the probability that a crop has the effect; pairs are what is
  drawn, from and to."""

  on: bool = True
  gain: float = field(0.8, ge=0, le=1)  # another level of the microphone
  gain_db: tuple[float, ...] = field((-24.0, 6.0), ge=-96, le=48)
  noise: float = field(0.4, ge=0, le=1)  # white or pink
  noise_snr_db: tuple[float, ...] = field((5.0, 40.0), ge=-20, le=96)  # speech above noise
  room: float = field(0.3, ge=0, le=1)
  room_seconds: tuple[float, ...] = field((0.1, 0.6), gt=0, le=5)  # until the sound has decayed by 60 dB
  codec: float = field(0.15, ge=0, le=1)  # a telephone, or no high frequencies
  codec_hz: tuple[float, ...] = field((3400.0, 8000.0), gt=0)  # what is above is lost
  loss: float = field(0.1, ge=0, le=1)  # packets of 20 ms, in bursts
  loss_share: tuple[float, ...] = field((0.01, 0.1), ge=0, le=1)
  light: float = field(0.3, ge=0, le=1)  # exposure, contrast, colour
  light_gain: tuple[float, ...] = field((0.6, 1.4), gt=0)
  blur: float = field(0.15, ge=0, le=1)
  blur_factor: tuple[float, ...] = field((1.5, 3.0), ge=1)  # as sharp as pictures that are this many times smaller
  frame_drop: float = field(0.15, ge=0, le=1)  # the frame before is shown again
  frame_drop_share: tuple[float, ...] = field((0.1, 0.6), ge=0, lt=1)
  # Another name, home and likes in WORLD and in the agent's words (data/duplex_world/renaming.py). For duplex_world.
  rename: float = field(0.0, ge=0, le=1)

  def check_rules(self) -> None:
    for name, pair in self.fields().items():
      if isinstance(pair, tuple) and (len(pair) != 2 or pair[0] > pair[1]):
        raise ConfigError(f"augment.{name} is {pair}: expected two numbers, the lower one first")


@section
class TrainConfig(Section):
  """Optimisation, losses, logging. One loop reads this for every stage."""

  stage: Literal["duplex", "audio_codec", "video_codec"] = "duplex"
  steps: int = field(1000, ge=1)
  # The run ends, and its schedule too, after so many minutes, or after `steps` if that is earlier; 0: after `steps`.
  minutes: float = field(0.0, ge=0)
  learning_rate: float = field(1e-3, ge=0)
  optimizer: Literal["adamw", "muon"] = "adamw"  # "muon" is for matrices of layers and perception, AdamW for the rest
  schedule: Literal["cosine", "wsd", "constant"] = "cosine"  # after the warm-up; "wsd" is stable, then decays
  warmup: int = field(50, ge=0)  # steps in which the rate rises linearly
  decay: float = field(0.2, ge=0, le=1)  # "wsd": share of the steps in the final decay
  final_lr_scale: float = field(0.05, ge=0)  # the rate at the end, relative to learning_rate
  weight_decay: float = field(0.01, ge=0)
  beta1: float = field(0.9, ge=0, lt=1)
  beta2: float = field(0.98, ge=0, lt=1)
  groups: str = ""  # rates relative to learning_rate, e.g. "language=0.1,perception=0" (train/optim.py); 0 is frozen
  accumulate: int = field(1, ge=1)  # parts of a batch that are computed one after the other, for one update
  clip: float = field(1.0, gt=0)  # the largest norm of a gradient
  spike: float = field(10.0, ge=0)  # skips updates with this many times the usual gradient norm; 0 skips none
  ema: float = field(0.99, ge=0, lt=1)  # moving average of parameters over about the last 1/(1-ema) updates; 0: none
  z_loss: float = field(0.0, ge=0)  # weight of log(Z)^2 of the text logits; PaLM (arXiv 2204.02311) has 1e-4
  text_weight: float = field(1.0, ge=0)
  pad_weight: float = field(1.0, ge=0)
  # Which word the agent writes where it writes one: the weight of that part of the text's loss, beside the other part,
  # whether it writes one. Of two words the rarer weighs 1 / frequency^rare_words more, as the records count.
  word_weight: float = field(1.0, ge=0)
  rare_words: float = field(0.0, ge=0, le=1)
  audio_weight: float = field(1.0, ge=0)
  video_weight: float = field(1.0, ge=0)
  # Of two places of a picture, the one that changes more from unit to unit weighs more: 1 + this * its change, relative
  # to the crop's mean; the mean weight stays 1. Lips are a few latents of hundreds.
  video_motion: float = field(0.0, ge=0)
  # Committed latents get noise U(0, this) of their own deviation, and say so.
  history_noise: float = field(0.3, ge=0, lt=1)
  # A crop's committed pictures have another gain and offset of each channel, of deviation U(0, this), like pictures
  # that have drifted away; half of a gain's variance is common to all channels. The portrait (`flow.anchor`) says
  # what is right, so crops that are shown none have no drift.
  history_drift: float = field(0.0, ge=0, lt=1)
  history_drop: float = field(0.15, ge=0, le=1)  # probability that a unit's committed audio is dropped
  condition_drop: float = field(0.05, ge=0, le=1)  # probability that a crop is shown nothing of its user and its world
  stream_drop: float = field(0.1, ge=0, le=1)  # the same of the user's audio, video and the portrait, each by itself
  noisy_units: int = field(0, ge=0)  # units of a crop that have a noisy copy, evenly spread at random; 0 is all
  # Half of the crops start anywhere in the first hour. False: sessions that fit the window never evict anything in
  # training, and splash attention needs half as wide queries and keys.
  shift_clock: bool = True
  readout_warmup: int = field(0, ge=0)  # first steps: they train perception alone, by readouts.seen and readouts.heard
  kl_weight: float = field(1e-4, ge=0)  # codecs: per latent number
  latent_noise: float = field(0.1, ge=0)  # codecs: decoded latents get noise of U(0, this) of their own deviation
  stft_weight: float = field(1.0, ge=0)  # audio codec: multi-resolution STFT
  mel_weight: float = field(1.0, ge=0)  # audio codec: log-mel distance
  pitch_weight: float = field(1.0, ge=0)  # audio codec: octaves of pitch, on voiced frames
  adversarial_weight: float = field(0.0, ge=0)  # codecs: deceiving discriminators (train/critic.py); 0: none
  feature_weight: float = field(2.0, ge=0)  # codecs: distance of the discriminators' activations, beside it
  critic_channels: int = field(16, ge=1)
  critic_windows: tuple[int, ...] = field((512, 1024, 2048), ge=64, multiple_of=64)  # samples, of spectra
  critic_periods: tuple[int, ...] = field((2, 3, 5, 7, 11), ge=1)  # samples, of the folded waveform
  edge_weight: float = field(1.0, ge=0)  # video codec: differences in space and time
  structure_weight: float = field(0.0, ge=0)  # video codec: 1 - SSIM at several scales; 0: none
  motion_weight: float = field(10.0, ge=0)  # video codec: extra weight of a pixel per unit that it changes in the clip
  mesh: str = ""  # e.g. "data=2,fsdp=4"; empty is all devices on `data`
  seed: int = field(0, ge=0)
  log_every: int = field(10, ge=0)
  eval_every: int = field(200, ge=0)
  checkpoint_every: int = field(200, ge=0)
  keep: int = field(2, ge=1)  # the last N checkpoints are kept
  keep_every: int = field(0, ge=0)  # a checkpoint every N steps is kept for good; 0: none
  run: str = "runs/default"
  init: str = ""  # a checkpoint to start from (weights only); "demo": the shipped ones
  language_model: str = ""  # a folder of Qwen2, Qwen2.5 or Qwen3 to start from; `config from-hf` writes its geometry
  hearing: str = ""  # a folder with the pretrained encoder that `perception.audio` names, to start from
  seeing: str = ""  # and with the one that `perception.video` names
  codecs: str = ""  # "AUDIO_RUN,VIDEO_RUN" or an exported agent: the codecs for the rollouts watched in stage "duplex"

  @property
  def first_steps(self) -> int:
    """Updates of the stage's first phase, after which the learning rate begins anew: at most a quarter of all, and 0
    in stages without one."""
    return min(self.readout_warmup, self.steps // 4) if self.stage == "duplex" else 0

  @property
  def weighs_words(self) -> bool:
    """Whether the words that the agent writes weigh differently."""
    return self.word_weight != 1 or self.rare_words > 0

  def check_rules(self) -> None:
    group_rates(self.groups)
    if self.init and self.language_model:
      raise ConfigError(
        f"train.init is {self.init!r} and train.language_model {self.language_model!r}: weights come from one of them; "
        "leave the other empty"
      )
    if self.init and (self.hearing or self.seeing):
      raise ConfigError(
        f"train.init is {self.init!r}, which has ears and eyes of its own: leave train.hearing and train.seeing empty"
      )


@section
class ReadoutsConfig(Section):
  """Auxiliary heads of the duplex stage, in training only: they read out of hidden states what the records know of the
  user (data/labels.py). A number alone is the weight of each of a head's cross-entropies; 0: there is no such head."""

  weight: float = field(1.0, ge=0)  # of all of them together; 0: there is no head
  state: float = field(0.0, ge=0)  # what is held, gestures, and the act that is complete, from STATE's top hidden state
  seen: float = field(0.0, ge=0)  # what is held and gestures, from the user's video tokens before the Transformer
  heard: float = field(0.0, ge=0)  # the word that has just ended, from the user's audio tokens before the Transformer
  balance: float = field(0.5, ge=0, le=1)  # a class weighs 1 / frequency^this, as the records count them
  # How many classes each kind of label has; heads of another size do not fit.
  shapes: int = field(43, ge=2)
  colours: int = field(13, ge=2)
  counts: int = field(11, ge=2)
  places: int = field(4, ge=2)
  gestures: int = field(7, ge=2)
  acts: int = field(36, ge=2)

  def of(self, head: str) -> float:
    """The weight of a head's cross-entropies in the loss: "state", "seen" or "heard"."""
    return self.weight * getattr(self, head)

  @property
  def sizes(self) -> dict[str, int]:
    """{kind of label: classes} of what can be seen, in order."""
    held = {"shape": self.shapes, "colour": self.colours, "count": self.counts, "place": self.places}
    return held | {f"{name}2": size for name, size in held.items()} | {"gesture": self.gestures}


@section
class EvalConfig(Section):
  """Closed-loop evaluation against the reacting user simulator."""

  sessions: int = field(100, ge=1)
  seconds: float = field(60.0, gt=0)
  batch: int = field(10, ge=1)
  baseline_sessions: int = field(30, ge=1)  # for baselines, ground truth, teacher-forced errors and codecs
  seed: int = field(1_000_000, ge=0)


def group_rates(groups: str) -> list[tuple[str, float]]:
  """[("language", 0.1), ...] of `train.groups`. Raises ConfigError."""
  entries = []
  for entry in filter(None, (piece.strip() for piece in groups.split(","))):
    name, _, text = (piece.strip() for piece in entry.partition("="))
    try:
      re.compile(name)
      rate = float(text)
    except (ValueError, re.error):
      rate = -1.0
    if not name or not 0 <= rate < math.inf:
      raise ConfigError(f"train.groups: {entry!r} is not NAME=RATE with a rate of at least 0, as in language=0.1")
    entries.append((name, rate))
  return entries
