"""Figures of metrics: losses on which transitions are judged, distances to references, other losses, and the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.bands import last_step, suits_log_scale, value_at
from llc_dynamics.plots.losses import since_minimum
from llc_dynamics.plots.style import CATEGORICAL, INK, LINES, PAPER, Key, SeriesStyle, shown_text
from llc_dynamics.report.analysis import Analysis, RunAnalysis
from llc_dynamics.report.figure import Panel, ReportFigure, curves_of, of_runs, spread
from llc_dynamics.report.interactive import StepAxis, Trace, curve_traces, level, log_range, numbers, still, vertical
from llc_dynamics.report.numbers import listed, plain, step, steps_between
from llc_dynamics.report.reading import last_value
from llc_dynamics.report.transitions import TransitionFindings
from llc_dynamics.systems.description import loss_metric

_MAX_PANELS = 8
_MAX_LOSSES = 9
_MAX_OTHERS = 6
TRAIN_LOSS = "train_loss"


def judged_losses(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The loss on each probe on which a transition is judged, with t_crit, and its rebound."""
    for probe in dict.fromkeys(each.transition.probe for run in analysis.runs for each in run.transitions):
        runs = [run for run in analysis.runs if loss_metric(probe) in run.curves]
        if runs:
            verdicts = {run.label: found for run in runs if (found := _judged_on(run, probe)) is not None}
            words = probe_words(runs, probe)
            yield _judged_loss(runs, probe, words, verdicts, styles)
            yield from _rebound(runs, probe, words, verdicts, styles)


def _judged_on(run: RunAnalysis, probe: str) -> TransitionFindings | None:
    """The first transition judged on a probe, a transient one before others."""
    found = [each for each in run.transitions if each.transition.probe == probe and each.transience is not None]
    return min(found, key=lambda each: each.t_crit is None, default=None)


def _judged_loss(
    runs: Sequence[RunAnalysis],
    probe: str,
    words: str,
    judged: dict[str, TransitionFindings],
    styles: dict[Key, SeriesStyle],
) -> ReportFigure:
    metric = loss_metric(probe)
    curves = curves_of(runs, metric)
    levels, apart = _general_levels(runs, probe)
    verdicts = {label: found.transience for label, found in judged.items()}
    shown = {shown_text(name): value for name, value in levels.items()}
    label = loss_label(runs, words)
    draw = partial(plots.plot_loss, curves, ylabel=shown_text(label), levels=shown, verdicts=verdicts, styles=styles)
    marks = [
        mark
        for key, verdict in verdicts.items()
        if verdict is not None and verdict.transient
        for mark in _crit_marks(curves[key], verdict, StepAxis(last_step(curves)), styles[key])
    ]
    panel = _panel(curves, label, styles, draw=draw, levels=levels, marks=marks)
    crit = [f"{label} at step {step(found.t_crit)}" for label, found in judged.items() if found.t_crit is not None]
    caption = (
        "Diamonds mark the least loss of runs that were judged transient, with the interval of that step as a bar. "
        "Bands are 95% of the sampling error over the evaluation samples. All checkpoints share these samples, so "
        "that a change along one curve is far more certain than its band suggests."
    )
    if apart:
        caption += f" The loss of {listed(apart)} is not drawn because the runs were evaluated on different samples."
    alt = f"Line plot of the loss on {words} over training. {ends_of(curves)}."
    if crit:
        alt += f" Least loss marked for {listed(crit)}."
    for name, value in levels.items():
        alt += f" The loss of {name} is {plain(value)}."
    return ReportFigure(f"{slug(probe)}-loss", f"Loss on {words}", caption, alt, [panel], of_runs(styles, list(curves)))


