"""Figures of the joint trajectory PCA."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes

from llc_dynamics import plots
from llc_dynamics.plots.style import Key, SeriesStyle
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.canvas import ReportFigure, finish, new_figure, new_panels
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed

_SMALL_SHARE = 0.01  # components that hold less of the variance are not drawn


def trajectory_pca(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """PC1 and PC2, and then each of them against PC3 where that holds enough."""
    pca = analysis.pca
    if pca is None or len(pca.explained_variance_ratio) < 2:
        return
    figure, ax = new_figure(6.4, 4.3)
    _draw(analysis, pca, (0, 1), styles, ax)
    caption = (
        "Each line is one run from its first checkpoint (hollow) to its last (filled). Ridge and dMMSE are "
        "projected into the plane and took no part in the fit; what lies near them here may still be far from "
        "them in the components that are not shown."
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
            references={name: value for name, value in pca.references.items() if name == "ridge"},
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


def _draw(
    analysis: Analysis,
    pca: PCAAnalysis,
    pair: tuple[int, int],
    styles: dict[Key, SeriesStyle],
    ax: Axes,
    legend: bool = True,
) -> None:
    crit = {run.label: run.transience.t_crit for run in analysis.runs if run.transience is not None}
    plots.plot_trajectory_pca(
        pca.scores,
        components=pair,
        references=pca.references,
        reference_of=pca.reference_of,
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
