"""Compressed pictures: pieces decode by themselves, to the same bits; crops begin in any of them; old folders load."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tests.data.test_encode import codecs, tiny_config  # noqa: F401  a fixture
from tests.helpers.fake_sessions import FakeSource, fake_session, small_config
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data import video_pieces
from wanstreamer_jax.data.encode import encode, latent_dtypes
from wanstreamer_jax.data.loader import CropLoader, Loader
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder, stored_dtype
from wanstreamer_jax.data.records import session_dtype, unit_dtype
from wanstreamer_jax.data.stats import stats
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.data.video_pieces import Pieces, decode_piece, encode_piece
from wanstreamer_jax.errors import DataError

UNITS = 7  # pieces of 3, 3 and 1


def moving(frames=16, height=48, width=64):
  """A disc that moves over a gradient, as smooth as pictures of people: uint8 [T, H, W, 3]."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  out = np.stack([np.broadcast_to(2.0 * x, y.shape), 3.0 * y, 255 - x - y], axis=-1)[None].repeat(frames, 0)
  for index in range(frames):
    out[index] += 90 / (1 + np.exp(np.hypot(y - 24, x - 16 - 2 * index) - 9))[..., None]
  return np.clip(out, 0, 255).astype(np.uint8)


def psnr(a, b):
  return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


@dataclasses.dataclass(frozen=True)
class Smooth(FakeSource):
  """Both sides show smooth pictures; the first session's user shows none."""

  def sessions(self, item):
    session = fake_session(item, self.config, self.units)
    media = self.config.media
    video = moving(self.units * media.frames, media.height, media.width)
    user = dataclasses.replace(session.user, video=None if item == 0 else np.roll(video, item, axis=2))
    yield dataclasses.replace(session, user=user, agent=dataclasses.replace(session.agent, video=video))
    return 0


def packed(config, **changes):
  for name, value in {"user_video": "h264", "video_piece": 3, **changes}.items():
    setattr(config.data, name, value)
  return config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """The same sessions with raw and with compressed pictures of the user."""
  base = tmp_path_factory.mktemp("pieces")
  for name, config in (("raw", small_config()), ("packed", packed(small_config()))):
    make(config, Smooth(config, 4, UNITS), base / name, progress=False)
  return base


def test_a_piece_is_small_exact_and_decodes_alone():
  video = moving()
  piece = encode_piece(video, 20, 25)
  found = decode_piece(piece, video.shape)
  assert psnr(found, video) > 38
  assert len(piece) < video.size / 50
  assert encode_piece(video, 20, 25) == piece
  assert np.array_equal(decode_piece(piece, video.shape), found)
  kinds = [unit[0] & 31 for unit in video_pieces.START_CODE.split(piece)[1:]]
  assert kinds[:3] == [7, 8, 5]  # parameter sets and an intra frame, without the encoder's notes
  assert 6 not in kinds


def test_quality_and_odd_sizes():
  video = moving(8, 31, 33)
  found = [decode_piece(encode_piece(video, crf, 25), video.shape) for crf in (10, 30)]
  assert psnr(found[0], video) > psnr(found[1], video) + 6


def test_pieces_of_units_without_pictures_have_no_bytes():
  pieces = Pieces(units=2, quality={"user_video": 20})
  dtype = [("user_video", "u1", (4, 16, 16, 3)), ("user_video_valid", "?")]
  units = np.zeros(5, dtype)
  units["user_video"], units["user_video_valid"] = 100, [True, False, False, False, True]
  cut = pieces.cut(units, "user_video", 25)
  assert [bool(piece) for piece in cut] == [True, False, True]
  back = pieces.join(cut, 5, (4, 16, 16, 3))
  assert not back[2:4].any()
  assert np.abs(back[4].astype(int) - 100).max() <= 2


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda piece: piece[: len(piece) // 2], "holds [0-9]+ pictures"),
    (lambda piece: b"", "holds 0 pictures"),
    (lambda piece: bytes(len(piece)), "damaged"),
  ],
)
def test_a_damaged_piece_is_one_line(damage, message):
  with pytest.raises(DataError, match=message) as caught:
    decode_piece(damage(encode_piece(moving(), 20, 25)), (16, 48, 64, 3))
  assert "\n" not in str(caught.value)


def test_any_crop_is_a_part_of_the_whole(folders):
  raw, opened = RecordFolder(folders / "raw"), RecordFolder(folders / "packed")
  assert opened.unit_dtype == raw.unit_dtype
  assert opened.manifest["format"] == 2
  assert raw.manifest["format"] == 1
  for session in range(4):
    whole, true = opened.read_units(session), raw.read_units(session)
    for name in set(true.dtype.names) - {"user_video"}:
      assert np.array_equal(whole[name], true[name]), name
    assert (session == 0 and not whole["user_video"].any()) or psnr(whole["user_video"], true["user_video"]) > 30
    for start in range(UNITS):
      for count in range(UNITS - start + 1):
        part = opened.read_units(session, start, count)
        assert np.array_equal(part["user_video"], whole["user_video"][start : start + count])
  assert "user_video" not in (opened.read_units(1, fields=("user_audio",)).dtype.names or ())
  opened.verify()


