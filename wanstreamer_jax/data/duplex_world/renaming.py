"""Another name, home and likes for the agent of a crop.

So training has as many personas as crops. A model that trains on hundreds of agents can learn each of them by heart, by
its face and voice, and never read WORLD. Renaming takes that way from it. WORLD and what the agent writes about itself
get other words, half of them no names at all; where the old ones sound, the agent's sound is left out, of the loss too.
Words of personas that training never has stay unseen in this place.
"""

import functools

import numpy as np

from wanstreamer_jax.data.duplex_world import lexicon
from wanstreamer_jax.data.duplex_world.personas import HOMES, LIKES, NAMES, NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.loader import Crop
from wanstreamer_jax.data.tokenizer import TextTokenizer

FIELDS = {"name": ("am", NAMES), "home": ("in", HOMES), "likes": ("like", LIKES)}  # the word before it, and its words
OWN_KIND = 0.5  # how often the new word is of the field's own kind
SOUNDING = 7  # units from the one that a word is written in to the one after its sound
REACH = 3  # tokens between "yes" and the word, at most


class Renaming:
  """Renames the agents of crops whose text this tokenizer made."""

  def __init__(self, tokenizer: TextTokenizer):
    word = functools.partial(_single, tokenizer)
    self._pad, self._colon = tokenizer.pad_id, word(":", whole=False)
    self._yes, self._no = word("yes"), word("no")
    held_out = {*NEW_NAMES, *NEW_HOMES, *NEW_LIKES}
    usual = [word(one) for one in lexicon.vocabulary() if one not in held_out and one.isalpha() and len(one) > 1]
    self._any = [one for one in usual if one is not None]
    self._fields = {
      word(name): (word(before), [one for one in map(word, words) if one is not None])
      for name, (before, words) in FIELDS.items()
    }

  def __call__(self, crop: Crop, rng: np.random.Generator) -> Crop:
    """The crop with other persona words, where it has any; arrays of `crop` stay as they are."""
    world, text, heard = crop.world_text.copy(), crop.agent_text.copy(), crop.agent_audio_valid.copy()
    flat = text.reshape(-1)  # a view
    written = np.flatnonzero(flat != self._pad)
    for place in range(len(world) - 2):
      if world[place] not in self._fields or world[place + 1] != self._colon:
        continue
      before, words = self._fields[int(world[place])]
      old, new = int(world[place + 2]), int(rng.choice(words if rng.random() < OWN_KIND else self._any))
      world[place + 2] = new
      for index in range(1, len(written)):
        at = written[index]
        if flat[at] != old or flat[written[index - 1]] != before:
          continue
        flat[at] = new
        for earlier in written[max(0, index - REACH) : index]:  # "yes i am ada", asked for the old name
          flat[earlier] = self._no if flat[earlier] == self._yes else flat[earlier]
        unit = len(heard) - len(text) + at // text.shape[1]
        heard[unit : unit + SOUNDING] = False
    return crop._replace(world_text=world, agent_text=text, agent_audio_valid=heard)


def _single(tokenizer: TextTokenizer, word: str, whole: bool = True) -> int | None:
  """The id of a word that is one token, else None. whole: as it follows other words."""
  ids = tokenizer.encode_word(word) if whole else tokenizer.encode(f"a{word}")[1:]
  return ids[0] if len(ids) == 1 else None
