"""Stage 0: clips are drawn as promised, and a finished codec run is read standardised by whoever names it."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from tests.helpers.fake_sessions import FakeSource
from wanstreamer_jax.codecs.make import make_video_codec
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.mixture import Mixture
from wanstreamer_jax.data.records import audio_to_float, video_to_float
from wanstreamer_jax.errors import ConfigError, DataError
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.train.codec_losses import calibration_statistics
from wanstreamer_jax.train.codecs import ClipLoader, codec_of, standardised_over
from wanstreamer_jax.train.loop import train
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import init_state
from wanstreamer_jax.weights.agent import load_codecs
from wanstreamer_jax.weights.store import export_weights, read_weights

UNITS = 6


@dataclasses.dataclass(frozen=True)
class OneSided(FakeSource):
  """Sessions in which the sides of `mute` have no sound."""

  mute: tuple[str, ...] = ()

  def sessions(self, item):
    for session in super().sessions(item):
      sides = {name: dataclasses.replace(getattr(session, name), audio=None) for name in self.mute}
      yield dataclasses.replace(session, **sides)


def config_of(stage: str, run="", data="", **overrides):
  settings = {"train.stage": stage, "train.run": run, "data.path": data, "train.steps": 3, "train.eval_every": 3}
  settings |= {"data.units": 3, "data.batch": 2, "train.checkpoint_every": 3, "train.mesh": "data=1"} | overrides
  return load_config("configs/nano.py", [f"{name}={value}" for name, value in settings.items()])


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  config, folder = config_of("audio_codec"), tmp_path_factory.mktemp("media")
  for name, mute in (("both", ()), ("no_agent", ("agent",)), ("nobody", ("agent", "user"))):
    make(config, OneSided(config, 4, UNITS, mute=mute), folder / name, progress=False)
  return folder


@pytest.fixture(scope="module")
def runs(media, tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  for stage in ("audio_codec", "video_codec"):
    train(get_stage(stage), config_of(stage, folder / stage, media / "both"))
  return folder


def test_a_finished_run_is_read_standardised(runs, media):
  config = config_of("duplex")
  codecs = load_codecs(config, runs / "audio_codec", runs / "video_codec")
  for codec, medium, to_float in zip(codecs, ("audio", "video"), (audio_to_float, video_to_float)):
    loader = ClipLoader(Mixture(str(media / "both")), config_of(f"{medium}_codec", data=media / "both"), medium)
    clips = np.concatenate([to_float(loader.batch_at(10**9 + i)[medium]) for i in range(16)])
    means = np.asarray(jax.jit(calibration_statistics)(codec, clips)).reshape(-1, codec.cfg.latent_dim)
    np.testing.assert_allclose(means.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(means.std(0), 1, atol=1e-2)
    assert list((runs / f"{medium}_codec" / "pictures").glob("*.png"))


def test_a_decoder_that_learns_alone_leaves_the_latents(runs, media, tmp_path):
  """`train.groups=encoder=0` trains no encoder (test_optim), and what such a run writes is not standardised anew."""
  config = config_of("audio_codec", tmp_path, media / "both", **{"train.groups": "encoder=0"})
  stage, codec = get_stage("audio_codec"), load_codecs(config, runs / "audio_codec", runs / "video_codec")[0]
  values = {name: leaf + ("standard" in name) for name, leaf in named_leaves(codec).items()}
  stage.finish(fill_leaves(codec, values), config, tmp_path)
  found = named_leaves(load_codecs(config, tmp_path, runs / "video_codec")[0])
  for name, leaf in values.items():
    np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def test_clips_are_a_pure_function_of_the_step(media):
  loader = ClipLoader(Mixture(str(media / "both")), config_of("video_codec"), "video")
  first = loader.batch_at(5)["video"]
  assert first.shape == (2, 1 + 3 * 4, 32, 32, 3)
  np.testing.assert_array_equal(first[:, 0], first[:, 1])  # a still first
  np.testing.assert_array_equal(first, loader.batch_at(5)["video"])
  assert not np.array_equal(first, loader.batch_at(6)["video"])


def test_a_side_without_sound_is_left_out(media):
  mixture = Mixture(str(media / "no_agent"))
  folder = mixture.folders[0]
  sound = np.concatenate([folder.read_units(i)["user_audio"].reshape(-1) for i in range(folder.sessions)])
  loader = ClipLoader(mixture, config_of("audio_codec"), "audio")
  for step in range(4):
    for clip in loader.batch_at(step)["audio"]:
      assert clip[:50].tobytes() in sound.tobytes()


def test_nobody_sounds(media):
  with pytest.raises(DataError, match="no audio on either side"):
    ClipLoader(Mixture(str(media / "nobody")), config_of("audio_codec"), "audio").batch_at(0)


def test_clips_longer_than_sessions_and_too_short_for_the_kernel(media):
  with pytest.raises(DataError, match=r"sessions of 6 units, but data\.units is 7"):
    ClipLoader(Mixture(str(media / "both")), config_of("audio_codec", **{"data.units": 7}), "audio")
  with pytest.raises(ConfigError, match="never fill that memory; set data.units to at least 9"):
    config_of("video_codec", **{"video_codec.native.time_kernel": 4})


NEURAL = {
  "audio_codec.kind": "neural", "audio_codec.neural.channels": 8, "audio_codec.neural.latent_channels": 8,
  "audio_codec.neural.latent_dim": 4, "audio_codec.neural.encoder_blocks": "(1,0)",
  "audio_codec.neural.decoder_blocks": "(0,1)",
}  # fmt: skip
ADVERSARIAL = NEURAL | {
  "train.adversarial_weight": 1.0, "train.critic_channels": 2, "train.critic_windows": "(256,)",
  "train.critic_periods": "(2,)", "train.schedule": "constant", "train.checkpoint_every": 2, "train.eval_every": 0,
}  # fmt: skip


def adversarial(run="", data="", **overrides):
  return config_of("audio_codec", run, data, **ADVERSARIAL | overrides)


def test_the_critic_stays_behind_and_a_codec_alone_gets_a_new_one(media, tmp_path):
  """What is exported is the codec alone; `train.init` reads it, what an adversarial run saved, and an agent's codec."""
  stage, config = get_stage("audio_codec"), adversarial(data=media / "both")
  params = init_state(stage, config).params
  assert {name.partition(".")[0] for name in named_leaves(params)} == {"codec", "critic"}
  alone = codec_of(params)
  fresh = init_state(stage, config_of("audio_codec", **NEURAL)).params  # a critic changes nothing of the codec's start
  jax.tree.map(np.testing.assert_array_equal, named_leaves(alone), named_leaves(fresh))

  export_weights(alone, config, tmp_path / "codec", "f32")
  export_weights(params, config, tmp_path / "both", "f32")  # as a checkpoint holds it
  abstract = jax.eval_shape(lambda: init_state(stage, config).params)
  joined, whole = (stage.load(tmp_path / name, abstract, config) for name in ("codec", "both"))
  jax.tree.map(np.testing.assert_array_equal, named_leaves(joined.codec), named_leaves(alone))
  assert named_leaves(joined).keys() == named_leaves(params).keys()
  jax.tree.map(np.testing.assert_array_equal, named_leaves(whole), named_leaves(params))
  read = stage.load(tmp_path / "both", abstract.codec, config)
  jax.tree.map(np.testing.assert_array_equal, named_leaves(read), named_leaves(alone))


