"""What an agent is worth: every figure beside its baselines.

`evaluate` runs everything: `closed_loop` conversations of the variants in `baselines` with users of `duplex_world`,
judged by `scores`, `turns` and `metrics`, and `latent_errors` and codecs on `heldout` sessions. `report` writes it
down. `ablation` and `ablation_report` do this for many trainings.
"""
