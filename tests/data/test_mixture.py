"""Mixtures: exact proportions, no repeats within an epoch of any folder, a pure function of (seed, step)."""

import collections
import json
import shutil
from fractions import Fraction

import numpy as np
import pytest

from tests.helpers.fake_sessions import FakeSource, small_config
from wanstreamer_jax.data.loader import Loader
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.mixture import Mixture, Order, SessionsOf, parse_mixture
from wanstreamer_jax.data.record_folder import MANIFEST, RecordFolder
from wanstreamer_jax.errors import DataError

RECORDED = [(0, 1, 0), (0, 4, 0), (1, 2, 4), (1, 0, 4)]  # places(3) of 2:1 of the two folders below, seed 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  config, base = small_config(), tmp_path_factory.mktemp("mixture")
  make(config, FakeSource(config, 7, 6), base / "a", progress=False)
  make(config, FakeSource(config, 3, 8, tracks=()), base / "b", progress=False)
  return base


def test_rows_come_from_the_folder_that_the_order_names(folders):
  loader = Loader(f"{folders}/a:2,{folders}/b", small_config())
  opened = [RecordFolder(folders / name) for name in "ab"]
  kinds = set()
  for step in range(3):
    batch = loader.batch_at(step)
    assert "agent_mouth" not in batch  # only the first folder has it
    for row, (folder, session, start) in enumerate(loader.places(step)):
      kinds.add(folder)
      units = opened[folder].read_units(session, start, 4)
      assert all(np.array_equal(batch[name][row], units[name]) for name in loader.fields)
  assert kinds == {0, 1}


def test_the_order_is_this_one_for_ever(folders):
  """Recorded: another order would break the resuming of old runs."""
  assert Loader(f"{folders}/a:2,{folders}/b", small_config()).places(3) == RECORDED


@pytest.mark.parametrize("weights", ["3,1", "1,1,1", "0.7,0.3", "2/3,1/3", "5,0.5"])
def test_proportions_are_exact_in_every_block(weights):
  weights = [Fraction(weight) for weight in weights.split(",")]
  order = Order([SessionsOf(count, 8) for count in (10, 7, 5)[: len(weights)]], weights, 4, seed=3)
  blocks = set()
  for block in range(6):
    folders = [order.place(block * order.block + i).folder for i in range(order.block)]
    counts = collections.Counter(folders)
    blocks.add(tuple(folders))
    assert [Fraction(counts[i], order.block) for i in range(len(weights))] == [w / sum(weights) for w in weights]
  assert len(blocks) > 1  # shuffled


def test_no_folder_repeats_a_session_within_its_own_epoch():
  order = Order([SessionsOf(10, 8), SessionsOf(7, 9)], [Fraction(3), Fraction(1)], 4, seed=0)
  sessions = collections.defaultdict(list)
  for element in range(40 * 7):
    place = order.place(element)
    sessions[place.folder].append(place.session)
  for folder, count in ((0, 10), (1, 7)):
    seen = sessions[folder]
    epochs = [seen[i : i + count] for i in range(0, len(seen) - count + 1, count)]
    assert len(epochs) >= 10
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)


def test_the_order_depends_on_nothing_but_seed_and_element():
  make_order = lambda seed: Order([SessionsOf(10, 8), SessionsOf(7, 9)], [Fraction(3), Fraction(1)], 4, seed)
  elements = [10**12, 3, 77, 0]
  assert [make_order(1).place(e) for e in elements] == [make_order(1).place(e) for e in reversed(elements)][::-1]
  assert [make_order(1).place(e) for e in range(50)] != [make_order(2).place(e) for e in range(50)]


def test_a_mixture_of_one_is_that_folder(folders):
  alone, mixed = (Loader(path, small_config()) for path in (folders / "a", f"{folders}/a:5,{folders}/b:0"))
  assert [alone.places(step) for step in range(9)] == [mixed.places(step) for step in range(9)]


def test_without_shuffling_folders_take_turns(folders):
  config = small_config()
  config.data.shuffle = False
  loader = Loader(f"{folders}/a:2,{folders}/b", config)
  assert loader.places(0) + loader.places(1)[:2] == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 2, 0), (0, 3, 0), (1, 1, 0)]


