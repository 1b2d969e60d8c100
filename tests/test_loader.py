"""Loader: the order is a pure function of (seed, step), whatever the hosts; crops are whole and in range."""

import pickle
import shutil

import jax
import numpy as np
import pytest

from tests.fake_sessions import FakeSource, small_config
from wanstreamer_jax.data.loader import Loader, bench
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.train.feed import Feed

SESSIONS, UNITS = 10, 8
RECORDED = [(6, 3), (3, 3), (4, 1), (8, 0)]  # places(3) of ten sessions of eight units, crops of four, seed 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  config = small_config()
  path = tmp_path_factory.mktemp("loader") / "fake"
  make(config, FakeSource(config, SESSIONS, UNITS), path, progress=False)
  return path


def equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_batches_hold_what_the_folder_holds(folder):
  config = small_config(units=3, batch=4)
  loader, opened = Loader(folder, config), RecordFolder(folder)
  batch = loader.batch_at(7)
  for row, (session, start) in enumerate(loader.places(7)):
    units = opened.read_units(session, start, 3)
    assert (batch["session"][row], batch["start"][row]) == (session, start)
    assert all(np.array_equal(batch[name][row], units[name]) for name in units.dtype.names)
    assert np.array_equal(batch["portrait"][row], opened.read_session(session).fixed["portrait"])
  assert batch["user_video"].shape == (4, 3, 4, 16, 16, 3)
  assert batch["agent_text"].shape == (4, 3, 3)
  assert batch["world_text"].shape == (4, 32)


def test_every_epoch_is_another_permutation_and_every_start_occurs(folder):
  loader = Loader(folder, small_config(units=6, batch=2))
  epochs = [[place for step in range(5) for place in loader.places(5 * epoch + step)] for epoch in range(8)]
  orders = [tuple(session for session, _ in epoch) for epoch in epochs]
  assert all(sorted(order) == list(range(SESSIONS)) for order in orders)
  assert len(set(orders)) == len(orders)
  assert {start for epoch in epochs for _, start in epoch} == {0, 1, 2}


def test_order_depends_on_seed_and_step_only(folder):
  config = small_config()
  loader = Loader(folder, config)
  later = [loader.places(step) for step in (5, 0, 1_000_000)]
  again = Loader(folder, config)
  assert [again.places(step) for step in (5, 0, 1_000_000)] == later
  config.data.seed = 1
  assert [Loader(folder, config).places(step) for step in (5, 0, 1_000_000)] != later


def test_the_order_is_this_one_for_ever(folder):
  """Recorded: another order would break the resuming of old runs."""
  assert Loader(folder, small_config()).places(3) == RECORDED


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_their_rows_of_the_same_global_batch(folder, hosts):
  config = small_config()
  whole = Loader(folder, config).batch_at(9)
  parts = [Loader(folder, config, host, hosts).batch_at(9) for host in range(hosts)]
  assert equal(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_a_feed_resumes_exactly_anywhere_and_ends(folder):
  loader, mesh = Loader(folder, small_config()), make_mesh("data=1")
  for start in (0, 3):
    with Feed(loader, mesh, start, start + 4) as feed:
      for step in range(start, start + 4):
        assert equal(jax.device_get(feed.next()), loader.batch_at(step))
      with pytest.raises(StopIteration):
        feed.next()


def test_without_shuffling_sessions_come_in_order_from_their_start(folder):
  config = small_config(batch=5)
  config.data.shuffle = False
  loader = Loader(folder, config)
  assert loader.places(0) + loader.places(1) == [(session, 0) for session in range(SESSIONS)]
  assert loader.places(2) == loader.places(0)


def test_fields_limit_what_is_read(folder):
  batch = Loader(folder, small_config(), fields=("agent_audio",)).batch_at(0)
  assert "agent_audio" in batch
  assert "user_video" not in batch
  with pytest.raises(DataError, match="no field 'agent_smell'"):
    Loader(folder, small_config(), fields=("agent_smell",))


def test_a_folder_can_be_sent_to_another_process(folder):
  opened = RecordFolder(folder)
  opened.read_units(0)
  assert np.array_equal(pickle.loads(pickle.dumps(opened)).read_units(1), opened.read_units(1))


def change(config, section, name, value):
  setattr(getattr(config, section), name, value)
  return config


@pytest.mark.parametrize(
  ("section", "name", "value", "message"),
  [
    ("media", "height", 32, "height = 16, but the config has 32"),
    ("layout", "text_slots", 2, "slots = 3, but the config has 2"),
    ("layout", "world_text", 8, "world = 32, but the config has 8"),
    ("model", "vocab", 512, "1024 token ids, but model.vocab is 512"),
    ("data", "units", 9, "sessions of 8 units, but data.units is 9"),
  ],
)
def test_records_of_another_config_are_refused(folder, section, name, value, message):
  with pytest.raises(DataError, match=message):
    Loader(folder, change(small_config(), section, name, value))


def test_batches_that_do_not_split_over_hosts_are_refused(folder):
  with pytest.raises(DataError, match="must split evenly"):
    Loader(folder, small_config(batch=4), 0, 3)
  with pytest.raises(DataError, match="host 2 of 2"):
    Loader(folder, small_config(batch=4), 2, 2)


def test_missing_shards_are_found_at_the_start(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / "copy")
  (copy / "units-00000.array_record").unlink()
  with pytest.raises(DataError, match="missing"):
    Loader(copy, small_config())


def test_bench_reports_rates(folder):
  rates = bench(Loader(folder, small_config()), seconds=0.05)
  assert set(rates) == {"units_per_second", "mb_per_second", "times_real_time"}
  assert all(rate > 0 for rate in rates.values())
