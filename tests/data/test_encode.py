"""Latent records: the codecs' own values, continuous over units and behind the portrait, and what they replace."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.fake_sessions import FakeSource, fake_session, small_config
from tests.helpers.late_codec import Late
from wanstreamer_jax.codecs.native_video_codec import NativeVideoCodec
from wanstreamer_jax.codecs.source_filter_codec import SourceFilterCodec
from wanstreamer_jax.config import NeuralCodecConfig
from wanstreamer_jax.data import encode as encode_module
from wanstreamer_jax.data import records
from wanstreamer_jax.data.encode import encode, encode_session, world_text
from wanstreamer_jax.data.loader import PREVIOUS, WITH_PAST, CropLoader
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.session import World
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import ConfigError, DataError

SESSIONS, UNITS = 34, 6  # twelve shards, the last smaller than a batch


@dataclasses.dataclass(frozen=True)
class SomePortraits(FakeSource):
  """Every other session has no portrait; all have a voice."""

  def sessions(self, item):
    for session in super().sessions(item):
      world = dataclasses.replace(session.world, voice=session.agent.audio[:700])
      yield dataclasses.replace(session, world=dataclasses.replace(world, portrait=None) if item % 2 else world)


def tiny_config():
  config = small_config(units=3, batch=4)
  (
    config.audio_codec.source_filter.strides,
    config.audio_codec.source_filter.channels,
    config.audio_codec.source_filter.max_channels,
  ) = (24, 4), 8, 8
  config.audio_codec.source_filter.cepstrum, config.audio_codec.source_filter.latent_dim = 8, 6
  config.video_codec.native.channels, config.video_codec.native.latent_dim = (4, 4, 4), 5
  config.layout.voice_units = 4
  return config


@pytest.fixture(scope="module")
def codecs():
  config = tiny_config()
  rng = np.random.default_rng(0)

  def codecs():
    return SourceFilterCodec(config.audio_codec.source_filter, rngs=nnx.Rngs(0)), NativeVideoCodec(
      config.video_codec.native, rngs=nnx.Rngs(1)
    )

  def fill(path, leaf):  # by NumPy: compiling the initialisers takes longer than all tests here
    low = 0.5 if "latent_std" in jax.tree_util.keystr(path) else -1.0
    return jnp.asarray(rng.uniform(low, 1.0, leaf.shape), leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(codecs))


@jax.jit
def in_one_go(audio_codec, video_codec, frames, samples, portrait, has_portrait, voice):
  """A session's latents, each from one call over the whole of it."""
  first, behind = video_codec.encode_first(portrait[None])
  primed = video_codec.primed_encoder_state(*portrait.shape[:2])
  state = jax.tree.map(lambda a, b: jnp.where(has_portrait, a, b), behind, primed)
  video = video_codec.encode(frames, state)[0].mean
  audio, said = (audio_codec.encode(sound, audio_codec.encoder_state())[0].mean for sound in (samples, voice))
  return {"video": video, "audio": audio, "portrait": first.mean[0], "voice": said}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, codecs):
  config, base = tiny_config(), tmp_path_factory.mktemp("encode")
  make(config, SomePortraits(config, SESSIONS, UNITS), base / "media", progress=False)
  encode(base / "media", *codecs, config, base / "latents", batch=8, progress=False)
  return base / "media", base / "latents"


@pytest.mark.parametrize("session", [6, 33])
def test_latents_are_those_of_the_whole_session(folders, codecs, session, close):
  media, latents = (RecordFolder(folder) for folder in folders)
  units, fixed = media.read_units(session), media.read_session(session).fixed
  assert fixed["portrait_valid"] == (session % 2 == 0)
  expected = in_one_go(
    *codecs,
    records.video_to_float(units["agent_video"]).reshape(-1, 16, 16, 3),
    records.audio_to_float(units["agent_audio"]).reshape(-1),
    records.video_to_float(fixed["portrait"]),
    fixed["portrait_valid"],
    records.audio_to_float(fixed["voice"]),
  )
  stored, header = latents.read_units(session), latents.read_session(session)
  close(stored["agent_video_latent"], expected["video"], 1e-3)  # float16
  close(stored["agent_audio_latent"].reshape(-1, 6), expected["audio"], 1e-3)
  close(header.fixed["portrait_latent"], expected["portrait"], 1e-3)
  close(header.fixed["voice_latent"], expected["voice"], 1e-3)
  assert header.truth == media.read_session(session).truth


