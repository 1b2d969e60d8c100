"""The laws of the design, and everything else that must not break; folders mirror those of the package."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent  # of the repository
CONFIGS = ROOT / "configs"
