"""Figures of the LLC: over training, at the end against the axis of the runs, and its calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeGuard

import numpy as np

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.finding import sentences
from llc_dynamics.llc import Calibration
from llc_dynamics.plots.bands import Z95, curve_errors, last_step
from llc_dynamics.plots.llc import llc_scale
from llc_dynamics.plots.style import (
    CATEGORICAL,
    INK,
    MUTED,
    WARNING_COLOR,
    Key,
    SeriesStyle,
    axis_colors,
    key_label,
    shown_text,
)
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.figure import Panel, ReportFigure, of_runs
from llc_dynamics.report.interactive import (
    StepAxis,
    Trace,
    axis,
    band_traces,
    layout,
    line,
    llc_symbols,
    numbers,
    shown,
    still,
    vertical,
)
from llc_dynamics.report.numbers import listed, plain, step, with_error
from llc_dynamics.report.words import reaches_the_end, resolution
from llc_dynamics.systems.description import Axis

LLC_LABEL = "Local learning coefficient"


def llc_curves(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """All stored curves, with what did not converge marked."""
    curves: dict[Key, Curve] = {run.label: run.llc for run in analysis.runs if run.llc is not None}
    if not curves:
        return
    crit = {run.label: float(run.t_crit) for run in analysis.runs if run.t_crit is not None and run.label in curves}
    draw = partial(plots.plot_llc_curve, curves, t_crit=crit, styles=styles)
    axis_of = StepAxis(last_step(curves))
    low, high = llc_scale(curves.values())
    traces = [
        trace for key, curve in curves.items() for trace in llc_traces(str(key), curve, axis_of, styles[key], low, high)
    ]
    shapes = [vertical(axis_of.at([at])[0], styles[label].color) for label, at in crit.items()]
    beyond = any(np.any((curve.values < low) | (curve.values > high)) for curve in curves.values())
    more: Trace = {"yaxis": {"range": numbers([low, high])}} if beyond else {}
    panel = Panel(traces, axis_of.layout(LLC_LABEL, shapes=shapes, **more), draw)
    caption = f"Estimated with {resolution(analysis)}. " + (
        "Bars and bands are 95% of the standard error. Hollow points did not pass the convergence checks and should "
        "not be believed (triangles: beyond the scale); crosses are checkpoints without an estimate. A click on a "
        "point shows its chains."
    )
    if any(curve.covariance is not None for curve in curves.values()):
        caption += (
            " All points of a curve have the same noise, so that their errors move together: the light band is the "
            "error of the level, the dark one that of a change from a point to the next."
        )
    if crit:
        caption += " Dotted lines mark the least loss of runs judged transient."
    rows = []
    for label, curve in curves.items():
        bad = 0 if curve.converged is None else int((~curve.converged).sum())
        known = curve.values[np.isfinite(curve.values)]
        span = f"from {plain(known[0])} to {plain(known[-1])}" if len(known) else "without any estimate"
        rows.append(f"{label} {span} up to step {step(curve.steps[-1])}, {bad} of {len(curve)} points unconverged")
    alt = f"Line plot of the LLC over training: {'; '.join(rows)}."
    yield ReportFigure("llc", "LLC over training", caption, alt, [panel], of_runs(styles, list(curves)))


def llc_traces(
    run: str, curve: Curve, axis_of: StepAxis, style: SeriesStyle, low: float, high: float, bands: bool = True
) -> list[Trace]:
    """Bands, and points with their errors and what speaks against them; those beyond the scale stand at its edge."""
    finite = np.isfinite(curve.values)
    made = band_traces(curve, axis_of, style.color, run) if bands else []
    if not finite.all():
        floor = low if math.isfinite(low) else float(np.nanmin(curve.values)) if finite.any() else 0.0
        cross = {"symbol": "x", "size": 8, "color": WARNING_COLOR}
        steps = curve.steps[~finite]
        texts = [f"{shown(run)}, step {step(at)}: no estimate" for at in steps]
        made.append(still(axis_of.at(steps), [floor] * len(steps), marker=cross, text=texts, legendgroup=run))
    points = curve.at(finite)
    if not len(points):
        return made
    errors = curve_errors(points)
    within = (points.values >= low) & (points.values <= high)
    more: Trace = {}
    if errors is not None:
        bars = numbers(np.where(within, Z95 * errors, 0.0))
        more["error_y"] = {"array": bars, "color": style.color, "thickness": 1, "width": 0}
    reasons = getattr(curve, "reasons", None) or ((),) * len(curve)
    kept = [why for why, ok in zip(reasons, finite, strict=True) if ok]
    texts = [
        with_error(value, None if errors is None else error) + (f"<br>{shown(sentences(why), 60)}" if why else "")
        for value, error, why in zip(points.values, points.values if errors is None else errors, kept, strict=True)
    ]
    marker = {
        "symbol": llc_symbols(points, low, high),
        "size": 8,
        "color": style.color,
        "line": {"width": 1.5, "color": style.color},
    }
    more |= {"mode": "lines+markers", "marker": marker, "text": texts, "line": {"color": style.color, "width": 1.1}}
    heights = numbers(points.values.clip(low, high))
    return [*made, line(run, points.steps, axis_of.at(points.steps), heights, style, **more)]


def llc_against_axis(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The last point of each curve, where it is that of the last checkpoint, against a numeric axis of the runs."""
    rows = [
        (run.axis, float(run.axis.value), run.llc)
        for run in analysis.runs
        if run.llc is not None and run.axis is not None and not isinstance(run.axis.value, str) and reaches_the_end(run)
    ]
    if len({place for _, place, _ in rows}) < 2 or len({axis.name for axis, *_ in rows}) > 1:
        return
    places = [place for _, place, _ in rows]
    values = [float(curve.values[-1]) for *_, curve in rows]
    errors = [math.nan if curve.standard_errors is None else float(curve.standard_errors[-1]) for *_, curve in rows]
    good = [True if curve.converged is None else bool(curve.converged[-1]) for *_, curve in rows]
    colors = axis_colors(float(run.axis.value) for run in analysis.runs if _is_numeric(run.axis))
    styles: dict[Key, SeriesStyle] = {place: SeriesStyle(axis.label, colors[place]) for axis, place, _ in rows}
    name = rows[0][0].name
    draw = partial(plots.plot_llc_against, places, values, errors, good, name=shown_text(name), styles=styles)
    panel = Panel(*_against(places, values, errors, good, styles, name), draw)
    caption = "LLC of the last checkpoint of each run, with 95% Monte Carlo error"
    caption += f"; {name} = ∞ stands apart at the right" if any(map(math.isinf, places)) else ""
    caption += ". Hollow points did not converge. Runs may have been trained for different numbers of steps."
    points = [
        f"{axis.label} {plain(value)}{'' if ok else ' (did not converge)'}"
        for (axis, *_), value, ok in zip(rows, values, good, strict=True)
    ]
    alt = f"Plot of the final LLC: {'; '.join(points)}."
    yield ReportFigure("llc-axis", f"LLC at the end against {name}", caption, alt, [panel])


