"""What was found, in sentences, and what a page does not show. Plain text: the page escapes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llc_dynamics.curve import Curve
from llc_dynamics.plots.bands import trusted
from llc_dynamics.report.analysis import Analysis, RunAnalysis
from llc_dynamics.report.numbers import count, listed, plain, step, with_error
from llc_dynamics.report.transitions import distance_left, evidence_sentences, explanation, kind_of, verdict_sentences

_CHANGE_ERRORS = 2.0  # standard errors from which a change of the LLC is called one
_PEAK_ERRORS, _PEAK_SHARE = 3.0, 0.1  # an extreme between first and last is named from so many errors and such a share


def headline(analysis: Analysis) -> str:
    """One or two sentences about all runs."""
    kinds: dict[str, list[RunAnalysis]] = {}
    for run in analysis.runs:
        for found in run.transitions:
            kinds.setdefault(kind_of(run.description, found.transition), []).append(run)
    if not kinds:
        return _what_there_is(analysis)
    return " ".join(_headline_of(kind, runs) for kind, runs in kinds.items())


def _headline_of(kind: str, runs: Sequence[RunAnalysis]) -> str:
    judged: dict[str, bool] = {}
    for run in runs:
        for each in run.transitions:
            if kind_of(run.description, each.transition) == kind and each.transience is not None:
                judged[run.label] = judged.get(run.label, False) or each.transience.transient
    if not judged:
        return (
            f"{count(len(runs), 'run')} read; none holds what a verdict on {kind} needs (a loss and the distance to "
            "the general solution), so this page shows curves without one."
        )
    found = [label for label, transient in judged.items() if transient]
    rest = [label for label, transient in judged.items() if not transient]
    if not found:
        return f"No {kind} was found in {count(len(judged), 'run')}: {listed(rest)}."
    text = f"{kind[0].upper()}{kind[1:]} was found in {len(found)} of {count(len(judged), 'run')}: {listed(found)}."
    return text + (f" It was not found for {listed(rest)}." if rest else "")


def _what_there_is(analysis: Analysis) -> str:
    """The headline of runs that declare no transition."""
    runs = analysis.runs
    checkpoints = sum(len(run.steps) for run in runs)
    last = max(int(run.steps[-1]) for run in runs)
    text = f"{count(len(runs), 'run')} with {count(checkpoints, 'checkpoint')}, up to step {step(last)}"
    points = sum(len(run.llc) for run in runs if run.llc is not None)
    if points:
        good = sum(int(trusted(run.llc).sum()) for run in runs if run.llc is not None)
        text += f"; {good} of {count(points, 'LLC point')} converged"
    reports = [report for run in runs if run.stages is not None for report in run.stages.reports.values()]
    if reports:
        total = sum(len(report.resolved) for report in reports)
        what = "boundary between stages is" if total <= 1 else "boundaries between stages are"
        text += f"; {f'{total:,}' if total else 'no'} {what} resolved"
    return text + "."


def introduction(analysis: Analysis) -> list[str]:
    """What the systems say of themselves, and what the words of the verdicts mean."""
    own = dict.fromkeys(run.description.words.strip() for run in analysis.runs)
    meanings = dict.fromkeys(
        explanation(run.description, found.transition) for run in analysis.runs for found in run.transitions
    )
    said = [" ".join(text.split()) for text in own if text]
    if meanings:
        said.append(
            " ".join(_without_specialised(list(meanings)))
            + " ± is one standard error, and z the number of standard errors by which the loss rose."
        )
    return said


def _without_specialised(meanings: list[str]) -> list[str]:
    """Of 'leaves it for X: ...' and 'leaves it: ...' the first says all."""
    starts = [text.partition("leaves it")[0] for text in meanings]
    return [
        text
        for place, text in enumerate(meanings)
        if not any(
            other != text and starts[place] == starts[number] and len(other) > len(text)
            for number, other in enumerate(meanings)
        )
    ]


def run_sentences(run: RunAnalysis) -> list[str]:
    """Everything that was found in one run: the verdicts, then the evidence."""
    return [*verdicts_of(run), *evidence_of(run)]


def verdicts_of(run: RunAnalysis) -> list[str]:
    """The verdicts on the run's transitions."""
    return [
        text for found in run.transitions for text in verdict_sentences(found, run.description, run.curves, run.levels)
    ]


def evidence_of(run: RunAnalysis) -> list[str]:
    """How near to the general solutions the run came, how it specialised, and how its LLC developed."""
    sentences = [text for found in run.transitions for text in evidence_sentences(found, run.description)]
    if run.llc is not None:
        sentences += llc_sentences(run.llc, run.t_crit, run.weight_step)
    return sentences


