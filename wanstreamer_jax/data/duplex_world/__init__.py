"""The procedural world: seed -> session, with ground truth."""
