"""Figures of the stages of the LLC: what was fitted, the boundaries, and what lies between."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from llc_dynamics import plots
from llc_dynamics.plots.bands import Z95
from llc_dynamics.plots.stages import STAGE_TYPES, first_scale, stage_scale
from llc_dynamics.plots.style import CATEGORICAL, INK, MUTED, Key, SeriesStyle
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.developmental import LLC, NOTHING, StageFindings
from llc_dynamics.report.figure import Panel, ReportFigure, of_runs
from llc_dynamics.report.interactive import StepAxis, Trace, axis, band, layout, numbers, shown, still, vertical
from llc_dynamics.report.llc_figures import LLC_LABEL, llc_traces
from llc_dynamics.report.numbers import listed, step, steps_between
from llc_dynamics.stages import StageReport, agreement

_MAX_PANELS = 8
_FIT, _RESOLVED = CATEGORICAL[0], CATEGORICAL[1]
_SYMBOLS = ("triangle-up", "diamond", "square")


def stages(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The LLC with its boundaries, and the change points below; a panel for each run."""
    found: dict[str, StageFindings] = {
        run.label: run.stages for run in analysis.runs if run.stages is not None and LLC in run.stages.reports
    }
    if not found:
        return
    shown_ones = dict(list(found.items())[:_MAX_PANELS])
    panels = [_stage_panel(label, each) for label, each in shown_ones.items()]
    caption = (
        "Points: the estimates with 95% of their errors, hollow where they did not converge and were left out. Blue: "
        "the fitted curve with its 95% band, darker that of its shape. Orange lines: boundaries between stages that "
        "are resolved, with their interval shaded; dashed grey lines: candidates that are not. The strip says whether "
        "the curve rises or falls in a stage; a dash means not resolved. Marks on the lower edge: change points of the "
        "LLC alone (triangles) and of the joint signal with losses and components (diamonds), filled where they lie "
        "within 0.1 decades of a resolved boundary, so that both methods agree. Straight lines cut a round turn at "
        "its two shoulders, so what is not found again is not thereby refuted. `llc-dynamics report --null-check` "
        "gives the false-positive rate at these points and errors."
    )
    if len(shown_ones) < len(found):
        caption += f" {len(shown_ones)} of {len(found)} runs are shown."
    rows = []
    for label, each in shown_ones.items():
        resolved = each.reports[LLC].resolved
        rows.append(f"{label}: {listed([step(one.step) for one in resolved]) if resolved else 'none'}")
    alt = f"Line plots of the LLC with boundaries between stages, at steps: {'; '.join(rows)}."
    yield ReportFigure("stages", "Developmental stages of the LLC", caption, alt, panels)


def _stage_panel(label: str, found: StageFindings) -> Panel:
    report, curve = found.reports[LLC], found.curves[LLC]
    steps = np.expm1(report.fit.grid)
    axis = StepAxis(max(float(steps[-1]), float(curve.steps[-1])), width=first_scale(steps, curve))
    low, high = stage_scale(report, curve)
    traces = [*_fit(report, axis), *llc_traces(label, curve, axis, SeriesStyle(label, INK), low, high, bands=False)]
    shapes, annotations = _bands(report, axis)
    traces += [*_boundaries(report, axis, high), *_changes(found, axis, low, high)]
    room = 0.14 * (high - low)
    layout = axis.layout(LLC_LABEL, shapes=shapes, annotations=annotations)
    layout["yaxis"]["range"] = numbers([low - 0.3 * room, high + room])
    draw = partial(plots.plot_stages, report, curve, changes=found.changes)
    return Panel(traces, layout, draw, label)


def _fit(report: StageReport, axis: StepAxis) -> list[Trace]:
    fit = report.fit
    x = axis.at(np.expm1(fit.grid))
    of_shape = np.sqrt(np.clip(fit.mean_error**2 - fit.level_error**2, 0.0, None))
    errors = (fit.mean_error, of_shape) if fit.level_error > 0 else (fit.mean_error,)
    made = [band(x, fit.mean - Z95 * error, fit.mean + Z95 * error, _FIT, 0.18, "fit") for error in errors]
    return [*made, still(x, numbers(fit.mean), "lines", line={"color": _FIT, "width": 1.8})]


