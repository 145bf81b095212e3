"""The shape of one run's way through two principal components: speed, curvature, osculating circles, turning points.

Hoogland et al. (2024, arXiv 2402.02364) read developmental stages off such curves by their osculating circles and call
places around which a trajectory turns *forms*. The definitions here, in `osculating` and in `turning_points` are ours.
Each component is a Gaussian process in x = log(t + 1) (`gaussian_process`); joint posterior samples of position and
slope give everything an uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import Finding
from llc_dynamics.pca.cosine import RANDOM_WALK_LIKE, cosine_content
from llc_dynamics.ranges import between_0_and_1, numbers_of, whole_number
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.settings import to_mapping
from llc_dynamics.stages.gaussian_process import SmoothFit, fit_curve
from llc_dynamics.stages.osculating import circles
from llc_dynamics.stages.points import common_points
from llc_dynamics.stages.turning_points import TurningPoint, find_reversals, find_vertices

Array = NDArray[np.float64]

# The resolution is at least so many standard errors of the position: shorter chords point where the noise does.
_NOISE_MULTIPLE = 4.0


@dataclass(frozen=True, eq=False)
class TrajectoryGeometry:
    """What `trajectory_geometry` found, on a grid of G places equally spaced in log(t + 1).

    Attributes
    ----------
    components : the two, counted from 0. log_time, steps : log(t + 1) and t, [G].
    position, position_error : posterior mean and standard deviation of the curve, [G, 2].
    velocity, velocity_error : of d curve / d log(t + 1), [G, 2].
    speed, speed_error : length of the velocity, [G].
    curvature : at `resolution`, positive where the curve turns left, [G]; NaN near the ends, where no chord fits.
    curvature_low, curvature_high : its interval, [G].
    radius : 1 / |curvature|, infinite on a straight line, [G]. center : of the circle, [G, 2]; NaN where straight.
    turning_points : vertices and reversals, in order of time.
    resolution : the length d of the chords, in units of the scores. level : of all intervals.
    cosine_content : of the two components along this run. smooth_weight : smaller of the two weights of the smooth
        account of the points against a constant and random walks.
    notes : what was left out and what to beware of.
    """

    components: tuple[int, int]
    log_time: Array
    steps: Array
    position: Array
    position_error: Array
    velocity: Array
    velocity_error: Array
    speed: Array
    speed_error: Array
    curvature: Array
    curvature_low: Array
    curvature_high: Array
    radius: Array
    center: Array
    turning_points: tuple[TurningPoint, ...]
    resolution: float
    level: float
    cosine_content: tuple[float, float]
    smooth_weight: float
    notes: tuple[Finding, ...] = ()

    @property
    def sentence(self) -> str:
        """All turning points and notes in words."""
        found = [point.sentence for point in self.turning_points] or ["no turning points"]
        return "; ".join([*found, *map(str, self.notes)])

    @property
    def cosine_like(self) -> bool:
        """Whether both cosine contents are those of a random walk's PCA, .7 or more: then it turns in this way, too."""
        return _like_cosines(self.cosine_content)

    def to_dict(self, *, arrays: bool = True) -> dict[str, Any]:
        """All fields as JSON types; NaN becomes None, infinity "inf". Without `arrays`, none that lie on the grid."""
        fields = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self).items()
            if arrays or not isinstance(value, np.ndarray)
        }
        found: dict[str, Any] = _without_nan(to_mapping(fields))
        return {**found, "cosine_like": self.cosine_like, "sentence": self.sentence}


def trajectory_geometry(
    steps: ArrayLike,
    scores: ArrayLike,
    *,
    components: tuple[int, int] = (0, 1),
    standard_errors: ArrayLike | None = None,
    resolution: float = 0.04,
    level: float = 0.9,
    num_draws: int = 200,
    seed: int = 0,
) -> TrajectoryGeometry:
    """Speed, curvature, osculating circles and turning points of one run in two principal components.

    PCA of a random walk gives curves with turning points, too: its components are cosines, PC2 against PC1 a parabola.
    Of 20 walks of 100 checkpoints in 400 dimensions all had a reversal, and 15 a vertex, with a probability above .9,
    and rightly: those curves do turn. That a turn means something is not in the probability; read it together with
    `cosine_content`, its note, and `ld.pca.random_walk_cosine_content`.

    Parameters
    ----------
    steps : [checkpoint], optimiser updates, strictly increasing.
    scores : [checkpoint, component] of one run, as from `ld.JointTrajectoryPCA.transform`.
    components : which two, counted from 0.
    standard_errors : [checkpoint, component] of the scores, or None to estimate them.
    resolution : length of the chords as a share of the diagonal of the curve's bounding box. It is raised, with a note,
        to 4 standard errors of the position where that is more.
    level : of the intervals. num_draws : samples of the posterior. seed : of the draws.

    Raises `DataError` for fewer than 8 usable checkpoints, steps that do not increase (two runs in one table), shapes
    that do not fit, or scores that do not move, and `ConfigError` for settings out of their range.
    """
    _check_settings(components, resolution, level, num_draws)
    first, second, notes = _curves(steps, scores, components, standard_errors)
    fits = [fit_curve(curve) for curve in (first, second)]
    grid = fits[0].grid
    generators = [numpy_generator(seed, "trajectory geometry", axis) for axis in range(2)]
    paths = [fit.paths(num_draws, generator) for fit, generator in zip(fits, generators, strict=True)]
    position, velocity = _together([(fit.mean, fit.slope) for fit in fits], fits)
    sampled, sampled_velocity = _together(paths, fits)
    errors, velocity_errors = _together([(fit.mean_error, fit.slope_error) for fit in fits], fits)
    chord = _chord(position, errors, resolution, notes)
    curvature, center = circles(grid, position, velocity, chord)
    draws = np.stack([circles(grid, p, v, chord)[0] for p, v in zip(sampled, sampled_velocity, strict=True)])
    weight = min(fit.weight for fit in fits)
    speed = np.hypot(*velocity.T)
    with np.errstate(divide="ignore"):
        radius = 1 / np.abs(curvature)
    low, high = _quantiles(draws, level)
    along = np.stack([first.values, second.values], axis=1)
    contents = cosine_content(along, [component + 1 for component in components]).tolist()
    if _like_cosines(contents):
        values = f"cosine contents {contents[0]:.2f} and {contents[1]:.2f}"
        notes.append(Finding("cosine_like", f"{values}: the PCA of a random walk turns in this way, too"))
    points = [
        *find_vertices(grid, position, curvature, center, draws, sampled, chord=chord, level=level, weight=weight),
        *(
            point
            for axis in range(2)
            for point in find_reversals(fits[axis], paths[axis], grid, position, components[axis], level)
        ),
    ]
    return TrajectoryGeometry(
        components=(int(components[0]), int(components[1])),
        log_time=grid,
        steps=np.expm1(grid),
        position=position,
        position_error=errors,
        velocity=velocity,
        velocity_error=velocity_errors,
        speed=speed,
        speed_error=np.asarray(np.hypot(sampled_velocity[..., 0], sampled_velocity[..., 1]).std(axis=0)),
        curvature=curvature,
        curvature_low=low,
        curvature_high=high,
        radius=radius,
        center=center,
        turning_points=tuple(sorted(points, key=lambda point: point.step)),
        resolution=chord,
        level=level,
        cosine_content=(contents[0], contents[1]),
        smooth_weight=weight,
        notes=tuple(notes),
    )


