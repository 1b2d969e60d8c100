"""Loader: the order is a pure function of (seed, step), whatever the hosts; crops are whole and cover their session."""

import json
import pickle
import shutil
import time

import jax
import numpy as np
import pytest

from tests.helpers import toy_stage
from tests.helpers.fake_sessions import FakeSource, small_config
from wanstreamer_jax.bench.loader import bench
from wanstreamer_jax.data.loader import Loader
from wanstreamer_jax.data.make import make
from wanstreamer_jax.data.mixture import Order, SessionsOf
from wanstreamer_jax.data.record_folder import MANIFEST, RecordFolder
from wanstreamer_jax.data.records import TEXT_VALID, unit_dtype, unit_field
from wanstreamer_jax.errors import ConfigError, DataError
from wanstreamer_jax.parallel.mesh import make_mesh
from wanstreamer_jax.train.loop import train
from wanstreamer_jax.train.prefetch import Prefetcher, host_rows

SESSIONS, UNITS = 10, 8
RECORDED = [
  (0, 6, 4),
  (0, 3, 1),
  (0, 4, 4),
  (0, 8, 4),
]  # step 3: ten sessions of eight units, crops of four


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  config = small_config()
  path = tmp_path_factory.mktemp("loader") / "fake"
  make(config, FakeSource(config, SESSIONS, UNITS), path, progress=False)
  return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
  """Four longer sessions, with other tracks."""
  config = small_config()
  path = tmp_path_factory.mktemp("loader") / "other"
  make(config, FakeSource(config, 4, UNITS + 3, tracks=()), path, progress=False)
  return path


@pytest.fixture(scope="module")
def mixed(folder, other):
  return f"{folder}:3,{other}:2"


def equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_batches_hold_what_the_folder_holds(folder):
  config = small_config(units=3, batch=4)
  loader, opened = Loader(folder, config), RecordFolder(folder)
  batch = loader.batch_at(7)
  for row, (_, session, start) in enumerate(loader.places(7)):
    units = opened.read_units(session, start, 3)
    assert (batch["session"][row], batch["start"][row]) == (session, start)
    assert all(np.array_equal(batch[name][row], units[name]) for name in units.dtype.names)
    assert np.array_equal(batch["portrait"][row], opened.read_session(session).fixed["portrait"])
  assert batch["user_video"].shape == (4, 3, 4, 16, 16, 3)
  assert batch["agent_text"].shape == (4, 3, 3)
  assert batch["world_text"].shape == (4, 32)


def test_every_epoch_is_another_permutation(folder):
  loader = Loader(folder, small_config(units=6, batch=2))
  epochs = [[place for step in range(5) for place in loader.places(5 * epoch + step)] for epoch in range(8)]
  orders = [tuple(place.session for place in epoch) for epoch in epochs]
  assert all(sorted(order) == list(range(SESSIONS)) for order in orders)
  assert len(set(orders)) == len(orders)


@pytest.mark.parametrize(("length", "crop"), [(8, 8), (8, 7), (8, 5), (8, 4), (8, 3), (8, 1), (125, 40), (125, 63)])
def test_every_cycle_of_epochs_shows_all_of_every_session(length, crop):
  order = Order([SessionsOf(3, length)], [1], crop, seed=0)
  cycle, starts = order.cycle(0), set()
  for session in range(3):
    for first in range(0, 30 * cycle, cycle):
      drawn = [order.start(0, session, epoch) for epoch in range(first, first + cycle)]
      seen = {unit for start in drawn for unit in range(start, start + crop)}
      assert seen == set(range(length))
      starts.update(drawn)
  assert cycle * crop <= length + 1.5 * crop
  if length < 20:
    assert starts == set(range(length - crop + 1))


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


