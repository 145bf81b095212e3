"""How often the stage detector is right, and how often it finds something in nothing.

    python experiments/benchmarks/stages.py [nulls common power tables geometry speed] [--repetitions 500] [--out FILE]
    python experiments/benchmarks/stages.py power --rows ROWS.jsonl --figure FILE.png

- nulls: share of curves without stages in which a boundary is resolved, by kind, number of points and noise.
- common: both for errors of common noise, with correlation .99 between neighbours and .8 between the ends of the curve,
  their covariance given: as it is, and estimated from 12 draws, which is what that of two chains amounts to; beside
  independent errors of the same size.
- power: a turn in the middle of a curve that rises by 20 and then falls by the strength: share found within .1 dex, by
  strength, noise and number of points. `--figure` draws it.
- tables: curves rebuilt from the two stage tables of Hoogland et al. 2024 (arXiv 2402.02364) with noise: boundaries
  found, how far off, how often the 90% interval holds the place, types.
- geometry: PCAs of random walks: share with a turning point, and with one in a trajectory that is not marked as
  cosine-like.
- speed: seconds for 2,000 points, on one thread.
- reference FILE ...: curves of other people (columns step, llc, llc_std_over_chains, mse), with errors estimated from
  the scatter and with those of 10 chains.
"""

from __future__ import annotations

import csv
import itertools
import math
import time
from pathlib import Path

import numpy as np
from common import Row, chosen_sections, command_line, fill, write_json
from power_figure import plot_power

import llc_dynamics as ld
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages import StageReport, detect_stages, null_rates, trajectory_geometry
from llc_dynamics.stages.null_curves import false_boundaries

# Ends of the stages and the changes of the LLC.
TABLES = {
    "regression transformer": ([1e3, 4e4, 1.26e5, 3.2e5, 5e5], [21.4, 149, -12.3, -44.1, 3.56]),
    "language model": ([900, 6500, 8500, 17_000, 5e4], [26.4, 22.5, -1.57, 8.62, 1.77]),
}
_START = 30.0


def ramps(steps: np.ndarray, ends: list[float], changes: list[float], start: float = _START) -> np.ndarray:
    """Smooth steps in log time, flat where two of them meet."""
    x, edges = np.log1p(steps), np.log1p([start, *ends])
    total = np.zeros(len(steps))
    for (a, b), change in zip(itertools.pairwise(edges), changes, strict=True):
        u = np.clip((x - a) / (b - a), 0, 1)
        total += change * (3 * u**2 - 2 * u**3)
    return total


def schedule(last: float, points: int) -> np.ndarray:
    half = points // 2
    return np.unique(np.concatenate([np.linspace(0, last, half), np.geomspace(1, last, half)]).astype(int))


def noisy(steps: np.ndarray, values: np.ndarray, noise: float, *purpose: int) -> ld.Curve:
    made = values + noise * numpy_generator(0, "benchmark of stages", *purpose).standard_normal(len(values))
    return ld.Curve(steps, made, np.full(len(values), noise), "LLC")


def nulls(repetitions: int) -> list[Row]:
    rows = []
    for points, noise, given in ((24, 3.0, True), (60, 3.0, True), (60, 3.0, False), (190, 1.0, True)):
        steps = schedule(5e5, points)
        like = noisy(steps, ramps(steps, *TABLES["regression transformer"]), noise)
        if not given:
            like = ld.Curve(like.steps, like.values)
        for rate in null_rates(like, repetitions):
            row = {"points": len(steps), "noise": noise, "errors given": given, **rate.to_dict()}
            rows.append(row)
            print(row, flush=True)
    return rows


# Points on a schedule like the demo's; noise as a share of the rise by 20; falls after it.
_COMMON_POINTS, _COMMON_NOISES, _COMMON_FALLS = (8, 24, 50), (0.02, 0.1), (0.5, 1.0, 2.0, 4.0)
_COMMON_NULLS = ("constant", "rise", "random walk")
_COMMON_DRAWS = 12
_ERRORS = ("common", "estimated", "independent")


