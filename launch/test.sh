#!/usr/bin/env bash
# Sets up and checks everything: lint, format, types, tests. Under 15 minutes on two cores, the first time included.
#
#   bash launch/test.sh                          all of it
#   bash launch/test.sh tests/cli/test_cli.py -x     any arguments of pytest: only those tests (lint and types are skipped)
#   bash launch/test.sh --oracles                also fetches torch, transformers and diffusers, to compare with them
#   bash launch/test.sh -m slow                  the tests that take minutes
#   bash launch/test.sh --browser                a headless Chromium talks with the demo weights (installs Chromium)
#
# Without --oracles the comparisons with torch run if torch is installed or the package index serves its CPU build by
# default; otherwise pytest reports them as skipped.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
python="${WANSTREAMER_VENV:-$root/.venv}/bin/python"
torch=2.13.0
say() { printf '[test] %s\n' "$*" >&2; }

oracles=false browser=false
arguments=()
for argument in "$@"; do
  case "$argument" in
    --oracles) oracles=true ;;
    --browser) browser=true; arguments+=(-m browser tests/serve/test_browser.py tests/serve/test_page.py) ;;
    *) arguments+=("$argument") ;;
  esac
done

if $browser; then bash "$here/setup.sh" test browser; else bash "$here/setup.sh" test; fi

install_browser() {
  if command -v chromium chromium-browser google-chrome >/dev/null; then return; fi
  say "installing Chromium from the distribution"
  local sudo=()
  if [ "$(id -u)" != 0 ]; then sudo=(sudo); fi
  if ! { ${sudo[@]+"${sudo[@]}"} apt-get update -q && ${sudo[@]+"${sudo[@]}"} apt-get install -qy chromium; }; then
    say "error: Chromium could not be installed with apt-get; install it by hand and repeat"
    exit 1
  fi
}
if $browser; then install_browser; fi

install_oracles() {
  if "$python" -c 'import torch, transformers, diffusers' >/dev/null 2>&1; then return; fi
  local pip=("$python" -m pip install --quiet --disable-pip-version-check)
  say "looking for torch's CPU build (comparisons with independent implementations)"
  # Only a file of the last one is read, the ranks of Qwen's tokenizer, so that it comes without what it needs.
  "${pip[@]}" --no-deps dashscope >/dev/null 2>&1 || say "no dashscope in the package index: tests of Qwen's tokenizer will be skipped"
  if "${pip[@]}" "torch==$torch+cpu" "transformers>=5.2" "diffusers>=0.35" >/dev/null 2>&1; then return; fi
  if ! $oracles; then say "not in the package index: those tests will be skipped (bash launch/test.sh --oracles fetches it)"; return; fi
  local index=()
  if [ "$(uname -s)" = Linux ]; then index=(--index-url https://download.pytorch.org/whl/cpu); fi
  if ! { "${pip[@]}" ${index[@]+"${index[@]}"} "torch==$torch" && "${pip[@]}" "transformers>=5.2" "diffusers>=0.35"; }; then
    say "error: torch could not be installed; see the lines above"
    exit 1
  fi
}

cd "$root"
if [ ${#arguments[@]} -eq 0 ]; then
  say "1/4 ruff check";          "$python" -m ruff check .
  say "2/4 ruff format --check"; "$python" -m ruff format --check .
  say "3/4 mypy";                "$python" -m mypy wanstreamer_jax
  install_oracles
  say "4/4 pytest"
  arguments=(-n 2 --dist loadfile --durations=15)
elif $oracles; then
  install_oracles
fi
exec "$python" -m pytest -q ${arguments[@]+"${arguments[@]}"}
