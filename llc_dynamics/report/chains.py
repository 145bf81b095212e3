"""The chains behind every point of the LLC curves: a panel with their diagnostics, and controls that choose a point."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics import plots
from llc_dynamics.finding import sentences
from llc_dynamics.llc import LLCResult
from llc_dynamics.plots.bands import Z95
from llc_dynamics.plots.style import CATEGORICAL, WARNING_COLOR, Key, SeriesStyle
from llc_dynamics.report.analysis import Analysis
from llc_dynamics.report.figure import Panel, ReportFigure
from llc_dynamics.report.interactive import axis, layout, numbers
from llc_dynamics.report.numbers import count, plain, step, with_error

_BUDGET, _MOST, _LEAST = 150_000, 150, 12  # values of all chains of a page; blocks of one chain
_MAX_PANELS = 6
_CONTROLS = """<div class="controls">
<label>Run <select id="chain-run"></select></label>
<label>LLC point <input type="range" id="chain-point" min="0" step="1"></label>
<output id="chain-step" aria-live="polite"></output>
</div>"""
_TABLE = '<div class="scroll"><table id="chain-table" aria-live="polite"></table></div>'


def chains(analysis: Analysis, _: dict[Key, SeriesStyle]) -> Iterator[ReportFigure]:
    """Running means and draws of the chains of the chosen point, and what the verdict on it rests on."""
    results = {run.label: run.llc for run in analysis.runs if run.llc is not None and run.llc.results}
    if not results:
        return
    total = sum(len(result.trace) for llc in results.values() for result in llc.results)
    blocks = int(np.clip(_BUDGET / max(total, 1), _LEAST, _MOST))
    data = [
        [label, [_point(int(at), result, blocks) for at, result in zip(llc.steps, llc.results, strict=True)]]
        for label, llc in results.items()
    ]
    label = "nbeta (L(w) - L(w*))"
    page = Panel([], layout(axis("Draw after burn-in", rangemode="tozero"), axis(label)), _nothing)
    files = [
        Panel([], {}, partial(plots.plot_trace, llc.results[-1]), f"{label}, step {step(llc.steps[-1])}")
        for label, llc in list(results.items())[:_MAX_PANELS]
        if llc.results[-1].trace.size
    ]
    caption = (
        "What one point of an LLC curve is made of. Thick lines: the running mean of each chain; thin lines: its "
        f"draws, as means of up to {count(blocks, 'block')}. Chains that settle to one level agree; a slope says that "
        "burn-in was too short. The dashed line and the band are the estimate with 95% of its standard error; it can "
        "differ from the chains by the corrections that the table names. Choose a point with the controls, or click "
        "on one in any figure; a chain that died is red."
    )
    points = sum(len(llc) for llc in results.values())
    alt = f"Line plot of the chains of one of {count(points, 'LLC point')}, which the controls choose."
    yield ReportFigure("chains", "Chains behind an LLC point", caption, alt, [page], {}, _CONTROLS, _TABLE, data, files)


def _nothing(ax: Any) -> None:
    """The page's panel has no static twin of its own."""


def _point(at: int, result: LLCResult, blocks: int) -> dict[str, Any]:
    failed = {each.chain for each in result.failed_chains}
    drawn = [_chain(trace, blocks) for trace in result.trace]
    colors = [WARNING_COLOR if k in failed else CATEGORICAL[k % len(CATEGORICAL)] for k in range(len(drawn))]
    error = result.standard_error
    known = math.isfinite(result.llc) and math.isfinite(error)
    return {
        "step": at,
        "chains": [{"color": color, **chain} for color, chain in zip(colors, drawn, strict=True)],
        "level": numbers([result.llc, *((result.llc - Z95 * error, result.llc + Z95 * error) if known else ())]),
        "rows": [[name, text] for name, text in _diagnostics(result) if text],
        "converged": result.converged,
    }


def _chain(trace: NDArray[np.float64], blocks: int) -> dict[str, Any]:
    """Ends of its blocks, the mean of each, and the mean of all draws up to there; up to where the chain died."""
    alive = trace[np.isfinite(trace).cumprod().astype(bool)]
    if not len(alive):
        return {"draws": [], "means": [], "running": []}
    ends = np.unique(np.linspace(0, len(alive), min(blocks, len(alive)) + 1).round().astype(int))[1:]
    total = alive.cumsum()[ends - 1]
    sizes = np.diff(ends, prepend=0)
    means = np.diff(total, prepend=0.0) / sizes
    return {"draws": ends.tolist(), "means": numbers(means), "running": numbers(total / ends)}


def _diagnostics(result: LLCResult) -> list[tuple[str, str]]:
    """What the verdict rests on, as (name, text); a text is empty where there is nothing to say."""

    def number(value: float) -> str:
        return plain(value) if math.isfinite(value) else ""

    failed = "; ".join(f"chain {each.chain} at draw {each.step:,}: {each.reason}" for each in result.failed_chains)
    draws = result.trace.shape[1] if result.trace.ndim == 2 else 0
    return [
        ("Verdict", "converged" if result.converged else f"did not converge: {sentences(result.reasons)}"),
        ("LLC", with_error(result.llc, result.total_error)),
        ("Resolution", result.resolution),
        (
            "Chains and draws",
            f"{count(len(result.trace), 'chain')} of {count(draws, 'draw')}, {result.num_gradients:,} gradients each",
        ),
        ("Failed chains", failed),
        ("R-hat of the loss, of |w - w*|²", f"{result.r_hat:.3f}, {result.r_hat_distance:.3f}"),
        ("Effective draws, of the mean", f"{result.ess:,.0f}, {result.ess_mean:,.0f}"),
        ("Virial ratio (1 in equilibrium)", with_error(result.virial, result.virial_error)),
        ("Acceptance", number(result.acceptance)),
        ("Kinetic temperature (1 in equilibrium)", number(result.kinetic)),
        ("Bias of the step taken off", number(result.sgld_bias)),
        ("Correction for held batches", "" if result.batch_correction == 0 else plain(result.batch_correction)),
        ("Change with log nbeta, log gamma", _pair(result)),
        ("Loss at w*", with_error(result.initial_loss, result.initial_loss_error)),
        ("Worth knowing", sentences(result.notes) if result.notes else ""),
    ]


def _pair(result: LLCResult) -> str:
    if not (math.isfinite(result.slope_nbeta) and math.isfinite(result.slope_gamma)):
        return ""
    first = with_error(result.slope_nbeta, result.slope_nbeta_error)
    return f"{first}, {with_error(result.slope_gamma, result.slope_gamma_error)}"
