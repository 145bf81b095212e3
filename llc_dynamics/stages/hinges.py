"""Where a flat curve begins to rise or fall, and where a rise or fall ends in flatness.

On each sample of the curve, up to where it is steepest, two shapes are fitted by least squares: a hinge, flat up to a
place and a straight line in log t from there, and a power law t^c with c from 0 to 1. The sample has an onset where
the hinge fits clearly better. On a logarithmic axis a power law, too, looks flat and then steep, but where depends on
when the run was stopped; and what falls from the first step on like exp(-t / T) begins in proportion to t.

The end of a rise is the onset of the reversed curve, and a decay like 1/t has none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_POWERS = tuple(k / 10 for k in range(11))
# The flat stretch holds so many checkpoints or more, and the window so many points of the grid.
_CHECKPOINTS, _FEWEST = 3, 6
# A power law leaves so many times as much of a sample as the hinge, or explains such a share of what the hinge does at
# most. Of 60 power laws at 58 points and noise 3 (of a range of 150) 9 or more had a boundary at 1.0, and 2 at 1.2, no
# onset or end among them; at 1.5 half of the onsets were lost. The second is for abrupt drops after a long flat
# stretch, whose own uncertainty hides the difference.
_BETTER, _WORSE = 1.2, 0.9


def onsets(x: Array, paths: Array, seen: Array) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which paths [N, W] over x [W], flat first and steepest last, have an onset, and its place in x, [N] each.

    seen : x of the checkpoints.
    """
    if len(x) < _FEWEST:
        return np.zeros(len(paths), dtype=bool), np.zeros(len(paths), dtype=int)
    hinges = paths @ _directions(np.maximum(x[None, :] - x[1:-1, None], 0.0)).T
    powers = paths @ _directions(np.stack([np.expm1(c * (x - x[0])) / c if c else x for c in _POWERS])).T
    places = 1 + hinges.argmax(axis=1)
    flat = np.searchsorted(seen, x[places], side="right") - np.searchsorted(seen, x[0]) >= _CHECKPOINTS
    size = np.square(paths - paths.mean(axis=1, keepdims=True)).sum(axis=1)
    by_hinge, by_power = np.maximum(hinges.max(axis=1), 0) ** 2, powers.max(axis=1) ** 2
    clearly = (size - by_power > _BETTER * (size - by_hinge)) | (by_power < _WORSE * by_hinge)
    return flat & clearly, places


def _directions(shapes: Array) -> Array:
    """Shapes [K, W] less their mean, of length 1: the projection on one is what it explains."""
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    return np.asarray(shapes / np.linalg.norm(shapes, axis=1, keepdims=True))