def _chord(position: Array, errors: Array, resolution: float, notes: list[Finding]) -> float:
    """The share `resolution` of the curve's extent, or some errors of the position, with a note, if that is more."""
    chord = resolution * float(np.hypot(*np.ptp(position, axis=0)))
    least = _NOISE_MULTIPLE * float(np.median(np.hypot(*errors.T)))
    if least <= chord:
        return chord
    raised = f"resolution raised from {chord:.3g} to {least:.3g}"
    notes.append(Finding("resolution_raised", f"{raised}: shorter chords would follow the noise"))
    return least


def _like_cosines(contents: Sequence[float]) -> bool:
    return bool(min(np.nan_to_num(contents)) >= RANDOM_WALK_LIKE)


def _together(pairs: list[tuple[Array, Array]], fits: list[SmoothFit]) -> tuple[Array, Array]:
    """([..., G], [..., G]) of either component as ([..., G, 2], [..., G, 2]) on the grid of the first.

    The two grids are the same but for runs of many points with errors, whose cells are centred by weight.
    """
    grid, other = fits[0].grid, fits[1].grid

    def moved(values: Array) -> Array:
        if np.array_equal(grid, other):
            return values
        return np.apply_along_axis(lambda row: np.interp(grid, other, row), -1, values)

    one, two = (np.stack([pairs[0][k], moved(pairs[1][k])], axis=-1) for k in (0, 1))
    return one, two


def _curves(
    steps: ArrayLike, scores: ArrayLike, components: tuple[int, int], standard_errors: ArrayLike | None
) -> tuple[Curve, Curve, list[Finding]]:
    if isinstance(scores, dict):
        raise DataError("scores are a dict of runs; give one run at a time, such as scores[8]")
    table = numbers_of("scores", scores)
    if table.ndim != 2 or table.shape[1] <= max(components):
        raise DataError(
            f"scores have shape {table.shape}; wanted [checkpoint, component] of one run with component "
            f"{max(components) + 1}; fit with a larger n_components"
        )
    errors = None if standard_errors is None else numbers_of("standard_errors", standard_errors)
    if errors is not None and errors.shape != table.shape:
        raise DataError(f"standard_errors have shape {errors.shape}, but scores {table.shape}; give one for each score")
    curves = {
        f"PC{c + 1}": Curve(steps, table[:, c], None if errors is None else errors[:, c], name=f"PC{c + 1}")
        for c in components
    }
    points = common_points(curves)
    first, second = points.curves.values()
    if np.ptp(first.values) == 0 and np.ptp(second.values) == 0:
        raise DataError(
            f"PC{components[0] + 1} and PC{components[1] + 1} are constant along this run; choose components that move"
        )
    return first, second, list(points.notes)


def _check_settings(components: tuple[int, int], resolution: float, level: float, num_draws: int) -> None:
    if len(components) != 2 or components[0] == components[1] or min(components) < 0:
        raise ConfigError(f"components={components!r}; give two different ones, counted from 0, such as (0, 1)")
    if not 0 < resolution <= 0.5:
        raise ConfigError(
            f"resolution={resolution!r}; it is a share of the curve's extent, above 0 and at most 0.5, such as 0.04"
        )
    between_0_and_1("level", level)
    whole_number("num_draws", num_draws, 20)


def _quantiles(draws: Array, level: float) -> tuple[Array, Array]:
    """Interval over samples [N, G], by grid point; NaN where fewer than half of the samples have a value."""
    known = np.isfinite(draws).mean(axis=0) >= 0.5
    ends = np.full((2, draws.shape[1]), np.nan)
    if known.any():
        ends[:, known] = np.nanquantile(draws[:, known], [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return ends[0], ends[1]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
