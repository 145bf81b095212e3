"""Points of an LLC curve with made-up results, stored as `llc_curve` stores them."""

from pathlib import Path

import numpy as np

from llc_dynamics.finding import Finding
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.storage import Identity, curve_folder, point_file, write_point


def store_point(run, step, value, error, *, reasons=(), name="llc", **more) -> None:
    """more : fields of the result, such as `dimension` and `settings`."""
    trace = np.full((2, 5), value)
    result = LLCResult(
        llc=value,
        standard_error=error,
        r_hat=1.0,
        r_hat_distance=1.0,
        ess=200.0,
        ess_mean=200.0,
        virial=1.0,
        virial_error=0.01,
        virial_by_block={"weight": 1.0},
        virial_by_block_error={"weight": 0.01},
        failed_chains=(),
        trace=trace,
        distance_trace=trace,
        virial_trace=trace,
        num_samples=1000,
        nbeta=144.8,
        initial_loss=1.0,
        initial_loss_error=0.1,
        reasons=tuple(Finding("made_up", reason) for reason in reasons),
        **more,
    )
    identity = Identity({"num_chains": 2}, f"w{step}", np.zeros((2, 3)))
    write_point(point_file(curve_folder(Path(run.path), name), int(step)), int(step), result, identity)


def store_llc(run, values, errors, reasons, name="llc"):
    """Points of an LLC curve, as `llc_curve` stores them; NaN values have no estimate."""
    steps = run.steps[np.linspace(0, len(run.steps) - 1, len(values)).round().astype(int)]
    settings = {"sampler": {"name": "SGLD", "localization": 1000.0}, "num_chains": 2}
    for step, value, error, why in zip(steps, values, errors, reasons, strict=True):
        store_point(run, step, value, error, reasons=why, name=name, dimension=3, settings=settings)
    return steps
