"""`wanstreamer eval` scores one agent; `wanstreamer ablate` compares configs."""

import argparse
from typing import Any

from wanstreamer_jax.cli.parsing import add_command, add_out, number
from wanstreamer_jax.cli.results import add_record
from wanstreamer_jax.errors import UserError

SECONDS = 60.0  # of a session, whatever the checkpoint's config says
LONG_SESSIONS = 4  # of `--minutes`


def add_eval(commands: Any) -> None:
  examples = """
    wanstreamer eval --checkpoint demo --out out/eval
    wanstreamer eval --checkpoint runs/tiny/agent --sessions 10 --baseline-sessions 10 --seconds 20 --out out/quick
    wanstreamer eval --checkpoint demo --judges --out out/eval
    wanstreamer eval --checkpoint demo --robustness --out out/eval
    wanstreamer eval --checkpoint demo --minutes 60 --sessions 4 --out out/eval
    wanstreamer eval --checkpoint runs/seed0/agent runs/seed1/agent runs/seed2/agent --out out/seeds

    wanstreamer eval --checkpoint runs/calls/agent --records data/calls-heldout-latents --out out/calls

    Runs held-out sessions of 60 s with a user that reacts, and prints baselines and the scripted truth beside every
    figure. Other sizes that are not given come from the checkpoint's own config (section `eval`). With --robustness:
    the same users behind other microphones, cameras and voices. With --minutes: long sessions, in a table by minute.
    Several checkpoints, such as training runs with other seeds, also get a table of their mean and spread. With
    --records: errors on any held-out records, and turn-taking, lips and identity beside their recorded users, who do
    not react.
  """
  parser = add_command(commands, "eval", "judge an agent in closed loop, beside trivial baselines", examples, evaluate)
  parser.add_argument(
    "--checkpoint", metavar="C", nargs="+", default=["demo"], help="exported agents, one or more (default: demo)"
  )
  parser.add_argument("--sessions", type=number(int, 2), help="closed-loop sessions")
  parser.add_argument("--baseline-sessions", type=number(int, 2), help="sessions for baselines, truth and codecs")
  parser.add_argument("--seconds", type=number(float, 4, 3600), help="length of a session (default: 60)")
  parser.add_argument("--batch", type=number(int, 2), help="sessions side by side")
  parser.add_argument("--seed", type=number(int, 0), help="seed of the first held-out session")
  parser.add_argument("--judges", action="store_true", help="also let a recogniser hear the voice (extra `judges`)")
  parser.add_argument("--robustness", action="store_true", help="instead: other microphones, cameras and voices")
  parser.add_argument(
    "--minutes", type=number(float, 2, 240), help="instead: sessions of so many minutes (--sessions: 4), by minute"
  )
  parser.add_argument("--records", metavar="DIR", help="held-out records instead (a folder, or gs://bucket/folder)")
  parser.add_argument("--no-stream", action="store_true", help="with --records: errors only, which takes seconds")
  parser.add_argument(
    "--recogniser",
    metavar="DIR",
    help="with --records: a faster-whisper model that writes down the voice (extra `speech`)",
  )
  parser.add_argument("--dnsmos", action="store_true", help="with --records: rate the voice (extra `speech`)")
  add_out(parser, default="out/eval")
  add_record(parser)


def evaluate(args: argparse.Namespace) -> None:
  names = ("sessions", "baseline_sessions", "seconds", "batch", "seed")
  changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
  check_options(args)
  if args.records:
    evaluate_on_records(args, changes)
  elif len(args.checkpoint) > 1:
    evaluate_seeds(args.checkpoint, args.out, {"seconds": SECONDS, **changes}, args.judges)
  elif args.robustness:
    evaluate_changes(args.checkpoint[0], args.out, {"seconds": SECONDS, **changes})
  elif args.minutes:
    evaluate_minutes(args.checkpoint[0], args.out, args.minutes, changes)
  else:
    evaluate_checkpoint(args.checkpoint[0], args.out, {"seconds": SECONDS, **changes}, args.judges)


