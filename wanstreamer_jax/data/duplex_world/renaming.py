"""Another name, home and likes for the agent of a crop.

So training has as many personas as crops. A model that trains on hundreds of agents can learn each of them by heart, by
its face and voice, and never read WORLD. Renaming takes that way from it. WORLD and what the agent writes about itself
get other words, half of them no names at all. Where the agent says the old ones, its sound is left out, of the loss
too. Lips and the voice sample stay as they are. Words of personas that training never has stay unseen in this place.
"""

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.duplex_world import lexicon
from wanstreamer_jax.data.duplex_world.personas import HOMES, LIKES, NAMES, NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.loader import Crop
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.errors import ConfigError

STREAM = 6  # number of this random stream, beside those of mixture.py, augment.py and rendered.py
FIELDS = {"name": ("am", NAMES), "home": ("in", HOMES), "likes": ("like", LIKES)}  # the word before it, and its words
OWN_KIND = 0.5  # how often the new word is of the field's own kind
SOUNDING = 7  # units from the one that a word is written in to the one after its sound
REACH = 3  # tokens between "yes" and the word, at most


class Renaming:
  """Renames the agents of as many crops as `augment.rename` says.

  Raises ConfigError for a tokenizer that has more than one token for a word of a persona.
  """

  def __init__(self, config: Config):
    tokenizer = tokenizer_of(config)

    def word(text: str) -> int:
      ids = tokenizer.encode_word(text)
      if len(ids) != 1:
        raise ConfigError(
          f"augment.rename is {config.augment.rename}, but the tokenizer {tokenizer.path} has {len(ids)} tokens for "
          f"{text!r}, not one: set augment.rename=0"
        )
      return ids[0]

    held_out = {*NEW_NAMES, *NEW_HOMES, *NEW_LIKES}
    usual = [one for one in lexicon.vocabulary() if one not in held_out and one.isalpha() and len(one) > 1]
    self._config, self._pad, self._yes = config, tokenizer.pad_id, word("yes")
    self._colon, self._stop = (tokenizer.encode(f"a{sign}")[-1] for sign in ":.")
    self._fields = {word(name): (word(before), [*map(word, words)]) for name, (before, words) in FIELDS.items()}
    self._any = [ids[0] for ids in map(tokenizer.encode_word, usual) if len(ids) == 1]

  def batch(self, crops: list[Crop], step: int, rows: range | list[int]) -> list[Crop]:
    """The crops of some rows of a global batch, of which some are renamed."""
    found = []
    for row, crop in zip(rows, crops):
      rng = np.random.default_rng([self._config.data.seed, STREAM, step, row])
      found.append(self(crop, rng) if rng.random() < self._config.augment.rename else crop)
    return found

  def __call__(self, crop: Crop, rng: np.random.Generator) -> Crop:
    """The crop with other persona words, where it has any; arrays of `crop` stay as they are. A field that the agent
    confirms ("yes in rome") keeps its word, since the user names it."""
    world, text, heard = crop.world_text.copy(), crop.agent_text.copy(), crop.agent_audio_valid.copy()
    flat = text.reshape(-1)  # a view
    written = np.flatnonzero(flat != self._pad)
    for place in np.flatnonzero(world[1:-2] == self._colon):
      if world[place] not in self._fields or world[place + 3] != self._stop:
        continue
      before, words = self._fields[int(world[place])]
      old, new = world[place + 2], rng.choice(words if rng.random() < OWN_KIND else self._any)
      said = [i for i in range(1, len(written)) if flat[written[i]] == old and flat[written[i - 1]] == before]
      if any((flat[written[max(0, i - REACH) : i]] == self._yes).any() for i in said):
        continue
      world[place + 2] = new
      flat[written[said]] = new
      for unit in len(heard) - len(text) + written[said] // text.shape[1]:
        heard[unit : unit + SOUNDING] = False
    return crop._replace(world_text=world, agent_text=text, agent_audio_valid=heard)
