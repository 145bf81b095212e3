"""Curves without stages, and how often the detector finds one in them.

Six kinds of nothing, each at the steps and with the errors of a given curve, or with their covariance:

- constant: the mean plus the noise;
- monotone: a smooth rise in log time by the curve's range, with its own steepest place, plus the noise; before and
  after it the curve may be flat, so that one onset and one end do not count;
- power_law: a rise by the curve's range like t^c, c from -1 to 1 (0: in proportion to log t), plus the noise;
- random_walk: steps that add up to the curve's own variation over time, plus the noise;
- permuted: the curve's own values in a random order;
- component: the second principal component of a random walk of many dimensions, a cosine with a turn in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import sentences
from llc_dynamics.ranges import between_0_and_1, whole_number
from llc_dynamics.seeding import derive_seed, numpy_generator
from llc_dynamics.stages.developmental import detect_stages
from llc_dynamics.stages.gaussian_process import root_of
from llc_dynamics.stages.points import common_points

NullKind = Literal["constant", "monotone", "power_law", "random_walk", "permuted", "component"]
NULL_KINDS: tuple[NullKind, ...] = get_args(NullKind)

# Of the random walk behind the null of components: more features than checkpoints, as function vectors have.
_FEATURES = 400


def null_curve(kind: NullKind, like: Curve, seed: int = 0) -> Curve:
    """A curve of this kind with the steps and errors of `like` (all its points usable), another for every seed.

    Raises `ConfigError` for an unknown kind, and `DataError` for fewer than 8 points or any that is not usable.
    """
    if kind not in NULL_KINDS:
        raise ConfigError(f"null curve {kind!r} is unknown; choose one of {', '.join(NULL_KINDS)}")
    points = common_points({"like": like})
    if len(points.steps) < len(like):
        raise DataError(f"{sentences(points.notes)}: leave them out of the curve that nothing is to be made like")
    generator = numpy_generator(seed, f"null curve {kind}")
    values = like.values
    errors = _errors(like)
    noise, covariance = errors * generator.standard_normal(len(values)), like.covariance
    if covariance is not None:
        root = root_of(covariance)
        noise = root @ generator.standard_normal(root.shape[1])
    x = np.log1p(like.steps.astype(np.float64))
    spread = float(np.ptp(values))
    if kind == "constant":
        made = values.mean() + noise
    elif kind == "monotone":
        middle = generator.uniform(x[0] + 0.2 * np.ptp(x), x[-1] - 0.2 * np.ptp(x))
        width = np.ptp(x) * generator.uniform(0.04, 0.2)
        sign = 1 if values[-1] >= values[0] else -1
        made = sign * spread / (1 + np.exp(-(x - middle) / width)) + noise
    elif kind == "power_law":
        power = np.exp(generator.uniform(-1.0, 1.0) * (x - x[0]))
        made = spread * (power - power[0]) / (power[-1] - power[0]) * (1 if values[-1] >= values[0] else -1) + noise
    elif kind == "random_walk":
        walk = np.cumsum(generator.standard_normal(len(values)))
        made = walk * (spread / max(float(np.ptp(walk)), 1e-300)) + noise
    elif kind == "permuted":
        order = generator.permutation(len(values))
        made, errors = values[order], errors[order]
        covariance = None if covariance is None else covariance[np.ix_(order, order)]
    else:
        made = _walk_component(len(values), generator)
        made = made * (spread / float(np.ptp(made)))
        return Curve(like.steps, made + 0.01 * noise, None, like.name)
    given = None if like.standard_errors is None or covariance is not None else errors
    return Curve(like.steps, made, given, like.name, covariance=covariance)


def _errors(like: Curve) -> NDArray[np.float64]:
    """Its standard errors, or the scatter of neighbouring points (von Neumann et al. 1941) where it has none."""
    if like.standard_errors is not None and (like.standard_errors > 0).any():
        return like.standard_errors
    second = np.diff(like.values, 2)
    return np.full(len(like), float(np.median(np.abs(second))) / (0.6745 * np.sqrt(6)))


def false_boundaries(kind: NullKind, found: list[str]) -> list[str]:
    """Of the kinds of the boundaries that are resolved in such a curve, in order, those that are wrong."""
    if kind == "monotone":
        found = found[found[:1] == ["onset"] :]
        return found[:-1] if found[-1:] == ["end"] else found
    return found


def _walk_component(length: int, generator: np.random.Generator) -> NDArray[np.float64]:
    walk = generator.standard_normal((length, _FEATURES)).cumsum(axis=0)
    walk -= walk.mean(axis=0)
    vectors, sizes, _ = np.linalg.svd(walk, full_matrices=False)
    return vectors[:, 1] * sizes[1]


@dataclass(frozen=True)
class NullRate:
    """In how many of `repetitions` curves of one kind the detector resolved a boundary.

    rate : their share. interval : 95% interval of it (Wilson's).
    """

    kind: NullKind
    repetitions: int
    alarms: int

    @property
    def rate(self) -> float:
        return self.alarms / self.repetitions

    @property
    def interval(self) -> tuple[float, float]:
        z = 1.96
        n, p = self.repetitions, self.rate
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return max(float(middle - half), 0.0), min(float(middle + half), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"rate": self.rate, "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.kind.replace('_', ' ')}: {self.alarms} of {self.repetitions} with a boundary "
            f"({100 * self.rate:.1f}%, 95% interval {100 * low:.1f} to {100 * high:.1f}%)"
        )


def null_rates(
    curve: Curve,
    repetitions: int = 200,
    *,
    kinds: tuple[NullKind, ...] = NULL_KINDS,
    threshold: float = 0.9,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NullRate, ...]:
    """How often `detect_stages` resolves a boundary where there is none, at the number of points and errors of `curve`.

    Unusable points of the curve (NaN, unconverged) are left out, as the detector does. `progress` is called with
    (curves done, curves in all). Raises what `detect_stages` raises, and `ConfigError` for an unknown kind, or fewer
    than one repetition.
    """
    repetitions, threshold = whole_number("repetitions", repetitions, 1), between_0_and_1("threshold", threshold)
    derive_seed(seed)  # says what is wrong with it before the arithmetic below does
    like = common_points({"curve": curve}).curves["curve"]
    rates = []
    for place, kind in enumerate(kinds):
        alarms = 0
        for repetition in range(repetitions):
            made = null_curve(kind, like, seed * 1_000_003 + repetition)
            found = detect_stages(made, component=2 if kind == "component" else None, threshold=threshold)
            alarms += bool(false_boundaries(kind, [boundary.kind for boundary in found.resolved]))
            if progress is not None:
                progress(place * repetitions + repetition + 1, len(kinds) * repetitions)
        rates.append(NullRate(kind, repetitions, alarms))
    return tuple(rates)
