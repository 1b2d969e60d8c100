"""The main job around the model: whole outputs or none, the clock, typed text, world files."""

import errno
import json
import re

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.media_files import float_wav, halves, tone, write_audio, write_video
from wanstreamer_jax.config import MediaConfig
from wanstreamer_jax.data.session import MediaUnit, World
from wanstreamer_jax.data.world_file import load_world, write_world
from wanstreamer_jax.engine.interface import PHASES, SlotEngine, UnitOutput
from wanstreamer_jax.errors import DataError, MediaError, UserError
from wanstreamer_jax.serve import stream_file as file
from wanstreamer_jax.serve.stream_file import OUTPUTS, StreamOptions, TextEvent, parse_text_event, stream_file

MEDIA = MediaConfig()
QUIET = StreamOptions(progress=False)


class Parrot(SlotEngine):
  """Plays back what it is shown, and writes "unit0and unit2and". `fail` is raised in unit `at`."""

  media = MEDIA

  def __init__(self, fail: BaseException | None = None, at: int = 3, waiting: int = 0):
    self.fail, self.at, self.waiting, self.unit, self.typed = fail, at, waiting, 0, []

  def join(self, slot, request):
    self.unit = 0

  def unread(self, slot):
    return self.waiting

  def think(self, users, typed):
    if self.fail is not None and self.unit == self.at:
      raise self.fail
    self.typed += typed
    return users[0]

  def perform(self, user):
    video = np.zeros((MEDIA.frames, MEDIA.height, MEDIA.width, 3), np.uint8) if user.video is None else user.video
    audio = np.zeros(MEDIA.samples, np.float32) if user.audio is None else user.audio
    text = f" unit{self.unit}" if self.unit % 2 == 0 else "and"  # every other word is torn
    self.unit += 1
    return [UnitOutput(video, audio, text, bool(np.abs(audio).max() > 0.1), dict.fromkeys(PHASES, 2.0))]


@pytest.fixture
def clip(tmp_path):
  """1.5 s: ten units."""
  return write_video(tmp_path / "clip.mp4", [halves(64, 64)] * 38, sound=tone(1.0, 48_000))


def names(folder) -> set[str]:
  return {path.name for path in folder.iterdir()} if folder.exists() else set()


def length(path) -> tuple[int, float]:
  """Frames, and seconds of sound."""
  with av.open(str(path)) as container:
    frames = sum(1 for _ in container.decode(video=0))
  with av.open(str(path)) as container:
    return frames, sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def test_the_answer_is_whole_and_as_long_as_the_clip(clip, tmp_path):
  summary = stream_file(Parrot(), clip, tmp_path / "out", QUIET)
  assert names(tmp_path / "out") == set(OUTPUTS)
  assert (summary.units, summary.damaged, summary.late) == (10, 0, None)
  for film in ("agent.mp4", "conversation.mp4"):
    frames, seconds = length(tmp_path / "out" / film)
    assert frames == 10 * MEDIA.frames
    assert abs(seconds - 1.6) < 0.05
  rows = [json.loads(line) for line in (tmp_path / "out" / "units.jsonl").read_text().splitlines()]
  assert [row["unit"] for row in rows] == list(range(10))
  assert [row["state"] for row in rows] == ["speaking"] * 7 + ["listening"] * 3
  assert {f"{phase}_ms" for phase in PHASES} <= set(rows[0])
  assert "unit6and unit8and" in (tmp_path / "out" / "agent.vtt").read_text()
  assert min(Image.open(tmp_path / "out" / "timeline.png").size) > 300


def test_a_second_answer_replaces_the_first(clip, tmp_path):
  stream_file(Parrot(), clip, tmp_path / "out", QUIET)
  first = (tmp_path / "out" / "agent.vtt").read_bytes()
  short = write_audio(tmp_path / "a.wav", tone(0.3, 24_000), 24_000)
  assert stream_file(Parrot(), short, tmp_path / "out", QUIET).units == 2
  assert names(tmp_path / "out") == set(OUTPUTS)
  assert (tmp_path / "out" / "agent.vtt").read_bytes() != first