def test_a_loader_gives_compressed_pictures_like_raw_ones(folders):
  config = small_config(units=3, batch=2)
  mixed = Loader(f"{folders / 'raw'},{folders / 'packed'}", config)
  assert "user_video" in mixed.fields
  batch, again = mixed.batch_at(1), mixed.batch_at(1)
  assert batch["user_video"].shape == (2, 3, 4, 16, 16, 3)
  assert np.array_equal(batch["user_video"], again["user_video"])
  assert "user_video" not in Loader(folders / "packed", config, fields=("user_text",)).batch_at(0)


def test_stats_say_what_each_kind_of_file_takes(folders):
  tokenizer = TextTokenizer()
  raw, small = (stats(folders / name, tokenizer) for name in ("raw", "packed"))
  assert set(small["bytes_per_unit_of"]) == {"units", "sessions", "user_video"}
  assert abs(sum(small["bytes_per_unit_of"].values()) - small["bytes_per_unit"]) < 1e-6
  assert small["events"] == raw["events"]


def test_workers_and_resuming_give_the_same_files(folders, tmp_path):
  config = packed(small_config())
  source = Smooth(config, 4, UNITS)
  make(config, source, tmp_path / "shares", share=(1, 2), progress=False)
  made = make(config, source, tmp_path / "shares", progress=False)
  assert made == RecordFolder(folders / "packed").manifest
  with pytest.raises(DataError, match="made with other settings"):
    make(packed(small_config(), user_video_crf=21), source, tmp_path / "shares", progress=False)


def test_latents_keep_the_pieces_of_their_media(tmp_path, codecs):  # noqa: F811
  """Compressed once: equal settings copy bytes, others compress or decompress."""
  config = packed(tiny_config(), agent_video="h264")
  media = tmp_path / "media"
  make(config, Smooth(config, 3, UNITS), media, progress=False)
  assert set(RecordFolder(media).pieces.quality) == {"user_video", "agent_video"}
  encode(media, *codecs, config, tmp_path / "same", progress=False)
  encode(media, *codecs, packed(tiny_config(), video_piece=4), tmp_path / "other", progress=False)
  encode(media, *codecs, packed(tiny_config(), user_video_crf=35), tmp_path / "small", progress=False)
  encode(media, *codecs, tiny_config(), tmp_path / "raw", progress=False)
  same, other, raw = (RecordFolder(tmp_path / name) for name in ("same", "other", "raw"))
  assert [same.read_pieces(1, "user_video"), len(other.read_pieces(1, "user_video"))] == [
    RecordFolder(media).read_pieces(1, "user_video"), 2
  ]  # fmt: skip
  size = lambda name: sum(map(len, RecordFolder(tmp_path / name).read_pieces(1, "user_video")))
  assert size("small") < 0.8 * size("same")
  pictures = [folder.read_units(1)["user_video"] for folder in (RecordFolder(media), same, raw)]
  assert np.array_equal(pictures[0], pictures[1])
  assert np.array_equal(pictures[0], pictures[2])
  assert np.array_equal(same.read_units(1)["agent_video_latent"], raw.read_units(1)["agent_video_latent"])
  crops = [CropLoader(folder.path, packed(tiny_config())).batch_at(2) for folder in (same, raw)]
  assert all(map(np.array_equal, *crops))


def test_a_damaged_folder_names_the_session(folders, tmp_path):
  copy = shutil.copytree(folders / "packed", tmp_path / "copy")
  opened = RecordFolder(copy)
  opened.read_pieces = lambda *_: [b"\x00\x00\x01\x65 no video", b"", b""]
  with pytest.raises(DataError, match=r"copy: user_video of session 2: a piece of video .*; make it again"):
    opened.read_units(2)
  (copy / "user_video-00000.array_record").unlink()
  with pytest.raises(DataError, match="user_video-00000.array_record: missing"):
    RecordFolder(copy)


def test_a_unit_of_the_published_size_takes_55_kb():
  """Without its pictures, before zstd; pieces of real pictures take 6 to 13 kB a unit there (docs/data.md)."""
  config = load_config("configs/qwen2p5_1p5b.py:192x336")
  media = SimpleNamespace(unit_dtype=unit_dtype(config, ()), session_dtype=session_dtype(config))
  units, _ = latent_dtypes(media, config)
  pieces = Pieces.of(config, "user_video")
  assert pieces == Pieces(units=4, quality={"user_video": 20})
  assert units.itemsize > 800_000
  assert stored_dtype(units, pieces.quality).itemsize + 13_000 < 55_000
