"""Importers: miniature trees in the layouts of the corpora become manifests that can be read."""

import json

import numpy as np
import pytest

from tests.helpers.fake_sessions import small_config
from tests.helpers.media_files import halves, tone, write_audio, write_tracks, write_video
from wanstreamer_jax.cli.main import main
from wanstreamer_jax.data.importers.ami import ami, read_words
from wanstreamer_jax.data.importers.imported import ImportOptions
from wanstreamer_jax.data.importers.seamless import seamless
from wanstreamer_jax.data.importers.stereo import stereo
from wanstreamer_jax.data.manifest import read_manifest
from wanstreamer_jax.data.recordings import RecordingsSource
from wanstreamer_jax.errors import DataError


def read(found, out):
  found.write(out)
  return read_manifest(out)


def bundle(folder, name, words, empty=False):
  """One participant's four files of Seamless Interaction."""
  picture = [halves(36, 64)] * 30
  write_video(folder / f"{name}.mp4", picture, fps=30)
  write_audio(folder / f"{name}.wav", tone(1.0, 48_000), 48_000)
  if empty:
    (folder / f"{name}.wav").write_bytes(b"RIFF")
  spoken = [{"word": word, "start": start, "end": start + 0.1, "score": 0.5} for word, start in words]
  spoken.append({"word": "42", "start": None, "end": None})
  transcript = [{"words": spoken, "start": 0.0, "end": 0.9, "transcript": "-"}]
  value = {"id": name, "metadata:transcript": transcript, "metadata:vad": [{"start": 0.1, "end": 0.9}]}
  (folder / f"{name}.json").write_text(json.dumps(value))
  points = np.zeros((30, 133, 3), np.float32)
  points[:, 23:91] = [40.0, 10.0, 0.9]
  points[:, 23] = [36.0, 6.0, 0.9]  # the face: 36..44, 6..14
  points[:, 24] = [44.0, 14.0, 0.9]
  valid = np.arange(30) > 2
  points[~valid] = 0
  keys = {"box": np.zeros((30, 4), np.float32), "is_valid_box": valid, "keypoints": points}
  np.savez_compressed(folder / f"{name}.npz", **{f"boxes_and_keypoints:{key}": value for key, value in keys.items()})


@pytest.fixture(scope="module")
def interaction(tmp_path_factory):
  folder = tmp_path_factory.mktemp("seamless")
  inner = folder / "improvised" / "dev" / "0000" / "0005"
  inner.mkdir(parents=True)
  bundle(inner, "V00_S0809_I00000582_P0947", [("hello", 0.2)])
  bundle(inner, "V00_S0809_I00000582_P0950A", [("hi", 0.5)])
  bundle(inner, "V00_S0809_I00000583_P0947", [])  # its partner is in an archive that was not downloaded
  bundle(inner, "V01_S0346_I00000726_P1694", [], empty=True)
  bundle(inner, "V01_S0346_I00000726_P1695", [])
  return folder


def test_seamless_interaction(interaction, tmp_path):
  found = seamless(interaction)
  (line,) = read(found, tmp_path / "m.jsonl")
  assert line.id == "V00_S0809_I00000582"
  assert line.roles == "both"
  assert [line.sides[side].speaker for side in ("user", "agent")] == ["P0947", "P0950"]
  assert [(word.text, word.start) for word in line.sides["user"].words] == [("hello", 0.2), ("42", 0.3)]
  box = line.sides["user"].video.boxes[0]  # three faces high, around 40, 10, inside 64 x 36
  assert (box.width, box.height) == (42, 24)
  assert box.left + box.width / 2 == pytest.approx(40, abs=1)
  assert box.top == 0
  assert dict(found.left_out).keys() == {"V00_S0809_I00000583", "V01_S0346_I00000726"}
  assert "a conversation needs two" in dict(found.left_out)["V00_S0809_I00000583"]
  assert "P1694 has no .wav, or an empty one" in dict(found.left_out)["V01_S0346_I00000726"]
  config = small_config()
  config.data.session_units = config.data.min_session_units = 6
  source = RecordingsSource.open(tmp_path / "m.jsonl", config)
  sessions = [next(source.sessions(item)) for item in range(source.items)]
  assert [session.speaker for session in sessions] == ["P0950", "P0947"]
  assert all(session.agent.video is not None for session in sessions)


def test_seamless_interaction_in_folders_by_kind(interaction, tmp_path):
  flat = interaction / "improvised" / "dev" / "0000" / "0005"
  for name in ("V00_S0809_I00000582_P0947", "V00_S0809_I00000582_P0950A"):
    for kind, suffix in (("video", ".mp4"), ("audio", ".wav")):
      (tmp_path / kind).mkdir(exist_ok=True)
      (tmp_path / kind / f"{name}{suffix}").write_bytes((flat / f"{name}{suffix}").read_bytes())
    (tmp_path / "transcript").mkdir(exist_ok=True)
    segments = json.loads((flat / f"{name}.json").read_text())["metadata:transcript"]
    text = "".join(json.dumps(segment) + "\n" for segment in segments)
    (tmp_path / "transcript" / f"{name}.jsonl").write_text(text)
  (line,) = read(seamless(tmp_path, ImportOptions(roles="agent", crop=False)), tmp_path / "m.jsonl")
  assert [word.text for word in line.sides["agent"].words] == ["hi", "42"]
  assert line.sides["agent"].video.boxes == ()
  assert line.roles == "agent"


