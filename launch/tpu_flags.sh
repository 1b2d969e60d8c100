# shellcheck shell=bash
# Flags of the TPU compiler that let collectives run beside computation; sourced by tpu_pod.sh, repeated in gke/*.yaml.
#
#   . launch/tpu_flags.sh; LIBTPU_INIT_ARGS="$(tpu_flags v6e-256)"
#
# What libtpu accepts depends on the generation: a slow test compiles with these flags for v5e, v5p and v6e.
tpu_flags() { # ACCELERATOR
  # Gradients that are summed over slices (data parallelism over the data-center network).
  local flags="--xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true"
  case "$1" in
    v5litepod-*)
      # FSDP's gathers fused with the matrix products around them. libtpu accepts this only on v5e.
      flags+=" --xla_tpu_enable_async_collective_fusion=true"
      flags+=" --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
      flags+=" --xla_tpu_enable_async_collective_fusion_multiple_steps=true"
      flags+=" --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true"
      ;;
  esac
  echo "$flags"
}
