"""How often a detector finds what is there, against how strong it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from scipy.stats import binomtest

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.plots.style import CATEGORICAL, MUTED, axes_or_new, panel_title, small_legend, small_size
from llc_dynamics.ranges import between_0_and_1, numbers_of, whole_number

_NEEDED = ("strength", "noise", "found", "repetitions")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Of the width of the axes: the lines are set apart by so much, that their bars do not hide one another.
_APART = 0.008


def plot_power(
    rows: Iterable[Mapping[str, Any]],
    *,
    strength_label: str = "Strength",
    noise_name: str = "noise",
    level: float = 0.95,
    alarm_rate: float | None = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of repetitions in which something was found, against its strength: one line for each size of the noise.

    Bars are exact binomial intervals (Clopper and Pearson 1934); the dashed line is the rate of false alarms that is
    allowed, to be compared with the points at strength 0.

    Parameters
    ----------
    rows : each with `strength`, `noise`, `found` (a count) and `repetitions`; other entries are not looked at.
    strength_label : of the horizontal axis. noise_name : what the lines differ in, for the legend.
    level : probability of the intervals. alarm_rate : where the dashed line is, None for no line.
    title : over the left edge. ax : where to draw; a new figure if None.

    Raises `DataError` without rows, for rows that lack an entry, and for counts that are no counts; `ConfigError` for a
    level outside (0, 1).
    """
    between_0_and_1("level", level)
    lines = _lines(rows)
    ax = axes_or_new(ax)
    strengths = {point[0] for line in lines.values() for point in line}
    width = max(strengths) - min(strengths)
    for number, (noise, line) in enumerate(sorted(lines.items())):
        shift = _APART * width * (number - (len(lines) - 1) / 2)
        line = sorted(line)
        shares = [found / repetitions for _, found, repetitions in line]
        intervals = [binomtest(found, repetitions).proportion_ci(level) for _, found, repetitions in line]
        below = [max(share - interval.low, 0.0) for share, interval in zip(shares, intervals, strict=True)]
        above = [max(interval.high - share, 0.0) for share, interval in zip(shares, intervals, strict=True)]
        ax.errorbar(
            [strength + shift for strength, _, _ in line],
            shares,
            [below, above],
            color=CATEGORICAL[number % len(CATEGORICAL)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1.3,
            elinewidth=0.9,
            capsize=2,
            label=f"{noise_name} {noise:g}",
        )
    if alarm_rate is not None:
        ax.axhline(alarm_rate, color=MUTED, linewidth=0.9, linestyle="--", zorder=1.5, gid="alarm rate")
        ax.annotate(
            f"{alarm_rate:.0%}", (1, alarm_rate), xycoords=("axes fraction", "data"), xytext=(0, 2),
            textcoords="offset points", ha="right", va="bottom", fontsize=small_size(ax), color=MUTED,
        )  # fmt: skip
    ax.set_ylim(-0.03, 1.03)
    ax.set(xlabel=strength_label, ylabel="Share found")
    if title is not None:
        panel_title(ax, title)
    small_legend(ax)
    return ax


def _lines(rows: Iterable[Mapping[str, Any]]) -> dict[float, list[tuple[float, int, int]]]:
    """(strength, found, repetitions) of every row, by noise."""
    lines: dict[float, list[tuple[float, int, int]]] = {}
    if not isinstance(rows, Iterable):
        raise DataError(f"plot_power: rows is a {type(rows).__name__}; give a list of {{{', '.join(_NEEDED)}}}")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"plot_power: row {number} is a {type(row).__name__}; give a mapping with {', '.join(_NEEDED)}"
            )
        missing = [name for name in _NEEDED if name not in row]
        if missing:
            raise DataError(f"plot_power: row {number} lacks {', '.join(missing)}; it needs {', '.join(_NEEDED)}")
        try:
            found = whole_number("found", row["found"], 0)
            repetitions = whole_number("repetitions", row["repetitions"], max(found, 1))
            strength, noise = (float(numbers_of(name, row[name])) for name in ("strength", "noise"))
        except (ConfigError, TypeError) as error:
            raise DataError(
                f"plot_power: row {number} has found={row['found']!r} of repetitions={row['repetitions']!r} at "
                f"strength={row['strength']!r}, noise={row['noise']!r}; give two whole numbers, the "
                "first from 0 to the second, and numbers for strength and noise"
            ) from error
        lines.setdefault(noise, []).append((strength, found, repetitions))
    if not lines:
        raise DataError("plot_power: no rows were given; give one for each strength and noise")
    return lines
