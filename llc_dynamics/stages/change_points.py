"""A second opinion on where stages end: change points of several curves of one run at once.

Cells of equal width in x = log(t + 1) hold the points of each curve, averaged with their precisions; a cell in which no
curve was measured is left out, as interpolating over it would make kinks of its own. Between two changes every curve is
a straight line in x of its own. With the noise known, -2 log likelihood is the sum of squared residuals over their
variances, over all curves, and PELT (Killick et al. 2012; `ruptures`, Truong et al. 2020, arXiv 1801.00718) finds the
changes with the least

    -2 log likelihood + penalty (number of changes),    penalty = SCALE (2 d + 1) log n        (BIC)

for d curves on n cells: a change costs each curve a level and a slope, and one place for all of them. Lines that need
not meet place a kink badly, so the places are then fitted again with lines that do meet, as curves over training are
continuous.

There is no account of random walks or smooth bends here: a turn that is round, over a decade or more, is cut at its two
shoulders and not at its extremum. A change point at a boundary of `detect_stages` speaks for it;
that there is none hardly speaks against it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.finding import Finding
from llc_dynamics.ranges import finite_number, whole_number
from llc_dynamics.stages.gaussian_process import MOST_CELLS, fit_curve, shares_of_cells, without_level
from llc_dynamics.stages.points import MIN_POINTS, common_points
from llc_dynamics.stages.verdicts import json_ready

Array = NDArray[np.float64]

#: What the penalty of BIC is multiplied with. With 1 it cuts 12% of straight lines of 30 points on a linear schedule
#: without errors, whose noise has to be estimated (150 draws), and 2% of those of 60 points with errors; with 1.5, 2%
#: and 1%.
SCALE = 1.5
#: Noise counts as at least this share of a curve's range: without noise every bend would be a change.
LEAST_NOISE = 0.02
# A line takes two cells, a third says whether it fits.
_SHORTEST = 3
# Places that are tried for each change when all lines meet, and how often all changes have their turn.
_PLACES, _SWEEPS = 41, 3
# Lines that meet may fit worse than lines that need not by so many penalties for each change: it is .2 at most where
# curves are continuous (kinks, both published stage tables rebuilt), and 9 where one jumps by 50 of its errors.
_MEETING = 3


@dataclass(frozen=True)
class ChangePoints:
    """What `change_points` found.

    Attributes
    ----------
    steps : where the joint signal changes, in order. names : of the curves.
    noise : by name, the typical standard deviation of a cell that its curve was divided by.
    cells : n, the cells that hold a point. penalty : in units of -2 log likelihood.
    notes : what was left out or estimated.
    """

    steps: tuple[float, ...]
    names: tuple[str, ...]
    noise: dict[str, float]
    cells: int
    penalty: float
    notes: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dict(json_ready(asdict(self)))

    def __str__(self) -> str:
        found = ", ".join(f"{step:,.0f}" for step in self.steps) or "none"
        return f"change points of {', '.join(self.names)}: {found}"


@dataclass(frozen=True)
class _InCells:
    """One curve in the cells: mean x and value, and 1 / variance, [cell] each; precision 0 where it has no point."""

    x: Array
    values: Array
    precision: Array


def change_points(
    curves: Mapping[str, Curve],
    *,
    num_cells: int | None = None,
    scale: float = SCALE,
    least_noise: float = LEAST_NOISE,
) -> ChangePoints:
    """Where several curves of one run change their course together, by straight lines in log(t + 1).

    Parameters
    ----------
    curves : `{name: curve}` of one run, such as the LLC, principal components and the out-of-distribution loss; each at
        its own steps, with at least 8 usable points. The variance of a point is the square of its standard error plus
        that of the noise which `fit_curve` finds on top; with a covariance, less that of the level which all points
        share. NaN and unconverged points are left out.
    num_cells : cells between the first and the last step; by default as many as the longest curve has points, at most
        160.
    scale : of the penalty of BIC.
    least_noise : least standard deviation of a cell, as a share of the curve's range.

    Raises `DataError` without curves, with too few points, or for curves whose times do not overlap; `ConfigError` for
    settings out of range; `MissingPackageError` without `ruptures`.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise DataError("change_points: give the curves of one run by name, such as {'LLC': curve, 'OOD loss': loss}")
    scale = finite_number("scale", scale, zero=False)
    least_noise = finite_number("least_noise", least_noise, zero=False)
    if num_cells is not None:
        num_cells = whole_number("num_cells", num_cells, MIN_POINTS)
    used: dict[str, Curve] = {}
    notes: list[Finding] = []
    for name, curve in curves.items():
        points = common_points({name: curve})
        used[name] = points.curves[name]
        notes += points.notes
    times = {name: np.log1p(curve.steps.astype(np.float64)) for name, curve in used.items()}
    _check_overlap(times)
    low, high = min(x[0] for x in times.values()), max(x[-1] for x in times.values())
    count = num_cells if num_cells is not None else min(max(len(x) for x in times.values()), MOST_CELLS)
    edges = np.linspace(low, high, count + 1)
    cells = {name: _in_cells(times[name], curve, edges, least_noise) for name, curve in used.items()}
    kept = np.flatnonzero(sum(each.precision for each in cells.values()) > 0)
    penalty = scale * (2 * len(cells) + 1) * math.log(len(kept))
    table = np.add.reduce([_residuals(each, kept) for each in cells.values()])
    centres = (edges[:-1] + edges[1:]) / 2
    found = [] if len(kept) < 2 * _SHORTEST else _pelt(table, penalty)
    places = [(centres[kept[k - 1]] + centres[kept[k]]) / 2 for k in found]
    noise = {name: float(1 / np.sqrt(np.median(c.precision[c.precision > 0]))) for name, c in cells.items()}
    met = _meeting(list(cells.values()), places, (low, high))
    # where curves jump, lines that meet fit far worse than lines that need not, and bend long before the jump
    apart = sum(float(table[start, stop]) for start, stop in itertools.pairwise([0, *found, len(kept)]))
    if _broken_lines(list(cells.values()), met) > apart + _MEETING * len(found) * penalty:
        met = [float(place) for place in places]
    steps = tuple(float(np.expm1(place)) for place in met)
    return ChangePoints(steps, tuple(used), noise, len(kept), penalty, tuple(notes))


