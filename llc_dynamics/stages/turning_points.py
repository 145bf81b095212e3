"""Places where a trajectory in two components turns: vertices, and reversals of one component.

A *vertex* is a place of locally largest curvature (`osculating`), a *reversal* one where the velocity of a component
passes through zero (`boundaries`). Either has an interval and a probability from samples of the posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.stages.boundaries import find_boundaries
from llc_dynamics.stages.gaussian_process import SmoothFit
from llc_dynamics.stages.osculating import sharp_places

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TurningPoint:
    """A place where the trajectory turns.

    Attributes
    ----------
    kind : "vertex", of largest curvature; "reversal", where one component turns back.
    component : which component turns back, counted from 0; None for a vertex.
    step : where, in training steps. interval : the same at the level of the analysis.
    probability : share of posterior samples with such a place nearby, times the weight that a smooth curve has against
        a constant and a random walk. That is not to say that the turn means anything: compare with random walks.
    position : in the two components.
    radius, center, radius_interval : of the circle at a vertex, the interval at that level; NaN for a reversal.
    """

    kind: Literal["vertex", "reversal"]
    component: int | None
    step: float
    interval: tuple[float, float]
    probability: float
    position: tuple[float, float]
    radius: float = math.nan
    center: tuple[float, float] = (math.nan, math.nan)
    radius_interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def sentence(self) -> str:
        """The turning point in words."""
        what = "vertex" if self.component is None else f"PC{self.component + 1} turns back"
        circle = f", radius {self.radius:.3g}" if self.component is None else ""
        low, high = self.interval
        return (
            f"{what} at step {self.step:,.0f} ({low:,.0f} to {high:,.0f}), probability {self.probability:.2f}{circle}"
        )


def find_vertices(
    grid: Array,
    position: Array,
    curvature: Array,
    center: Array,
    draws: Array,
    paths: Array,
    *,
    chord: float,
    level: float,
    weight: float,
) -> list[TurningPoint]:
    """Vertices of the mean curve (grid and curvature [G], position and center [G, 2]), with a probability from how many
    sampled curves (curvatures `draws` [N, G], positions `paths` [N, G, 2]) have one nearby, times `weight`.
    """
    peaks, left, right = sharp_places(curvature, position, chord)
    sampled = [(draw, sharp_places(draw, path, chord)[0]) for draw, path in zip(draws, paths, strict=True)]
    found = []
    for k, (peak, start, stop) in enumerate(zip(peaks, left, right, strict=True)):
        # a sample's vertex belongs to the nearest one of the mean
        start = max(start, (peaks[k - 1] + peak) // 2 if k else 0)
        stop = min(stop, (peaks[k + 1] + peak) // 2 if k + 1 < len(peaks) else len(grid) - 1)
        near = []
        for draw, places in sampled:
            inside = [p for p in places if start <= p <= stop and draw[p] * curvature[peak] > 0]
            if inside:
                best = inside[int(np.argmax(np.abs(draw[inside])))]
                near.append((grid[best], 1 / abs(draw[best])))
        if not near:
            continue
        (low, high), (small, large) = (
            np.quantile([one[which] for one in near], [0.5 - level / 2, 0.5 + level / 2]) for which in (0, 1)
        )
        found.append(
            TurningPoint(
                kind="vertex",
                component=None,
                step=float(np.expm1(grid[peak])),
                interval=(float(np.expm1(low)), float(np.expm1(high))),
                probability=weight * len(near) / len(draws),
                position=(float(position[peak, 0]), float(position[peak, 1])),
                radius=float(1 / abs(curvature[peak])),
                center=(float(center[peak, 0]), float(center[peak, 1])),
                radius_interval=(float(small), float(large)),
            )
        )
    return found


def find_reversals(
    fit: SmoothFit, paths: tuple[Array, Array], grid: Array, position: Array, component: int, level: float
) -> list[TurningPoint]:
    """Turns of one component, as `find_boundaries` sees them; paths : sampled values and slopes, each [N, G]."""
    return [
        TurningPoint(
            kind="reversal",
            component=int(component),
            step=float(np.expm1(turn.x)),
            interval=(float(np.expm1(turn.low)), float(np.expm1(turn.high))),
            probability=float(turn.probability),
            position=(float(np.interp(turn.x, grid, position[:, 0])), float(np.interp(turn.x, grid, position[:, 1]))),
        )
        for turn in find_boundaries(fit, level, paths, threshold=1.0)
        if turn.kind == "turn"
    ]
