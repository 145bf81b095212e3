"""Osculating circles of a sampled curve in the plane, at a resolution, and its vertices.

The osculating circle is the limit of circles through three neighbouring points of a curve. This stays a step before the
limit: at a resolution d the circle at P runs through P and the two points where the curve, before and after, is first
at distance d from P. With a the angle between the two chords,

    curvature = 2 sin(a / 2) / d.

On a circle this is exact at any d < 2 R. It needs no second derivative (posterior samples have none worth the name),
and it stays defined where a run stands still and leaves in another direction, where its velocity says nothing. The
largest curvature that it can show is 2 / d, that of a full reversal.

A vertex is a place of locally largest curvature, where the evolute, the path of the circle's centre, has a cusp (Bruce
& Giblin, "Curves and Singularities", 1992). It counts if

- the curvature is at least `SHARPNESS` times that on either side, where a radius larger than the whole curve counts as
  straight, and
- the curve turns by `LEAST_TURN` at least where its curvature is above half of that: noise bends a straight line, but
  by less.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.signal import find_peaks

Array = NDArray[np.float64]

#: A vertex has at least this many times the curvature of the curve beside it.
SHARPNESS = 2.0
#: A vertex turns the curve by so much, in radians.
LEAST_TURN = math.pi / 6
_PLACES_PER_CHORD, _LEAST_FINER, _MOST_FINER = 3, 2, 12


def sharp_places(curvature: Array, position: Array, chord: float) -> tuple[list[int], list[int], list[int]]:
    """Vertices of a curve [G, 2] with this curvature [G] at `chord`, and where it is least before and after each."""
    known = np.flatnonzero(np.isfinite(curvature))
    if len(known) < 3:
        return [], [], []
    start, stop = int(known[0]), int(known[-1]) + 1
    extent = float(np.hypot(*np.ptp(position, axis=0)))
    size = np.nan_to_num(np.abs(curvature[start:stop]))
    peaks, about = find_peaks(np.log(np.maximum(size, 1 / extent)), prominence=math.log(SHARPNESS))
    steps = np.hypot(*np.gradient(position[start:stop], axis=0).T)
    found = []
    for peak, left, right in zip(peaks, about["left_bases"], about["right_bases"], strict=True):
        flat = np.flatnonzero(size < size[peak] / 2)
        first = max([left, *flat[flat < peak]])
        last = min([right, *flat[flat > peak]])
        along = float((size * steps)[first : last + 1].sum())
        if max(along, float(2 * np.arcsin(min(size[peak] * chord / 2, 1)))) >= LEAST_TURN:
            found.append((start + int(peak), start + int(left), start + int(right)))
    return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]


def circles(grid: Array, position: Array, velocity: Array, chord: float) -> tuple[Array, Array]:
    """Signed curvature [G] and centre [G, 2] of the circle through each point and where the curve leaves its disc.

    Parameters
    ----------
    grid : x, equally spaced, [G]. position, velocity : of the curve and its derivative by x, [G, 2].
    chord : d, the radius of the discs.

    The curvature is positive where the curve turns left. It is NaN where the curve begins or ends within d; the centre
    is NaN there and where the curve is straight.
    """
    curve = CubicHermiteSpline(grid, position, velocity)
    # fast stretches are few grid points long: as many places between two as bring them within a fraction of the chord
    longest = float(np.hypot(*np.diff(position, axis=0).T).max())
    finer = int(np.clip(math.ceil(_PLACES_PER_CHORD * longest / chord), _LEAST_FINER, _MOST_FINER))
    places = np.linspace(grid[0], grid[-1], (len(grid) - 1) * finer + 1)
    fine = curve(places)
    # whether a place of the finer curve [F] lies outside the disc around each point [G]
    away = (position[:, :1] - fine[:, 0]) ** 2 + (position[:, 1:] - fine[:, 1]) ** 2 >= chord**2
    before, after = (curve(_exits(position, places, fine, away, chord, direction)) for direction in (-1, 1))
    arriving, leaving = position - before, after - position
    cross = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
    angle = np.arctan2(cross, (arriving * leaving).sum(axis=1))
    curvature = 2 * np.sin(angle / 2) / chord
    # the bisector of the chords from P points to the centre: (leaving - arriving) is along it
    inward = leaving - arriving
    length = np.hypot(*inward.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        center = position + inward / length[:, None] / np.abs(curvature)[:, None]
    return curvature, np.where(np.isfinite(center), center, np.nan)


def _exits(position: Array, places: Array, fine: Array, away: NDArray[np.bool_], chord: float, direction: int) -> Array:
    """x at which the curve, followed from each point in `direction`, first leaves its disc; NaN if never."""
    last = len(places) - 1
    order = np.arange(last + 1)[None]
    own = (last // (len(position) - 1)) * np.arange(len(position))[:, None]
    outside: NDArray[np.bool_] = np.logical_and(away, direction * (order - own) > 0)
    index = np.asarray(outside.argmax(axis=1) if direction > 0 else last - outside[:, ::-1].argmax(axis=1))
    before = np.clip(index - direction, 0, last)
    # |inner - P + share (outer - inner)| = chord on the line between the last place inside and the first outside
    offset, step = fine[before] - position, fine[index] - fine[before]
    a, b, c = (step**2).sum(1), (offset * step).sum(1), (offset**2).sum(1) - chord**2
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip((-b + np.sqrt(np.maximum(b**2 - a * c, 0))) / a, 0, 1)
    return np.where(outside.any(axis=1), places[before] + share * (places[index] - places[before]), np.nan)
