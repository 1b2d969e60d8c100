"""Records: words into unit slots, sessions into files and back, resuming, and every kind of damage."""

import dataclasses
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from tests.helpers.fake_sessions import FakeSource, fake_session, small_config
from wanstreamer_jax.data import make as make_module
from wanstreamer_jax.data import records
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import MANIFEST, RecordFolder
from wanstreamer_jax.data.session import Side, Word
from wanstreamer_jax.data.tokenizer import CUT, TextTokenizer
from wanstreamer_jax.errors import DataError, MediaError

UNITS = 8


@pytest.fixture(scope="module")
def tokenizer():
  return TextTokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  config = small_config()
  path = tmp_path_factory.mktemp("records") / "fake"
  make(config, FakeSource(config, 40, UNITS), path, progress=False)
  return path


@pytest.fixture
def copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / "copy")


def place(tokenizer, words, units=4, slots=2, onsets=True):
  """The text of each unit, and the statistics. Times are in units."""
  words = [Word(text, written, start, start) for text, written, start in words]
  ids, stats = records.text_to_units(words, units, slots, tokenizer, 1.0, onsets)
  assert ids.shape == (units, slots)
  assert ids.dtype == np.int32
  return [tokenizer.captions(row) for row in ids], stats


def test_words_enter_the_unit_they_are_written_in(tokenizer):
  text, stats = place(tokenizer, [("red", 0.0, 1.0), ("blue", 2.4, 3.0), ("it", 2.0, 3.0)])
  assert text == ["red", "", "it blue", ""]
  assert stats == records.TextStats(words=3, tokens=3)


def test_a_word_that_does_not_fit_spills_in_order_and_is_late_past_its_onset(tokenizer):
  text, stats = place(tokenizer, [(word, 1.0, 2.5) for word in ("one", "two", "three", "four", "five")])
  assert text == ["", "one two", "three four", "five"]
  assert stats == records.TextStats(words=5, tokens=5, spilled=3, late_1=1)


def test_the_tail_of_a_long_word_comes_later_and_is_never_dropped(tokenizer):
  long = "antidisestablishment"
  assert len(tokenizer.encode(long)) == 12
  text, stats = place(tokenizer, [(long, 0.0, 0.5), ("red", 0.0, 1.0)], slots=5)
  assert "".join(text) == f"{long} red"
  assert stats == records.TextStats(words=2, tokens=13, spilled=2, late_1=1, late_2=1)  # both end in unit 2
  assert place(tokenizer, [(long, 0.0, 0.0)], units=8)[1].late_3 == 1
  assert place(tokenizer, [(long, 0.0, 2.0)], slots=5)[1] == records.TextStats(words=1, tokens=12, spilled=1)


def test_only_the_end_of_the_session_cuts_a_word_off(tokenizer):
  text, stats = place(tokenizer, [("red", 2.0, 2.0), ("antidisestablishment", 2.0, 3.0), ("blue", 3.0, 3.0)])
  assert text[:2] == ["", ""]
  assert text[2:] == ["red an", "tid"]
  assert stats == records.TextStats(words=3, tokens=4, dropped=2)


def test_cut_has_no_onset_and_typed_text_has_none_either(tokenizer):
  full = [("one", 0.0, 0.0), ("two", 0.0, 0.0), (CUT, 0.0, 0.0)]
  assert place(tokenizer, full) == (["one two", CUT, "", ""], records.TextStats(3, 3, spilled=1))
  typed = [(word, 0.0, 0.0) for word in ("one", "two", "three")]
  assert place(tokenizer, typed, onsets=False) == (["one two", "three", "", ""], records.TextStats(3, 3, spilled=1))
  assert place(tokenizer, typed)[1].late == 1


def test_free_slots_are_pad_and_rounding_does_not_move_a_word(tokenizer):
  ids, _ = records.text_to_units([Word("red", 3 * 0.16 - 1e-12, 0.64, 0.7)], 5, 2, tokenizer, 0.16)
  assert ids[3].tolist() == [*tokenizer.encode("red"), tokenizer.pad_id]
  assert (ids[[0, 1, 2, 4]] == tokenizer.pad_id).all()


def test_words_outside_the_session_are_counted_as_dropped(tokenizer):
  text, stats = place(tokenizer, [("red", 4.0, 5.0), ("blue", 3.0, 9.0)])
  assert text == ["", "", "", "blue"]
  assert stats.dropped == 1