def common_covariance(steps: np.ndarray, size: float, near: float = 0.99, far: float = 0.8) -> np.ndarray:
    """Of points with standard error `size`; the correlation falls from `near` between neighbours to `far` at most."""
    x = np.log1p(steps)
    distance = np.abs(x[:, None] - x[None, :]) / np.ptp(x)
    power = math.log(math.log(near) / math.log(far)) / math.log(np.median(np.diff(x)) / np.ptp(x))
    return np.asarray(size**2 * far ** (distance**power))


def common(repetitions: int, path: Path | None = None) -> list[Row]:
    """Curves with a turn have a fifth of the repetitions, and independent errors those curves alone."""
    cells = [
        {"points": points, "noise": noise, "errors": errors, "fall": fall, "first": first}
        | {"repetitions": min(ROUND, repetitions - first)}
        for first in range(0, repetitions, ROUND)
        for points, noise, errors in itertools.product(_COMMON_POINTS, _COMMON_NOISES, _ERRORS)
        for fall in (*(_COMMON_NULLS if errors != "independent" else ()), *_COMMON_FALLS)
        if fall in _COMMON_NULLS or first < repetitions / 5
    ]
    return summed(fill(cells, path, common_round), ("points", "noise", "errors", "fall"))


def common_round(cell: Row) -> Row:
    """A boundary anywhere in curves without any; a turn anywhere, and near its place, in those with one."""
    steps = np.unique(np.geomspace(250, 6000, cell["points"]).astype(int))
    x = np.linspace(0, 1, len(steps))
    size = 20 * cell["noise"]
    covariance = common_covariance(steps, size)
    root = np.linalg.cholesky(covariance)
    near = anywhere = 0
    for repetition in range(cell["first"], cell["first"] + cell["repetitions"]):
        generator = numpy_generator(0, "benchmark of stages, common noise", cell["points"], repetition)
        noise, walk = generator.standard_normal((2, len(steps)))
        middle, width = generator.uniform(0.2, 0.8), generator.uniform(0.04, 0.2)
        if cell["fall"] == "constant":
            values = np.zeros(len(steps))
        elif cell["fall"] == "rise":
            values = 20 / (1 + np.exp(-(x - middle) / width))
        elif cell["fall"] == "random walk":
            values = 20 * walk.cumsum() / np.ptp(walk.cumsum())
        else:
            values = ramps(steps, [1200, 6000], [20.0, -cell["fall"]], start=250)
        given: dict[str, np.ndarray] = {"covariance": covariance}
        if cell["errors"] == "independent":
            given = {"standard_errors": np.full(len(steps), size)}
        elif cell["errors"] != "common":
            given = {"covariance": np.cov(root @ generator.standard_normal((len(steps), _COMMON_DRAWS)))}
        made = values + (size * noise if cell["errors"] == "independent" else root @ noise)
        found = detect_stages(ld.Curve(steps, made, name="LLC", **given)).resolved
        null = isinstance(cell["fall"], str)
        # a rise may have been flat before and after
        wrong = false_boundaries("monotone" if cell["fall"] == "rise" else "constant", [each.kind for each in found])
        turns = found if wrong and null else [each for each in found if each.kind == "turn" and not null]
        near += any(abs(math.log10(turn.step / 1200)) < 0.1 for turn in turns)
        anywhere += bool(turns)
    return {"found": near, "a turn anywhere": anywhere}


POWER_POINTS, STRENGTHS, NOISES = (24, 60), (0.0, 2.0, 4.0, 8.0, 16.0), (1.0, 2.0, 4.0)
# Repetitions are made in rounds over all cells, so that a call that is stopped leaves a whole, coarser figure.
ROUND = 20


