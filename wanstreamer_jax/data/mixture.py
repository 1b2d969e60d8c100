"""Defines which crops training reads, and in which order. Folders of records are mixed by weights, and every row of a
batch has its crop.

`data.path` names one folder, or several with their weights: "runs/world-latents:3,runs/calls-latents:1" takes three
crops of the first for every one of the second. A weight is any number, as in a:0.7 or a:2/3, and 1 where none is given.

Row r of global batch b is element b * batch + r of one endless sequence, a pure function of (seed, element):
  1. The sequence is cut into blocks of as many elements as the weights have parts (3:1 has four). Every block holds
     every folder exactly as often as its weight says, in a shuffled order: proportions are exact, block for block.
  2. The n-th element of a folder is the n-th of its sessions, every epoch a fresh permutation of all of them. With
     `data.by_speaker` an epoch is a permutation of its speakers instead, each with the next of their own sessions, so
     that somebody with many sessions is not heard more often than somebody with few.
  3. Its crop is one of the few that together cover the session (`Order.start`), so that a few epochs show every unit.
There is no other state: the step is the state of a loader, and hosts only choose which rows they read.

With `data.shares` = G the sessions of every folder are cut into G ranges, whose sizes differ by at most one, and the
rows of a batch into G groups; a group draws from its range alone, in the way above. Then a host needs the ranges of its
rows only, and another number of hosts still continues with the same crops.

Nothing is packed: the sessions of a folder are stored in one length, and crops have one. A session may exist in its
first units only (`RecordFolder.lengths`); crops lie in these, or start at 0 where a crop is longer.
"""

import fractions
import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wanstreamer_jax.config import Config, DataConfig
from wanstreamer_jax.data import labels
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.tokenizer import tokenizer_of
from wanstreamer_jax.errors import DataError

MAX_BLOCK = 100_000  # elements
WEIGHT = re.compile(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}|\d{1,9}/0*[1-9]\d{0,8}")
SESSIONS, STARTS, FOLDERS, SPEAKERS = 0, 1, 2, 3  # numbers of the random streams, by what they decide


class Place(NamedTuple):
  """One crop."""

  folder: int  # of the mixture, from 0
  session: int
  start: int  # unit


def parse_mixture(text: str) -> dict[str, fractions.Fraction]:
  """{folder: weight} of a `data.path`, folders of weight 0 left out. Raises DataError."""
  weights: dict[str, fractions.Fraction] = {}
  for part in text.split(","):
    path, weight = _parse_part(part.strip(), text)
    if path in weights:
      raise DataError(f"data.path {text!r} names {path} twice: give it one weight")
    weights[path] = weight
  if not any(weights.values()):
    raise DataError(f"the weights of data.path {text!r} sum to 0: give at least one folder a weight above 0")
  return {path: weight for path, weight in weights.items() if weight}


def _parse_part(part: str, text: str) -> tuple[str, fractions.Fraction]:
  """(folder, weight) of FOLDER:WEIGHT or FOLDER; the colon of gs:// belongs to the folder."""
  path, colon, number = part.rpartition(":")
  if not colon or number.startswith("/"):
    path, number = part, "1"
  if not path:
    raise DataError(f"data.path {text!r}: {part!r} names no folder; write FOLDER:WEIGHT,FOLDER:WEIGHT")
  if not WEIGHT.fullmatch(number):
    raise DataError(f"data.path {text!r}: the weight of {path} is {number!r}; expected a number of 0 or more")
  return path.rstrip("/") or path, fractions.Fraction(number)


class SessionsOf(NamedTuple):
  """What the order of a folder's sessions depends on."""

  sessions: int
  units: int  # of each, as stored
  lengths: np.ndarray | None = None  # int [sessions], the units that exist; None: all
  speakers: Sequence[str] | None = None  # [sessions]; None: not asked for

  def part(self, numbers: range) -> "SessionsOf":
    """Some consecutive sessions."""
    cut = slice(numbers.start, numbers.stop)
    lengths = None if self.lengths is None else self.lengths[cut]
    return SessionsOf(len(numbers), self.units, lengths, None if self.speakers is None else self.speakers[cut])

  def length(self, session: int) -> int:
    """Units of one session that exist."""
    return self.units if self.lengths is None else int(self.lengths[session])


