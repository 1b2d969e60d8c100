#!/usr/bin/env bash
# Measures the live service at the sizes that an accelerator is for: one line of JSON a case in out/measure.jsonl.
#
#   bash launch/measure.sh                                  qwen2p5_1p5b on the accelerator that is there: half an hour
#   bash launch/measure.sh configs/nano.py --seconds 6      a rehearsal anywhere; arguments of `wanstreamer bench serve`
#
# Random weights in bfloat16 (on a CPU in float32), codecs included, sound and pictures over real sockets, four solver
# steps. A cache costs the same from its first unit on, so nobody has to wait until a history is full.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${WANSTREAMER_VENV:-$(dirname "$here")/.venv}/bin/python"
config="configs/qwen2p5_1p5b.py"
if [[ "${1:-}" == configs/* ]]; then config="$1"; shift; fi
large="$config"
if [[ "$config" == configs/qwen* ]]; then large="$config:640x368"; fi

cd "$here/.."
mkdir -p out
measure() {  # name, config, slots, fields of the config ...
  local name="$1" file="$2" slots="$3"
  shift 3
  echo "$name" >&2
  "$python" -m wanstreamer_jax bench serve --config "$file" --slots "$slots" --visitors "$slots" --seconds 70 --json \
    "${@/#/--config.}" "${arguments[@]}" | "$python" -c "
import json, sys
found = json.load(sys.stdin)
print(json.dumps({'case': '$name', **found}))
print('$name:', *(f'{p} {found[\"latency_ms\"][p]:.0f} ms' for p in ('p50', 'p95', 'p99')), f'(floor',
      f'{sum(found[\"floor_ms\"][p] for p in (\"encode\", \"think\", \"perform\", \"decode\")):.0f} ms),',
      f'{100 * found[\"late\"]:.1f} % late,', 'held', found['held'], 'of', found['visitors'], file=sys.stderr)
" >> out/measure.jsonl
}

arguments=("$@")
: > out/measure.jsonl
measure "60 s of history" "$config" 1 layout.window=375
measure "60 s of history, commit_patch 2" "$config" 1 layout.window=375 layout.commit_patch=2
measure "60 s of history, commit_patch 2, 4 sessions" "$config" 4 layout.window=375 layout.commit_patch=2
measure "640x368, 20 s of history, commit_patch 2" "$large" 1 layout.window=125 layout.commit_patch=2
measure "640x368, 60 s of history, commit_patch 4" "$large" 1 layout.window=375 layout.commit_patch=4
echo "out/measure.jsonl" >&2
