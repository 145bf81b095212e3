"""Figures of the joint trajectory PCA: the trajectories, the components over training, and where the runs turn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.geometry import evenly_along, frame_of
from llc_dynamics.plots.style import CATEGORICAL, INK, MUTED, PAPER, Key, SeriesStyle, shown_text
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.figure import Panel, ReportFigure, of_runs
from llc_dynamics.report.geometry import COSINE_LIKE, LIKELY, turning_phrase
from llc_dynamics.report.interactive import (
    StepAxis,
    Trace,
    axis,
    curve_traces,
    layout,
    level,
    line,
    numbers,
    shown,
    still,
    thinned,
)
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed, step, steps_between
from llc_dynamics.stages import TrajectoryGeometry

_MAX_PANELS = 8
_SMALL_SHARE = 0.01  # components that hold less of the variance are not drawn
_CIRCLES = 10


def trajectory_pca(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """PC1 and PC2, and all three components where the third holds enough."""
    pca = analysis.pca
    if pca is None or len(pca.explained_variance_ratio) < 2:
        return
    caption = "Each line is one run from its first checkpoint (hollow) to its last (filled)."
    if pca.references:
        names = list(pca.references)
        which = listed(names) if len(names) <= 4 else "The references"
        caption += (
            f" {which[0].upper()}{which[1:]} {'is' if len(names) == 1 else 'are'} projected into the plane and took no "
            "part in the fit; what lies near them here may still be far from them in the components that are not shown."
        )
    legend = of_runs(styles, list(pca.scores))
    panel = _panel(analysis, pca, (0, 1), styles)
    yield ReportFigure("pca-1-2", "Joint trajectory PCA", caption, _alt(pca, (0, 1)), [panel], legend)
    if _drawn_components(pca) < 3:
        return
    panel = _panel(analysis, pca, (0, 1, 2), styles)
    caption = "The same trajectories in the first three components. Drag to turn, scroll to come nearer."
    alt = _alt(pca, (0, 1, 2))
    yield ReportFigure("pca-3d", "Joint trajectory PCA in three dimensions", caption, alt, [panel], legend)


def _panel(analysis: Analysis, pca: PCAAnalysis, axes: tuple[int, ...], styles: dict[Key, SeriesStyle]) -> Panel:
    crit = {run.label: run.t_crit for run in analysis.runs if run.label in pca.scores}
    draw = partial(
        plots.plot_trajectory_pca,
        pca.scores,
        components=axes,
        references={shown_text(name): place for name, place in pca.references.items()},
        reference_of={shown_text(name): owner for name, owner in pca.reference_of.items()},
        explained_variance_ratio=pca.explained_variance_ratio,
        steps=pca.steps,
        t_crit=crit,
        styles=styles,
    )
    kind: Trace = {"type": "scatter" if len(axes) == 2 else "scatter3d"}
    traces: list[Trace] = []
    for label, scores in pca.scores.items():
        style, kept = styles[label], _kept(pca.steps[label])
        steps, scores = pca.steps[label][kept], scores[kept]
        critical = crit[label]
        at = None if critical is None else int(np.abs(steps - critical).argmin())
        last = len(steps) - 1
        symbols = ["circle-open" if k == 0 else "diamond" if k == at else "circle" for k in range(len(steps))]
        sizes = [10 if k == at else 9 if k in (0, last) else 3.5 for k in range(len(steps))]
        marker: Trace = {"symbol": symbols, "size": sizes, "color": style.color, "opacity": 1}
        marker |= {"line": {"width": [2 if k == 0 else 0 for k in range(len(steps))], "color": style.color}}
        places = _places(scores, axes)
        more = {"mode": "lines+markers", "marker": marker, **kind, **({"z": places[2]} if len(axes) == 3 else {})}
        traces.append(line(label, steps, places[0], places[1], style, **more))
    for name, place in pca.references.items():
        owner = pca.reference_of.get(name)
        color = INK if owner is None else styles[owner].color
        symbol = "square" if owner is not None else "star" if len(axes) == 2 else "cross"
        marker = {
            "symbol": symbol,
            "size": 5 if len(axes) == 3 else 12,
            "color": color,
            "line": {"color": PAPER, "width": 1},
        }
        more = {"z": numbers(place[axes[2]])} if len(axes) == 3 else {}
        words = {"textposition": "bottom right", "textfont": {"size": 11, "color": INK}} if owner is None else {}
        mode = "markers+text" if owner is None else "markers"
        x, y = (numbers(place[k]) for k in axes[:2])
        traces.append(still(x, y, mode, marker=marker, text=[shown(name)], **words, **kind, **more))
    titles = [_component(k, pca) for k in axes]
    if len(axes) == 2:
        return Panel(traces, layout(axis(titles[0]), axis(titles[1])), draw)
    plain = [{k: v for k, v in axis(title).items() if k not in ("ticks", "automargin")} for title in titles]
    for each in plain:
        each["title"].pop("standoff")
    scene = {"xaxis": plain[0], "yaxis": plain[1], "zaxis": plain[2], "aspectmode": "cube"}
    scene["camera"] = {"eye": {"x": 1.5, "y": 1.5, "z": 1.1}, "center": {"x": 0, "y": 0, "z": -0.15}}
    return Panel(traces, {"scene": scene}, draw, projection="3d")


def _kept(steps: np.ndarray) -> np.ndarray:
    """Checkpoints that are drawn: all of them, or as many as a screen can show."""
    return thinned(np.arange(len(steps)), steps, StepAxis(float(steps[-1])))


def _places(scores: np.ndarray, axes: tuple[int, ...]) -> list[list[float | None]]:
    return [numbers(scores[:, k]) for k in axes]


def components(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Components over training with their cosine content, and the explained variance."""
    pca = analysis.pca
    if pca is None:
        return
    number = _drawn_components(pca)
    ratio, contents = pca.explained_variance_ratio, pca.cosine_content
    levels = {name: place for name, place in pca.references.items() if name not in pca.reference_of}
    axis_of = StepAxis(max(float(steps[-1]) for steps in pca.steps.values()))
    panels = []
    for component in range(number):
        draw = partial(
            plots.plot_components_over_time,
            pca.scores,
            pca.steps,
            component=component,
            explained_variance_ratio=ratio,
            cosine_content=contents,
            references={shown_text(name): place for name, place in levels.items()},
            styles=styles,
        )
        traces = [
            trace
            for label, scores in pca.scores.items()
            for trace in curve_traces(label, Curve(pca.steps[label], scores[:, component]), axis_of, styles[label])
        ]
        across = [level(float(place[component]), name) for name, place in levels.items()]
        shapes, annotations = [each for each, _ in across], [each for _, each in across]
        panels.append(
            Panel(traces, axis_of.layout(_component(component, pca), shapes=shapes, annotations=annotations), draw)
        )
    shares = [f"{100 * share:.1f}%" for share in ratio]
    bars = still([f"PC{k + 1}" for k in range(len(ratio))], numbers(100 * ratio), text=shares)
    bars = {key: value for key, value in bars.items() if key != "mode"}
    bars |= {"type": "bar", "marker": {"color": CATEGORICAL[0]}, "textposition": "auto"}
    side = axis("Explained variance (%)", range=[0, 105])
    panels.append(Panel([bars], layout(axis(""), side), partial(plots.plot_explained_variance, ratio)))
    caption = (
        "Scores over training, and the share of the variance of all function vectors of all runs that each component "
        "holds. The cosine content is the share of a component's movement that a cosine of its own frequency explains: "
        "near 1, the component shows no more than a random walk does."
    )
    said = [
        f"{label}: {', '.join(f'{value:.2f}' for value in content[:number])}" for label, content in contents.items()
    ]
    caption += f" Cosine contents of {listed([f'PC{k + 1}' for k in range(number)])}: {'; '.join(said)}."
    if pca.cosine_control is not None:
        medians = np.nanmedian(pca.cosine_control, axis=0)[:number]
        caption += f" For random walks it is typically {listed([f'{value:.2f}' for value in medians])}."
    alt = f"Line plots of {number} principal components over training; explained variance {listed(shares)}."
    legend = of_runs(styles, list(pca.scores))
    yield ReportFigure("components", "Principal components over training", caption, alt, panels, legend)


