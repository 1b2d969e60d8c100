"""The size of the shipped weights and the ablations; a CPU can train it. It has 1.3M parameters and 20 tokens a unit.

    bash launch/train.sh tiny

Expected time and result, measured before the third world, readouts and attention in blocks: 640 000 units in an hour on
two cores, after three quarters of an hour for the world, codecs and latents; then turn-taking, the words of most
answers, colours of what is held up, a steady face and lip sync, but neither shapes nor numbers of things.
"""

from configs import base
from wanstreamer_jax.config import Config


def use_readouts(config: Config) -> None:
  """Perception and the Transformer learn from what the records know of the user, and rare words weigh more."""
  readouts, train = config.readouts, config.train
  readouts.state = readouts.seen = readouts.heard = 1.0
  readouts.weight = 0.2  # with 1, words come later and readouts no sooner
  train.readout_warmup = 200
  train.rare_words = 0.5


def get_config() -> Config:
  config = base.get_config()
  config.name = "tiny"
  config.layout.patch, config.layout.commit_patch = 4, 1  # 2x2 video tokens, noisy and committed
  config.layout.window = 40  # 6.4 s: what a training crop shows
  config.layout.text_slots, config.layout.user_text_slots = 2, 2
  config.perception.audio_tokens, config.perception.video_merge = 2, 4
  model = config.model
  model.width, model.layers, model.mlp = 128, 4, 352
  model.heads, model.kv_heads, model.head_dim = 4, 4, 32
  config.perception.audio_channels = config.perception.video_channels = 64
  train = config.train
  train.optimizer = "muon"
  train.steps, train.learning_rate, train.warmup, train.ema = 2000, 2.5e-3, 40, 0.99
  train.eval_every = 400
  use_readouts(config)
  config.train.run = "runs/tiny"
  return config