def test_clips_too_short_for_the_critic_are_refused():
  with pytest.raises(ConfigError, match="clips of 3360 samples are shorter than the 4680 .*; set data.units higher"):
    adversarial(**{"data.units": 1, "train.critic_periods": "(2,13)"})


def test_an_imported_codec_is_measured_over_sessions_of_any_length(media):
  """The config asks for longer clips than there are; pictures are encoded one short clip at a time."""
  config = config_of("duplex", **{"data.units": 40})
  codec = make_video_codec(config.video_codec, rngs=nnx.Rngs(0))
  found = standardised_over(codec, media / "both", config, "video")
  again = standardised_over(found, media / "both", config, "video")
  np.testing.assert_allclose(again.standard.latent_mean[...], found.standard.latent_mean[...], atol=1e-4)
  np.testing.assert_allclose(again.standard.latent_std[...], found.standard.latent_std[...], rtol=1e-3)
  assert not np.allclose(found.standard.latent_std[...], 1)


@pytest.mark.slow
def test_an_adversarial_run_resumes_bit_for_bit(media, tmp_path):
  """Law 7 for codec, critic, moments and averages; both learn, and the finished run holds a standardised codec."""
  stage = get_stage("audio_codec")
  config = lambda run, steps: adversarial(tmp_path / run, media / "both", **{"train.steps": steps})
  whole = train(stage, config("whole", 3))
  train(stage, config("cut", 2))
  resumed = train(stage, config("cut", 3))
  jax.tree.map(np.testing.assert_array_equal, named_leaves(whole), named_leaves(resumed))
  now, first = (named_leaves(state.params) for state in (whole, init_state(stage, config("whole", 3))))
  still = {name for name in now if np.array_equal(now[name], first[name])}
  assert all(
    "standard" in name or name.endswith("judge.b") for name in still
  )  # a judge's bias moves outside the margin
  _, exported = read_weights(tmp_path / "whole")
  assert {f"codec.{name}" for name in exported} == {name for name in now if name.startswith("codec.")}
  assert exported["standard.latent_std"].min() > 0


@pytest.mark.slow
def test_a_video_codec_trains_against_its_critic_and_is_exported_alone(media, tmp_path):
  options = {
    "train.adversarial_weight": 0.5, "train.structure_weight": 0.5, "train.critic_channels": 2, "train.steps": 2,
    "train.schedule": "constant", "train.eval_every": 2,
  }  # fmt: skip
  stage, config = get_stage("video_codec"), config_of("video_codec", tmp_path / "run", media / "both", **options)
  state = train(stage, config)
  now, first = (named_leaves(params) for params in (state.params, init_state(stage, config).params))
  assert all(np.any(now[name] != first[name]) for name in now if name.startswith("critic.") and name.endswith(".w"))
  _, exported = read_weights(tmp_path / "run")
  assert {f"codec.{name}" for name in exported} == {name for name in now if name.startswith("codec.")}
