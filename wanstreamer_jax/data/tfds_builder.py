"""Exports records as a TensorFlow Datasets dataset. TensorFlow itself is not needed.

    builder = export("data_cache/world", "tfds")              # one example per unit
    units = builder.as_data_source(split="train")

Large folders are written by Apache Beam (the extra `beam`): each shard of records is one piece of work, on this machine
or on a cluster whose workers have this package, and the examples, their order and their shards are the same for any
runner and number of workers.

    export("data_cache/world", "tfds", "FlinkRunner", ["--flink_master=localhost:8081", "--environment_type=LOOPBACK"])
    export("/shared/world", "gs://bucket/tfds", "DataflowRunner", ["--project=P", "--region=R", "--temp_location=gs://B"])

Training reads the records themselves (data/loader.py): they are a fixed layout, and several times faster.
"""

import importlib.util
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.errors import DataError, UserError, one_line

Example = tuple[int, dict[str, Any]]  # its key, which is its place, and its features


class Duplex(tfds.core.GeneratorBasedBuilder):
  """One example per unit: its record's fields (float16 as float32), `session`, `unit`, and the world's text."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos: dict[str, Any] = {}  # nothing is downloaded; looking for checksums would need importlib_resources

  def __init__(self, *, records: str | pathlib.Path, beam: bool = False, **options: Any):
    self.folder, self._beam = RecordFolder(pathlib.Path(records).absolute()), beam
    super().__init__(file_format="array_record", **options)

  def _info(self) -> tfds.core.DatasetInfo:
    dtype = self.folder.unit_dtype
    features: dict[str, Any] = {
      name: tfds.features.Tensor(shape=dtype[name].shape, dtype=_portable(dtype[name].base))
      for name in dtype.names or ()
    }
    features |= {"session": tfds.features.Scalar(np.int64), "unit": tfds.features.Scalar(np.int64)}
    features["world"] = tfds.features.Text()
    # dataset_info_from_configs() would need a package directory with metadata files.
    features = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing is downloaded
    split = self.folder.manifest["source"].get("split", "train")
    return {split: self._generate_examples()}

  def _generate_examples(self) -> Any:
    """The examples, or the Beam transform that makes them."""
    counts = self.folder.shard_sessions
    pieces = [(self.folder, end - count, count) for count, end in zip(counts, itertools.accumulate(counts))]
    if not self._beam:
      return itertools.chain.from_iterable(map(_examples, pieces))
    import apache_beam

    return apache_beam.Create(pieces, reshuffle=True) | apache_beam.FlatMap(_examples)


def _examples(piece: tuple[RecordFolder, int, int]) -> Iterator[Example]:
  """The examples of `count` sessions from `first` on; runs on Beam's workers."""
  folder, first, count = piece
  names = folder.unit_dtype.names or ()
  for session in range(first, first + count):
    fields = folder.read_session(session).truth["world"]
    world = " ".join(f"{name}: {value}." for name, value in fields.items())
    for unit, record in enumerate(folder.read_units(session)):
      example = {name: np.asarray(record[name], _portable(record[name].dtype)) for name in names}
      yield session * folder.units + unit, {**example, "session": session, "unit": unit, "world": world}


def _portable(dtype: np.dtype) -> np.dtype:
  """tf.train.Example has no float16."""
  return np.dtype(np.float32) if dtype == np.float16 else dtype


def export(
  records: str | pathlib.Path, out: str | pathlib.Path, runner: str = "", options: Sequence[str] = ()
) -> Duplex:
  """Writes a folder of records as a TFDS dataset below `out` and returns its builder.

  runner: an Apache Beam runner: "DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner" ...; if empty, this
    process writes, without Beam. options: the runner's pipeline options, as on its command line. Records and `out` must
    be readable by every worker. Raises DataError, and UserError for a runner that is not installed.
  """
  builder = Duplex(records=records, beam=bool(runner), data_dir=str(out))
  builder.download_and_prepare(download_config=_download_config(runner, options) if runner else None)
  return builder


def _download_config(runner: str, options: Sequence[str]) -> tfds.download.DownloadConfig:
  if importlib.util.find_spec("apache_beam") is None:
    raise UserError(f"runner {runner} needs Apache Beam: pip install 'wanstreamer-jax[beam]', or export without one")
  from apache_beam.options.pipeline_options import PipelineOptions
  from apache_beam.runners import create_runner

  try:
    create_runner(runner)
  except (ValueError, ImportError, AttributeError) as error:
    raise DataError(f"{runner!r} is not a runner of Apache Beam: {one_line(error, 300)}") from error
  return tfds.download.DownloadConfig(beam_runner=runner, beam_options=PipelineOptions(list(options)))
