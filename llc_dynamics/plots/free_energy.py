"""Which of two solutions the free energy prefers at every sample size, and where they change places."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from llc_dynamics.errors import ConfigError
from llc_dynamics.plots.style import (
    INK,
    MUTED,
    Key,
    SeriesStyle,
    axes_or_new,
    draw_mark,
    panel_title,
    series_styles,
    small_legend,
    small_size,
)
from llc_dynamics.ranges import numbers_of
from llc_dynamics.theory import Crossover, Solution, crossover, preference
from llc_dynamics.theory.free_energy import size_in_words

Pair = tuple[Solution, Solution]


def plot_free_energy(
    pairs: Pair | Mapping[Any, Pair],
    *,
    n: ArrayLike | None = None,
    loss_difference_error: float | Mapping[Any, float] | None = None,
    level: float = 0.9,
    styles: Mapping[Any, SeriesStyle] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """F(accurate) - F(simple) against n with its band; a dot is n*, the bar through it its interval.

    Above zero the simple solution is preferred, below it the accurate one. An interval that runs to the edge of the
    figure may go on beyond it; the numbers are those of `ld.theory.crossover`.

    Parameters
    ----------
    pairs : (simple, accurate), two `ld.theory.Solution`, or `{key: (simple, accurate)}`.
    n : sample sizes [N] above 1; by default from 3 to well beyond the latest crossover.
    loss_difference_error : see `ld.theory.preference`; `{key: error}` with several pairs.
    level : probability of band and interval. The interval is where the band holds zero.
    styles : `{key: SeriesStyle}`. ax : where to draw; a new figure if None.

    Raises `ConfigError` for what is no pair of solutions, and as `ld.theory.crossover` does.
    """
    given = _as_mapping(pairs)
    paired = {
        key: loss_difference_error.get(key) if isinstance(loss_difference_error, Mapping) else loss_difference_error
        for key in given
    }
    crossings = {
        key: crossover(simple=simple, accurate=accurate, loss_difference_error=paired[key], level=level)
        for key, (simple, accurate) in given.items()
    }
    unknown = [
        key for key in (loss_difference_error if isinstance(loss_difference_error, Mapping) else ()) if key not in given
    ]
    if unknown:
        raise ConfigError(
            f"plot_free_energy: loss_difference_error is given for {unknown[0]!r}, but the pairs are {list(given)}"
        )
    sizes = _default_sizes(crossings) if n is None else np.sort(np.atleast_1d(numbers_of("n", n)))
    z = float(ndtri(0.5 + level / 2))
    ax = axes_or_new(ax)
    found = series_styles(given, styles)
    single = len(given) == 1
    heights = []
    for key, style in found.items():
        simple, accurate = given[key]
        gap = preference(accurate, simple, sizes, loss_difference_error=paired[key])
        color = INK if single and (styles is None or key not in styles) else style.color
        low, high = gap.difference - z * gap.standard_error, gap.difference + z * gap.standard_error
        ax.fill_between(gap.n, low, high, color=color, alpha=0.16, linewidth=0)
        crossing = crossings[key]
        label = style.label + ("" if crossing.kind == "crosses" else f" ({crossing.kind} yields)")
        ax.plot(gap.n, gap.difference, color=color, gid="difference", label=label)
        _mark(ax, crossing, color, sizes)
        heights.append(_height(crossing))
    ax.axhline(0.0, color=MUTED, linewidth=0.9, zorder=1.5)
    ax.set_xscale("log")
    ax.set_xlim(sizes[0], sizes[-1])
    # Beyond n* the difference falls in proportion to n: show as much of it as of the hump before.
    top = max(heights)
    if math.isfinite(top) and top > 0:
        ax.set_ylim(-1.35 * top, 1.35 * top)
    ax.set_xlabel("Number of samples n (log scale)")
    first, second = next(iter(given.values()))
    names = (second.name, first.name) if single else ("accurate", "simple")
    ax.set_ylabel(f"Free energy of {names[0]}\nminus that of {names[1]} (nats)")
    _say_sides(ax, *names)
    if single:
        panel_title(ax, _title(crossings[next(iter(given))]))
    else:
        small_legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _as_mapping(pairs: Any) -> dict[Key, Pair]:
    found: dict[Key, Any] = dict(pairs) if isinstance(pairs, Mapping) else {"pair": pairs}
    if not found:
        raise ConfigError(
            "plot_free_energy: no pairs were given; give (simple, accurate), or a mapping of such pairs by name"
        )
    for key, pair in found.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(
                f"plot_free_energy: {key!r} is a {type(pair).__name__}; give a pair (simple, accurate) of "
                "theory.Solution"
            )
    return found


def _default_sizes(crossings: Mapping[Key, Crossover]) -> NDArray[np.float64]:
    reach = [1e4]
    for crossing in crossings.values():
        if crossing.n is not None:
            reach.append(6 * crossing.n)
            if crossing.interval is not None and math.isfinite(crossing.interval[1]):
                reach.append(min(3 * crossing.interval[1], 1e3 * crossing.n))
    return np.geomspace(3.0, max(reach), 400)


def _height(crossing: Crossover) -> float:
    """Of the hump, at n = dlambda/dl; that of the price at n = 1,000 where there is none."""
    gain, cost = crossing.loss_difference, crossing.llc_difference
    if crossing.kind == "crosses" and cost > 0:
        return cost * max(math.log(cost / gain) - 1, 0.1)
    return abs(cost) * math.log(1e3) + abs(gain) * 10


def _mark(ax: Axes, crossing: Crossover, color: str, sizes: NDArray[np.float64]) -> None:
    if crossing.interval is not None:
        low, high = (min(max(end, sizes[0]), sizes[-1]) for end in crossing.interval)
        if low < high:
            ax.plot([low, high], [0, 0], color=color, linewidth=3.2, alpha=0.55, gid="interval", zorder=3)
    if crossing.n is not None:
        draw_mark(ax, (crossing.n, 0), color=color, marker="o", size=6.5, gid="crossover", zorder=4)


def _say_sides(ax: Axes, accurate: str, simple: str) -> None:
    for place, name, side in ((0.97, simple, "top"), (0.03, accurate, "bottom")):
        look: dict[str, Any] = {"fontsize": small_size(ax), "color": MUTED}
        ax.text(0.015, place, f"{name} preferred", transform=ax.transAxes, va=side, **look)


def _title(crossing: Crossover) -> str:
    if crossing.n is None:
        return f"{crossing.simple} {crossing.kind} yields to {crossing.accurate}"
    text = f"n* = {size_in_words(crossing.n)}"
    if crossing.interval is not None and crossing.interval[0] < crossing.interval[1]:
        low, high = crossing.interval
        text += f" ({crossing.level:.0%}: {size_in_words(low)} to {size_in_words(high)})"
    return text
