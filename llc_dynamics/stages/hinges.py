"""Where a flat curve begins to rise or fall, and where a rise or fall ends in flatness.

On each sample of the curve a hinge is fitted by least squares, flat up to a place and a line from there to where the
curve is steepest. It is an onset if over the last e-fold of t before the place the sample moves at less than `SHARE` of
its speed over the first e-fold after it. What grows like t^c does so at e^-c, whatever the place: on a logarithmic axis
it looks flat and then steep, but where depends on when the run was stopped. `SHARE` keeps c <= 1 out.

The end of a rise is the onset of the reversed curve, and keeps decays like 1/t out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARE = 0.25
# The flat stretch begins and ends so many checkpoints apart, or more.
_CHECKPOINTS = 3
_FEWEST = 6


def onsets(x: Array, paths: Array, seen: Array) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which paths [N, W] over x [W], flat first and steepest last, have an onset, and its place in x, [N] each.

    seen : x of the checkpoints.
    """
    if len(x) < _FEWEST:
        return np.zeros(len(paths), dtype=bool), np.zeros(len(paths), dtype=int)
    rise = np.maximum(x[None, 1:-1] - x[1:-1, None], 0.0)
    rise = np.concatenate([np.zeros((len(rise), 1)), rise, (x[-1] - x[1:-1])[:, None]], axis=1)
    rise -= rise.mean(axis=1, keepdims=True)
    places = 1 + (paths @ (rise / np.linalg.norm(rise, axis=1, keepdims=True)).T).argmax(axis=1)
    efold = max(round(1 / (x[1] - x[0])), 1)
    before, after = np.maximum(places - efold, 0), np.minimum(places + efold, len(x) - 1)
    at = np.take_along_axis(paths, np.stack([before, places, after], axis=1), axis=1)
    slow, fast = (at[:, 1] - at[:, 0]) / (x[places] - x[before]), (at[:, 2] - at[:, 1]) / (x[after] - x[places])
    flat = np.searchsorted(seen, x[places], side="right") - np.searchsorted(seen, x[0]) >= _CHECKPOINTS
    return flat & (np.abs(slow) < SHARE * fast), places
