"""What a session asks of the agent: its world, its seed and its sampling options."""

import dataclasses
import math

from wanstreamer_jax.data.session import World
from wanstreamer_jax.errors import UserError

LARGEST_SEED = 2**31 - 1
NUMBERS = {"temperature": (0.0, 5.0), "pad_bias": (-20.0, 20.0), "guidance": (0.0, 20.0)}  # smallest and largest


@dataclasses.dataclass(frozen=True)
class Request:
  """temperature: of text tokens, 0 is greedy; pad_bias: added to the logit of writing nothing (below 0 the agent says
  more); steps: of the solver, no more than were compiled; guidance: its scale, 1 is none. None is what the config says.
  """

  world: World = dataclasses.field(default_factory=World)
  seed: int = 0
  temperature: float = 0.0
  pad_bias: float = 0.0
  steps: int | None = None
  guidance: float | None = None

  def __post_init__(self) -> None:
    """Raises UserError for a value out of range; values may come from a client, so they may have any type."""
    if type(self.seed) is not int or not 0 <= self.seed <= LARGEST_SEED:
      raise UserError(f"seed is {self.seed!r}: expected a whole number from 0 to {LARGEST_SEED}")
    if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
      raise UserError(f"steps is {self.steps!r}: expected a whole number of at least 1")
    for name, (low, high) in NUMBERS.items():
      value = getattr(self, name)
      if value is None and name == "guidance":
        continue
      number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
      if not number or not low <= value <= high:
        raise UserError(f"{name} is {value!r}: expected a number from {low:g} to {high:g}")
