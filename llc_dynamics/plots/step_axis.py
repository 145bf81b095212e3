"""Scales: steps on an axis that is logarithmic where runs develop and has step 0 on it; losses on a plain log axis."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

STEPS = "Training step (optimiser updates)"


def format_step(step: float) -> str:
    """'0', '300', '2k', '1.5M': short, without loss for round numbers."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"


def default_width(last_step: float) -> float:
    """s, below which a step axis is linear: a three hundredth of the last step, at least 1."""
    return max(1.0, float(last_step) / 300)


def step_ticks(last_step: float, s: float, first_step: float = 0.0) -> tuple[list[float], list[float]]:
    """Major and minor ticks: 0, then the decades from a quarter of s on; 2 and 5 times these where few are in view."""
    first, last = math.ceil(math.log10(s / 4) - 1e-9), math.floor(math.log10(last_step) + 1e-9)
    multiples = (1, 2, 5) if last_step < 100 * max(first_step, s) else (1,)
    decades = [10.0**k for k in range(first, last + 1)]
    major = [0.0, *(m * decade for decade in decades for m in multiples)]
    minor = [m * decade for decade in decades for m in range(2, 10) if m not in multiples]
    shown = [[step for step in ticks if first_step <= step <= last_step] for ticks in (major, minor)]
    return shown[0], shown[1]


def set_step_axis(ax: Axes, last_step: float, linear_width: float | None = None, first_step: float = 0.0) -> None:
    """Scale the x axis of `ax` as log(1 + step / s), from `first_step` to `last_step`.

    The axis is linear well below s and logarithmic well above, so that the initialisation at step 0 has its place.
    s is `linear_width`, by default that of `default_width`. Ticks stand where their steps are, see `step_ticks`.
    """
    last_step = max(float(last_step), 1.0)
    s = linear_width if linear_width is not None else default_width(last_step)

    def forward(step: ArrayLike) -> NDArray[np.float64]:
        # matplotlib also asks for positions left of 0; continue the scale as an odd function.
        x = np.asarray(step, dtype=np.float64) / s
        return np.sign(x) * np.log1p(np.abs(x))

    def inverse(position: ArrayLike) -> NDArray[np.float64]:
        p = np.asarray(position, dtype=np.float64)
        return np.sign(p) * s * np.expm1(np.abs(p))

    ax.set_xscale("function", functions=(forward, inverse))
    major, minor = step_ticks(last_step, s, first_step)
    ax.xaxis.set_major_locator(FixedLocator(major))
    ax.xaxis.set_major_formatter(FixedFormatter([format_step(step) for step in major]))
    ax.xaxis.set_minor_locator(FixedLocator(minor))
    ax.xaxis.set_minor_formatter(NullFormatter())
    low, high = float(forward(first_step)), float(forward(last_step))
    ax.set_xlim(float(inverse(low - 0.02 * (high - low))), float(inverse(high + 0.03 * (high - low))))
    ax.set_xlabel(STEPS)


def set_log_axis(ax: Axes) -> None:
    """A logarithmic y axis for the values that `ax` shows now, labelled with plain numbers instead of powers of ten."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
