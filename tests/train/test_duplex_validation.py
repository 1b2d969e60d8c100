"""What the duplex stage looks at while it trains: held-out rollouts and their picture; errors before the first step."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from tests.helpers.fake_sessions import FakeSource
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.data.encode import encode
from wanstreamer_jax.data.make import make
from wanstreamer_jax.errors import ConfigError, DataError, UserError
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.train import duplex_validation
from wanstreamer_jax.train.checkpoint import Checkpoints
from wanstreamer_jax.train.loop import start_state
from wanstreamer_jax.train.optim import trainable
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.weights import agent as agent_weights
from wanstreamer_jax.weights.store import export_weights, read_weights

UNITS = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """nano with held-out latents and an exported agent for its codecs."""
  agent, base = nano_agent(f"data.units={UNITS}"), tmp_path_factory.mktemp("validate")
  make(agent.config, FakeSource(agent.config, duplex_validation.SESSIONS, UNITS), base / "media", progress=False)
  encode(base / "media", agent.audio_codec, agent.video_codec, agent.config, base / "latents", progress=False)
  agent_weights.export_agent(agent, base / "agent", "f32")
  config = agent.config.replace()
  config.data.heldout, config.train.codecs = str(base / "latents"), str(base / "agent")
  config.data.path = config.data.heldout
  return config


def frozen(config, **changes):
  copy = config.replace()
  for name, value in changes.items():
    setattr(copy.data if name == "heldout" else copy.train, name, value)
  return copy.freeze()


def test_a_rollout_is_scored_and_drawn(config, tmp_path):
  metrics = duplex_validation.validate(nano_agent(f"data.units={UNITS}").streamer, frozen(config), tmp_path, 7)
  once = {"writes", "sounds", "words_in_place"}
  assert set(metrics) == {*once, *(f"{name}_augmented" for name in once), "should_write", "should_sound"}
  assert all(np.isfinite(list(metrics.values())))
  assert metrics["should_write"] == 1 / UNITS  # both words of every fake session are written in one unit
  assert min(Image.open(tmp_path / "pictures" / "rollout_000007.png").size) > 300


def test_users_are_changed_for_the_second_figures_only(config):
  plain, changed = (duplex_validation._held_out(frozen(config), augment) for augment in (False, True))
  for name in plain._fields:
    same = np.array_equal(getattr(plain, name), getattr(changed, name))
    assert same == (name not in ("user_audio", "user_video")), name


def test_a_batch_that_is_cut_into_more_parts_than_sessions_are_validated(config):
  many = config.replace()
  many.data.batch, many.data.shares, many.train.accumulate = 16, 16, 8
  assert len(duplex_validation._held_out(many.freeze()).session) == duplex_validation.SESSIONS


def test_nothing_is_validated_where_nothing_is_given(config, tmp_path):
  streamer = nano_agent(f"data.units={UNITS}").streamer
  assert duplex_validation.validate(streamer, frozen(config, heldout=""), tmp_path, 7) == {}
  assert duplex_validation.validate(streamer, frozen(config, codecs=""), tmp_path, 7) == {}
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["codecs", "heldout"])
def test_held_out_records_and_codecs_come_together(config, missing):
  with pytest.raises(ConfigError, match=f"{missing} is not: evaluations while training need both"):
    duplex_validation.check(frozen(config, **{missing: ""}))


def test_latents_of_other_codecs_are_refused(config, tmp_path):
  agent = nano_agent(f"data.units={UNITS}")
  other = agent_weights.with_streamer(
    agent.streamer, jax.tree.map(lambda x: 1.1 * x, agent.audio_codec), agent.video_codec
  )
  agent_weights.export_agent(other, tmp_path / "other", "f32")
  duplex_validation.check(frozen(config))
  with pytest.raises(DataError, match="were made by other codecs"):
    duplex_validation.check(frozen(config, codecs=str(tmp_path / "other")))


@pytest.mark.parametrize(
  "changes", [{"heldout": "nowhere"}, {"codecs": "nowhere"}, {"codecs": "nowhere,nothing"}], ids=str
)
def test_what_cannot_be_read_is_said_before_the_first_step(config, changes):
  with pytest.raises(UserError, match="nowhere"):
    duplex_validation.check(frozen(config, **changes))


def test_a_new_run_takes_the_latents_variances_from_its_records(config, tmp_path):
  """They are constants: training, averaging and exporting leave them as they are."""
  agent = nano_agent(f"data.units={UNITS}")
  stated = json.loads((pathlib.Path(config.data.path) / "manifest.json").read_text())["residual_std"]
  wanted = {f"heads.{name}_variance": np.square(np.asarray(values, np.float32)) for name, values in stated.items()}
  assert {name: len(values) for name, values in wanted.items()} == {
    "heads.audio_variance": config.audio_codec.latent_dim, "heads.video_variance": config.video_codec.latent_dim,
  }  # fmt: skip
  run = frozen(config, heldout="", codecs="", run=str(tmp_path / "run"))
  stage = get_stage("duplex")
  with Checkpoints(tmp_path / "run" / "checkpoints", run) as checkpoints:
    state = start_state(stage, run, make_mesh("data=1"), checkpoints)
  for tree in (state.params, state.ema):
    leaves = named_leaves(tree)
    for name, value in wanted.items():
      np.testing.assert_array_equal(leaves[name], value)
  moving = named_leaves(trainable(run.train, stage.frozen, state.params))
  assert {name for name, moves in moving.items() if not moves} == wanted.keys()
  assert not any("variance" in name for name in named_leaves(state.optimizer))
  export_weights(state.averaged, run, tmp_path / "export", "bf16")
  _, exported = read_weights(tmp_path / "export")
  for name, value in wanted.items():
    np.testing.assert_array_equal(exported[name], value)  # in float32, whatever the export's dtype

  fewer = agent.config.replace()
  fewer.audio_codec.source_filter.latent_dim, fewer.data.path = 4, config.data.path
  with pytest.raises(DataError, match="states residual_std of 8 audio channels, not of 4"):
    get_stage("duplex").constants(fewer.freeze())
