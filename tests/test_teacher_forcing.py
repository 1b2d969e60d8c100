"""Law 10: teacher-forced errors, their splits and their baselines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.fake_sessions import fake_session
from tests.helpers.nano_agent import nano_agent
from wanstreamer_jax.data.loader import PREVIOUS, Crop
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import ConfigError
from wanstreamer_jax.eval import heldout, latent_errors
from wanstreamer_jax.eval.latent_errors import Tally, unit_errors, unit_states, variant_of
from wanstreamer_jax.model.tokens import Latents
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.teacher_forcing import (
  Inputs,
  crop_conditions,
  crop_past,
  last_units,
  pick_units,
  teacher_forced,
  unit_history,
)

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


def first_row(crops: Crop, index: int = 0) -> Crop:
  return jax.tree.map(lambda x: jnp.asarray(x[index]), crops)


def test_crops_cover_whole_sessions_and_carry_the_units_before(batch):
  found = [crops for crops, _ in heldout.crops(batch, 4)]
  assert [crops.start.tolist() for crops in found] == [[0] * SESSIONS, [4] * SESSIONS]
  assert not found[0].agent_audio_valid[:, :PREVIOUS].any()
  assert found[1].agent_video_valid[:, :PREVIOUS].all()
  for name in ("agent_audio_latent", "agent_video_latent"):
    np.testing.assert_array_equal(getattr(found[1], name), batch[name][:, 4 - PREVIOUS : 8])


@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("start", [0, 4])
def test_a_crop_is_shown_the_history_that_a_rollout_remembers(batch, start, delay):
  row = first_row(next(crops for crops, _ in heldout.crops(batch, 4) if crops.start[0] == start))
  failed = row.agent_video_valid.at[PREVIOUS + 1].set(False)  # the agent's camera failed in one unit
  history = unit_history(crop_past(row._replace(agent_video_valid=failed)), 4, delay)
  audio, video = batch["agent_audio_latent"][0], batch["agent_video_latent"][0]
  for k in range(4):
    for age, shown in ((delay, history.commit), (1, history.previous)):
      unit = start + k - age
      assert shown.flow_time[k] == 0
      assert shown.valid[k].tolist() == [unit >= 0 and unit != start + 1, unit >= 0]
      if unit >= 0:
        np.testing.assert_array_equal(shown.latents.audio[k], audio[unit])
        np.testing.assert_array_equal(shown.latents.video[k], video[unit])


def test_noisy_copies_that_fit_no_unit_are_refused():
  units, picked = jnp.arange(4), jnp.array([0, 3])
  assert pick_units(units, picked, 2).tolist() == [0, 3]
  assert pick_units(units, None, 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
  for copies, choice in ((6, None), (3, picked), (2, None)):
    with pytest.raises(ConfigError, match=f"{copies} noisy copies of 4 units: expected a multiple"):
      pick_units(units, choice, copies)


def test_several_draws_on_one_clean_copy_are_what_they_are_alone(agent, batch, close):
  """Self-forcing's replay and anchor in one pass: values, and gradients of all weights and of the history."""
  row = first_row(next(heldout.crops(batch, 4))[0])
  told, past, copies = crop_conditions(agent.streamer, row), crop_past(row), 8
  noise = Latents(*(jax.random.normal(jax.random.key(0), (copies, *x.shape[1:])) for x in past.latents))
  tau = jnp.linspace(0.1, 0.9, copies)

  @functools.partial(jax.jit, static_argnums=2)
  def loss(streamer, past, passes):
    """Copies 0, 1 are of unit 0, copies 2, 3 of unit 1, ...: in one pass, or the even ones and the odd ones in two."""
    of = [(slice(None),), (slice(0, None, 2), slice(1, None, 2))][passes - 1]
    inputs = [Inputs(past, jax.tree.map(lambda x, some=some: x[some], noise), tau[some]) for some in of]
    found = [teacher_forced(streamer, told, one).velocity for one in inputs]
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(found)), found

  gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)
  (value, (both,)), grads = gradients(agent.streamer, past, 1)
  (expected, (even, odd)), expected_grads = gradients(agent.streamer, past, 2)
  close(jax.tree.map(lambda x: x[::2], both), even)
  close(jax.tree.map(lambda x: x[1::2], both), odd)
  close(value, expected)
  close(jax.tree.leaves(grads[0]), jax.tree.leaves(expected_grads[0]))
  close(grads[1].latents, expected_grads[1].latents)


def test_result_has_every_split_of_every_variant(agent, batch):
  tally = Tally(agent.streamer)
  for crops, speaking in heldout.crops(batch, 4):
    tally.add(crops, speaking)
  result = tally.result()
  assert result["units"]["all"] == 2 * SESSIONS * 4
  assert result["units"]["onsets"] == SESSIONS  # the fake agent speaks once
  for variant in latent_errors.VARIANTS:
    for kind in ("audio", "video"):
      assert result[variant][kind]["all"] > 0
  assert result["model"]["audio"]["all"] != result["shuffled_user"]["audio"]["all"]
  assert result["model"]["text"]["tokens"] != result["text_only"]["text"]["tokens"]
  assert np.isnan(result["copy_previous"]["text"]["tokens"])


