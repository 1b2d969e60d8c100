"""`wanstreamer bench train`: times the real training step beside the machine's peak. Batches have the real shapes.

The contenders of one run take turns (A B A B ...), so that changes of the machine's load affect all of them:
  two copies     the step of the config's stage; for "duplex" one pass over [clean | noisy] per crop
  text           the same step on dense causal text: the language model inside the streamer, the rest frozen
  transformers   Hugging Face transformers in torch, of the same geometry, on as much text

MFU divides model FLOPs (train/flops.py: nothing masked, nothing recomputed) by the rate of a large matrix product in
the same process and dtype.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wanstreamer_jax.bench.transformers import transformers_step
from wanstreamer_jax.config import Config
from wanstreamer_jax.data.loader import Crop, batch_shapes
from wanstreamer_jax.model.streamer import WanStreamer, text_only_logits
from wanstreamer_jax.nn.attention_parts import KeyValue, Queries
from wanstreamer_jax.parallel import machine
from wanstreamer_jax.parallel.mesh import make_mesh, place_batch
from wanstreamer_jax.train.duplex import crop_tokens
from wanstreamer_jax.train.flops import attention_flops, model_flops
from wanstreamer_jax.train.optim import GROUPS, trainable
from wanstreamer_jax.train.prefetch import Prefetcher
from wanstreamer_jax.train.stage import Batch, Metrics, Stage
from wanstreamer_jax.train.stages import get_stage
from wanstreamer_jax.train.state import compile_step, init_state, state_shardings

WARM_UP_STEPS = 3  # steps of every contender that are not timed
TURNS = 4
TRACED = 3  # steps in a profiler trace
MAX_TEXT = 4096  # tokens of a row of text, unless the command line says otherwise


@dataclasses.dataclass
class Contender:
  """Something that trains. step: does one whole update; waited: seconds spent waiting for input since its last call.

  flops, tokens, units: of one step; units are 0 for text. memory: bytes that the program needs on one device.
  """

  name: str
  title: str
  step: Callable[[], Any]
  flops: float
  tokens: int
  units: int
  parameters: int
  compile_s: float
  memory: int | None = None
  waited: Callable[[], float] = lambda: 0.0
  traceable: bool = True


class StepSizes(NamedTuple):
  """What to run. steps: per contender, in all turns together; text: tokens of a row."""

  steps: int = 40
  text: int | None = None
  text_too: bool = False
  against: str = ""
  records: bool = False


def bench_train(config: Config, sizes: StepSizes, trace: pathlib.Path | None = None) -> dict[str, Any]:
  """Times the contenders in turns. Returns plain values, ready for JSON; milliseconds and seconds, as the names say."""
  if trace is not None:
    trace.mkdir(parents=True, exist_ok=True)  # fails before minutes of compiling if the folder cannot be made
  contenders = list(make_contenders(config, sizes))
  for contender in contenders:
    for _ in range(WARM_UP_STEPS):
      contender.step()
    contender.waited()
  turns: dict[str, list[list[float]]] = {contender.name: [] for contender in contenders}
  waited = dict.fromkeys(turns, 0.0)
  for _ in range(TURNS):
    for contender in contenders:
      turns[contender.name].append([machine.timed(contender.step)[0] for _ in range(-(-sizes.steps // TURNS))])
      waited[contender.name] += contender.waited()
  if trace is not None:
    with jax.profiler.trace(str(trace)):
      for contender in contenders:
        for _ in range(TRACED if contender.traceable else 0):
          contender.step()
  devices = make_mesh(config.train.mesh).size
  ceiling = machine.product_rate(config.model.dtype)
  peak, source = machine.peak_flops(config.model.dtype)
  memory = machine.memory_bytes()
  rows = {
    contender.name: _row(contender, turns[contender.name], waited[contender.name], ceiling * devices)
    for contender in contenders
  }
  return {
    "config": config.name,
    "machine": machine.describe(),
    "devices": devices,
    "dtype": config.model.dtype,
    "attention": config.model.attention,
    "remat": config.model.remat,
    "accumulate": config.train.accumulate,
    "optimizer": config.train.optimizer,
    "ceiling_tflops": ceiling / 1e12,
    "data_sheet_tflops": peak / 1e12 if source == "data sheet" else None,
    "memory_gb": memory / 1e9 if memory is not None else None,
    "warm_up": WARM_UP_STEPS,
    "turns": TURNS,
    "contenders": rows,
    "ratios": _ratios(rows, turns),
    "trace": str(trace) if trace is not None else None,
  }


def _row(contender: Contender, turns: list[list[float]], waited: float, ceiling: float) -> dict[str, Any]:
  times = np.array([time for turn in turns for time in turn])
  low, median, high = np.percentile(times, (5, 50, 95))
  seconds = median / 1000
  return {
    "title": contender.title,
    "steps": len(times),
    "median_ms": float(median),
    "p95_ms": float(high),
    "spread": float((high - low) / median),
    "floor_ms": 1000 * contender.flops / ceiling,
    "mfu": contender.flops / ceiling / seconds,
    "tflop": contender.flops / 1e12,
    "tokens": contender.tokens,
    "tokens_per_s": contender.tokens / seconds,
    "units_per_s": contender.units / seconds if contender.units else None,
    "input_stall": 1000 * waited / float(np.sum(times)),
    "parameters": contender.parameters,
    "program_gb": contender.memory / 1e9 if contender.memory is not None else None,
    "compile_s": contender.compile_s,
  }


def _ratios(rows: dict[str, Any], turns: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
  """Ratios of every contender to "text", if that takes part, with their range over the turns."""
  out = {}
  for name in set(rows) - {"text"} if "text" in rows else ():
    of_turn = [np.median(other) / np.median(text) for other, text in zip(turns[name], turns["text"])]
    if name == "transformers":
      title, scale = "text / transformers, tokens per second", rows["text"]["tokens"] / rows[name]["tokens"]
    else:
      title, scale = f"{name} / text, MFU", rows[name]["tflop"] / rows["text"]["tflop"]
      of_turn = [1 / ratio for ratio in of_turn]
    found = [float(scale * ratio) for ratio in of_turn]
    out[title] = {"median": float(np.median(found)), "least": min(found), "most": max(found)}
  return out


def make_contenders(config: Config, sizes: StepSizes) -> Any:
  """The contenders that were asked for. A generator, so that each is built when the one before is complete."""
  length = sizes.text or min(MAX_TEXT, crop_tokens(config))
  if not sizes.against or sizes.text_too:
    yield stage_contender(config, sizes.records)
  if sizes.against or sizes.text_too:
    yield text_contender(config, length)
  if sizes.against:
    step, parameters, title, compile_s = transformers_step(config, length)
    flops, tokens = text_flops(config, length), config.data.batch * length
    yield Contender("transformers", title, step, flops, tokens, 0, parameters, compile_s, traceable=False)


def stage_contender(config: Config, records: bool) -> Contender:
  """The step of the config's own stage. records: batches from `data.path` by the real loader, else one batch again."""
  stage = get_stage(config.train.stage)
  tokens = config.data.batch * crop_tokens(config) if stage.name == "duplex" else 0
  title = f"{stage.name}, {config.data.batch} x {config.data.units} units"
  if tokens:
    title += f" of {crop_tokens(config)} tokens"
  mesh = make_mesh(config.train.mesh)
  prefetcher = Prefetcher(stage.make_loader(config), mesh, 0, 1 << 30) if records else None
  batch = synthetic_batch(config) if prefetcher is None else None
  built = _build(stage, config, batch, prefetcher)
  flops = model_flops(stage, config, built.batch)
  name = "two copies" if stage.name == "duplex" else stage.name
  waited = prefetcher.waited if prefetcher is not None else lambda: 0.0
  return Contender(
    name, title, built.step, flops, tokens, stage.units(config), built.parameters, built.compile_s, built.memory, waited
  )


