"""The comparison of codecs: a perfect but late one has distance 0, silence has the most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.late_codec import Late
from wanstreamer_jax.bench import codec as bench
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.sounds import KINDS, Speech
from wanstreamer_jax.errors import CheckpointError
from wanstreamer_jax.weights.store import export_weights


def small():
  config = Config()
  config.media.sample_rate = config.audio_codec.neural.sample_rate = 8000
  config.audio_codec.kind, config.perception.mel_hop = "neural", 80
  neural = config.audio_codec.neural
  neural.channels = neural.latent_channels = neural.latent_dim = 4
  neural.encoder_blocks, neural.decoder_blocks = (0, 0), (0, 0)
  return config.freeze()


def test_a_perfect_codec_that_is_late_has_no_distance():
  config = small()
  sounds = bench.judged(config, 1.0, 1, Speech())
  trials = [bench.silence(config, sounds), bench.try_codec("late", config, Late(config.audio_codec.neural), sounds)]
  assert list(trials[1].distances) == list(KINDS)
  assert all(distance < 1e-5 for distance in trials[1].distances.values())
  assert all(distance > 0.5 for distance in trials[0].distances.values())
  lines = bench.table(trials)
  assert lines[0].startswith("| codec | voice | two voices | chord | noise | room |")
  assert "late (neural, 25 Hz x 4" in lines[3]
  assert "20 ms late" in lines[3]


def test_a_trained_codec_is_read_from_its_folder(tmp_path, capsys):
  config = small()
  codec = bench.make_audio_codec(config.audio_codec, rngs=nnx.Rngs(0))
  export_weights(codec, config, tmp_path / "codec", "f32")
  found, read = bench.read_codec(str(tmp_path / "codec"))
  assert found.audio_codec == config.audio_codec
  jax.tree.map(np.testing.assert_array_equal, codec, read)
  bench.bench_codec_command([str(tmp_path / "codec")], 1.0, 1, "", False)
  assert "| silence (no sound at all) |" in capsys.readouterr().out
  export_weights({"encoder": jnp.zeros(3)}, config, tmp_path / "other", "f32")
  with pytest.raises(CheckpointError, match="other has no audio codec"):
    bench.read_codec(str(tmp_path / "other"))
