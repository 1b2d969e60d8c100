"""`wanstreamer ablate`: trains and evaluates config files, and writes one table. Each config runs with several seeds; a
figure goes with the table.

A cell is (config, seed). Its training is the run `RUNS/KEY-SEED`, where KEY is a hash of everything that affects
training, so that configs that differ only in how they sample share a run. With --init all runs start from the same
weights. The figures of a cell are `RUNS/results/NAME-SEED.json`. Repeating the command continues interrupted runs and
skips finished cells.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from wanstreamer_jax.config import Config
from wanstreamer_jax.config_files import flat_fields, load_config, run_config_file
from wanstreamer_jax.data import encode, make
from wanstreamer_jax.data.duplex_world.script import WORLD_VERSION
from wanstreamer_jax.data.duplex_world.source import DuplexSource
from wanstreamer_jax.errors import CheckpointError, ConfigError
from wanstreamer_jax.eval import ablation_report
from wanstreamer_jax.eval.baselines import PUPPETS, VARIANTS
from wanstreamer_jax.eval.evaluate import duplex_world, evaluate
from wanstreamer_jax.eval.report import without_nan
from wanstreamer_jax.files import write_json
from wanstreamer_jax.model.streamer import WanStreamer
from wanstreamer_jax.parallel.rules import fill_leaves, named_leaves
from wanstreamer_jax.rollout import Agent
from wanstreamer_jax.weights.agent import abstract_agent, load_agent, resolve, with_streamer
from wanstreamer_jax.weights.store import WEIGHTS_FILE, find_weights

FOLDER = "configs/ablations"
# Beginnings of the names of fields that do not affect training, and of those that decide about records.
SAMPLING = ("name", "flow.steps", "flow.shift", "flow.guidance", "eval.", "train.run", "train.keep", "train.codecs",
            "train.init")  # fmt: skip
LOGGING = ("train.log_every", "train.eval_every", "train.checkpoint_every")
RECORDS = ("media.", "data.text_lead", "data.world", "data.voices", "data.agent_voices", "data.session_units",
           "data.tokenizer", "layout.text_slots", "layout.user_text_slots", "layout.world_text", "layout.voice_units",
           "layout.portrait", "audio_codec.", "video_codec.")  # fmt: skip


LONGEST = 20.0  # seconds of a held-out session: ablations are many
RULES = 2  # raised when figures of the same name are computed otherwise, so that cells are evaluated again
Train = Callable[[Config], WanStreamer]  # a run's config -> its averaged weights; the same call continues a run


@dataclasses.dataclass(frozen=True)
class Options:
  """The options of the command line; see `cli/evaluate.py`."""

  configs: list[str] | None
  reference: str
  codecs: str
  init: str | None
  seeds: int
  steps: int | None
  train_sessions: int
  eval_sessions: int
  runs: str
  data: str
  out: str


@dataclasses.dataclass(frozen=True)
class AblationCell:
  """One config and one seed. `training` is the config of its run, which other cells may share."""

  name: str
  seed: int
  config: Config
  training: Config
  variants: tuple[str, ...]
  sessions: int
  init: str  # hash of the weights that it starts from; empty for random ones

  def fingerprint(self) -> str:
    """Changes whenever the cell's figures would."""
    settings = [part(self.config), part(self.training), self.variants, self.sessions]
    return digest([WORLD_VERSION, RULES, *settings, *filter(None, [self.init])])


def digest(values: Any) -> str:
  return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()[:10]


def part(config: Config, prefixes: Sequence[str] = (), *, without: bool = True) -> dict[str, Any]:
  """The fields of a config whose dotted names start with none of the prefixes (with `without=False`: with one of them).

  Paths do not count: records are identified by their folder's name, initial weights by their hash.
  """
  places = {"data.path": pathlib.Path(config.data.path).parent.name, "train.run": "", "train.init": ""}
  fields = flat_fields(config) | places
  return {name: value for name, value in fields.items() if name.startswith(tuple(prefixes)) is not without}


def ablate(options: Options, train: Train) -> None:
  """Runs every cell that has no result yet, then writes the table and the picture.

  train: trains the Transformer of one config. The command line passes it, since `eval` does not import `train`.
  """
  files = [options.reference, *(options.configs or map(str, sorted(pathlib.Path(FOLDER).glob("*.py"))))]
  if len(files) < 2:
    raise ConfigError(f"no ablations: {FOLDER} holds no config file; give --configs FILE...")
  if pathlib.Path(options.out).is_dir():
    raise ConfigError(f"--out {options.out} is a folder: give the name of a Markdown file")
  for file in files:
    load_config(file)  # finds a broken config before anything is trained
  codecs, path = load_agent(options.codecs), options.codecs
  weights = encode.fingerprint(codecs.audio_codec, codecs.video_codec)
  options = dataclasses.replace(options, codecs=weights)  # a part of what identifies records
  cells = plan(files, options)
  for cell in cells:
    check_codecs(cell, codecs, path)
  for number, cell in enumerate(cells):
    print(f"[{number + 1}/{len(cells)}] {cell.name}, seed {cell.seed}", flush=True)
    run_cell(cell, codecs, options, train)
    ablation_report.write(options.out, read_results(cells[: number + 1], options), describe(files))


