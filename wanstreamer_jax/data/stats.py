"""Statistics of a folder of records: size, shares of speech, text, spill, events."""

import collections
import pathlib
from typing import Any

import numpy as np

from wanstreamer_jax.data.record_folder import RecordFolder
from wanstreamer_jax.data.records import unit_field
from wanstreamer_jax.data.session import AGENT, USER
from wanstreamer_jax.data.tokenizer import TextTokenizer


def stats(path: str | pathlib.Path, tokenizer: TextTokenizer, sample: int = 200) -> dict[str, Any]:
  """Figures of a folder. Speech and spill are of every session; words, tokens and events of `sample` evenly spaced
  ones.

  Raises DataError as `RecordFolder` does.
  """
  folder = RecordFolder(path)
  manifest = folder.manifest
  counted, media = manifest["stats"], manifest["media"]
  units = int(folder.lengths.sum())  # that exist: ends of recordings are shorter sessions
  frames = units * (media["unit_ms"] * media["fps"] // 1000)
  numbers = np.unique(np.linspace(0, folder.sessions - 1, min(sample, folder.sessions)).astype(int))
  size = sum(file["bytes"] for shard in manifest["shards"] for file in shard["files"].values())
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
    "speaking": {
      "user": speaking["user"] / frames,
      "agent": speaking["agent"] / frames,
      "both": speaking["both"] / frames,
      "nobody": 1 - (speaking["user"] + speaking["agent"] - speaking["both"]) / frames,
    },
    "text": {side: _text_rates(counted["text"][side]) for side in (USER, AGENT)},
    "world_tokens_cut": counted["world_tokens_cut"],
    **_sampled(folder, tokenizer, [int(number) for number in numbers]),
  }


def _text_rates(counts: dict[str, int]) -> dict[str, float]:
  words = max(1, counts["words"])
  return {**counts, "spill_rate": counts["spilled"] / words, "drop_rate": counts["dropped"] / words}


def _sampled(folder: RecordFolder, tokenizer: TextTokenizer, numbers: list[int]) -> dict[str, Any]:
  tokens: collections.Counter[int] = collections.Counter()
  words: collections.Counter[str] = collections.Counter()
  events: collections.Counter[str] = collections.Counter()
  known = {USER: 0, AGENT: 0}  # units whose words are known
  for number in numbers:
    units, truth = folder.read_units(number), folder.read_session(number).truth
    for side in (USER, AGENT):
      known[side] += int(unit_field(units, f"{side}_text_valid").sum())
      tokens.update(units[f"{side}_text"].reshape(-1).tolist())
      words.update(word["text"] for word in truth[side]["words"])
    events.update(f"{event['actor']} {event['kind']}" for event in truth["events"])
  control = {tokenizer.pad_id, tokenizer.cut_id, tokenizer.unk_id}
  used = {token for token in tokens if token not in control}
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
