"""What `wanstreamer data make|stats|encode` do, behind the command line."""

import shlex
from collections.abc import Sequence

from wanstreamer_jax.config import Config
from wanstreamer_jax.data.make import SessionSource, make
from wanstreamer_jax.data.record_writer import REPORT, WHOLE, read_report
from wanstreamer_jax.errors import DataError

SOURCES = ("duplex_world", "recordings")


def make_records(
  config: Config, out: str, *, source: str = "duplex_world", manifest: str = "", sessions: int = 1000,
  split: str = "train", first_seed: int = 0, workers: int = 1, share: tuple[int, int] = WHOLE, skip_bad: bool = False,
) -> None:  # fmt: skip
  """`wanstreamer data make`: a folder of media records from duplex_world or from a recordings manifest.

  duplex_world: `sessions` sessions of `config.data.session_units`, seeds `first_seed`... of `split` ("train" or
  "heldout"). recordings: all whole sessions of `manifest`. Raises DataError and MediaError.
  """
  if source != "recordings" and skip_bad:
    raise DataError("--skip-bad goes with --source recordings: nothing of duplex_world is bad")
  chosen = _source(config, source, manifest, sessions, split, first_seed, skip_bad)
  made = make(config, chosen, out, workers, share, skip_bad)
  if made is None:
    print(_unfinished(out, share))
    return
  count = made["sessions"] * made["units"]
  text = made["stats"]["text"]["agent"]
  print(f"{out}: {made['sessions']} sessions, {count} units, {count * config.media.unit_ms / 3_600_000:.2f} h")
  print(
    f"agent words {text['words']}: {text['spilled']} in a later unit than written, {text['dropped']} without a slot"
  )
  print(_left_out(out))
  print(f"next: wanstreamer data stats {shlex.quote(out)}, or wanstreamer data encode {shlex.quote(out)}")


def _unfinished(out: str, share: tuple[int, int]) -> str:
  return f"{out}: share {share[0]}/{share[1]} is done; the folder is finished by the last call of the others"


def _left_out(out: str) -> str:
  """One line on the report of a folder."""
  report = read_report(out)
  first = "".join(f": {entry['where']}: {entry['reason']}" for entry in report["skipped"][:1])
  return f"skipped {len(report['skipped'])}{first} ({REPORT}); {report['unused_units']} units at ends fill no session"


def _source(
  config: Config, source: str, manifest: str, sessions: int, split: str, first_seed: int, skip_bad: bool
) -> SessionSource:
  if source == "recordings":
    from wanstreamer_jax.data.recordings import RecordingsSource

    if not manifest:
      raise DataError("--source recordings needs --manifest M.jsonl, one line per recording")
    return RecordingsSource.open(manifest, config, skip_bad)
  if source != "duplex_world":
    raise DataError(f"source is {source!r}: expected one of {', '.join(SOURCES)}")
  if manifest:
    raise DataError("--manifest goes with --source recordings")
  if sessions < 1:
    raise DataError(f"sessions is {sessions}: expected at least 1")
  from wanstreamer_jax.data.duplex_world.source import DuplexSource

  return DuplexSource.of(config, split, first_seed, sessions)


def print_stats(path: str, *, tokenizer: str = "default", sample: int = 200, verify: bool = False) -> None:
  """`wanstreamer data stats`: what a folder holds; with `verify`, whether its files are those that were written."""
  from wanstreamer_jax.data.record_folder import RecordFolder
  from wanstreamer_jax.data.stats import lines, stats
  from wanstreamer_jax.data.tokenizer import TextTokenizer

  print("\n".join(lines(stats(path, TextTokenizer(tokenizer), sample))))
  if verify:
    RecordFolder(path).verify()
    print("files: as the manifest says")


def encode_records(
  config: Config, media: str, out: str, *, audio_vae: str, video_vae: str, batch: int = 8,
  share: tuple[int, int] = WHOLE, skip_bad: bool = False,
) -> None:  # fmt: skip
  """`wanstreamer data encode`: a folder of latent records from one of media records.

  audio_vae, video_vae: a training run of each codec, or twice the folder of an exported agent. The codecs' own
  configs are those they were trained with. Raises DataError and CheckpointError.
  """
  from wanstreamer_jax.data.encode import encode
  from wanstreamer_jax.weights.agent import load_codecs

  codecs = load_codecs(config, audio_vae, video_vae)
  made = encode(media, *codecs, config, out, batch, share, skip_bad)
  if made is None:
    print(_unfinished(out, share))
    return
  print(f"{out}: {made['sessions']} sessions, {made['sessions'] * made['units']} units of latents")
  print(_left_out(out))


def export_tfds(path: str, out: str, *, runner: str = "", options: Sequence[str] = ()) -> None:
  """`wanstreamer data tfds`: a folder of records as a TFDS dataset; with a runner, by Apache Beam."""
  from wanstreamer_jax.data.tfds_builder import export

  builder = export(path, out, runner, options)
  for name, split in builder.info.splits.items():
    print(f"{builder.data_path}: {split.num_examples} units in {split.num_shards} shards, split {name}")
  print(f'read it: tensorflow_datasets.builder_from_directory("{builder.data_path}").as_data_source("{name}")')


def bench_loader(
  config: Config, path: str, *, seconds: float = 5.0, step_seconds: float | None = None, hosts: int = 1
) -> None:
  """Prints how fast this machine reads its rows of training batches from a `data.path`, as one of `hosts` hosts, beside
  what it must read when a step takes `step_seconds`. Raises DataError for a batch that does not divide."""
  from wanstreamer_jax.bench.loader import bench
  from wanstreamer_jax.data.loader import Loader

  batch, units = config.data.batch, config.data.units
  if batch % hosts:
    raise DataError(f"data.batch is {batch}, which does not divide over {hosts} hosts")
  rates = bench(Loader(path, config, range(batch // hosts)), seconds)
  print(
    f"{path}: {rates['units_per_second']:.0f} units/s, {rates['mb_per_second']:.0f} MB/s, "
    f"{rates['times_real_time']:.0f} x real time ({batch // hosts} rows of {units} units)"
  )
  if step_seconds is not None:
    needed = batch * units / step_seconds / hosts
    margin = rates["units_per_second"] / needed
    verdict = f"{margin:.1f} times that is read" if margin >= 1 else f"only {margin:.2f} of that is read, chips wait"
    each = f" on each of {hosts} hosts" if hosts > 1 else ""
    print(f"steps of {step_seconds:.3g} s need {needed:.0f} units/s{each}: {verdict}")
