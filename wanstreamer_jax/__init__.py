"""Wan-Streamer in JAX: one block-causal Transformer that hears, sees, reads, and answers in 160 ms units."""

__version__ = "0.1.0"
