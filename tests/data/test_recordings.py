"""Recordings: media files and a manifest become sessions on the same clock; a bad line is named by its number."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.helpers.fake_sessions import small_config
from wanstreamer_jax.data.loader import Loader
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.record_writer import read_report
from wanstreamer_jax.data.recordings import RecordingsSource, read_manifest
from wanstreamer_jax.data.records import session_from_truth
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import DataError, MediaError

RATE = 48_000  # unlike the config's


def write_wav(path, channels, seconds=1.0):
  """A sound file of constant channels."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("pcm_s16le", rate=RATE, layout="stereo" if len(channels) == 2 else "mono")
    samples = np.repeat(np.array(channels)[None], int(seconds * RATE), axis=0)
    frame = av.AudioFrame.from_ndarray((samples.reshape(1, -1) * 32767).astype(np.int16), "s16", stream.layout.name)
    frame.sample_rate = RATE
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_video(path, shade, seconds=1.0, fps=30, size=(40, 24)):
  """A silent video of one shade."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("ffv1", rate=fps)
    stream.width, stream.height, stream.pix_fmt = *size, "bgr0"
    for _ in range(round(seconds * fps)):
      picture = np.full((size[1], size[0], 3), shade, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    container.mux(stream.encode(None))


@pytest.fixture
def config():
  config = small_config()
  config.data.session_units = 3  # 0.48 s
  return config


@pytest.fixture
def folder(tmp_path):
  write_wav(tmp_path / "user.wav", [0.25], seconds=1.1)
  write_wav(tmp_path / "agent.wav", [-0.5])
  write_wav(tmp_path / "both.wav", [0.5, -0.25])
  write_video(tmp_path / "agent.mkv", 200)
  return tmp_path


def manifest(folder, *lines):
  path = folder / "manifest.jsonl"
  path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
  return path


GOOD = {
  "id": "one",
  "user": {"audio": "user.wav", "words": [{"text": "hello", "start": 0.1, "end": 0.3}]},
  "agent": {
    "audio": "agent.wav",
    "video": "agent.mkv",
    "words": [{"text": "it", "start": 0.64, "end": 0.7}, {"text": "red", "start": 0.5, "end": 0.6}],
  },
  "world": {"fields": {"name": "Ada"}},
  "events": [{"start": 0.4, "end": 0.6, "actor": "agent", "kind": "nod"}],
}


def test_a_recording_becomes_consecutive_sessions(folder, config):
  source = RecordingsSource.open(manifest(folder, GOOD), config)
  first, second = source.sessions(0)  # 1.0 s holds two sessions of 0.48 s
  assert first.user.video is None
  assert first.agent.video.shape == (12, 16, 16, 3)
  assert np.abs(first.agent.video.astype(int) - 200).max() <= 2
  for session in (first, second):
    assert session.user.audio.shape == session.agent.audio.shape == (3 * 192,)
    assert np.abs(session.user.audio[50:-50] - 0.25).max() < 0.01
    assert np.abs(session.agent.audio[50:-50] + 0.5).max() < 0.01
  assert [word.text for word in first.user.speech] == ["hello"]
  assert first.user.words == ()  # what is said is not typed
  assert [word.text for word in second.agent.speech] == ["red", "it"]
  assert second.agent.speech[0].start == pytest.approx(0.02)
  assert [(round(event.start, 6), round(event.end, 6)) for event in first.events] == [(0.4, 0.48)]
  assert [(round(event.start, 6), round(event.end, 6)) for event in second.events] == [(0.0, 0.12)]


def test_the_text_lead_is_a_value_of_the_config(folder, config):
  config.data.text_lead = 2
  source = RecordingsSource.open(manifest(folder, GOOD), config)
  first, second = source.sessions(0)
  assert source.describe()["text_lead"] == 2
  assert first.world.text() == "name: Ada."  # all sessions have it, so that there is nothing to tell
  assert [word.text for word in first.agent.words] == ["red", "it"]  # written here, sounds in the next
  assert second.agent.words[0].written == pytest.approx(0.0)


def test_leads_are_drawn_per_recording_and_told(folder, config):
  config.data.text_leads = (0, 1, 2)
  source = RecordingsSource.open(manifest(folder, *({**GOOD, "id": str(number)} for number in range(12))), config)
  leads = set()
  for item in range(12):
    first, second = source.sessions(item)
    lead = int(first.world.fields["lead"])
    leads.add(lead)
    assert first.world.text() == f"lead: {lead}. name: Ada."
    word = second.agent.words[1]
    assert word.written == pytest.approx(max(0.0, word.start - lead * 0.16))
    assert [word.text for word in first.agent.words] == ["red", "it"][:lead]  # written here, sounds in the next
    assert next(source.sessions(item)).world.fields == first.world.fields
  assert leads == {0, 1, 2}


def test_two_channels_are_agent_left_user_right(folder, config):
  source = RecordingsSource.open(manifest(folder, {"path": "both.wav", "duration": 1.0}), config)
  first, _ = source.sessions(0)
  assert np.abs(first.agent.audio[50:-50] - 0.5).max() < 0.01
  assert np.abs(first.user.audio[50:-50] + 0.25).max() < 0.01
  assert first.agent.video is None


def test_recordings_become_records(folder, config, tmp_path):
  source = RecordingsSource.open(manifest(folder, GOOD, "", {**GOOD, "id": "two"}), config)
  made = make(config, source, tmp_path / "records", progress=False)
  opened, tokenizer = RecordFolder(tmp_path / "records"), TextTokenizer()
  assert made["sessions"] == opened.sessions == 4
  assert made["source"]["name"] == "recordings"
  assert opened.read_session(3).truth["source"] == "two/1"
  assert not opened.read_units(0)["user_video_valid"].any()
  assert tokenizer.decode(opened.read_units(1)["agent_text"].reshape(-1)) == "red it"


def test_recordings_shorter_than_a_session_are_an_error(folder, config, tmp_path):
  config.data.session_units = 8
  source = RecordingsSource.open(manifest(folder, GOOD), config)
  with pytest.raises(DataError, match="no session of 8 units"):
    make(config, source, tmp_path / "records", progress=False)
  assert not (tmp_path / "records").exists()


def changed(**changes):
  return {**GOOD, "id": "bad", **changes}


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("{", "not JSON"),
    ("[]", "expected an object"),
    (changed(usr={}), "unknown key: 'usr'; did you mean 'user'"),
    (changed(user={}), "user has neither video nor audio"),
    (changed(user={"audio": "no.wav"}), r"user\.audio: 'no.wav' is not a file"),
    (changed(user={"adio": "user.wav"}), "did you mean 'audio'"),
    (changed(user={"audio": "user.wav", "audio_track": -1}), "user.audio_track -1: expected a number from 0"),
    (changed(user={"audio": "user.wav", "audio_channel": "mid"}), "user.audio_channel 'mid': expected a number from 0"),
    (changed(user={"audio": "user.wav", "crop": [0, 0, 1, 1]}), "user.crop belongs to a picture, and there is none"),
    (changed(user={"audio": "user.wav", "video_start": 1}), "user.video_start belongs to a picture"),
    (
      changed(agent={**GOOD["agent"], "crop": [0, 0, 1]}),
      r"agent.crop \[0, 0, 1\]: expected \[left, top, width, height",
    ),
    (changed(agent={**GOOD["agent"], "crop": [0, 0, 0, 1]}), "expected left and top of at least 0, and a width"),
    (
      changed(agent={**GOOD["agent"], "crop": 2 * [{"time": 1, "box": [0, 0, 1, 1]}]}),
      "the times of its boxes do not rise",
    ),
    (changed(agent={**GOOD["agent"], "words": "no.json"}), "agent.words: 'no.json' is not a file"),
    (
      changed(agent={"audio": "agent.wav", "words": {"file": "user.wav", "speaker": 3}}),
      "words.speaker 3 is not text",
    ),
    (changed(agent={"audio": 300 * "a"}), "agent.audio: 'a*' is not a file"),
    (changed(agent={**GOOD["agent"], "words": "user.wav"}), "agent.words: transcript .*user.wav: not a text file"),
    (changed(agent={**GOOD["agent"], "world": {}}), "world is given for the line and for its agent; keep one"),
    (changed(agent={**GOOD["agent"], "speaker": 3}), "agent.speaker 3 is not text"),
    (changed(path="no.wav"), "path: 'no.wav' is not a file"),
    (changed(duration=0), "duration: 0 is not a number above 0"),
    (changed(duration="long"), "duration: 'long' is not a number"),
    (changed(id=""), "id '' is not text"),
    (changed(id="one"), "id 'one' was used at .*manifest.jsonl:1"),
    (changed(agent={**GOOD["agent"], "words": {}}), "agent.words: expected a list"),
    (changed(agent={**GOOD["agent"], "words": [{"text": " ", "start": 0, "end": 1}]}), r"words\[0\]: text ' ' is not"),
    (changed(agent={**GOOD["agent"], "words": [{"text": "a", "start": 2, "end": 1}]}), r"words\[0\]: from 2 s to 1 s"),
    (changed(agent={**GOOD["agent"], "words": [{"text": "a", "start": 2}]}), r"words\[0\]\.end: None is not a number"),
    (changed(events=[{"start": 0, "end": 1, "actor": "cat", "kind": "nod"}]), r"events\[0\]: needs an actor"),
    (changed(world={"name": "Ada"}), "world: unknown world key: 'name'"),
    (changed(world={"portrait": "no.png"}), "world: 'no.png' is not a file"),
  ],
)
def test_a_bad_line_is_named_by_its_number(folder, line, message):
  path = manifest(folder, GOOD, "", line)
  with pytest.raises(DataError, match=message) as caught:
    read_manifest(path)
  assert "manifest.jsonl:3: " in str(caught.value)
  assert "\n" not in str(caught.value)


def test_bad_lines_and_files_are_skipped_and_reported(folder, config, tmp_path):
  whole = (folder / "user.wav").read_bytes()
  (folder / "cut.wav").write_bytes(whole[: len(whole) // 3])
  write_wav(folder / "short.wav", [0.25], seconds=0.3)
  cut, short = ({**GOOD, "id": name, "user": {"audio": f"{name}.wav"}} for name in ("cut", "short"))
  path = manifest(folder, GOOD, "{", cut, short, changed(user={"audio": "no.wav"}), {**GOOD, "id": "last"})
  with pytest.raises(DataError, match=r"manifest.jsonl:2: not JSON"):
    RecordingsSource.open(path, config)
  source = RecordingsSource.open(path, config, skip_bad=True)
  made = make(config, source, tmp_path / "records", skip_bad=True, progress=False)
  report = read_report(tmp_path / "records")
  assert made["sessions"] == report["sessions"] == 4
  assert [entry["where"].rpartition(":")[2] for entry in report["skipped"]] == ["2", "3", "4", "5"]
  reasons = [entry["reason"] for entry in report["skipped"]]
  for reason, expected in zip(reasons, ("not JSON", "is truncated", "2 units, shorter", "'no.wav' is not a file")):
    assert expected in reason
  assert report["unused_units"] == 1 + 2 + 1  # a second is seven units, the last one begun
  assert RecordFolder(tmp_path / "records").read_session(3).truth["source"] == "last/1"


def test_a_file_that_cannot_be_read_is_named_with_its_line(folder, config, tmp_path):
  (folder / "cut.wav").write_bytes((folder / "user.wav").read_bytes()[:9000])
  path = manifest(folder, GOOD, changed(user={"audio": "cut.wav"}))
  with pytest.raises(MediaError, match=r"manifest.jsonl:2: \S*cut.wav is truncated.*; or pass --skip-bad to leave"):
    make(config, RecordingsSource.open(path, config), tmp_path / "records", progress=False)


def test_missing_empty_and_binary_manifests(tmp_path):
  with pytest.raises(DataError, match="No such file"):
    read_manifest(tmp_path / "no.jsonl")
  (tmp_path / "empty.jsonl").write_text("\n\n")
  with pytest.raises(DataError, match="has no line"):
    read_manifest(tmp_path / "empty.jsonl")
  (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x80")
  with pytest.raises(DataError, match="not a text file"):
    read_manifest(tmp_path / "binary.jsonl")


def test_two_channels_are_checked_as_other_media(folder, config):
  whole = (folder / "both.wav").read_bytes()
  (folder / "cut.wav").write_bytes(whole[: len(whole) // 3])
  source = RecordingsSource.open(manifest(folder, {"path": "cut.wav"}), config)
  with pytest.raises(MediaError, match="truncated"):
    next(source.sessions(0))


def test_a_line_may_hold_any_text(folder):
  line = {**GOOD, "id": "a\u2028b"}
  assert read_manifest(manifest(folder, json.dumps(line, ensure_ascii=False)))[0].id == "a\u2028b"


@pytest.mark.parametrize("duration", ["1" + "0" * 400, "1e400"])
def test_a_number_may_be_too_large(folder, duration):
  text = json.dumps({**GOOD, "duration": 0}).replace('"duration": 0', f'"duration": {duration}')
  with pytest.raises(DataError, match="is not a number above 0"):
    read_manifest(manifest(folder, text))


def test_a_line_may_be_nested_too_deeply(folder):
  with pytest.raises(DataError, match="not JSON"):
    read_manifest(manifest(folder, "[" * 100_000))


def test_a_path_needs_two_channels(folder, config):
  source = RecordingsSource.open(manifest(folder, {"path": "user.wav"}), config)
  with pytest.raises(DataError, match="two audio channels"):
    next(source.sessions(0))


def test_both_roles_double_the_data(folder, config, tmp_path):
  line = {**GOOD, "user": {**GOOD["user"], "speaker": "bob", "world": {"fields": {"name": "Bob"}}}, "roles": "both"}
  source = RecordingsSource.open(manifest(folder, line), config)
  assert source.items == 2
  (first, _), (swapped, _) = (source.sessions(item) for item in range(2))
  assert np.array_equal(first.user.audio, swapped.agent.audio)
  assert np.array_equal(first.agent.video, swapped.user.video)
  assert [word.text for word in swapped.agent.words] == ["hello"]
  assert swapped.user.words == ()
  assert [event.actor for event in swapped.events] == ["user"]
  assert (first.world.fields, swapped.world.fields) == ({"name": "Ada"}, {"name": "Bob"})
  assert (first.speaker, swapped.speaker) == ("", "bob")
  assert first.source != swapped.source
  made = make(config, source, tmp_path / "records", progress=False)
  assert made["sessions"] == 4
  assert RecordFolder(tmp_path / "records").speakers() == ["", "", "bob", "bob"]
  plain = RecordingsSource.open(manifest(folder, GOOD), config, roles="both")
  assert plain.items == 2  # asked for on the command line
  with pytest.raises(DataError, match="roles 'user': expected 'agent' or 'both'"):
    read_manifest(manifest(folder, {**GOOD, "roles": "user"}))


def test_the_end_of_a_recording_is_a_shorter_session(folder, config, tmp_path):
  """A second is seven units, the last one begun: five, and two."""
  config.data.session_units, config.data.min_session_units = 5, 2
  source = RecordingsSource.open(manifest(folder, GOOD), config)
  whole, rest = source.sessions(0)
  assert (whole.length, rest.length, rest.units) == (5, 2, 5)
  assert list(rest.agent.video_valid) == list(rest.agent.text_valid) == [True, True, False, False, False]
  assert np.abs(rest.agent.video[:8].astype(int) - 200).max() <= 2
  make(config, source, tmp_path / "records", progress=False)
  opened = RecordFolder(tmp_path / "records")
  assert list(opened.lengths) == [5, 2]
  assert opened.manifest["format"] == 2  # older programs would train on what does not exist
  assert read_report(tmp_path / "records")["unused_units"] == 0
  assert read_report(tmp_path / "records")["quality"][0]["cut_seconds"] == 0.1  # the user's sound lasts 1.1 s
  units = opened.read_units(1)
  for side in ("user", "agent"):
    for stream in ("audio", "text") + ("video",) * (side == "agent"):
      assert list(units[f"{side}_{stream}_valid"]) == [True, True, False, False, False]
  again = session_from_truth(opened.read_session(1).truth, units)
  assert (again.length, again.units) == (2, 5)
  config.data.min_session_units = 3
  late = {**GOOD, "user": {"audio": "user.wav", "words": [{"text": "bye", "start": 0.9, "end": 1.0}]}}
  make(config, RecordingsSource.open(manifest(folder, late), config), tmp_path / "whole", progress=False)
  assert RecordFolder(tmp_path / "whole").sessions == 1
  assert read_report(tmp_path / "whole")["quality"][0]["cut_words"] == {"user": 1, "agent": 0}


def test_what_nobody_wrote_down_is_not_silence(folder, config, tmp_path):
  unknown = {**GOOD, "agent": {"audio": "agent.wav"}}
  silent = {**GOOD, "id": "two", "agent": {"audio": "agent.wav", "words": []}}
  make(config, RecordingsSource.open(manifest(folder, unknown, silent), config), tmp_path / "records", progress=False)
  opened = RecordFolder(tmp_path / "records")
  assert [bool(opened.read_units(i)["agent_text_valid"].all()) for i in range(4)] == [False, False, True, True]
  assert all(opened.read_units(i)["user_text_valid"].all() for i in range(4))


def test_transcripts_lie_beside_moshi_files(folder, config):
  words = [["hello", [0.1, 0.2], "SPEAKER_MAIN"], ["yes", [0.3, 0.4], "SPEAKER_OTHER"]]
  (folder / "both.json").write_text(json.dumps({"alignments": words}), encoding="utf-8-sig")
  path = folder / "manifest.jsonl"
  path.write_text(json.dumps({"path": "both.wav"}) + "\n", encoding="utf-8-sig")
  (line,) = read_manifest(path)
  assert [word.text for word in line.sides["agent"].words] == ["hello"]
  assert [word.text for word in line.sides["user"].words] == ["yes"]
  (folder / "both.json").write_text(json.dumps({"alignments": words[:1]}))
  assert read_manifest(path)[0].sides["user"].words is None  # only the agent was transcribed
  others = [[word, times, name] for (word, times, _), name in zip(words, ("ada", "ben"))]
  (folder / "both.json").write_text(json.dumps({"alignments": others}))
  with pytest.raises(DataError, match="words of 'ada', 'ben', but none of 'SPEAKER_MAIN', .*: say whose they are"):
    read_manifest(path)  # the agent did not say nothing
  (folder / "both.json").write_text(json.dumps({"licence": "CC0"}))
  assert read_manifest(path)[0].sides["agent"].words is None  # something else of that name
  (folder / "both.json").write_text("{")
  with pytest.raises(DataError, match=r'user.words: transcript \S*both.json: not JSON .*or give "words"'):
    read_manifest(path)


def test_records_of_other_transcripts_are_not_continued(folder, config, tmp_path):
  (folder / "both.json").write_text(json.dumps({"alignments": [["hello", [0.1, 0.2], "SPEAKER_MAIN"]]}))
  path = manifest(folder, {"path": "both.wav"})
  make(config, RecordingsSource.open(path, config), tmp_path / "records", progress=False)
  (folder / "both.json").write_text(json.dumps({"alignments": [["goodbye", [0.1, 0.2], "SPEAKER_MAIN"]]}))
  with pytest.raises(DataError, match="exists already, made with other settings"):
    make(config, RecordingsSource.open(path, config), tmp_path / "records", progress=False)


def test_gaps_keep_their_time_in_two_channels(folder, config):
  """Packets are missing from 0.4 to 0.7 s."""
  with av.open(str(folder / "gap.mka"), "w", format="matroska") as container:
    stream = container.add_stream("pcm_s16le", rate=RATE, layout="stereo")
    for begin in range(0, RATE, 960):
      if not 0.4 <= begin / RATE < 0.7:
        frame = av.AudioFrame.from_ndarray(np.full((1, 1920), 16384 * (begin > 0.9 * RATE), np.int16), "s16", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
        container.mux(stream.encode(frame))
  sounds = []
  for line in ({"path": "gap.mka"}, {"id": "x", "user": {"audio": "gap.mka"}, "agent": {"audio": "gap.mka"}}):
    sessions = RecordingsSource.open(manifest(folder, line), config).sessions(0)
    sound = np.concatenate([session.user.audio for session in sessions])
    sounds.append(int((np.abs(sound) > 0.25).argmax()) / config.media.sample_rate)
  assert sounds == pytest.approx([0.92, 0.92], abs=0.02)


def test_records_with_other_leads_are_refused(folder, config, tmp_path):
  """An agent that was told its lead in training must be told it when it is served, and the config decides that."""
  config.data.text_leads = (1, 2)
  make(config, RecordingsSource.open(manifest(folder, GOOD), config), tmp_path / "records", progress=False)
  opened = RecordFolder(tmp_path / "records")
  opened.check(config, TextTokenizer())
  config.data.text_leads = None
  with pytest.raises(DataError, match=r"was made with leads = \[1, 2\], but the config has None"):
    opened.check(config, TextTokenizer())
  del opened.manifest["text"]["leads"]  # as older records, whose agents were told nothing
  opened.check(config, TextTokenizer())
  config.data.text_leads = (1, 2)
  with pytest.raises(DataError, match=r"was made with leads = None, but the config has \[1, 2\]"):
    opened.check(config, TextTokenizer())


def test_workers_make_the_same_files(folder, config, tmp_path):
  lines = [{**GOOD, "id": str(number)} for number in range(2)]
  source = RecordingsSource.open(manifest(folder, *lines), config)
  one, two = (make(config, source, tmp_path / str(n), workers=n, progress=False) for n in (1, 2))
  assert one["shards"] == two["shards"]


def test_training_may_hear_speakers_in_turn(folder, config, tmp_path):
  """Ada has three recordings and Bob one; with `data.by_speaker` each is the agent of every second crop."""
  named = lambda number, speaker: {**GOOD, "id": str(number), "agent": {**GOOD["agent"], "speaker": speaker}}
  lines = [named(number, "bob" if number == 2 else "ada") for number in range(4)]
  make(config, RecordingsSource.open(manifest(folder, *lines), config), tmp_path / "records", progress=False)
  config.data.units, config.data.batch = 2, 2
  for by_speaker in (False, True):
    config.data.by_speaker = by_speaker
    loader = Loader(tmp_path / "records", config)
    speakers = loader.folders[0].speakers()
    pairs = [[speakers[place.session] for place in loader.places(step)] for step in range(12)]
    assert all(sorted(pair) == ["ada", "bob"] for pair in pairs) == by_speaker
