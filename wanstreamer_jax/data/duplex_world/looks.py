"""How people of duplex_world look; some hair styles and walls are kept for evaluation."""

import colorsys
import dataclasses

import numpy as np

from wanstreamer_jax.data.duplex_world.things import Colour

HAIR_STYLES = ("short", "side", "long", "bob", "bun", "cap", "tail")
HELD_OUT_STYLES = ("curly", "bald")
CLOTHES = ("tee", "vneck", "shirt", "hoodie", "stripes", "roll")
SKINS = (
  (0.99, 0.85, 0.75), (0.96, 0.78, 0.66), (0.90, 0.70, 0.55), (0.80, 0.58, 0.42), (0.66, 0.45, 0.31),
  (0.52, 0.34, 0.23), (0.40, 0.25, 0.17),
)  # fmt: skip
HAIRS = (
  (0.11, 0.08, 0.07), (0.22, 0.13, 0.08), (0.38, 0.22, 0.12), (0.55, 0.35, 0.17), (0.84, 0.66, 0.36),
  (0.62, 0.26, 0.11), (0.70, 0.70, 0.72),
)  # fmt: skip
EYES = ((0.30, 0.18, 0.09), (0.20, 0.45, 0.70), (0.24, 0.50, 0.28), (0.42, 0.42, 0.44), (0.48, 0.30, 0.10))


@dataclasses.dataclass(frozen=True)
class Look:
  """The appearance of a person. Sizes are factors around 1."""

  skin: Colour
  hair: Colour
  style: str
  eyes: Colour
  shirt: Colour
  wall: Colour
  width: float = 1.0
  height: float = 1.0
  spacing: float = 1.0
  glasses: bool = False
  clothes: str = "tee"
  lips: Colour = (0.76, 0.33, 0.34)
  jaw: float = 0.3  # how much the face narrows to the chin
  brows: float = 1.0  # their thickness
  light: float = -1.0  # from the left (-1) or from the right (1)
  beard: float = 0.0  # its density, 0..1


def random_look(rng: np.random.Generator, held_out: bool = False) -> Look:
  """A person from the training range, or one of those kept for evaluation (other hair, other walls)."""
  tone = rng.uniform(0, len(SKINS) - 1.001)
  low, share = SKINS[int(tone)], tone % 1
  red, green, blue = (float((1 - share) * a + share * b) for a, b in zip(low, SKINS[int(tone) + 1]))
  skin = (red, green, blue)
  styles = HELD_OUT_STYLES if held_out else HAIR_STYLES
  hair, shirt, wall = HAIRS[rng.integers(len(HAIRS))], skin, skin
  while _near(skin, wall, 0.36):
    hue = rng.uniform(0.86, 1.0) if held_out else rng.uniform(0.0, 0.85)
    wall = colorsys.hsv_to_rgb(hue, rng.uniform(0.08, 0.34), rng.uniform(0.55, 0.92))
  while _near(shirt, skin, 0.5) or _near(shirt, wall, 0.4):
    shirt = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.15, 0.65), rng.uniform(0.2, 0.85))
  style = styles[rng.integers(len(styles))]
  dark = sum(skin) < 1.6
  lips = [(0.80, 0.30, 0.33), (0.72, 0.27, 0.32), (0.83, 0.40, 0.40), (0.66, 0.20, 0.28)][rng.integers(4)]
  if dark:
    lips = (0.58, 0.22, 0.24) if sum(skin) > 1.15 else (0.62, 0.27, 0.29)
  beard = rng.uniform(0.4, 0.75) if style in ("short", "side", "cap", "bald") and rng.random() < 0.3 else 0.0
  return Look(
    skin=skin, hair=hair, style=style, eyes=EYES[rng.integers(len(EYES))], shirt=shirt, wall=wall,
    width=rng.uniform(0.93, 1.07), height=rng.uniform(0.95, 1.05), spacing=rng.uniform(0.94, 1.07),
    glasses=bool(rng.random() < 0.18), clothes=CLOTHES[rng.integers(len(CLOTHES))], lips=lips,
    jaw=rng.uniform(0.2, 0.36), brows=rng.uniform(0.8, 1.3), light=-1.0 if rng.random() < 0.7 else 1.0,
    beard=float(beard),
  )  # fmt: skip


def _near(a: Colour, b: Colour, least: float) -> bool:
  """Whether two colours are hard to tell apart: by brightness and by tone."""
  difference = np.array(a) - np.array(b)
  brightness = abs(float(difference @ [0.3, 0.59, 0.11]))
  tone = float(np.abs(difference - difference.mean()).sum())
  return 1.6 * brightness + tone < least