def _check_overlap(times: Mapping[str, Array]) -> None:
    """`DataError` if one curve ends before another begins: there is no joint signal then."""
    first = min(times, key=lambda name: float(times[name][-1]))
    second = max(times, key=lambda name: float(times[name][0]))
    if times[first][-1] < times[second][0]:
        raise DataError(
            f"'{first}' ends at step {np.expm1(times[first][-1]):.0f}, before '{second}' begins at step "
            f"{np.expm1(times[second][0]):.0f}; give curves of one run that were measured over the same time"
        )


def _in_cells(x: Array, curve: Curve, edges: Array, least_noise: float) -> _InCells:
    """Means over the cells. Fitted noise is that of a point, or of a cell of the fit where points are many."""
    count = len(edges) - 1
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, count - 1)
    errors = curve.standard_errors
    fitted = fit_curve(curve).noise ** 2
    shared = errors is not None and bool(errors.any()) and len(x) > MOST_CELLS
    on_top = 0.0 if shared else fitted
    if curve.covariance is None:
        variance = (np.zeros_like(x) if errors is None else np.square(errors)) + on_top
    else:  # lines have levels of their own, so that the one which all points share costs nothing
        together = without_level(curve.covariance)[0] + on_top * np.eye(len(x))
        variance = np.diag(together)
    weight = 1 / np.maximum(variance, 1e-12 * float(np.ptp(curve.values)) ** 2 + 1e-300)
    total = np.bincount(place, weight, count)
    some = total > 0
    divisor = np.where(some, total, 1.0)
    floor = (least_noise * float(np.ptp(curve.values))) ** 2
    of_cell = 1 / divisor
    if curve.covariance is not None:
        share = shares_of_cells(place, weight, count)
        of_cell = ((share @ together) * share).sum(axis=1)
    of_cell = np.maximum(of_cell + (fitted if shared else 0.0), max(floor, 1e-300))
    return _InCells(
        np.bincount(place, weight * x, count) / divisor,
        np.bincount(place, weight * curve.values, count) / divisor,
        np.where(some, 1 / of_cell, 0.0),
    )


def _residuals(cells: _InCells, kept: NDArray[np.intp]) -> Array:
    """Sum of squared residuals over variances of the best line through cells [start, stop), as a table."""
    weight = cells.precision[kept]
    total = weight.sum()
    # moments about the middle: the sums below lose digits otherwise
    x = cells.x[kept] - (weight * cells.x[kept]).sum() / total
    y = cells.values[kept] - (weight * cells.values[kept]).sum() / total
    sums = [np.concatenate([[0.0], np.cumsum(weight * m)]) for m in (np.ones_like(x), x, y, x * x, x * y, y * y)]
    w, sx, sy, sxx, sxy, syy = (each[None, :] - each[:, None] for each in sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        xx, xy, yy = sxx - sx * sx / w, sxy - sx * sy / w, syy - sy * sy / w
        explained = np.where(xx > 1e-12 * np.abs(sxx), xy * xy / xx, 0.0)
    return np.where(w > 0, np.clip(yy - explained, 0.0, None), 0.0)


def _pelt(table: Array, penalty: float) -> list[int]:
    """The first cell of every segment but the first, for costs `table` [start, stop]."""
    from ruptures import Pelt
    from ruptures.base import BaseCost

    class _Lines(BaseCost):
        model = "lines in cells"
        min_size = _SHORTEST

        def fit(self, signal: Array) -> _Lines:
            self.signal = signal
            return self

        def error(self, start: int, end: int) -> float:
            return float(table[start, end])

    search = Pelt(custom_cost=_Lines(), min_size=_SHORTEST, jump=1).fit(np.zeros((len(table) - 1, 1)))
    return [int(k) for k in search.predict(pen=penalty)[:-1]]


def _meeting(cells: list[_InCells], places: list[float], ends: tuple[float, float]) -> list[float]:
    """The same changes where lines that meet fit best, one after the other, halfway to their neighbours at most."""
    places = [float(place) for place in places]
    bounds = [ends[0], *places, ends[1]]
    for _ in range(_SWEEPS if places else 0):
        before = list(places)
        for k in range(len(places)):
            low, high = (bounds[k] + bounds[k + 1]) / 2, (bounds[k + 1] + bounds[k + 2]) / 2
            tried = [*np.linspace(low, high, _PLACES), places[k]]
            costs = [_broken_lines(cells, [*places[:k], place, *places[k + 1 :]]) for place in tried]
            places[k] = float(tried[int(np.argmin(costs))])
        if places == before:
            break
    return places


def _broken_lines(cells: list[_InCells], knots: list[float]) -> float:
    """Sum over the curves of squared residuals over variances of the best continuous lines with these knots."""
    cost = 0.0
    for each in cells:
        some = each.precision > 0
        x, root = each.x[some], np.sqrt(each.precision[some])
        design = np.stack([np.ones_like(x), x, *(np.maximum(x - knot, 0.0) for knot in knots)], axis=1) * root[:, None]
        target = root * each.values[some]
        line, *_ = np.linalg.lstsq(design, target, rcond=None)
        cost += float(np.square(target - design @ line).sum())
    return cost
