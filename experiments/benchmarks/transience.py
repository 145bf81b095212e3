"""How often the transience detector is right, and how often it finds a transient solution where there is none.

    python experiments/benchmarks/transience.py [nulls power] [--repetitions N] [--out ROWS.jsonl] [--figure FILE.png]
    python experiments/benchmarks/transience.py drops FOLDER ... [--draws 10]
    python experiments/benchmarks/transience.py infinity FOLDER ... [--repetitions 500]

- nulls: share of synthetic runs without transience (`synthetic_runs`) that are called transient, by kind,
  number of checkpoints, jitter and its correlation time. Those named `infinity` are judged as a run at M = infinity
  is: without a specialised predictor.
- power: share of transient runs that are found, and found within .1 dex of the true turn, against how far they went to
  the specialised predictor.
- drops: stored runs, judged with all checkpoints and with random halves of them.
- infinity: a stored run at M = infinity, judged on resampled evaluation sequences and checkpoints.

Rows are appended to ROWS.jsonl as they are made; cells that are there are not made again.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, command_line, fill
from numpy.typing import NDArray
from power_figure import plot_power
from scipy.stats import binomtest
from synthetic_runs import NULL_SCENARIOS, SyntheticRun, synthetic_run

import llc_dynamics as ld
from llc_dynamics.report.reading import read_curve, read_probes
from llc_dynamics.report.transitions import TransitionFindings, judge_transition
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages import TransienceVerdict
from llc_dynamics.sweeps import find_runs
from llc_dynamics.systems.description import Transition, description_of, distance_metric, loss_metric
from llc_dynamics.trajectory import Trajectory

LAST = 6000
POINTS = (24, 80)
JITTERS = (0.01, 0.03, 0.1)
CORRELATION_TIMES = (0.0, 300.0)
NUM_SEQUENCES = 256
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)
# Which scenario, and whether the specialised predictor is known.
NULLS = {scenario: (scenario, True) for scenario in NULL_SCENARIOS} | {
    "infinity": ("general", False),
    "infinity, random walk": ("random_walk", False),
}


def schedule(points: int, last: int = LAST) -> NDArray[np.int64]:
    """So many checkpoints, half of them evenly in steps, the others in log steps."""
    even = np.linspace(0, last, points // 2 + 1)
    for number in itertools.count(2):
        steps = np.unique(np.concatenate([even, np.geomspace(1, last, number)]).astype(np.int64))
        if len(steps) >= points:
            return steps[len(steps) - points :]
    raise AssertionError


def judge(run: SyntheticRun, with_specialised: bool = True, seed: int = 0) -> TransienceVerdict:
    """At the default thresholds."""
    if not with_specialised:
        return ld.detect_transience(general=run.general, specialised=None, ood_loss=run.ood_loss, seed=seed)
    return ld.detect_transience(
        general=run.general,
        specialised=run.specialised,
        ood_loss=run.ood_loss,
        reference_distance=run.reference_distance,
        seed=seed,
    )


def share(count: int, repetitions: int) -> Row:
    """With its exact 95% interval (Clopper and Pearson)."""
    interval = binomtest(count, repetitions).proportion_ci(0.95)
    return {"rate": count / repetitions, "interval": [float(interval.low), float(interval.high)]}


def null_cell(scenario: str, points: int, jitter: float, correlation_time: float, repetitions: int) -> Row:
    steps = schedule(points)
    number = (JITTERS.index(jitter) * len(CORRELATION_TIMES) + CORRELATION_TIMES.index(correlation_time)) * 1_000_003
    drawn, with_specialised = NULLS[scenario]
    found = 0
    for seed in range(number, number + repetitions):
        run = synthetic_run(drawn, steps, NUM_SEQUENCES, jitter, correlation_time, seed=seed)
        found += judge(run, with_specialised, seed).transient
    return {"found": found, **share(found, repetitions)}


def power_cell(points: int, jitter: float, strength: float, repetitions: int) -> Row:
    steps = schedule(points)
    turn, rebound = true_turn(strength)
    found = near = inside = 0
    for seed in range(repetitions):
        time = CORRELATION_TIMES[seed % len(CORRELATION_TIMES)]
        run = synthetic_run("transient", steps, NUM_SEQUENCES, jitter, time, strength=strength, seed=seed)
        verdict = judge(run, seed=seed)
        if verdict.t_crit is not None and verdict.t_crit_interval is not None:
            found += 1
            near += abs(math.log10(verdict.t_crit / turn)) < 0.1
            inside += verdict.t_crit_interval[0] <= turn <= verdict.t_crit_interval[1]
    held = {"true turn": turn, "true rebound": rebound, "in the 90% interval": inside}
    return {"found": found, **share(found, repetitions), "within .1 dex": near, **held}


def true_turn(strength: float) -> tuple[int, float]:
    """Step of least loss without any noise, and the rise from there to the end relative to it."""
    steps = np.unique(np.concatenate([[0], np.geomspace(300, LAST, 200)]).astype(np.int64))
    loss = synthetic_run("transient", steps, 4000, 0.0, strength=strength, seed=10**9).ood_loss.values
    best = int(np.argmin(loss))
    return int(steps[best]), float(loss[-1] / loss[best] - 1)


def null_cells(repetitions: int) -> list[Row]:
    """`repetitions` of each null at each number of points, spread over the jitters and their correlation times."""
    settings = list(itertools.product(JITTERS, CORRELATION_TIMES))
    each = -(-repetitions // len(settings))
    return [
        {"section": "nulls", "scenario": scenario, "points": points, "noise": jitter, "correlation time": time}
        | {"repetitions": each}
        for scenario, points, (jitter, time) in itertools.product(NULLS, POINTS, settings)
    ]


def power_cells(repetitions: int) -> list[Row]:
    return [
        {"section": "power", "points": points, "noise": jitter, "strength": strength, "repetitions": repetitions}
        for points, jitter, strength in itertools.product(POINTS, JITTERS, STRENGTHS)
    ]


def measure(cell: Mapping[str, Any]) -> Row:
    if cell["section"] == "nulls":
        return null_cell(cell["scenario"], cell["points"], cell["noise"], cell["correlation time"], cell["repetitions"])
    return power_cell(cell["points"], cell["noise"], cell["strength"], cell["repetitions"])


def pooled(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Nulls over jitters and correlation times, with the worst setting of each."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["scenario"], row["points"]), []).append(row)
    table = []
    for (scenario, points), cells in groups.items():
        found, repetitions = (sum(cell[name] for cell in cells) for name in ("found", "repetitions"))
        worst = max(cells, key=lambda cell: cell["rate"])
        table.append(
            {"scenario": scenario, "points": points, "repetitions": repetitions, "found": found}
            | share(found, repetitions)
            | {"worst": {name: worst[name] for name in ("noise", "correlation time", "rate", "interval")}}
        )
    return table


def nulls(repetitions: int, path: Path | None) -> None:
    for row in pooled(fill(null_cells(repetitions), path, measure)):
        print(row)


def power(repetitions: int, path: Path | None, figure: Path | None) -> None:
    rows = fill(power_cells(repetitions), path, measure)
    if figure is not None:
        draw_power(rows, figure)


def draw_power(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from llc_dynamics.plots import RC

    with mpl.rc_context(RC):
        figure, panels = plt.subplots(1, len(POINTS), figsize=(7.2, 3.0), sharey=True, layout="constrained")
    for ax, points in zip(panels, POINTS, strict=True):
        plot_power(
            [row for row in rows if row["points"] == points],
            strength_label="Way to the specialised predictor at the end",
            noise_name="jitter",
            title=f"{points} checkpoints",
            ax=ax,
        )
    panels[1].set_ylabel("")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def read_run(run: Trajectory) -> tuple[dict[str, ld.Curve], Transition, Mapping[str, NDArray[Any]]]:
    """Metrics with their samples, the first declared transition, and the probes, as `llc-dynamics stages` reads them.

    Ends with a message for a run that declares no transition.
    """
    transitions = description_of(run).transitions
    if not transitions:
        raise SystemExit(f"{run.path.name}: its description declares no transition; give a run that does")
    curves = {name: curve for name in run.metric_names if (curve := read_curve(run, name)) is not None}
    return curves, transitions[0], read_probes(run)


def part(curve: ld.Curve, points: NDArray[np.intp], sequences: NDArray[np.intp] | None = None) -> ld.Curve:
    """The curve at some checkpoints, and on some of its sequences if it has any."""
    samples = None if curve.samples is None else curve.samples[points]
    values = curve.values[points]
    errors = None if curve.standard_errors is None else curve.standard_errors[points]
    if samples is not None and sequences is not None:
        samples = samples[:, sequences]
        values, errors = samples.mean(axis=1, dtype=np.float64), None
    return ld.Curve(curve.steps[points], values, errors, curve.name, samples=samples)


def random_half(points: NDArray[np.intp], draw: int) -> NDArray[np.intp]:
    """Half of the checkpoints (rounded up), the first and the last among them; another half for every draw."""
    number = -(-len(points) // 2) - 2
    inner = numpy_generator(0, "half of the checkpoints", draw).choice(points[1:-1], number, replace=False)
    return np.sort(np.concatenate([points[:1], inner, points[-1:]]))


def drop_half(run: Trajectory, draws: int) -> list[Row]:
    """Transience and specialisation with all checkpoints, and how often random halves of them say the same."""
    curves, transition, arrays = read_run(run)
    loss = loss_metric(transition.probe)
    measured = np.flatnonzero(np.isfinite(curves[loss].values)) if loss in curves else np.arange(0)

    def judged(some: Mapping[str, ld.Curve]) -> TransitionFindings:
        return judge_transition(transition, some, arrays)

    full = judged(curves)
    halves = []
    for draw in range(draws):
        kept = random_half(measured, draw)
        halves.append(judged({each: part(curve, kept) for each, curve in curves.items()}))
    return [
        {"run": run.path.name, "verdict on": name, "points": len(measured)}
        | agreement(getattr(full, name), [getattr(half, name) for half in halves])
        for name in ("transience", "specialisation")
        if getattr(full, name) is not None
    ]


def agreement(full: Any, halves: Sequence[Any]) -> Row:
    """How many verdicts on halves are of the kind of the full one, and of these how many times lie in its interval.

    The time is t_crit of a verdict on transience, t_half of one on specialisation.
    """
    times = [getattr(full, "t_crit", None) or getattr(full, "t_half", None)]
    interval = getattr(full, "t_crit_interval", None) or getattr(full, "t_half_interval", None)
    agree = [half for half in halves if half is not None and half.kind == full.kind]
    row = {"kind": full.kind, "time": times[0], "interval": interval, "draws": len(halves), "agree": len(agree)}
    kinds = Counter("no verdict" if half is None else half.kind for half in halves)
    if interval is not None:
        found = [getattr(half, "t_crit", None) or getattr(half, "t_half", None) for half in agree]
        row |= {"times": found, "in the full interval": sum(interval[0] <= time <= interval[1] for time in found)}
    return row | {"kinds": dict(kinds)}


def resampled(run: Trajectory, repetitions: int) -> Row:
    """A stored run at M = infinity judged on bootstrapped sequences and on half of its second half of checkpoints.

    The first half of the checkpoints stays: it holds the fall. Of the second a random half is kept, so that the places
    of the minimum and of the end change. Sequences are drawn with replacement, the same at all checkpoints; the copies
    weaken the detector's cross-fitting, which can only add alarms.

    It tells whether the verdict hangs on these sequences, or on which checkpoints were kept and where the run ended. It
    is not the false-positive rate over runs: all draws share one path of the weights and one random order of batches.
    """
    curves, transition, arrays = read_run(run)
    names = (loss_metric(transition.probe), distance_metric(transition.probe, transition.general))
    wanted: dict[str, ld.Curve] = {name: curves[name] for name in names if name in curves}
    if not at_infinity(run) or len(wanted) < 2 or any(curve.samples is None for curve in wanted.values()):
        raise SystemExit(f"{run.path.name}: not a run at M = infinity with samples of {' and '.join(names)}; give one")
    measured = np.flatnonzero(np.isfinite(wanted[names[0]].values))
    first, second = np.array_split(measured, 2)
    samples = wanted[names[0]].samples
    assert samples is not None
    number = int(samples.shape[1])
    kinds: Counter[str] = Counter()
    for repetition in range(repetitions):
        generator = numpy_generator(0, "resampled run", repetition)
        points = np.concatenate([first, np.sort(generator.choice(second, -(-len(second) // 2), replace=False))])
        sequences = generator.integers(0, number, size=number)
        drawn = {name: part(curve, points, sequences) for name, curve in wanted.items()}
        verdict = judge_transition(transition, drawn, arrays, seed=repetition).transience
        kinds["no verdict" if verdict is None else verdict.kind] += 1
    full = judge_transition(transition, wanted, arrays).transience
    return {
        "run": run.path.name,
        "points": len(measured),
        "sequences": number,
        "verdict": None if full is None else full.summary(),
        "repetitions": repetitions,
        "found": kinds["transient"],
        "kinds": dict(kinds),
    }


def at_infinity(run: Trajectory) -> bool:
    """Whether a run is at the infinite end of its axis."""
    axis = description_of(run).axis
    return axis is not None and axis.value == math.inf


def main() -> None:
    parser = command_line(__doc__, out="JSON lines of the rows")
    parser.add_argument("sections", nargs="*", help="nulls, power; or drops and folders; or infinity and folders")
    parser.add_argument(
        "--repetitions", type=int, help="of each null (600), of a cell of power (100), or of infinity (500)"
    )
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--figure", type=Path, help="power as a PNG")
    arguments = parser.parse_args()
    first, *folders = arguments.sections or ["nulls", "power"]
    if first in ("drops", "infinity"):
        for run in (run for folder in folders for run in find_runs(folder)):
            if first == "drops":
                rows = drop_half(run, arguments.draws)
            else:
                rows = [resampled(run, arguments.repetitions or 500)] if at_infinity(run) else []
            for row in rows:
                print(json.dumps(row), flush=True)
        return
    for section in (first, *folders):
        if section == "nulls":
            nulls(arguments.repetitions or 600, arguments.out)
        elif section == "power":
            power(arguments.repetitions or 100, arguments.out, arguments.figure)
        else:
            parser.error(f"unknown section {section}; choose nulls, power, drops or infinity")


if __name__ == "__main__":
    main()
