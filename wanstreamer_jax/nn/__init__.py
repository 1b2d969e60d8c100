"""Layers that know no units: numbers are passed in, and nothing of a config."""
