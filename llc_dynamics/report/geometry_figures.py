"""The figure of where the runs turn in the plane of the first two joint components, one panel a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from llc_dynamics import plots
from llc_dynamics.plots.style import Key, SeriesStyle, legend_settings, panel_title
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.canvas import ReportFigure, finish, new_panels, plain_text
from llc_dynamics.report.geometry import COSINE_LIKE, LIKELY, turning_phrase
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed
from llc_dynamics.stages import TrajectoryGeometry

_MAX_PANELS = 8


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
        panel_title(ax, plain_text(label) + (" (cosine-like)" if each.cosine_like else ""))
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
