"""Tokens, Transformer, heads, and the streamer that composes them; who attends to whom, on which kernel."""