def llc_sentences(llc: Curve, t_crit: int | None = None, last_step: int | None = None) -> list[str]:
    """From the first to the last converged point with what lies between, from t_crit on, and what to leave out.

    last_step : the last checkpoint that could have a point, to say where the curve ends before it.
    """
    known = np.flatnonzero(trusted(llc))
    total = len(llc)
    sentences = []
    if len(known) >= 2:
        first, last = int(known[0]), int(known[-1])
        sentences.append(f"The LLC {_change(llc, first, last)}{_between(llc, known)}.")
        if t_crit is not None:
            at = int(known[np.abs(llc.steps[known] - t_crit).argmin()])
            if at not in (first, last):
                place = "" if llc.steps[at] == t_crit else " (the estimated point nearest to the least loss)"
                sentences.append(f"From step {step(llc.steps[at])}{place} on it {_change(llc, at, last)}.")
    elif len(known) == 1:
        only = int(known[0])
        sentences.append(f"The LLC is {_value(llc, only)} at step {step(llc.steps[only])}, the only converged point.")
    else:
        sentences.append(f"None of the {count(total, 'point')} of the LLC curve converged, so no LLC is stated.")
    if 0 < len(known) < total:
        missing = total - len(known)
        verb = "is" if missing == 1 else "are"
        sentences.append(f"{missing} of {total} points did not converge and {verb} left out of these numbers.")
    if last_step is not None and llc.steps[-1] < last_step:
        sentences.append(
            f"The curve ends at step {step(llc.steps[-1])} of {step(last_step)}: what the LLC does later is not known."
        )
    return sentences


def llc_verdict(analysis: Analysis) -> list[str]:
    """The LLC in short: of one run over training, of several at the last checkpoint; and how much to leave out."""
    curves = [(run, run.llc) for run in analysis.runs if run.llc is not None]
    if len(curves) == 1:
        run, llc = curves[0]
        return llc_sentences(llc, run.t_crit, run.weight_step)
    known, doubtful, early = [], [], []
    for run, llc in curves:
        if not reaches_the_end(run):
            early.append(f"{run.label} at step {step(llc.steps[-1])}")
        elif trusted(llc)[-1]:
            known.append(f"{_value(llc, len(llc) - 1)} for {run.label}")
        else:
            doubtful.append(run.label)
    sentences = [f"At the last checkpoint the LLC is {listed(known)}."] if known else []
    if doubtful:
        sentences.append(f"For {listed(doubtful)} the estimate at the last checkpoint did not converge.")
    if early:
        sentences.append(f"The curve ends before the last checkpoint for {listed(early)}.")
    total = sum(len(llc) for _, llc in curves)
    bad = total - sum(int(trusted(llc).sum()) for _, llc in curves)
    if bad:
        sentences.append(f"Over training {bad} of {total} points did not converge (see below).")
    return sentences


def reaches_the_end(run: RunAnalysis) -> bool:
    """Whether the LLC curve has a point at the last checkpoint with weights."""
    return run.llc is not None and (run.weight_step is None or int(run.llc.steps[-1]) >= run.weight_step)


def resolution(analysis: Analysis) -> str:
    """Which loss the LLC curves are of, and nbeta and gamma, for all runs or for each."""
    shown: dict[str, list[str]] = {}
    for run in analysis.runs:
        for result in () if run.llc is None else run.llc.results[:1]:
            gamma = result.localization
            if not math.isfinite(gamma):
                gamma = result.settings.get("sampler", {}).get("localization", math.nan)
            text = f"the {result.loss} loss at nbeta = {plain(result.nbeta)}"
            text += f" and gamma = {plain(gamma)}" if math.isfinite(gamma) else ""
            shown.setdefault(text, []).append(run.label)
    if len(shown) == 1:
        return next(iter(shown))
    return "; ".join(f"{text} for {listed(labels)}" for text, labels in shown.items())


