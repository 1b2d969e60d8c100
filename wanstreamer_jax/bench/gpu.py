"""`wanstreamer bench gpu`: measures one large GPU at the published sizes. It runs as one process and writes one result
file.

The parts run in the order of their importance, and each writes its figures at once, so that a machine that is lent for
minutes leaves all figures that it had time for:

    step          the unit step of `qwen2p5_1p5b` at 192x336 with 60 s of history
    step_patch2   the same with a committed copy of half the resolution
    attention     one layer's attention of a unit over that history, in several formulations
    train         the training step of two copies beside dense text of the same geometry
    train_demo    the training rate of `configs/demo.py`

Nothing here needs media libraries or record readers, which compute machines often lack.
"""

import functools
import gc
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wanstreamer_jax.bench import train_step, unit_step
from wanstreamer_jax.config import Config, ModelConfig
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.errors import one_line_with_type
from wanstreamer_jax.files import write_json
from wanstreamer_jax.nn.attention import Way, attend
from wanstreamer_jax.nn.attention_parts import Part, Queries
from wanstreamer_jax.parallel import machine
from wanstreamer_jax.units import PERFORM, REFEED, build_layout

LARGE, DEMO, NANO = "configs/qwen2p5_1p5b.py:192x336", "configs/demo.py", "configs/nano.py"
FULL_HISTORY = "layout.window=none"  # as long as the cache, which holds a minute

Result = tuple[dict[str, Any], list[str]]  # figures for the file, and lines for people


class Scale(NamedTuple):
  """How much is run. small: everything at nano size, on any machine, to see that it runs."""

  small: bool
  attention: str  # `model.attention` of the training pass
  batch: int  # rows of a training step of the large size

  def config(self, path: str, *overrides: str) -> Config:
    return load_config(NANO if self.small else path, overrides)


def bench_gpu(out: pathlib.Path, budget: float, scale: Scale, tell: Callable[[str], None] = print) -> dict[str, Any]:
  """Runs the parts that still fit into `budget` seconds. Writes `out` after each and returns what is in it.

  A part that fails is written down with its error, and the next one runs.
  """
  began = time.perf_counter()
  result: dict[str, Any] = {"machine": machine.describe(), "small": scale.small, "parts": {}}
  for name, (seconds, part) in PARTS.items():
    start = time.perf_counter()
    seconds = 0 if scale.small else seconds
    if start - began + seconds > budget:
      result["parts"][name] = {"skipped": f"needs about {seconds} s, and {budget - start + began:.0f} s are left"}
    else:
      result["parts"][name] = run_part(part, scale, tell)
      result["parts"][name]["seconds"] = time.perf_counter() - start
    write_json(out, result)
    what = next((word for word in ("skipped", "failed") if word in result["parts"][name]), "done")
    tell(f"{name}: {what} after {time.perf_counter() - began:.0f} s{_why(result['parts'][name])}")
  return result


def _why(part: dict[str, Any]) -> str:
  reason = part.get("skipped") or part.get("failed")
  return f" ({reason})" if reason else ""


def run_part(part: Callable[[Scale], Result], scale: Scale, tell: Callable[[str], None]) -> dict[str, Any]:
  """The figures of one part and the lines that were told, or why it failed; its arrays are gone afterwards."""
  try:
    figures, lines = part(scale)
  except Exception as error:  # too little memory, a kernel that this GPU lacks, ...: the other parts still count
    return {"failed": one_line_with_type(error)}
  finally:
    jax.clear_caches()
    gc.collect()
  for line in lines:
    tell(line)
  return {"figures": figures, "lines": lines}


def step(scale: Scale, *overrides: str) -> Result:
  """The unit step, phase by phase; its whole as one program would cost another compilation and is left out."""
  runs = 50 if scale.small else 200
  result = unit_step.bench_step(scale.config(LARGE, FULL_HISTORY, *overrides), runs, whole=False)
  return result, unit_step.report_lines(result)


def step_patch2(scale: Scale) -> Result:
  return step(scale, "layout.commit_patch=2")


def train(scale: Scale) -> Result:
  """Two copies beside dense text, in turns, with the training pass's attention kernel of this backend."""
  crop = ["data.units=4"] if scale.small else ["data.units=16", f"model.attention={scale.attention}"]
  config = scale.config(LARGE, "model.remat=none", "train.mesh=data=1", f"data.batch={scale.batch}", *crop)
  sizes = train_step.StepSizes(steps=8, text=32, text_too=True) if scale.small else train_step.StepSizes(24, 4096, True)
  return _training(config, sizes)