def test_sound_of_a_codec_that_is_late_is_encoded_as_much_earlier():
  """What is decoded is in step with the picture; in the last samples the codec hears silence."""
  codec = Late(NeuralCodecConfig(sample_rate=1200))
  rng = np.random.default_rng(0)
  inputs = {
    "video": np.zeros((UNITS, 4, 16, 16, 3), np.uint8), "portrait": np.zeros((16, 16, 3), np.uint8),
    "audio": rng.integers(-9999, 9999, (UNITS, 192)).astype(np.int16), "portrait_valid": np.False_,
    "voice": np.zeros(192, np.int16),
  }  # fmt: skip
  video = NativeVideoCodec(tiny_config().video_codec.native, rngs=nnx.Rngs(1))
  latents = encode_session(codec, video, jax.tree.map(jnp.asarray, inputs))["audio"]
  heard, _ = codec.decode(latents.reshape(-1, codec.cfg.hop), codec.decoder_state())
  sound, late = records.audio_to_float(inputs["audio"]).reshape(-1), codec.cfg.delay
  assert late == 24
  np.testing.assert_allclose(heard[late:], sound[late:], atol=1e-6)
  assert not latents.reshape(-1)[-late:].any()


def test_the_manifest_says_what_the_past_leaves_unknown(folders, codecs, tmp_path):
  assert "residual_std" not in RecordFolder(folders[1]).manifest  # these codecs have numbers below 0
  audio, video = jax.tree.map(lambda leaf: leaf, codecs)
  audio.standard.residual_std = nnx.Param(jnp.array([0.1, 0.2, 0.3, 0.4, 0.5, 1.0]))
  video.standard.residual_std = nnx.Param(jnp.zeros(5))  # not measured
  manifest = encode(folders[0], audio, video, tiny_config(), tmp_path / "latents", share=(0, 12), progress=False)
  assert manifest is None
  plan = json.loads((tmp_path / "latents.partial" / "plan.json").read_text())
  assert plan["residual_std"] == {"audio": [pytest.approx(x) for x in (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)]}


def test_the_rest_is_kept_and_agent_media_are_not(folders):
  media, latents = (RecordFolder(folder) for folder in folders)
  before, after = media.read_units(33), latents.read_units(33)
  assert set(before.dtype.names) - set(after.dtype.names) == {"agent_video", "agent_audio"}
  assert all(np.array_equal(before[name], after[name]) for name in set(before.dtype.names) & set(after.dtype.names))
  assert latents.kind == "latents"
  assert latents.manifest["source"]["media"] == media.fingerprint()
  latents.verify()


def test_crops_carry_the_latents_before_them(folders):
  crops, latents = CropLoader(folders[1], tiny_config()), RecordFolder(folders[1])
  starts = set()
  for step in range(8):
    batch = crops.batch_at(step)
    for row, (_, session, start) in enumerate(crops.loader.places(step)):
      units, before = latents.read_units(session), min(start, PREVIOUS)
      starts.add(start)
      assert (batch.session[row], batch.start[row]) == (session, start)
      assert np.array_equal(batch.user_audio[row], units["user_audio"][start : start + 3])
      for name in WITH_PAST:
        found, expected = getattr(batch, name)[row], units[name][start - before : start + 3]
        assert np.array_equal(found[PREVIOUS - before :], expected)
        assert not found[: PREVIOUS - before].any()
  assert starts == {0, 1, 2, 3}


def test_augmentation_changes_the_user_alone_and_is_the_same_on_resume_and_on_other_hosts(folders):
  config = tiny_config()
  plain, changed = (CropLoader(folders[1], config, augment=augment) for augment in (False, True))
  hosts = [CropLoader(folders[1], config, rows, augment=True) for rows in ([0, 1], [2, 3])]
  seen = set()
  for step in (5, 0):
    a, b = plain.batch_at(step), changed.batch_at(step)
    assert all(np.array_equal(x, y) for x, y in zip(b, CropLoader(folders[1], config, augment=True).batch_at(step)))
    assert all(np.array_equal(x, np.concatenate(parts)) for x, *parts in zip(b, *(h.batch_at(step) for h in hosts)))
    seen |= {name for name, x, y in zip(a._fields, a, b) if not np.array_equal(x, y)}
  assert seen == {"user_audio", "user_video"}


