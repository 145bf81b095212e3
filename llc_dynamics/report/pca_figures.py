"""Figures of the joint trajectory PCA: the trajectories, the components over training, and where the runs turn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llc_dynamics import plots
from llc_dynamics.plots.style import Key, SeriesStyle, legend_settings, panel_title, shown_text
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.canvas import ReportFigure, finish, new_figure, new_panels
from llc_dynamics.report.geometry import COSINE_LIKE, LIKELY, turning_phrase
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed
from llc_dynamics.stages import TrajectoryGeometry

_MAX_PANELS = 8
_SMALL_SHARE = 0.01  # components that hold less of the variance are not drawn


def trajectory_pca(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """PC1 and PC2, and then each of them against PC3 where that holds enough."""
    pca = analysis.pca
    if pca is None or len(pca.explained_variance_ratio) < 2:
        return
    figure, ax = new_figure(6.4, 4.3)
    _draw(analysis, pca, (0, 1), styles, ax)
    caption = "Each line is one run from its first checkpoint (hollow) to its last (filled)."
    if pca.references:
        names = list(pca.references)
        which = listed(names) if len(names) <= 4 else "The references"
        caption += (
            f" {which[0].upper()}{which[1:]} {'is' if len(names) == 1 else 'are'} projected into the plane and took no "
            "part in the fit; what lies near them here may still be far from them in the components that are not shown."
        )
    yield finish(figure, "pca-1-2", "Joint trajectory PCA", caption, _alt(pca, 0, 1))
    if _drawn_components(pca) < 3:
        return
    figure, panels = new_panels(1, 2, 8.2, 3.6)
    for pair, ax in zip(((0, 2), (1, 2)), panels[0], strict=True):
        _draw(analysis, pca, pair, styles, ax, legend=pair == (1, 2))
    caption = "The same trajectories with the third component against the first and the second."
    alt = f"{_alt(pca, 0, 2)} {_alt(pca, 1, 2)}"
    yield finish(figure, "pca-3", "Joint trajectory PCA: third component", caption, alt)


def components(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Components over training with their cosine content, and the explained variance."""
    pca = analysis.pca
    if pca is None:
        return
    number = _drawn_components(pca)
    figure, grid = new_panels(number, 1, 7.0, 2.6 * number, sharex=True)
    panels = grid[:, 0]
    for component, ax in enumerate(panels):
        plots.plot_components_over_time(
            pca.scores,
            pca.steps,
            component=component,
            explained_variance_ratio=pca.explained_variance_ratio,
            cosine_content=pca.cosine_content,
            references={shown_text(name): at for name, at in pca.references.items() if name not in pca.reference_of},
            styles=styles,
            ax=ax,
        )
        if component < number - 1:
            ax.set_xlabel("")
    control = ""
    if pca.cosine_control is not None:
        medians = np.nanmedian(pca.cosine_control, axis=0)[:number]
        control = f" For random walks it is typically {listed([f'{value:.2f}' for value in medians])}."
    caption = (
        "Scores over training. The cosine content is the share of a component's movement that a cosine of its own "
        f"frequency explains: near 1, the component shows no more than a random walk does.{control}"
    )
    contents = [
        f"{label}: {', '.join(f'{value:.2f}' for value in content[:number])}"
        for label, content in pca.cosine_content.items()
    ]
    alt = f"Line plots of {number} principal components over training. Cosine contents: {'; '.join(contents)}."
    yield finish(figure, "components", "Principal components over training", caption, alt)
    figure, ax = new_figure(4.4, 2.8)
    plots.plot_explained_variance(pca.explained_variance_ratio, ax=ax)
    shares = [f"{100 * share:.1f}%" for share in pca.explained_variance_ratio]
    yield finish(
        figure,
        "explained-variance",
        "Explained variance",
        "Share of the variance of all function vectors of all runs that each component holds.",
        f"Bar chart of explained variance: {listed(shares)}.",
    )


