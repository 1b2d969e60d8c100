"""Formats what `wanstreamer aot` prints: memory, computation, traffic and time."""

import json
import os
from typing import Any

from wanstreamer_jax.aot.compile import PROGRAMS, compile_for
from wanstreamer_jax.config import Config
from wanstreamer_jax.parallel.machine import GIB

WIDTH = 40  # of the first column, in characters


def report_lines(result: dict[str, Any]) -> list[str]:
  """The result of `compile_for` as a table; all figures are per chip."""
  slices = f"{result['slices']} slices of " if result["slices"] > 1 else ""
  lines = [
    f"{result['config']}: {result['program']}, {result['dtype']}",
    f"for {slices}{result['topology']}: {result['used']} of {result['devices']} x {result['device']}, "
    f"{'compiled' if result['code'] else 'planned, no code generated,'} in {result['seconds']:.0f} s",
    "",
    *_memory_lines(result),
    *_flops_lines(result),
  ]
  return lines + (
    _roofline_lines(result) if result["roofline"] else ["no roofline: the figures of this chip are not published"]
  )


def _memory_lines(result: dict[str, Any]) -> list[str]:
  memory, hbm = result["memory"], result["hbm"]
  lines = [f"{'per chip':{WIDTH}}{'GiB':>10}"]
  lines += [f"  {name:{WIDTH - 2}}{size / GIB:10.3f}" for name, size in memory.items() if size]
  if hbm:
    fits = "fits" if memory["peak"] <= hbm else "DOES NOT FIT"
    lines.append(f"  {'of HBM':{WIDTH - 2}}{hbm / GIB:10.3f}   {memory['peak'] / hbm:.0%}: {fits}")
  return lines


def _flops_lines(result: dict[str, Any]) -> list[str]:
  rows = {f"counted: {name}": value for name, value in result["flops"].items() if value}
  rows["by the compiler: products"] = result["flops_compiled"]
  rows["needed by the model"] = result["flops_useful"]
  return [
    f"{'':{WIDTH}}{'TFLOP':>10}",
    *(f"  {name:{WIDTH - 2}}{value / 1e12:10.3f}" for name, value in rows.items()),
  ]


def _roofline_lines(result: dict[str, Any]) -> list[str]:
  roofline = result["roofline"]
  lines = [f"{'collectives, bytes that a chip receives':{WIDTH}}{'GB':>10}{'ms':>10}{'count':>10}   links"]
  for row in roofline["collectives"]:
    name = f"{row['kind']} over {' x '.join(row['axes']) or 'nothing'}"
    lines.append(
      f"  {name:{WIDTH - 2}}{row['bytes'] / 1e9:10.3f}{row['seconds'] * 1e3:10.2f}{row['count']:10d}   {row['over']}"
    )
  if not roofline["collectives"]:
    lines.append("  none")
  lines.append(f"{'busy at the published rates':{WIDTH}}{'':10}{'ms':>10}")
  lines += [f"  {name:{WIDTH + 8}}{seconds * 1e3:10.2f}" for name, seconds in roofline["busy"].items()]
  return [*lines, "", *_summary(result)]


def _summary(result: dict[str, Any]) -> list[str]:
  roofline, chips = result["roofline"], result["used"]
  times = (
    f"at best {roofline['seconds'] * 1e3:.1f} ms, bound by {roofline['bound']}; "
    f"{roofline['serial'] * 1e3:.1f} ms if nothing overlaps"
  )
  if result["what"] == "step":
    return [f"a unit of {result['unit_ms']} ms: {times}"]
  rate = result["amount"]["tokens"] / roofline["seconds"]
  return [
    f"a step: {times}",
    f"MFU at best {roofline['mfu']:.1%}; {rate:,.0f} tokens/s on {chips} chips, {rate / chips:,.0f} on each",
  ]


def aot_command(config: Config, topology: str, what: str, slices: int, as_json: bool, plan: bool) -> None:
  """Compiles and prints one program, or both. After a plan it ends the process, in which the compiler still runs."""
  for name in (what,) if what else PROGRAMS:
    result = compile_for(config, topology, name, slices, plan)
    print(json.dumps(result, indent=2) if as_json else "\n".join(report_lines(result)), flush=True)
    if not what and not as_json:
      print(flush=True)
  if plan:
    os._exit(0)