def rows_of(host, hosts, batch=4):
  """The rows of one of several hosts, each with its share of the eight devices here."""
  return host_rows(batch, make_mesh(f"data={hosts}"), jax.devices()[host : host + 1])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_their_rows_of_the_same_global_batch(folder, hosts):
  config = small_config()
  whole = Loader(folder, config).batch_at(9)
  parts = [Loader(folder, config, rows_of(host, hosts)).batch_at(9) for host in range(hosts)]
  assert equal(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_another_number_of_hosts_goes_on_without_repeating_or_losing_an_example(mixed):
  """Law 7's data half: three runs of 30 steps, on one host, on four, and on two and then four."""

  def run(hosts_at):
    examples = []
    for step in range(30):
      hosts = hosts_at(step)
      loaders = [Loader(mixed, small_config(), rows_of(host, hosts)) for host in range(hosts)]
      examples.append([place for loader in loaders for place in loader.places(step)])
    return examples

  alone = run(lambda step: 1)
  assert run(lambda step: 4) == alone
  assert run(lambda step: 2 if step < 13 else 4) == alone


def test_hosts_that_share_a_session_read_the_same_rows():
  mesh = make_mesh("data=2,context=4")
  hosts = [list(mesh.devices.reshape(-1)[2 * host : 2 * host + 2]) for host in range(4)]
  assert [host_rows(4, mesh, devices) for devices in hosts] == [[0, 1], [0, 1], [2, 3], [2, 3]]
  apart = [mesh.devices[0, 0, 0, 0], mesh.devices[1, 0, 0, 3]]  # a mesh may order devices in any way
  assert host_rows(4, mesh, apart) == [0, 1, 2, 3]
  assert host_rows(4, mesh) == [0, 1, 2, 3]


@pytest.mark.parametrize("cores", [2, 64])
def test_a_feed_resumes_exactly_anywhere_and_ends(mixed, monkeypatch, cores):
  monkeypatch.setattr("os.cpu_count", lambda: cores)
  loader, mesh = Loader(mixed, small_config()), make_mesh("data=2,fsdp=2")
  for start in (0, 3):
    with Prefetcher(loader, mesh, start, start + 4) as prefetcher:
      for step in range(start, start + 4):
        batch = prefetcher.next()
        assert equal(jax.device_get(batch), loader.batch_at(step))
        assert all(array.sharding.shard_shape(array.shape)[0] == 1 for array in batch.values())
      with pytest.raises(StopIteration):
        prefetcher.next()


def test_a_feed_says_how_long_it_kept_the_training_waiting():
  class Slow:
    def batch_at(self, step):
      time.sleep(0.2)
      return {"x": np.zeros(1)}

  with Prefetcher(Slow(), make_mesh("data=1"), 0, 9) as prefetcher:
    prefetcher.next()
    assert 0.1 < prefetcher.waited() < 2
    assert prefetcher.waited() == 0
    time.sleep(0.7)  # as a step would take: the next two are ready
    prefetcher.next()
    assert prefetcher.waited() < 0.1


def test_without_shuffling_sessions_come_in_order_from_their_start(folder):
  config = small_config(batch=5)
  config.data.shuffle = False
  loader = Loader(folder, config)
  assert loader.places(0) + loader.places(1) == [(0, session, 0) for session in range(SESSIONS)]
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


def test_media_where_latents_are_trained_on_say_how_to_make_them(folder):
  expected = (
    f"{folder} holds media, but this stage trains on latents: .* with `wanstreamer data encode {folder} --audio"
  )
  with pytest.raises(DataError, match=expected):
    Loader(folder, small_config(), fields=("agent_video_latent", "user_text"))


@pytest.mark.parametrize(
  ("section", "name", "value", "message"),
  [
    ("media", "height", 32, "height = 16, but the config has 32"),
    ("layout", "text_slots", 2, "slots = 3, but the config has 2"),
    ("layout", "world_text", 8, "world = 32, but the config has 8"),
    ("model", "vocab", 512, "has 1024 tokens, but model.vocab is 512"),
    ("data", "units", 9, "sessions of 8 units, but data.units is 9"),
  ],
)
def test_records_of_another_config_are_refused(folder, section, name, value, message):
  with pytest.raises(DataError, match=message):
    Loader(folder, change(small_config(), section, name, value))


def test_batches_that_do_not_split_over_hosts_are_refused():
  with pytest.raises(ConfigError, match=r"data\.batch is 6, which does not divide over data=4"):
    rows_of(0, 4, batch=6)


def test_latents_of_another_codec_size_are_refused(folder):
  config = small_config()
  config.layout.voice_units = 2
  with pytest.raises(DataError, match=r"voice = \[0\], but the config has \[384\]"):
    Loader(folder, config)


def truncate(path):
  blob = path.read_bytes()
  path.write_bytes(blob[: len(blob) // 2])


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: (path / "units-00000.array_record").unlink(), "units-00000.array_record: missing; copy"),
    (lambda path: truncate(path / "sessions-00001.array_record"), "sessions-00001.array_record: .* bytes, but the man"),
    (lambda path: truncate(path / MANIFEST), "manifest.json: not JSON"),
    (lambda path: (path / MANIFEST).write_text('{"format": 7}'), "format 7, expected 1 or 2; make the records again"),
    (lambda path: (path / MANIFEST).unlink(), "copy holds no records: no manifest.json"),
    (lambda path: path.rename(path.with_name("copy.partial")), "copy.partial is not finished: repeat the command"),
    (lambda path: path.rename(path.with_name("copies")), r"no folder \S*copy; did you mean \S*copies"),
  ],
)
def test_damaged_folders_are_found_at_the_start(folder, tmp_path, damage, message):
  copy = shutil.copytree(folder, tmp_path / "copy")
  damage(copy)
  with pytest.raises(DataError, match=message) as caught:
    Loader(copy, small_config())
  assert "\n" not in str(caught.value)


