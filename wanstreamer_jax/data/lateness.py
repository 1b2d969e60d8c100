"""How late agents write their words: texts against the slots of units.

A word is written before it sounds. With n slots a unit, a word of more tokens, or many short ones in a row, ends later
than it begins to sound. The model then speaks a word that it has not written yet, so that only few may be late.
"""

from collections.abc import Iterable, Sequence

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.records import TextStats, text_to_units
from wanstreamer_jax.data.session import Word
from wanstreamer_jax.data.tokenizer import TextTokenizer, tokenizer_of
from wanstreamer_jax.errors import DataError

MAX_LATE = 0.05  # share of words; more are refused unless they are asked for
MIN_WORDS = 100  # fewer say little, and are not judged
SLOTS = (1, 2, 3, 4)
Spoken = tuple[Word, ...]  # the words of one agent, with the times at which they are written and sound


def placed(spoken: Iterable[Spoken], slots: int, tokenizer: TextTokenizer, unit_seconds: float) -> TextStats:
  """What happens to the words with this number of slots, in sessions that are long enough for all of them."""
  total = TextStats()
  for words in spoken:
    tokens = sum(len(tokenizer.encode_word(word.text)) for word in words)
    end = max((word.written for word in words), default=0.0)
    units = int(end / unit_seconds) + 2 + tokens // slots
    total += text_to_units(words, units, slots, tokenizer, unit_seconds)[1]
  return total


def shares(stats: TextStats) -> str:
  """ "12.3 % (1 unit 9.1 %, 2 units 3.0 %, more 0.2 %)"."""
  share = lambda count: f"{100 * count / max(1, stats.words):.1f} %"
  return (
    f"{share(stats.late)} (1 unit {share(stats.late_1)}, 2 units {share(stats.late_2)}, more {share(stats.late_3)})"
  )


def table(spoken: Sequence[Spoken], tokenizer: TextTokenizer, unit_seconds: float) -> dict[str, str]:
  """{"1 slot": shares of late words, ...} for the numbers of slots in SLOTS."""
  return {f"{slots} slot{'s' * (slots > 1)}": shares(placed(spoken, slots, tokenizer, unit_seconds)) for slots in SLOTS}


def check_late(stats: TextStats, limit: float, config: Config, spoken: Sequence[Spoken] = ()) -> None:
  """Raises DataError when more than `limit` of the agent's words are late.

  spoken: words from which the message says what other numbers of slots would do.
  """
  if stats.words < MIN_WORDS or stats.late <= limit * stats.words:
    return
  tokenizer, seconds = tokenizer_of(config), config.media.unit_ms / 1000
  others = [n for n in SLOTS if n > config.layout.text_slots and spoken]
  tried = {n: placed(spoken, n, tokenizer, seconds) for n in others}
  better = ", ".join(f"{n}: {100 * found.late / found.words:.1f} %" for n, found in tried.items())
  wanted = f"{min(1.0, stats.late / stats.words + 0.01):.2f}"
  raise DataError(
    f"{shares(stats)} of {stats.words} words end later than they begin to sound, with layout.text_slots "
    f"{config.layout.text_slots} and this tokenizer: expected at most {100 * limit:g} %; raise layout.text_slots"
    + (f" ({better})" if better else "")
    + f", or take them so with --late-words {wanted}"
  )
