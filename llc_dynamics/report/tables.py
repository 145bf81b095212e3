"""Tables of a report, as markup. Every text from a run is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from llc_dynamics.finding import sentences
from llc_dynamics.report.analysis import Analysis, RunAnalysis
from llc_dynamics.report.numbers import percent, plain, step, steps_between, with_error
from llc_dynamics.report.reading import last_value
from llc_dynamics.report.transitions import Names, TransitionFindings, kind_of
from llc_dynamics.report.words import reaches_the_end
from llc_dynamics.systems.description import loss_metric

_NONE = "–"
_MAX_REASONS = 400  # rows; beyond, the page would be mostly this table
_MAX_KINDS = 4  # transitions with columns of their own
_SHORT = 24  # characters of a cell that is not broken


def run_table(analysis: Analysis) -> str:
    """One row for each run: the verdicts on its transitions and the LLC at the end."""
    kinds = _kinds(analysis)
    full = len(kinds) == 1
    llc = any(run.llc is not None for run in analysis.runs)
    head, rows = ["Run"], [[run.label] for run in analysis.runs]
    for kind in kinds[:_MAX_KINDS]:
        cells = [_transition_cells(run, kind) for run in analysis.runs]
        names = [f"{kind[0].upper()}{kind[1:]}", "Least loss", "at step", "Loss at the end", "Rebound", "z"]
        special = _specialised_head(analysis, kind)
        chosen = [0, 2, 5] if not full else [*range(6), *([6] if special else [])]
        head += [[*names, special or ""][place] for place in chosen]
        for row, cell in zip(rows, cells, strict=True):
            row += [cell[place] for place in chosen]
    if llc:
        head += ["LLC at the end", "LLC points converged"]
    head += ["Steps"]
    for run, row in zip(analysis.runs, rows, strict=True):
        row += _llc_cells(run) if llc else []
        row += [step(int(run.steps[-1])) + ("" if run.complete else " (not finished)")]
    markup = table(head, rows, wide=True)
    if not kinds:
        return markup
    note = (
        "The least loss and the rebound are those of the trend through the checkpoints, the loss at the end is that of "
        "the last checkpoint; ± is one standard error."
    )
    if full:
        note = f"Losses are those on {_losses(analysis)}. {note}"
    return markup + f'<p class="note">{escape(note)}</p>'


def unconverged_table(analysis: Analysis) -> str | None:
    """Every LLC point that did not converge, with its reasons; None if there is none."""
    rows = []
    for run in analysis.runs:
        if run.llc is None or run.llc.converged is None:
            continue
        errors = run.llc.standard_errors
        for index in np.flatnonzero(~run.llc.converged):
            error = None if errors is None else float(errors[index])
            value = with_error(float(run.llc.values[index]), error)
            reasons = sentences(run.llc.reasons[index]) or "no reason was stored"
            rows.append([run.label, step(run.llc.steps[index]), value, reasons])
    if not rows:
        return None
    more = len(rows) - _MAX_REASONS
    markup = table(["Run", "Step", "Estimate", "What speaks against it"], rows[:_MAX_REASONS])
    return markup + (f'<p class="note">and {more} more.</p>' if more > 0 else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], wide: bool = False) -> str:
    """A table of plain texts, escaped; it scrolls sideways where the screen is narrow.

    wide : it may take the margins of the page where the screen has them.
    """
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    kind = "scroll wide" if wide and len(head) > 7 else "scroll"
    return f'<div class="{kind}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    short = ' class="n"' if len(text) <= _SHORT else ""
    return f"<td{short}>{escape(text)}</td>"


def _kinds(analysis: Analysis) -> list[str]:
    """The transitions of which at least one run has a verdict."""
    return list(
        dict.fromkeys(
            kind_of(run.description, found.transition)
            for run in analysis.runs
            for found in run.transitions
            if found.transience is not None or found.specialisation is not None
        )
    )


def _of_kind(run: RunAnalysis, kind: str) -> TransitionFindings | None:
    return next((each for each in run.transitions if kind_of(run.description, each.transition) == kind), None)


def _specialised_head(analysis: Analysis, kind: str) -> str | None:
    for run in analysis.runs:
        found = _of_kind(run, kind)
        if found is not None and found.specialisation is not None:
            return f"Distance to {Names(run.description, found.transition).specialised} at the end"
    return None


def _losses(analysis: Analysis) -> str:
    found = [(run, each) for run in analysis.runs for each in run.transitions]
    return Names(found[0][0].description, found[0][1].transition).loss.removeprefix("loss on ")


def _transition_cells(run: RunAnalysis, kind: str) -> list[str]:
    """Verdict, least loss, its step, loss at the end, rebound, z, distance to the specialised solution at the end."""
    found = _of_kind(run, kind)
    special = None if found is None else found.specialisation
    distance = _NONE if special is None else with_error(special.end, special.end_error)
    if found is None or found.transience is None:
        return [_NONE if found is None else "not judged", *[_NONE] * 5, distance]
    verdict = found.transience
    at = step(verdict.minimum_step)
    if verdict.t_crit_interval is not None:
        at += f" ({steps_between(verdict.t_crit_interval)})"
    end = plain(last_value(run.curves[loss_metric(found.transition.probe)]))
    rebound, z = "none", _NONE
    if verdict.minimum_step == run.steps[-1]:
        end = plain(verdict.minimum)
    else:
        scale = abs(verdict.minimum)
        rebound = percent(verdict.rebound_relative, verdict.rebound_standard_error / scale if scale else None)
        z = f"{verdict.rebound_z:.1f}" if math.isfinite(verdict.rebound_z) else _NONE
    return ["yes" if verdict.transient else "no", plain(verdict.minimum), at, end, rebound, z, distance]


def _llc_cells(run: RunAnalysis) -> list[str]:
    if run.llc is None:
        return [_NONE, "none stored"]
    converged = np.ones(len(run.llc), dtype=bool) if run.llc.converged is None else run.llc.converged
    error = None if run.llc.standard_errors is None else float(run.llc.standard_errors[-1])
    value = with_error(float(run.llc.values[-1]), error)
    points = f"{int(converged.sum())} of {len(run.llc)}"
    if not converged[-1]:
        value += " (not converged)"
    if not reaches_the_end(run):
        return [f"not reached ({value} at step {step(run.llc.steps[-1])})", f"{points} up to there"]
    return [value, points]
