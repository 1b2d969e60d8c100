"""The user of duplex_world as closed-loop evaluation wants it: it tells afterwards what called for a reaction."""

from wanstreamer_jax.data.duplex_world.reacting import ReactingUser
from wanstreamer_jax.eval.conversation import Script
from wanstreamer_jax.eval.events import script_of


class SimulatedUser(ReactingUser):
  """Implements `closed_loop.User`."""

  def script(self, units: int) -> Script:
    """What called for a reaction in `units` units."""
    return script_of(self.cast.stage.events, self.cast.user.speech(), units * self.config.unit_ms / 1000)
