"""Records the golden run, with weights at some steps, and a point of an LLC curve.

PYTHONPATH=tests/trajectory/golden python tests/trajectory/golden/record.py
"""

import json
import platform
import shutil
from pathlib import Path

import golden_run as golden

import llc_dynamics as ld

if __name__ == "__main__":
    here = Path(__file__).parent
    platform.platform = lambda: "golden"  # no need to tell the machine
    shutil.rmtree(here / "run", ignore_errors=True)
    model = golden.Golden()
    with ld.TrajectoryWriter(
        here / "run",
        model,
        golden.CONFIG,
        rows_per_shard=2,
        arrays=golden.ARRAYS,
        provenance=golden.PROVENANCE,
        description=golden.DESCRIPTION,
    ) as writer:
        for step in golden.STEPS:
            model.load_state_dict(golden.state(step))
            weights = step in golden.WEIGHT_STEPS
            writer.record(step, golden.metrics(step), golden.outputs(step), golden.samples(step), weights=weights)
        writer.seal(golden.RESUME)
        writer.finish()
    curve = golden.estimate(here / "run")
    expected = {"llc": float(curve.values[0]), "standard_error": float(curve.standard_errors[0])}
    (here / "llc.json").write_text(json.dumps(expected) + "\n")
    (here / "run" / "run.lock").unlink()  # it names the process and machine
