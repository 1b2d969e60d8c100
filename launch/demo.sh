#!/usr/bin/env bash
# Sets up and lets the shipped agent answer a clip; videos, captions, log and timeline are written to out/.
#
#   bash launch/demo.sh                    the clip of this repository
#   bash launch/demo.sh my-clip.mp4        yours: any video or audio file
#   bash launch/demo.sh my-clip.mp4 --text "1.5:hello" --seed 3      any arguments of `wanstreamer stream`
#
# No accelerator needed. Nothing leaves this machine.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
venv="${WANSTREAMER_VENV:-$root/.venv}"
out="$root/out"

clip="$here/clip.mp4"
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then clip="$1"; shift; fi

bash "$here/setup.sh"
"$venv/bin/python" -m wanstreamer_jax stream "$clip" --out "$out" "$@"

cat <<END

Look at   $out/conversation.mp4   both sides beside each other, with captions
          $out/agent.mp4          the agent alone
          $out/timeline.png       waveforms, captions, states and unit times on one clock
Try your own clip:   bash launch/demo.sh my-clip.mp4
More:                $venv/bin/wanstreamer stream --help
END