def _general_levels(runs: Sequence[RunAnalysis], probe: str) -> tuple[dict[str, float], list[str]]:
    """Losses of the general solutions, {label: loss}, and the labels of those that differ between the runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for each in run.transitions:
            level = run.levels.get(loss_metric(probe), {}).get(each.transition.general)
            if each.transition.probe == probe and level is not None:
                found.setdefault(run.description.references[each.transition.general], []).append(level.value)
    same = {label: values[0] for label, values in found.items() if np.ptp(values) < 1e-6 * abs(values[0])}
    return same, [label for label in found if label not in same]


def _rebound(
    runs: Sequence[RunAnalysis],
    probe: str,
    words: str,
    judged: dict[str, TransitionFindings],
    styles: dict[Key, SeriesStyle],
) -> Iterator[ReportFigure]:
    """How far the loss rose above its minimum, paired over the samples."""
    any_transient = any(found.t_crit is not None for found in judged.values())
    since = {}
    for run in runs:
        verdict = judged[run.label].transience if run.label in judged else None
        if verdict is not None and (
            verdict.transient or (not any_transient and verdict.minimum_step not in (run.steps[0], run.steps[-1]))
        ):
            since[run.label] = verdict.minimum_step
    curves = {label: curve for label, curve in curves_of(runs, loss_metric(probe)).items() if label in since}
    if not curves:
        return
    risen: dict[Key, Curve] = {label: since_minimum(curve, since[label]) for label, curve in curves.items()}
    draw = partial(plots.plot_rebound, curves, since=since, styles=styles)
    label = "Rise above the least loss (%)"
    panel = _panel(risen, label, styles, log=False, draw=draw, first=min(since.values()))
    caption = (
        f"Change of the loss on {words} since the step of its least value, in percent, taken sample by sample; bands "
        "are 95% of the standard error of these paired differences. Points are single checkpoints, while the verdict "
        "judges the trend through them, so that its percentage can differ a little."
    )
    if any_transient:
        caption += " Only runs judged transient are shown."
    changes = [f"{label} from step {step(first)}" for label, first in since.items()]
    alt = f"Line plot of the rise of the loss on {words} above its least value: {listed(changes)}."
    title = "Rebound after the least loss"
    yield ReportFigure(f"{slug(probe)}-rebound", title, caption, alt, [panel], of_runs(styles, list(curves)))


def _panel(
    curves: Mapping[Any, Curve],
    label: str,
    styles: Mapping[Any, SeriesStyle],
    *,
    draw: Any,
    log: bool | None = None,
    levels: Mapping[str, float] | None = None,
    marks: Sequence[Trace] = (),
    title: str = "",
    first: float = 0.0,
    among: Sequence[Curve] = (),
) -> Panel:
    """Curves over training, one for each run; `among` are those that share the scale, if more than these."""
    log = suits_log_scale(curves.values()) if log is None else log
    axis = StepAxis(last_step(curves), first)
    traces = [trace for run in curves for trace in curve_traces(run, curves[run], axis, styles[run], log=log)]
    across = [level(value, name, log) for name, value in (levels or {}).items()]
    shapes, annotations = [line for line, _ in across], [text for _, text in across]
    side = {"yaxis": log_range(among or curves.values(), (levels or {}).values())} if log else {}
    layout = axis.layout(label, log, shapes=shapes, annotations=annotations, **side)
    return Panel([*traces, *marks], layout, draw, title)


def _crit_marks(curve: Curve, verdict: Any, axis: StepAxis, style: SeriesStyle) -> list[Trace]:
    """The step of least loss, with its interval."""
    height = value_at(curve, verdict.t_crit)
    within = f"{verdict.level:.0%} interval {steps_between(verdict.t_crit_interval)}"
    text = f"least loss at step {step(verdict.t_crit)}<br>{within}"
    interval = verdict.t_crit_interval or (verdict.t_crit, verdict.t_crit)
    bar = {"color": style.color, "width": 6}
    look = {"symbol": "diamond", "size": 11, "color": style.color, "line": {"color": PAPER, "width": 1}}
    return [
        still(axis.at(interval), numbers([height, height]), "lines", line=bar, opacity=0.45),
        still(axis.at([verdict.t_crit]), numbers([height]), marker=look, text=[text]),
    ]


def distances(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Distances to the references: a panel for each run and probe. Colours tell the references apart, not the runs."""
    tables = {run.label: _distance_curves(run) for run in analysis.runs}
    runs = [run for run in analysis.runs if tables[run.label]]
    if not runs:
        return
    shown: list[RunAnalysis] = spread(runs, _MAX_PANELS)
    probes = list(dict.fromkeys(probe for run in shown for probe in tables[run.label]))[:4]
    among = [curve for run in shown for table in tables[run.label].values() for curve in table.values()]
    side = {"yaxis": log_range(among)} if suits_log_scale(among) else {}
    names = dict.fromkeys(name for run in shown for table in tables[run.label].values() for name in table)
    styles = {
        name: SeriesStyle(f"to {shown_text(name)}", color, line)
        for name, color, line in zip(names, cycle(CATEGORICAL), cycle(LINES))
    }
    axis = StepAxis(max(float(run.steps[-1]) for run in shown))
    panels = [
        _distance_panel(run, probe, tables[run.label][probe], axis, styles, side)
        for probe in probes
        for run in shown
        if tables[run.label].get(probe)
    ]
    caption = (
        "Mean squared difference of the model's outputs from those of a reference, over samples and positions: one "
        "line for each reference, one panel for each run and set of samples."
    )
    if any(run.t_crit is not None for run in shown):
        caption += " The dotted line marks the least loss of runs judged transient."
    if len(shown) < len(runs):
        caption += f" {len(shown)} of {len(runs)} runs are shown, spread evenly."
    ends = [
        f"{run.label}, {probe}, to {name}: {plain(float(np.nanmin(curve.values)))} at least, "
        f"{plain(last_value(curve))} at the end"
        for run in shown
        for probe, curves in tables[run.label].items()
        for name, curve in curves.items()
    ]
    alt = f"Line plots of distances to the references over training: {'; '.join(ends[:24])}."
    legend = {f"to {name}": style for name, style in styles.items()}
    yield ReportFigure("distances", "Distances to the references", caption, alt, panels, legend)


