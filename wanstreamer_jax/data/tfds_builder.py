"""Records as a TensorFlow Datasets dataset, for people whose tools read TFDS. TensorFlow itself is not needed.

    builder = export("data_cache/world", "tfds")              # one example per unit
    units = builder.as_data_source(split="train")

Training reads the records themselves (data/loader.py): they are a fixed layout, and several times faster.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from wanstreamer_jax.data.record_folder import RecordFolder


class Duplex(tfds.core.GeneratorBasedBuilder):
  """One example per unit: its record's fields (float16 as float32), `session`, `unit`, and the world's text."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos: dict[str, Any] = {}  # nothing is downloaded; looking for checksums would need importlib_resources

  def __init__(self, *, records: str | pathlib.Path, **options: Any):
    self.folder = RecordFolder(records)
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

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    names = self.folder.unit_dtype.names or ()
    for session in range(self.folder.sessions):
      fields = self.folder.read_session(session).truth["world"]
      world = " ".join(f"{name}: {value}." for name, value in fields.items())
      for unit, record in enumerate(self.folder.read_units(session)):
        example = {name: np.asarray(record[name], _portable(record[name].dtype)) for name in names}
        yield session * self.folder.units + unit, {**example, "session": session, "unit": unit, "world": world}


def _portable(dtype: np.dtype) -> np.dtype:
  """tf.train.Example has no float16."""
  return np.dtype(np.float32) if dtype == np.float16 else dtype


def export(records: str | pathlib.Path, out: str | pathlib.Path) -> Duplex:
  """Writes a folder of records as a TFDS dataset below `out` and returns its builder. Raises DataError."""
  builder = Duplex(records=records, data_dir=str(out))
  builder.download_and_prepare()
  return builder
