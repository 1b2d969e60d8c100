"""Crops whose agent has another persona (`augment.rename`)."""

import numpy as np
import pytest

from tests import CONFIGS
from tests.helpers.models import duplex_batch
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.duplex_world.personas import NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.duplex_world.renaming import SOUNDING, Renaming
from wanstreamer_jax.data.loader import PREVIOUS, renamed
from wanstreamer_jax.data.tokenizer import tokenizer_of

WORLD = "name: ada. home: rome. likes: tea."
SAID = {  # by unit
  3: "hello", 4: "i am", 5: "ada", 9: "yes", 10: "in", 11: "rome", 15: "no i", 16: "like tea", 20: "say ada",
  22: "in paris",
}  # fmt: skip


@pytest.fixture(scope="module")
def config():
  return load_config(CONFIGS / "nano.py", ["data.units=24", "layout.world_text=16", "model.vocab=1024"])


@pytest.fixture(scope="module")
def crop(config):
  tokenizer = tokenizer_of(config)
  batch = duplex_batch(config, 1)
  crop = type(batch)(*(x[0] for x in batch))
  world, text = np.zeros_like(crop.world_text), np.zeros_like(crop.agent_text)
  ids = tokenizer.encode(WORLD)
  world[: len(ids)] = ids
  for unit, words in SAID.items():
    tokens = [tokenizer.encode_word(word)[0] for word in words.split()]
    text[unit, : len(tokens)] = tokens
  return crop._replace(world_text=world, agent_text=text)


def words(tokenizer, text):
  return {unit: tokenizer.decode(row).strip() for unit, row in enumerate(text) if tokenizer.decode(row).strip()}


def test_world_and_what_the_agent_says_about_itself_change_together(config, crop):
  tokenizer = tokenizer_of(config)
  found = Renaming(tokenizer)(crop, np.random.default_rng(0))
  name, home, likes = (piece.split()[-1] for piece in tokenizer.decode(found.world_text).strip().rstrip(".").split("."))
  assert (name, home, likes) != ("ada", "rome", "tea")
  said = words(tokenizer, found.agent_text)
  assert said == SAID | {5: name, 9: "no", 11: home, 16: f"like {likes}"}  # "ada" that was to be repeated stays
  silent = np.flatnonzero(~found.agent_audio_valid) - PREVIOUS
  expected = {unit + i for unit in (5, 11, 16) for i in range(SOUNDING)}
  assert set(silent) == {unit for unit in expected if unit < 24}
  assert crop.agent_audio_valid.all(), "the crop itself stays as it is"
  assert tokenizer.decode(crop.world_text).strip() == WORLD


def test_words_of_unseen_personas_stay_unseen(config, crop):
  tokenizer, rng = tokenizer_of(config), np.random.default_rng(1)
  rename, held_out = Renaming(tokenizer), {*NEW_NAMES, *NEW_HOMES, *NEW_LIKES}
  names = set()
  for _ in range(600):
    told = tokenizer.decode(rename(crop, rng).world_text).replace(":", "").replace(".", "").split()
    names |= {told[1], told[3], told[5]}
  assert not names & held_out
  assert len(names) > 300


def test_the_share_of_crops_is_the_configured_one(config, crop):
  half = config.replace(augment=config.augment.replace(rename=0.5)).freeze()
  changed = [not np.array_equal(renamed(crop, half, step, 0).world_text, crop.world_text) for step in range(200)]
  assert 0.4 < np.mean(changed) < 0.6
  again = renamed(crop, half, changed.index(True), 0)
  np.testing.assert_array_equal(again.agent_text, renamed(crop, half, changed.index(True), 0).agent_text)
  assert renamed(crop, config, 0, 0) is crop
