"""Records the golden runs of schema version 2, with weights at some steps: plain, and compressed in `../v2-packed`.

    PYTHONPATH=tests/golden python tests/golden/v2/record.py

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

WEIGHT_STEPS = [0, 5, 10]


def record(path, storage, rows_per_shard):
    model = Golden()
    with ld.TrajectoryWriter(
        path, model, CONFIG, rows_per_shard=rows_per_shard, arrays=ARRAYS, provenance=PROVENANCE, storage=storage
    ) as writer:
        for step in STEPS:
            model.load_state_dict(state(step))
            writer.record(step, metrics(step), outputs(step), samples(step), weights=step in WEIGHT_STEPS)
        writer.seal(RESUME)
        writer.finish()
    (path / "run.lock").unlink()  # it names the process and machine


if __name__ == "__main__":
    here = Path(__file__).parent
    platform.platform = lambda: "golden"  # no need to tell the machine
    packed = {"dtype": "bfloat16", "delta": True, "compression": "zstd"}
    for folder, storage, rows in ((here, {}, 2), (here.parent / "v2-packed", packed, 4)):
        record(folder / "run", storage, rows)
        facts = {"weight_steps": WEIGHT_STEPS, "storage": storage}
        (folder / "facts.json").write_text(json.dumps(facts) + "\n")
    curve = estimate(here / "run")
    expected = {"step": LLC_STEP, "llc": float(curve.values[0]), "standard_error": float(curve.standard_errors[0])}
    (here / "llc.json").write_text(json.dumps(expected) + "\n")
