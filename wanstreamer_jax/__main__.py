"""`python -m wanstreamer_jax` is the `wanstreamer` command."""

import sys

from wanstreamer_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main())
