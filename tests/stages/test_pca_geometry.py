"""Geometry of trajectories: circles, ellipses, lines and corners of known shape, random walks, bad input."""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Circle

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.plots import plot_osculating_circles
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages import trajectory_geometry
from llc_dynamics.stages.osculating import circles, sharp_places

STEPS = np.unique(np.geomspace(1, 1e5, 90).astype(int))
X = np.log1p(STEPS)
U = (X - X[0]) / (X[-1] - X[0])  # from 0 to 1, linear in log time
GRID = np.linspace(0, 1, 240)


def vertices(geometry, least=0.0):
    return [p for p in geometry.turning_points if p.kind == "vertex" and p.probability >= least]


def reversals(geometry):
    return [p for p in geometry.turning_points if p.kind == "reversal"]


def place(step):
    """A step as u."""
    return (np.log1p(step) - X[0]) / (X[-1] - X[0])


def noise(index, size):
    return size * numpy_generator(0, "noise of a trajectory", index).standard_normal((len(U), 2))


@pytest.mark.parametrize("chord", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("sense", [1, -1])
def test_circle_is_exact_at_every_resolution(chord, sense) -> None:
    angle = sense * 4.0 * GRID**2  # unevenly in time, from a standing start
    position = np.stack([1 + 3 * np.cos(angle), 3 * np.sin(angle) - 2], 1)
    velocity = (sense * 8 * GRID)[:, None] * np.stack([-3 * np.sin(angle), 3 * np.cos(angle)], 1)
    curvature, center = circles(GRID, position, velocity, chord)
    known = np.isfinite(curvature)
    assert known.mean() > 0.3
    np.testing.assert_allclose(curvature[known], sense / 3, rtol=4e-3)
    np.testing.assert_allclose(center[known], np.broadcast_to([1, -2], center[known].shape), atol=0.02)
    assert sharp_places(curvature, position, chord)[0] == []  # as round everywhere


def test_circles_are_those_through_three_points() -> None:
    """Against the circumradius abc / 4A of the same three points, found by brute force on a dense curve."""
    angle = 2 * np.pi * GRID
    position = np.stack([2 * np.cos(angle), np.sin(angle)], 1)
    velocity = 2 * np.pi * np.stack([-2 * np.sin(angle), np.cos(angle)], 1)
    curvature, _ = circles(GRID, position, velocity, 0.2)
    dense = 2 * np.pi * np.linspace(0, 1, 200_001)
    curve = np.stack([2 * np.cos(dense), np.sin(dense)], 1)
    for k in (30, 77, 120, 200):
        p = position[k]
        away = np.hypot(*(curve - p).T) >= 0.2
        after = curve[np.flatnonzero(away & (dense > angle[k]))[0]]
        before = curve[np.flatnonzero(away & (dense < angle[k]))[-1]]
        a, b, c = (np.hypot(*(one - other)) for one, other in ((p, after), (p, before), (before, after)))
        area = abs((after - p)[0] * (before - p)[1] - (after - p)[1] * (before - p)[0]) / 2
        assert abs(curvature[k]) == pytest.approx(4 * area / (a * b * c), rel=2e-3)


def test_circle_in_log_time() -> None:
    angle = 1.5 * np.pi * U
    scores = np.stack([np.zeros_like(U), 1 + 3 * np.cos(angle), 3 * np.sin(angle) - 2], 1)
    found = trajectory_geometry(STEPS, scores, components=(1, 2), num_draws=50)
    known = np.isfinite(found.curvature)
    np.testing.assert_allclose(found.radius[known], 3, rtol=0.03)
    np.testing.assert_allclose(np.median(found.center[known], axis=0), [1, -2], atol=0.02)
    # speed: 3 times the angle per unit of log(t + 1)
    np.testing.assert_allclose(found.speed[5:-5], 3 * 1.5 * np.pi / (X[-1] - X[0]), rtol=0.02)
    np.testing.assert_allclose(found.steps, np.expm1(found.log_time))
    assert not vertices(found)
    assert [p.component for p in reversals(found)] == [2, 1]
    for point, angle_there in zip(reversals(found), (0.5, 1.0), strict=True):
        assert place(point.step) == pytest.approx(angle_there / 1.5, abs=0.01)
        assert place(point.interval[0]) <= angle_there / 1.5 <= place(point.interval[1])
        assert point.probability > 0.95


@pytest.mark.parametrize("size", [0.0, 0.03])
def test_vertices_of_an_ellipse(size) -> None:
    """At the ends of the long axis, where the radius is b^2 / a; the interval holds the true place."""
    angle = 2 * np.pi * U - np.pi / 3
    scores = np.stack([2 * np.cos(angle), np.sin(angle)], 1) + noise(1, size)
    found = trajectory_geometry(STEPS, scores, num_draws=100)
    assert len(vertices(found)) == 2
    for point, true, end in zip(vertices(found), (1 / 6, 2 / 3), (2, -2), strict=True):
        assert place(point.interval[0]) - 1 / 240 <= true <= place(point.interval[1]) + 1 / 240
        assert place(point.step) == pytest.approx(true, abs=0.006 if size == 0 else 0.06)
        assert point.radius == pytest.approx(0.5, rel=0.05 if size == 0 else 0.3)
        assert point.center == pytest.approx((end * 0.75, 0), abs=0.06 if size == 0 else 0.2)
        assert point.position == pytest.approx((end, 0), abs=0.05 if size == 0 else 0.2)
        assert point.probability > 0.9
        if size:
            assert point.radius_interval[0] < 0.55
            assert point.radius_interval[1] > 0.45


def test_straight_line_has_an_infinite_radius() -> None:
    found = trajectory_geometry(STEPS, np.stack([U, 2 * U], 1), num_draws=20)
    known = np.isfinite(found.curvature)
    assert (found.radius[known] > 20 * math.hypot(1, 2)).all()
    assert not found.turning_points
    noisy = [trajectory_geometry(STEPS, np.stack([U, 2 * U], 1) + noise(k, 0.05), num_draws=50) for k in range(6)]
    assert sum(bool(vertices(found, 0.9)) for found in noisy) == 0
    assert sum(bool(reversals(found)) for found in noisy) == 0


def test_corner_where_the_run_stands_still() -> None:
    """Along one component, a pause of a quarter of log time, then along the other: the velocity vanishes there."""
    scores = np.stack([np.minimum(U / 0.4, 1), np.maximum(U - 0.65, 0) / 0.35], 1)
    found = trajectory_geometry(STEPS, scores + noise(2, 0.01), num_draws=100)
    (corner,) = vertices(found, 0.5)
    assert 0.38 < place(corner.step) < 0.67
    assert corner.position == pytest.approx((1, 0), abs=0.05)
    assert corner.radius < 0.1
    assert found.curvature[240 // 2] > 0  # turns left


def test_the_pca_of_random_walks_turns_too() -> None:
    """The control: two cosines make a parabola with one vertex, and the result says what they are."""
    turning = 0
    for draw in range(4):
        walk = numpy_generator(3, "random walk", draw).standard_normal((len(STEPS), 400)).cumsum(axis=0)
        walk -= walk.mean(axis=0)
        u, s, _ = np.linalg.svd(walk, full_matrices=False)
        found = trajectory_geometry(STEPS, u[:, :2] * s[:2], num_draws=40)
        assert min(found.cosine_content) > 0.7
        assert "cosine_like" in [note.code for note in found.notes]
        turning += bool(found.turning_points)
    assert turning >= 3
    angle = 3 * U
    plain = trajectory_geometry(STEPS, np.stack([np.exp(-angle), angle**2], 1), num_draws=20)
    assert "cosine_like" not in [note.code for note in plain.notes]


def test_errors_missing_points_and_many_points() -> None:
    steps = np.arange(0, 60_000, 100)
    u = np.log1p(steps) / np.log1p(steps[-1])
    scores = np.stack([2 * np.cos(2 * np.pi * u), np.sin(2 * np.pi * u)], 1)
    scores[40:44, 0] = np.nan
    errors = np.full(scores.shape, 0.02) * np.array([1.0, 2.0])
    errors[::3, 1] = 0.01
    found = trajectory_geometry(steps, scores, standard_errors=errors, num_draws=20)
    assert any(note.code == "not_finite" and "4 of 600" in str(note) for note in found.notes)
    assert found.position_error.shape == (len(found.steps), 2)
    again = trajectory_geometry(steps, scores, standard_errors=errors, num_draws=20)
    np.testing.assert_array_equal(found.curvature_low, again.curvature_low)
    known = np.isfinite(found.curvature_low)
    assert (found.curvature_low[known] <= found.curvature_high[known]).all()


def test_resolution_is_raised_above_the_noise() -> None:
    found = trajectory_geometry(STEPS, np.stack([U, U**2], 1) + noise(4, 0.3), num_draws=20)
    assert "resolution_raised" in [note.code for note in found.notes]
    assert found.resolution > 0.04 * math.hypot(1, 1)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "resolution raised" in json.loads(text)["sentence"]


GOOD = np.stack([np.cos(3 * U), np.sin(3 * U)], 1)


@pytest.mark.parametrize(
    ("steps", "scores", "settings", "error", "said"),
    [
        (STEPS[:7], GOOD[:7], {}, DataError, "at least 8"),
        (STEPS[::-1], GOOD, {}, DataError, "strictly increasing"),
        (np.concatenate([STEPS, STEPS]), np.concatenate([GOOD, GOOD]), {}, DataError, "strictly increasing"),
        (STEPS[:-1], GOOD, {}, DataError, "steps"),
        (STEPS, GOOD[:, :1], {}, DataError, "larger n_components"),
        (STEPS, GOOD, {"components": (0, 2)}, DataError, "component 3"),
        (STEPS, np.full_like(GOOD, np.nan), {}, DataError, "every step"),
        (STEPS, np.ones_like(GOOD), {}, DataError, "constant"),
        (STEPS, {8: GOOD}, {}, DataError, "one run at a time"),
        (STEPS, GOOD, {"standard_errors": GOOD[:, :1]}, DataError, "one for each score"),
        (STEPS, GOOD, {"standard_errors": -np.ones_like(GOOD)}, DataError, "must not be negative"),
        (STEPS, GOOD, {"components": (1, 1)}, ConfigError, "two different"),
        (STEPS, GOOD, {"components": (0, -1)}, ConfigError, "counted from 0"),
        (STEPS, GOOD, {"resolution": 0.0}, ConfigError, "share of the curve's extent"),
        (STEPS, GOOD, {"level": 95}, ConfigError, "between 0 and 1"),
        (STEPS, GOOD, {"num_draws": 3}, ConfigError, "20 or more"),
    ],
)
def test_refuses_with_advice(steps, scores, settings, error, said) -> None:
    with pytest.raises(error, match=said):
        trajectory_geometry(steps, scores, **settings)


def test_plot_draws_what_was_found() -> None:
    angle = 2 * np.pi * U - np.pi / 3
    scores = np.stack([2 * np.cos(angle), np.sin(angle)], 1)
    found = trajectory_geometry(STEPS, scores, num_draws=20)
    ax = plot_osculating_circles(found, scores=scores, num_circles=0, explained_variance_ratio=[0.6, 0.2])
    radii = sorted(patch.radius for patch in ax.patches if isinstance(patch, Circle))
    assert radii == pytest.approx(sorted(p.radius for p in vertices(found)))
    path = next(line for line in ax.get_lines() if line.get_gid() == "trajectory")
    np.testing.assert_array_equal(path.get_xydata(), found.position)
    assert sum(line.get_gid() == "vertex" for line in ax.get_lines()) == 2
    assert sum(line.get_gid() == "reversal" for line in ax.get_lines()) == 4
    assert ax.get_xlabel() == "PC1 (60.0%)"
    assert "vertex" in [text.get_text() for text in ax.get_legend().get_texts()]
    with pytest.raises(DataError, match="trajectory_geometry"):
        plot_osculating_circles(scores)
    with pytest.raises(DataError, match="checkpoint, component"):
        plot_osculating_circles(found, scores=scores[:, :1])
    plt.close("all")
