"""The command line: `llc-dynamics VERB ...`. Verbs only; what they do is in the rest of the package."""

from llc_dynamics.cli.main import main

__all__ = ["main"]
