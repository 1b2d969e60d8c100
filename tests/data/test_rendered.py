"""Sessions that are rendered meanwhile: the crops of stored records, the counts of a manifest, a bounded reservoir."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import assert_close
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.data import device_crops, rendered
from wanstreamer_jax.data.duplex_world.source import DuplexSource
from wanstreamer_jax.data.encode import codec_inputs, encode, encode_session
from wanstreamer_jax.data.loader import Crop, CropLoader, read_crop
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.render import Renderer
from wanstreamer_jax.data.rendered import (
  Encoder,
  Limits,
  RenderedLoader,
  counted,
  recorder_of,
  rendered_origin,
)
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.errors import ConfigError, DataError
from wanstreamer_jax.parallel.mesh import make_mesh, place_batch
from wanstreamer_jax.train import codecs
from wanstreamer_jax.train.codecs import RenderedClips

SEED, UNITS = 7, 24
OVERRIDES = ("data.path=world://7", f"data.session_units={UNITS}", "data.units=8", "data.batch=3")


@pytest.fixture(scope="module")
def agent():
  return nano_agent(*OVERRIDES)


@pytest.fixture(scope="module")
def made(agent):
  recorder = recorder_of(agent.config)
  return [recorder.record(number, tokenizer_of(agent.config)) for number in range(3)]


@pytest.fixture(scope="module")
def folder(agent, tmp_path_factory):
  """The same sessions by way of files."""
  base, config = tmp_path_factory.mktemp("stored"), agent.config
  make(config, DuplexSource.of(config, "train", SEED, 3), base / "media", progress=False)
  encode(base / "media", agent.audio_codec, agent.video_codec, config, base / "latents", batch=3, progress=False)
  return RecordFolder(base / "latents")


def test_a_crop_is_that_of_the_stored_records(agent, made, folder):
  kept = Encoder(agent.config, recorder_of(agent.config), agent.audio_codec, agent.video_codec).encode(made)
  for session, start in ((0, 0), (1, 1), (2, UNITS - 8)):
    found, expected = read_crop(kept[session], session, start, 8), read_crop(folder, session, start, 8)
    for name, a, b in zip(Crop._fields, found, expected):
      assert a.dtype == b.dtype, name
      if name.endswith("_latent"):  # the same program, whose threads may round the last digit of float16 differently
        assert_close(a.astype(np.float32), b.astype(np.float32), 2**-10)
      else:
        np.testing.assert_array_equal(a, b, err_msg=name)
  assert (read_crop(folder, 1, 0, UNITS).user_labels > 0).any()
  assert kept[0].manifest["source"]["codecs"] == folder.manifest["source"]["codecs"]
  assert kept[0].manifest["labels"] == folder.manifest["labels"]


def test_classes_and_words_are_counted_as_in_the_manifest(agent, folder):
  assert counted(agent.config, 3) == {name: folder.manifest["stats"][name] for name in ("labels", "agent_tokens")}


def test_several_units_at_once_give_the_same_latents(agent, made):
  inputs = codec_inputs([made[0].units], [made[0].fixed], True)
  inputs = jax.tree.map(lambda x: jnp.asarray(x[0]), inputs)
  whole = jax.jit(encode_session, static_argnums=3)
  one, six = (whole(agent.audio_codec, agent.video_codec, inputs, n) for n in (1, 6))
  for name in one:
    assert_close(six[name], one[name])


def test_a_process_hands_over_what_it_made(agent, made):
  with Renderer(recorder_of(agent.config), 1) as renderer:
    found = [renderer.take() for _ in range(2)]
  assert [one.number for one in found] == [0, 1]
  for one, expected in zip(found, made):
    assert one.units.tobytes() == expected.units.tobytes()
    assert one.fixed.tobytes() == expected.fixed.tobytes()


def test_a_process_that_fails_says_why(agent):
  config = agent.config.replace(data=agent.config.data.replace(tokenizer="nowhere.json")).freeze()
  with Renderer(recorder_of(config), 1) as renderer, pytest.raises(DataError, match=r"nowhere\.json"):
    renderer.take()


class InProcess:
  """Takes the place of Renderer: sessions that are there already, each as a new number, then nothing but waiting."""

  def __init__(self, made, count):
    self.rest = [one._replace(number=number) for number, one in zip(range(count), made * count)]

  def take(self):
    if not self.rest:
      raise EOFError
    return self.rest.pop(0)

  def close(self):
    pass


@pytest.fixture
def loader(agent, made, monkeypatch):
  """Seven sessions, of which memory holds three."""
  monkeypatch.setattr(rendered, "Renderer", lambda recorder, workers: InProcess(made, 7))
  size = made[0].units.nbytes  # of media; latents are smaller
  return RenderedLoader(agent.config, agent.audio_codec, agent.video_codec, limits=Limits(1, int(2.2 * size)))


def test_the_reservoir_keeps_the_newest(loader, capsys):
  with loader:
    loader.reservoir._thread.join()
    held = [kept.number for kept in loader.reservoir.kept]
    assert held == sorted(held)
    assert held[-1] == 6
    assert 1 < len(held) < 7
    assert sum(kept.units.nbytes for kept in loader.reservoir.kept) <= loader.reservoir.limits.memory
    batches = [loader.batch_at(step) for step in range(40)]
  assert {int(n) for batch in batches for n in batch.session} == set(held)
  starts = np.concatenate([batch.start for batch in batches])
  assert (starts.min(), starts.max()) == (0, UNITS - 8)
  assert all(len(set(batch.session.tolist())) == 3 for batch in batches) or len(held) < 3
  assert batches[0].user_video.shape[:2] == (3, 8)
  said = capsys.readouterr().out
  assert "rendered 7 sessions (168 units" in said
  assert f"used {40 * 3 * 8 / 168:.1f} times" in said


def test_a_failure_reaches_the_step_that_waits(agent, made, monkeypatch):
  class Broken(InProcess):
    def take(self):
      raise DataError("no such voice")

  monkeypatch.setattr(rendered, "Renderer", lambda recorder, workers: Broken(made, 0))
  waiting = RenderedLoader(agent.config, agent.audio_codec, agent.video_codec)
  with waiting, pytest.raises(DataError, match="no such voice"):
    waiting.batch_at(0)


def test_what_fails_later_is_only_said(agent, made, monkeypatch, capsys):
  class Failing(InProcess):
    failed = False

    def take(self):
      if len(self.rest) == 1 and not self.failed:
        self.failed = True
        raise DataError("session 3 cannot be rendered: no such word")
      return super().take()

  monkeypatch.setattr(rendered, "Renderer", lambda recorder, workers: Failing(made, 3))
  limits = Limits(1, 10**9)
  with RenderedLoader(agent.config, agent.audio_codec, agent.video_codec, limits=limits) as loader:
    loader.reservoir._thread.join(timeout=60)
    assert loader.batch_at(0).start.shape == (3,)
  assert "warning: session 3 cannot be rendered: no such word" in capsys.readouterr().out


def test_users_are_changed_once_a_session(agent, made):
  recorder = dataclasses.replace(recorder_of(agent.config), augment=True)
  changed, again = (recorder.record(1, tokenizer_of(agent.config)) for _ in range(2))
  assert changed.units.tobytes() == again.units.tobytes()
  assert (changed.units["user_audio"] != made[1].units["user_audio"]).any()
  for name in set(changed.units.dtype.names) - {"user_audio", "user_video"}:
    np.testing.assert_array_equal(changed.units[name], made[1].units[name])


def test_clips_for_codecs(agent, monkeypatch):
  """Sound alone is handed over where the codec hears; a source without pictures trains no video codec."""
  config = agent.config.replace(data=agent.config.data.replace(path="voices://3")).freeze()
  recorder = recorder_of(config, fields=("agent_audio", "user_audio", "agent_audio_valid", "user_audio_valid"))
  sounds = [recorder.record(number, tokenizer_of(config)) for number in range(2)]
  assert sounds[0].units.nbytes == UNITS * (2 * 2 * config.media.samples + 2)
  monkeypatch.setattr(rendered, "Renderer", lambda recorder, workers: InProcess(sounds, 2))
  with RenderedClips(config, "audio", limits=Limits(1, 10**9)) as clips:
    clips.reservoir._thread.join()
    batch = clips.batch_at(0)["audio"]
    assert codecs._clips(config, "audio") is clips
  assert (batch.shape, batch.dtype) == ((3, 8 * config.media.samples), np.int16)
  heard = {side.tobytes() for one in sounds for side in (one.units["agent_audio"], one.units["user_audio"])}
  assert all(any(clip.tobytes() in side for side in heard) for clip in batch)
  with pytest.raises(DataError, match="no pictures"):
    RenderedClips(config, "video")


def test_paths(agent):
  assert rendered_origin("world://12") == ("world", 12)
  assert rendered_origin("voices://3/") == ("voices", 3)
  assert rendered_origin("data_cache/world:3") is None
  assert rendered_origin("gs://bucket/latents") is None
  with pytest.raises(DataError, match="first seed, as in world://0"):
    rendered_origin("world://train")
  short = agent.config.replace(data=agent.config.data.replace(session_units=4)).freeze()
  with pytest.raises(ConfigError, match="shorter than a crop"):
    RenderedLoader(short, agent.audio_codec, agent.video_codec)


def test_crops_of_pictures_that_the_device_keeps_are_the_same(agent, made, monkeypatch):
  batches = []
  for on_device in (False, True):
    monkeypatch.setattr(rendered, "Renderer", lambda recorder, workers: InProcess(made, 3))
    codecs_of = (agent.audio_codec, agent.video_codec)
    with RenderedLoader(agent.config, *codecs_of, limits=Limits(3, 1 << 30), on_device=on_device) as loader:
      batches.append(place_batch(loader.batch_at(4), make_mesh("data=1")))
      assert [kept.pictures is not None for kept in loader.reservoir.kept] == 3 * [on_device]
      assert isinstance(loader.batch_at(4).user_video, jax.Array) == on_device
  for name, a, b in zip(Crop._fields, *batches):
    np.testing.assert_array_equal(a, b, err_msg=name)
  assert len(np.unique(batches[0].user_video)) > 10


def test_a_varied_user_is_the_same_user_a_little_different():
  rng = np.random.default_rng(0)
  pictures = np.broadcast_to(rng.integers(60, 180, (2, 1, 1, 32, 32, 3), np.uint8), (2, 3, 4, 32, 32, 3))
  audio = (3000 * np.sin(np.arange(2 * 3 * 480) / 9)).astype(np.int16).reshape(2, 3, 480)
  seen, heard = device_crops.varied(pictures, audio, np.array([1, 2], np.uint32), 3000)
  assert (seen.dtype, heard.dtype) == (np.uint8, np.int16)
  np.testing.assert_array_equal(seen[:, :1, :1], seen[:, 2:, 3:])  # one framing and one light in all frames
  assert not np.array_equal(seen[0, 0, 0], pictures[0, 0, 0])
  for row in range(2):
    change = 20 * np.log10(np.std(heard[row]) / np.std(audio[row]))
    assert abs(change) < device_crops.LEVEL_DB + 1
    assert np.corrcoef(np.ravel(heard[row]), np.ravel(audio[row]))[0, 1] > 0.98
    ratio = np.mean(seen[row]) / np.mean(pictures[row])
    assert abs(np.log(ratio)) < 1.6 * device_crops.LIGHT
  again, _ = device_crops.varied(pictures, audio, np.array([1, 2], np.uint32), 3000)
  other, _ = device_crops.varied(pictures, audio, np.array([1, 3], np.uint32), 3000)
  np.testing.assert_array_equal(again, seen)
  assert not np.array_equal(other, seen)


def test_a_microphone_has_another_gain_at_every_frequency_and_the_same_level():
  noise = (3000 * np.random.default_rng(0).standard_normal((10, 2400))).astype(np.int16)
  heard = np.asarray(device_crops.coloured(noise, jax.random.key(1), RATE := 24_000))
  assert np.std(heard) == pytest.approx(np.std(noise.astype(float)), rel=1e-3)
  gain = 20 * np.log10(np.abs(np.fft.rfft(heard.ravel())) / np.abs(np.fft.rfft(noise.ravel())))
  hertz = np.fft.rfftfreq(noise.size, 1 / RATE)
  bands = [np.median(gain[(hertz > low) & (hertz < 2 * low)]) for low in (100, 400, 1600, 6000)]
  assert np.ptp(bands) > 3
  assert np.abs(bands).max() < 20
  late = noise.copy()
  late[:5] = 0
  heard = np.asarray(device_crops.coloured(late, jax.random.key(2), RATE))
  assert np.abs(heard[:5]).max() < 1e-3 * np.abs(heard[5:]).max()  # nothing is heard before it sounds, nor of the end


def test_sessions_with_the_cameras_off_have_no_pictures(agent):
  config = agent.config.replace(data=agent.config.data.replace(camera_off=1.0)).freeze()
  recorder = recorder_of(config, augment=True)
  made = [recorder.record(0, tokenizer_of(config))]
  units = Encoder(config, recorder, agent.audio_codec, agent.video_codec).encode(made)[0].units
  for side in ("user", "agent"):
    assert not units[f"{side}_video_valid"].any()
    assert units[f"{side}_audio_valid"].all()
  assert np.std(units["agent_audio_latent"].astype(np.float32)) > 0


def test_as_many_crops_are_of_sessions_of_each_kind(agent):
  """With both people, the user alone, nobody; the last share the device's pictures, which count for nothing."""
  data = agent.config.data
  alone, blind = data.replace(agent_unseen=1.0), data.replace(camera_off=1.0)
  kept = []
  for own, numbers in ((data, (0,)), (alone, (5, 6)), (blind, (1, 2, 3, 4))):
    config = agent.config.replace(data=own).freeze()
    recorder = recorder_of(config)
    encoder = Encoder(config, recorder, agent.audio_codec, agent.video_codec, on_device=True)
    kept += encoder.encode([recorder.record(number, tokenizer_of(config)) for number in numbers])
  kinds = [(True, True), (True, False), (False, False)]
  assert [one.seen for one in kept] == [kinds[0], *2 * kinds[1:2], *4 * kinds[2:]]
  assert kept[3].pictures is kept[6].pictures
  assert kept[3].nbytes == kept[3].units.nbytes < kept[0].nbytes == kept[1].nbytes
  assert np.std(kept[1].pictures[0].astype(np.float32)) > 0
  chosen = rendered._of_each_kind(np.random.default_rng(0), kept, 12)
  assert collections.Counter(one.seen for one in chosen) == dict.fromkeys(kinds, 4)
  assert len({one.number for one in chosen if one.seen == kinds[2]}) == 4  # none twice where there are enough
  found = [rendered._of_each_kind(np.random.default_rng(seed), kept, 4) for seed in range(30)]
  more = {collections.Counter(one.seen for one in chosen).most_common(1)[0] for chosen in found}
  assert more == {(kind, 2) for kind in kinds}  # chance decides which kind has one more
  assert [one.seen for one in rendered._of_each_kind(np.random.default_rng(0), kept[:1], 3)] == 3 * kinds[:1]


def test_agents_of_duplex_world_are_renamed_and_others_are_not(agent, made, folder, monkeypatch):
  """In what is rendered meanwhile and in folders, but only where that is asked for."""
  config = agent.config.replace(augment=agent.config.augment.replace(rename=1.0)).freeze()
  monkeypatch.setattr(rendered, "Renderer", lambda recorder, workers: InProcess(made, 3))
  codecs_of = (agent.audio_codec, agent.video_codec)
  told = {tuple(one.fixed["world_text"]) for one in made}
  for augment in (True, False):
    with RenderedLoader(config, *codecs_of, augment=augment, limits=Limits(3, 1 << 30)) as loader:
      known = [tuple(row) in told for row in loader.batch_at(2).world_text]
    assert not any(known) if augment else all(known)
  read = lambda **options: [
    tuple(row) in told for row in CropLoader(folder.path, config, **options).batch_at(2).world_text
  ]
  assert not any(read(rename=True))
  assert all(read(augment=True))
  session = RecordFolder.read_session
  of_others = lambda self, number: dataclasses.replace(session(self, number), truth={"source": "calls.jsonl"})
  monkeypatch.setattr(RecordFolder, "read_session", of_others)
  assert all(read(rename=True))
