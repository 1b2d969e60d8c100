"""Statistics of a folder of records: size, shares of speech, text, spill, events."""

import collections
import pathlib
from typing import Any

import numpy as np

from wanstreamer_jax.data.lateness import table
from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import unit_field
from wanstreamer_jax.data.session import AGENT, USER, Word
from wanstreamer_jax.data.tokenizer import TextTokenizer
from wanstreamer_jax.errors import DataError


def stats(path: str | pathlib.Path, tokenizer: TextTokenizer, sample: int = 200) -> dict[str, Any]:
  """Figures of a folder. Speech and spill are of every session; words, tokens and events of `sample` evenly spaced
  ones.

  Raises DataError as `RecordFolder` does, and for another tokenizer than the one of the records.
  """
  folder = RecordFolder(path)
  manifest = folder.manifest
  if manifest["text"]["tokenizer"] != tokenizer.sha256:
    raise DataError(
      f"{path} was made with the tokenizer of SHA-256 {manifest['text']['tokenizer'][:12]}..., but {tokenizer.path} "
      f"has {tokenizer.sha256[:12]}...: give the records' own with --tokenizer"
    )
  counted, media = manifest["stats"], manifest["media"]
  units = int(folder.lengths.sum())  # that exist: ends of recordings are shorter sessions
  frames = units * (media["unit_ms"] * media["fps"] // 1000)
  numbers = np.unique(np.linspace(0, folder.sessions - 1, min(sample, folder.sessions)).astype(int))
  sizes: collections.Counter[str] = collections.Counter()
  for shard in manifest["shards"]:
    sizes.update({kind: file["bytes"] for kind, file in shard["files"].items()})
  size = sizes.total()
  speaking = counted["speaking_frames"]
  return {
    "kind": folder.kind,
    "source": manifest["source"],
    "sessions": folder.sessions,
    "shorter_sessions": int((folder.lengths < folder.units).sum()),
    "speakers": len(set(folder.speakers()) - {""}),
    "units": units,
    "hours": units * media["unit_ms"] / 3_600_000,
    "gigabytes": size / 1e9,
    "bytes_per_unit": size / units,
    "bytes_per_unit_of": {kind: count / units for kind, count in sizes.items()},
    "speaking": {
      "user": speaking["user"] / frames,
      "agent": speaking["agent"] / frames,
      "both": speaking["both"] / frames,
      "nobody": 1 - (speaking["user"] + speaking["agent"] - speaking["both"]) / frames,
    },
    "text": {side: _text_rates(counted["text"][side]) for side in (USER, AGENT)},
    "world_tokens_cut": counted["world_tokens_cut"],
    "late_words": _late(folder, tokenizer, [int(number) for number in numbers]),
    **_sampled(folder, tokenizer, [int(number) for number in numbers]),
  }


def _text_rates(counts: dict[str, int]) -> dict[str, float]:
  words, late = max(1, counts["words"]), sum(counts.get(f"late_{n}", 0) for n in (1, 2, 3))  # older folders have none
  return {**counts, "spill_rate": counts["spilled"] / words, "drop_rate": counts["dropped"] / words,
          "late_rate": late / words}  # fmt: skip


def _late(folder: RecordFolder, tokenizer: TextTokenizer, numbers: list[int]) -> dict[str, str]:
  """Which share of the agent's words would end how many units after their onset, for 1 to 4 text slots a unit."""
  spoken = [tuple(Word(**word) for word in folder.read_session(number).truth[AGENT]["words"]) for number in numbers]
  slots = folder.manifest["text"]["slots"]
  return {"slots_of_these_records": str(slots), **table(spoken, tokenizer, folder.manifest["media"]["unit_ms"] / 1000)}


def _sampled(folder: RecordFolder, tokenizer: TextTokenizer, numbers: list[int]) -> dict[str, Any]:
  tokens: collections.Counter[int] = collections.Counter()
  words: collections.Counter[str] = collections.Counter()
  events: collections.Counter[str] = collections.Counter()
  known = {USER: 0, AGENT: 0}  # units whose words are known
  for number in numbers:
    units, truth = folder.read_units(number, fields=()), folder.read_session(number).truth
    for side in (USER, AGENT):
      known[side] += int(unit_field(units, f"{side}_text_valid").sum())
      tokens.update(units[f"{side}_text"].reshape(-1).tolist())
      words.update(word["text"] for word in truth[side]["words"])
    events.update(f"{event['actor']} {event['kind']}" for event in truth["events"])
  used = {token for token in tokens if token not in tokenizer.control_ids}
  split = sum(count for word, count in words.items() if len(tokenizer.encode_word(word)) > 1)
  return {
    "sampled_sessions": len(numbers),
    "words_known": {side: count / max(1, int(folder.lengths[numbers].sum())) for side, count in known.items()},
    "vocabulary": {
      "tokens_used": len(used),
      "tokens": tokenizer.vocab_size,
      "words": len(words),
      "words_of_several_tokens": split / max(1, sum(words.values())),
      "most_common": [word for word, _ in words.most_common(12)],
    },
    "events": dict(events.most_common()),
  }


def lines(figures: dict[str, Any], indent: str = "") -> list[str]:
  """Nested figures as aligned lines of text."""
  out = []
  width = max(len(name) for name in figures) if figures else 0
  for name, value in figures.items():
    if isinstance(value, dict):
      out += [f"{indent}{name}", *lines(value, indent + "  ")]
    else:
      shown = f"{value:.4g}" if isinstance(value, float) else value
      shown = " ".join(map(str, shown)) if isinstance(shown, list) else shown
      out.append(f"{indent}{name:<{width}}  {shown}")
  return out