def _against(
    places: list[float],
    values: list[float],
    errors: list[float],
    good: list[bool],
    styles: Mapping[Any, SeriesStyle],
    name: str,
) -> tuple[list[Trace], Trace]:
    """The places evenly in their order: they are few, and infinity is among them."""
    order = {place: number for number, place in enumerate(sorted(set(places)))}
    marker = {
        "symbol": ["circle" if ok else "circle-open" for ok in good],
        "color": [styles[place].color for place in places],
        "size": 9,
    }
    texts = [
        f"{shown(styles[place].label)}<br>{with_error(value, error)}{'' if ok else '<br>did not converge'}"
        for place, value, error, ok in zip(places, values, errors, good, strict=True)
    ]
    bars = {"array": numbers(Z95 * np.array(errors)), "color": MUTED, "thickness": 1.2, "width": 4}
    trace = still([order[place] for place in places], numbers(values), marker=marker, text=texts, error_y=bars)
    ticks = {
        "tickvals": [*order.values()],
        "ticktext": [key_label(place) for place in order],
        "range": [-0.6, len(order) - 0.4],
    }
    return [trace], layout(axis(shown(name), **ticks), axis(f"{LLC_LABEL}<br>at the last checkpoint"))


def _is_numeric(axis: Axis | None) -> TypeGuard[Axis]:
    return axis is not None and not isinstance(axis.value, str)


