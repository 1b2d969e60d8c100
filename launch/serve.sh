#!/usr/bin/env bash
# Sets up and lets people talk with the agent in a browser: prints the address to open.
#
#   bash launch/serve.sh                                   the shipped weights, this machine only
#   bash launch/serve.sh --checkpoint runs/demo/agent --slots 4      any arguments of `wanstreamer serve`
#
# Browsers give camera and microphone to localhost or https only. Ctrl-C ends it.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="${WANSTREAMER_VENV:-$(dirname "$here")/.venv}"

bash "$here/setup.sh"
exec "$venv/bin/python" -m wanstreamer_jax serve "$@"