def _distance_panel(
    run: RunAnalysis,
    probe: str,
    curves: Mapping[str, Curve],
    axis: StepAxis,
    styles: Mapping[str, SeriesStyle],
    side: Trace,
) -> Panel:
    log = bool(side)
    traces = [
        trace
        for name, curve in curves.items()
        for trace in curve_traces(run.label, curve, axis, styles[name], name=f"to {name}", log=log)
    ]
    draw = partial(plots.plot_distances, curves, t_crit=run.t_crit, styles=styles, log=log)
    shapes = [] if run.t_crit is None else [vertical(axis.at([run.t_crit])[0], INK)]
    layout = axis.layout("Mean squared difference", log, shapes=shapes, **side)
    return Panel(traces, layout, draw, f"{run.label}, {probe_words([run], probe)}")


def _distance_curves(run: RunAnalysis) -> dict[str, dict[str, Curve]]:
    """{probe: {label of the reference: curve}}, probes in the order of the description."""
    known = list(run.description.probes)
    rows = [name.split("/") for name in run.curves if name.startswith("distance/") and name.count("/") == 2]
    order = {name: number for number, name in enumerate(run.description.references)}
    rows.sort(key=lambda row: (known.index(row[1]) if row[1] in known else len(known), order.get(row[2], len(order))))
    found: dict[str, dict[str, Curve]] = {}
    for _, probe, reference in rows:
        label = run.description.references.get(reference, reference)
        label = label if run.axis is None else label.removesuffix(f", {run.axis.label}")
        found.setdefault(probe, {})[label] = run.curves[f"distance/{probe}/{reference}"]
    return found


