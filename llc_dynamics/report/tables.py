"""Tables of a report, as markup. Every text from a run is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from llc_dynamics.finding import sentences
from llc_dynamics.report.analysis import Analysis, RunAnalysis
from llc_dynamics.report.numbers import percent, plain, step, steps_between, with_error

_NONE = "–"
_MAX_REASONS = 400  # rows; beyond, the page would be mostly this table


def run_table(analysis: Analysis) -> str:
    """One row for each run: what was trained, the verdicts and the LLC at the end."""
    judged = any(run.transience is not None for run in analysis.runs)
    special = any(run.specialisation is not None for run in analysis.runs)
    llc = any(run.llc is not None for run in analysis.runs)
    head = ["Run"]
    if judged:
        head += ["Transient ridge", "Least loss", "at step", "Loss at the end", "Rebound", "z"]
    if special:
        head += ["Distance to dMMSE at the end"]
    if llc:
        head += ["LLC at the end", "LLC points converged"]
    head += ["Steps"]
    rows = []
    for run in analysis.runs:
        row = [run.label]
        if judged:
            row += _transience_cells(run)
        if special:
            row += _specialisation_cells(run)
        if llc:
            row += _llc_cells(run)
        done = step(int(run.steps[-1])) + ("" if run.complete else " (not finished)")
        rows.append([*row, done])
    note = (
        "Losses are out of distribution. The least loss and the rebound are those of the trend through the "
        "checkpoints, the loss at the end is that of the last checkpoint; ± is one standard error."
    )
    return table(head, rows) + (f'<p class="note">{escape(note)}</p>' if judged else "")


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts, escaped; it scrolls sideways where the screen is narrow."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    short = ' class="n"' if len(text) < 32 else ""
    return f"<td{short}>{escape(text)}</td>"


def _transience_cells(run: RunAnalysis) -> list[str]:
    verdict = run.transience
    if verdict is None:
        return ["not judged", *[_NONE] * 5]
    at = step(verdict.minimum_step)
    if verdict.t_crit_interval is not None:
        at += f" ({steps_between(verdict.t_crit_interval)})"
    end = plain(float(run.curves["ood_loss"].values[-1]))
    if verdict.minimum_step == run.steps[-1]:
        end = plain(verdict.minimum)
    rebound, z = "none", _NONE
    if verdict.minimum_step != run.steps[-1]:
        scale = abs(verdict.minimum)
        rebound = percent(verdict.rebound_relative, verdict.rebound_standard_error / scale if scale else None)
        z = f"{verdict.rebound_z:.1f}" if math.isfinite(verdict.rebound_z) else _NONE
    return ["yes" if verdict.transient else "no", plain(verdict.minimum), at, end, rebound, z]


def _specialisation_cells(run: RunAnalysis) -> list[str]:
    verdict = run.specialisation
    if verdict is None:
        return [_NONE]
    return [with_error(verdict.end, verdict.end_error)]


def _llc_cells(run: RunAnalysis) -> list[str]:
    if run.llc is None:
        return [_NONE, "none stored"]
    converged = np.ones(len(run.llc), dtype=bool) if run.llc.converged is None else run.llc.converged
    error = None if run.llc.standard_errors is None else float(run.llc.standard_errors[-1])
    value = with_error(float(run.llc.values[-1]), error)
    if run.llc.steps[-1] != run.steps[-1]:
        value += f" (step {step(run.llc.steps[-1])})"
    if not converged[-1]:
        value += " (not converged)"
    return [value, f"{int(converged.sum())} of {len(run.llc)}"]