def test_a_session_comes_back_from_its_records(folder, tokenizer):
  config, number = small_config(), 33  # not in the first shard
  session, opened = fake_session(number, config, UNITS), RecordFolder(folder)
  units, record = opened.read_units(number), opened.read_session(number)
  assert opened.sessions == 40
  assert len(units) == UNITS
  back = records.session_from_truth(record.truth, units)
  for name in ("user", "agent"):
    stored, original = getattr(back, name), getattr(session, name)
    assert (stored.video == original.video).all()
    assert np.abs(stored.audio - original.audio).max() <= 0.5001 / records.AUDIO_SCALE
    assert np.abs(stored.tracks["mouth"] - original.tracks["mouth"]).max() < 1e-3
    assert (stored.words, stored.speech, stored.phones) == (original.words, original.speech, original.phones)
  assert (back.events, back.units, back.seed, back.world.fields) == (
    session.events,
    UNITS,
    number,
    session.world.fields,
  )
  assert (record.fixed["portrait"] == session.world.portrait).all()
  assert record.fixed["portrait_valid"]
  assert not record.fixed["voice_valid"]
  assert tokenizer.decode(record.fixed["world_text"]) == session.world.text()
  assert [tokenizer.decode(row) for row in units["agent_text"]][:3] == ["", "red circle", ""]
  assert tokenizer.decode(units["user_text"][0]) == "hello"


def test_speaking_is_the_middle_of_frames_inside_voiced_words():
  words = (Word("a", 0, 0.04, 0.12), Word("b", 0, 0.12, 0.15), Word("c", 0, 0.2, 0.28, voiced=False))
  assert records.speaking(Side(None, None, (), words), 7, 25).tolist() == [False, True, True, True, False, False, False]


def test_speaking_goes_by_the_sound_where_the_words_are_unknown():
  """Two units of two frames with 48 samples each; the sound is loud from the second frame on."""
  audio = np.where(np.arange(192) < 48, 0, 0.2).astype(np.float32)
  side = Side(None, audio, (), (Word("a", 0, 0.0, 0.04),), text_valid=np.array([True, False]))
  assert records.speaking(side, 4, 25).tolist() == [True, False, True, True]
  assert records.speaking(dataclasses.replace(side, text_valid=None), 4, 25).tolist() == [True, False, False, False]


def test_absent_streams_are_not_valid_and_wrong_shapes_are_refused(tokenizer):
  config = small_config()
  dtype = records.unit_dtype(config, ("mouth",))
  session = fake_session(0, config, UNITS)
  mute = dataclasses.replace(session, user=Side(None, None))
  units, _ = records.session_to_units(mute, config, tokenizer, dtype)
  assert not units["user_video_valid"].any()
  assert not units["user_audio_valid"].any()
  assert units["agent_video_valid"].all()
  short = dataclasses.replace(session, agent=dataclasses.replace(session.agent, audio=session.agent.audio[1:]))
  with pytest.raises(DataError, match=r"agent audio of fake 0 has shape \(1535,\): expected \(1536,\)"):
    records.session_to_units(short, config, tokenizer, dtype)


def test_world_text_that_does_not_fit_is_cut_and_counted(tokenizer):
  config = small_config()
  config.layout.world_text = 3
  record, lost = records.session_record(fake_session(0, config, 2), config, tokenizer, records.session_dtype(config))
  assert lost == len(tokenizer.encode("name: Ada. likes: tea.")) - 3
  assert (record.fixed["world_text"] != tokenizer.pad_id).all()


def test_files_do_not_depend_on_workers(folder, tmp_path):
  config = small_config()
  make(config, FakeSource(config, 40, UNITS), tmp_path / "two", workers=2, progress=False)
  assert RecordFolder(tmp_path / "two").manifest == RecordFolder(folder).manifest
  RecordFolder(tmp_path / "two").verify()


@dataclasses.dataclass(frozen=True)
class Interrupted(FakeSource):
  """Ctrl-C while item 35 is made."""

  def sessions(self, item):
    if item == 35:
      raise KeyboardInterrupt
    return super().sessions(item)