def test_bench_reports_rates(folder):
  rates = bench(Loader(folder, small_config()), seconds=0.05)
  assert set(rates) == {"units_per_second", "mb_per_second", "times_real_time"}
  assert all(rate > 0 for rate in rates.values())


class Examples:
  """A loader for the toy stage: what it trains on is read from the records, and every row tells its crop."""

  def __init__(self, mixed, config):
    self.loader = Loader(mixed, config)

  def batch_at(self, step):
    batch = self.loader.batch_at(step)
    x = batch["agent_audio"][:, 0, : toy_stage.WIDTH].astype(np.float32) / 32768
    return {"x": x, "y": np.sin(x), "step": 100 * batch["session"] + batch["start"]}


def test_a_checkpoint_holds_the_place_in_the_data(mixed, tmp_path):
  """The step is the loader's whole state: a run that stops after 3 of 6 updates goes on with the 4th's examples."""

  def examples(run, *stops):
    for steps in stops:
      config = toy_stage.toy_config(tmp_path / run, steps, log_every=1, checkpoint_every=3, eval_every=0)
      config.data.batch = 4
      stage = toy_stage.toy_stage(make_loader=lambda config: Examples(mixed, small_config()))
      train(stage, config.freeze())
    lines = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: (line["batch_step"], line["loss"]) for line in lines if "batch_step" in line}

  undisturbed = examples("one", 6)
  assert list(undisturbed) == [1, 2, 3, 4, 5, 6]
  assert [int(example) for example, _ in undisturbed.values()] == [
    100 * place.session + place.start for step in range(6) for place in Loader(mixed, small_config()).places(step)[:1]
  ]
  assert examples("two", 3, 6) == undisturbed


def test_text_of_older_records_is_valid(tmp_path):
  """Records that were made before `*_text_valid` existed."""
  fields = ("agent_text", "agent_text_valid")
  now = unit_dtype(small_config(), ())
  before = np.dtype([(name, now[name]) for name in now.names if name not in TEXT_VALID])
  old, new = np.zeros(3, before), np.zeros(3, now)
  new["agent_text_valid"] = [True, False, True]
  assert [list(unit_field(units, fields[1])) for units in (old, new)] == [[True] * 3, [True, False, True]]
  assert unit_field(old, "agent_text") is not None
