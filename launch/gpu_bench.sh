#!/usr/bin/env bash
# Measures everything that needs one large GPU (H100, H200): training speed and latency at the published sizes.
#
#   bash launch/gpu_bench.sh                      all parts, into out/gpu_bench
#   bash launch/gpu_bench.sh --dry-run            prints what it would run
#   bash launch/gpu_bench.sh --budget 540         starts no part that could end later than 540 s from now
#   bash launch/gpu_bench.sh --only train         parts whose name begins so
#   bash launch/gpu_bench.sh --small              the same commands at nano size, on any machine: does everything run?
#
# Every part has a time limit and leaves OUT/NAME.json (the result) and OUT/NAME.log. Parts that are done are not run
# again, so an interrupted or budgeted run goes on where it was. PYTHON picks an interpreter in which the package and
# its extras cuda and oracles are installed; without it launch/setup.sh installs them. ATTENTION is the training pass's
# (model.attention; default cudnn), BATCH the rows of a training step (default: by the GPU's memory).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
out=out/gpu_bench dry=false small=false budget=0 only=""
say() { printf '[gpu_bench] %s\n' "$*" >&2; }
die() { say "error: $1"; exit 2; }

while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=true ;;
    --small) small=true ;;
    --out | --budget | --only)
      if [ $# -lt 2 ]; then die "$1 needs a value"; fi
      declare "${1#--}=$2"
      shift ;;
    *) die "unknown option $1; see the head of this file" ;;
  esac
  shift
done
if ! [[ "$budget" =~ ^[0-9]+$ ]]; then die "--budget is '$budget': expected whole seconds"; fi

python="${PYTHON:-}"
if [ -z "$python" ]; then
  python="${WANSTREAMER_VENV:-$root/.venv}/bin/python"
  if ! $dry; then bash "$here/setup.sh" "$($small && echo oracles || echo cuda,oracles)"; fi
fi
cd "$root"

memory_gib() { nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | awk 'NR == 1 { print int($1 / 1024) }'; }

attention="${ATTENTION:-cudnn}"
if $small; then
  batch="${BATCH:-2}" out="$out/small"
  low=configs/nano.py high=configs/nano.py
  training=(--units 4 --steps 8 --text-tokens 32) serving=(--seconds 4) timing=(--runs 50)
else
  memory="$(memory_gib || true)"
  batch="${BATCH:-$([ "${memory:-0}" -ge 120 ] && echo 4 || echo 2)}"
  low=configs/qwen2p5_1p5b.py:192x336 high=configs/qwen2p5_1p5b.py:640x368
  training=(--units 16 --steps 40 --text-tokens 4096 "--config.model.attention=$attention") serving=(--seconds 60) timing=(--runs 200)
fi
history=(--config.layout.window=none) # with it, bench step and serve hold 60 s and more
started=$SECONDS failed=() left=()

# part NAME LIMIT ARGUMENTS...: `wanstreamer bench ARGUMENTS --json` within LIMIT seconds.
part() {
  local name="$1" limit="$2" status=0
  shift 2
  if [[ "$name" != "$only"* ]]; then return; fi
  local command=(timeout --kill-after=10 "$limit" "$python" -m wanstreamer_jax bench "$@" --json)
  if $dry; then printf '%q ' "${command[@]}"; printf '> %s\n' "$out/$name.json"; return; fi
  if [ -s "$out/$name.json" ]; then say "$name: done before"; return; fi
  if [ "$budget" -gt 0 ] && [ $((SECONDS - started + limit)) -gt "$budget" ]; then left+=("$name"); return; fi
  say "$name: at most $limit s"
  mkdir -p "$out"
  "${command[@]}" >"$out/$name.json.tmp" 2>"$out/$name.log" || status=$?
  if [ "$status" -eq 0 ]; then
    mv "$out/$name.json.tmp" "$out/$name.json"
  else
    if [ "$status" -eq 124 ]; then echo "longer than $limit s" >>"$out/$name.log"; fi
    say "$name: failed ($(tail -n 1 "$out/$name.log"))"
    failed+=("$name")
  fi
}

# Issue 4: the training step.
part train_text_and_two_copies 500 train --config "$low" --batch "$batch" --text-only "${training[@]}" --config.model.remat=none
part train_two_copies_remat 400 train --config "$low" --batch "$batch" "${training[@]}" --config.model.remat=full
part train_against_transformers 500 train --config "$low" --batch "$batch" --against transformers "${training[@]}" --config.model.remat=none
# Issue 3: a unit's time, phase by phase, beside its floor; 4 solver steps are the configs'.
part step_192x336_60s 300 step --config "$low" "${timing[@]}" "${history[@]}"
part step_192x336_60s_patch2 300 step --config "$low" "${timing[@]}" "${history[@]}" --config.layout.commit_patch=2
part step_640x368_20s_patch2 300 step --config "$high" "${timing[@]}" --config.layout.window=125 --config.layout.commit_patch=2
part step_640x368_60s_patch4 300 step --config "$high" "${timing[@]}" "${history[@]}" --config.layout.commit_patch=4
# Issue 3: signal-to-signal latency over real sockets, codecs included.
part serve_192x336_60s 400 serve --config "$low" --slots 1 --clients 1 "${serving[@]}" "${history[@]}"
part serve_192x336_60s_patch2_4sessions 400 serve --config "$low" --slots 4 --clients 4 "${serving[@]}" "${history[@]}" --config.layout.commit_patch=2
part serve_640x368_20s_patch2 400 serve --config "$high" --slots 1 --clients 1 "${serving[@]}" --config.layout.window=125 --config.layout.commit_patch=2

if [ ${#left[@]} -gt 0 ]; then say "no time left for: ${left[*]}; the same command goes on with them"; fi
if [ ${#failed[@]} -gt 0 ]; then die "failed: ${failed[*]}; see $out/NAME.log, and run the same command again"; fi
