"""Entry point: reads the arguments, calls the verb, turns errors that users can mend into one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from llc_dynamics.cli import runs, verbs, watch
from llc_dynamics.errors import LLCDynamicsError

_DESCRIPTION = (
    "How a neural network developed during training: record, estimate the LLC over the run, compare, detect, report. "
    "Every verb can be stopped and started again without losing or repeating finished work."
)
VERBS: dict[str, Callable[..., Any]] = {
    "demo": verbs.demo,
    "train": verbs.train,
    "calibrate": verbs.calibrate,
    "llc": verbs.llc,
    "pca": verbs.pca,
    "stages": verbs.stages,
    "report": verbs.report,
    "verify": verbs.verify,
    "bench": verbs.bench,
    **runs.VERBS,
    "watch": watch.watch,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status is 0, 1 for an error with advice, 130 when interrupted."""
    import tyro

    try:
        status: int | None = tyro.extras.subcommand_cli_from_dict(
            VERBS, prog="llc-dynamics", description=_DESCRIPTION, args=arguments
        )
    except LLCDynamicsError as error:
        print(f"llc-dynamics: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llc-dynamics: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return int(status or 0)