def geometry(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The smoothed trajectories with osculating circles, vertices and reversals."""
    pca = analysis.pca
    found = {run.label: run.geometry for run in analysis.runs if run.geometry is not None}
    if pca is None or not found:
        return
    drawn = dict(list(found.items())[:_MAX_PANELS])
    panels = [_geometry_panel(label, each, pca, styles[label]) for label, each in drawn.items()]
    caption = (
        "Dots: the checkpoints. Line: a smooth curve through them in log time, from its start (hollow) to its end "
        "(filled), with faint circles that touch it and bend as it does. Diamonds: vertices, where the curve is bent "
        "most, with their circles and steps. Hollow squares: reversals, where one component stops and turns "
        f"back. Turning points with a probability of {LIKELY:g} or more are drawn. That probability says that the "
        "curve turns, not that the turn means something: the PCA of a random walk turns, too. " + _contents(pca, drawn)
    )
    if len(drawn) < len(found):
        caption += f" {len(drawn)} of {len(found)} runs are shown."
    phrases = [f"{label}: {turning_phrase(each)}" for label, each in drawn.items()]
    turns = ". ".join(phrases)
    alt = f"Trajectories in the plane of PC1 and PC2 with osculating circles. Turning points by step: {turns}."
    yield ReportFigure("geometry", "Geometry of the joint trajectory PCA", caption, alt, panels)


def _geometry_panel(label: str, found: TrajectoryGeometry, pca: PCAAnalysis, style: SeriesStyle) -> Panel:
    first, second = found.components
    scores, path = pca.scores[label], found.position
    dots: Trace = {"mode": "markers", "marker": {"size": 4, "color": MUTED}}
    ends = {"symbol": ["circle-open", "circle"], "size": 9, "color": style.color}
    likely = [point for point in found.turning_points if point.probability >= LIKELY]
    extent = float(np.hypot(*np.ptp(path, axis=0)))
    faint = [place for place in evenly_along(path, _CIRCLES) if found.radius[place] < extent]
    circles = [_circle(found.center[place], found.radius[place], MUTED, 0.4) for place in faint]
    circles += [_circle(point.center, point.radius, INK, 0.8) for point in likely if point.kind == "vertex"]
    texts = [
        f"{'vertex' if point.component is None else f'PC{point.component + 1} turns back'} at step {step(point.step)}"
        f"<br>{steps_between(point.interval)}, probability {point.probability:.2f}"
        for point in likely
    ]
    marker = {
        "symbol": ["diamond" if point.kind == "vertex" else "square-open" for point in likely],
        "size": 9,
        "color": INK,
    }
    x, y = (numbers([point.position[k] for point in likely]) for k in (0, 1))
    kept = _kept(pca.steps[label])
    at_first, at_second = _places(scores[kept], (first, second))
    along, across = numbers(path[:, 0]), numbers(path[:, 1])
    traces = [
        still(along, across, "lines", line={"color": style.color, "width": 1.8}),
        line(label, pca.steps[label][kept], at_first, at_second, style, **dots),
        still([along[0], along[-1]], [across[0], across[-1]], marker=ends),
        *([still(x, y, marker=marker, text=texts)] if likely else []),
    ]
    low, high = frame_of(path, [(point.center, point.radius) for point in likely if point.kind == "vertex"], extent)
    below = axis(_component(first, pca), range=numbers([low[0], high[0]]))
    side = axis(_component(second, pca), range=numbers([low[1], high[1]]), scaleanchor="x")
    draw = partial(_draw_circles, found, scores, pca, style.color)
    title = label + (" (cosine-like)" if found.cosine_like else "")
    return Panel(traces, layout(below, side, shapes=[each for each in circles if each]), draw, title)


def _draw_circles(found: TrajectoryGeometry, scores: np.ndarray, pca: PCAAnalysis, color: str, ax: Any) -> None:
    ratio = pca.explained_variance_ratio
    look: Trace = {"min_probability": LIKELY, "num_circles": _CIRCLES, "color": color}
    plots.plot_osculating_circles(found, scores=scores, explained_variance_ratio=ratio, ax=ax, **look)
    # Panels of one size, whatever the shape of the trajectory: the limits may give way.
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_autoscale_on(True)


def _circle(center: Any, radius: float, color: str, opacity: float) -> Trace:
    """A shape; empty for a straight line."""
    if not np.isfinite([radius, *center]).all():
        return {}
    (x0, y0), (x1, y1) = np.subtract(center, radius), np.add(center, radius)
    corners = dict(zip(("x0", "y0", "x1", "y1"), numbers([x0, y0, x1, y1]), strict=True))
    return {"type": "circle", **corners, "line": {"color": color, "width": 1}, "opacity": opacity}


def _contents(pca: PCAAnalysis, drawn: dict[str, TrajectoryGeometry]) -> str:
    """Cosine contents of the runs beside those of random walks, and which runs are no different."""
    runs = [
        f"{each.cosine_content[0]:.2f} and {each.cosine_content[1]:.2f} for {label}" for label, each in drawn.items()
    ]
    text = f"Cosine contents of PC1 and PC2: {'; '.join(runs)}"
    if pca.cosine_control is not None:
        first, second = np.nanmedian(pca.cosine_control, axis=0)[:2]
        text += f"; median of random walks {first:.2f} and {second:.2f}"
    alike = [label for label, each in drawn.items() if each.cosine_like]
    return text + (f". Both are 0.7 or more for {listed(alike)} ({COSINE_LIKE})." if alike else ".")


def _component(number: int, pca: PCAAnalysis) -> str:
    return f"PC{number + 1} ({100 * float(pca.explained_variance_ratio[number]):.1f}%)"


def _drawn_components(pca: PCAAnalysis) -> int:
    """At least two where there are two, at most three, and none that holds next to nothing."""
    ratio = pca.explained_variance_ratio
    return min(len(ratio), max(2, min(3, int((ratio >= _SMALL_SHARE).sum()))))


def _alt(pca: PCAAnalysis, axes: tuple[int, ...]) -> str:
    def at(place: np.ndarray) -> str:
        return f"({', '.join(f'{place[k]:.1f}' for k in axes)})"

    places = [f"{label} goes from {at(score[0])} to {at(score[-1])}" for label, score in pca.scores.items()]
    marks = [f"{name} at {at(score)}" for name, score in pca.references.items()]
    names = listed([f"PC{k + 1}" for k in axes])
    return f"Trajectories in the space of {names}: {'; '.join([*places, *marks][:20])}."