def losses(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The training loss, and losses on probes on which no transition is judged."""
    runs = analysis.runs
    names = [name for name in metric_names(runs) if is_plain_loss(name)][:_MAX_LOSSES]
    judged = {loss_metric(each.transition.probe) for run in runs for each in run.transitions}
    names = [name for name in names if name not in judged]
    if not names:
        return
    among = [curve for name in names for curve in curves_of(runs, name).values()]
    log = suits_log_scale(among)
    panels = []
    for name in names:
        curves, probe = curves_of(runs, name), name.partition("/")[2]
        title = "Training batches" if name == TRAIN_LOSS else probe_words(runs, probe) if probe else name
        label = loss_label(runs)
        draw = partial(plots.plot_loss, curves, ylabel=shown_text(label), log=log, styles=styles)
        title = title[:1].upper() + title[1:]
        panels.append(_panel(curves, label, styles, log=log, draw=draw, title=title, among=among))
    caption = ""
    if TRAIN_LOSS in names:
        caption = "On training batches: the mean since the checkpoint before, which is noisy. "
    if any("/" in name for name in names):
        caption += "On a fixed set of samples: the same samples at every checkpoint."
    alt = f"Line plots of the loss. {ends_of(curves_of(runs, names[-1]))}."
    shown = [run.label for run in runs if any(name in run.curves for name in names)]
    caption = caption.strip() or "As recorded with the run."
    yield ReportFigure("losses", "Losses", caption, alt, panels, of_runs(styles, shown))


def other_metrics(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Metrics besides losses and distances by the rule of their names, one figure each."""
    runs = analysis.runs
    names = [name for name in metric_names(runs) if not is_plain_loss(name) and not name.startswith("distance/")]
    for number, name in enumerate(names[:_MAX_OTHERS]):
        curves = curves_of(runs, name)
        # an accuracy, a norm or a rate is read on a linear axis
        log = None if "loss" in re.split(r"[^a-z]+", name.lower()) else False
        draw = partial(plots.plot_loss, curves, ylabel=shown_text(_cut(name, 40)), log=log, styles=styles)
        panel = _panel(curves, _cut(name, 40), styles, log=log, draw=draw)
        more = len(names) - _MAX_OTHERS
        caption = "A metric that was recorded with the run, as it is."
        if number == _MAX_OTHERS - 1 and more > 0:
            caption += f" {more} more of the recorded metrics are not shown."
        alt = f"Line plot of the metric {_cut(name)} over training. {ends_of(curves)}."
        legend = of_runs(styles, list(curves))
        yield ReportFigure(f"metric-{number}", f"Metric: {_cut(name)}", caption, alt, [panel], legend)


def is_plain_loss(name: str) -> bool:
    """Whether a metric is the training loss or the loss on a probe."""
    return name in (TRAIN_LOSS, "loss") or name.startswith("loss/")


def metric_names(runs: Sequence[RunAnalysis]) -> list[str]:
    """All names: training loss, losses on probes in the order of the descriptions, then the others."""
    names = {name for run in runs for name in run.curves}
    first = [TRAIN_LOSS, "loss", *(loss_metric(probe) for run in runs for probe in run.description.probes)]
    return [*(name for name in dict.fromkeys(first) if name in names), *sorted(names - set(first))]


def probe_words(runs: Sequence[RunAnalysis], probe: str) -> str:
    """What the first run that describes a probe calls it."""
    return next((run.description.probes[probe] for run in runs if probe in run.description.probes), probe)


def loss_label(runs: Sequence[RunAnalysis], where: str = "") -> str:
    """'Loss (cross-entropy)', where all runs say which loss it is."""
    kinds = {run.description.loss for run in runs}
    kind = kinds.pop() if len(kinds) == 1 else "loss"
    place = f" on {where}" if where else ""
    return _cut(f"Loss{place}" if kind == "loss" else f"Loss{place} ({kind})", 70)


def slug(name: str) -> str:
    """A probe's name as a part of an identifier and of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "probe"


def ends_of(curves: dict[Key, Curve]) -> str:
    """'M = 2 ends at 0.3; ...' of at most twelve curves."""
    return "; ".join([f"{label} ends at {plain(last_value(curve))}" for label, curve in curves.items()][:12])


def _cut(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