def text_contender(config: Config, length: int) -> Contender:
  """The streamer as the language model that it contains, on rows of random text, by the same training step."""
  config = config.replace()
  config.train.ema = 0.0  # as its peers do without an average
  config = config.freeze()
  ids = np.random.default_rng(0).integers(1, config.model.vocab, (config.data.batch, length + 1))
  built = _build(text_stage(), config, {"ids": ids.astype(np.int32)}, None)
  title = f"dense causal text, {config.data.batch} x {length} tokens, {text_attention(config.model.dtype)} attention"
  flops, tokens = text_flops(config, length), config.data.batch * length
  return Contender("text", title, built.step, flops, tokens, 0, built.parameters, built.compile_s, built.memory)


class _Built(NamedTuple):
  step: Callable[[], Any]
  batch: Batch
  parameters: int  # that are trained
  compile_s: float
  memory: int | None


def _build(stage: Stage, config: Config, batch: Batch | None, prefetcher: Prefetcher | None) -> _Built:
  """Compiles a step; `step` of the result advances the state at every call."""
  mesh = make_mesh(config.train.mesh)
  with jax.set_mesh(mesh):
    _, shardings = state_shardings(stage, config, mesh)
    state = jax.jit(lambda: init_state(stage, config), out_shardings=shardings)()
    first = place_batch(batch, mesh) if batch is not None else prefetcher.next()  # type: ignore[union-attr]
    milliseconds, compiled = machine.timed(lambda: compile_step(stage, config, mesh).lower(state, first).compile())
  analysis = compiled.memory_analysis()

  def step() -> Any:
    nonlocal state
    state, metrics = compiled(state, first if prefetcher is None else prefetcher.next())
    return metrics

  free = trainable(config.train, stage.frozen, state.params)
  parameters = sum(jax.tree.leaves(jax.tree.map(lambda moves, leaf: leaf.size * moves, free, state.params)))
  memory = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes  # the new state lies where the old one was
  return _Built(step, first, parameters, milliseconds / 1000, memory)