def check_options(args: argparse.Namespace) -> None:
  """Raises UserError for options that do not go together."""
  if not args.records:
    for option in ("no_stream", "recogniser", "dnsmos"):
      if getattr(args, option):
        raise UserError(f"--{option.replace('_', '-')} goes with --records DIR")
  modes = ("records", "robustness", "minutes")
  chosen = [f"--{name}" for name in modes if getattr(args, name)]
  if len(chosen) > 1:
    raise UserError(f"{' and '.join(chosen)} are evaluations of their own: give one of them")
  if chosen and len(args.checkpoint) > 1:
    raise UserError(f"{chosen[0]} takes one --checkpoint: got {len(args.checkpoint)}")
  if chosen and args.judges:
    raise UserError(f"--judges goes with the plain evaluation: drop it or {chosen[0]}")
  if args.minutes and args.seconds:
    raise UserError("--minutes and --seconds are both the length of a session: give one of them")


def evaluate_on_records(args: argparse.Namespace, changes: dict[str, Any]) -> None:
  """`wanstreamer eval --records`: writes eval.json and eval.png and prints the table. changes: of the options."""
  from wanstreamer_jax.data.tokenizer import tokenizer_of
  from wanstreamer_jax.eval import real_speech
  from wanstreamer_jax.eval.records import RecordsOptions, evaluate_records
  from wanstreamer_jax.eval.report import lines, make_folder, write_report
  from wanstreamer_jax.weights.agent import load_agent

  if args.no_stream and (args.recogniser or args.dnsmos):
    raise UserError("--recogniser and --dnsmos judge the voice, which --no-stream leaves out: drop one of them")
  agent = load_agent(args.checkpoint[0])
  media, tokenizer = agent.config.media, tokenizer_of(agent.config)
  judge = real_speech.judge(media, tokenizer, args.recogniser, args.dnsmos)  # and the folder: before the work
  make_folder(args.out)
  sizes = {name: getattr(agent.config.eval, name) for name in ("sessions", "baseline_sessions", "batch", "seed")}
  options = RecordsOptions(**{**sizes, **changes}, stream=not args.no_stream)
  evaluation = evaluate_records(agent, args.records, options, judge)
  files = write_report(evaluation, args.out, media, tokenizer)
  print(*lines(evaluation.figures), sep="\n")
  print(*(f"{name}: {path}" for name, path in files.items()), sep="\n")


def add_ablate(commands: Any) -> None:
  examples = """
    wanstreamer ablate --codecs runs/tiny/agent --out docs/ablations.md
    wanstreamer ablate --codecs runs/tiny/agent --configs configs/ablations/no_history.py --seeds 1
    wanstreamer ablate --codecs runs/tiny/agent --init runs/tiny/agent --steps 128

    `bash launch/train.sh tiny` makes such an agent. Trains configs/tiny.py and every config for each seed, and
    evaluates it; the same command continues. From random weights this takes a night on two cores; from trained weights
    (--init) it takes an hour or two.
  """
  parser = add_command(commands, "ablate", "train and evaluate ablations, and write the table", examples, ablate)
  parser.add_argument("--configs", metavar="FILE", nargs="+", help="config files (default: configs/ablations/*.py)")
  parser.add_argument(
    "--reference", metavar="FILE", default="configs/tiny.py", help="the config that they are compared with"
  )
  parser.add_argument(
    "--codecs", metavar="C", required=True, help="an exported agent of the reference's size, which provides the codecs"
  )
  parser.add_argument(
    "--init", metavar="C", help="an exported agent: all configs start from its weights (default: random ones)"
  )
  parser.add_argument("--seeds", type=number(int, 1), default=2, help="training runs of each config (default: 2)")
  parser.add_argument("--steps", type=number(int, 1), help="updates of each run (default: as in its config)")
  parser.add_argument(
    "--train-sessions", type=number(int, 2), default=400, help="training sessions of 20 s, made once (default: 400)"
  )
  parser.add_argument("--eval-sessions", type=number(int, 2), default=20, help="held-out sessions (default: 20)")
  parser.add_argument("--runs", metavar="DIR", default="runs/ablations", help="where runs and results are kept")
  parser.add_argument("--data", metavar="DIR", default="data_cache/ablations", help="where records are kept")
  parser.add_argument(
    "--out", metavar="FILE", default="docs/ablations.md", help="file for the table; a PNG is written beside it"
  )


def ablate(args: argparse.Namespace) -> None:
  from wanstreamer_jax.eval import ablation

  options = {name: getattr(args, name) for name in ablation.Options.__dataclass_fields__}
  ablation.ablate(ablation.Options(**options), train_duplex)


