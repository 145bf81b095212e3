"""How a system develops over several seeds: what the scripts of more than one experiment print.

Nearest reference predictors, onsets, joint PCA, LLC, and stages with false-positive rates, as lines of Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

import llc_dynamics as ld
from llc_dynamics.errors import DataError
from llc_dynamics.pca import cosine_content
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages import null_rates, seed_agreement
from llc_dynamics.training import load_config

Array = NDArray[np.float64]
COMPONENTS = 3
_BOOTSTRAP = 200
_SHARE, _FINAL = 0.5, 5  # of the mean over the last checkpoints: above it from the onset on
_SHORTEST = 3  # checkpoints that a reference has to be the nearest in a row


@dataclass(frozen=True)
class Development:
    """One seed. steps [C]; outputs w^L [C, B, d]; distances {reference: |w^L - w_r|^2 of each context [C, B]}."""

    run: ld.Trajectory
    llc: ld.LLCCurve
    steps: NDArray[np.int64]
    outputs: Array
    distances: Mapping[str, Array]


def nearest(distances: Mapping[str, Array], steps: NDArray[np.int64]) -> dict[str, tuple[float, float, float]]:
    """{reference: (first step at which it is the nearest, low, high)}, of those that are so for long enough."""
    names = list(distances)
    table = np.stack([distances[name] for name in names])  # [reference, checkpoint, context]
    count = table.shape[2]
    shares = numpy_generator(0, "nearest").multinomial(count, np.full(count, 1 / count), _BOOTSTRAP) / count
    firsts = [_first(table.mean(-1)), *(_first(each) for each in np.moveaxis(table @ shares.T, 2, 0))]
    found = {}
    for place, name in enumerate(names):
        of_samples = [first[place] for first in firsts[1:] if place in first]
        if place in firsts[0] and len(of_samples) > _BOOTSTRAP / 2:
            low, high = np.quantile(steps[of_samples], (0.025, 0.975))
            found[name] = (float(steps[firsts[0][place]]), float(low), float(high))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _first(means: Array) -> dict[int, int]:
    """{reference: first of `_SHORTEST` checkpoints in a row at which it is the nearest} of means [reference, C]."""
    least = means.argmin(0)
    found: dict[int, int] = {}
    for place in range(len(least) - _SHORTEST + 1):
        if (least[place : place + _SHORTEST] == least[place]).all():
            found.setdefault(int(least[place]), place)
    return found


def onset(steps: NDArray[np.int64], values: Array) -> float:
    """The first step from which on values stay above `_SHARE` of their final one, and of its sign."""
    below = np.flatnonzero(values / values[-_FINAL:].mean() < _SHARE)
    return float(steps[min(below[-1] + 1, len(steps) - 1)] if below.size else steps[0])


def median_and_range(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{np.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)] + [""]


def nearest_lines(found: Sequence[Development], labels: Mapping[str, str]) -> list[str]:
    """The timeline of the nearest reference."""
    of_seeds = [nearest(each.distances, each.steps) for each in found]
    names = sorted({name for each in of_seeds for name in each}, key=lambda n: _middle(of_seeds, n))
    rows = []
    for name in names:
        shown = [f"{each[name][0]:,.0f} ({each[name][1]:,.0f}-{each[name][2]:,.0f})" if name in each else "-"
                 for each in of_seeds]  # fmt: skip
        rows.append([labels[name], median_and_range([each[name][0] for each in of_seeds if name in each]), *shown])
    return ["## Nearest reference", "", *table(["from step", "median (range)", *seeds_of(found)], rows)]


def _middle(of_seeds: Sequence[Mapping[str, tuple[float, ...]]], name: str) -> float:
    return float(np.median([each[name][0] for each in of_seeds if name in each]))


def seeds_of(found: Sequence[Development]) -> list[str]:
    """Names of the runs."""
    return [f"seed {load_config(each.run).seed}" for each in found]


def series(run: ld.Trajectory, metric: str) -> tuple[NDArray[np.int64], Array]:
    """Steps and values of a metric."""
    return np.asarray(run.steps), run.metrics(metric)


def pca_lines(
    found: Sequence[Development], references: Mapping[str, Array], labels: Mapping[str, str]
) -> tuple[list[str], list[Array], dict[str, Array]]:
    """Joint PCA; scores of every seed [C, component] and of the references."""
    pca = ld.JointTrajectoryPCA(COMPONENTS).fit([each.outputs for each in found])
    scores = pca.transform([each.outputs for each in found])
    projected = pca.transform(dict(references))
    shares = ", ".join(f"{share:.1%}" for share in pca.explained_variance_ratio_)
    content = [cosine_content(each) for each in scores]
    rows = [[labels[name], *(f"{score:.1f}" for score in each)] for name, each in projected.items()]
    for name, each in zip(seeds_of(found), scores, strict=True):
        rows.append([f"{name}, last step", *(f"{score:.1f}" for score in each[-1])])
    text = [
        f"Explained: {shares}. Cosine content of the components, mean over seeds: "
        f"{', '.join(f'{each:.2f}' for each in np.mean(content, 0))} (a random walk has .9 or more).",
        "",
    ]
    return ["## Joint PCA", "", *text, *table(["", "PC1", "PC2", "PC3"], rows)], scores, projected


def llc_lines(found: Sequence[Development]) -> list[str]:
    """The LLC of every seed, and how it changes."""
    curves = [each.llc for each in found]
    steps = curves[0].steps
    rows = []
    for step in map(int, steps):
        each = [(curve.values[curve.place_of(step)], curve.standard_errors[curve.place_of(step)]) for curve in curves]
        values = np.array([value for value, _ in each])
        spread = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        rows.append([f"{step:,}", f"{values.mean():.1f} ± {spread:.1f}", *(f"{v:.1f} ± {e:.1f}" for v, e in each)])
    converged = sum(int(curve.converged.sum()) for curve in curves)
    said = f"{curves[0].resolution}. {converged} of {sum(map(len, curves))} points converged."
    return ["## LLC", "", said, "", *table(["step", "mean over seeds", *seeds_of(found)], rows)]


def draw_figure(
    path: Path,
    found: Sequence[Development],
    scores: Sequence[Array],
    projected: Mapping[str, Array],
    labels: Mapping[str, str],
    named: Collection[str],
    distances: Sequence[str],
    draw: Callable[[Axes], None],
) -> None:
    """PCA with the `named` references by name, `distances` of the first seed, LLC, and what `draw` draws."""
    figure, ((pca, distance), (llc, last)) = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for each, score in zip(found, scores, strict=True):
        pca.plot(score[:, 0], score[:, 1], lw=1, alpha=0.8)
        llc.errorbar(each.llc.steps, each.llc.values, 2 * each.llc.standard_errors, lw=1, capsize=2)
    for name, position in projected.items():
        pca.plot(position[0], position[1], "k.", ms=4)
        if name in named:
            pca.annotate(labels[name], position[:2], fontsize=7)
    for name in distances:
        distance.plot(found[0].steps, found[0].distances[name].mean(-1), label=labels[name], lw=1)
    draw(last)
    pca.set(xlabel="PC1", ylabel="PC2", title="w^L of all seeds, and references")
    distance.set(xscale="symlog", yscale="log", xlabel="step", ylabel="E |w^L - w_r|²", title=seeds_of(found)[0])
    llc.set(xscale="log", xlabel="step", ylabel="LLC", title="LLC ± 2 errors, all seeds")
    last.set(xscale="symlog", xlabel="step", title=seeds_of(found)[0])
    distance.legend(fontsize=7)
    last.legend(fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def curves_of(found: Sequence[Development], scores: Sequence[Array]) -> dict[str, list[ld.Curve]]:
    """LLC, log loss and components of every seed."""
    curves: dict[str, list[ld.Curve]] = {"LLC": [], "loss": [], "PC1": [], "PC2": [], "PC3": []}
    for each, score in zip(found, scores, strict=True):
        curves["LLC"].append(each.llc)
        steps, loss = series(each.run, "loss/id")
        curves["loss"].append(ld.Curve(steps, np.log(loss), name="log loss"))
        for k in range(COMPONENTS):
            curves[f"PC{k + 1}"].append(ld.Curve(each.steps, score[:, k], name=f"PC{k + 1}"))
    return curves


def stage_lines(curves: Mapping[str, Sequence[ld.Curve]], repetitions: int) -> list[str]:
    """Boundaries that recur over seeds, and how often the detector finds one in nothing."""
    lines, rates = ["## Stages", ""], []
    for name, of_seeds in curves.items():
        component = int(name[2:]) if name.startswith("PC") else None
        try:
            reports = [ld.detect_stages(curve, component=component) for curve in of_seeds]
        except DataError as error:
            lines += [f"{name}: {error}", ""]
            continue
        lines += [f"{name}:", "", "```", str(seed_agreement(reports)), "```", ""]
        if repetitions:
            kinds = ("constant", "monotone", "random_walk") if component is None else ("component",)
            rates += [[name, *str(rate).split(": ")] for rate in null_rates(of_seeds[0], repetitions, kinds=kinds)]
    return [*lines, "## False positives", "", *table(["curve", "nothing", "found"], rates)]
