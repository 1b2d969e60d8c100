#!/usr/bin/env bash
# Measures everything that needs one large GPU (H100, H200), within nine minutes: unit step, attention, training.
#
#   bash launch/gpu_bench.sh                       everything, into out/gpu_bench/results.json and log
#   bash launch/gpu_bench.sh --small               the same at nano size, on any machine: does everything run?
#   bash launch/gpu_bench.sh --budget 300          starts no part that is expected to end later than 300 s from now
#
# One process and one result file, written after every part. Needs jax with a GPU, flax, optax, orbax-checkpoint,
# jaxtyping, tokenizers, safetensors and tqdm. If they are there, nothing is installed. PYTHON picks the interpreter,
# OUT the folder. Other options are those of `wanstreamer bench gpu`.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
out="${OUT:-$root/out/gpu_bench}"
needs='import jax, flax, optax, orbax.checkpoint, jaxtyping, tokenizers, safetensors, tqdm'
say() { printf '[gpu_bench] %s\n' "$*" >&2; }

cd "$root"
python="${PYTHON:-python3}"
if ! "$python" -c "$needs" >/dev/null 2>&1; then
  say "$python lacks jax or another package; setting up an environment"
  bash "$here/setup.sh" cuda
  python="${WANSTREAMER_VENV:-$root/.venv}/bin/python"
fi
mkdir -p "$out"
status=0
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 timeout --kill-after=10 560 \
  "$python" -m wanstreamer_jax bench gpu --out "$out/results.json" "$@" 2>&1 | tee "$out/log" || status=$?
if [ "$status" -eq 124 ]; then say "stopped after 560 s; $out/results.json holds the parts that were done"; fi
exit "$status"
