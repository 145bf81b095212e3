"""How every figure looks: colours, fonts, the frame of an axes, legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

Key = str | float
"""What names a run in a figure: its value on the axis of a sweep (`math.inf` included), or any text."""

INK, MUTED, GRID, PAPER = "#1f2328", "#6b7480", "#e3e7eb", "#ffffff"

# Okabe & Ito (2008), "Color universal design", without yellow and black, which vanish on paper or mean infinity here.
CATEGORICAL = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
LINES = ("-", "--", "-.", ":")
WARNING_COLOR = "#c1121f"

_RAMP = ("#3355cc", "#a23fa8", "#dd5563", "#ee8f33")  # CIE lightness about 41, 45, 55, 69

RC: Any = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "figure.dpi": 120.0,
    "mathtext.fontset": "dejavusans",
}
"""Settings under which an axes is created when none is given; use `matplotlib.rc_context(RC)` for your own figures."""

_MAX_LEGEND = 9


@dataclass(frozen=True)
class SeriesStyle:
    """How one run is drawn, in all figures of a page."""

    label: str
    color: str
    linestyle: str = "-"
    marker: str = "o"


def axis_colors(values: Iterable[Key]) -> dict[Key, str]:
    """A colour for each value on the axis along which runs differ.

    Numbers go from blue (small) over red to orange (large), evenly by rank, and infinity is ink. Lightness grows from
    end to end, so that the order survives colour blindness and grey print; neither end comes near the ink of infinity
    or the white of the page. Words take their colours from a cycle that the colour-blind can tell apart.
    """
    values = list(dict.fromkeys(values))
    finite = sorted(value for value in values if not isinstance(value, str) and not math.isinf(value))
    ramp = LinearSegmentedColormap.from_list("axis", _RAMP)
    colors: dict[Key, str] = {value: to_hex(ramp(rank / max(len(finite) - 1, 1))) for rank, value in enumerate(finite)}
    words = [value for value in values if isinstance(value, str)]
    colors |= {word: CATEGORICAL[number % len(CATEGORICAL)] for number, word in enumerate(words)}
    return colors | {value: INK for value in values if not isinstance(value, str) and math.isinf(value)}


def series_styles(keys: Iterable[Key], styles: Mapping[Any, SeriesStyle] | None = None) -> dict[Key, SeriesStyle]:
    """The style of each key: as given in `styles`, else labelled by the key and coloured by `axis_colors`."""
    keys = list(keys)
    colors = axis_colors(keys)
    given = styles or {}
    return {key: given[key] if key in given else SeriesStyle(key_label(key), colors[key]) for key in keys}


def key_label(key: Key) -> str:
    """A text as it is; '1,024', '0.5' or '∞' for a number."""
    if isinstance(key, str):
        return key
    return f"{key:,.0f}" if float(key).is_integer() else "∞" if math.isinf(key) else f"{key:g}"


def shown_text(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would begin a formula, a leading underscore hide the line."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def axes_or_new(ax: Axes | None, width: float = 5.2, height: float = 3.3) -> Axes:
    """`ax` itself, or the axes of a new pyplot figure of `width` by `height` inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        with mpl.rc_context(RC):
            _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def draw_mark(ax: Axes, place: ArrayLike, *, color: str, marker: str, size: float, **look: Any) -> None:
    """One point with a rim of paper, which stands out from the lines that it lies on."""
    rim: dict[str, Any] = {"markeredgecolor": PAPER, "markeredgewidth": 0.9, "linestyle": "none"}
    ax.plot(*np.asarray(place)[:, None], color=color, marker=marker, markersize=size, **rim, **look)


def draw_ends(ax: Axes, path: NDArray[np.float64], color: str) -> None:
    """A hollow circle where a trajectory [point, 2 or 3] starts, and a filled one where it ends."""
    dot: dict[str, Any] = {"color": color, "marker": "o", "linestyle": "none", "zorder": 3}
    ax.plot(*path[:1].T, markersize=4.5, markerfacecolor=PAPER, gid="start", **dot)
    ax.plot(*path[-1:].T, markersize=6.0, markeredgecolor=PAPER, markeredgewidth=0.8, gid="end", **dot)


def panel_title(ax: Axes, text: str) -> None:
    """A title over the left edge of `ax`, in the size of its axis labels."""
    ax.set_title(text, loc="left", fontsize=ax.xaxis.label.get_fontsize(), color=ax.xaxis.label.get_color())


def small_size(ax: Axes) -> float:
    """Font size of what is secondary in `ax`: legends, labels on lines."""
    return 0.88 * float(ax.xaxis.label.get_fontsize())


def legend_settings(ax: Axes) -> dict[str, Any]:
    """Keywords of a legend that suits `ax`: no frame, its text in the colour of the axis labels."""
    color = ax.xaxis.label.get_color()
    return {"frameon": False, "fontsize": small_size(ax), "labelcolor": color, "handlelength": 1.7}


def trajectory_legend(ax: Axes, lines: Iterable[tuple[str, Any]], marks: Iterable[tuple[str, Any]]) -> None:
    """Lines, what `draw_ends` draws, and other marks, (label, handle) each, to the right of `ax`."""
    dot: dict[str, Any] = {"linestyle": "none", "color": MUTED, "marker": "o"}
    start, end = Line2D([], [], markersize=4.5, markerfacecolor=PAPER, **dot), Line2D([], [], markersize=6, **dot)
    entries = [*lines, ("start", start), ("end", end), *marks]
    labels, handles = [label for label, _ in entries], [handle for _, handle in entries]
    ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), **legend_settings(ax))


def small_legend(ax: Axes, **settings: Any) -> Legend | None:
    """A frameless legend of at most nine entries; longer ones are thinned evenly and say so in their title.

    An axes with one entry or none gets no legend: the title or the caption says what is shown.
    """
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if len(unique) < 2:
        return None
    names = list(unique)
    if len(names) > _MAX_LEGEND:
        kept = {round(i * (len(names) - 1) / (_MAX_LEGEND - 1)) for i in range(_MAX_LEGEND)}
        settings.setdefault("title", f"{len(kept)} of {len(names)} shown here")
        names = [name for i, name in enumerate(names) if i in kept]
    size = small_size(ax)
    legend = ax.legend(
        [unique[name] for name in names],
        names,
        **{"title_fontsize": size, **legend_settings(ax), **settings},
    )
    legend.get_title().set_color(ax.xaxis.label.get_color())
    return legend
