"""Developmental stages: the curve, what was fitted to it, and where one stage ends and the next begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.plots.bands import Z95, curve_errors, trusted
from llc_dynamics.plots.step_axis import set_step_axis
from llc_dynamics.plots.style import (
    CATEGORICAL,
    GRID,
    INK,
    MUTED,
    PAPER,
    Key,
    SeriesStyle,
    axes_or_new,
    panel_title,
    series_styles,
    small_legend,
    small_size,
)
from llc_dynamics.stages.agreement import agreement
from llc_dynamics.stages.change_points import ChangePoints
from llc_dynamics.stages.developmental import StageReport
from llc_dynamics.stages.null_curves import NullRate

_FIT, _RESOLVED = CATEGORICAL[0], CATEGORICAL[1]
STAGE_TYPES = {
    "rise": (CATEGORICAL[5], "rise"),
    "fall": (CATEGORICAL[4], "fall"),
    "flat": (CATEGORICAL[2], "flat"),
    "unresolved": (GRID, "–"),
}
_MARKERS = ("^", "D", "s")
# Height of the strip of stages, and of a row of probabilities, in heights of the axes.
_STRIP, _ROW = 0.055, 0.075
# Narrower stages get no word, nearer probabilities stand in the next row; both in widths of the axes.
_NARROW, _NEAR = 0.05, 0.085


def plot_stages(
    report: StageReport,
    curve: Curve | None = None,
    *,
    changes: ChangePoints | Mapping[str, ChangePoints] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The fit of `detect_stages` with its 95% band, the boundaries with their intervals, and the stages.

    Where the errors of the points have a covariance, a darker band within is that of the shape: without the level which
    all points share.

    Resolved boundaries are solid lines with their probability, the others dashed and faint; shaded is each boundary's
    interval. The strip along the top says what lies between: a rise, a fall, flat, or a dash where the change is not
    resolved.

    Parameters
    ----------
    report : what `ld.detect_stages` found. curve : the one it was found in; points with 95% of the standard errors,
        hollow where unconverged (the detector left those out).
    changes : what `change_points` found, as marks on the lower edge, filled where they agree with a resolved boundary;
        with several, `{name: changes}`, one row each (triangles, diamonds, ...) and a legend.
    title : over the left edge.
    ax : where to draw; a new figure if None.
    """
    if not isinstance(report, StageReport):
        raise DataError(f"plot_stages: report is a {type(report).__name__}; give what ld.detect_stages returned")
    if curve is not None and not isinstance(curve, Curve):
        raise DataError(f"plot_stages: curve is a {type(curve).__name__}; give the ld.Curve that the report is about")
    marks = _named(changes)
    ax = axes_or_new(ax)
    fit = report.fit
    steps = np.expm1(fit.grid)
    if curve is not None:
        _points(ax, curve)
    of_shape = np.sqrt(np.clip(fit.mean_error**2 - fit.level_error**2, 0.0, None))
    for error in (fit.mean_error, of_shape) if fit.level_error > 0 else (fit.mean_error,):
        ax.fill_between(steps, fit.mean - Z95 * error, fit.mean + Z95 * error, color=_FIT, alpha=0.18, linewidth=0)
    ax.plot(steps, fit.mean, color=_FIT, zorder=3, gid="fit", label="_fit")
    last = float(steps[-1]) if curve is None else float(max(steps[-1], curve.steps[-1]))
    set_step_axis(ax, last, first_scale(steps, curve))
    low, high = stage_scale(report, curve)
    taken: list[tuple[float, int]] = []
    # a margin above the curve for the strip and the probabilities
    places = [_across(ax, boundary.step) for boundary in report.resolved]
    rows = [_row(taken, place) for place in places]
    share = _STRIP + _ROW * (max(rows, default=-1) + 1) + 0.02
    ax.set_ylim(low, low + (high - low) / (1 - share))
    for boundary in report.boundaries:
        color = _RESOLVED if boundary.resolved else MUTED
        solid = boundary.resolved
        ax.axvspan(*boundary.interval, ymax=1 - _STRIP, color=color, alpha=0.16 if solid else 0.07, linewidth=0)
        ax.axvline(
            boundary.step,
            ymax=1 - _STRIP,
            color=color,
            linewidth=1.3 if solid else 0.8,
            linestyle="-" if solid else "--",
            alpha=1.0 if solid else 0.7,
            gid="resolved" if solid else "unresolved",
            label="_boundary",
        )
    for boundary, place, row in zip(report.resolved, places, rows, strict=True):
        leftwards = place > 1 - _NEAR
        ax.annotate(
            f"{boundary.probability:.2f}" if boundary.probability < 0.995 else ">.99",
            (boundary.step, 1 - _STRIP - _ROW * row - 0.012),
            xycoords=ax.get_xaxis_transform(),
            xytext=(-3 if leftwards else 3, 0),
            textcoords="offset points",
            ha="right" if leftwards else "left",
            va="top",
            fontsize=small_size(ax),
            color=_RESOLVED,
            gid="probability",
        )
    _strip(ax, report)
    _marks(ax, report, marks)
    ax.set_ylabel(report.name)
    if title is not None:
        panel_title(ax, title)
    return ax