def power(repetitions: int, path: Path | None = None) -> list[Row]:
    """A row for each number of points, noise and strength; rounds that are stored in `path` are not made again."""
    cells = [
        {"points": points, "noise": noise, "strength": strength, "first": first}
        | {"repetitions": min(ROUND, repetitions - first)}
        for first in range(0, repetitions, ROUND)
        for points, noise, strength in itertools.product(POWER_POINTS, NOISES, STRENGTHS)
    ]
    return summed(fill(cells, path, power_round), ("points", "noise", "strength"))


def power_round(cell: Row) -> Row:
    steps = schedule(5e4, cell["points"])
    noise, strength = cell["noise"], cell["strength"]
    values = ramps(steps, [2e3, 5e4], [20.0, -strength])
    near = anywhere = 0
    for repetition in range(cell["first"], cell["first"] + cell["repetitions"]):
        curve = noisy(steps, values, noise, cell["points"], round(10 * strength), round(10 * noise), repetition)
        turns = [boundary for boundary in detect_stages(curve).resolved if boundary.kind == "turn"]
        near += any(abs(math.log10(turn.step / 2e3)) < 0.1 for turn in turns)
        anywhere += bool(turns)
    return {"found": near, "a turn anywhere": anywhere}


def summed(
    rounds: list[Row], names: tuple[str, ...], counted: tuple[str, ...] = ("repetitions", "found", "a turn anywhere")
) -> list[Row]:
    """Over the rounds of each cell, which the settings `names` tell apart."""
    cells: dict[tuple[float, ...], Row] = {}
    for row in rounds:
        settings = {name: row[name] for name in names}
        counts = {name: row[name] for name in counted}
        cell = cells.setdefault(tuple(settings.values()), settings | dict.fromkeys(counts, 0))
        cell |= {name: cell[name] + count for name, count in counts.items()}
    return list(cells.values())


def draw_power(rows: list[Row], path: Path) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from llc_dynamics.plots import RC

    with mpl.rc_context(RC):
        figure, panels = plt.subplots(1, len(POWER_POINTS), figsize=(7.2, 3.0), sharey=True, layout="constrained")
    for ax, points in zip(panels, POWER_POINTS, strict=True):
        plot_power(
            [row for row in rows if row["points"] == points],
            strength_label="Fall after a rise of 20",
            title=f"{len(schedule(5e4, points))} points",
            ax=ax,
        )
    panels[0].set_ylabel("Share found within .1 dex")
    panels[1].set_ylabel("")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def tables(repetitions: int) -> list[Row]:
    rows = []
    for name, points, noise in (
        ("regression transformer", 190, 0.25),
        ("regression transformer", 190, 0.5),
        ("regression transformer", 190, 1.0),
        ("regression transformer", 190, 4.0),
        ("regression transformer", 60, 2.0),
        ("language model", 100, 0.2),
        ("language model", 100, 0.5),
    ):
        ends, changes = TABLES[name]
        steps = schedule(ends[-1], points)
        reports = [
            detect_stages(noisy(steps, ramps(steps, ends, changes), noise, points, repetition))
            for repetition in range(repetitions)
        ]
        rows.append({"curve": name, "points": len(steps), "noise": noise, **_scores(reports, ends, changes)})
        print(rows[-1], flush=True)
    return rows


def _scores(reports: list[StageReport], ends: list[float], changes: list[float]) -> Row:
    found = dict.fromkeys(ends[:-1], 0)
    distances, inside, extra, types = [], [], 0, []
    edges = [_START, *ends]
    for report in reports:
        taken = set()
        for boundary in report.resolved:
            nearest = min(ends[:-1], key=lambda end, at=boundary.step: abs(math.log10(at / end)))  # type: ignore[misc]
            if nearest in taken:
                extra += 1
                continue
            taken.add(nearest)
            found[nearest] += 1
            distances.append(abs(math.log10(boundary.step / nearest)))
            inside.append(boundary.interval[0] <= nearest <= boundary.interval[1])
        for stage in report.stages:
            if stage.type in ("rise", "fall"):
                first, last = (
                    int(np.argmin(np.abs(np.log1p(edges) - math.log1p(t)))) for t in (stage.start, stage.end)
                )
                types.append((sum(changes[first:last]) > 0) == (stage.type == "rise"))
    return {
        "found": {f"{end:g}": count / len(reports) for end, count in found.items()},
        "within .1 dex": float(np.mean(np.array(distances) < 0.1)),
        "90% interval holds it": float(np.mean(inside)),
        "too many a curve": extra / len(reports),
        "types right": float(np.mean(types)),
    }


