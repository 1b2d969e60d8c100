"""The voice of a speaker of duplex_world, as numbers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Voice:
  """A voice. `pitch` in Hz; `size` scales the formants (1 is an adult man, 1.17 a woman, 1.3 a child)."""

  name: str
  pitch: float = 120.0
  size: float = 1.0
  rate: float = 1.0
  breath: float = 0.05
  tilt: float = 0.5  # 0 bright .. 1 dull
  open_quotient: float = 0.6
  liveliness: float = 1.0  # depth of the intonation
  engine: str = "formant"  # or "flite", "espeak": these use pitch, rate, liveliness and `variant`
  accent: int = 0  # of the formant voice: every number but 0 has vowels and lengths of its own
  variant: str = ""  # a key of `flite.SPEAKERS`, for which `size` is a factor, or of `espeak.PITCHES`
