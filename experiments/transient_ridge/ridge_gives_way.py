"""Does lambda_hat rise when ridge gives way, in the demo's M = 12, and more than in its control at M = infinity?

    llc-dynamics demo --out runs/demo
    python experiments/transient_ridge/ridge_gives_way.py runs/demo

All points of both runs have the same batches, noise and starts, so that changes are far more exact than values, and the
change of the run and that of the control over the same steps are paired as well. With the weights as they are, and in
units of each tensor's size. Points are stored in the runs as curves `plain` and `relative`; a second call reads them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

import llc_dynamics as ld
from llc_dynamics.llc import EstimateSettings
from llc_dynamics.llc.pairing import paired_covariance
from llc_dynamics.training import load_config

START, STEPS = 1000, {"M-12": (1000, 2000, 4000, 6000), "M-inf": (1000, 2000, 4000)}
_USUAL = {"num_chains": 2, "num_draws": 96, "steps_per_draw": 4, "batch_size": 32, "num_samples": 1000}
SETTINGS = {
    "relative": EstimateSettings(ld.SGLD(7e-4, localization=100.0), num_burnin=16, metric="relative", **_USUAL),
    "plain": EstimateSettings(ld.SGLD(1e-4, localization=1000.0), num_burnin=8, **_USUAL),
}


def curve_of(folder: Path, name: str) -> ld.LLCCurve:
    run = ld.Trajectory(folder)
    config = load_config(run)
    model, loss = config.system.build(config.seed), ld.behavioural(config.system.outputs)
    return ld.llc_curve(
        run, model, loss, config.system.sample, steps=STEPS[folder.name], name=name, settings=SETTINGS[name],
        data_id="system",
    )  # fmt: skip


def beyond_control(run: ld.LLCCurve, control: ld.LLCCurve, stop: int) -> tuple[float, float, float]:
    """Change of the run from `START` to `stop` less that of the control; its error, paired and without pairs."""
    ends = [(run, stop, 1), (run, START, -1), (control, stop, -1), (control, START, 1)]
    results = [curve.results[curve.place_of(step)] for curve, step, _ in ends]
    sign = np.array([sign for *_, sign in ends], dtype=np.float64)
    covariance = paired_covariance(results)
    assert covariance is not None
    apart = math.hypot(*(result.standard_error for result in results))
    return float(sign @ [result.llc for result in results]), math.sqrt(max(sign @ covariance @ sign, 0.0)), apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the demo's runs")
    folder = parser.parse_args().folder
    for name in SETTINGS:
        run, control = (curve_of(folder / run, name) for run in STEPS)
        for curve, label in ((run, "M = 12"), (control, "control")):
            for result in curve.results:
                print(f"{name} {label} {result}")
            for step in map(int, curve.steps[1:]):
                change = curve.difference(START, step)
                apart = math.hypot(*(curve.standard_errors[curve.place_of(each)] for each in (START, step)))
                print(f"{name} {label} {START} to {step}: {change.value:+.2f} +- {change.standard_error:.2f}", end="")
                print(f" (+- {apart:.2f} if independent)")
        for step in map(int, control.steps[1:]):
            value, error, apart = beyond_control(run, control, step)
            print(f"{name} M = 12 less control to {step}: {value:+.2f} +- {error:.2f} (+- {apart:.2f} if independent)")


if __name__ == "__main__":
    main()
