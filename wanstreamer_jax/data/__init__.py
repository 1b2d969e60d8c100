"""Sessions, where they come from, and records of them for training."""
