"""Figures of losses: out of distribution, its rebound, in distribution, and any other metric."""

from __future__ import annotations

from collections.abc import Iterator

from llc_dynamics import plots
from llc_dynamics.plots.style import Key, SeriesStyle, panel_title
from llc_dynamics.report.analysis import METRICS, Analysis
from llc_dynamics.report.canvas import ReportFigure, curves_of, finish, new_figure, new_panels, plain_text
from llc_dynamics.report.numbers import listed, plain, step

_MAX_OTHERS = 6


def ood_loss(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Out-of-distribution loss of all runs, with t_crit and ridge's own loss."""
    curves = curves_of(analysis.runs, "ood_loss")
    if not curves:
        return
    levels = [run.ideal["ridge_ood"].value for run in analysis.runs if "ridge_ood" in run.ideal]
    ridge = levels[0] if levels and max(levels) - min(levels) < 1e-6 * abs(levels[0]) else None
    figure, ax = new_figure(7.0, 3.9)
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
    yield finish(figure, "ood-loss", "Out-of-distribution loss", caption, alt)


def rebound(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """How far the loss rose above its minimum, paired over the sequences."""
    judged = [(run.label, run.transience, run.steps) for run in analysis.runs if run.transience is not None]
    any_transient = any(verdict.transient for _, verdict, _ in judged)
    since = {
        label: verdict.minimum_step
        for label, verdict, steps in judged
        if verdict.transient or (not any_transient and verdict.minimum_step not in (steps[0], steps[-1]))
    }
    curves = {run.label: run.curves["ood_loss"] for run in analysis.runs if run.label in since}
    if not curves:
        return
    figure, ax = new_figure(7.0, 3.2)
    plots.plot_rebound(curves, since=since, styles=styles, ax=ax)
    caption = (
        "Change of the out-of-distribution loss since the step of its least value, in percent, taken sequence by "
        "sequence; bands are 95% of the standard error of these paired differences. Points are single checkpoints, "
        "while the verdict judges the trend through them, so that its percentage can differ a little."
    )
    if any_transient:
        caption += " Only runs judged transient are shown."
    changes = [f"{label} from step {step(first)}" for label, first in since.items()]
    alt = f"Line plot of the rise of the out-of-distribution loss above its least value: {listed(changes)}."
    yield finish(figure, "rebound", "Rebound after the least loss", caption, alt)


def losses(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Training loss and loss on the fixed sequences of q_M."""
    names = [name for name in ("train_loss", "id_loss") if curves_of(analysis.runs, name)]
    if not names:
        return
    figure, grid = new_panels(1, len(names), 7.0, 2.9, sharex=True, sharey=True)
    panels = grid[0]
    titles = {"train_loss": "Training batches", "id_loss": "Fixed sequences of $q_M$"}
    for name, ax in zip(names, panels, strict=True):
        plots.plot_loss(curves_of(analysis.runs, name), styles=styles, ax=ax)
        panel_title(ax, titles[name])
    for ax in panels[1:]:
        ax.set_ylabel("")
        if (legend := ax.get_legend()) is not None:
            legend.remove()
    last = curves_of(analysis.runs, names[-1])
    ends = [f"{label} ends at {plain(float(curve.values[-1]))}" for label, curve in last.items()]
    yield finish(
        figure,
        "losses",
        "Loss in distribution",
        "Left, the mean over the training batches since the checkpoint before, which is noisy; right, the loss on "
        "sequences that are the same at every checkpoint."
        if len(names) == 2
        else "Loss on the distribution that the model was trained on.",
        f"Line plots of the loss in distribution. {'; '.join(ends[:12])}.",
    )


def other_metrics(analysis: Analysis, styles: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Metrics that this package does not know, one figure each."""
    names = sorted({name for run in analysis.runs for name in run.curves if name not in METRICS})
    for number, name in enumerate(names[:_MAX_OTHERS]):
        curves = curves_of(analysis.runs, name)
        figure, ax = new_figure(6.2, 3.0)
        plots.plot_loss(curves, ylabel=plain_text(name), styles=styles, ax=ax)
        more = len(names) - _MAX_OTHERS
        caption = "A metric that was recorded with the run, as it is."
        if number == _MAX_OTHERS - 1 and more > 0:
            caption += f" {more} more of the recorded metrics are not shown."
        ends = [f"{label} ends at {plain(float(curve.values[-1]))}" for label, curve in curves.items()]
        alt = f"Line plot of the metric {name} over training. {'; '.join(ends[:12])}."
        yield finish(figure, f"metric-{number}", f"Metric: {name}", caption, alt)
