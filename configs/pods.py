"""The published sizes, made of the parts of `real.py`, on the slices that train them. A row is one session: a minute at
192x336, or 20 s at 640x368.

    wanstreamer aot --what train --topology v5e:16x16 --config configs/pods.py:qwen2p5_1p5b,v5e:16x16
    wanstreamer aot --what train --topology v6e:16x16 --config configs/pods.py:qwen3_8b,v6e:16x16,640x368
    bash launch/tpu_pod.sh up X --config=configs/pods.py:qwen2p5_1p5b,v6e:16x16 --config.train.run=gs://BUCKET/X ...

Expected time: minutes to compile on any machine. Expected result: it fits the memory of a chip (docs/scale.md).
A session's 220k tokens are split over `context`, which must divide the heads of attention; weights and optimiser are
split over all chips. docs/training.md describes the whole way.
"""

from configs import real
from wanstreamer_jax.config import Config
from wanstreamer_jax.errors import ConfigError

MESHES = {  # (size, slice): train.mesh
  ("qwen2p5_1p5b", "v5e:16x16"): "fsdp=64,context=4",
  ("qwen2p5_1p5b", "v6e:16x16"): "fsdp=64,context=4",
  ("qwen3_1p7b", "v5e:16x16"): "fsdp=64,context=4",
  ("qwen3_1p7b", "v6e:16x16"): "fsdp=64,context=4",
  ("qwen3_1p7b", "v5p:4x4x4"): "fsdp=16,context=4",
  ("qwen3_8b", "v5p:4x4x8"): "fsdp=32,context=4",
  ("qwen3_8b", "v6e:16x16"): "fsdp=32,context=8",
}
UNITS = {"192x336": 376, "640x368": 128}  # 60 and 20 s, made multiples of 8: units are split over `context` as well


def get_config(choice: str = "qwen2p5_1p5b,v5e:16x16") -> Config:
  """choice: "SIZE,SLICE" or "SIZE,SLICE,PICTURES"."""
  size, _, rest = choice.partition(",")
  topology, _, pictures = rest.partition(",")
  pictures = pictures or "192x336"
  if (size, topology) not in MESHES or pictures not in UNITS:
    known = ", ".join(",".join(names) for names in MESHES)
    raise ConfigError(f"{choice!r}: expected one of {known}, and perhaps a comma and one of {', '.join(UNITS)}")
  config = real.get_config(f"{size},{pictures}")
  config.name = f"{size} {pictures} on {topology}"
  config.train.mesh = MESHES[size, topology]
  config.data.batch = int(config.train.mesh.split(",")[0].removeprefix("fsdp="))
  config.data.units = config.data.session_units = UNITS[pictures]
  config.layout.window = 376  # nothing of a session is evicted
  config.train.shift_clock = False
  return config
