"""Names that leaves had in older checkpoints and exports, and their order then."""

import re

# Parts of leaves' names in older checkpoints and exports, and what they are called since.
RENAMED = {
  "see.conv": "see.w",
  "audio_vae": "audio_codec",
  "video_vae": "video_codec",
  "encoder.norm_half": "encoder.steps.0.norm",
  "encoder.to_quarter": "encoder.steps.0.conv",
  "encoder.quarter": "encoder.steps.0.stage",
  "encoder.norm_quarter": "encoder.steps.1.norm",
  "encoder.to_eighth": "encoder.steps.1.conv",
  "encoder.eighth": "encoder.steps.1.stage",
  "decoder.eighth": "decoder.stage",
  "decoder.norm_eighth": "decoder.steps.0.norm",
  "decoder.to_quarter": "decoder.steps.0.conv",
  "decoder.quarter": "decoder.steps.0.stage",
  "decoder.norm_quarter": "decoder.steps.1.norm",
  "decoder.to_half": "decoder.steps.1.conv",
  "decoder.half": "decoder.steps.1.stage",
  "decoder.norm_half": "decoder.norm_out",
}


def current_name(name: str) -> str:
  """Today's name of a leaf of a checkpoint or an export, which may be older than a renaming."""
  for old, new in RENAMED.items():
    name = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, name)  # whole words between dots
  return name


def former_name(name: str) -> str:
  """The name that a leaf has in the oldest checkpoints; the inverse of `current_name`."""
  for old, new in RENAMED.items():
    name = re.sub(rf"(?<![^.]){re.escape(new)}(?![^.])", old, name)
  return name


def former_order(name: str) -> list[tuple[int, str]]:
  """A key that sorts leaves as their trees did: by former names, part by part, lists by number."""
  return [(int(part), "") if part.isdecimal() else (-1, part) for part in former_name(name).split(".")]
