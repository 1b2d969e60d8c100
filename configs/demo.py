"""The size of the agent that people meet. Pictures of 128x128, the full world, half a minute of memory, 4 M parameters
in the Transformer, 19 tokens a unit in the history and 20 in what it performs.

A token holds 4x4 latents of 8 numbers, fewer than the Transformer is wide. With 8x8, faces would be blurred: the best
192 numbers for these 512 hold 92 % of the variance of faces that they were not fitted to, and the unit before 97 %.

    bash launch/gpu_train.sh --minutes 12.4 --seed 2000000        `configs/demo.py:gpu`, on one H200 with 16 cores
    bash launch/train.sh demo 800                                 `configs/demo.py`, on a CPU, in crops of 40 units

Expected time: about 4,200 updates of 16 crops of 190 units (30 s) in 12.4 minutes, on some two million units that are
rendered meanwhile. The shipped weights had three such runs, each from the one before, of 7.5, 12.4 and 12.4 minutes,
with earlier forms of this recipe, and 38 minutes of two CPU cores; docs/training.md, "On a lent GPU", says what each
part did. Expected result: docs/results.md. On a CPU, crops of 40 units come first, then longer ones, so that what was
shown half a minute ago is remembered (`--config.data.units=190 --config.data.batch=2 --config.train.noisy_units=38
--config.train.init=RUN --config.train.readout_warmup=0`); how long that takes was not measured. The window is 190 units
at work in either case.
"""

from configs import base, tiny
from configs.audio_codec import use_neural
from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError


def get_config(choice: str = "") -> Config:
  """choice: "gpu" for crops as long as the window, in bfloat16."""
  if choice not in ("", "gpu"):
    raise ConfigError(f"{choice!r}: expected configs/demo.py, or configs/demo.py:gpu")
  config = base.get_config()
  config.name = "demo"
  config.media.height = config.media.width = 128
  data = config.data
  data.world, data.voices, data.agent_voices = "full", "formant,flite", "flite"
  data.session_units = 375  # a minute
  layout = config.layout
  layout.patch, layout.commit_patch = 4, 2  # 4x4 noisy video tokens, 2x2 committed ones
  layout.window = 190  # 30 s
  layout.voice_units = 8  # the persona's voice, 1.3 s
  layout.text_slots, layout.user_text_slots = 2, 2
  use_neural(config, "voice")
  pictures = config.video_codec.native
  pictures.fold, pictures.channels, pictures.latent_dim = 4, (48, 96), 8  # 16x16 latents of 8 numbers
  pictures.encoder_blocks, pictures.decoder_blocks = (1,), (2, 1)
  perception = config.perception
  perception.audio_tokens, perception.audio_channels = 2, 128
  perception.video_patch, perception.video_merge, perception.video_channels = 16, 4, 96  # 2x2 tokens
  model = config.model
  model.width, model.layers, model.mlp = 192, 6, 512
  model.heads, model.kv_heads, model.head_dim = 3, 3, 64
  model.kv_cache = "int8"  # on two cores a unit takes 0.83 of the time
  config.flow.steps = 2  # in four short sessions, 4 gave as many right answers and faces that look the same
  train = config.train
  train.optimizer, train.learning_rate, train.noisy_units = "muon", 2e-3, 20
  config.augment.rename = 0.6  # else it learns hundreds of agents by heart and never reads who it is
  tiny.use_readouts(config)
  train.run = "runs/demo"
  if choice == "gpu":
    config.model.dtype = "bfloat16"
    data.units, data.batch, train.noisy_units = 190, 16, 95
    data.camera_off, data.agent_unseen = 0.64, 0.78  # of the sessions, of the others
    data.accents, data.asides = 0.6, 0.4
    data.emphasis = 2.5
    train.history_drift = 0.15
    train.video_weight = 3.0  # since a third of the crops has pictures of the agent
    train.video_motion = 2.0
    train.schedule, train.decay, train.ema, train.readout_warmup = "wsd", 0.35, 0.995, 0
  return config
