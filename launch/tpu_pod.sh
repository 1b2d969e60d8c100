#!/usr/bin/env bash
# Trains on a Cloud TPU pod, one slice or several: requests it (a queued resource), sets it up, runs, follows, deletes.
#
#   export ZONE=us-east5-b ACCELERATOR=v6e-256
#   bash launch/tpu_pod.sh up     wan1 --config=configs/pods.py:qwen2p5_1p5b,v6e:16x16 \
#     --config.train.run=gs://BUCKET/wan1 --config.data.path=../wanstreamer-data     create, wait, setup, run: all of it
#   bash launch/tpu_pod.sh status wan1              the state of the pod, and of the training on every host
#   bash launch/tpu_pod.sh follow wan1              the log of process 0
#   bash launch/tpu_pod.sh stop   wan1              saves and stops; `run` continues
#   bash launch/tpu_pod.sh resume wan1 --config=... after a preemption: requests the pod again if it is gone, then does as `up`
#   bash launch/tpu_pod.sh delete wan1              gives the pod back (what is in the bucket stays)
#   bash launch/tpu_pod.sh --dry-run up wan1 ...    prints the commands and runs nothing
#
# The steps of `up` can be called one by one: create, wait, setup, run. Every command may be repeated.
# Arguments of `wanstreamer train` follow NAME; docs/training.md says which config is for which pod. Settings come from
# the environment:
#   ZONE, ACCELERATOR    place and kind of the pod: v5litepod-256, v5p-512, v6e-256 (tpu7x is only in GKE: launch/gke)
#   RUNTIME              the software of the TPU hosts (default: by ACCELERATOR)
#   SLICES=1 SPOT=0      how many slices; 1 for spot capacity, which is cheaper and can be taken away
#   DATA                 gs://BUCKET/latents: copied to wanstreamer-data in the home of every host by `setup`
#   RESTARTS=20          how often a host restarts its process after a failure
# gcloud must be logged in and know the project. The committed files of this repository are sent to the hosts.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
slices="${SLICES:-1}" spot="${SPOT:-0}" restarts="${RESTARTS:-20}"
unit=wanstreamer-train # in the home of every host: .pid and .log
poll=30

say() { printf '[tpu_pod] %s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }
usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

dry_run=false
if [ "${1:-}" = --dry-run ]; then dry_run=true; shift; fi
command="${1:-help}" name="${2:-}"
case "$command" in help | -h | --help) usage; exit 0 ;; esac
[ -n "$name" ] || die "which pod? bash launch/tpu_pod.sh $command NAME"
shift 2
[ -n "${ZONE:-}" ] || die "ZONE is not set, as in: export ZONE=us-east5-b"
case "$ZONE$name$slices$restarts" in *[!a-z0-9-]*) die "ZONE, NAME, SLICES and RESTARTS may contain only a-z, 0-9 and -" ;; esac

# Runs a command, or prints it as it could be typed.
run() {
  if $dry_run; then printf '%q ' "$@"; echo; else "$@"; fi
}
queued() { run gcloud compute tpus queued-resources "$1" "$name" --zone="$ZONE" "${@:2}"; }

nodes() {
  if [ "$slices" = 1 ]; then echo "$name"; return; fi
  local slice
  for ((slice = 0; slice < slices; slice++)); do echo "$name-$slice"; done
}
on_hosts() { # NODE WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$1" --zone="$ZONE" --worker="$2" --command="$3"
}

runtime() {
  case "${ACCELERATOR:-}" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) die "ACCELERATOR is '${ACCELERATOR:-}': expected v5litepod-N, v5p-N or v6e-N (or set RUNTIME too)" ;;
  esac
}

# Prints the state of the queued resource, or nothing if there is none or in a dry run.
state() {
  if $dry_run; then return; fi
  local found
  if found="$(queued describe --format='value(state.state)' 2>&1)"; then echo "$found"; return; fi
  case "$found" in *NOT_FOUND* | *"not found"*) ;; *) die "gcloud: $(tail -n 1 <<<"$found")" ;; esac
}