def test_encoding_continues_behind_the_last_shard(folders, codecs, tmp_path, monkeypatch):
  config, out = tiny_config(), tmp_path / "latents"
  original = encode_module._encoded

  def interrupted(job, numbers, skipped):
    if numbers.start:
      raise KeyboardInterrupt
    return original(job, numbers, skipped)

  monkeypatch.setattr(encode_module, "_encoded", interrupted)
  with pytest.raises(KeyboardInterrupt):
    encode(folders[0], *codecs, config, out, progress=False)
  assert not out.exists()
  monkeypatch.setattr(encode_module, "_encoded", original)
  assert encode(folders[0], *codecs, config, out, share=(1, 2), progress=False) is None  # the first is there
  assert encode(folders[0], *codecs, config, out, share=(0, 2), progress=False) == RecordFolder(out).manifest
  assert RecordFolder(out).manifest == RecordFolder(folders[1]).manifest


def test_sessions_that_cannot_be_encoded_stop_or_are_skipped_and_reported(folders, codecs, tmp_path, monkeypatch):
  config, media, out = tiny_config(), shutil.copytree(folders[0], tmp_path / "media"), tmp_path / "latents"
  damaged = media / "units-00003.array_record"  # sessions 9, 10 and 11
  damaged.write_bytes(bytes(len(damaged.read_bytes())))
  original = encode_module._finite
  calls = iter(range(100_000))
  monkeypatch.setattr(encode_module, "_finite", lambda x: original(x * (np.inf if next(calls) == 4 * 5 else 1)))
  with pytest.raises(DataError, match=r"session 5 of \S*media: the codecs' latents are not finite .*--skip-bad"):
    encode(media, *codecs, config, out, progress=False)
  calls = iter(range(100_000))
  monkeypatch.setattr(encode_module, "_finite", lambda x: original(x * (np.inf if next(calls) == 4 * 2 else 1)))
  manifest = encode(media, *codecs, config, out, skip_bad=True, progress=False)
  skipped = json.loads((out / "report.json").read_text())["skipped"]
  assert [entry["where"].split()[1] for entry in skipped] == ["5", "9", "10", "11"]
  assert "not finite" in skipped[0]["reason"]
  assert "units-00003.array_record: damaged" in skipped[1]["reason"]
  assert (manifest["sessions"], manifest["skipped"]) == (SESSIONS - 4, 4)
  latents, whole = RecordFolder(out), RecordFolder(folders[1])
  assert np.array_equal(latents.read_units(5)["agent_audio_latent"], whole.read_units(6)["agent_audio_latent"])


def test_other_codecs_other_kinds_and_broken_weights_are_refused(folders, codecs, tmp_path):
  config = tiny_config()
  with pytest.raises(DataError, match="holds latents: encode needs"):
    encode(folders[1], *codecs, config, tmp_path / "a", progress=False)
  config.media.height = 32
  with pytest.raises(DataError, match="height = 16"):
    encode(folders[0], *codecs, config, tmp_path / "b", progress=False)
  audio_codec, video_codec = codecs
  broken = jax.tree.map(lambda leaf: leaf * jnp.nan, audio_codec)
  with pytest.raises(DataError, match="not finite"):
    encode(folders[0], broken, video_codec, tiny_config(), tmp_path / "c", progress=False)
  assert not (tmp_path / "c").exists()


def test_the_lead_is_told_in_training_and_in_serving_alike():
  """Where recordings drew it, and nowhere else; a world that says it itself is left alone."""
  config, tokenizer, ada = small_config(), TextTokenizer(), World({"name": "Ada"})
  session = dataclasses.replace(fake_session(0, config, 4), world=ada)

  def both(world):
    told = dataclasses.replace(session, world=world)
    dtype = records.session_dtype(config)
    stored = records.session_record(told, config, tokenizer, dtype)[0].fixed["world_text"]
    served = world_text(config, tokenizer, world)
    assert np.array_equal(stored, served)
    return tokenizer.decode(stored)

  assert both(ada).strip() == "name: Ada."
  config.data.text_leads, config.data.text_lead = (0, 2), 2
  assert both(ada).strip() == "lead: 2. name: Ada."
  assert both(World()).strip() == "lead: 2."
  assert both(ada.with_lead(0)).strip() == "lead: 0. name: Ada."
  config.data.text_lead = 1
  with pytest.raises(ConfigError, match=r"data.text_lead is 1, .* data.text_leads is \(0, 2\): add it"):
    config.freeze()