def test_an_interrupted_run_continues_behind_its_last_shard(folder, tmp_path, monkeypatch):
  config, out = small_config(), tmp_path / "resumed"
  with pytest.raises(KeyboardInterrupt):
    make(config, Interrupted(config, 40, UNITS), out, progress=False)
  assert not out.exists()
  made = []
  original = make_module._make_shard
  monkeypatch.setattr(make_module, "_make_shard", lambda job, shard: made.append(shard) or original(job, shard))
  make(config, FakeSource(config, 40, UNITS), out, progress=False)
  assert made == [11, 12, 13]  # three sessions each; the eleven before were finished
  assert RecordFolder(out).manifest == RecordFolder(folder).manifest
  assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in folder.iterdir())
  assert make(config, FakeSource(config, 40, UNITS), out, progress=False) == RecordFolder(out).manifest
  assert made == [11, 12, 13]  # a finished folder is left as it is
  with pytest.raises(DataError, match="exists already, made with other settings"):
    make(config, FakeSource(config, 41, UNITS), out, progress=False)


def test_hosts_make_their_shards_and_the_last_one_finishes(folder, tmp_path):
  config, out = small_config(), tmp_path / "shared"
  one = lambda share: make(config, FakeSource(config, 40, UNITS), out, share=share, progress=False)
  assert one((2, 3)) is None
  assert one((0, 3)) is None
  assert len(list(out.with_name("shared.partial").glob("shard-*.json"))) == 9  # of fourteen
  assert not out.exists()
  manifest = one((1, 3))
  assert manifest == RecordFolder(out).manifest == RecordFolder(folder).manifest
  assert one((0, 3)) == manifest  # a host that is started again finds it finished
  assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in folder.iterdir())


def make_share(out, share):
  config = small_config()
  made = make(config, FakeSource(config, 40, UNITS), out, share=share, progress=False)
  print("finished" if made else "others go on")


def test_hosts_at_the_same_time(folder, tmp_path):
  """Two processes with a share each, and one that makes everything beside them, as by mistake."""
  out = tmp_path / "shared"
  context = multiprocessing.get_context("spawn")
  hosts = [context.Process(target=make_share, args=(out, share)) for share in ((0, 2), (1, 2), (0, 1))]
  for host in hosts:
    host.start()
  for host in hosts:
    host.join()
  assert RecordFolder(out).manifest == RecordFolder(folder).manifest
  RecordFolder(out).verify()
  assert [host.exitcode for host in hosts] == [0, 0, 0]


def test_half_a_shard_is_never_taken_for_a_whole_one(folder, tmp_path):
  config, out = small_config(), tmp_path / "cut"
  make(config, FakeSource(config, 40, UNITS), out, share=(1, 2), progress=False)
  partial = out.with_name("cut.partial")
  file = partial / "units-00003.array_record"
  file.write_bytes(file.read_bytes()[:-100])  # as a machine that loses power may leave it
  (partial / "units-00000.array_record.host-1.tmp").write_bytes(b"half")
  manifest = make(config, FakeSource(config, 40, UNITS), out, progress=False)
  assert manifest == RecordFolder(folder).manifest
  RecordFolder(out).verify()
  assert not list(out.glob("*.tmp"))


@dataclasses.dataclass(frozen=True)
class Killed(FakeSource):
  """The process dies while item 35 is made."""

  def sessions(self, item):
    if item == 35:
      os._exit(9)
    return super().sessions(item)


@pytest.mark.parametrize(
  ("source", "error", "message"),
  [(Killed, DataError, "a worker process died"), (Interrupted, KeyboardInterrupt, None)],
)
def test_a_dead_worker_or_an_interrupt_ends_all_workers(tmp_path, source, error, message):
  config, out = small_config(), tmp_path / "dead"
  before = multiprocessing.active_children()
  with pytest.raises(error, match=message):
    make(config, source(config, 40, UNITS), out, workers=2, progress=False)
  assert multiprocessing.active_children() == before
  assert not out.exists()
  make(config, FakeSource(config, 40, UNITS), out, progress=False)
  RecordFolder(out).verify()


@dataclasses.dataclass(frozen=True)
class Damaged(FakeSource):
  """Item 4 cannot be read, item 7 breaks after its first session, item 9 is too short."""

  def sessions(self, item):
    if item == 4:
      raise MediaError("clip.mp4 is truncated; copy it again")
    if item != 9:
      yield from super().sessions(item)
    if item == 7:
      raise DataError("the rest of seven\nis damaged")
    return 3 if item == 9 else 1


