#!/usr/bin/env bash
# Sets up and trains on the GPUs of this machine, or of several through Slurm.
#
#   bash launch/gpu.sh --config=configs/demo.py --config.train.run=runs/demo      any arguments of `wanstreamer train`
#   bash launch/gpu.sh --dry-run --config=...                                     prints the commands and runs nothing
#   sbatch --nodes=4 --ntasks-per-node=1 --gpus-per-node=8 --signal=TERM@180 launch/gpu.sh --config=...
#
# One process per machine drives all of its GPUs. Under Slurm, submit from the repository's folder, which all nodes must
# see; at the signal, three minutes before the time is over, a checkpoint is saved; the same sbatch continues.
#SBATCH --job-name=wanstreamer --exclusive --open-mode=append
set -euo pipefail

dry_run=false
if [ "${1:-}" = --dry-run ]; then dry_run=true; shift; fi
case "${1:-}" in "" | -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac

# sbatch runs a copy of this file from elsewhere.
root="${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
python="${WANSTREAMER_VENV:-$root/.venv}/bin/python"
run() {
  if $dry_run; then printf '%q ' "$@"; echo; else "$@"; fi
}

export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true"  # collectives beside computation
if $dry_run; then printf 'export XLA_FLAGS=%q\n' "$XLA_FLAGS"; fi

run cd "$root"
if ! $dry_run && [ -z "${SLURM_JOB_ID:-}" ] && ! command -v nvidia-smi >/dev/null; then
  echo "[gpu] error: nvidia-smi was not found, so there is no usable NVIDIA driver" >&2
  exit 2
fi
run bash "$root/launch/setup.sh" cuda
if [ -n "${SLURM_JOB_ID:-}" ]; then
  # The variables that srun sets tell each process its number; if one dies, srun ends the others.
  run exec srun --kill-on-bad-exit=1 "$python" -m wanstreamer_jax train "$@"
else
  run exec "$python" -m wanstreamer_jax.parallel.launcher 1 -- "$python" -m wanstreamer_jax train "$@"
fi
