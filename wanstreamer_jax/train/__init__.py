"""Training: one loop for all stages, the stages, and what a run keeps.

`loop` trains a `stage`; `stages` names them: `codecs` with `codec_losses`, and `duplex` with `duplex_validation`.
`state` and `optim` are one update, `prefetch` its batches, `flops` its useful work. A run keeps `checkpoint`s, a
`metric_log` and its `provenance` in a `run_folder` under a `lock`. `nonfinite` finds the cause of a loss that is not
finite.
"""