create() {
  local now software shape
  now="$(state)"
  case "$now" in
    "") ;;
    FAILED | SUSPENDED) say "$name is $now: asking again"; delete ;;
    *) say "$name is there already: $now"; return ;;
  esac
  software="${RUNTIME:-$(runtime)}"
  shape=(--node-id="$name")
  if [ "$slices" != 1 ]; then shape=(--node-count="$slices" --node-prefix="$name"); fi
  if [ "$spot" = 1 ]; then shape+=(--spot); fi
  queued create --accelerator-type="${ACCELERATOR:?}" --runtime-version="$software" "${shape[@]}"
}

await() {
  if $dry_run; then queued describe "--format=value(state.state)"; return; fi
  local now before=""
  while true; do
    now="$(state)"
    if [ "$now" != "$before" ]; then say "$name: ${now:-does not exist}"; fi
    case "$now" in
      ACTIVE) return ;;
      "" | FAILED | SUSPENDED | DELETING) die "$name will not be created (state: ${now:-none}); see: bash launch/tpu_pod.sh status $name" ;;
    esac
    before="$now"
    sleep "$poll"
  done
}

# Copies the committed files and installs what TPUs need; skips what is done already.
setup() {
  local node revision archive
  revision="$(git -C "$root" rev-parse HEAD)"
  if ! git -C "$root" diff --quiet HEAD; then say "warning: changes that are not committed are not sent"; fi
  archive="${TMPDIR:-/tmp}/wanstreamer-$revision.tar.gz"
  run git -C "$root" archive --format=tar.gz --output="$archive" "$revision"
  for node in $(nodes); do
    run gcloud compute tpus tpu-vm scp "$archive" "$node:wanstreamer.tar.gz" --zone="$ZONE" --worker=all
    on_hosts "$node" all "set -e; mkdir -p wanstreamer; tar -xzf wanstreamer.tar.gz -C wanstreamer; \
echo $revision >wanstreamer/REVISION; bash wanstreamer/launch/setup.sh tpu"
    if [ -n "${DATA:-}" ]; then
      on_hosts "$node" all "mkdir -p wanstreamer-data; gcloud storage rsync --recursive $(printf %q "$DATA") wanstreamer-data"
    fi
  done
}

# Starts the same command on every host, except where it already runs.
start() {
  local node arguments="" flags
  [ $# -gt 0 ] || die "what to train? bash launch/tpu_pod.sh $command $name --config=FILE ..."
  arguments="$(printf ' %q' "$@")"
  # shellcheck source=launch/tpu_flags.sh
  flags="$(. "$root/launch/tpu_flags.sh"; printf %q "$(tpu_flags "${ACCELERATOR:-}")")"
  for node in $(nodes); do
    on_hosts "$node" all "if kill -0 \$(cat $unit.pid 2>/dev/null) 2>/dev/null; then echo already running; exit; fi; \
export LIBTPU_INIT_ARGS=$flags WANSTREAMER_REVISION=\$(cat wanstreamer/REVISION); \
(cd wanstreamer; exec nohup .venv/bin/python -m wanstreamer_jax.parallel.launcher 1 --restarts $restarts -- \
.venv/bin/python -m wanstreamer_jax train$arguments) >>$unit.log 2>&1 </dev/null & echo \$! >$unit.pid; echo started"
  done
}

status() {
  local node
  queued describe || true
  for node in $(nodes); do
    on_hosts "$node" all "if kill -0 \$(cat $unit.pid 2>/dev/null) 2>/dev/null; then echo running; else echo not running; fi; \
tail -n 2 $unit.log 2>/dev/null" || true
  done
}

follow() { on_hosts "$(nodes | head -n 1)" 0 "tail -n 50 -F $unit.log"; }

# SIGTERM to the launchers: all hosts save at the same step and end.
halt() {
  local node
  for node in $(nodes); do
    on_hosts "$node" all "kill -TERM \$(cat $unit.pid 2>/dev/null) 2>/dev/null && echo stopping || echo not running"
  done
}

delete() {
  if ! $dry_run && [ -z "$(state)" ]; then say "there is no $name"; return; fi
  queued delete --force --quiet
}

case "$command" in
  up | resume) create; await; setup; start "$@" ;;
  create) create ;;
  wait) await ;;
  setup) setup ;;
  run) start "$@" ;;
  status) status ;;
  follow) follow ;;
  stop) halt ;;
  delete) delete ;;
  *) die "unknown command '$command'; bash launch/tpu_pod.sh help" ;;
esac
