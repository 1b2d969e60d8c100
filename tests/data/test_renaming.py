"""Crops whose agent has another persona (`augment.rename`)."""

import numpy as np
import pytest

from tests import CONFIGS
from tests.helpers.models import duplex_batch
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.data.duplex_world import renaming
from wanstreamer_jax.data.duplex_world.personas import NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.duplex_world.renaming import SOUNDING, Renaming
from wanstreamer_jax.data.loader import PREVIOUS
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.errors import ConfigError

WORLD = "name: ada. home: rome. likes: tea."
SAID = {  # by unit
  3: "hello", 4: "i am", 5: "ada", 9: "i live", 10: "in", 11: "rome", 15: "no i", 16: "like tea", 20: "say ada",
  22: "in paris",
}  # fmt: skip


@pytest.fixture(scope="module")
def config():
  return load_config(
    CONFIGS / "nano.py", ["data.units=24", "layout.world_text=16", "model.vocab=1024", "augment.rename=0.5"]
  )


def crop_of(config, said):
  tokenizer = tokenizer_of(config)
  batch = duplex_batch(config, 1)
  crop = type(batch)(*(x[0] for x in batch))
  world, text = np.zeros_like(crop.world_text), np.zeros_like(crop.agent_text)
  ids = tokenizer.encode(WORLD)
  world[: len(ids)] = ids
  for unit, words in said.items():
    tokens = [tokenizer.encode_word(word)[0] for word in words.split()]
    text[unit, : len(tokens)] = tokens
  return crop._replace(world_text=world, agent_text=text)


@pytest.fixture(scope="module")
def crop(config):
  return crop_of(config, SAID)


def words(tokenizer, text):
  return {unit: tokenizer.decode(row).strip() for unit, row in enumerate(text) if tokenizer.decode(row).strip()}


def told(tokenizer, crop):
  """Name, home and likes of WORLD."""
  return [piece.split()[-1] for piece in tokenizer.decode(crop.world_text).strip().rstrip(".").split(".")]


def test_world_and_what_the_agent_says_about_itself_change_together(config, crop):
  tokenizer = tokenizer_of(config)
  found = Renaming(config)(crop, np.random.default_rng(0))
  name, home, likes = told(tokenizer, found)
  assert not {name, home, likes} & {"ada", "rome", "tea"}
  said = words(tokenizer, found.agent_text)
  assert said == SAID | {5: name, 11: home, 16: f"like {likes}"}  # "ada" that was to be repeated stays
  silent = np.flatnonzero(~found.agent_audio_valid) - PREVIOUS
  expected = {unit + i for unit in (5, 11, 16) for i in range(SOUNDING)}
  assert set(silent) == {unit for unit in expected if unit < 24}
  assert crop.agent_audio_valid.all(), "the crop itself stays as it is"
  assert tokenizer.decode(crop.world_text).strip() == WORLD


def test_what_the_agent_confirms_stays(config):
  """The user has named it: "do you live in rome?" """
  said = SAID | {9: "yes"}
  tokenizer, rename = tokenizer_of(config), Renaming(config)
  found = rename(crop_of(config, said), np.random.default_rng(0))
  name, home, _ = told(tokenizer, found)
  assert name != "ada"
  assert home == "rome"
  assert words(tokenizer, found.agent_text)[11] == "rome"


def test_words_of_unseen_personas_stay_unseen(config, crop):
  tokenizer, rng = tokenizer_of(config), np.random.default_rng(1)
  rename, held_out = Renaming(config), {*NEW_NAMES, *NEW_HOMES, *NEW_LIKES}
  names = {word for _ in range(600) for word in told(tokenizer, rename(crop, rng))}
  assert not names & held_out
  assert len(names) > 300


def test_the_share_of_crops_is_the_configured_one(config, crop):
  rename = Renaming(config)
  found = rename.batch(200 * [crop], 3, list(range(200)))
  changed = [not np.array_equal(one.world_text, crop.world_text) for one in found]
  assert 0.4 < np.mean(changed) < 0.6
  row = changed.index(True)
  np.testing.assert_array_equal(rename.batch([crop], 3, [row])[0].agent_text, found[row].agent_text)


def test_a_tokenizer_with_pieces_of_names_is_refused(config, monkeypatch):
  monkeypatch.setitem(renaming.FIELDS, "home", ("in", ("llanfairpwllgwyngyll",)))
  with pytest.raises(ConfigError, match="tokens for 'llanfairpwllgwyngyll', not one: set augment.rename=0"):
    Renaming(config)