def test_sessions_that_only_fill_a_batch_do_not_count(agent, batch):
  crops, speaking = next(heldout.crops(batch, 4))
  every, first = Tally(agent.streamer), Tally(agent.streamer)
  every.add(crops, speaking)
  first.add(crops, speaking, 1)
  assert first.result()["units"]["all"] == 4
  np.testing.assert_array_equal(first.kept["model"][0].video, every.kept["model"][0].video[:1])


def test_units_past_a_sessions_end_do_not_count(agent, batch):
  """The last unit of the first session."""
  crops, speaking = next(heldout.crops(batch, 4))
  there = np.ones((SESSIONS, 4), bool)
  there[0, 3] = False
  past = np.pad(there, ((0, 0), (PREVIOUS, 0)), constant_values=True)
  short = crops._replace(agent_text_valid=there, agent_video_valid=past, agent_audio_valid=past)
  tally = Tally(agent.streamer)
  tally.add(short, speaking)
  units = tally.result()["units"]
  assert units["all"] == units["speaking"] + units["listening"] + units["transitions"] == 4 * SESSIONS - 1


def test_the_error_is_that_of_the_posterior_mean(agent, batch):
  """A head that answers a constant, whatever it reads, is wrong by the mean square of what is left."""
  row = first_row(next(heldout.crops(batch, 4))[0])
  leaves = named_leaves(agent.streamer)
  constant = {"heads.audio.w": 0.0, "heads.video.w": 0.0, "heads.audio.b": 0.3, "heads.video.b": -0.2}
  constant |= {"heads.carry.w": 0.0, "heads.carry.b": 0.0}  # adds nothing of the previous unit
  constant |= {"heads.anchor.w": 0.0, "heads.anchor.b": 0.0}  # and nothing of the portrait
  leaves |= {name: jnp.full_like(leaves[name], value) for name, value in constant.items()}
  found = jax.jit(unit_errors)(fill_leaves(agent.streamer, leaves), row, jax.random.key(0))
  truth = last_units(crop_past(row).latents, 4)
  np.testing.assert_allclose(found.audio, np.square(truth.audio - 0.3).mean((1, 2)), rtol=1e-4)
  np.testing.assert_allclose(found.video, np.square(truth.video + 0.2).mean((1, 2, 3)), rtol=1e-4)


def test_copying_is_right_about_what_stands_still(batch):
  row = first_row(next(heldout.crops(batch, 4))[0])
  still = row._replace(agent_audio_latent=jnp.ones_like(row.agent_audio_latent))
  assert float(latent_errors.copy_errors(still).audio.max()) == 0.0
  assert float(latent_errors.copy_errors(row).audio.min()) > 0.0


def test_copy_previous_compares_with_the_unit_before(batch):
  row = first_row(list(heldout.crops(batch, 4))[1][0], 1)
  found = latent_errors.copy_errors(row).video
  z = np.asarray(batch["agent_video_latent"][1], np.float32)
  expected = np.square(z[4:8] - z[3:7]).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_shuffled_user_swaps_the_whole_user_and_nothing_else(batch):
  crops, _ = next(heldout.crops(batch, 4))
  shuffled = variant_of(crops, "shuffled_user")
  for name, x in crops._asdict().items():
    other = np.roll(x, 1, axis=0) if name.startswith("user_") else x
    np.testing.assert_array_equal(getattr(shuffled, name), other)
  assert not np.array_equal(shuffled.user_audio, crops.user_audio)


def test_text_only_changes_the_answer_and_hides_sound_and_picture(agent, batch):
  crops, _ = next(heldout.crops(batch, 4))
  mute = variant_of(crops, "text_only")
  loud = mute._replace(user_audio=crops.user_audio + 99, user_video=255 - crops.user_video)
  tally = Tally(agent.streamer)
  keys = jax.random.split(jax.random.key(0), SESSIONS)
  results = [tally._errors(agent.streamer, seen, keys) for seen in (mute, loud, crops)]
  np.testing.assert_array_equal(results[0].audio, results[1].audio)
  assert np.abs(results[0].audio - results[2].audio).max() > 1e-6


def test_one_session_cannot_be_shuffled(agent, batch):
  crops, speaking = next(heldout.crops({name: x[:1] for name, x in batch.items()}, 4))
  with pytest.raises(ValueError, match="at least 2"):
    Tally(agent.streamer).add(crops, speaking)


def test_unit_states():
  speaking = np.zeros((6, 4), bool)
  speaking[1, 2:] = True  # starts inside unit 1
  speaking[2] = True
  speaking[3] = True  # stops at the end of unit 3
  speaking[2, 1:3] = False  # a pause of 80 ms inside speech
  assert unit_states(speaking, 25).tolist() == [
    "listening", "transitions", "speaking", "speaking", "transitions", "listening",
  ]  # fmt: skip
