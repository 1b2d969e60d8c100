"""Auxiliary readouts: what they add to the loss, whom the first phase moves, and that nothing of them is shipped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import assert_close
from tests.helpers.models import duplex_batch
from tests.helpers.nano_agent import nano_agent
from tests.helpers.toy_stage import ToyLoader, toy_config, toy_loss, toy_stage
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data import labels
from wanstreamer_jax.errors import ConfigError, DataError
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.parallel.rules import named_leaves
from wanstreamer_jax.teacher_forcing import crop_conditions
from wanstreamer_jax.train import duplex, loop, readouts
from wanstreamer_jax.train.metric_log import read_metrics
from wanstreamer_jax.train.optim import learning_rate
from wanstreamer_jax.train.state import init_state, train_step
from wanstreamer_jax.weights import agent as agent_weights
from wanstreamer_jax.weights.store import export_weights

ON = ("readouts.state=1", "readouts.seen=1", "readouts.heard=1", "train.rare_words=0.5", "train.optimizer=muon")


@pytest.fixture(scope="module")
def config():
  return load_config("configs/nano.py", [*ON, "train.readout_warmup=1", "train.steps=8", "data.units=4"])


@pytest.fixture(scope="module")
def batch(config):
  """Crops with random labels, a fifth of them unknown."""
  rng, made = np.random.default_rng(0), duplex_batch(config, 2)
  shape = made.user_labels.shape[:2]
  numbers = [rng.integers(0, len(kind.classes) or config.model.vocab, shape) for kind in labels.KINDS]
  found = np.where(rng.random((*shape, len(numbers))) < 0.2, labels.UNKNOWN, np.stack(numbers, axis=-1))
  return made._replace(user_labels=found.astype(np.int32))


@pytest.fixture(scope="module")
def states(config, batch):
  """The training state before the first update and after it, in the first phase."""
  stage = duplex.duplex_stage()
  before = jax.jit(lambda: init_state(stage, config))()
  after, metrics = jax.jit(lambda s, b: train_step(stage.of_update(config, 0), config, s, b))(before, batch)
  assert np.isfinite(metrics["loss"])
  assert stage.of_update(config, 1) is stage
  return before, after


def test_the_first_phase_moves_perception_alone(states):
  """Weight decay, too, leaves the others alone."""
  old, new = (named_leaves(state.params) for state in states)
  moved = {name for name in old if not np.array_equal(old[name], new[name])}
  assert {"see.patch.w", "hear.conv.w", "readouts.seen.logits.w", "readouts.heard.logits.b"} <= moved
  assert all(name.startswith(("hear.", "see.", "readouts.seen.", "readouts.heard.")) for name in moved)


def test_the_rate_begins_anew_after_the_first_phase():
  train = load_config("configs/nano.py", ["readouts.seen=1"]).train
  train = train.replace(readout_warmup=4, steps=16, warmup=2, learning_rate=1.0, schedule="cosine", final_lr_scale=0.0)
  rates = [float(learning_rate(train, step)) for step in range(16)]
  later = train.replace(readout_warmup=0, steps=12)
  assert rates[:4] == [0.5, 1.0, 1.0, 1.0]
  np.testing.assert_allclose(rates[4:], [float(learning_rate(later, step)) for step in range(12)], rtol=1e-6)
  assert train.replace(stage="audio_codec").first_steps == 0


def streamer_of(*changes: str) -> WanStreamer:
  config = load_config("configs/nano.py", ["data.units=4", *changes])
  return WanStreamer(config, rngs=nnx.Rngs(0))


def test_without_readouts_a_streamer_is_as_ever():
  plain, more = named_leaves(streamer_of()), named_leaves(streamer_of(*ON))
  assert not any(name.startswith("readouts") for name in plain)
  assert plain.keys() == {name for name in more if not name.startswith("readouts.")}
  for name, leaf in plain.items():
    np.testing.assert_array_equal(leaf, more[name])


@jax.jit
def losses(streamer, crop):
  return readouts.readout_losses(streamer, crop, crop_conditions(streamer, crop).user, jnp.ones((4, 48)))


def test_what_is_unknown_or_hidden_teaches_nothing(config, batch):
  streamer, crop = streamer_of(*ON), jax.tree.map(lambda x: jnp.asarray(x[0]), batch)
  loss, metrics = losses(streamer, crop)
  sizes = [size for _, size in (*config.readouts.sizes.items(), ("act", config.readouts.acts))]
  visible = sum(np.log(sizes[:-1]))
  assert_close(loss, 2 * visible + np.log(sizes[-1]) + np.log(config.model.vocab))  # heads begin with 0
  assert set(metrics) == {
    *(f"{head}_{name}" for head in ("state", "seen") for name in ("shape", "colour", "count", "place", "gesture")),
    "state_act", "heard_word",
  }  # fmt: skip
  blind = crop._replace(user_video_valid=jnp.zeros(4, bool))
  assert_close(losses(streamer, blind)[0], np.log(sizes[-1]) + np.log(config.model.vocab))
  nothing = crop._replace(user_labels=jnp.full_like(crop.user_labels, labels.UNKNOWN))
  assert float(losses(streamer, nothing)[0]) == 0.0


def test_classes_weigh_one_on_average():
  counts = np.array([900.0, 90.0, 10.0, 0.0])
  for power in (0.0, 0.5, 1.0):
    weights = readouts.class_weights(counts, power)
    assert_close((counts * weights).sum(), counts.sum())
    assert weights[3] == 1
  np.testing.assert_allclose(
    readouts.class_weights(counts, 0.5)[:2] / readouts.class_weights(counts, 0.5)[0], [1, 10**0.5]
  )
  assert np.all(readouts.class_weights(counts, 0.0) == 1)
  assert readouts.class_weights(np.array([1e6, 1.0]), 1.0)[1] == readouts.LARGEST_WEIGHT


def test_weights_of_words_leave_the_decision_to_speak_as_it_is():
  """By hand: -log p(some word) once, -log p(this word, if any) as often as it weighs."""
  plain, weighed = streamer_of(), streamer_of("train.word_weight=3", "train.rare_words=0.5")
  rare = jnp.arange(weighed.config.model.vocab) / 100.0
  weighed.readouts.word_weight.set_value(rare)
  hidden, text = jax.random.normal(jax.random.key(0), (3, 2, 48)), jnp.array([[5, 0], [0, 0], [7, 9]])
  loss, _ = duplex.text_losses(weighed, hidden, text)
  logits, pad = plain.logits(hidden), plain.config.model.pad
  p, expected = jax.nn.softmax(logits, axis=-1), 0.0
  for unit, slot in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
    token, q = int(text[unit, slot]), p[unit, slot]
    if token == pad:
      expected -= np.log(q[pad])
    else:
      expected -= np.log(1 - q[pad]) + 3 * float(rare[token]) * np.log(q[token] / (1 - q[pad]))
  assert_close(loss, expected / 3)
  assert_close(
    duplex.text_losses(plain, hidden, text)[0], duplex.text_losses(streamer_of("readouts.state=1"), hidden, text)[0]
  )


def test_neither_exports_nor_agents_have_readouts_and_training_starts_from_them(config, states, tmp_path):
  own = nano_agent("data.units=4")
  export_weights(states[1].params, config, tmp_path / "run", "f32")
  agent_weights.export_agent(own, tmp_path / "codecs", "f32")
  joined = agent_weights.assemble(tmp_path / "run", tmp_path / "codecs", tmp_path / "codecs")
  assert joined.streamer.readouts is None
  agent_weights.export_agent(joined, tmp_path / "agent", "f32")
  loaded = agent_weights.load_agent(tmp_path / "agent")
  assert not any("readouts" in name for name in named_leaves(loaded))
  assert agent_weights.with_streamer(states[1].params, own.audio_codec, own.video_codec).streamer.readouts is None
  abstract = jax.eval_shape(lambda: WanStreamer(config, rngs=nnx.Rngs(0)))
  stage = duplex.duplex_stage()
  begun = named_leaves(stage.load(tmp_path / "agent", abstract, config))
  np.testing.assert_array_equal(begun["tokens.embedding"], states[1].params.tokens.embedding[...])
  assert begun["readouts.state.logits.w"].shape == (48, sum(config.readouts.sizes.values()) + config.readouts.acts)
  again = named_leaves(stage.load(tmp_path / "run", abstract, config))
  np.testing.assert_array_equal(again["readouts.seen.logits.w"], states[1].params.readouts.seen.logits.w[...])
  bare = jax.eval_shape(lambda: streamer_of())
  assert not any("readouts" in name for name in named_leaves(stage.load(tmp_path / "run", bare, bare.config)))


class Failing(ToyLoader):
  def __init__(self, config, step: int):
    super().__init__(config)
    self.step = step

  def batch_at(self, step: int):
    if step == self.step:
      raise DataError("no more")
    return super().batch_at(step)


def test_law_7_a_run_that_stops_in_either_phase_goes_on_bit_for_bit(tmp_path):
  def other_loss(model, batch, keys):
    loss, metrics = toy_loss(model, batch, keys)
    return 2 * loss, {"first": metrics["batch_step"]}

  stage = toy_stage()
  stage = dataclasses.replace(
    stage, first=dataclasses.replace(stage, make_loss=lambda config: other_loss, only=(r"up_proj\.w",))
  )

  def run(name: str, *broken: int) -> tuple[dict, list]:
    config = toy_config(tmp_path / name, steps=16, readout_warmup=4, checkpoint_every=2)
    config.readouts.seen = 1.0
    for step in broken:  # the loader fails there
      failing = dataclasses.replace(stage, make_loader=lambda config, step=step: Failing(config, step))
      with pytest.raises(DataError):
        loop.train(failing, config.freeze())
    state = loop.train(stage, config.freeze())
    return named_leaves(state), [line for line in read_metrics(tmp_path / name) if "loss" in line]

  whole, lines = run("whole")
  assert ["first" in line for line in lines] == [True] * 4 + [False] * 12
  again, others = run("stopped", 3, 9)
  assert [line["loss"] for line in others] == [line["loss"] for line in lines]
  assert all(np.array_equal(whole[name], again[name]) for name in whole)


def test_a_first_phase_needs_readouts_of_perception():
  with pytest.raises(ConfigError, match="nothing trains perception"):
    load_config("configs/nano.py", ["readouts.state=1", "train.readout_warmup=2"])
