# shellcheck shell=bash
# Flags of the TPU compiler that let collectives run beside computation; sourced by tpu_pod.sh, repeated in gke/*.yaml.
#
# The first four fuse gathers and reductions of FSDP with the matrix products around them; the others do so for
# gradients that are summed over slices (data parallelism over the data-center network).
LIBTPU_INIT_ARGS="--xla_tpu_enable_async_collective_fusion=true \
--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
--xla_tpu_enable_async_collective_fusion_multiple_steps=true \
--xla_tpu_overlap_compute_collective_tc=true \
--xla_enable_async_all_gather=true \
--xla_tpu_enable_data_parallel_all_reduce_opt=true \
--xla_tpu_data_parallel_opt_different_sized_ops=true"
export LIBTPU_INIT_ARGS
