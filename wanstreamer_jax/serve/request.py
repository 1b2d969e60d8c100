"""What a session asks of the agent: who it is, its noise, and how it chooses words."""

import dataclasses
import math

from wanstreamer_jax.data.session import World
from wanstreamer_jax.errors import UserError

LARGEST_SEED = 2**31 - 1
HOTTEST, STRONGEST = 5.0, 20.0


@dataclasses.dataclass(frozen=True)
class Request:
  """`temperature` 0 is greedy; `pad_bias` is added to the logit of writing nothing (below 0 the agent says more)."""

  world: World = dataclasses.field(default_factory=World)
  seed: int = 0
  temperature: float = 0.0
  pad_bias: float = 0.0

  def __post_init__(self) -> None:
    """Raises UserError for a value out of range; values may come from a visitor, so any type is met."""
    if type(self.seed) is not int or not 0 <= self.seed <= LARGEST_SEED:
      raise UserError(f"seed is {self.seed!r}: expected a whole number from 0 to {LARGEST_SEED}")
    for name, low, high in (("temperature", 0.0, HOTTEST), ("pad_bias", -STRONGEST, STRONGEST)):
      value = getattr(self, name)
      number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
      if not number or not low <= value <= high:
        raise UserError(f"{name} is {value!r}: expected a number from {low:g} to {high:g}")
