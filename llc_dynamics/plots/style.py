"""How every figure looks: colours, fonts, the frame of an axes, legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.legend import Legend

Key = str | float
"""What names a run in a figure: its M (a number, `math.inf` included) or any text."""

INK, MUTED, GRID, PAPER = "#1f2328", "#6b7480", "#e3e7eb", "#ffffff"

# Okabe & Ito (2008), "Color universal design", without yellow and black, which vanish on paper or mean infinity here.
CATEGORICAL = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
RIDGE_COLOR, DMMSE_COLOR = CATEGORICAL[0], CATEGORICAL[1]
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


def task_label(num_tasks: float) -> str:
    """'M = 8', or 'M = ∞'."""
    return "M = ∞" if math.isinf(num_tasks) else f"M = {num_tasks:,.0f}"


def task_colors(num_tasks: Iterable[float]) -> dict[float, str]:
    """A colour for every M: from blue (few) over red to orange (many), evenly by rank, and ink for infinity.

    Lightness grows from end to end, so that the order survives colour blindness and grey print; neither end comes near
    the ink of infinity or the white of the page.
    """
    finite = sorted({m for m in num_tasks if not math.isinf(m)})
    ramp = LinearSegmentedColormap.from_list("number of tasks", _RAMP)
    places = [i / max(len(finite) - 1, 1) for i in range(len(finite))]
    colors = {m: to_hex(ramp(place)) for m, place in zip(finite, places, strict=True)}
    return colors | {math.inf: INK}


def series_styles(keys: Iterable[Key], styles: Mapping[Any, SeriesStyle] | None = None) -> dict[Key, SeriesStyle]:
    """The style of each key: as given in `styles`, by M for numbers, from a colour-blind safe cycle for texts."""
    keys = list(keys)
    by_tasks = task_colors([key for key in keys if not isinstance(key, str)])
    found: dict[Key, SeriesStyle] = {}
    for number, key in enumerate(keys):
        if styles is not None and key in styles:
            found[key] = styles[key]
        elif isinstance(key, str):
            found[key] = SeriesStyle(key, CATEGORICAL[number % len(CATEGORICAL)])
        else:
            found[key] = SeriesStyle(task_label(key), by_tasks[key])
    return found


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
