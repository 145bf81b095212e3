"""lambda_hat as a function of its resolution: the evidence of a calibration, and spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.pyplot import get_cmap

from llc_dynamics.plots.bands import Z95
from llc_dynamics.plots.style import CATEGORICAL, INK, MUTED, PAPER, axes_or_new, small_legend

if TYPE_CHECKING:
    from llc_dynamics.llc.calibration import Calibration
    from llc_dynamics.llc.spectrum import LLCSpectrum

_GAMMA = r"Localisation $\gamma$ (finer resolution to the left)"
_LLC = r"Local learning coefficient $\hat\lambda$"
# The axis is at least so wide, as a factor on either side of the ladder; values that differ by more than this are
# drawn on a logarithmic scale.
_ROOM, _LARGE_RATIO = 1.7, 8.0


def plot_calibration(calibration: Calibration, *, ax: Axes | None = None) -> Axes:
    """The ladder of gamma that a calibration tried, a line for each checkpoint; hollow where chains had not explored.

    Of several trials at one gamma the last is drawn, with the step or batch that was kept. A line marks the chosen
    gamma; bars are 95%.
    """
    ax = axes_or_new(ax)
    places = list(dict.fromkeys(trial.place for trial in calibration.trials))
    kept = {(trial.place, trial.localization): trial for trial in calibration.trials}
    for color, place in zip(_colors(len(places)), places, strict=True):
        rungs = sorted((t for t in kept.values() if t.place == place), key=lambda trial: trial.localization)
        label = f"step {int(place):,}" if place.isdigit() else place
        ax.plot([t.localization for t in rungs], [t.llc for t in rungs], color=color, lw=1.2, label=label)
        for trial in rungs:
            _point(ax, trial.localization, trial.llc, trial.standard_error, color, "o", trial.explored)
    chosen = calibration.settings.sampler.localization
    ax.axvline(chosen, color=MUTED, lw=0.9, ls=":", zorder=0)
    ax.annotate(
        "chosen", (chosen, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points",
        color=MUTED, fontsize="small",
    )  # fmt: skip
    verdict = "plateau" if calibration.plateau else "no plateau seen"
    ax.set_title(f"{verdict}; hollow: not explored", fontsize="small", color=INK, loc="left")
    ax.set(xscale="log", xlabel=_GAMMA, ylabel=_LLC)
    gammas = sorted({chosen, *(trial.localization for trial in kept.values())})
    ax.set_xlim(gammas[0] / _ROOM, gammas[-1] * _ROOM)
    ax.set_xticks(gammas, [f"{gamma:.3g}" for gamma in gammas])
    ax.set_xticks([], minor=True)
    values = [trial.llc for trial in kept.values() if np.isfinite(trial.llc)]
    if values and 0 < min(values) * _LARGE_RATIO < max(values):
        ax.set_yscale("log")
    if places:
        small_legend(ax)
    return ax


def plot_spectrum(spectrum: LLCSpectrum, *, ax: Axes | None = None) -> Axes:
    """lambda_hat against gamma: a line for each checkpoint (dark is late), or for each nbeta at one checkpoint.

    Bars are 95%; hollow points did not converge.
    """
    ax = axes_or_new(ax)
    chosen: Any
    if len(spectrum.steps) > 1:
        labels = [f"step {step:,}" for step in spectrum.steps]
        chosen, colors = (slice(None), 0), _shades(len(labels))
    else:
        labels = [rf"$n\beta$ = {nbeta:.4g}" for nbeta in spectrum.nbetas]
        chosen, colors = 0, _colors(len(labels))
    tables = spectrum.values[chosen], spectrum.standard_errors[chosen], spectrum.converged[chosen]
    for label, color, values, errors, converged in zip(labels, colors, *tables, strict=True):
        ax.plot(spectrum.localizations, values, color=color, lw=1.2, label=label)
        for gamma, value, error, good in zip(spectrum.localizations, values, errors, converged, strict=True):
            _point(ax, gamma, value, error, color, "o", bool(good))
    ax.set(xscale="log", xlabel=_GAMMA, ylabel=_LLC)
    if 1 < len(labels) <= 9:
        small_legend(ax)
    return ax


def _point(ax: Axes, x: float, y: float, error: float, color: Any, marker: str, sound: bool) -> None:
    if not np.isfinite(y):
        return
    bars = Z95 * error if np.isfinite(error) else None
    ax.errorbar(
        [x], [y], yerr=bars, color=color, marker=marker, ms=4.5, lw=1, capsize=2,
        markerfacecolor=color if sound else PAPER,
    )  # fmt: skip


def _colors(number: int) -> list[Any]:
    return list(CATEGORICAL[:number]) if number <= len(CATEGORICAL) else _shades(number)


def _shades(number: int) -> list[Any]:
    shades: Colormap = get_cmap("viridis_r")
    return [shades(0.1 + 0.85 * place / max(number - 1, 1)) for place in range(number)]
