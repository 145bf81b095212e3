"""Traces, axes and marks of the interactive figures, as the plain data that plotly draws.

A trace that can be pointed at has its run in `meta` and the steps of its points in `customdata`: that is all that links
the figures of a page. Texts from files are escaped, since plotly reads some HTML in them.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.plots.bands import Z95, change_errors, curve_errors, drawable, trusted
from llc_dynamics.plots.step_axis import STEPS, default_width, format_step, step_ticks
from llc_dynamics.plots.style import GRID, INK, MUTED, SeriesStyle
from llc_dynamics.report.numbers import with_error

Trace = dict[str, Any]
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
_MOST_POINTS = 800  # of one line; more cannot be told apart on a screen


def numbers(values: ArrayLike) -> list[float | None]:
    """Six significant digits; None for what no axis can show."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return [float(f"{value:.6g}") if ok else None for value, ok in zip(array, drawable(array), strict=True)]


def shown(text: str, width: int | None = None) -> str:
    """Text as plotly shows it as it is; broken into lines of `width` characters."""
    lines = [text] if width is None else textwrap.wrap(text, width)
    return "<br>".join(html.escape(line, quote=False) for line in lines)


class StepAxis:
    """log(1 + step / s), as `plots.set_step_axis` has it: step 0 is on it."""

    def __init__(self, last: float, first: float = 0.0, width: float | None = None) -> None:
        self.first, self.last = float(first), max(float(last), 1.0)
        self.width = default_width(self.last) if width is None else width

    def place(self, steps: ArrayLike) -> NDArray[np.float64]:
        """Places of steps on the axis."""
        return np.asarray(np.log1p(np.asarray(steps, dtype=np.float64).clip(0) / self.width))

    def at(self, steps: ArrayLike) -> list[float | None]:
        """The same, for a trace."""
        return numbers(self.place(steps))

    def axis(self) -> Trace:
        """The layout of the axis."""
        ticks, minor = step_ticks(self.last, self.width, self.first)
        low, high = np.log1p(np.array([self.first, self.last]) / self.width)
        return axis(
            STEPS,
            tickvals=self.at(ticks),
            ticktext=[format_step(tick) for tick in ticks],
            minor={"tickvals": self.at(minor), "ticks": "outside", "ticklen": 3, "tickcolor": MUTED},
            range=numbers([low - 0.02 * (high - low), high + 0.03 * (high - low)]),
        )

    def layout(self, label: str, log: bool = False, **more: Any) -> Trace:
        """A layout with this axis below and `label` at the side; `meta` says where a step is."""
        y = axis(label, **({"type": "log"} if log else {})) | more.pop("yaxis", {})
        return layout(self.axis(), y, meta={"width": self.width}, **more)


def log_range(curves: Iterable[Curve], also: Iterable[float] = ()) -> Trace:
    """Range and ticks of a logarithmic y axis that holds the curves: decades, and 2 and 5 times these if few."""
    values = np.concatenate([*(curve.values for curve in curves), np.fromiter(also, dtype=np.float64)])
    values = values[drawable(values) & (values > 0)]
    low, high = math.log10(values.min()), math.log10(values.max())
    decades = 10.0 ** np.arange(math.floor(low) - 1, math.ceil(high) + 1)
    ticks = sorted(m * decade for decade in decades for m in ((1, 2, 5) if high - low < 2 else (1,)))
    minor = [m * decade for decade in decades for m in range(1, 10)]
    margin = 0.06 * max(high - low, 0.3)
    return {
        "range": [low - margin, high + margin],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "minor": {"tickvals": minor, "ticks": "outside", "ticklen": 3, "tickcolor": MUTED},
    }


def axis(title: str, **more: Any) -> Trace:
    """An axis in the colours of the page."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": MUTED,
        "tickcolor": MUTED,
        "showline": True,
        "ticks": "outside",
        "zeroline": False,
        "automargin": True,
        **more,
    }


def layout(x: Trace, y: Trace, **more: Any) -> Trace:
    """A layout with the second y axis, from 0 to 1, on which the marked step is drawn."""
    over = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return {"xaxis": x, "yaxis": y, "yaxis2": over, **more}


def dash(style: SeriesStyle) -> str:
    """The line style in plotly's words."""
    return _DASHES.get(style.linestyle, "solid")