class Order:
  """Element -> crop, for folders of sessions, and crops of `crop` units.

  Without `shuffle`, folders take turns, sessions come in order, and every crop starts at 0. Raises DataError for
  weights that repeat only after more than MAX_BLOCK crops.
  """

  def __init__(
    self, folders: Sequence[SessionsOf], weights: Sequence[fractions.Fraction], crop: int, seed: int,
    shuffle: bool = True, share: int = 0,
  ):  # fmt: skip
    """share: which of several shares these sessions are; each is shuffled by itself."""
    self.folders, self.crop = tuple(folders), crop
    self.groups = [_by_speaker(folder.speakers) for folder in folders]
    scale = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    self.shares = [count // math.gcd(*whole) for count in whole]  # of each folder in a block
    self.block = sum(self.shares)
    if self.block > MAX_BLOCK:
      raise DataError(
        f"the weights {', '.join(map(str, weights))} of data.path repeat after {self.block} crops: expected at most "
        f"{MAX_BLOCK}; use rounder weights"
      )
    self._seed, self._shuffle, self._share = seed, shuffle, share
    self._mixed = functools.lru_cache(maxsize=4)(self._mix)
    self._permutation = functools.lru_cache(maxsize=2 * len(self.folders))(self._permute)

  def place(self, element: int) -> Place:
    """The crop at element `element` of the endless sequence."""
    block, position = divmod(element, self.block)
    folders, ranks = self._mixed(block)
    folder = int(folders[position])
    number, groups = block * self.shares[folder] + int(ranks[position]), self.groups[folder]
    if groups is None or not self._shuffle:
      epoch, turn = divmod(number, self.folders[folder].sessions)
      session = int(self._permutation(folder, epoch)[turn])
      return Place(folder, session, self.start(folder, session, epoch))
    visit, turn = divmod(number, len(groups))
    speaker = int(self._rng(SPEAKERS, folder, visit).permutation(len(groups))[turn])
    epoch, turn = divmod(visit, len(groups[speaker]))  # of this speaker's own sessions
    session = int(self._rng(SPEAKERS, folder, speaker, epoch, 1).permutation(groups[speaker])[turn])
    return Place(folder, session, self.start(folder, session, epoch))

  def cycle(self, folder: int) -> int:
    """How many epochs it takes to show all of every session."""
    return -(-(2 * self.folders[folder].units + self.crop) // (2 * self.crop))

  def start(self, folder: int, session: int, epoch: int) -> int:
    """Where the crop of a session starts in an epoch.

    In every cycle of epochs the starts are 0, the last possible one, and random ones between them, at most a crop
    apart, in a random order: a cycle shows every unit of the session, and over many cycles crops start everywhere.
    (Independent random starts would hardly ever show the first and the last units: one crop in 86, for crops of 40 of
    125 units.)
    """
    length, cycle = max(self.folders[folder].length(session), self.crop), self.cycle(folder)
    if not self._shuffle or length == self.crop:
      return 0
    rng = self._rng(STARTS, folder, session, epoch // cycle)
    overlap = cycle * self.crop - length  # units that a cycle shows twice, at random places; at least half a crop
    earlier = np.sort(rng.integers(overlap + 1, size=cycle))
    earlier[0], earlier[-1] = 0, overlap
    starts = np.clip(np.arange(cycle) * self.crop - earlier, 0, length - self.crop)
    return int(rng.permutation(starts)[epoch % cycle])

  def _mix(self, block: int) -> tuple[np.ndarray, np.ndarray]:
    """For every position of a block: its folder, and how many of that folder are before it in the block."""
    folders = np.repeat(np.arange(len(self.shares)), self.shares)
    if self._shuffle:
      folders = self._rng(FOLDERS, block).permutation(folders)
    ranks = np.empty_like(folders)
    for folder, share in enumerate(self.shares):
      ranks[folders == folder] = np.arange(share)
    return folders, ranks

  def _permute(self, folder: int, epoch: int) -> np.ndarray:
    numbers = np.arange(self.folders[folder].sessions)
    return self._rng(SESSIONS, epoch, folder).permutation(numbers) if self._shuffle else numbers

  def _rng(self, *stream: int) -> np.random.Generator:
    return np.random.default_rng([self._seed, *stream, *([self._share] if self._share else [])])


class SharedOrder:
  """Element -> crop, where the rows of a batch are divided among shares of the sessions; see the module's docstring.
  Every folder needs as many sessions as there are shares."""

  def __init__(self, folders: Sequence[SessionsOf], weights: Sequence[fractions.Fraction], data: DataConfig):
    self.batch, self.rows = data.batch, data.batch // data.shares
    parts = [[share_of(folder, share, data.shares) for folder in folders] for share in range(data.shares)]
    self._firsts = [[part.start for part in own] for own in parts]
    self._orders = [
      Order(list(map(SessionsOf.part, folders, own)), weights, data.units, data.seed, data.shuffle, share)
      for share, own in enumerate(parts)
    ]

  def place(self, element: int) -> Place:
    """The crop of row element % batch of global batch element // batch."""
    step, row = divmod(element, self.batch)
    share, own = divmod(row, self.rows)
    place = self._orders[share].place(step * self.rows + own)
    return place._replace(session=place.session + self._firsts[share][place.folder])


def share_of(folder: RecordFolder | SessionsOf, share: int, shares: int) -> range:
  """The sessions of one of several equal shares of a folder."""
  return range(folder.sessions * share // shares, folder.sessions * (share + 1) // shares)


class Mixture:
  """The folders of a `data.path`, opened, with their weights.

  Attributes: folders, weights (aligned). Raises DataError for a path that cannot be read as a mixture, for folders
  that are missing or damaged, and for folders that cannot be mixed: of another kind, with other fields, or with
  latents that other codecs made.
  """

  def __init__(self, path: str):
    weights = parse_mixture(path)
    self.folders = [RecordFolder(name) for name in weights]
    self.weights = list(weights.values())
    for other in self.folders[1:]:
      _check_alike(self.folders[0], other)

  @property
  def kind(self) -> str:
    """Of the records: "media" or "latents"."""
    return self.folders[0].kind

  def check(self, config: Config) -> None:
    """Raises DataError when the records were made for another config than this one."""
    tokenizer = tokenizer_of(config)
    for folder in self.folders:
      folder.check(config, tokenizer)

  def fetch(self, config: Config, rows: Sequence[int]) -> None:
    """Copies to this machine what these rows of all batches read from folders in object stores. Raises DataError."""
    shares = config.data.shares
    for share in sorted({row * shares // config.data.batch for row in rows}):
      for folder in self.folders:
        folder.fetch(share_of(folder, share, shares))

  def order(self, config: Config) -> Order | SharedOrder:
    """The order of the crops that a config asks for. Raises DataError for sessions shorter than a crop."""
    data = config.data
    for folder in self.folders:
      if folder.units < data.units:
        raise DataError(
          f"{folder.path}: sessions of {folder.units} units, but data.units is {data.units}; make longer sessions"
        )
      if folder.sessions < data.shares:
        raise DataError(
          f"{folder.path} has {folder.sessions} sessions, fewer than data.shares {data.shares}: lower data.shares"
        )
    found = [
      SessionsOf(folder.sessions, folder.units, folder.lengths, folder.speakers() if data.by_speaker else None)
      for folder in self.folders
    ]
    if data.shares > 1:
      return SharedOrder(found, self.weights, data)
    return Order(found, self.weights, data.units, data.seed, data.shuffle)

  def fields(self) -> tuple[str, ...]:
    """The unit fields that every folder has, in the order of the first."""
    others = [folder.unit_dtype.names or () for folder in self.folders[1:]]
    return tuple(name for name in self.folders[0].unit_dtype.names or () if all(name in names for names in others))


def _by_speaker(speakers: Sequence[str] | None) -> list[np.ndarray] | None:
  """The sessions of every speaker, int [sessions of the speaker]; sessions of nobody known are each one's own."""
  if speakers is None:
    return None
  numbers: dict[str, list[int]] = {}
  for session, speaker in enumerate(speakers):
    numbers.setdefault(speaker or f"/{session}", []).append(session)
  return [np.array(sessions) for sessions in numbers.values()]


def _check_alike(first: RecordFolder, other: RecordFolder) -> None:
  """Raises DataError unless rows of both folders fit into one batch."""
  if first.kind != other.kind:
    raise DataError(f"{first.path} holds {first.kind}, {other.path} holds {other.kind}: mix one kind")
  made_by = [folder.manifest["source"].get("codecs") for folder in (first, other)]
  if made_by[0] != made_by[1]:
    raise DataError(f"the latents of {first.path} and {other.path} were made by different codecs: encode one again")
  for a, b in ((first.unit_dtype, other.unit_dtype), (first.session_dtype, other.session_dtype)):
    for name in sorted((set(a.names or ()) & set(b.names or ())) - {labels.FIELD}):  # these are read by name
      if a[name] != b[name]:
        raise DataError(
          f"{name} is {a[name].base} {a[name].shape} in {first.path}, but {b[name].base} {b[name].shape} in "
          f"{other.path}: make one of them again with the other's config"
        )
