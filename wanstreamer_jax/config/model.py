"""The layout of a unit, the Transformer and flow matching."""

from typing import Literal

from wanstreamer_jax.config.section import Section, field, section, whole
from wanstreamer_jax.errors import ConfigError

LONGEST_WORLD_TEXT = 2048  # tokens; their rotary ids, 4 a token, are below 0, where the tables end at -8 192
POSITIONS_PER_UNIT = 4  # the rotary grid: a unit is 4 steps (40 ms each at 160 ms), and the rotary step is 1/4


@section
class LayoutConfig(Section):
  """Who is in a unit, in which order, and who sees whom (`units.py` turns this into blocks and coordinates)."""

  commit_delay: Literal[1, 2] = 1  # d: COMMIT_k holds the agent's latents of unit k - d; the paper has 1
  refeed: bool = False  # also show the previous unit's latents at the noisy patch size
  commit_patch: int = field(2, ge=1)  # the committed copy's patch side, in noisy patches
  patch: int = field(2, ge=1)  # the noisy copy's patch side, in video latents
  text_slots: int = field(3, ge=1)  # n, agent text tokens per unit
  user_text_slots: int = field(4, ge=0)
  window: int | None = field(62, ge=1)  # units of history including the current one; None is full history
  sinks: int = field(0, ge=0)  # first units of a session that stay pinned
  world_text: int = field(32, ge=0, le=LONGEST_WORLD_TEXT)  # capacity, in tokens, of the pinned persona/world text
  portrait: bool = True  # pinned first-frame latent of the agent's face
  voice_units: int = field(0, ge=0)  # pinned voice sample, in units
  user_video: bool = True
  committed_history: bool = True  # False: an ablation, the agent does not see its own past latents
  split_modalities: bool = False  # True: user audio and user video (and the agent's) are separate blocks
  token_causal_hear: bool = False  # True: every HEAR token is its own block
  rope: Literal["grid", "ordinal"] = "grid"  # (t, h, w) on the 40 ms grid, or all axes count tokens

  @property
  def needs_refeed(self) -> bool:
    """d = 2 hides y_{k-1} from the performer of unit k, since COMMIT_k holds y_{k-2}: REFEED is implied."""
    return self.committed_history and (self.refeed or self.commit_delay == 2)

  def check_rules(self) -> None:
    if self.refeed and not self.committed_history:
      raise ConfigError("layout.refeed shows the agent its past, but layout.committed_history is False")


@section
class ModelConfig(Section):
  """Decoder-only Transformer of Qwen geometry."""

  width: int = field(256, ge=1)
  layers: int = field(6, ge=1)
  heads: int = field(4, ge=1)
  kv_heads: int = field(2, ge=1)
  head_dim: int = field(64, ge=1, multiple_of=2)  # rotary embedding turns pairs
  mlp: int = field(704, ge=1)
  vocab: int = field(1024, ge=1)  # rows of the embedding
  tokens: int = field(0, ge=0)  # ids of the tokenizer; rows from there on only fill up and are never written; 0: all
  pad: int = field(0, ge=0)  # the token that ends a unit's text and fills its slots; the tokenizer's (`tokenizer_of`)
  qk_norm: bool = True
  qkv_bias: bool = False
  tied_embedding: bool = True
  rope_theta: float = field(10_000.0, ge=1)
  norm_eps: float = field(1e-6, gt=0)
  modulation: Literal["shared", "layer"] = "shared"  # flow time enters by one projection plus a bias per layer
  experts: Literal["shared", "latent"] = "shared"  # "latent": agent-latent tokens have their own MLPs
  remat: Literal["none", "full", "dots"] = "none"  # what the backward pass computes again
  dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters are float32
  attention: Literal["xla", "splash", "cudnn"] = "xla"  # in training; splash: TPU; cudnn: NVIDIA, bfloat16
  kv_cache: Literal["plain", "int8"] = "plain"  # int8 has a scale per token and head; whoever serves may choose

  def check_rules(self) -> None:
    whole(self.heads, self.kv_heads, "query heads per key head = heads / kv_heads")
    if self.tokens > self.vocab:
      raise ConfigError(f"model.tokens is {self.tokens}: expected at most model.vocab {self.vocab}")
    if self.pad >= self.token_ids:
      raise ConfigError(f"model.pad is {self.pad}: expected the id of a token, below {self.token_ids}")

  @property
  def token_ids(self) -> int:
    """How many token ids the model may write."""
    return self.tokens or self.vocab


@section
class FlowConfig(Section):
  """Flow matching: z_tau = (1 - tau) z0 + tau eps."""

  steps: int = field(4, ge=1)  # of the solver; a request may ask for fewer
  shift: float = field(2.0, gt=0)  # of the sampling schedule, towards noise
  guidance: float | None = field(None, ge=0)  # a scale compiles the unconditional branch in; a request may set its own
  train_shift: float = field(3.0, gt=0)  # towards noise: what the past implies is learned where little else is known
  train_mean: float = 0.0  # of the logit-normal law of tau
  train_std: float = field(1.0, gt=0)
  # Deviation of latents given the past, for the velocity heads (flow.py), where the records state none per channel.
  video_std: float = field(0.2, gt=0)
  audio_std: float = field(0.6, gt=0)
  # The noisy tokens see the previous unit's latents at their place, and the video head predicts what changes.
  carry: bool = False
  # They see the portrait's latents at their place, and the head adds those, weighed, so that a face does not drift away
  # from it. Where there is no previous unit, the portrait is carried. Needs `layout.portrait`.
  anchor: bool = False
