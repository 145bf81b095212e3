"""Runs with a known answer: synthetic curves to test a detector on, and how often it cries wolf.

The model at each checkpoint is a point in function space, f = a r + b d + jitter, with r the general and d the
specialised predictor's outputs on every evaluation sequence. The three curves are then computed as for
a real run, with the same sequences at every checkpoint and the jitter common to all sequences: they have the real
noises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.curve import Curve
from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import whole_number
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages.jitter import jitter_paths

SCENARIOS = ("transient", "general", "direct", "flat", "random_walk", "permuted")
NULL_SCENARIOS = ("general", "direct", "flat", "random_walk", "permuted")

_OUTPUTS = 8
_JITTER_DIRECTIONS = 12


class SyntheticRun(NamedTuple):
    """The three curves that `detect_transience` reads, and the squared distance between the two predictors."""

    general: Curve
    specialised: Curve
    ood_loss: Curve
    reference_distance: float


def synthetic_run(
    scenario: str,
    steps: ArrayLike,
    num_sequences: int = 256,
    jitter: float = 0.03,
    correlation_time: float = 0.0,
    turn: float | None = None,
    strength: float = 0.3,
    seed: int = 0,
) -> SyntheticRun:
    """Curves of an imaginary run.

    Parameters
    ----------
    scenario : "transient" (near the general predictor, then towards the specialised one), "general" (to the general one
        and there it stays, as at M = infinity), "direct" (straight to the specialised one), "flat" (no movement but
        jitter, near the general one), "random_walk" (a and b walk at random from zero, in steps), "permuted" (the
        checkpoints of a transient run in a random order: all values are real, their times are not).
    steps : the checkpoints.
    num_sequences : number of evaluation sequences S.
    jitter : size of the common noise: roughly the standard deviation of the loss between checkpoints, relative to it.
    correlation_time : of the jitter, in steps.
    turn : step about which a transient (or permuted) run leaves the general predictor; a third of the last step by
        default.
    strength : how far it has gone to the specialised predictor at the end, from 0 to 1.
    seed : a different run for every seed.

    Raises `ConfigError` for an unknown scenario, `DataError` for steps that no curve may have.
    """
    if scenario not in SCENARIOS:
        raise ConfigError(f"scenario={scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}")
    t = Curve(steps, np.zeros(np.shape(steps))).steps  # checks them
    x = np.log1p(t.astype(np.float64))
    shape = (num_sequences, _OUTPUTS)
    generator = numpy_generator(seed, "synthetic run")
    # The squared length of the general predictor, and the angle between the two, as in regression with D=4 and M=16.
    general = 1.6 * generator.standard_normal(shape)
    specialised = 0.65 * general + 1.15 * generator.standard_normal(shape)
    target = general + 1.25 * generator.standard_normal(shape)
    # Sequences differ in difficulty: heavy tails over sequences, as in the real losses.
    scale = np.sqrt(generator.gamma(2.0, 0.5, size=(num_sequences, 1)))
    general, specialised, target = scale * general, scale * specialised, scale * target

    a, b = _path(scenario, t, x, float(t[-1]) / 3 if turn is None else turn, strength, generator)
    paths = jitter_paths(t, correlation_time, _JITTER_DIRECTIONS, generator)
    # The weights' noise lies partly along the general predictor: only that part moves the loss to first order.
    directions = generator.standard_normal((_JITTER_DIRECTIONS, 1)) * general.ravel() / 3.0
    directions = directions + 0.3 * generator.standard_normal((_JITTER_DIRECTIONS, general.size))
    noise = jitter * paths @ directions
    model = a[:, None] * general.ravel() + b[:, None] * specialised.ravel() + noise
    if scenario == "permuted":
        model = generator.permutation(model)
    model = model.reshape(len(t), *shape)

    def curve(reference: NDArray[np.float64], name: str) -> Curve:
        samples = ((model - reference) ** 2).mean(axis=2)
        return Curve(t, samples.mean(axis=1), name=name, samples=samples)

    return SyntheticRun(
        curve(general, "distance to the general predictor"),
        curve(specialised, "distance to the specialised predictor"),
        curve(target, "out-of-distribution loss"),
        float(((general - specialised) ** 2).mean()),
    )


def _path(
    scenario: str,
    t: NDArray[np.int64],
    x: NDArray[np.float64],
    turn: float,
    strength: float,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares a and b of the general and the specialised predictor at every checkpoint."""
    onset = float(np.log1p(t[-1] / 20))
    rise = 1 / (1 + np.exp(-(x - onset) / 0.5))
    rise = (rise - rise[0]) / (1 - rise[0])
    if scenario == "general":
        return 0.8 * rise, np.zeros_like(x)
    if scenario == "direct":
        return np.zeros_like(x), 0.9 * rise
    if scenario == "flat":
        return np.full_like(x, 0.75), np.zeros_like(x)
    if scenario == "random_walk":
        spread = np.sqrt(np.diff(t, prepend=0) / t[-1])
        walks = (generator.standard_normal((2, len(t))) * spread).cumsum(axis=1)
        return 0.6 * walks[0], 0.6 * walks[1]
    # Transient (and permuted, before its order is lost). A rounded ramp in log time: zero before the turn, `strength`
    # at the end.
    ramp = np.logaddexp(0, 6 * (x - np.log1p(turn)) / (x[-1] - np.log1p(turn)))
    leave = strength * (ramp - ramp[0]) / (ramp[-1] - ramp[0])
    return 0.8 * rise * (1 - leave), 0.9 * leave


def false_positive_rate(
    detect: Callable[[SyntheticRun], bool],
    scenario: str,
    steps: ArrayLike,
    repetitions: int = 300,
    num_sequences: int = 256,
    jitters: Sequence[float] = (0.03,),
    correlation_times: Sequence[float] = (0.0,),
    seed: int = 0,
) -> float:
    """Share of runs of a null scenario in which `detect(run)` is true.

    Jitters and correlation times are cycled through. The standard error of a rate p is sqrt(p (1 - p) / repetitions).
    """
    settings = [(size, time) for size in jitters for time in correlation_times]
    repetitions, found = whole_number("repetitions", repetitions, 1), 0
    for repetition in range(repetitions):
        size, time = settings[repetition % len(settings)]
        run = synthetic_run(scenario, steps, num_sequences, size, time, seed=seed * 1_000_003 + repetition)
        found += bool(detect(run))
    return found / repetitions