def limits(analysis: Analysis) -> list[str]:
    """What this page does not show, and what to keep in mind when reading it."""
    found = []
    for run in analysis.runs:
        for each in run.transitions:
            left = distance_left(each, run.description, run.curves, run.levels)
            if left is not None:
                found.append(f"{run.label}: {left}")
    if any(each.transience is not None for run in analysis.runs for each in run.transitions):
        found.append(
            "A verdict holds for the steps that were trained. A loss that still falls at the end may turn later, and "
            "one that has risen may fall again."
        )
        found.append(
            "Error bars of the rebound cover the evaluation samples (paired between checkpoints) and the jitter "
            "between checkpoints. They do not cover the seed of the model or what is drawn once for a run: "
            f"{_seeds(analysis)}."
        )
    curves = [(run.label, run.llc) for run in analysis.runs if run.llc is not None]
    if curves:
        found += [_resolution_limit(analysis), _unconverged(curves)]
        found.append(
            "Error bars of the LLC are Monte Carlo errors of the chains. The bias of a finite step size, and of chains "
            "that have not explored all directions, is not in them; the convergence checks are there to catch it."
        )
    else:
        found.append("No LLC curve is stored with these runs; `llc-dynamics llc` estimates one.")
    if analysis.pca is not None:
        names = list(analysis.pca.references)
        relative = f" relative to {listed(names[:6])}" if names else " relative to the other runs"
        if not names and len(analysis.pca.scores) < 2:
            relative = ""
        carries = f"; what carries information is where it lies{relative}" if relative else ""
        found.append(
            "Principal components of any smooth trajectory look like cosines of the checkpoint index, those of a "
            "random walk too. A component whose cosine content is within the range of random walks shows, by itself, "
            f"no more than that the model moved{carries}. "
            "Checkpoints are weighted equally, so the part of training where they lie densely counts more."
        )
    return found


def _resolution_limit(analysis: Analysis) -> str:
    here = resolution(analysis)
    text = "The LLC of a network depends on the resolution at which it is measured" + (f", here {here}" if here else "")
    text += ". Compare values at one resolution and of one loss only"
    if analysis.calibration is not None:
        return text + "; the calibration above shows how they depend on gamma."
    return text + "; this page does not show whether they plateau in gamma (`llc-dynamics calibrate` does)."


def _unconverged(curves: Sequence[tuple[str, Curve]]) -> str:
    rows = [(label, int((~trusted(curve)).sum()), len(curve)) for label, curve in curves]
    bad = sum(number for _, number, _ in rows)
    total = sum(number for *_, number in rows)
    if bad == 0:
        return f"All {total} points of the LLC curves passed the convergence checks."
    where = listed([f"{number} of {of} for {label}" for label, number, of in rows if number])
    return (
        f"{bad} of {total} points of the LLC curves did not converge ({where}). They are hollow in the figures, are "
        "left out of every sentence above, and are listed with their reasons below."
    )


def _seeds(analysis: Analysis) -> str:
    seeds = sorted({str(run.seed) for run in analysis.runs if run.seed is not None})
    places = [None if run.axis is None else run.axis.value for run in analysis.runs]
    names = {run.axis.name for run in analysis.runs if run.axis is not None}
    if not seeds:
        return "seeds are not recorded"
    if None not in places and len(set(places)) == len(places) and len(names) == 1:
        return f"there is one run for each {names.pop()} here (seed {listed(seeds)})"
    return f"the runs here have seed{'' if len(seeds) == 1 else 's'} {listed(seeds)}"


def _value(curve: Curve, index: int) -> str:
    error = None if curve.standard_errors is None else float(curve.standard_errors[index])
    return with_error(float(curve.values[index]), error)


def _error(curve: Curve, first: int, last: int) -> float:
    """Of the difference of two points; 0 where it is unknown."""
    error = curve.difference(int(curve.steps[first]), int(curve.steps[last])).standard_error
    return 0.0 if math.isnan(error) else error


def _change(curve: Curve, first: int, last: int) -> str:
    change = float(curve.values[last] - curve.values[first])
    error = _error(curve, first, last)
    if not abs(change) > _CHANGE_ERRORS * error:
        verb = "does not change beyond its error: it goes"
    else:
        verb = "rises" if change > 0 else "falls"
    size = "" if curve.covariance is None else f", a change of {with_error(change, error)}"
    return (
        f"{verb} from {_value(curve, first)} at step {step(curve.steps[first])} to {_value(curve, last)} at step "
        f"{step(curve.steps[last])}{size}"
    )


def _between(curve: Curve, known: np.ndarray) -> str:
    """', with a peak of 39.7 at step 1,200 between', where a point lies well beyond the first and the last."""
    first, last = int(known[0]), int(known[-1])
    values = curve.values[known]
    words = []
    for name, sign, at in (("peak", 1, known[values.argmax()]), ("low", -1, known[values.argmin()])):
        end = max((first, last), key=lambda place: sign * curve.values[place])
        excess = sign * float(curve.values[at] - curve.values[end])
        least = max(_PEAK_ERRORS * _error(curve, int(at), end), _PEAK_SHARE * abs(float(curve.values[end])))
        if excess > least:
            words.append((int(at), f"a {name} of {_value(curve, int(at))} at step {step(curve.steps[at])}"))
    return f", with {listed([text for _, text in sorted(words)])} between" if words else ""