def calibration(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """What the calibration of the LLC tried, and what it found."""
    found = analysis.calibration
    if found is None or not found.trials:
        return
    chosen = found.settings.sampler.localization
    said = [str(each) for each in found.findings]
    caption = (
        f"How the LLC depends on its resolution, with the {found.loss} loss: each line is a checkpoint, bars are 95%. "
        f"Chosen was gamma = {plain(chosen)}. {'. '.join(text[:1].upper() + text[1:] for text in said)}."
    )
    places = list(dict.fromkeys(trial.place for trial in found.trials))
    alt = (
        f"Line plot of the LLC against the localisation gamma at {listed(places)}; "
        f"{'a plateau was' if found.plateau else 'no plateau was'} seen."
    )
    panel = Panel(*_ladder(found), partial(plots.plot_calibration, found))
    legend = {name: SeriesStyle(name, color) for name, color in _places(found).values()}
    yield ReportFigure(
        "calibration", "Calibration of the LLC", caption, alt, [panel], legend if len(legend) > 1 else {}
    )


def _places(found: Calibration) -> dict[str, tuple[str, str]]:
    """{place: (name, colour)} of the checkpoints that were tried."""
    places = dict.fromkeys(trial.place for trial in found.trials)
    return {
        place: (f"step {int(place):,}" if place.isdigit() else place, CATEGORICAL[number % len(CATEGORICAL)])
        for number, place in enumerate(places)
    }


def _ladder(found: Calibration) -> tuple[list[Trace], Trace]:
    """The last trial at each gamma, a line for each checkpoint; hollow where chains had not explored."""
    kept = {(trial.place, trial.localization): trial for trial in found.trials}
    traces = []
    for place, (name, color) in _places(found).items():
        rungs = sorted((trial for at, trial in kept.items() if at[0] == place), key=lambda each: each.localization)
        texts = [
            f"{shown(name)}, gamma {each.localization:.4g}: {with_error(each.llc, each.standard_error)}<br>"
            f"virial {each.virial:.3f}, {each.draws:,} draws"
            + (f"<br>{shown(sentences(each.reasons), 60)}" if each.reasons else "")
            for each in rungs
        ]
        marker = {"symbol": ["circle" if each.explored else "circle-open" for each in rungs], "size": 8, "color": color}
        bars = {"array": numbers([Z95 * each.standard_error for each in rungs]), "color": color, "thickness": 1.1}
        look = {"line": {"color": color, "width": 1.3}, "marker": marker, "error_y": bars, "legendgroup": name}
        x, y = [each.localization for each in rungs], numbers([each.llc for each in rungs])
        traces.append(still(x, y, "lines+markers", text=texts, **look))
    chosen = found.settings.sampler.localization
    gammas = sorted({chosen, *(trial.localization for trial in kept.values())})
    ticks = {"type": "log", "tickvals": gammas, "ticktext": [f"{float(f'{gamma:.3g}'):,g}" for gamma in gammas]}
    title = "Localisation gamma (finer resolution to the left)"
    return traces, layout(axis(title, **ticks), axis(LLC_LABEL), shapes=[vertical(chosen, INK)])