def _bands(report: StageReport, axis: StepAxis) -> tuple[list[Trace], list[Trace]]:
    """Boundaries with their intervals (shapes), and the strip of the stages with its signs (annotations)."""
    shapes: list[Trace] = []
    annotations: list[Trace] = []
    first, last = axis.place([axis.first, axis.last])
    flat = {"type": "rect", "yref": "y domain", "line": {"width": 0}, "layer": "below"}
    for each in report.boundaries:
        color = _RESOLVED if each.resolved else MUTED
        start, end = axis.at(each.interval)
        area = {"x0": start, "x1": end, "y0": 0, "y1": 0.945}
        shapes.append({**flat, **area, "fillcolor": color, "opacity": 0.2 if each.resolved else 0.08})
        shapes.append(vertical(axis.at([each.step])[0], color, "solid" if each.resolved else "dash"))
    for stage in report.stages:
        color, word = STAGE_TYPES[stage.type]
        start, end = axis.place([stage.start, stage.end])
        shapes.append({**flat, "x0": start, "x1": end, "y0": 0.945, "y1": 1, "fillcolor": color, "opacity": 0.75})
        place = {"yref": "y domain", "showarrow": False, "yanchor": "middle", "font": {"size": 11, "color": INK}}
        if end - start > 0.08 * (last - first):  # narrower ones have no room for a word
            annotations.append({"x": (start + end) / 2, "y": 0.9725, **place, "text": word})
    return shapes, annotations


def _boundaries(report: StageReport, axis: StepAxis, high: float) -> list[Trace]:
    """What is said when a boundary is pointed at."""
    texts = [
        f"{each.kind} at step {step(each.step)}<br>{report.level:.0%} interval {steps_between(each.interval)}<br>"
        f"probability {each.probability:.2f}{'' if each.resolved else ' (not resolved)'}"
        for each in report.boundaries
    ]
    marker = {
        "symbol": "circle",
        "size": 8,
        "color": [_RESOLVED if each.resolved else MUTED for each in report.boundaries],
    }
    x = axis.at([each.step for each in report.boundaries])
    return [still(x, [high] * len(x), marker=marker, text=texts)] if texts else []


def _changes(found: StageFindings, axis: StepAxis, low: float, high: float) -> list[Trace]:
    """Change points on the lower edge, a row for each kind, filled where they agree with a resolved boundary."""
    made = []
    for row, (name, changes) in enumerate(found.changes.items()):
        alone = agreement(found.reports[LLC], changes).alone
        symbol = _SYMBOLS[row % len(_SYMBOLS)]
        marker = {
            "symbol": [f"{symbol}-open" if at in alone else symbol for at in changes.steps],
            "size": 9,
            "color": _RESOLVED,
        }
        texts = [f"change point, {shown(name)}, at step {step(at)}" for at in changes.steps]
        height = low + 0.05 * row * (high - low)
        if texts:
            made.append(still(axis.at(changes.steps), [height] * len(texts), marker=marker, text=texts))
    return made


def null_rates(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """How often a boundary is found where there is none, for each run that was checked."""
    rates = {run.label: run.null_rates for run in analysis.runs if run.null_rates}
    if not rates:
        return
    kinds = [each.kind for each in next(iter(rates.values()))]
    traces = []
    for number, (label, found) in enumerate(rates.items()):
        x = [place + 0.5 * ((number + 0.5) / len(rates) - 0.5) for place in range(len(kinds))]
        shares = 100 * np.array([(each.rate, *each.interval) for each in found])
        color = styles[label].color
        bars = {"array": numbers(shares[:, 2] - shares[:, 0]), "arrayminus": numbers(shares[:, 0] - shares[:, 1])}
        texts = [f"{shown(label)}: {each}" for each in found]
        look: Trace = {"marker": {"size": 9, "color": color}, "legendgroup": label}
        traces.append(still(x, numbers(shares[:, 0]), text=texts, error_y={**bars, "color": color}, **look))
    ticks = {"tickvals": list(range(len(kinds))), "ticktext": [kind.replace("_", "<br>") for kind in kinds]}
    side = axis("Curves with a boundary (%)", rangemode="tozero")
    panel = Panel(traces, layout(axis("", **ticks), side), partial(plots.plot_null_rates, rates, styles=styles))
    caption = (
        "The detector on curves that have no stages, made at the points and with the errors of each run's curve: "
        f"{'; '.join(NOTHING[kind] for kind in kinds)}. Bars are 95% intervals of the "
        f"rates, from {next(iter(rates.values()))[0].repetitions} curves of each kind."
    )
    rows = [f"{label}: {', '.join(f'{each.rate:.0%}' for each in found)}" for label, found in rates.items()]
    alt = f"False-positive rates of boundaries on {listed(list(kinds))} curves. {'; '.join(rows)}."
    legend = of_runs(styles, list(rates))
    yield ReportFigure("null-rates", "False-positive rates of the stages", caption, alt, [panel], legend)
