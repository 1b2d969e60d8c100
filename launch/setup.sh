#!/usr/bin/env bash
# Makes .venv and installs the package into it; does nothing if .venv is up to date.
#
#   bash launch/setup.sh             the package and its dependencies
#   bash launch/setup.sh test        and what the tests need (or another extra of setup.cfg: cuda, aot, espeak, ...)
#
# demo.sh and test.sh call this. PYTHON=/path/to/python picks the interpreter, WANSTREAMER_VENV another place for .venv.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${WANSTREAMER_VENV:-$root/.venv}"
extras="${1:-}"
log="$venv/install.log"

say() { printf '[setup] %s\n' "$*" >&2; }
die() { say "error: $1"; shift; for line in "$@"; do say "  $line"; done; exit 1; }

good_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.13 python3 python; do
    if good_python "$candidate"; then command -v "$candidate"; return; fi
    if [ -n "${PYTHON:-}" ]; then break; fi  # PYTHON names one interpreter: never take another silently
  done
  die "no Python 3.11 or newer was found${PYTHON:+ at PYTHON=$PYTHON}" \
    "Debian, Ubuntu: sudo apt-get install python3 python3-venv      macOS: brew install python@3.12" \
    "or set PYTHON=/path/to/python3.11 and run this again"
}

make_venv() {
  local python message
  python="$(find_python)"
  say "1/3 making $venv with $("$python" --version 2>&1) ($python)"
  if ! mkdir -p "$venv" 2>/dev/null || ! [ -w "$venv" ]; then
    die "cannot write to $venv" "copy the repository to a folder of yours, or set WANSTREAMER_VENV=/some/folder"
  fi
  if ! message="$("$python" -m venv --clear "$venv" 2>&1)"; then
    printf '%s\n' "$message" | tail -n 3 >&2
    die "Python could not create a virtual environment" \
      "Debian, Ubuntu: sudo apt-get install python3-venv; otherwise see the lines above (a full disk, a read-only folder?)"
  fi
}

# What is installed depends only on these.
fingerprint() {
  "$venv/bin/python" - "$root" <<'PY'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256(f"{root}|{sys.version}".encode())
for name in ("requirements.txt", "setup.cfg", "pyproject.toml"):
  digest.update((root / name).read_bytes())
print(digest.hexdigest())
PY
}

require_disk() {
  local free
  free="$(df -Pk "$venv" | awk 'NR == 2 { print int($4 / 1024) }')"
  if [ "$free" -lt 2500 ]; then die "only $free MB are free for $venv, about 2500 MB are needed" "free some space, or set WANSTREAMER_VENV"; fi
}

# Tells what pip is doing, from its log.
progress() {
  local packages
  packages="$(grep -E '^Installing collected packages' "$log" | tail -n 1 | tr ',' '\n' | wc -l || true)"
  if [ "$packages" -gt 1 ]; then echo "unpacking $packages packages"; return; fi
  grep -E '^ *(Collecting|Downloading|Using cached)' "$log" | tail -n 1 | cut -c 1-90 || true
}

# Runs pip into the log and says every ten seconds what it is doing.
pip_install() {
  local started=$SECONDS pid status=0
  "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" >"$log" 2>&1 &
  pid=$!
  trap 'kill "$pid" 2>/dev/null; say "interrupted; run the same command again to go on"; exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if [ $(((SECONDS - started) % 10)) -eq 0 ]; then
      say "    $((SECONDS - started)) s  $(progress)"
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM
  return "$status"
}

explain_failure() {
  grep -E '^ *(ERROR|error|OSError)' "$log" | tail -n 3 >&2 || tail -n 3 "$log" >&2
  if grep -qE 'No space left' "$log"; then die "the disk is full" "free about 2500 MB and run this again"; fi
  if grep -qE 'NewConnectionError|Temporary failure|Connection refused|from versions: none|Read timed out|ConnectTimeout|Failed to resolve|ProxyError|SSLError' "$log"; then
    die "a download failed" "check the network (or pip's proxy and index settings) and run this again; finished downloads are kept"
  fi
  die "the installation failed; see $log for details"
}

has_pip() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

if ! good_python "$venv/bin/python"; then make_venv; fi
if ! has_pip && ! { "$venv/bin/python" -m ensurepip >/dev/null 2>&1 && has_pip; }; then make_venv; fi

wanted="$(fingerprint)"
stamp="$venv/.wanstreamer${extras:+-$extras}"
for done in "$stamp"*; do  # without extras, any of them will do
  if [ "$(cat "$done" 2>/dev/null || true)" = "$wanted" ]; then exit 0; fi
done

require_disk
say "2/3 installing into $venv (the first time: some minutes and about 350 MB of downloads)"
pip_install --editable "$root${extras:+[$extras]}" || explain_failure
printf '%s\n' "$wanted" >"$stamp"
say "3/3 installed in ${SECONDS} s"
