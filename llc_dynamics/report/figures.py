"""The figures of a report: which ones, of what, with caption and description in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.plots.style import CATEGORICAL, Key, SeriesStyle
from llc_dynamics.report.analysis import METRICS, Analysis, RunAnalysis
from llc_dynamics.report.embed import figure_markup
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed, plain, step

_LINES = ("-", "--", "-.", ":")  # seeds of one M
_MAX_PANELS = 8
_MAX_OTHERS = 6


@dataclass(frozen=True)
class ReportFigure:
    """A figure as it stands on the page. `alt` is for those who do not see it, `caption` says how to read it."""

    identifier: str
    title: str
    caption: str
    alt: str
    markup: str
    colors: frozenset[str]


def report_figures(analysis: Analysis) -> list[ReportFigure]:
    """All figures that the runs have data for, in the order of the page."""
    styles = run_styles(analysis)
    makers: tuple[Callable[[Analysis, dict[Key, SeriesStyle]], Iterator[ReportFigure]], ...] = (
        _ood_loss,
        _rebound,
        _distances,
        _trajectory_pca,
        _components,
        _llc_curves,
        _llc_against_tasks,
        _losses,
        _other_metrics,
    )
    return [figure for maker in makers for figure in maker(analysis, styles)]


def run_styles(analysis: Analysis) -> dict[Key, SeriesStyle]:
    """One style for each run in all figures: the colour tells M, the line style tells runs of one M apart."""
    colors = plots.task_colors([run.num_tasks for run in analysis.runs if run.num_tasks is not None])
    seen: dict[float, int] = {}
    styles: dict[Key, SeriesStyle] = {}
    others = 0
    for run in analysis.runs:
        if run.num_tasks is None:
            styles[run.label] = SeriesStyle(plain_text(run.label), CATEGORICAL[others % len(CATEGORICAL)])
            others += 1
        else:
            repeat = seen[run.num_tasks] = seen.get(run.num_tasks, -1) + 1
            line = _LINES[repeat % len(_LINES)]
            styles[run.label] = SeriesStyle(plain_text(run.label), colors[run.num_tasks], line)
    return styles


def plain_text(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would begin a formula, a leading underscore hide the line."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _ood_loss(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    curves = _curves(analysis.runs, "ood_loss")
    if not curves:
        return
    levels = [run.ideal["ridge_ood"].value for run in analysis.runs if "ridge_ood" in run.ideal]
    ridge = levels[0] if levels and max(levels) - min(levels) < 1e-6 * abs(levels[0]) else None
    figure, ax = _figure(7.0, 3.9)
    verdicts = {run.label: run.transience for run in analysis.runs if run.transience is not None}
    plots.plot_ood_loss(curves, verdicts=verdicts, ridge_loss=ridge, styles=styles, ax=ax)
    crit = [
        f"{run.label} at step {step(run.transience.t_crit)}"
        for run in analysis.runs
        if run.transience is not None and run.transience.t_crit is not None
    ]
    ends = [f"{label} ends at {plain(float(curve.values[-1]))}" for label, curve in curves.items()]
    caption = (
        "Diamonds mark the least loss of runs that were judged transient, with the interval of that step as a bar. "
        "Bands are 95% of the sampling error over the evaluation sequences. All checkpoints share these sequences, so "
        "that a change along one curve is far more certain than its band suggests."
    )
    if len(levels) > 1 and ridge is None:
        caption += " Ridge's own loss is not drawn because the runs were evaluated on different sequences."
    alt = f"Line plot of the out-of-distribution loss over training. {'; '.join(ends[:12])}."
    if crit:
        alt += f" Least loss marked for {listed(crit)}."
    if ridge is not None:
        alt += f" Ridge's loss is {plain(ridge)}."
    yield _finish(figure, "ood-loss", "Out-of-distribution loss", caption, alt)


def _rebound(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    since = {
        run.label: run.transience.minimum_step
        for run in analysis.runs
        if run.transience is not None and run.transience.minimum_step not in (run.steps[0], run.steps[-1])
    }
    curves = {run.label: run.curves["ood_loss"] for run in analysis.runs if run.label in since}
    if not curves:
        return
    figure, ax = _figure(7.0, 3.2)
    plots.plot_rebound(curves, since=since, styles=styles, ax=ax)
    caption = (
        "Change of the out-of-distribution loss since the step of its least value, in percent, taken sequence by "
        "sequence; bands are 95% of the standard error of these paired differences. Points are single checkpoints, "
        "while the verdict judges the trend through them, so that its percentage can differ a little."
    )
    changes = [f"{label} from step {step(first)}" for label, first in since.items()]
    alt = f"Line plot of the rise of the out-of-distribution loss above its least value: {listed(changes)}."
    yield _finish(figure, "rebound", "Rebound after the least loss", caption, alt)


def _distances(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    del styles  # each panel is one run; its colours tell the predictors apart
    runs = [run for run in analysis.runs if {"ridge_distance_ood", "ridge_distance_id"} & set(run.curves)]
    if not runs:
        return
    shown = _spread(runs, _MAX_PANELS)
    columns = min(len(shown), 4)
    blocks = -(-len(shown) // columns)
    with mpl.rc_context(plots.RC):
        # A single run has its two panels side by side; several stand in columns, in distribution above.
        rows = (1, 2) if len(shown) == 1 else (2 * blocks, columns)
        figure = Figure(figsize=(min(2.45 * rows[1] + 0.8, 10.5) if rows[1] > 2 else 7.0, 2.45 * rows[0] + 0.3))
        figure.set_layout_engine("constrained")
        panels = figure.subplots(*rows, sharex=True, sharey=True, squeeze=False)
    used: set[Axes] = set()
    for number, run in enumerate(shown):
        block, column = divmod(number, columns)
        for row, (where, words) in enumerate((("id", "in distribution"), ("ood", "out of distribution"))):
            ax = panels[0, row] if len(shown) == 1 else panels[2 * block + row, column]
            if f"ridge_distance_{where}" not in run.curves:
                continue
            used.add(ax)
            crit = None if run.transience is None else run.transience.t_crit
            plots.plot_distances(
                run.curves[f"ridge_distance_{where}"],
                run.curves.get(f"dmmse_distance_{where}"),
                t_crit=crit,
                title=f"{plain_text(run.label)}, {words}",
                legend=number == 0 and row == 0,
                ax=ax,
            )
    for (row, column), ax in np.ndenumerate(panels):
        if ax not in used:
            ax.set_visible(False)
        if column:
            ax.set_ylabel("")
        if row < len(panels) - 1:
            ax.set_xlabel("")
    if len(panels) > 1:
        _one_y_label(figure, panels, "Mean squared difference of predictions")
    caption = (
        "Blue: to ridge. Orange, dashed: to dMMSE of the run's own M. In distribution means sequences whose task is "
        "one of the M training tasks; out of distribution, any Gaussian task. The dotted line marks the least "
        "out-of-distribution loss of runs judged transient. There is no dMMSE at M = ∞."
    )
    if len(shown) < len(runs):
        caption += f" {len(shown)} of {len(runs)} runs are shown, spread evenly over M."
    ends = []
    for run in shown:
        for name, words in (("ridge_distance_ood", "ridge"), ("dmmse_distance_ood", "dMMSE")):
            if name in run.curves:
                values = run.curves[name].values
                least, end = plain(float(np.nanmin(values))), plain(float(values[-1]))
                ends.append(f"{run.label} to {words}: {least} at least, {end} at the end")
    alt = f"Line plots of distances to the ideal predictors over training; out of distribution, {'; '.join(ends)}."
    yield _finish(figure, "distances", "Distances to the ideal predictors", caption, alt)


def _trajectory_pca(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    pca = analysis.pca
    if pca is None or len(pca.explained_variance_ratio) < 2:
        return
    crit = {run.label: run.transience.t_crit for run in analysis.runs if run.transience is not None}
    pairs = [(0, 1)] + ([(0, 2), (1, 2)] if len(pca.explained_variance_ratio) > 2 else [])
    for first, second in pairs:
        figure, ax = _figure(6.2 if (first, second) == (0, 1) else 5.6, 4.2 if (first, second) == (0, 1) else 3.6)
        plots.plot_trajectory_pca(
            dict(pca.scores),
            components=(first, second),
            references=pca.references,
            reference_of=dict(pca.reference_of),
            explained_variance_ratio=pca.explained_variance_ratio,
            steps=dict(pca.steps),
            t_crit={label: crit.get(str(label)) for label in pca.scores},
            styles=styles,
            ax=ax,
        )
        name = f"PC{first + 1} and PC{second + 1}"
        caption = (
            "Each line is one run from its first checkpoint (hollow) to its last (filled). Ridge and dMMSE are "
            "projected into the plane and took no part in the fit; what lies near them here may still be far from "
            "them in the components that are not shown."
        )
        yield _finish(
            figure,
            f"pca-{first + 1}-{second + 1}",
            f"Joint trajectory PCA: {name}",
            caption if (first, second) == (0, 1) else "As above, for another pair of components.",
            _pca_alt(pca, first, second),
        )


def _components(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    pca = analysis.pca
    if pca is None:
        return
    number = min(3, len(pca.explained_variance_ratio))
    with mpl.rc_context(plots.RC):
        figure = Figure(figsize=(7.0, 2.6 * number))
        figure.set_layout_engine("constrained")
        panels = figure.subplots(number, 1, sharex=True, squeeze=False)[:, 0]
    for component, ax in enumerate(panels):
        plots.plot_components_over_time(
            dict(pca.scores),
            dict(pca.steps),
            component=component,
            explained_variance_ratio=pca.explained_variance_ratio,
            cosine_content=dict(pca.cosine_content),
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
    yield _finish(figure, "components", "Principal components over training", caption, alt)
    figure, ax = _figure(4.4, 2.8)
    plots.plot_explained_variance(pca.explained_variance_ratio, ax=ax)
    shares = [f"{100 * share:.1f}%" for share in pca.explained_variance_ratio]
    yield _finish(
        figure,
        "explained-variance",
        "Explained variance",
        "Share of the variance of all function vectors of all runs that each component holds.",
        f"Bar chart of explained variance: {listed(shares)}.",
    )


def _llc_curves(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    curves: dict[Key, Curve] = {run.label: run.llc for run in analysis.runs if run.llc is not None}
    if not curves:
        return
    figure, ax = _figure(7.0, 3.9)
    crit = {
        run.label: float(run.transience.t_crit)
        for run in analysis.runs
        if run.transience is not None and run.transience.t_crit is not None
    }
    plots.plot_llc_curve(curves, t_crit=dict(crit), styles=styles, ax=ax)
    caption = (
        "Bars and bands are 95% of the Monte Carlo error. Hollow points did not pass the convergence checks and should "
        "not be believed; crosses on the axis are checkpoints without an estimate. Dotted lines mark the least "
        "out-of-distribution loss of runs judged transient."
    )
    rows = []
    for label, curve in curves.items():
        bad = 0 if curve.converged is None else int((~curve.converged).sum())
        known = curve.values[np.isfinite(curve.values)]
        span = f"from {plain(known[0])} to {plain(known[-1])}" if len(known) else "without any estimate"
        rows.append(f"{label} {span}, {bad} of {len(curve)} points unconverged")
    alt = f"Line plot of the LLC over training: {'; '.join(rows)}."
    yield _finish(figure, "llc", "LLC over training", caption, alt)


def _llc_against_tasks(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    rows = [
        (run.num_tasks, run.llc)
        for run in analysis.runs
        if run.llc is not None and run.num_tasks is not None and run.llc.steps[-1] == run.steps[-1]
    ]
    if len({tasks for tasks, _ in rows}) < 2:
        return
    del styles  # the colours of M are those of all runs
    tasks = [m for m, _ in rows]
    values = [float(curve.values[-1]) for _, curve in rows]
    errors = [math.nan if curve.standard_errors is None else float(curve.standard_errors[-1]) for _, curve in rows]
    good = [True if curve.converged is None else bool(curve.converged[-1]) for _, curve in rows]
    everything = plots.task_colors([run.num_tasks for run in analysis.runs if run.num_tasks is not None])
    colors: dict[Key, SeriesStyle] = {m: SeriesStyle(plots.task_label(m), everything[m]) for m in tasks}
    figure, ax = _figure(5.4, 3.4)
    plots.plot_llc_against_tasks(tasks, values, errors, good, styles=colors, ax=ax)
    caption = (
        "LLC of the last checkpoint of each run, with 95% Monte Carlo error; M = ∞ stands apart at the right. "
        "Hollow points did not converge. Runs may have been trained for different numbers of steps."
    )
    points = [
        f"{plots.task_label(m)} {plain(value)}{'' if ok else ' (did not converge)'}"
        for m, value, ok in zip(tasks, values, good, strict=True)
    ]
    yield _finish(
        figure, "llc-tasks", "LLC at the end against M", caption, f"Plot of the final LLC: {'; '.join(points)}."
    )


def _losses(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    names = [name for name in ("train_loss", "id_loss") if _curves(analysis.runs, name)]
    if not names:
        return
    with mpl.rc_context(plots.RC):
        figure = Figure(figsize=(7.0, 2.9))
        figure.set_layout_engine("constrained")
        panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    titles = {"train_loss": "Training batches", "id_loss": "Fixed sequences of $q_M$"}
    for name, ax in zip(names, panels, strict=True):
        plots.plot_loss(_curves(analysis.runs, name), styles=styles, ax=ax)
        ax.set_title(titles[name], loc="left")
    for ax in panels[1:]:
        ax.set_ylabel("")
        if (legend := ax.get_legend()) is not None:
            legend.remove()
    last = _curves(analysis.runs, names[-1])
    ends = [f"{label} ends at {plain(float(curve.values[-1]))}" for label, curve in last.items()]
    yield _finish(
        figure,
        "losses",
        "Loss in distribution",
        "Left, the mean over the training batches since the checkpoint before, which is noisy; right, the loss on "
        "sequences that are the same at every checkpoint."
        if len(names) == 2
        else "Loss on the distribution that the model was trained on.",
        f"Line plots of the loss in distribution. {'; '.join(ends[:12])}.",
    )


def _other_metrics(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    names = sorted({name for run in analysis.runs for name in run.curves if name not in METRICS})
    for number, name in enumerate(names[:_MAX_OTHERS]):
        curves = _curves(analysis.runs, name)
        figure, ax = _figure(6.2, 3.0)
        plots.plot_loss(curves, ylabel=plain_text(name), styles=styles, ax=ax)
        more = len(names) - _MAX_OTHERS
        caption = "A metric that was recorded with the run, as it is."
        if number == _MAX_OTHERS - 1 and more > 0:
            caption += f" {more} more of the recorded metrics are not shown."
        ends = [f"{label} ends at {plain(float(curve.values[-1]))}" for label, curve in curves.items()]
        alt = f"Line plot of the metric {name} over training. {'; '.join(ends[:12])}."
        yield _finish(figure, f"metric-{number}", f"Metric: {name}", caption, alt)


def _pca_alt(pca: PCAAnalysis, first: int, second: int) -> str:
    places = [
        f"{label} goes from ({score[0, first]:.1f}, {score[0, second]:.1f}) to "
        f"({score[-1, first]:.1f}, {score[-1, second]:.1f})"
        for label, score in pca.scores.items()
    ]
    marks = [f"{name} at ({score[first]:.1f}, {score[second]:.1f})" for name, score in pca.references.items()]
    return f"Trajectories in the plane of PC{first + 1} and PC{second + 1}: {'; '.join([*places, *marks][:20])}."


def _curves(runs: Sequence[RunAnalysis], name: str) -> dict[Key, Curve]:
    return {run.label: run.curves[name] for run in runs if name in run.curves}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(plots.RC):
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("constrained")
        return figure, figure.add_subplot()


def _one_y_label(figure: Figure, panels: np.ndarray, label: str) -> None:
    for ax in panels.ravel():
        ax.set_ylabel("")
    figure.supylabel(label, fontsize=plots.RC["axes.labelsize"])


def _spread(runs: Sequence[RunAnalysis], number: int) -> list[RunAnalysis]:
    if len(runs) <= number:
        return list(runs)
    return [runs[round(i * (len(runs) - 1) / (number - 1))] for i in range(number)]


def _finish(figure: Figure, identifier: str, title: str, caption: str, alt: str) -> ReportFigure:
    with mpl.rc_context(plots.RC):
        markup, colors = figure_markup(figure, identifier, alt)
    return ReportFigure(identifier, title, caption, alt, markup, frozenset(colors))
