#!/usr/bin/env bash
# Trains an agent from random weights: renders the world, trains both codecs, caches latents, trains the duplex model, exports.
#
#   bash launch/train.sh                   the size `tiny`, for a CPU: about two hours on two cores
#   bash launch/train.sh demo 4000         the size `demo` on 4000 sessions of 20 s: for a GPU (bash launch/setup.sh cuda)
#   bash launch/train.sh tiny 1300 --config.train.steps=1500       any field of the duplex stage's config
#
# Every step continues where it was stopped; what is finished is skipped. Results: runs/SIZE, the agent in runs/SIZE/agent.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
venv="${WANSTREAMER_VENV:-$root/.venv}"

size="${1:-tiny}"
sessions="${2:-1300}"
shift $(($# < 2 ? $# : 2))
case "$sessions" in
  *[!0-9]* | "") printf '[train] error: %s is no number of sessions: bash launch/train.sh SIZE SESSIONS [--config.FIELD=VALUE ...]\n' "$sessions" >&2; exit 2 ;;
esac
data="$root/data_cache/$size"
runs="$root/runs/$size"
config="configs/$size.py"

bash "$here/setup.sh"
cd "$root"
wanstreamer() { "$venv/bin/python" -m wanstreamer_jax "$@"; }

for split in train heldout; do
  count="$sessions"
  if [ "$split" = heldout ]; then count=32; fi
  [ -e "$data/$split/manifest.json" ] ||
    wanstreamer data make --config "$config" --out "$data/$split" --split "$split" --sessions "$count" --workers "$(nproc)"
done

for codec in audio_codec video_codec; do
  [ -e "$runs/$codec/weights/config.json" ] ||
    wanstreamer train --config="configs/$codec.py:$size" --config.data.path="$data/train" \
      --config.data.heldout="$data/heldout" --config.train.run="$runs/$codec"
done

for split in train heldout; do
  [ -e "$data/$split-latents/manifest.json" ] ||
    wanstreamer data encode "$data/$split" --config "$config" --out "$data/$split-latents" \
      --audio-codec "$runs/audio_codec" --video-codec "$runs/video_codec"
done

duplex="$runs/duplex"
for argument in "$@"; do
  case "$argument" in --config.train.run=*) duplex="${argument#*=}" ;; esac
done
wanstreamer train --config="$config" --config.data.path="$data/train-latents" \
  --config.data.heldout="$data/heldout-latents" --config.train.run="$duplex" \
  --config.train.codecs="$runs/audio_codec,$runs/video_codec" "$@"

# The default persona and portrait of the agent, taken from the world, with a clip to try it on.
[ -e "$runs/persona/conversation.mp4" ] || wanstreamer data preview --config "$config" --seed 1 --out "$runs/persona"
wanstreamer export --streamer "$duplex" --audio-codec "$runs/audio_codec" --video-codec "$runs/video_codec" \
  --world "$runs/persona/world.json" --out "$runs/agent"
