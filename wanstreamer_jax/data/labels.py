"""Labels of what the user holds, does and says in every unit, for auxiliary readouts.

A unit record has one number per kind of KINDS (`user_labels`, int32 [L]). Kinds with named classes: 0 is the first of
them, which says that there is nothing. `word`: the token id of the word that ended in the unit, PAD if none did.
UNKNOWN (-1) is what nobody knows, and teaches nothing: the words of a recording without a transcript, words of several
tokens (the first of which often is another word), everything else of recordings, a thing that is just being raised, a
unit past the session's end.

    shape, colour, count, place       what is held during the whole unit; shape2, ... the second thing, by place
    gesture                           a gesture or a face that fills at least half of the unit
    act                               what the user has just completed: the question, statement or cough that ended here
    word                              the word that ended here

A manifest has the names of its classes. They are read by name, so that kinds and classes may be added later.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.session import USER, Event, Session
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import ConfigError, DataError

FIELD, UNKNOWN = "user_labels", -1
ROUNDING = 1e-6  # units
SHAPES = ("circle", "square", "triangle", "star", "heart", "moon", *"abcdefghijklmnopqrstuvwxyz", *"0123456789")
COLOURS = (
  "red", "green", "blue", "yellow", "white", "black", "orange", "purple", "pink", "brown", "grey", "cyan",
)  # fmt: skip
COUNTS = tuple(map(str, range(1, 11)))
PLACES = ("left", "right", "up")  # in the picture; of two things the one named first here is the first
GESTURES = ("wave", "nod", "shake", "thumb_up", "smile", "surprise")
ACTS = (
  "colour", "shape", "count", "place", "letter", "digit", "same", "which", "memory", "yes_no", "correction", "repeat",
  "spell", "sum", "next", "counting", "name", "home", "likes", "greet", "tell_name", "who_am_i", "gesture", "face",
  "how_are_you", "thanks", "goodbye", "refusal", "remark", "event", "directive", "statement", "story", "stop", "cough",
)  # fmt: skip
OF_THINGS = {"shape": SHAPES, "colour": COLOURS, "count": COUNTS, "place": PLACES}
# The act that an event of the user completes at its end; None: the one that its detail `act` names.
ACT_OF_EVENT = {
  "question": None, "statement": "statement", "cough": "cough", "interrupt": "stop", "backchannel_place": "story",
  "directive": "directive",
}  # fmt: skip
TYPED = ("directive",)  # always; questions say so in their detail
AT_START = ("backchannel_place",)  # events that begin when the act is complete


class Kind(NamedTuple):
  """One number of a unit's labels."""

  name: str
  classes: tuple[str, ...]  # () for token ids
  stream: str  # "video" or "audio": the stream of the user that shows it


KINDS = (
  *(Kind(name + thing, ("nothing", *classes), "video") for thing in ("", "2") for name, classes in OF_THINGS.items()),
  Kind("gesture", ("none", *GESTURES), "video"),
  Kind("act", ("none", *ACTS), "audio"),
  Kind("word", (), "audio"),
)
NAMES = tuple(kind.name for kind in KINDS)


def for_manifest() -> dict[str, list[str]]:
  """{kind: classes}, in the order of the stored numbers."""
  return {kind.name: list(kind.classes) for kind in KINDS}


def check_sizes(config: Config) -> None:
  """Raises ConfigError unless the readouts of a config have as many classes as the labels."""
  sizes = config.readouts.sizes | {"act": config.readouts.acts}
  for kind in KINDS:
    if kind.classes and sizes[kind.name] != len(kind.classes):
      raise ConfigError(
        f"the readouts of {kind.name!r} have {sizes[kind.name]} classes, but the labels {len(kind.classes)}: set "
        f"readouts.{kind.name.removesuffix('2')}s to {len(kind.classes)}; heads that were trained with another number "
        "of classes start again with train.init"
      )


def stored_labels(units: np.ndarray, manifest: Mapping[str, Any]) -> np.ndarray:
  """The labels of unit records [K], as this program numbers them: int32 [K, L]; UNKNOWN where a folder has none.

  Raises DataError for classes that this program does not know.
  """
  found = np.full((len(units), len(KINDS)), UNKNOWN, np.int32)
  if FIELD not in (units.dtype.names or ()):
    return found
  stated = manifest.get("labels", {})
  if list(stated) == list(NAMES) and stated == for_manifest():
    return units[FIELD].astype(np.int32)
  for column, (name, classes) in enumerate(stated.items()):
    if name in NAMES:
      values = units[FIELD][:, column]
      number = NAMES.index(name)
      found[:, number] = values if not classes else _renumbered(values, classes, KINDS[number])
  return found


def _renumbered(values: np.ndarray, classes: Sequence[str], kind: Kind) -> np.ndarray:
  """Class numbers of a folder as this program's. Raises DataError for a class that it lacks."""
  unknown = [name for name in classes if name not in kind.classes]
  if unknown:
    raise DataError(f"records have the class {unknown[0]!r} of {kind.name!r}, which this program lacks: update it")
  table = np.array([*map(kind.classes.index, classes), UNKNOWN], np.int32)
  return table[values]  # -1 is the last


def label_counts(labels: np.ndarray) -> dict[str, dict[str, int]]:
  """{kind: {class number: units}} of labels [K, L], without what is unknown, for a manifest's statistics."""
  counts = {}
  for number, kind in enumerate(KINDS):
    values, times = np.unique(labels[labels[:, number] >= 0, number], return_counts=True)
    counts[kind.name] = {str(value): int(count) for value, count in zip(values, times)}
  return counts