def synthetic_batch(config: Config) -> Batch:
  """A global batch of the config's stage with random content: all streams are valid, every text slot has a word."""
  media, data, random = config.media, config.data, np.random.default_rng(0)
  frames = (data.batch, 1 + data.units * media.frames, media.height, media.width, 3)
  shapes: dict[str, Any] = {
    "audio_codec": {"audio": jax.ShapeDtypeStruct((data.batch, data.units * media.samples), np.int16)},
    "video_codec": {"video": jax.ShapeDtypeStruct(frames, np.uint8)},
  }

  def content(name: str, leaf: Any) -> np.ndarray:
    if leaf.dtype == np.bool_:
      return np.ones(leaf.shape, np.bool_)
    if leaf.dtype == np.float16:
      return random.standard_normal(leaf.shape, np.float32).astype(np.float16)
    if name.endswith("text"):
      return random.integers(1, config.model.vocab, leaf.shape).astype(leaf.dtype)
    if leaf.dtype in (np.uint8, np.int16):
      return random.integers(np.iinfo(leaf.dtype).min, np.iinfo(leaf.dtype).max, leaf.shape, leaf.dtype)
    return np.zeros(leaf.shape, leaf.dtype)

  if config.train.stage in shapes:
    return {name: content(name, leaf) for name, leaf in shapes[config.train.stage].items()}
  return Crop(**{name: content(name, leaf) for name, leaf in batch_shapes(config)._asdict().items()})


def text_stage() -> Stage:
  """Next-token prediction on {"ids": [B, T + 1]}, with everything but the language model frozen."""
  return Stage(
    name="text",
    init=get_stage("duplex").init,
    make_loss=lambda config: text_loss,
    make_loader=lambda config: None,  # type: ignore[arg-type,return-value]
    frozen=tuple(rule.pattern for name, rule in GROUPS.items() if name != "language"),
  )


