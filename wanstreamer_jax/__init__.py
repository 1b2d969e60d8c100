"""Wan-Streamer in JAX: one block-causal Transformer that hears, sees, reads, and answers in 160 ms units."""

from wanstreamer_jax.parallel.xla_flags import avoid_ynn_crash

__version__ = "0.1.0"

avoid_ynn_crash()