def plan(files: Sequence[str], options: Options) -> list[AblationCell]:
  """All cells, seed by seed: an interrupted command has one seed of every config before a second of any."""
  cells = []
  init = weights_hash(options.init) if options.init else ""
  for seed in range(options.seeds):
    for file in files:
      config = seeded(file, seed, options, pathlib.Path(file).stem)
      training = seeded(options.reference, seed, options, "") if sampling_only(file, options, seed) else config
      key = digest([part(training, (*SAMPLING, *LOGGING)), init])
      run = str(pathlib.Path(options.runs) / f"{key}-{seed}")
      baselines = (*VARIANTS, *PUPPETS) if file == options.reference else ("model",)
      training = changed(training, **{"train.run": run})
      cells.append(
        AblationCell(pathlib.Path(file).stem, seed, config, training, baselines, options.eval_sessions, init)
      )
  return cells


def weights_hash(checkpoint: str) -> str:
  """A hash of the weights of an export, which identifies them wherever they lie. Raises CheckpointError."""
  folder = find_weights(resolve(checkpoint))
  if not (folder / WEIGHTS_FILE).is_file():
    raise CheckpointError(f"--init {checkpoint} is not an export (no {WEIGHTS_FILE}): see `wanstreamer export`")
  return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def sampling_only(file: str, options: Options, seed: int) -> bool:
  """Whether a config trains exactly as the reference does."""
  mine, reference = (seeded(name, seed, options, "") for name in (file, options.reference))
  return part(mine, (*SAMPLING, *LOGGING)) == part(reference, (*SAMPLING, *LOGGING))


def seeded(file: str, seed: int, options: Options, name: str) -> Config:
  """The config of a file with the seed, the steps and the folder of records of this command; frozen."""
  config = run_config_file(file)
  config.name = name
  config.train.seed = config.data.seed = seed
  config.train.steps = options.steps or config.train.steps
  config.train.eval_every = 0
  config.train.init = str(resolve(options.init)) if options.init else ""
  config.data.path = str(records_folder(config, options) / "latents")
  config.eval.sessions = config.eval.baseline_sessions = options.eval_sessions
  config.eval.batch = min(config.eval.batch, options.eval_sessions)
  config.eval.seconds = min(config.eval.seconds, LONGEST)
  return config.freeze()


def changed(config: Config, **values: Any) -> Config:
  """A frozen copy with fields changed by their dotted names."""
  copy = config.replace()
  for name, value in values.items():
    section, field = name.split(".")
    setattr(getattr(copy, section), field, value)
  return copy.freeze()


def records_folder(config: Config, options: Options) -> pathlib.Path:
  return pathlib.Path(options.data) / digest(
    [WORLD_VERSION, part(config, RECORDS, without=False), options.train_sessions, options.codecs]
  )


def check_codecs(cell: AblationCell, codecs: Agent, path: str) -> None:
  """Raises ConfigError when the codecs have other sizes than the cell's config says."""
  for name in ("audio_codec", "video_codec"):
    if getattr(cell.config, name) != getattr(codecs.config, name):
      raise ConfigError(f"the {name} of {path} is not that of config {cell.name}: give --codecs of the same sizes")


def run_cell(cell: AblationCell, codecs: Agent, options: Options, train: Train) -> None:
  """Makes records, trains and evaluates one cell, each step only if its result is missing."""
  file = result_file(cell, options)
  if file.exists() and json.loads(file.read_text())["fingerprint"] == cell.fingerprint():
    return
  make_records(cell.training, codecs, options)
  agent = with_codecs(train(cell.training), cell.config, codecs)
  sessions, users = duplex_world(cell.config, cell.config.eval)
  remembered = cached_sessions(records_folder(cell.config, options).name, sessions)
  evaluation = evaluate(agent, cell.config.eval, remembered, users, variants=cell.variants)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(agent.streamer))
  units = cell.training.train.steps * cell.training.data.batch * cell.training.data.units
  file.parent.mkdir(parents=True, exist_ok=True)
  figures = without_nan(evaluation.figures)
  about = {"fingerprint": cell.fingerprint(), "parameters": parameters, "trained_units": units, "init": cell.init}
  write_json(file, {"name": cell.name, "seed": cell.seed, **about, "figures": figures})


_sessions: dict[str, Any] = {}


def cached_sessions(key: str, make_session: Any) -> Any:
  """`make_session` with a cache: all cells of a world share the held-out sessions, which are rendered once."""
  if key not in _sessions:
    _sessions.clear()
    _sessions[key] = functools.cache(make_session)
  return _sessions[key]


def make_records(config: Config, codecs: Agent, options: Options) -> None:
  """Media and latent records of the training sessions."""
  folder = records_folder(config, options)
  if not (folder / "media").exists():
    make.make(config, DuplexSource.of(config, "train", 0, options.train_sessions), folder / "media", workers=2)
  if not (folder / "latents").exists():
    encode.encode(folder / "media", codecs.audio_codec, codecs.video_codec, config, folder / "latents")


def with_codecs(streamer: Any, config: Config, codecs: Agent) -> Agent:
  """An agent of trained weights under the cell's own config, which may sample differently, and the shared codecs."""
  own = fill_leaves(abstract_agent(config).streamer, named_leaves(streamer))
  return with_streamer(own, codecs.audio_codec, codecs.video_codec)


def result_file(cell: AblationCell, options: Options) -> pathlib.Path:
  return pathlib.Path(options.runs) / "results" / f"{cell.name}-{cell.seed}.json"


def read_results(cells: Sequence[AblationCell], options: Options) -> list[dict[str, Any]]:
  return [json.loads(result_file(cell, options).read_text()) for cell in cells]


def describe(files: Sequence[str]) -> dict[str, str]:
  """{name of a config file: its docstring}."""
  return {pathlib.Path(f).stem: ast.get_docstring(ast.parse(pathlib.Path(f).read_text())) or "" for f in files}
