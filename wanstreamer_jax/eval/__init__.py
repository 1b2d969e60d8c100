"""What the agent is worth: closed loop, scores, codecs, ablations, each beside its baselines."""
