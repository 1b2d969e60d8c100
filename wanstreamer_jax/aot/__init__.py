"""Programs compiled ahead for TPUs that are not here: memory, FLOPs, traffic and the shortest step time, from a CPU."""
