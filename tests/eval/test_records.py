"""Evaluation on records: media and latents alike, baselines beside, files, and one line for what does not fit."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.helpers.fake_sessions import FakeSource, fake_session
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.cli.main import main
from wanstreamer_jax.data.encode import encode
from wanstreamer_jax.data.loader import read_crop
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.session import Word
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.eval import records, report
from wanstreamer_jax.eval.baselines import PUPPETS, VARIANTS
from wanstreamer_jax.eval.latent_errors import copy_errors
from wanstreamer_jax.eval.records import RecordsOptions, evaluate_records
from wanstreamer_jax.weights.agent import export_agent, with_streamer

UNITS = 8  # two crops of 4
OPTIONS = RecordsOptions(sessions=3, baseline_sessions=2, batch=2)


@dataclasses.dataclass(frozen=True)
class Calls(FakeSource):
  """Users who speak from 0.2 to 0.6 s; agents who answer; the last agent has no pictures."""

  tracks: tuple[str, ...] = ()

  def sessions(self, item):
    session = fake_session(item, self.config, self.units)
    user = dataclasses.replace(session.user, speech=(Word("hello", 0.2, 0.2, 0.6),))
    video = None if item == self.items - 1 else session.agent.video
    yield dataclasses.replace(session, user=user, agent=dataclasses.replace(session.agent, video=video))
    return 0


@pytest.fixture(scope="module")
def agent():
  return nano_agent("layout.window=3", "layout.world_text=16", "data.units=4")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, agent):
  base = tmp_path_factory.mktemp("records")
  make(agent.config, Calls(agent.config, 3, UNITS), base / "media", progress=False)
  encode(base / "media", agent.audio_codec, agent.video_codec, agent.config, base / "latents", progress=False)
  return base


@pytest.fixture(scope="module")
def evaluations(agent, folders):
  options = {"media": OPTIONS._replace(stream=False), "latents": OPTIONS}
  return {kind: evaluate_records(agent, folders / kind, options[kind], progress=False) for kind in options}


def test_every_variant_stands_beside_the_recorded_agent(evaluations):
  loop = evaluations["latents"].figures["open_loop"]
  assert list(loop) == ["truth", *VARIANTS, *PUPPETS]
  baselines = dict.fromkeys((*VARIANTS[1:], *PUPPETS), 2)
  assert {name: loop[name]["sessions"] for name in loop} == {"truth": 3, "model": 3, **baselines}
  assert loop["model"]["overlap_per_minute"]["n"] == 3
  found = {kind: evaluation.figures["records"] for kind, evaluation in evaluations.items()}
  assert {kind: figures["codecs"] for kind, figures in found.items()} == {"media": "own", "latents": "same"}
  assert {figures["units"] for figures in found.values()} == {UNITS}


def test_the_truth_of_media_is_the_media(agent, folders):
  """And of latents what the codec makes of them, at the same length."""
  config, found = agent.config, {}
  for kind in ("media", "latents"):
    batch = next(records.read(agent, RecordFolder(folders / kind), OPTIONS, UNITS))
    did = records.recorded_agents(agent, batch)
    found[kind] = records._conversation(batch, 1, records._script(batch, 1, did.audio[1], config), did)
  media = RecordFolder(folders / "media").read_units(1)
  assert np.array_equal(found["media"].agent_video, media["agent_video"].reshape(-1, 32, 32, 3))
  assert np.array_equal(found["media"].user_audio, found["latents"].user_audio)
  assert found["latents"].agent_audio.shape == found["media"].agent_audio.shape
  assert [talk.script.speech for talk in found.values()] == [((0.2, 0.6),)] * 2


def test_errors_of_media_and_of_their_latents_are_the_same(evaluations):
  media, latents = (evaluations[kind].figures["teacher_forced"] for kind in ("media", "latents"))
  assert media["units"] == latents["units"]
  for variant in VARIANTS:
    for stream in ("audio", "video"):
      assert media[variant][stream]["all"] == pytest.approx(latents[variant][stream]["all"], rel=0.01)
  assert media["model"]["text"]["tokens"] == pytest.approx(latents["model"]["text"]["tokens"], rel=1e-3)


def test_units_without_a_stream_have_no_errors_of_it(agent, folders):
  units = RecordFolder(folders / "media").read_units(2)
  assert not units["agent_video_valid"].any()
  crop = read_crop(RecordFolder(folders / "latents"), 2, 4, 4)
  errors = copy_errors(crop)
  assert np.isnan(errors.video).all()
  assert np.isfinite(errors.audio).all()


def test_files_and_table(evaluations, agent, tmp_path):
  files = report.write_report(evaluations["latents"], tmp_path, agent.config.media, TextTokenizer())
  written = json.loads(files["eval.json"].read_text())
  assert written["records"]["kind"] == "latents"
  assert files["eval.png"].stat().st_size > 50_000
  table = report.lines(evaluations["latents"].figures)
  assert any(line.startswith("overlap, seconds a minute") for line in table)
  assert not any(line.startswith("right answers") for line in table)


def test_errors_only(evaluations, agent, tmp_path):
  found = evaluations["media"]
  assert (found.figures["open_loop"], found.conversations) == ({}, {})
  assert found.figures["teacher_forced"]["units"]["all"] == 3 * UNITS
  report.write_report(found, tmp_path, agent.config.media, TextTokenizer())
  assert np.isfinite(found.figures["teacher_forced"]["model"]["video"]["all"])


def test_a_session_that_ends_early_is_judged_as_long_as_it_is(agent, folders):
  batch = next(records.read(agent, RecordFolder(folders / "media"), OPTIONS, UNITS))._replace(lengths=[UNITS, 5])
  did = records.recorded_agents(agent, batch)
  talks = [records._conversation(batch, r, records._script(batch, r, did.audio[r], agent.config), did) for r in (0, 1)]
  assert [len(talk.agent_text) for talk in talks] == [UNITS, 5]
  assert [len(talk.user_audio) for talk in talks] == [UNITS * 3840, 5 * 3840]
  assert [len(talk.agent_video) for talk in talks] == [UNITS * 4, 5 * 4]


def test_sessions_can_be_cut_short(agent, folders):
  folder = RecordFolder(folders / "latents")
  lengths = [records.units_of(folder, agent.config, OPTIONS._replace(seconds=s)) for s in (None, 0.64, 0.001, 99)]
  assert lengths == [UNITS, 4, 1, UNITS]


def test_other_codecs_are_told(agent, folders, capsys):

  other = with_streamer(agent.streamer, jax.tree.map(lambda x: 1.1 * x, agent.audio_codec), agent.video_codec)
  found = evaluate_records(other, folders / "latents", OPTIONS._replace(stream=False), progress=False)
  assert found.figures["records"]["codecs"] == "other"
  assert "were made by other codec weights" in capsys.readouterr().out


def test_one_session_and_records_of_another_agent_are_refused(agent, tmp_path):
  make(agent.config, Calls(agent.config, 1, UNITS), tmp_path / "one", progress=False)
  with pytest.raises(DataError, match="has 1 session: expected at least 2"):
    evaluate_records(agent, tmp_path / "one", OPTIONS, progress=False)
  other = nano_agent("layout.window=3", "layout.world_text=16", "data.units=4", "layout.text_slots=3")
  with pytest.raises(DataError, match="slots = 2, but the config has 3"):
    evaluate_records(other, tmp_path / "one", OPTIONS, progress=False)


def test_the_command(agent, folders, tmp_path, capsys):
  export_agent(agent, tmp_path / "agent", "f32")
  command = ["eval", "--checkpoint", str(tmp_path / "agent"), "--out", str(tmp_path / "out")]
  assert not main([*command, "--records", str(folders / "latents"), "--sessions", "2", "--no-stream"])
  assert "video latent error, listening" in capsys.readouterr().out
  assert (tmp_path / "out" / "eval.json").exists()
  assert main([*command, "--dnsmos"]) == 2
  assert "--dnsmos goes with --records DIR" in capsys.readouterr().err
  assert main([*command, "--records", "x", "--no-stream", "--dnsmos"]) == 2
