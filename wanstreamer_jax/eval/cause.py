"""Speech without cause: whether the agent speaks when nobody asked.

An agent that always speaks takes every turn that it is offered; it costs nothing unless somebody counts what it says
in between. Silent opportunities are pauses in the user's sentences, remarks that want no answer, coughs, the user's
turns up to 0.5 s before their end, and stretches in which the user is idle and has been answered. `without_cause` is
the share of them in which the agent begins to speak, backchannels aside. Formulas of this module have no published
source; VideoFDB (arXiv 2605.30256) has the silent occasions, but counts them only where a person was silent too.
"""

from collections.abc import Sequence

import numpy as np

from wanstreamer_jax.eval.answers import ANSWER_TIME, Question
from wanstreamer_jax.eval.turns import EARLY, Opportunity, Talk, begins

LEAST = 0.3  # seconds of a turn or of idleness that are judged
SETTLE = 0.5  # seconds after an answer from which more speech is a new start
GOES_ON = 1.0  # seconds of silence inside an answer
NEAR_END = 2.0  # seconds of the session that are not judged
AFTER_STOP = 2.5  # seconds after an interruption in which the agent may say that it heard


def silent_spans(
  questions: Sequence[Question], opportunities: Sequence[Opportunity], idle: Sequence[tuple[float, float]], talk: Talk
) -> list[tuple[str, float, float]]:
  """(name, start, end) of every silent opportunity. idle: stretches in which the user neither acts nor waits."""
  pieces = talk.pieces()
  spans = [(o.name or "stay_silent", o.start, o.end) for o in opportunities if o.kind == "stay_silent"]
  spans += [("idle", start, end) for start, end in idle]
  for q in questions:
    if q.turn is not None:
      spans.append(("listening", q.turn, q.end - EARLY))
    answered = [stop for start, stop in pieces if q.end - EARLY <= start < q.answer_until and stop > q.end]
    spans.append(("idle", (answered[0] if answered else q.end + ANSWER_TIME) + SETTLE, q.until))
  return [(name, start, end) for name, start, end in spans if name not in ("idle", "listening") or end - start >= LEAST]


def called(
  pieces: np.ndarray, questions: Sequence[Question], interruptions: Sequence[float]
) -> list[bool]:  # fmt: skip
  """For each piece of speech [N, 2], whether something called for it: it is the first one that begins within 4 s of a
  question (or 0.5 s before its end), or within 2.5 s of an interruption, or it goes on within 1 s of a piece that was
  called for and that no act of the user has followed."""
  used: set[float] = set()
  out: list[bool] = []
  for index, (start, _) in enumerate(pieces):
    causes = [q.end for q in questions if q.end - EARLY <= start < q.answer_until]
    causes += [time for time in interruptions if time <= start < time + AFTER_STOP]
    fresh = [time for time in causes if time not in used]
    goes_on = bool(index and out[-1] and start - pieces[index - 1, 1] <= GOES_ON)
    used.update(causes)
    out.append(bool(fresh) or goes_on)
  return out


def cause_scores(
  questions: Sequence[Question], opportunities: Sequence[Opportunity], interruptions: Sequence[float],
  idle: Sequence[tuple[float, float]], talk: Talk, seconds: float,
) -> dict[str, list[float]]:  # fmt: skip
  """without_cause: 1 for every silent opportunity in which the agent begins to speak, also by name; silence_idle: 1 for
  every idle stretch in which it does not; uncalled_per_minute: pieces of speech that nothing called for."""
  pieces = talk.pieces()
  out: dict[str, list[float]] = {"without_cause": [], "silence_idle": []}
  for name, start, end in silent_spans(questions, opportunities, idle, talk):
    spoke = float(begins(pieces, start, end))
    out["without_cause"].append(spoke)
    out.setdefault(f"without_cause/{name}", []).append(spoke)
    if name == "idle":
      out["silence_idle"].append(1.0 - spoke)
  judged = pieces[pieces[:, 0] < seconds - NEAR_END]  # what is asked later is no question of the script
  uncalled = sum(not cause for cause in called(judged, questions, interruptions))
  return out | {"uncalled_per_minute": [60 * uncalled / max(seconds - NEAR_END, 1.0)]}
