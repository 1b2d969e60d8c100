"""What is said in duplex_world, counted.

python -m wanstreamer_jax.data.duplex_world.language          # phrasings, words, and shares of 1,000 sessions
"""

import collections
import dataclasses
import sys

from wanstreamer_jax.data.duplex_world import grammar, lexicon
from wanstreamer_jax.data.duplex_world.personas import HOMES, LIKES, NAMES, NEW_HOMES, NEW_LIKES, NEW_NAMES
from wanstreamer_jax.data.duplex_world.world import WorldConfig, transcript


@dataclasses.dataclass(frozen=True)
class Shares:
  """Of many sessions: questions a minute, each act's share of them, words of the user and agent a minute, each act's
  share of the agent's words, and the share of the time in which the agent speaks."""

  questions: float
  acts: dict[str, float]
  user_words: float
  agent_words: float
  speaking: float


def shares(sessions: int, world: WorldConfig, split: str = "train") -> Shares:
  """Counts the transcripts of seeds 0 to `sessions` - 1."""
  acts: collections.Counter[str] = collections.Counter()
  said, answered, speaking = 0, 0, 0.0
  for seed in range(sessions):
    script = transcript(seed, world, split)
    acts.update(str(event.detail["act"]) for event in script.events if event.kind == "question")
    said += len(script.speech)
    answered += sum(word.voiced for word in script.agent)
    speaking += sum(word.end - word.start for word in script.agent if word.voiced)
  minutes, total = sessions * world.units * world.unit_ms / 60_000, sum(acts.values())
  by_act = {act: count / total for act, count in acts.most_common()}
  return Shares(total / minutes, by_act, said / minutes, answered / minutes, speaking / (60 * minutes))


def main(sessions: int = 1000) -> None:
  """Prints it all."""
  print("act: combinations of training, held out, with new words; sentences by a reader")
  for act in grammar.acts():
    counts = [len(grammar.forms(act, phrasing)) for phrasing in grammar.PHRASINGS]
    print(f"  {act:14}" + "".join(f"{count:5}" for count in (*counts, len(grammar.reader_phrases(act)))))
  words = lexicon.vocabulary()
  print(f"{len(words)} words, of which {sum(word[0] == '(' for word in words)} are directives")
  for name, old, new in (("names", NAMES, NEW_NAMES), ("homes", HOMES, NEW_HOMES), ("likes", LIKES, NEW_LIKES)):
    print(f"{len(old) + len(new)} {name}, {len(new)} of them never the agent's in training")
  for units in (125, 375):
    counted = shares(sessions * 125 // units, WorldConfig(units=units, size="full"))
    print(
      f"{units} units: {counted.questions:.1f} questions, {counted.user_words:.0f} words of the user and "
      f"{counted.agent_words:.0f} of the agent a minute; it speaks {100 * counted.speaking:.0f} % of the time"
    )
    print("  " + ", ".join(f"{act} {100 * share:.1f} %" for act, share in counted.acts.items()))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
