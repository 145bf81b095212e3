"""What was found, in sentences. Plain text: the page escapes it."""

from __future__ import annotations

import math

import numpy as np

from llc_dynamics.curve import Curve
from llc_dynamics.report.analysis import Analysis, RunAnalysis
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.numbers import listed, percent, plain, step, steps_between, with_error
from llc_dynamics.stages import TransienceVerdict

READING = (
    "M is the number of regression tasks that a model was trained on. Ridge is the ideal predictor for any task, "
    "dMMSE the one for the M training tasks. Transient ridge means that a model first comes near ridge and later "
    "leaves it for dMMSE: its loss on new tasks (out of distribution) falls and then rises. ± is one standard error, "
    "and z the number of standard errors by which the loss rose."
)

_CHANGE_ERRORS = 2.0  # standard errors from which a change of the LLC is called one


def headline(analysis: Analysis) -> str:
    """One or two sentences about all runs."""
    judged = [run for run in analysis.runs if run.transience is not None]
    if not judged:
        return (
            f"{_count(len(analysis.runs), 'run')} read; none holds what a verdict on transient ridge needs "
            "(out-of-distribution loss and distance to ridge), so this page shows curves without one."
        )
    found = [run for run in judged if run.transience is not None and run.transience.transient]
    rest = [run.label for run in judged if run not in found]
    if not found:
        return f"No transient ridge was found in {_count(len(judged), 'run')}: {listed(rest)}."
    names = listed([run.label for run in found])
    text = f"Transient ridge was found in {len(found)} of {_count(len(judged), 'run')}: {names}."
    return text + (f" It was not found for {listed(rest)}." if rest else "")


def run_sentences(run: RunAnalysis) -> list[str]:
    """Everything that was found in one run: the verdict, then the evidence."""
    return [*verdict_sentences(run), *evidence_sentences(run)]


def verdict_sentences(run: RunAnalysis) -> list[str]:
    """The verdict on transience with its numbers; those of the detector, none recomputed."""
    verdict = run.transience
    if verdict is None:
        return []
    loss = run.curves["ood_loss"]
    last = step(int(loss.steps[-1]))
    at = verdict.minimum_step
    low = with_error(verdict.minimum, _error_at(loss, at))
    if verdict.transient:
        relative_error = verdict.rebound_standard_error / abs(verdict.minimum)
        return [
            f"The model came nearest to ridge, by its out-of-distribution loss, at step {step(at)} "
            f"({verdict.level:.0%} interval {steps_between(verdict.t_crit_interval)}), where that loss was "
            f"{low}{_yardsticks(run)}.",
            f"From there to step {last} the loss rose by {percent(verdict.rebound_relative, relative_error)} "
            f"({verdict.rebound_paired_z:.1f} paired standard errors over sequences; z = {verdict.rebound_z:.1f} with "
            "the jitter of the weights): transient ridge.",
        ]
    found = f"No transient ridge: {predictor_names(str(verdict.reasons[0]))}."
    if at == int(loss.steps[-1]):
        return [found, f"At the end, step {last}, the out-of-distribution loss is {low}{_yardsticks(run)}."]
    return [
        found,
        f"The out-of-distribution loss was least at step {step(at)} ({low}), and "
        f"{plain(float(loss.values[-1]))} at step {last}{_yardsticks(run)}.",
    ]


def evidence_sentences(run: RunAnalysis) -> list[str]:
    """How near to ridge the model came, how it specialised, and how its LLC developed."""
    sentences = []
    if run.transience is not None and run.transience.transient:
        sentences.append(_nearness_sentence(run, run.transience))
    if run.specialisation is not None:
        sentences.append(_specialisation_sentence(run))
    if run.llc is not None:
        sentences += llc_sentences(run.llc, run.transience)
    return sentences


