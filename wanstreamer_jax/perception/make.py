"""Makes the encoders that a config names.

Hearing is `encoder(samples [K * S], state) -> (tokens [K, Ta, D], state)` with `initial_state()` and `delay`, in
seconds; seeing is `encoder(frames [frames, H, W, 3]) -> tokens [Tv, D]`. Both keep laws 1 and 2.
"""

from flax import nnx

from wanstreamer_jax.config import Config
from wanstreamer_jax.perception.audio_encoder import UserAudioEncoder
from wanstreamer_jax.perception.moonshine_encoder import MoonshineAudioEncoder
from wanstreamer_jax.perception.pocket_encoder import PocketAudioEncoder
from wanstreamer_jax.perception.siglip_encoder import SiglipVideoEncoder
from wanstreamer_jax.perception.video_encoder import UserVideoEncoder

Hearing = UserAudioEncoder | PocketAudioEncoder | MoonshineAudioEncoder
Seeing = UserVideoEncoder | SiglipVideoEncoder


def make_hearing(config: Config, *, rngs: nnx.Rngs) -> Hearing:
  """The audio encoder that `perception.audio` names."""
  if config.perception.audio == "pocket":
    return PocketAudioEncoder(config, rngs=rngs)
  if config.perception.audio == "moonshine":
    return MoonshineAudioEncoder(config, rngs=rngs)
  return UserAudioEncoder(config, rngs=rngs)


def make_seeing(config: Config, *, rngs: nnx.Rngs) -> Seeing:
  """The video encoder that `perception.video` names."""
  if config.perception.video == "siglip2":
    return SiglipVideoEncoder(config, rngs=rngs)
  return UserVideoEncoder(config, rngs=rngs)
