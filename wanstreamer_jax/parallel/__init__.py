"""Several devices and several hosts as one job.

`mesh` and `rules` say where batches and parameters lie; `hosts`, `exit_reason` and `launcher` start, join and end a job
of several processes; `machine` states what devices can do, and `cost` counts what a program has to do.
"""