def text_loss(streamer: WanStreamer, batch: Batch, keys: jax.Array) -> tuple[jax.Array, Metrics]:
  """Mean cross-entropy of every token but the first, nats."""
  del keys  # nothing is drawn

  def row(ids: jax.Array) -> jax.Array:
    logits = text_only_logits(streamer, ids[:-1], causal)
    picked = jnp.take_along_axis(logits, ids[1:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)

  return jnp.mean(jax.vmap(row)(batch["ids"])), {}


def causal(queries: Queries, own: KeyValue, _: None) -> jax.Array:
  """Plain causal attention of one row [T, N, H], by the fastest implementation in jax."""
  q, k, v = queries.at_time[None], own.k[None], own.v[None]
  return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=text_attention(q.dtype))[0]


def text_attention(dtype: Any) -> Literal["cudnn", "xla"]:
  """The fastest implementation for a dtype; cuDNN's kernels do not support float32."""
  return "cudnn" if jax.default_backend() == "gpu" and dtype == jnp.bfloat16 else "xla"


def text_flops(config: Config, length: int) -> float:
  """Model FLOPs of a step of the language model alone: six per weight and token, and attention."""
  model = config.model
  heads = 2 * model.heads + 2 * model.kv_heads  # q and o; k and v
  weights = model.layers * model.width * (heads * model.head_dim + 3 * model.mlp) + model.vocab * model.width
  rows = config.data.batch
  return rows * (6.0 * weights * length + attention_flops(config, length * (length + 1) // 2))


def report_lines(result: dict[str, Any]) -> list[str]:
  """The result as lines of text."""
  host, sheet, memory = result["machine"], result["data_sheet_tflops"], result["memory_gb"]
  load = "" if host["load"] is None else f", load {host['load']:.1f}"
  lines = [
    f"{result['config']}: {result['dtype']}, {result['optimizer']}, {result['attention']} attention, remat "
    f"{result['remat']}, {result['accumulate']} x accumulated",
    f"on {result['devices']} x {host['device']} ({host['platform']}), {host['cores']} cores{load}, jax {host['jax']}",
    f"ceiling: {result['ceiling_tflops']:.3g} TFLOP/s a device (matrix product, measured)"
    + (f", {sheet:.0f} by the data sheet" if sheet else "")
    + (f"; at most {memory:.1f} GB held" if memory else ""),
    f"{result['warm_up']} steps of warm-up each, then {result['turns']} turns",
    "",
    f"{'':14}{'median ms':>11}{'p95':>9}{'spread':>8}{'floor':>9}{'MFU':>7}{'tokens/s':>10}{'units/s':>9}{'waiting':>9}"
    f"{'GB':>7}{'compile s':>11}",
  ]
  for name, row in result["contenders"].items():
    units = f"{row['units_per_s']:.1f}" if row["units_per_s"] else "-"
    memory = f"{row['program_gb']:.3g}" if row["program_gb"] else "-"
    tokens = f"{row['tokens_per_s']:.0f}" if row["tokens"] else "-"
    lines.append(
      f"{name:14}{row['median_ms']:11.1f}{row['p95_ms']:9.1f}{row['spread']:8.1%}{row['floor_ms']:9.1f}{row['mfu']:7.1%}"
      f"{tokens:>10}{units:>9}{row['input_stall']:9.1%}{memory:>7}{row['compile_s']:11.1f}"
    )
  lines.append("")
  for name, row in result["contenders"].items():
    lines.append(
      f"{name}: {row['title']}; {row['steps']} steps, {row['tflop']:.3g} TFLOP a step, "
      f"{row['parameters'] / 1e6:.1f} M parameters trained"
    )
  for title, ratio in result["ratios"].items():
    lines.append(f"{title}: {ratio['median']:.2f} (turns: {ratio['least']:.2f} to {ratio['most']:.2f})")
  if result["trace"]:
    lines.append(f"profile: {result['trace']} (xprof, TensorBoard or Perfetto)")
  return lines


def bench_train_command(config: Config, sizes: StepSizes, trace: pathlib.Path | None, as_json: bool) -> None:
  """Runs the benchmark and prints its result as JSON or as text."""
  result = bench_train(config, sizes, trace)
  print(json.dumps(result, indent=2) if as_json else "\n".join(report_lines(result)))