def predictor_names(reason: str) -> str:
    """A detector's reason, with the names that the two predictors have in these runs."""
    for general, name in (
        ("the general predictor", "ridge"),
        ("the specialised predictor", "dMMSE"),
        ("the general one", "ridge"),
        ("the specialised one", "dMMSE"),
    ):
        reason = reason.replace(general, name)
    return reason


def llc_sentences(llc: Curve, verdict: TransienceVerdict | None) -> list[str]:
    """From the first to the last converged point, from t_crit to the end, and how many points to leave out."""
    trusted = trusted_points(llc)
    total = len(llc)
    sentences = []
    if len(trusted) >= 2:
        sentences.append(f"The LLC {_change(llc, int(trusted[0]), int(trusted[-1]))}.")
        if verdict is not None and verdict.t_crit is not None:
            at = int(trusted[np.abs(llc.steps[trusted] - verdict.t_crit).argmin()])
            if at not in (trusted[0], trusted[-1]):
                place = "" if llc.steps[at] == verdict.t_crit else " (the estimated point nearest to the least loss)"
                sentences.append(f"From step {step(llc.steps[at])}{place} on it {_change(llc, at, int(trusted[-1]))}.")
    elif len(trusted) == 1:
        only = int(trusted[0])
        sentences.append(f"The LLC is {_value(llc, only)} at step {step(llc.steps[only])}, the only converged point.")
    else:
        sentences.append(f"None of the {_count(total, 'point')} of the LLC curve converged, so no LLC is stated.")
    if 0 < len(trusted) < total:
        missing = total - len(trusted)
        verb = "is" if missing == 1 else "are"
        sentences.append(f"{missing} of {total} points did not converge and {verb} left out of these numbers.")
    return sentences


def llc_verdict(analysis: Analysis) -> list[str]:
    """The LLC in short: of one run over training, of several at the last checkpoint; and how much to leave out."""
    curves = [(run, run.llc) for run in analysis.runs if run.llc is not None]
    if len(curves) == 1:
        return llc_sentences(curves[0][1], curves[0][0].transience)
    known, doubtful = [], []
    for run, llc in curves:
        if llc.steps[-1] == run.steps[-1]:
            trusted = trusted_points(llc)
            if len(trusted) and trusted[-1] == len(llc) - 1:
                known.append(f"{_value(llc, len(llc) - 1)} for {run.label}")
            else:
                doubtful.append(run.label)
    sentences = [f"At the last checkpoint the LLC is {listed(known)}."] if known else []
    if doubtful:
        sentences.append(f"For {listed(doubtful)} the estimate at the last checkpoint did not converge.")
    total = sum(len(llc) for _, llc in curves)
    bad = total - sum(len(trusted_points(llc)) for _, llc in curves)
    if bad:
        sentences.append(f"Over training {bad} of {total} points did not converge (see below).")
    return sentences


def resolution(analysis: Analysis) -> str:
    """Which loss the LLC curves are of, and nbeta and gamma, for all runs or for each."""
    shown: dict[str, list[str]] = {}
    for run in analysis.runs:
        for result in () if run.llc is None else run.llc.results[:1]:
            gamma = result.localization
            if not math.isfinite(gamma):  # points of earlier versions
                gamma = result.settings.get("sampler", {}).get("localization", math.nan)
            text = f"the {result.loss} loss at nbeta = {plain(result.nbeta)}"
            text += f" and gamma = {plain(gamma)}" if math.isfinite(gamma) else ""
            shown.setdefault(text, []).append(run.label)
    if len(shown) == 1:
        return next(iter(shown))
    return "; ".join(f"{text} for {listed(labels)}" for text, labels in shown.items())