def test_what_cannot_be_read_stops_or_is_skipped_and_reported(tmp_path):
  config, out = small_config(), tmp_path / "some"
  with pytest.raises(MediaError, match="^fake 4: clip.mp4 is truncated; copy it again; or pass --skip-bad"):
    make(config, Damaged(config, 40, UNITS), out, progress=False)
  manifest = make(config, Damaged(config, 40, UNITS), out, workers=2, skip_bad=True, progress=False)
  report = json.loads((out / "report.json").read_text())
  assert report == {
    "sessions": 38,
    "unused_units": 38 - 1 + 3,
    "skipped": [
      {"where": "fake 4", "reason": "clip.mp4 is truncated; copy it again"},
      {"where": "fake 7", "reason": "the rest of seven is damaged"},
      {"where": "fake 9", "reason": "3 units, shorter than a session"},
    ],
  }
  assert (manifest["sessions"], manifest["skipped"]) == (38, 3)
  opened = RecordFolder(out)
  assert [opened.read_session(i).truth["seed"] for i in range(9)] == [0, 1, 2, 3, 5, 6, 7, 8, 10]


@dataclasses.dataclass(frozen=True)
class Hopeless(FakeSource):
  def sessions(self, item):
    raise MediaError(f"clip {item} is empty")
    yield


def test_a_folder_in_which_everything_is_skipped_is_an_error(tmp_path):
  config = small_config()
  with pytest.raises(DataError, match="no session of 8 units; skipped 40, the first: fake 0: clip 0 is empty"):
    make(config, Hopeless(config, 40, UNITS), tmp_path / "none", skip_bad=True, progress=False)
  assert not any(tmp_path.iterdir())


def test_a_run_with_other_settings_does_not_mix(tmp_path):
  config, out = small_config(), tmp_path / "mixed"
  with pytest.raises(KeyboardInterrupt):
    make(config, Interrupted(config, 40, UNITS), out, progress=False)
  with pytest.raises(DataError, match="begun with other settings"):
    make(config, FakeSource(config, 41, UNITS), out, progress=False)


def edit_manifest(path, change):
  manifest = json.loads((path / MANIFEST).read_text())
  change(manifest)
  (path / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: (path / MANIFEST).unlink(), "holds no records: no manifest.json"),
    (lambda path: (path / MANIFEST).write_text("{"), "not JSON"),
    (lambda path: (path / MANIFEST).write_text("[]"), "format None, expected 1 or 2"),
    (lambda path: edit_manifest(path, lambda manifest: manifest.update(format=7)), "format 7, expected 1 or 2"),
    (lambda path: edit_manifest(path, lambda manifest: manifest.pop("unit_dtype")), "incomplete or damaged"),
    (
      lambda path: edit_manifest(path, lambda manifest: manifest["shards"][0].update(lengths=[1])),
      "it states the lengths of",
    ),
    (lambda path: (path / "units-00001.array_record").unlink(), "units-00001.array_record: missing"),
    (lambda path: (path / "sessions-00000.array_record").write_bytes(b"x"), "1 bytes, but the manifest says"),
  ],
)
def test_damage_that_opening_finds(copy, damage, message):
  damage(copy)
  with pytest.raises(DataError, match=message) as caught:
    RecordFolder(copy)
  assert "\n" not in str(caught.value)


def test_damage_inside_a_file_is_found_when_read_and_by_verify(copy):
  path = copy / "units-00000.array_record"
  blob = bytearray(path.read_bytes())
  blob[len(blob) // 2 : len(blob) // 2 + 1000] = bytes(1000)
  path.write_bytes(blob)
  opened = RecordFolder(copy)
  with pytest.raises(DataError, match="units-00000"):
    opened.verify()
  with pytest.raises(DataError, match="damaged") as caught:
    list(map(opened.read_units, range(32)))
  assert "\n" not in str(caught.value)


def test_ranges_outside_the_folder_are_refused(folder):
  opened = RecordFolder(folder)
  with pytest.raises(DataError, match="session 40"):
    opened.read_units(40)
  with pytest.raises(DataError, match=r"expected a range within 0\.\.8"):
    opened.read_units(0, 5, 4)
