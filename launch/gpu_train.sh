#!/usr/bin/env bash
# Trains an agent on one lent GPU within nine minutes: renders the world on all cores, encodes and trains beside it, exports.
#
#   bash launch/gpu_train.sh --minutes 8                  configs/demo.py:gpu, with the shipped codecs, from random weights
#   bash launch/gpu_train.sh --minutes 8 --init demo                   goes on from the shipped weights, or from a folder
#   bash launch/gpu_train.sh --codecs AUDIO,VIDEO --config FILE --config.data.batch=64     any codecs, config, field
#   bash launch/gpu_train.sh --config configs/audio_codec.py:demo,neural --render voices     a codec, into OUT/codec
#   bash launch/gpu_train.sh --small                                   nano sizes, 40 s of training, on any machine
#   bash launch/gpu_train.sh --minutes 12.4 --detach /tmp/run     where a call ends after ten minutes: starts on a copy there and
#       waits; the same command again waits for the end and puts the results into OUT. --wait S: how long at most (540)
#   bash launch/gpu_train.sh --pack .flite                             puts flite and its libraries into a folder, to carry
#
# --seed N is the first session that is rendered (default 0): give every run its own. Results, at most 16 MB a file: OUT/agent
# (bf16, or int8 where that is too large), OUT/metrics.jsonl and OUT/log. PYTHON picks the interpreter, OUT the
# folder. Needs a jax for that GPU, flax, optax, orbax-checkpoint, jaxtyping, tokenizers, safetensors, scipy, pillow and tqdm;
# nothing is installed where they are there. Voices of flite need the program, or WANSTREAMER_FLITE=DIR (--pack).
#
# With the device tool, from a checkout in which .flite was packed (and is ignored by git):
#
#   run(command='WANSTREAMER_FLITE=.flite bash launch/gpu_train.sh --minutes 8 --seed 1000000', carry=['.flite'],
#       timeout_s=590)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
say() { printf '[gpu_train] %s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }

pack() {  # the program, its libraries and their loader, so that it runs where other versions of them are
  local program folder="$1"
  program="$(command -v flite)" || die "flite is not installed: apt-get install flite"
  mkdir -p "$folder"
  cp -L "$program" "$folder/flite"
  ldd "$program" | grep -o '/[^ ]*' | xargs -I{} cp -L {} "$folder/"
  say "$folder: $(du -sm "$folder" | cut -f1) MB"
}

detached() {  # DIR SECONDS ARGUMENTS: starts the rest in DIR, or takes it up, and waits
  local folder seconds="$2" until
  folder="$(realpath -m "$1")"
  shift 2
  if [ ! -e "$folder/started" ]; then
    [ -z "$(ls -A "$folder" 2>/dev/null)" ] || die "$folder is not empty: name a folder that is not there yet"
    mkdir -p "$folder/tmp" "$folder/out"
    cp -r "$root" "$folder/repository"
    echo "$*" >"$folder/started"
    case "${WANSTREAMER_FLITE:-}" in "" | /*) ;; *) export WANSTREAMER_FLITE="$folder/repository/$WANSTREAMER_FLITE" ;; esac
    # shellcheck disable=SC2016
    OUT="$folder/out" TMPDIR="$folder/tmp" setsid nohup bash -c '"$@"; echo "$?" >"$0/ended"' "$folder" \
      bash "$folder/repository/launch/gpu_train.sh" "$@" >"$folder/console" 2>&1 </dev/null &
  fi
  [ "$(cat "$folder/started")" = "$*" ] || die "$folder has a run with other options: $(cat "$folder/started")"
  until=$((SECONDS + seconds))
  while [ ! -e "$folder/ended" ] && [ "$SECONDS" -lt "$until" ]; do sleep 1; done
  tail -c 2000 "$folder/console" | tr '\r' '\n' | tail -n 8
  if [ ! -e "$folder/ended" ]; then
    say "it goes on in $folder; the same command again waits for its end"
    return 0
  fi
  mkdir -p "${OUT:-$root/out/gpu_train}"
  cp -r "$folder/out/." "${OUT:-$root/out/gpu_train}"
  return "$(cat "$folder/ended")"
}

minutes=8 spare=20 seed=0 render=world config=configs/demo.py:gpu codecs=wanstreamer_jax/weights/demo init="" small="" rest=()
detach="" wait=540 given=()
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --small) small=yes; given+=("$1"); shift; continue ;;
    --config.*) rest+=("$1"); given+=("$1"); shift; continue ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    --minutes | --seed | --render | --config | --codecs | --init | --pack | --detach | --wait) [ $# -gt 1 ] || die "$1 needs a value" ;;
    *) die "$1: unknown; see bash launch/gpu_train.sh --help" ;;
  esac
  case "$1" in
    --minutes) minutes="$2" ;;
    --seed) seed="$2" ;;
    --render) render="$2" ;;
    --config) config="$2" ;;
    --codecs) codecs="$2" ;;
    --init) init="$2" ;;
    --pack) pack "$2"; exit 0 ;;
    --detach) detach="$2" ;;
    --wait) wait="$2" ;;
  esac
  case "$1" in --detach | --wait) ;; *) given+=("$1" "$2") ;; esac
  shift 2
done
case "$minutes" in *[!0-9.]* | "") die "--minutes is $minutes: expected a number" ;; esac
case "$wait" in *[!0-9]* | "") die "--wait is $wait: expected a number of seconds" ;; esac
if [ -n "$detach" ]; then
  detached "$detach" "$wait" ${given[@]+"${given[@]}"}
  exit
fi

cd "$root"
out="${OUT:-$root/out/gpu_train}"
python="${PYTHON:-python3}"
needs='import jax, flax, optax, orbax.checkpoint, jaxtyping, tokenizers, safetensors, scipy, PIL, tqdm'
if ! "$python" -c "$needs" >/dev/null 2>&1; then
  say "$python lacks jax or another package; setting up an environment"
  bash "$here/setup.sh" cuda
  python="${WANSTREAMER_VENV:-$root/.venv}/bin/python"
fi
mkdir -p "$out"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Most of the memory, and products by cuBLAS: choosing kernels of Triton's would take a minute of the lent ones.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-.9}"
export XLA_FLAGS="--xla_gpu_enable_triton_gemm=false${XLA_FLAGS:+ $XLA_FLAGS}"

random_codecs() {  # of nano, for --small: nothing shipped has its sizes
  "$python" - "$1" <<'PY'
import sys
import jax, numpy
from wanstreamer_jax.config_files import load_config
from wanstreamer_jax.weights.agent import abstract_agent, export_agent

rng = numpy.random.default_rng(0)  # initialising and compiling would take longer than the training
fill = lambda path, x: (rng.uniform(-0.1, 0.1, x.shape) + ("std" in jax.tree_util.keystr(path))).astype(x.dtype)
agent = abstract_agent(load_config("configs/nano.py"))
export_agent(jax.tree_util.tree_map_with_path(fill, agent), sys.argv[1], "f32")
PY
}

train() {
  local options=(--config="$config" --config.data.session_units=375)
  case "$config" in *codec*) spare=90 ;; esac  # a codec is measured and written after the end of its training
  if [ -n "$small" ]; then
    minutes=0.67 spare=600
    options=(--config=configs/nano.py --config.data.session_units=40 --config.data.batch=2 --config.train.mesh=data=1)
    random_codecs "$work/codecs"
    codecs="$work/codecs"
  fi
  if [ -z "${WANSTREAMER_FLITE:-}" ] && ! command -v flite >/dev/null; then
    say "no flite here (see --pack): formant voices alone"
    options+=(--config.data.voices=formant --config.data.agent_voices=)
  fi
  [ -z "${WANSTREAMER_FLITE:-}" ] || chmod +x "$WANSTREAMER_FLITE"/flite "$WANSTREAMER_FLITE"/ld-*
  [ -z "$init" ] || options+=("--config.train.init=$init")
  if [ -z "$small" ]; then  # until that many minutes after the start of this script; importing is not on the clock
    minutes="$(awk "BEGIN { print (60 * $minutes - $SECONDS - 10) / 60 }")"
  fi
  # A second limit, in case the clock of the run is not heard: SIGTERM saves and stops.
  timeout --signal=TERM --kill-after=20 "$(awk "BEGIN { print int(60 * $minutes) + $spare }")" \
    "$python" -m wanstreamer_jax train "${options[@]}" --config.data.path="$render://$seed" --config.train.codecs="$codecs" \
    --config.train.run="$work/run" --minutes "$minutes" ${rest[@]+"${rest[@]}"}
}

export_codec() {  # of a run of stage 0, which has standardised it at its end
  mkdir -p "$out/codec"
  cp "$work/run/weights/"* "$out/codec/"
}

export_agent() {
  local dtype size audio="${codecs%%,*}" video="${codecs##*,}" file
  for dtype in bf16 int8; do
    rm -rf "$out/agent"
    timeout --kill-after=5 60 "$python" -m wanstreamer_jax export --streamer "$work/run" --audio-codec "$audio" \
      --video-codec "$video" --dtype "$dtype" --compute float32 --out "$out/agent" || return
    for file in world.json portrait.png voice.wav; do  # the persona, if the codecs come from an agent
      if [ -e "$video/$file" ]; then cp "$video/$file" "$out/agent/"; fi
    done
    size="$(stat -c %s "$out/agent/weights.safetensors")"
    if [ "$size" -le 16000000 ]; then return; fi
    say "$size bytes of weights in $dtype are more than comes back"
  done
}

thin_metrics() {  # the lines that have the speed, evaluations too: as many as were printed
  [ -e "$work/run/metrics.jsonl" ] || return 0
  if [ "$(stat -c %s "$work/run/metrics.jsonl")" -gt 12000000 ]; then
    grep -E '"units_per_s"|"eval/|"started"' "$work/run/metrics.jsonl" >"$out/metrics.jsonl"
  else
    cp "$work/run/metrics.jsonl" "$out/metrics.jsonl"
  fi
}

main() {
  local status=0
  train || status=$?
  say "training ended with status $status after $SECONDS s"
  thin_metrics
  if [ -d "$work/run/weights" ]; then export_codec; else export_agent || status=$?; fi
  say "done after $SECONDS s: $(du -sm "$out" | cut -f1) MB in $out"
  return "$status"
}

main 2>&1 | tee "$out/log"