def train_duplex(config: Any) -> Any:
  """The averaged weights of a duplex run, which goes on where it stood."""
  from wanstreamer_jax.train.loop import train
  from wanstreamer_jax.train.stages import get_stage

  return train(get_stage("duplex"), config).averaged


def evaluate_checkpoint(checkpoint: str, out: str, changes: dict[str, Any], judges: bool = False) -> dict[str, Any]:
  """`wanstreamer eval`: writes the report into `out`, prints the tables and returns the figures. changes: of the eval
  config."""
  import dataclasses

  from wanstreamer_jax.data.tokenizer import tokenizer_of
  from wanstreamer_jax.eval.evaluate import evaluate_agent
  from wanstreamer_jax.eval.report import lines, make_folder, write_report
  from wanstreamer_jax.weights.agent import load_agent

  agent = load_agent(checkpoint)
  make_folder(out)  # before the work
  options = dataclasses.replace(agent.config.eval, **changes)
  evaluation = evaluate_agent(agent, options, judges=judges)
  files = write_report(evaluation, out, agent.config.media, tokenizer_of(agent.config))
  print(*lines(evaluation.figures), sep="\n")
  print(*(f"{name}: {path}" for name, path in files.items()), sep="\n")
  return evaluation.figures


def evaluate_changes(checkpoint: str, out: str, changes: dict[str, Any]) -> None:
  """`wanstreamer eval --robustness`: writes robustness.json and robustness.md into `out` and prints the table."""
  import dataclasses

  from wanstreamer_jax.eval import robustness, sections
  from wanstreamer_jax.eval.report import make_folder, write_tables
  from wanstreamer_jax.weights.agent import load_agent

  agent = load_agent(checkpoint)
  make_folder(out)
  figures = robustness.evaluate_robustness(agent, dataclasses.replace(agent.config.eval, **changes))
  table = robustness.table(figures)
  files = write_tables(out, "robustness", figures, robustness.page(figures))
  print(*sections.lines([table]), *robustness.notes(figures), sep="\n")
  print(*(f"{name}: {path}" for name, path in files.items()), sep="\n")


def evaluate_minutes(checkpoint: str, out: str, minutes: float, changes: dict[str, Any]) -> None:
  """`wanstreamer eval --minutes`: writes minutes.json, minutes.md and minutes.png into `out` and prints the tables."""
  import dataclasses
  import pathlib

  from wanstreamer_jax.eval import by_minute, sections
  from wanstreamer_jax.eval.report import make_folder, write_tables
  from wanstreamer_jax.weights.agent import load_agent

  agent = load_agent(checkpoint)
  make_folder(out)
  sessions = changes.pop("sessions", LONG_SESSIONS)
  options = dataclasses.replace(agent.config.eval, **changes)
  figures = by_minute.evaluate_by_minute(agent, options, minutes, sessions)
  files = write_tables(out, "minutes", figures, by_minute.page(figures))
  by_minute.draw(pathlib.Path(out) / "minutes.png", figures)
  print(*sections.lines([by_minute.table(figures, name) for name in figures["variants"]]), sep="\n")
  print(*(f"{name}: {path}" for name, path in files.items()), f"minutes.png: {out}/minutes.png", sep="\n")


def evaluate_seeds(checkpoints: list[str], out: str, changes: dict[str, Any], judges: bool) -> None:
  """`wanstreamer eval --checkpoint A B C`: evaluates each into OUT/0, OUT/1 and so on, writes seeds.json and seeds.md
  into `out`, and prints the tables of all."""
  import pathlib

  from wanstreamer_jax.eval import sections, seeds
  from wanstreamer_jax.eval.report import write_tables

  runs = {}
  for index, checkpoint in enumerate(checkpoints):
    print(f"run {index}: {checkpoint}", flush=True)
    runs[f"run {index}"] = evaluate_checkpoint(checkpoint, str(pathlib.Path(out) / str(index)), changes, judges)
  figures = {"checkpoints": checkpoints, "runs": runs}
  files = write_tables(out, "seeds", figures, seeds.page(checkpoints, runs))
  print("", *sections.lines(seeds.table(runs)), sep="\n")
  print(*(f"{name}: {path}" for name, path in files.items()), sep="\n")