def geometry(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """The smoothed trajectories with osculating circles, vertices and reversals."""
    pca = analysis.pca
    found = {run.label: run.geometry for run in analysis.runs if run.geometry is not None}
    if pca is None or not found:
        return
    shown = dict(list(found.items())[:_MAX_PANELS])
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure, panels = new_panels(rows, columns, 5.6 if columns == 1 else 9.0, 3.6 * rows + 0.3)
    for ax in panels.ravel()[len(shown) :]:
        ax.set_visible(False)
    for ax, (label, each) in zip(panels.ravel(), shown.items(), strict=False):
        plots.plot_osculating_circles(
            each,
            scores=pca.scores[label],
            num_circles=10,
            min_probability=LIKELY,
            explained_variance_ratio=pca.explained_variance_ratio,
            color=styles[label].color,
            ax=ax,
        )
        # Panels of one size, whatever the shape of the trajectory: the limits may give way.
        ax.set_aspect("equal", adjustable="datalim")
        ax.set_autoscale_on(True)
        panel_title(ax, shown_text(label) + (" (cosine-like)" if each.cosine_like else ""))
    _one_legend(figure, panels)
    caption = (
        "Dots: the checkpoints. Line: a smooth curve through them in log time, from its start (hollow) to its end "
        "(filled), with faint circles that touch it and bend as it does. Diamonds: vertices, where the curve is bent "
        "most, with their circles, centres and steps. Hollow squares: reversals, where one component stops and turns "
        f"back. Turning points with a probability of {LIKELY:g} or more are drawn. That probability says that the "
        "curve turns, not that the turn means something: the PCA of a random walk turns, too. " + _contents(pca, shown)
    )
    if len(shown) < len(found):
        caption += f" {len(shown)} of {len(found)} runs are shown."
    phrases = [f"{label}: {turning_phrase(each)}" for label, each in shown.items()]
    turns = ". ".join(phrases)
    alt = f"Trajectories in the plane of PC1 and PC2 with osculating circles. Turning points by step: {turns}."
    yield finish(figure, "geometry", "Geometry of the joint trajectory PCA", caption, alt)


def _contents(pca: PCAAnalysis, shown: dict[str, TrajectoryGeometry]) -> str:
    """Cosine contents of the runs beside those of random walks, and which runs are no different."""
    runs = [
        f"{each.cosine_content[0]:.2f} and {each.cosine_content[1]:.2f} for {label}" for label, each in shown.items()
    ]
    text = f"Cosine contents of PC1 and PC2: {'; '.join(runs)}"
    if pca.cosine_control is not None:
        first, second = np.nanmedian(pca.cosine_control, axis=0)[:2]
        text += f"; median of random walks {first:.2f} and {second:.2f}"
    alike = [label for label, each in shown.items() if each.cosine_like]
    return text + (f". Both are 0.7 or more for {listed(alike)} ({COSINE_LIKE})." if alike else ".")


def _one_legend(figure: Figure, panels: np.ndarray) -> None:
    """The fullest of the panels' legends, below all of them."""
    legends = [legend for ax in panels.ravel() if (legend := ax.get_legend()) is not None]
    fullest = max(legends, key=lambda legend: len(legend.get_texts()))
    labels = [text.get_text().replace("\n", " ") for text in fullest.get_texts()]
    handles = fullest.legend_handles
    for legend in legends:
        legend.remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), **legend_settings(panels[0, 0]))


def _draw(
    analysis: Analysis,
    pca: PCAAnalysis,
    pair: tuple[int, int],
    styles: dict[Key, SeriesStyle],
    ax: Axes,
    legend: bool = True,
) -> None:
    crit = {run.label: run.t_crit for run in analysis.runs}
    plots.plot_trajectory_pca(
        pca.scores,
        components=pair,
        references={shown_text(name): place for name, place in pca.references.items()},
        reference_of={shown_text(name): owner for name, owner in pca.reference_of.items()},
        explained_variance_ratio=pca.explained_variance_ratio,
        steps=pca.steps,
        t_crit={label: crit.get(label) for label in pca.scores},
        styles=styles,
        legend=legend,
        ax=ax,
    )


def _drawn_components(pca: PCAAnalysis) -> int:
    """At least two where there are two, at most three, and none that holds next to nothing."""
    ratio = pca.explained_variance_ratio
    return min(len(ratio), max(2, min(3, int((ratio >= _SMALL_SHARE).sum()))))


def _alt(pca: PCAAnalysis, first: int, second: int) -> str:
    places = [
        f"{label} goes from ({score[0, first]:.1f}, {score[0, second]:.1f}) to "
        f"({score[-1, first]:.1f}, {score[-1, second]:.1f})"
        for label, score in pca.scores.items()
    ]
    marks = [f"{name} at ({score[first]:.1f}, {score[second]:.1f})" for name, score in pca.references.items()]
    return f"Trajectories in the plane of PC{first + 1} and PC{second + 1}: {'; '.join([*places, *marks][:20])}."
