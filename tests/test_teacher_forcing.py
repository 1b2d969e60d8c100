"""Law 10: teacher-forced errors, their splits and their baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.fake_sessions import fake_session
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.eval import heldout, latent_errors
from wanstreamer_jax.eval.latent_errors import Tally, unit_errors, unit_states, variant_of
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.teacher_forcing import crop_history, crop_latents

UNITS, SESSIONS = 9, 3


@pytest.fixture(scope="module")
def agent():
  return nano_agent("data.units=4")


@pytest.fixture(scope="module")
def batch(agent):
  tokenizer = TextTokenizer()
  sessions = [fake_session(seed, agent.config, UNITS) for seed in range(SESSIONS)]
  rows = heldout.stack([heldout.session_arrays(session, agent.config, tokenizer) for session in sessions])
  return heldout.with_latents(agent, rows)


def test_crops_cover_whole_sessions_and_carry_the_units_before(batch):
  crops = list(heldout.crops(batch, 4))
  assert [crop["start"].tolist() for crop in crops] == [[0] * SESSIONS, [4] * SESSIONS]
  assert not crops[0]["previous_agent_audio_valid"].any()
  assert crops[1]["previous_agent_video_valid"].all()
  for name in ("agent_audio_latent", "agent_video_latent"):
    np.testing.assert_array_equal(crops[1][f"previous_{name}"], batch[name][:, 2:4])
    np.testing.assert_array_equal(crops[1][name], batch[name][:, 4:8])


@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("start", [0, 4])
def test_a_crop_is_shown_the_history_that_a_rollout_remembers(batch, start, delay):
  crop = next(crop for crop in heldout.crops(batch, 4) if crop["start"][0] == start)
  row = {name: jnp.asarray(x[0]) for name, x in crop.items()}
  row["agent_video_valid"] = row["agent_video_valid"].at[1].set(False)  # the agent's camera failed in one unit
  history = crop_history(row, crop_latents(row), jnp.zeros(6), jnp.ones(6, bool), delay)
  audio, video = batch["agent_audio_latent"][0], batch["agent_video_latent"][0]
  for k in range(4):
    for age, shown, valid in ((delay, history.commit, history.commit_valid),
                              (1, history.previous, history.previous_valid)):  # fmt: skip
      unit = start + k - age
      assert valid[k].tolist() == [unit >= 0 and unit != start + 1, unit >= 0]
      if unit >= 0:
        np.testing.assert_array_equal(shown.audio[k], audio[unit])
        np.testing.assert_array_equal(shown.video[k], video[unit])


def test_result_has_every_split_of_every_variant(agent, batch):
  tally = Tally(agent.streamer)
  for crop in heldout.crops(batch, 4):
    tally.add(crop)
  result = tally.result()
  assert result["units"]["all"] == 2 * SESSIONS * 4
  assert result["units"]["onsets"] == SESSIONS  # the fake agent speaks once
  for variant in latent_errors.VARIANTS:
    for kind in ("audio", "video"):
      assert result[variant][kind]["all"] > 0
  assert result["model"]["audio"]["all"] != result["shuffled_user"]["audio"]["all"]
  assert result["model"]["text"]["words"] != result["text_only"]["text"]["words"]
  assert np.isnan(result["copy_previous"]["text"]["words"])


def test_sessions_that_only_fill_a_batch_do_not_count(agent, batch):
  crop = next(iter(heldout.crops(batch, 4)))
  every, first = Tally(agent.streamer), Tally(agent.streamer)
  every.add(crop)
  first.add(crop, 1)
  assert first.result()["units"]["all"] == 4
  np.testing.assert_array_equal(first.kept["model"][0].video, every.kept["model"][0].video[:1])


def test_the_error_is_that_of_the_posterior_mean(agent, batch):
  """A head that answers a constant, whatever it reads, is wrong by the mean square of what is left."""
  crop = next(iter(heldout.crops(batch, 4)))
  row = {name: jnp.asarray(x[0]) for name, x in crop.items() if name != "agent_speaking"}
  leaves = named_leaves(agent.streamer)
  constant = {"heads.audio.w": 0.0, "heads.video.w": 0.0, "heads.audio.b": 0.3, "heads.video.b": -0.2}
  leaves |= {name: jnp.full_like(leaves[name], value) for name, value in constant.items()}
  found = jax.jit(unit_errors)(fill_leaves(agent.streamer, leaves), row, jax.random.key(0))
  truth = {kind: np.asarray(crop[f"agent_{kind}_latent"][0], np.float32) for kind in ("audio", "video")}
  np.testing.assert_allclose(found.audio, np.square(truth["audio"] - 0.3).mean((1, 2)), rtol=1e-4)
  np.testing.assert_allclose(found.video, np.square(truth["video"] + 0.2).mean((1, 2, 3)), rtol=1e-4)


def test_copying_is_right_about_what_stands_still(batch):
  crop = next(iter(heldout.crops(batch, 4)))
  row = {name: jnp.asarray(x[0]) for name, x in crop.items() if name != "agent_speaking"}
  still = row | {"agent_audio_latent": jnp.ones_like(row["agent_audio_latent"])}
  still["previous_agent_audio_latent"] = jnp.ones_like(row["previous_agent_audio_latent"])
  assert float(latent_errors.copy_errors(still).audio.max()) == 0.0
  assert float(latent_errors.copy_errors(row).audio.min()) > 0.0


def test_copy_previous_compares_with_the_unit_before(batch):
  crop = list(heldout.crops(batch, 4))[1]
  row = {name: jnp.asarray(x[1]) for name, x in crop.items() if name != "agent_speaking"}
  found = latent_errors.copy_errors(row).video
  z = np.asarray(batch["agent_video_latent"][1], np.float32)
  expected = np.square(z[4:8] - z[3:7]).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_shuffled_user_swaps_the_whole_user_and_nothing_else(batch):
  crop = next(iter(heldout.crops(batch, 4)))
  shuffled = variant_of(crop, "shuffled_user")
  for name, x in crop.items():
    other = np.roll(x, 1, axis=0) if name.startswith("user_") else x
    np.testing.assert_array_equal(shuffled[name], other)
  assert not np.array_equal(shuffled["user_audio"], crop["user_audio"])


def test_text_only_changes_the_answer_and_hides_sound_and_picture(agent, batch):
  crop = next(iter(heldout.crops(batch, 4)))
  mute = variant_of(crop, "text_only")
  loud = mute | {"user_audio": crop["user_audio"] + 99, "user_video": 255 - crop["user_video"]}
  tally = Tally(agent.streamer)
  keys = jax.random.split(jax.random.key(0), SESSIONS)
  results = [
    tally._errors(agent.streamer, {k: v for k, v in b.items() if k != "agent_speaking"}, keys)
    for b in (mute, loud, crop)
  ]
  np.testing.assert_array_equal(results[0].audio, results[1].audio)
  assert np.abs(results[0].audio - results[2].audio).max() > 1e-6


def test_one_session_cannot_be_shuffled(agent, batch):
  crop = next(iter(heldout.crops({name: x[:1] for name, x in batch.items()}, 4)))
  with pytest.raises(ValueError, match="at least 2"):
    Tally(agent.streamer).add(crop)


def test_unit_states():
  speaking = np.zeros((6, 4), bool)
  speaking[1, 2:] = True  # starts inside unit 1
  speaking[2] = True
  speaking[3] = True  # stops at the end of unit 3
  speaking[2, 1:3] = False  # a pause of 80 ms inside speech
  assert unit_states(speaking, 25).tolist() == [
    "listening", "transitions", "speaking", "speaking", "transitions", "listening",
  ]  # fmt: skip
