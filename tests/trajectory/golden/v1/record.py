"""Records the golden run of schema version 1 into `run/` beside this file.

    PYTHONPATH=tests/golden python tests/golden/v1/record.py

It was run once, with the version of the package that wrote this schema. Running it again with a later one does not give
the same file: a golden run is kept, not regenerated.
"""

import json
import platform
from pathlib import Path

from golden_run import (
    ARRAYS,
    CONFIG,
    LLC_STEP,
    PROVENANCE,
    RESUME,
    STEPS,
    Golden,
    estimate,
    metrics,
    outputs,
    samples,
    state,
)

import llc_dynamics as ld


def record(path):
    model = Golden()
    with ld.TrajectoryWriter(path, model, CONFIG, rows_per_shard=2, arrays=ARRAYS, provenance=PROVENANCE) as writer:
        for step in STEPS:
            model.load_state_dict(state(step))
            writer.record(step, metrics(step), outputs(step), samples(step))
        writer.seal(RESUME)
        writer.finish()
    (path / "run.lock").unlink()  # it names the process and machine


if __name__ == "__main__":
    here = Path(__file__).parent
    platform.platform = lambda: "golden"  # no need to tell the machine
    record(here / "run")
    curve = estimate(here / "run")
    expected = {"step": LLC_STEP, "llc": float(curve.values[0]), "standard_error": float(curve.standard_errors[0])}
    (here / "llc.json").write_text(json.dumps(expected) + "\n")