# Of the walks; in few dimensions the first two components are less like cosines.
_WALK_CHECKPOINTS, _WALK_DIMENSIONS = 100, (400, 10)


def geometry(repetitions: int) -> list[Row]:
    rows = []
    for dimensions in _WALK_DIMENSIONS:
        row = {"checkpoints": _WALK_CHECKPOINTS, "dimensions": dimensions, "repetitions": repetitions}
        rows.append(row | _turns_of_walks(dimensions, repetitions))
        print(rows[-1], flush=True)
    return rows


def _turns_of_walks(dimensions: int, repetitions: int) -> Row:
    steps = schedule(5e4, 106)[:_WALK_CHECKPOINTS]  # 106 are some fewer, as early ones coincide
    turning = unmarked = 0
    contents = []
    for repetition in range(repetitions):
        generator = numpy_generator(0, "benchmark of stages, geometry", dimensions, repetition)
        walk = generator.standard_normal((_WALK_CHECKPOINTS, dimensions)).cumsum(axis=0)
        vectors, sizes, _ = np.linalg.svd(walk - walk.mean(axis=0), full_matrices=False)
        found = trajectory_geometry(steps, vectors[:, :2] * sizes[:2])
        turns = any(point.probability > 0.9 for point in found.turning_points)
        turning += turns
        unmarked += turns and not found.cosine_like
        contents.append(min(found.cosine_content))
    return {
        "turning": turning,
        "turning, not cosine-like": unmarked,
        "smaller cosine content": float(np.median(contents)),
    }


def speed(repetitions: int) -> list[Row]:  # noqa: ARG001
    steps = np.unique(np.geomspace(1, 5e5, 3000).astype(int))[:2000]
    curve = noisy(steps, ramps(steps, *TABLES["regression transformer"]), 1.0)
    detect_stages(curve)
    start = time.process_time()
    detect_stages(curve, curve)
    row = {"points": len(steps), "seconds, with a loss of as many points": time.process_time() - start}
    print(row)
    return [row]


def reference(paths: list[Path]) -> None:
    for path in paths:
        with path.open() as file:
            rows = list(csv.DictReader(file))
        column = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
        loss = ld.Curve(column["step"], column["mse"])
        for label, errors in (
            ("errors from the scatter", None),
            ("10 chains", column["llc_std_over_chains"] / 10**0.5),
        ):
            print(
                f"\n{path.name}, {label}\n{detect_stages(ld.Curve(column['step'], column['llc'], errors, 'LLC'), loss)}"
            )


SECTIONS = {
    "nulls": nulls,
    "common": common,
    "power": power,
    "tables": tables,
    "geometry": geometry,
    "speed": speed,
}


def main() -> None:
    parser = command_line(__doc__, out="a JSON file for what is found")
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS) + ", or reference and files")
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument(
        "--rows", type=Path, help="JSON lines of power or common as they are made; a second call goes on"
    )
    parser.add_argument("--figure", type=Path, help="power as a PNG")
    arguments = parser.parse_args()
    if arguments.sections[:1] == ["reference"]:
        reference([Path(each) for each in arguments.sections[1:]])
        return
    sections = chosen_sections(parser, arguments.sections, SECTIONS)
    if arguments.figure is not None and "power" not in sections:
        parser.error("--figure draws the section power; name it")
    found = {
        name: SECTIONS[name](arguments.repetitions, *([arguments.rows] if name in ("power", "common") else []))
        for name in sections
    }
    write_json(arguments.out, found)
    if arguments.figure is not None:
        draw_power(found["power"], arguments.figure)


if __name__ == "__main__":
    main()