def plot_null_rates(
    rates: Mapping[Any, Sequence[NullRate]] | Sequence[NullRate],
    *,
    styles: Mapping[Any, SeriesStyle] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How often a boundary was found in curves without stages, in percent, with 95% intervals.

    Parameters
    ----------
    rates : what `ld.stages.null_rates` returned, or `{key: rates}`, such as for several runs.
    styles : `{key: SeriesStyle}`. ax : where to draw; a new figure if None.
    """
    named: dict[Key, Sequence[NullRate]] = dict(rates) if isinstance(rates, Mapping) else {"null check": rates}
    if not named or not all(len(found) for found in named.values()):
        raise DataError("plot_null_rates: no rates were given; give what ld.stages.null_rates returned")
    ax = axes_or_new(ax)
    for number, (key, style) in enumerate(series_styles(named, styles).items()):
        shares = 100 * np.array([(each.rate, *each.interval) for each in named[key]])
        x = np.arange(len(shares)) + 0.5 * ((number + 0.5) / len(named) - 0.5)
        bars = np.abs(shares[:, 1:] - shares[:, :1]).T
        ax.errorbar(x, shares[:, 0], bars, fmt="o", color=style.color, markersize=5, capsize=2.5, label=style.label)
    kinds = [each.kind.replace("_", "\n") for each in next(iter(named.values()))]
    ax.set_xticks(range(len(kinds)), kinds)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("Curves with a boundary (%)")
    small_legend(ax)
    return ax


def _named(changes: Any) -> Mapping[str, ChangePoints]:
    """By name, one alone by none; `DataError` for anything but `ChangePoints`."""
    named = changes if isinstance(changes, Mapping) else {} if changes is None else {"": changes}
    for each in named.values():
        if not isinstance(each, ChangePoints):
            raise DataError(
                f"plot_stages: changes is or holds a {type(each).__name__}; give what change_points returned, or "
                "{name: ...} of several"
            )
    return named


def _points(ax: Axes, curve: Curve) -> None:
    finite = np.isfinite(curve.values)
    good = trusted(curve)
    errors = curve_errors(curve)
    if errors is not None:
        shown = good & np.isfinite(errors)
        bars = Z95 * errors[shown]
        ax.errorbar(
            curve.steps[shown], curve.values[shown], bars, fmt="none", ecolor=MUTED, elinewidth=0.8, alpha=0.7, zorder=2
        )
    size = 3.4 if len(curve) <= 100 else 2.2
    common: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": INK, "markersize": size, "zorder": 2.5}
    ax.plot(curve.steps[good], curve.values[good], gid="points", label="_points", alpha=0.75, **common)
    doubtful = finite & ~good
    if doubtful.any():
        ax.plot(
            curve.steps[doubtful],
            curve.values[doubtful],
            gid="unconverged",
            label="_unconverged",
            markerfacecolor=PAPER,
            **common,
        )


def stage_scale(report: StageReport, curve: Curve | None) -> tuple[float, float]:
    """The range of the fit and of the points that were used; unconverged ones may lie beyond."""
    fit = report.fit
    values = [fit.mean - Z95 * fit.mean_error, fit.mean + Z95 * fit.mean_error]
    if curve is not None:
        values.append(curve.values[trusted(curve)])
    every: NDArray[np.float64] = np.concatenate(values)
    low, high = float(every.min()), float(every.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def first_scale(steps: NDArray[np.float64], curve: Curve | None) -> float | None:
    known = steps if curve is None else curve.steps[curve.steps > 0]
    return max(1.0, float(known[known >= 1][0])) if (known >= 1).any() else None


def _across(ax: Axes, step: float) -> float:
    """Where a step is, in widths of the axes."""
    low, high = (float(ax.transData.transform((edge, 0))[0]) for edge in ax.get_xlim())
    return (float(ax.transData.transform((step, 0))[0]) - low) / (high - low)


def _row(taken: list[tuple[float, int]], place: float) -> int:
    """The first row in which a probability at `place` stands clear of those before it."""
    needed = 2 * _NEAR if place > 1 - _NEAR else _NEAR
    near = {row for other, row in taken if place - other < needed}
    row = min(set(range(len(near) + 1)) - near)
    taken.append((place, row))
    return row


def _strip(ax: Axes, report: StageReport) -> None:
    transform = ax.get_xaxis_transform()
    for stage in report.stages:
        color, word = STAGE_TYPES[stage.type]
        ax.axvspan(stage.start, stage.end, ymin=1 - _STRIP, color=color, alpha=0.75, linewidth=0, gid="stage")
        left, right = _across(ax, stage.start), _across(ax, stage.end)
        if right - left < _NARROW:
            continue
        middle = (left + right) / 2
        ax.text(
            middle,
            1 - _STRIP / 2,
            word,
            transform=ax.transAxes,
            ha="center",
            va="center",
            fontsize=small_size(ax),
            color=INK,
            gid="type",
        )
    for stage in report.stages[1:]:
        ax.plot([stage.start] * 2, [1 - _STRIP, 1], transform=transform, color=PAPER, linewidth=1.2, label="_edge")


def _marks(ax: Axes, report: StageReport, changes: Mapping[str, ChangePoints]) -> None:
    for row, (name, found) in enumerate(changes.items()):
        alone = agreement(report, found).alone
        both = [step for step in found.steps if step not in alone]
        marker = _MARKERS[row % len(_MARKERS)]
        common: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 5.5, "zorder": 5}
        for steps, fill, gid in ((both, _RESOLVED, "agreed change"), (list(alone), PAPER, "change")):
            place = np.full(len(steps), 0.025 + 0.05 * row)
            look = {**common, "color": _RESOLVED, "markerfacecolor": fill}
            ax.plot(steps, place, transform=ax.get_xaxis_transform(), gid=gid, label="_change", **look)
        ax.plot([], [], label=f"change points, {name}", color=_RESOLVED, markerfacecolor=PAPER, **common)
    if len(changes) > 1:
        small_legend(ax, loc="upper left", bbox_to_anchor=(0.0, 1 - _STRIP))