@pytest.fixture(scope="module")
def meetings(tmp_path_factory):
  """A meeting of four, in which B and D take turns, and one without annotations."""
  folder = tmp_path_factory.mktemp("ami")
  audio, video = folder / "amicorpus/ES2002a/audio", folder / "amicorpus/ES2002a/video"
  for inner in (audio, video, folder / "words", folder / "corpusResources"):
    inner.mkdir(parents=True)
  for channel in range(4):
    write_audio(audio / f"ES2002a.Headset-{channel}.wav", tone(2.0, 16_000), 16_000)
  write_audio(audio / "ES2002a.Mix-Headset.wav", tone(2.0, 16_000), 16_000)
  write_video(video / "ES2002a.Closeup4.avi", [halves(36, 44)] * 50)
  nite = 'xmlns:nite="http://nite.sourceforge.net/"'
  people = (("A", 0, 1), ("B", 2, 4), ("C", 1, 2), ("D", 3, 3))
  speakers = "".join(
    f'<speaker nite:id="s{a}" nxt_agent="{a}" channel="{c}" camera="Closeup{n}" global_name="FEE00{c}"/>'
    for a, c, n in people
  )
  (folder / "corpusResources" / "meetings.xml").write_text(
    f'<?xml version="1.0" encoding="ISO-8859-1"?><nite:root {nite}><meeting nite:id="m" observation="ES2002a">'
    f"{speakers}</meeting></nite:root>"
  )
  said = {"A": (0.1,), "B": (0.2, 1.5), "C": (), "D": (0.9, 1.9)}
  for agent, starts in said.items():
    words = "".join(
      f'<w nite:id="{agent}{i}" starttime="{start}" endtime="{start + 0.05}">so</w>'
      f'<w nite:id="{agent}{i}p" starttime="{start + 0.05}" endtime="{start + 0.05}" punc="true">,</w>'
      for i, start in enumerate(starts)
    )
    text = f'<?xml version="1.0" encoding="ISO-8859-1"?><nite:root {nite}>{words}<w nite:id="x">um</w></nite:root>'
    (folder / "words" / f"ES2002a.{agent}.words.xml").write_text(text, encoding="latin-1")
  other = folder / "amicorpus/IS1000a/audio"
  other.mkdir(parents=True)
  for channel in range(3):
    write_audio(other / f"IS1000a.Headset-{channel}.wav", tone(1.0, 16_000), 16_000)
  return folder


def test_ami_meetings_give_the_pair_that_talks(meetings, tmp_path):
  found = ami(meetings)
  talk, bare = read(found, tmp_path / "m.jsonl")
  assert talk.id == "ES2002a-B-D"
  assert [talk.sides[side].audio.file[-13:] for side in ("user", "agent")] == ["Headset-2.wav", "Headset-3.wav"]
  assert talk.sides["user"].video.file.endswith("ES2002a.Closeup4.avi")
  assert talk.sides["agent"].video is None
  assert [word.text for word in talk.sides["user"].words] == ["so,", "so,", "um"]  # of "um" no time is known
  assert talk.sides["user"].speaker == "FEE002"
  assert bare.id == "IS1000a-A-B"
  assert bare.sides["user"].words is None
  assert [what for what, _ in found.left_out] == ["ES2002a", "IS1000a"]
  assert len(ami(meetings, ImportOptions(pairs=6)).lines) == 6 + 3


def test_ami_words_with_broken_times_are_one_line(tmp_path):
  (tmp_path / "x.words.xml").write_text('<r><w starttime="a.b" endtime="1.0">so</w></r>')
  with pytest.raises(DataError, match=r"x.words.xml: the word 'so' has the times \('a.b', '1.0'\): expected seconds"):
    read_words(tmp_path / "x.words.xml")


def test_a_folder_of_two_channel_files(tmp_path):
  folder = tmp_path / "calls"
  folder.mkdir()
  sound = tone(1.0, 8_000)
  write_tracks(folder / "a.wav", [np.stack([sound, sound])], 8_000)
  write_audio(folder / "one.wav", sound, 8_000)
  (folder / "text.wav").write_text("not sound")
  (folder / "a.json").write_text(json.dumps({"alignments": [["hi", [0.1, 0.2], "SPEAKER_MAIN"]]}))
  found = stereo(folder)
  (line,) = read(found, tmp_path / "m.jsonl")
  assert line.duration == 1.0
  assert [word.text for word in line.sides["agent"].words] == ["hi"]
  assert line.sides["user"].words is None
  assert [what for what, _ in found.left_out] == ["one.wav", "text.wav"]
  assert "1 channels: two people need one each" in found.left_out[0][1]


@pytest.mark.parametrize("importer", [seamless, ami, stereo])
def test_folders_that_hold_nothing_are_one_line(importer, tmp_path):
  with pytest.raises(DataError, match="is not a folder"):
    importer(tmp_path / "none")
  with pytest.raises(DataError, match="no recording of two people was found"):
    importer(tmp_path).write(tmp_path / "m.jsonl")
  assert not (tmp_path / "m.jsonl").exists()


def test_the_commands(meetings, tmp_path, capsys):
  out = tmp_path / "ami.jsonl"
  assert main(["data", "import", "ami", str(meetings), "--out", str(out)]) == 0
  printed = capsys.readouterr().out
  assert "ami.jsonl: 2 recordings, roles: both" in printed
  assert "CC BY 4.0" in printed
  assert "pairs who exchange fewer turns" in printed
  short = ["--config.data.min_session_units=3", "--config.data.units=10"]
  assert main(["data", "check", str(out), "--config", "configs/nano.py", *short]) == 0
  printed = capsys.readouterr().out
  assert "4 recordings (roles counted), 4 usable" in printed
  assert "2 recordings do not say what the agent said" in printed