def class_counts(manifests: Sequence[Mapping[str, Any]], vocab: int) -> dict[str, np.ndarray]:
  """{kind: float64 [C]}: in how many units of all these folders each class was the label; C is `vocab` for words."""
  counts = {kind.name: np.zeros(len(kind.classes) or vocab) for kind in KINDS}
  for manifest in manifests:
    for name, found in manifest.get("stats", {}).get("labels", {}).items():
      classes = manifest["labels"][name]
      for number, count in found.items():
        known = KINDS[NAMES.index(name)].classes if name in NAMES else ()
        place = known.index(classes[int(number)]) if classes and classes[int(number)] in known else int(number)
        if name in NAMES and place < len(counts[name]):
          counts[name][place] += count
  return counts


def token_counts(manifests: Sequence[Mapping[str, Any]], vocab: int) -> np.ndarray:
  """How often the agents of all these folders write each token, without PAD: float64 [V]."""
  counts = np.zeros(vocab)
  for manifest in manifests:
    for token, count in manifest.get("stats", {}).get("agent_tokens", {}).items():
      counts[int(token)] += count
  return counts


def session_labels(session: Session, tokenizer: TextTokenizer, unit_seconds: float) -> np.ndarray:
  """The labels of a session: int32 [units, L]."""
  labels = np.full((session.units, len(KINDS)), UNKNOWN, np.int32)
  length = session.units if session.length is None else session.length
  columns = {name: labels[:length, number] for number, name in enumerate(NAMES)}  # views
  if session.events_complete:
    events = [event for event in session.events if event.actor == USER]
    _label_things(columns, events, unit_seconds)
    _label_gestures(columns["gesture"], events, unit_seconds)
    _label_acts(columns["act"], events, unit_seconds)
  known = session.user.text_valid
  heard = columns["word"]
  heard[slice(None) if known is None else known[:length]] = tokenizer.pad_id
  for word in sorted(session.user.speech, key=lambda word: word.end):
    unit, ids = ending_unit(word.end, unit_seconds), tokenizer.encode_typed(word.text)
    if word.voiced and ids and 0 <= unit < length and heard[unit] != UNKNOWN:
      heard[unit] = ids[0] if len(ids) == 1 else UNKNOWN
  return labels


def ending_unit(time: float, unit_seconds: float) -> int:
  """The unit in which something that ends at `time` ends."""
  return int(np.ceil(time / unit_seconds - ROUNDING)) - 1


def _label_things(columns: dict[str, np.ndarray], events: Sequence[Event], unit_seconds: float) -> None:
  """What is held: from the end of a "raise" to the start of the next "raise" or "lower"; unknown while it moves."""
  names = [name + thing for thing in ("", "2") for name in OF_THINGS]
  for name in names:
    columns[name][:] = 0
  moves = [event for event in events if event.kind in ("raise", "lower")]
  units = len(columns["shape"])
  for event in moves:
    first = max(0, int(event.start / unit_seconds + ROUNDING))
    still = max(0, int(np.ceil(event.end / unit_seconds - ROUNDING)))  # the first unit in which nothing moves any more
    held = dict.fromkeys(names, 0) if event.kind == "lower" else _classes_of(event)
    for name in names:
      columns[name][first : min(still, units)] = UNKNOWN
      columns[name][min(still, units) :] = held[name]


def _classes_of(event: Event) -> dict[str, int]:
  """The classes of what a "raise" shows; UNKNOWN for what its detail does not say, or says in a way unknown here."""
  detail = event.detail
  things = [{name: _class(detail.get(name + thing), known) for name, known in OF_THINGS.items()}
            for thing in ("", "2") if not thing or "shape2" in detail]  # fmt: skip
  things.sort(key=lambda thing: thing["place"])  # of two, the one on the left is the first
  things += [dict.fromkeys(OF_THINGS, 0)] * (2 - len(things))
  return {name + suffix: thing[name] for suffix, thing in zip(("", "2"), things) for name in OF_THINGS}


def _class(value: Any, classes: Sequence[str]) -> int:
  """The number of a class, from 1; UNKNOWN for any other value."""
  return classes.index(str(value)) + 1 if str(value) in classes else UNKNOWN


def _label_gestures(column: np.ndarray, events: Sequence[Event], unit_seconds: float) -> None:
  column[:] = 0
  for event in events:
    if event.kind not in ("gesture", "face"):
      continue
    number = _class(event.detail.get("name"), GESTURES)
    for unit, share in _shares(event, unit_seconds, len(column)):
      column[unit] = number if share >= 0.5 else UNKNOWN if column[unit] == 0 else column[unit]


def _shares(event: Event, unit_seconds: float, units: int) -> Iterator[tuple[int, float]]:
  """(unit, its share that an event fills), of all units that it touches."""
  start, end = event.start / unit_seconds, event.end / unit_seconds
  for unit in range(max(0, int(start)), min(units, int(np.ceil(end - ROUNDING)))):
    yield unit, min(end, unit + 1) - max(start, unit)


def _label_acts(column: np.ndarray, events: Sequence[Event], unit_seconds: float) -> None:
  """The act in the unit in which it is complete."""
  column[:] = 0
  ranked = sorted(events, key=lambda event: event.kind == "question")  # where several end, the question counts
  for event in ranked:
    if event.kind not in ACT_OF_EVENT:
      continue
    name = ACT_OF_EVENT[event.kind] or event.detail.get("act")
    unit = ending_unit(event.start if event.kind in AT_START else event.end, unit_seconds)
    if event.kind in TYPED or event.detail.get("typed"):
      unit = int(event.end / unit_seconds + ROUNDING)  # it enters with the unit that begins then
    if 0 <= unit < len(column):
      column[unit] = _class(name, ACTS)
