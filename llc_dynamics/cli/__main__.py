"""`python -m llc_dynamics.cli`, the same as `llc-dynamics`."""

import sys

from llc_dynamics.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