def train_demo(scale: Scale) -> Result:
  return _training(scale.config(DEMO, "train.mesh=data=1"), train_step.StepSizes(steps=8 if scale.small else 40))


def _training(config: Config, sizes: train_step.StepSizes) -> Result:
  result = train_step.bench_train(config, sizes)
  return result, train_step.report_lines(result)


class Shape(NamedTuple):
  """A unit's noisy tokens before the keys of a minute."""

  queries: int
  keys: int
  model: ModelConfig

  @classmethod
  def of(cls, config: Config) -> "Shape":
    layout = build_layout(config)
    minute = 60_000 // config.media.unit_ms
    return cls(layout.tokens(REFEED, PERFORM), layout.cache_tokens(minute), config.model)

  @property
  def flops(self) -> float:
    """Of both products, two each for a query, a key and a number of a head."""
    return 4.0 * self.queries * self.keys * self.model.heads * self.model.head_dim


def attention_variants(scale: Scale) -> Result:
  """One layer's attention of one solver step, alone: where the time of `perform` goes."""
  shape = Shape.of(scale.config(LARGE, FULL_HISTORY))
  arrays = attention_inputs(shape)
  rate = machine.product_rate(shape.model.dtype)
  figures: dict[str, Any] = {"queries": shape.queries, "keys": shape.keys, "floor_ms": 1000 * shape.flops / rate}
  lines = [f"attention of {shape.queries} queries over {shape.keys} keys, floor {figures['floor_ms']:.3f} ms"]
  for name, function in ATTENTION_VARIANTS.items():
    try:
      milliseconds = 1000 * machine.best_seconds(jax.jit(function), *arrays, repeats=20)
    except Exception as error:  # cuDNN knows no float32, and other backends know no cuDNN
      figures[name] = {"failed": one_line_with_type(error)}
      lines.append(f"  {name:28} failed: {figures[name]['failed']}")
      continue
    figures[name] = {"ms": milliseconds, "tflops": shape.flops / milliseconds / 1e9}
    lines.append(f"  {name:28} {milliseconds:8.3f} ms, {milliseconds / figures['floor_ms']:.1f} x floor")
  return figures, lines


def attention_inputs(shape: Shape) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Queries [T, N, H], keys and values [M, S, H] as a cache has them, and a mask [T, S] with the last sixteenth of the
  keys missing."""
  model = shape.model

  @jax.jit
  def make() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    rows = ((shape.queries, model.heads), (model.kv_heads, shape.keys), (model.kv_heads, shape.keys))
    q, k, v = (jax.random.normal(key, (*row, model.head_dim), model.dtype) for key, row in zip(keys, rows))
    exists = jnp.arange(shape.keys) < shape.keys - shape.keys // 16
    return q, k, v, jnp.broadcast_to(exists, (shape.queries, shape.keys))

  return make()


def in_chunks(at_once: int, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
  """What the engine runs, `nn.attention.attend`, with so many chunks of keys side by side."""
  return attend(Queries(q, q), [Part(k, v, mask)], Way(at_once, low_rank=False))


def fused(implementation: Any, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
  """jax's own attention, which takes keys as [S, M, H]. cuDNN is told a length instead of a mask: what a cache without
  holes would allow."""
  batch = (q[None], k.swapaxes(0, 1)[None], v.swapaxes(0, 1)[None])
  if implementation == "cudnn":
    lengths = jnp.sum(mask[0], dtype=jnp.int32)[None]
    return jax.nn.dot_product_attention(*batch, key_value_seq_lengths=lengths, implementation="cudnn")[0]
  return jax.nn.dot_product_attention(*batch, mask=mask[None, None], implementation=implementation)[0]


ATTENTION_VARIANTS: dict[str, Callable[..., jax.Array]] = {
  "attend, 4 chunks at once": functools.partial(in_chunks, 4),
  "attend, 1 chunk at once": functools.partial(in_chunks, 1),
  "jax.nn, xla": functools.partial(fused, "xla"),
  "jax.nn, cudnn by length": functools.partial(fused, "cudnn"),
}

# name: (seconds that it takes at most, by estimate; it does not begin when fewer are left; the part)
PARTS: dict[str, tuple[int, Callable[[Scale], Result]]] = {
  "step": (150, step),
  "step_patch2": (120, step_patch2),
  "attention": (40, attention_variants),
  "train": (150, train),
  "train_demo": (60, train_demo),
}
