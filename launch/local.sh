#!/usr/bin/env bash
# Sets up and trains with several processes on this machine, as on several hosts; starts the job again when one dies.
#
#   bash launch/local.sh 2 --config=configs/nano.py --config.train.run=runs/two      any arguments of `wanstreamer train`
#   bash launch/local.sh --dry-run 2 --config=...                                    prints the commands and runs nothing
#
# Use it to try on a CPU what a pod does. RESTARTS=3 is the number of times that the job may be started again.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
python="${WANSTREAMER_VENV:-$root/.venv}/bin/python"
dry_run=false
if [ "${1:-}" = --dry-run ]; then dry_run=true; shift; fi
case "${1:-}" in
  "" | -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *[!0-9]*) echo "[local] error: '$1' is not a number of processes, as in: bash launch/local.sh 2 --config=..." >&2; exit 2 ;;
esac
processes="$1"
shift
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
launch=(-m wanstreamer_jax.parallel.launcher "$processes" --restarts "${RESTARTS:-3}")
train=("$python" -m wanstreamer_jax train "$@")

if $dry_run; then
  echo "bash $here/setup.sh"
  echo "export JAX_PLATFORMS=$JAX_PLATFORMS"
  PYTHONPATH="$root" exec python3 "${launch[@]}" --dry-run -- "${train[@]}"  # standard library only
fi
bash "$here/setup.sh"
exec "$python" "${launch[@]}" -- "${train[@]}"
