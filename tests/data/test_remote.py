"""Records in object stores: whole files only, each host its share, and one line for what cannot be read."""

import pickle

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.helpers.fake_sessions import FakeSource, small_config
from wanstreamer_jax.config import Config
from wanstreamer_jax.data import remote
from wanstreamer_jax.data.loader import Loader
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.mixture import Mixture, SharedOrder
from wanstreamer_jax.data.record_folder import MANIFEST, RecordFolder
from wanstreamer_jax.errors import ConfigError, DataError

SESSIONS, UNITS = 20, 6  # ten shards
STORE = "memory://bucket/fake"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  config = small_config()
  path = tmp_path_factory.mktemp("remote") / "fake"
  make(config, FakeSource(config, SESSIONS, UNITS), path, progress=False)
  return path


@pytest.fixture
def store(folder, tmp_path, monkeypatch):
  """The folder in an object store; returns the names of the files that were read from it."""
  files, read = fsspec.filesystem("memory"), []
  files.store.clear()
  for file in folder.iterdir():
    files.pipe_file(f"/bucket/fake/{file.name}", file.read_bytes())
  original = MemoryFileSystem.get_file
  monkeypatch.setattr(
    MemoryFileSystem,
    "get_file",
    lambda self, path, *a, **k: (read.append(path.split("/")[-1]), original(self, path, *a, **k)),
  )
  monkeypatch.setenv("WANSTREAMER_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(remote, "PAUSE", 0.001)
  yield read
  files.store.clear()


def shards(read):
  return sorted({int(name.split("-")[1][:5]) for name in read})


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_remote_folder_reads_like_a_local_one(folder, store, scheme):
  path = STORE if scheme == "memory" else f"file://{folder}"
  opened, local = RecordFolder(path), RecordFolder(folder)
  assert (opened.path, opened.sessions, opened.fingerprint()) == (path, SESSIONS, local.fingerprint())
  assert store == []
  assert np.array_equal(opened.read_units(7), local.read_units(7))
  assert opened.read_session(7).truth == local.read_session(7).truth
  again = pickle.loads(pickle.dumps(opened))
  assert np.array_equal(again.read_units(7, 2, 3), local.read_units(7, 2, 3))
  if scheme == "memory":
    assert sorted(store) == ["sessions-00003.array_record", "units-00003.array_record"]
  opened.verify()


def test_a_changed_folder_is_copied_anew(folder, store, tmp_path):
  before = RecordFolder(STORE)
  before.read_units(0)
  files = fsspec.filesystem("memory")
  files.pipe_file(f"/bucket/fake/{MANIFEST}", files.cat_file(f"/bucket/fake/{MANIFEST}") + b"\n")
  RecordFolder(STORE).read_units(0)
  assert len(store) == 2
  assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_loader_fetches_all_before_the_first_batch_and_nothing_twice(folder, store, capsys):
  config = small_config(units=4, batch=4)
  loader = Loader(STORE, config)
  assert len(store) == 20
  assert "fetching 20 files, 0.00 GB, of memory://bucket/fake to" in capsys.readouterr().out
  local = Loader(folder, config).batch_at(3)
  assert all(np.array_equal(local[name], array) for name, array in loader.batch_at(3).items())
  Loader(STORE, config)
  assert len(store) == 20
  assert not capsys.readouterr().out


def test_every_host_fetches_its_share(folder, store, tmp_path, monkeypatch):
  config = small_config(units=4, batch=4)
  config.data.shares = 4
  whole, found = Loader(folder, config), {}
  for host in range(2):
    monkeypatch.setenv("WANSTREAMER_CACHE", str(tmp_path / f"host{host}"))
    store.clear()
    found[host] = Loader(STORE, config, rows=[2 * host, 2 * host + 1])
    assert shards(store) == list(range(5 * host, 5 * host + 5))
    store.clear()
    for step in range(12):
      part = found[host].batch_at(step)
      assert np.array_equal(part["user_audio"], whole.batch_at(step)["user_audio"][2 * host : 2 * host + 2])
    assert store == []


def test_shares_show_every_session_once_an_epoch_and_do_not_depend_on_hosts(folder):
  config = small_config(units=UNITS, batch=4)
  config.data.shares = 2
  loader = Loader(folder, config)
  steps = [loader.places(step) for step in range(10)]
  for group in (slice(0, 2), slice(2, 4)):
    epochs = [[p.session for step in steps[e : e + 5] for p in step[group]] for e in (0, 5)]
    own = range(10) if group.start == 0 else range(10, 20)
    assert [sorted(epoch) for epoch in epochs] == [list(own)] * 2
    assert epochs[0] != epochs[1]
  assert [p.session % 10 for p in steps[0][:2]] != [p.session % 10 for p in steps[0][2:]]
  halves = [Loader(folder, config, rows).places(7) for rows in ([0, 1], [2, 3])]
  assert halves[0] + halves[1] == loader.places(7)


def test_shares_of_a_mixture_keep_its_proportions(folder):
  config = small_config(units=4, batch=8)
  config.data.shares = 2
  mixture = Mixture(f"{folder}:3,{folder}/../fake:1")
  order = mixture.order(config)
  assert isinstance(order, SharedOrder)
  places = [order.place(element) for element in range(64)]
  assert sum(place.folder == 0 for place in places) == 48


def test_more_shares_than_sessions_or_rows_are_refused(folder):
  config = small_config(units=4, batch=40)
  config.data.shares = 40
  with pytest.raises(DataError, match="has 20 sessions, fewer than data.shares 40"):
    Loader(folder, config)
  other = Config()
  other.data.batch, other.data.shares = 8, 3
  with pytest.raises(ConfigError, match=r"data\.batch / data\.shares: 8 / 3 is not a whole number"):
    other.freeze()


def test_a_broken_copy_is_not_kept(store, tmp_path):
  files = fsspec.filesystem("memory")
  opened, name = RecordFolder(STORE), "/bucket/fake/units-00000.array_record"
  blob = files.cat_file(name)
  for damaged, message in (
    (blob[:-1], "bytes, but the manifest says"),
    (b"x" * len(blob), "do not match the manifest"),
  ):
    files.pipe_file(name, damaged)
    with pytest.raises(DataError, match=f"{STORE}/units-00000.array_record: .*{message}"):
      opened.read_units(0)
    assert not list((tmp_path / "cache").rglob("units-00000*"))
  files.pipe_file(name, blob)
  opened.read_units(0)


def test_a_store_that_fails_now_and_then_is_asked_again(folder, store, monkeypatch):
  failures, original = [0], MemoryFileSystem.get_file

  def flaky(self, *arguments, **options):
    failures[0] += 1
    if failures[0] % 3:
      raise ConnectionError("503")
    return original(self, *arguments, **options)

  monkeypatch.setattr(MemoryFileSystem, "get_file", flaky)
  assert np.array_equal(RecordFolder(STORE).read_units(3), RecordFolder(folder).read_units(3))
  assert failures[0] == 3


def fail(error):
  def read(*_, **__):
    raise error

  return read


def test_what_cannot_be_read_is_one_line(store, tmp_path, monkeypatch):
  files = fsspec.filesystem("memory")
  expected = {
    "memory://bucket/nothing": "memory://bucket/nothing/manifest.json: not there; copy the whole folder",
    "nowhere://bucket/a": "nowhere://bucket/a: .*; give a folder, or a path like gs://bucket/latents",
    "gs://bucket/a": "gs://bucket/a needs a package: .*; pip install gcsfs",
  }
  for path, message in expected.items():
    with pytest.raises(DataError, match=message) as caught:
      RecordFolder(path)
    assert "\n" not in str(caught.value)
  opened = RecordFolder(STORE)
  monkeypatch.setattr(MemoryFileSystem, "get_file", fail(ConnectionError("refused")))
  with pytest.raises(
    DataError, match="cannot read memory://bucket/fake/units-00000.array_record: .*refused; check the"
  ):
    opened.read_units(0)
  monkeypatch.setattr(MemoryFileSystem, "get_file", fail(OSError(28, "No space left on device")))
  with pytest.raises(DataError, match="cannot keep a copy in .*No space left on device; set WANSTREAMER_CACHE"):
    opened.read_units(0)
  files.rm_file("/bucket/fake/units-00004.array_record")
  with pytest.raises(DataError, match=f"{STORE}/units-00004.array_record: missing"):
    RecordFolder(STORE)
  monkeypatch.setenv("WANSTREAMER_CACHE", str(tmp_path / "file"))
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="cannot keep a copy in"):
    RecordFolder(STORE)
