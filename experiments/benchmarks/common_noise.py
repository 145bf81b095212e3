"""Common random numbers along a curve: what differences gain, whether their intervals hold, and what anchors would add.

    llc-dynamics train transient_ridge/demo --out RUNS
    python experiments/benchmarks/common_noise.py curves RUNS/M-12 --seeds 0 1 2 3     # stored in the run: take a copy
    python experiments/benchmarks/common_noise.py curves RUNS/M-12 --seeds 0 1 2 3 --steps 6000 --longer 10
    python experiments/benchmarks/common_noise.py spread RUNS/M-12
    python experiments/benchmarks/common_noise.py anchors RUNS/M-12

`curves` estimates the LLC at some checkpoints once for each seed, with the seed in the name of the curve; a call that
was stopped goes on. `spread` compares the spread over seeds of values and of differences, with the same seed at both
steps and with different ones, with the stated errors, and counts how often 95% intervals of a difference hold its mean
over all seeds. `anchors` takes a checkpoint with ten times the draws, less its own first part, as a control variate for
the values at the others, and says what the best anchors could gain on every longer curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from common import command_line, markdown_head, markdown_row

import llc_dynamics as ld
from llc_dynamics.llc import EstimateSettings
from llc_dynamics.training import load_config
from llc_dynamics.trajectory.names import stored_points

PAIRS = ((5900, 6000), (1000, 1100), (3800, 5400), (1000, 6000))
STEPS = sorted({step for pair in PAIRS for step in pair})
ANCHOR, BY_ANCHOR, LONGER = 6000, (5900, 5400, 3800, 1000), 10
KERNELS = {
    "sgld": EstimateSettings(
        sampler=ld.SGLD(5e-5, localization=1000.0), num_chains=2, num_draws=80, num_burnin=60, steps_per_draw=4,
        batch_size=32, num_samples=1000,
    ),
    "malt": EstimateSettings(
        sampler=ld.MALT(localization=1000.0, num_steps=4, updates_per_batch=24), num_chains=2, num_draws=70,
        num_burnin=24, batch_size=32, num_samples=1000,
    ),
}  # fmt: skip
COLUMNS = (
    "steps", "seeds", "spread of each", "stated", "of the difference, own noise", "common noise", "stated",
    "correlation", "intervals that hold", "those of the covariance",
)  # fmt: skip


def estimate_curve(run: ld.Trajectory, kernel: str, seed: int, steps: Sequence[int], longer: int) -> ld.LLCCurve:
    """One curve, stored under the name of its kernel, length and seed."""
    config, settings = load_config(run), KERNELS[kernel]
    system = config.system
    settings = replace(settings, num_draws=longer * settings.num_draws, seed=seed)
    return ld.llc_curve(
        run, system.build(config.seed), ld.behavioural(system.outputs), system.sample, steps=steps, data_id="system",
        name=f"common-{kernel}-{longer}-{seed}", settings=settings, progress=False,
    )  # fmt: skip


def stored_curves(run: ld.Trajectory, kernel: str, steps: Iterable[int], longer: int = 1) -> dict[str, ld.LLCCurve]:
    """{seed: curve} of those that have all of `steps`."""
    found = {}
    for folder in sorted((run.path / "llc").glob(f"common-{kernel}-{longer}-*")):
        if set(steps) <= set(stored_points(folder)):
            found[folder.name.rsplit("-", 1)[1]] = ld.LLCCurve.load(run, folder.name, steps)
    return found


def spread_row(curves: Sequence[ld.LLCCurve], first: int, second: int) -> list[object]:
    """See COLUMNS."""
    places = [curves[0].place_of(step) for step in (first, second)]
    values = np.array([curve.values[places] for curve in curves])
    errors = _root_mean_square([curve.standard_errors[places] for curve in curves if curve.standard_errors is not None])
    changes = [curve.difference(first, second) for curve in curves]
    plain = [ld.Curve.difference(curve, first, second) for curve in curves]
    mean = float(np.mean([change.value for change in changes]))
    # the mean holds a share 1/n of each value, and looks nearer to it than what it stands for
    nearer = math.sqrt(1 - 1 / len(curves))
    held = [
        np.mean([abs(each.value - mean) / nearer <= each.interval()[1] - each.value for each in both])
        for both in (changes, plain)
    ]
    return [
        f"{first:,} and {second:,}",
        len(curves),
        *(", ".join(f"{value:.2f}" for value in each) for each in (values.std(0, ddof=1), errors)),
        math.sqrt(values.var(0, ddof=1).sum()),
        float((values[:, 1] - values[:, 0]).std(ddof=1)),
        float(_root_mean_square([change.standard_error for change in changes])),
        float(np.corrcoef(values.T)[0, 1]),
        *(f"{share:.0%}" for share in held),
    ]


def _root_mean_square(values: Sequence[float] | Sequence[np.ndarray]) -> np.ndarray:
    return np.sqrt(np.square(values).mean(0))


def spread(run: ld.Trajectory) -> None:
    for kernel in KERNELS:
        print(f"\n{kernel}\n\n{markdown_head(COLUMNS)}")
        for pair in PAIRS:
            curves = stored_curves(run, kernel, pair)
            if len(curves) > 2:
                print(markdown_row(spread_row([*curves.values()], *pair)))


def anchors(run: ld.Trajectory) -> None:
    """Values with an anchor at one checkpoint; then what the best anchors could gain on each longer curve."""
    long = stored_curves(run, "sgld", [ANCHOR], LONGER)
    for step in BY_ANCHOR:
        short = stored_curves(run, "sgld", [step, ANCHOR])
        both = [(short[seed], long[seed].values[0]) for seed in sorted(short.keys() & long.keys())]
        if len(both) > 2:
            plain = np.array([curve.values[0] for curve, _ in both])
            corrected = [curve.values[0] + _slope(curve) * (value - curve.values[1]) for curve, value in both]
            found = plain.std(ddof=1), np.std(corrected, ddof=1)
            print(f"step {step:,}, {len(both)} seeds: spread {found[0]:.3f}, with the anchor {found[1]:.3f}")
    for name in sorted({each.name for each in (run.path / "llc").glob("common-sgld-1-*")}):
        curve = ld.LLCCurve.load(run, name)
        if len(curve) > len(STEPS):
            gains = {
                (count, longer): best_gain(curve, count, longer) for count, longer in product(range(1, 9), (3, 10, 30))
            }
            (count, longer), gain = max(gains.items(), key=lambda item: item[1])
            print(f"{name}, {len(curve)} points: {gain:.2f} at most, with {count} anchors of {longer} times the draws")


def _slope(curve: ld.LLCCurve) -> float:
    assert curve.covariance is not None
    return float(curve.covariance[0, 1] / curve.covariance[1, 1])


def best_gain(curve: ld.Curve, count: int, longer: int) -> float:
    """Spread of the values with the gradients spent evenly over that with anchors, each the best one beside the others.

    Var(x - b (A_short - A_long)) = Var(x) - (1 - 1/longer) Cov(x, A) Cov(A)^-1 Cov(A, x), in multiples of Var(x).
    """
    assert curve.covariance is not None
    assert curve.standard_errors is not None
    matrix = curve.covariance / np.outer(curve.standard_errors, curve.standard_errors)

    def left(chosen: list[int]) -> float:
        explained = matrix[:, chosen] @ np.linalg.pinv(matrix[np.ix_(chosen, chosen)]) @ matrix[chosen]
        return float(np.mean(1 - (1 - 1 / longer) * np.diag(explained)))

    chosen: list[int] = []
    for _ in range(count):
        chosen.append(min(set(range(len(curve))) - set(chosen), key=lambda place: left([*chosen, place])))
    return 1 / math.sqrt((1 + (longer - 1) * count / len(curve)) * left(chosen))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("section", choices=["curves", "spread", "anchors"])
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--kernel", choices=list(KERNELS), default="sgld")
    parser.add_argument("--longer", type=int, default=1, help="times the draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = ld.Trajectory(options.run)
    if options.section == "curves":
        for seed in options.seeds:
            curve = estimate_curve(run, options.kernel, seed, options.steps, options.longer)
            print(curve.name, *(f"{value:.3f}" for value in curve.values), flush=True)
    else:
        {"spread": spread, "anchors": anchors}[options.section](run)


if __name__ == "__main__":
    main()