def test_ways_to_write_a_mixture():
  weights = {"a": Fraction(3), "b/c": Fraction(1, 2)}
  assert parse_mixture("a:3,b/c:0.5") == parse_mixture(" a:3 , b/c/:1/2 ") == parse_mixture("a:3,b/c:.5,d:0") == weights
  assert parse_mixture("gs://bucket/a,gs://bucket/b:2") == {"gs://bucket/a": 1, "gs://bucket/b": 2}


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("", "'' names no folder"),
    ("a:1,,b", "'' names no folder"),
    (":2", "':2' names no folder"),
    ("a:0,b:0", "sum to 0"),
    ("a:-1,b:2", "the weight of a is '-1'; expected a number of 0 or more"),
    ("a:nan", "the weight of a is 'nan'"),
    ("a:1e99", "the weight of a is '1e99'"),
    ("a:1/0", "the weight of a is '1/0'"),
    ("a:2,b,a", "names a twice"),
  ],
)
def test_mixtures_that_cannot_be_read(path, message):
  with pytest.raises(DataError, match=message) as caught:
    parse_mixture(path)
  assert "\n" not in str(caught.value)


def test_an_unknown_folder_and_weights_that_are_too_fine(folders):
  with pytest.raises(DataError, match=r"no folder \S*/c; did you mean"):
    Mixture(f"{folders}/a,{folders}/c")
  with pytest.raises(DataError, match="repeat after 1000001 crops: expected at most 100000"):
    Loader(f"{folders}/a:1,{folders}/b:0.000001", small_config())


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"kind": "latents"}, r"/a holds media, \S*/c holds latents: mix one kind"),
    ({"source": {"codecs": "others"}}, r"the latents of \S*/a and \S*/c were made by different codecs"),
    ({"format": 7}, r"c/manifest.json: format 7, expected 1 or 2; make the records again"),
  ],
)
def test_folders_of_another_kind(folders, tmp_path, change, message):
  manifest = shutil.copytree(folders / "b", tmp_path / "c") / MANIFEST
  manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
  with pytest.raises(DataError, match=message):
    Mixture(f"{folders}/a,{tmp_path}/c")


def test_folders_that_do_not_mix(folders, tmp_path):
  config = small_config()
  config.media.height = 32
  make(config, FakeSource(config, 2, 8), tmp_path / "tall", progress=False)
  with pytest.raises(DataError, match=r"agent_video is uint8 \(4, 16, 16, 3\) in \S*/a, but uint8 \(4, 32, 16, 3\) in"):
    Mixture(f"{folders}/a,{tmp_path}/tall")
  with pytest.raises(DataError, match="/a: sessions of 6 units, but data.units is 7"):
    Loader(f"{folders}/b,{folders}/a", small_config(units=7))


def test_speakers_take_turns_however_many_sessions_each_has():
  speakers = ["ada"] * 7 + ["bob"] * 2 + ["", ""]
  order = Order([SessionsOf(11, 8, None, speakers)], [Fraction(1)], 4, seed=1)
  seen = [order.place(element).session for element in range(4 * 14)]
  for begin in range(0, len(seen), 4):  # two speakers, and two sessions of nobody known
    turn = seen[begin : begin + 4]
    assert sorted(speakers[session] for session in turn) == ["", "", "ada", "bob"]
  ada = [session for session in seen if speakers[session] == "ada"]
  assert sorted(ada[:7]) == sorted(ada[7:14]) == list(range(7))  # each once before one comes again
  assert ada[:7] != ada[7:14]
  assert [Order([SessionsOf(11, 8, None, speakers)], [Fraction(1)], 4, seed=1).place(e).session for e in (50, 3)] == [
    seen[50], seen[3],
  ]  # fmt: skip


def test_crops_lie_in_what_exists_of_a_session():
  lengths = np.array([20, 9, 3])
  order = Order([SessionsOf(3, 20, lengths)], [Fraction(1)], 4, seed=0)
  for session, length in enumerate(lengths):
    starts = [order.start(0, session, epoch) for epoch in range(12 * order.cycle(0))]
    assert {0, max(length - 4, 0)} <= set(starts) <= set(range(max(length - 4, 0) + 1))
    seen = {unit for start in starts[: order.cycle(0)] for unit in range(start, start + 4)}
    assert seen >= set(range(length))