@pytest.mark.parametrize(
  ("fail", "expected"),
  [
    (DataError("no"), DataError),
    (RuntimeError("a defect"), RuntimeError),
    (OSError(errno.ENOSPC, "No space left on device"), UserError),
  ],
)
def test_after_an_error_nothing_is_left_and_what_was_there_stays(fail, expected, clip, tmp_path):
  stream_file(Parrot(), clip, tmp_path / "out", QUIET)
  before = {name: (tmp_path / "out" / name).read_bytes() for name in OUTPUTS}
  with pytest.raises(expected) as error:
    stream_file(Parrot(fail), clip, tmp_path / "out", QUIET)
  assert {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")} == before
  if isinstance(fail, OSError):
    assert str(tmp_path / "out") in str(error.value)
    assert "No space left" in str(error.value)


def test_a_folder_that_stays_empty_goes_again(clip, tmp_path):
  (tmp_path / "mine").mkdir()
  for out in ("mine", "new"):
    with pytest.raises(DataError):
      stream_file(Parrot(DataError("no"), at=0), clip, tmp_path / out, QUIET)
  assert (tmp_path / "mine").exists()
  assert not (tmp_path / "new").exists()


def test_ctrl_c_keeps_what_was_answered_apart(clip, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    stream_file(Parrot(KeyboardInterrupt()), clip, tmp_path / "out", QUIET)
  assert names(tmp_path / "out") == {"interrupted"}
  kept = tmp_path / "out" / "interrupted"
  assert {"agent.mp4", "agent.vtt", "units.jsonl", "timeline.png"} <= names(kept)
  assert length(kept / "agent.mp4")[0] == 3 * MEDIA.frames


def test_ctrl_c_before_the_first_answer_leaves_what_was_there(clip, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    stream_file(Parrot(KeyboardInterrupt(), at=0), clip, tmp_path / "new", QUIET)
  assert not (tmp_path / "new").exists()
  kept = tmp_path / "out" / "interrupted"
  with pytest.raises(KeyboardInterrupt, match=re.escape(str(kept))):
    stream_file(Parrot(KeyboardInterrupt()), clip, tmp_path / "out", QUIET)
  before = {path.name: path.stat().st_size for path in kept.iterdir()}
  with pytest.raises(KeyboardInterrupt):
    stream_file(Parrot(KeyboardInterrupt(), at=0), clip, tmp_path / "out", QUIET)
  assert {path.name: path.stat().st_size for path in kept.iterdir()} == before


def test_a_folder_in_the_way_leaves_nothing_half(clip, tmp_path):
  (tmp_path / "out" / "timeline.png").mkdir(parents=True)
  (tmp_path / "out" / f".partial-{2**22 + 1}").mkdir()  # of a process that was killed
  with pytest.raises(UserError, match=r"timeline\.png is a folder"):
    stream_file(Parrot(), clip, tmp_path / "out", QUIET)
  assert names(tmp_path / "out") == {"timeline.png"}


def test_what_was_typed_too_late_is_told(clip, tmp_path):
  summary = stream_file(Parrot(waiting=3), clip, tmp_path / "out", QUIET)
  assert "3 typed tokens came too late" in "".join(summary.lines())


def test_typed_text_arrives_in_its_unit(clip, tmp_path):
  events = (TextEvent(0.5, "late"), TextEvent(0.0, "first"), TextEvent(0.49, "hello"))
  parrot = Parrot()
  stream_file(parrot, clip, tmp_path / "out", StreamOptions(events=events, progress=False))
  assert parrot.typed[0] == ["first"]
  assert parrot.typed[3] == ["hello", "late"]
  assert sum(map(len, parrot.typed)) == 3


def test_a_file_longer_than_the_history_is_refused_before_any_work(clip, tmp_path):
  engine = Parrot()
  engine.capacity = 3
  with pytest.raises(DataError, match=r"the file has \d+ units, but this engine keeps the history of 3 .*capacity="):
    stream_file(engine, clip, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_one_unit_at_a_time_is_for_one_slot():
  engine = Parrot()
  engine.slots = 2
  with pytest.raises(ValueError, match="has 2 slots: `step` is for one"):
    engine.step(MediaUnit())


def test_typed_text_past_the_end_is_refused_before_any_work(clip, tmp_path):
  with pytest.raises(DataError, match=r"'bye' at 1\.6 s is past the end of the clip \(1\.6 s\)"):
    stream_file(Parrot(), clip, tmp_path / "out", StreamOptions(events=(TextEvent(1.6, "bye"),)))
  assert names(tmp_path / "out") == set()


@pytest.mark.parametrize(
  "value", ["hello", ":hello", "-1:hello", "nan:hello", "1:", "1:  ", "1:a\x07b", "1:" + "a" * 501]
)
def test_text_events_that_make_no_sense(value):
  with pytest.raises(DataError, match="text event"):
    parse_text_event(value)


def test_real_time_counts_late_answers(clip, tmp_path, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(file.time, "perf_counter", lambda: clock[0])
  monkeypatch.setattr(file.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
  parrot = Parrot()
  quick, slow = 0.05, 0.5
  step = parrot.step

  def timed(user, typed):
    clock[0] += slow if parrot.unit == 4 else quick
    return step(user, typed)

  parrot.step = timed
  summary = stream_file(parrot, clip, tmp_path / "out", StreamOptions(realtime=True, progress=False))
  # Unit 4 takes 500 ms, 340 more than there are; each answer after it takes 50 and catches up 110.
  rows = [json.loads(line) for line in (tmp_path / "out" / "units.jsonl").read_text().splitlines()]
  late = [row["latency_ms"] for row in rows]
  np.testing.assert_allclose(late, [50, 50, 50, 50, 500, 390, 280, 170, 60, 50], atol=0.01)
  assert summary.late == 4


# World files

GOOD = {"fields": {"name": "Ada", "likes": "tea"}, "portrait": "face.png", "voice": "voice.wav"}


@pytest.fixture
def world(tmp_path):
  """Writes world.json beside a portrait and a voice."""
  Image.fromarray(halves(30, 90)).save(tmp_path / "face.png")
  write_audio(tmp_path / "voice.wav", tone(0.5, 16_000), 16_000)
  (tmp_path / "words.png").write_text("not a picture")
  float_wav(tmp_path / "nan.wav", np.full(24_000, np.nan))
  write_audio(tmp_path / "long.wav", tone(31, 8_000), 8_000)

  def write(value):
    path = tmp_path / "world.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path

  return write


def test_a_world_file_is_read(world):
  found = load_world(world(GOOD), MEDIA)
  assert found.text() == "name: Ada. likes: tea."
  assert found.portrait.shape == (MEDIA.height, MEDIA.width, 3)
  assert (found.portrait[:, 4, 0] > 200).all()
  assert found.voice.shape == (MEDIA.sample_rate // 2,)
  assert load_world(world({}), MEDIA) == World()


def test_a_world_that_is_written_is_read_again(world, tmp_path):
  found = load_world(world(GOOD), MEDIA)
  (tmp_path / "copy").mkdir()
  again = load_world(write_world(tmp_path / "copy", found, MEDIA), MEDIA)
  assert again.fields == found.fields
  np.testing.assert_array_equal(again.portrait, found.portrait)
  np.testing.assert_allclose(again.voice, found.voice, atol=1e-4)
  assert load_world(write_world(tmp_path / "copy", World(), MEDIA), MEDIA) == World()


@pytest.mark.parametrize(
  ("value", "words"),
  [
    ("{not json", "is not valid JSON, line 1 column 2"),
    ("\ufeff[]", "expected a JSON object"),
    ("[]", "expected a JSON object"),
    ('{"fields": {}, "fields": {}}', "'fields' is given twice"),
    ("[" * 100_000, "nested too deeply"),
    ({"portait": "face.png"}, "did you mean 'portrait'?"),
    ({"fields": "Ada"}, '"fields" must be an object'),
    ({"fields": {"age": 7}}, "field 'age' must be text"),
    ({"fields": {"": "x"}}, "expected 1 to 40"),
    ({"fields": {"a": "x" * 401}}, "at most 400"),
    ({"fields": {"a": "x\ny"}}, "line breaks or control characters"),
    ({"fields": {str(i): "x" for i in range(33)}}, "33 entries: at most 32"),
    ({"portrait": 5}, "must be the path of a file"),
    ({"portrait": "words.png"}, "words.png is not an image"),
    ({"portrait": "none.png"}, "none.png does not exist"),
    ({"voice": "words.png"}, "could be decoded"),
    ({"voice": "nan.wav"}, "not finite"),
    ({"voice": "long.wav"}, "at most 30 s"),
    ({"voice": "face.png"}, "has no audio"),
  ],
  ids=str,
)
def test_world_files_that_cannot_be_used(value, words, world):
  with pytest.raises((DataError, MediaError)) as error:
    load_world(world(value), MEDIA)
  assert words in str(error.value)
  assert "\n" not in str(error.value)