def line(
    run: str, steps: ArrayLike, x: Sequence[Any], y: Sequence[Any], style: SeriesStyle, name: str = "", **more: Any
) -> Trace:
    """A line whose points can be pointed at. `run` is whose steps they are, `name` what the line is called."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "name": shown(name or run),
        "legendgroup": name or run,
        "meta": run,
        "customdata": np.asarray(steps).tolist(),
        "line": {"color": style.color, "dash": dash(style), "width": 1.8},
        **more,
    }


def still(x: Sequence[Any], y: Sequence[Any], mode: str = "markers", **more: Any) -> Trace:
    """Something that is not pointed at, unless `more` gives it a text."""
    hover = {"hovertemplate": "%{text}<extra></extra>"} if "hovertext" not in more and "text" in more else {}
    return {"type": "scatter", "mode": mode, "x": x, "y": y, **(hover or {"hoverinfo": "skip"}), **more}


def curve_traces(
    run: str, curve: Curve, axis_of: StepAxis, style: SeriesStyle, *, name: str = "", log: bool = False
) -> list[Trace]:
    """A line through the known points with its 95% bands; dots where points are few or missing in between."""
    known = np.flatnonzero(drawable(curve.values))
    if not len(known):
        return []
    kept = thinned(known, curve.steps[known], axis_of)
    gaps = known[-1] - known[0] + 1 > len(known)
    x = axis_of.at(curve.steps[kept])
    more: Trace = (
        {"mode": "lines+markers", "marker": {"size": 4, "color": style.color}} if gaps or len(kept) < 40 else {}
    )
    drawn = band_traces(curve.at(kept), axis_of, style.color, name or run, log)
    errors = curve_errors(curve)
    if errors is not None:
        more["text"] = [with_error(*pair) for pair in zip(curve.values[kept], errors[kept], strict=True)]
    return [*drawn, line(run, curve.steps[kept], x, numbers(curve.values[kept]), style, name, **more)]


def band_traces(curve: Curve, axis_of: StepAxis, color: str, group: str, log: bool = False) -> list[Trace]:
    """The 95% band of the level and, where errors move together, inside it that of a change to the next point."""
    made = []
    for errors, strength in ((curve_errors(curve), 0.15), (change_errors(curve), 0.38)):
        known = np.isfinite(errors) & drawable(curve.values) if errors is not None else np.zeros(0, dtype=bool)
        if errors is None or known.sum() < 2:
            continue
        values, spread, x = curve.values[known], Z95 * errors[known], axis_of.at(curve.steps[known])
        low, high = values - spread, values + spread
        if log:
            low = np.maximum(low, 0.1 * values)
        made.append(band(x, low, high, color, strength, group))
    return made


def band(x: Sequence[Any], low: NDArray[Any], high: NDArray[Any], color: str, strength: float, group: str) -> Trace:
    """What lies between two curves, in one colour."""
    around = {"fill": "toself", "fillcolor": color, "line": {"width": 0, "color": color}, "opacity": strength}
    return still([*x, *reversed(x)], [*numbers(low), *reversed(numbers(high))], "lines", legendgroup=group, **around)


def thinned(known: NDArray[np.intp], steps: NDArray[Any], axis_of: StepAxis) -> NDArray[np.intp]:
    """At most so many points as a screen can show, evenly along the axis; the first and the last among them."""
    if len(known) <= _MOST_POINTS:
        return known
    place = np.log1p(steps / axis_of.width)
    wanted = np.linspace(place[0], place[-1], _MOST_POINTS)
    return known[np.unique(np.searchsorted(place, wanted).clip(0, len(known) - 1))]


def vertical(at: float | None, color: str, dashed: str = "dot", width: float = 1.2, **more: Any) -> Trace:
    """A line across the panel at a place of the x axis."""
    style = {"color": color, "dash": dashed, "width": width}
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "y domain", "line": style, **more}


def level(value: float, label: str, log: bool = False) -> tuple[Trace, Trace]:
    """A dashed line across the panel at a value (shape), and its label (annotation)."""
    style = {"color": MUTED, "dash": "dash", "width": 1.2}
    across = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": style}
    at = float(np.log10(value)) if log and value > 0 else value
    place = {"xref": "x domain", "x": 0.01, "y": at, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return across, {**place, "text": shown(label), "font": {"size": 11, "color": INK}}


def llc_symbols(curve: Curve, low: float, high: float) -> list[str]:
    """Filled where trusted, hollow where not, triangles where that lies beyond the scale."""
    good = trusted(curve)
    return [
        "circle"
        if ok
        else "triangle-up-open"
        if value > high
        else "triangle-down-open"
        if value < low
        else "circle-open"
        for ok, value in zip(good, curve.values, strict=True)
    ]