def pca_sentences(pca: PCAAnalysis) -> list[str]:
    """Explained variance, and what the cosine content allows to be read into the components."""
    ratio = pca.explained_variance_ratio
    sentences = []
    if len(ratio) > 1:
        sentences.append(
            f"The first two principal components of the joint trajectory hold {percent(float(ratio[:2].sum()))} of the "
            f"variance of the function vectors ({percent(float(ratio[0]))} and {percent(float(ratio[1]))})."
        )
    if pca.cosine_content:
        contents = np.array(list(pca.cosine_content.values()))
        for component in range(min(2, contents.shape[1])):
            values = contents[:, component]
            if not np.isfinite(values).any():
                continue
            over = " over the runs" if len(values) > 1 else ""
            text = f"PC{component + 1} has a cosine content of {_range(values)}{over}"
            if pca.cosine_control is not None:
                low, high = np.nanquantile(pca.cosine_control[:, component], [0.05, 0.95])
                text += f" (random walks: {low:.2f} to {high:.2f})"
            sentences.append(text + ".")
    return sentences


def _yardsticks(run: RunAnalysis) -> str:
    rows = []
    if "ridge_ood" in run.ideal:
        rows.append(f"ridge: {plain(run.ideal['ridge_ood'].value)}")
    if "dmmse_ood" in run.ideal and run.num_tasks is not None and math.isfinite(run.num_tasks):
        rows.append(f"dMMSE with M = {run.num_tasks:,.0f}: {plain(run.ideal['dmmse_ood'].value)}")
    return f" (on the same sequences {'; '.join(rows)})" if rows else ""


def _nearness_sentence(run: RunAnalysis, verdict: TransienceVerdict) -> str:
    text = (
        f"At its nearest the mean squared distance to ridge was "
        f"{with_error(verdict.general_distance, verdict.general_distance_error)}, "
        f"{percent(verdict.nearness)} less than at the first checkpoint"
    )
    if verdict.specialised_distance is not None:
        text += f"; to dMMSE it was {plain(verdict.specialised_distance)}"
    gap = run.ideal.get("gap_ood")
    return text + ("." if gap is None else f", and the two predictors are {plain(gap.value)} apart.")


def _specialisation_sentence(run: RunAnalysis) -> str:
    verdict = run.specialisation
    assert verdict is not None
    if not verdict.specialised or verdict.t_half is None:
        return f"No specialisation in distribution: {predictor_names(str(verdict.reasons[0]))}."
    low, high = verdict.ratio_interval
    return (
        f"In distribution the distance to dMMSE fell {plain(verdict.ratio)} times ({verdict.level:.0%} interval "
        f"{plain(low)} to {plain(high)}), from {plain(verdict.start)} to {with_error(verdict.end, verdict.end_error)}; "
        f"half of the fall, on a {verdict.scale} scale, was done by step {step(verdict.t_half)} "
        f"({steps_between(verdict.t_half_interval)})."
    )


def trusted_points(curve: Curve) -> np.ndarray:
    """Indices of the points that have a value and were not found unconverged."""
    good = np.isfinite(curve.values)
    return np.flatnonzero(good if curve.converged is None else good & curve.converged)


def _value(curve: Curve, index: int) -> str:
    error = None if curve.standard_errors is None else float(curve.standard_errors[index])
    return with_error(float(curve.values[index]), error)


def _change(curve: Curve, first: int, last: int) -> str:
    change = float(curve.values[last] - curve.values[first])
    error = 0.0
    if curve.standard_errors is not None:
        error = math.hypot(*(float(curve.standard_errors[i]) for i in (first, last)))
    if not abs(change) > _CHANGE_ERRORS * error:
        verb = "does not change beyond its error: it goes"
    else:
        verb = "rises" if change > 0 else "falls"
    return (
        f"{verb} from {_value(curve, first)} at step {step(curve.steps[first])} to {_value(curve, last)} at step "
        f"{step(curve.steps[last])}"
    )


def _error_at(curve: Curve, at: int) -> float | None:
    index = int(np.abs(curve.steps - at).argmin())
    if curve.samples is not None and curve.samples.shape[1] > 1:
        return float(curve.samples[index].std(ddof=1, dtype=np.float64)) / math.sqrt(curve.samples.shape[1])
    return None if curve.standard_errors is None else float(curve.standard_errors[index])


def _range(values: np.ndarray) -> str:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
