"""LLC curves and chains, with everything that speaks against a point visible in the figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import ArrayLike

from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.plots.bands import Z95, CurveOrCurves, as_mapping, curve_errors, draw_band, last_step, trusted
from llc_dynamics.plots.step_axis import set_step_axis
from llc_dynamics.plots.style import (
    INK,
    MUTED,
    PAPER,
    WARNING_COLOR,
    SeriesStyle,
    axes_or_new,
    key_label,
    legend_settings,
    series_styles,
    small_legend,
)

_LLC = r"Local learning coefficient $\hat\lambda$"


def plot_llc_curve(
    curves: CurveOrCurves,
    *,
    t_crit: Mapping[Any, float] | None = None,
    styles: Mapping[Any, SeriesStyle] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """LLC over training: filled points converged, hollow ones did not, crosses on the axis have no estimate.

    The scale is that of the converged points: an unconverged one far beyond them is a hollow triangle at the edge.

    Parameters
    ----------
    curves : an `ld.Curve` (or `ld.LLCCurve`) or `{key: curve}`. Bars and bands are 95% of the standard errors, those of
        the level. With a covariance (common noise) a darker band shows the shape: 95% of the error of a change from one
        point to the next. Where `curve.converged` is False the point is hollow and its line dashed; where it is None
        nothing is known and points are filled. Steps with a NaN value are marked at the lower edge.
    t_crit : `{key: step}`, steps to mark with thin lines.
    styles, ax : see `plot_loss`.

    Above the axes stands what the points count (`LLCResult.resolution`); curves may be of several resolutions.
    """
    found = as_mapping(curves, "plot_llc_curve")
    ax = axes_or_new(ax)
    drawn_hollow = drawn_off = drawn_failed = False
    low, high = llc_scale(found.values())
    for key, style in series_styles(found, styles).items():
        curve = found[key]
        finite = np.isfinite(curve.values)
        good = trusted(curve)
        doubtful = finite & ~good
        draw_band(ax, curve, style.color)
        ax.plot(curve.steps, curve.values, color=style.color, linewidth=1.1, alpha=0.75, label="_line")
        errors = curve_errors(curve)
        if errors is not None:
            bars = np.where(np.isfinite(errors), Z95 * errors, 0.0)
            ax.errorbar(
                curve.steps[finite], curve.values[finite], bars[finite], fmt="none", ecolor=style.color, elinewidth=1.0
            )
        common: dict[str, Any] = {"linestyle": "none", "marker": style.marker, "markersize": 4.6, "zorder": 3}
        ax.plot(curve.steps[good], curve.values[good], color=style.color, gid="converged", **common)
        ax.plot([], [], color=style.color, marker=style.marker, markersize=4.6, label=style.label)
        hollow: dict[str, Any] = {**common, "color": style.color, "markerfacecolor": PAPER, "markeredgewidth": 1.2}
        within = doubtful & (curve.values >= low) & (curve.values <= high)
        if doubtful.any():
            drawn_hollow = True
            ax.plot(curve.steps[within], curve.values[within], gid="unconverged", **hollow)
        for beyond, place, marker in ((curve.values < low, 0.02, "v"), (curve.values > high, 0.98, "^")):
            if (off := doubtful & beyond).any():
                drawn_off = True
                edge = np.full(int(off.sum()), place)
                where = ax.get_xaxis_transform()
                marks = {**hollow, "marker": marker, "markersize": 6.0}
                ax.plot(curve.steps[off], edge, transform=where, gid="unconverged off scale", **marks)
        if not finite.all():
            drawn_failed = True
            _mark_failed(ax, curve.steps[~finite])
        if t_crit is not None and t_crit.get(key) is not None:
            ax.axvline(t_crit[key], color=style.color, linewidth=0.9, linestyle=":", label="_t_crit")
    set_step_axis(ax, last_step(found))
    if drawn_off:
        ax.set_ylim(low, high)
    ax.set_ylabel(_LLC)
    _say_resolution(ax, {str(style.label): found[key] for key, style in series_styles(found, styles).items()})
    paired = any(curve.covariance is not None for curve in found.values())
    _legend(ax, len(found), drawn_hollow, drawn_failed, drawn_off, paired)
    return ax


def _say_resolution(ax: Axes, curves: Mapping[str, Curve]) -> None:
    """What the curves count, above the axes; of each by its label where they differ (a curve at two resolutions)."""
    said = {label: text for label, curve in curves.items() if (text := getattr(curve, "resolution", None))}
    lines = [*said.values()][:1] if len({*said.values()}) == 1 else [f"{label}: {text}" for label, text in said.items()]
    if lines:
        ax.set_title("\n".join(lines), loc="left", fontsize="x-small")


def plot_llc_against(
    places: Sequence[float],
    values: ArrayLike,
    standard_errors: ArrayLike | None = None,
    converged: ArrayLike | None = None,
    *,
    name: str = "Value",
    styles: Mapping[Any, SeriesStyle] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """LLC of each run's last checkpoint against the number by which the runs differ, with infinity at the right edge.

    Parameters
    ----------
    places : the number of each run, `math.inf` included; several runs (seeds) may share one. The axis is logarithmic
        where all finite ones are positive.
    values, standard_errors : float [run]; bars are 95%. NaN values are marked at the lower edge.
    converged : bool [run]; False is drawn hollow.
    name : of the number, for the axis. styles : `{place: SeriesStyle}`, for the colours.
    ax : where to draw; a new figure if None.

    Raises `DataError` if the lengths differ, or for a place that is NaN or minus infinity.
    """
    along, llc = np.asarray(places, dtype=np.float64), np.asarray(values, dtype=np.float64)
    errors = np.full(llc.shape, np.nan) if standard_errors is None else np.asarray(standard_errors, dtype=np.float64)
    good = np.ones(llc.shape, dtype=bool) if converged is None else np.asarray(converged, dtype=bool)
    if along.ndim != 1 or not along.size or not along.shape == llc.shape == errors.shape == good.shape:
        raise DataError(
            f"plot_llc_against: places {along.shape}, values {llc.shape}, standard_errors {errors.shape} and "
            f"converged {good.shape} must be lists of one length"
        )
    if np.any(np.isnan(along)) or np.any(along == -math.inf):
        raise DataError(f"plot_llc_against: places must be numbers or infinity, got {along.tolist()}")
    ax = axes_or_new(ax)
    finite = np.unique(along[np.isfinite(along)])
    log = bool(finite.size and finite[0] > 0)
    scaled = np.log2(finite) if log else finite
    # Infinity stands apart, a tenth of the range or 1.6 doublings after the largest finite place.
    room = 1.6 if log or not finite.size else 0.15 * (float(np.ptp(scaled)) or 1.0)
    edge = float(scaled[-1]) + room if finite.size else 0.0
    position = dict(zip(finite.tolist(), scaled.tolist(), strict=True)) | {math.inf: edge}
    by_key = series_styles(dict.fromkeys(along.tolist()), styles)
    for place, value, error, sound in zip(along.tolist(), llc, errors, good, strict=True):
        color = by_key[place].color
        if not math.isfinite(value):
            _mark_failed(ax, np.asarray([position[place]]))
            continue
        if math.isfinite(error):
            ax.errorbar(
                [position[place]], [value], [Z95 * error], fmt="none", ecolor=color, elinewidth=1.1, capsize=2.5
            )
        ax.plot(
            [position[place]],
            [value],
            marker="o",
            color=color,
            markerfacecolor=color if sound else PAPER,
            markeredgewidth=1.2,
            markersize=5.5,
            linestyle="none",
            zorder=3,
            gid="converged" if sound else "unconverged",
        )
    known = np.isfinite(along) & np.isfinite(llc)
    if known.any():
        joined = np.unique(along[known])
        means = [llc[known & (along == place)].mean() for place in joined]
        ax.plot([position[place] for place in joined.tolist()], means, color=MUTED, linewidth=0.9, zorder=1)
    _place_axis(ax, position, scaled, bool(np.isinf(along).any()), room)
    ax.set_xlabel(name + (" (log scale)" if log else ""))
    ax.set_ylabel(_LLC + "\nat the last checkpoint")
    _legend(ax, 1, bool((np.isfinite(llc) & ~good).any()), not np.isfinite(llc).all())
    return ax


def plot_trace(result: Any, *, ax: Axes | None = None) -> Axes:
    """Chains of one LLC estimate: each chain's running mean over its draws, above the draws themselves.

    Chains that settle to one level agree; a slope says that burn-in was too short. A chain that died is drawn red and
    dashed, up to its last draw.

    Parameters
    ----------
    result : an `ld.LLCResult`, or an array [chain, draw] of nbeta * paired loss difference.
    ax : where to draw; a new figure if None.
    """
    chains = result.trace if hasattr(result, "failed_chains") else result  # an array has a method `trace` of its own
    trace = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    if trace.ndim != 2 or not trace.size:
        raise DataError(f"plot_trace: the trace has shape {trace.shape}; wanted [chain, draw]")
    failed = {int(getattr(f, "chain", f)) for f in getattr(result, "failed_chains", ())}
    failed |= set(np.flatnonzero(~np.isfinite(trace).all(axis=1)).tolist())
    ax = axes_or_new(ax)
    draws = np.arange(1, trace.shape[1] + 1)
    chain_styles = series_styles([f"chain {c}" for c in range(len(trace))])
    for chain, style in enumerate(chain_styles.values()):
        alive = np.isfinite(trace[chain]).cumprod().astype(bool)
        values, steps = trace[chain][alive], draws[alive]
        dead = chain in failed
        color = WARNING_COLOR if dead else style.color
        ax.plot(steps, values, color=color, linewidth=0.4, alpha=0.28, rasterized=True, label="_draws")
        label = f"{style.label} (failed)" if dead else style.label
        running = values.cumsum() / steps
        ax.plot(steps, running, color=color, linewidth=1.6, linestyle="--" if dead else "-", label=label)
    estimate, error = getattr(result, "llc", math.nan), getattr(result, "standard_error", math.nan)
    if math.isfinite(estimate):
        ax.axhline(estimate, color=INK, linewidth=0.9, label="_estimate")
        if math.isfinite(error):
            ax.axhspan(estimate - Z95 * error, estimate + Z95 * error, color=INK, alpha=0.08, linewidth=0)
    ax.set_xlim(1, max(trace.shape[1], 2))
    ax.set_xlabel("Draw after burn-in")
    ax.set_ylabel(r"$n\beta\,(L_B(w) - L_B(w^*))$, draws and running mean")
    small_legend(ax)
    return ax


def llc_scale(curves: Iterable[Curve]) -> tuple[float, float]:
    """The range in which points are drawn where they are: that of the converged ones and half of it on either side."""
    bounds = []
    for curve in curves:
        good = trusted(curve)
        errors = curve_errors(curve)
        margin = np.zeros(len(curve)) if errors is None else np.nan_to_num(Z95 * errors, posinf=0.0)
        bounds += [*(curve.values - margin)[good], *(curve.values + margin)[good]]
    if len(bounds) < 4:  # fewer than two points set no scale
        return -math.inf, math.inf
    low, high = min(bounds), max(bounds)
    return low - (high - low) / 2, high + (high - low) / 2


def _mark_failed(ax: Axes, places: np.ndarray) -> None:
    ax.plot(
        places,
        np.full(len(places), 0.02),
        transform=ax.get_xaxis_transform(),
        linestyle="none",
        marker="x",
        markersize=5.5,
        markeredgewidth=1.5,
        color=WARNING_COLOR,
        gid="failed",
        clip_on=False,
        zorder=5,
    )


def _legend(ax: Axes, series: int, hollow: bool, failed: bool, off: bool = False, shape: bool = False) -> None:
    handles, labels = ax.get_legend_handles_labels() if series > 1 else ([], [])
    if shape:
        handles = [*handles, *(Patch(color=MUTED, alpha=alpha, linewidth=0) for alpha in (0.4, 0.16))]
        labels = [*labels, "error of a change to the next point (95%)", "error of the level (95%)"]
    dot: dict[str, Any] = {"linestyle": "none", "color": MUTED, "markersize": 4.6}
    if hollow:
        handles = [*handles, Line2D([], [], marker="o", markerfacecolor=PAPER, markeredgewidth=1.2, **dot)]
        labels = [*labels, "did not converge" + (" (triangles: off the scale)" if off else "")]
    if failed:
        cross = Line2D([], [], linestyle="none", marker="x", markersize=5.5, markeredgewidth=1.5, color=WARNING_COLOR)
        handles, labels = [*handles, cross], [*labels, "no estimate"]
    if handles:
        ax.legend(handles, labels, **legend_settings(ax))


def _place_axis(ax: Axes, position: Mapping[float, float], scaled: np.ndarray, infinity: bool, room: float) -> None:
    places = [(key_label(place), where) for place, where in position.items() if math.isfinite(place)]
    # Labels nearer than a tenth of the range would overlap in long sweeps; keep the first of each cluster.
    least = 0.06 * float(np.ptp(scaled)) if len(places) > 8 else 0.0
    kept: list[tuple[str, float]] = []
    for label, where in places:
        if not kept or where - kept[-1][1] > least:
            kept.append((label, where))
    if infinity:
        edge = position[math.inf]
        if places:
            ax.axvline(edge - room / 2, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        kept.append((key_label(math.inf), edge))
    ax.xaxis.set_major_locator(FixedLocator([where for _, where in kept]))
    ax.xaxis.set_major_formatter(FixedFormatter([label for label, _ in kept]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(kept[0][1] - 0.4 * room, kept[-1][1] + 0.4 * room)
