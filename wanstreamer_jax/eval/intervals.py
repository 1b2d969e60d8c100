"""Means over sessions with bootstrap intervals.

A session has one user, and what happens in it hangs together. So sessions are drawn anew, with replacement, and not
single answers: percentile intervals of 1,000 draws with a fixed seed (Efron and Tibshirani 1993, chapter 13).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wanstreamer_jax.eval.answers import kinds_of

DRAWS = 1000
INTERVAL = (2.5, 97.5)  # percentiles
LEAST_SESSIONS = 5  # that intervals are given for
Scores = dict[str, list[float]]


class Estimate(NamedTuple):
  """A figure, the number of cases in it, and its values in every draw, float [DRAWS]."""

  value: float
  n: int
  draws: np.ndarray


def weights(sessions: int, seed: int = 0) -> np.ndarray:
  """How often every session is in each draw: int [DRAWS, sessions]."""
  return np.random.default_rng([seed, sessions]).multinomial(sessions, np.full(sessions, 1 / sessions), DRAWS)


def means(parts: Sequence[Scores], seed: int = 0) -> dict[str, Estimate]:
  """The mean of every name over all values of all sessions that are not NaN, and means over kinds of question
  (`answers.kinds_of`), in which each kind counts the same. parts: the scores of each session."""
  drawn = weights(len(parts), seed) if parts else np.zeros((DRAWS, 0), int)
  out = {}
  for name in dict.fromkeys(name for part in parts for name in part):
    values = [[x for x in part.get(name, []) if x == x] for part in parts]
    sums, counts = np.array([sum(x) for x in values]), np.array([len(x) for x in values])
    out[name] = Estimate(_ratio(sums.sum(), counts.sum()), int(counts.sum()), _ratio(drawn @ sums, drawn @ counts))
  for name, members in kinds_of(out).items():
    found = [out[member] for member in members if out[member].n]
    if found:
      each = np.stack([x.draws for x in found])
      seen = (~np.isnan(each)).sum(axis=0)
      value = float(np.mean([x.value for x in found]))
      out[name] = Estimate(value, sum(x.n for x in found), _ratio(np.nansum(each, axis=0), seen))
  return out


def _ratio(above: Any, below: Any) -> Any:
  """above / below, NaN where nothing is below."""
  with np.errstate(invalid="ignore", divide="ignore"):
    found = np.where(np.asarray(below) > 0, np.asarray(above) / np.maximum(below, 1), np.nan)
  return float(found) if np.ndim(found) == 0 else found


def quantiles(parts: Sequence[Scores], name: str, share: float, seed: int = 0) -> Estimate:
  """A quantile of all values of a name, and the same in every draw (the smallest value that at least `share` of the
  values do not exceed)."""
  pairs = sorted((x, i) for i, part in enumerate(parts) for x in part.get(name, []) if x == x)
  if not pairs:
    return Estimate(float("nan"), 0, np.full(DRAWS, np.nan))
  values = np.array([x for x, _ in pairs])
  times = weights(len(parts), seed)[:, [i for _, i in pairs]].cumsum(axis=1)
  place = (times < share * times[:, -1:] - 1e-9).sum(axis=1)
  drawn = np.where(times[:, -1] > 0, values[np.minimum(place, len(values) - 1)], np.nan)
  return Estimate(float(values[max(0, int(np.ceil(share * len(values) - 1e-9)) - 1)]), len(values), drawn)


def interval(estimate: Estimate, sessions: int) -> dict[str, float]:
  """{"low", "high"} of an estimate; nothing where there are fewer than LEAST_SESSIONS sessions."""
  found = estimate.draws[~np.isnan(estimate.draws)]
  if sessions < LEAST_SESSIONS or not estimate.n or not len(found):
    return {}
  low, high = np.percentile(found, INTERVAL)
  return {"low": float(low), "high": float(high)}


def figures(parts: Sequence[Scores], seed: int = 0) -> dict[str, dict[str, float]]:
  """{"name": {"mean", "n", "low", "high"}}; latencies and lags also have their median, and latencies "p90"."""
  out: dict[str, dict[str, float]] = {}
  for name, estimate in means(parts, seed).items():
    out[name] = {"mean": estimate.value, "n": estimate.n} | interval(estimate, len(parts))
    if "latency" in name or "lag" in name:
      out[name]["median"] = _median([x for part in parts for x in part.get(name, []) if x == x])
    if "latency" in name:
      p90 = quantiles(parts, name, 0.9, seed)
      out[name]["p90"] = p90.value
      out[name] |= {f"p90_{end}": value for end, value in interval(p90, len(parts)).items()}
  return out


def _median(values: Sequence[float]) -> float:
  return float(np.median(values)) if values else float("nan")


def differences(changed: Sequence[Scores], clean: Sequence[Scores], seed: int = 0) -> dict[str, dict[str, float]]:
  """{"name": {"mean", "low", "high"}} of changed minus clean, for the same users in the same order: every draw has the
  same users on both sides. Raises ValueError for other numbers of sessions."""
  if len(changed) != len(clean):
    raise ValueError(f"{len(changed)} sessions beside {len(clean)}: expected the same users on both sides")
  mine, other = means(changed, seed), means(clean, seed)
  out = {}
  for name in mine:
    if name in other:
      both = Estimate(mine[name].value - other[name].value, min(mine[name].n, other[name].n),
                      mine[name].draws - other[name].draws)  # fmt: skip
      out[name] = {"mean": both.value} | interval(both, len(clean))
  return out
