"""The curvature that a calibration goes by: that of the loss at w*, or around it where the Hessian vanishes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from llc_dynamics.errors import ConfigError
from llc_dynamics.finding import Finding
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.sampling.group_model import LoopModel
from llc_dynamics.sampling.harmonic import beyond, largest_curvature
from llc_dynamics.sampling.kernel import Evaluation
from llc_dynamics.seeding import isolated_generators, torch_generator

# In units of 1 / sqrt(nbeta h): how far from w* a curvature has to hold.
_NEAR = 0.3
# The range of log gamma that is searched where w* has no curvature of its own, and how finely: to a factor 1.1.
_LOG_GAMMA, _BISECTIONS = (math.log(1e-8), math.log(1e8)), 9
_GRADIENTS = 29
# By how much the curvature where chains go must be above that at w* to be used instead.
_LARGER = 4.0
_LOST = {
    "chains_failed", "never_moved", "not_explored", "block_not_explored", "exploration_unknown", "drifting",
    "few_accepted",
}  # fmt: skip

Measure = Callable[[Problem], float]


class Curvature:
    """The largest curvature of all problems.

    Parameters
    ----------
    largest : the largest of what a function measures at each of the problems.
    settings, nbeta : batches and seed, and the inverse temperature.
    largest_ratio : sqrt(nbeta h / gamma) of the chains that go farthest.

    Attributes
    ----------
    at_origin : the curvature at w*; 0 where it vanishes.
    degenerate : whether `at` is that where chains go; see `curvature_met`.
    num_gradients : taken at each problem.

    Raises `ConfigError` if there is no curvature at all.
    """

    def __init__(
        self, largest: Callable[[Measure], float], settings: EstimateSettings, nbeta: float, largest_ratio: float
    ) -> None:
        self._largest, self._settings, self._nbeta, self._largest_ratio = largest, settings, nbeta, largest_ratio
        self._met: dict[float, float] = {}
        self.at_origin = largest(lambda problem: largest_curvature_of(problem, settings, nbeta))
        self.degenerate = not self.at_origin > 0
        self.num_gradients = _GRADIENTS
        found = self.at(largest_ratio)
        if not 0 < found < math.inf:
            raise ConfigError(
                f"the loss has no curvature at w* or around it (largest eigenvalue found: {found:.3g}), so there is "
                "nothing to calibrate for: do the sampled parameters have any effect on it? If they have, give kernel "
                "and localization by hand, such as sampler=MALT(localization=10.0)"
            )

    def at(self, ratio: float) -> float:
        """The curvature h to take for chains with sqrt(nbeta h / gamma) = `ratio`."""
        if not self.degenerate:
            return self.at_origin
        if ratio not in self._met:
            settings, nbeta = self._settings, self._nbeta
            self._met[ratio] = self._largest(lambda problem: curvature_met(problem, settings, nbeta, ratio))
            self.num_gradients += _BISECTIONS * _GRADIENTS
        return self._met[ratio]

    def left_origin(self, codes: set[str]) -> bool:
        """After trials with reasons of these codes: whether from here on `at` is the curvature where chains go.

        That at w* may be of a few directions, where it vanishes in all others; the one where chains go is then much
        larger.
        """
        if self.degenerate or not codes & _LOST:
            return False
        self.degenerate = True
        self.degenerate = self.at(self._largest_ratio) > _LARGER * self.at_origin
        return self.degenerate

    def findings(self) -> Iterator[Finding]:
        """What is worth knowing of it."""
        if self.degenerate:
            met = self.at(self._largest_ratio)
            yield Finding(
                "degenerate",
                f"degenerate: the curvature at w* is {self.at_origin:.3g}, and up to {met:.3g} where chains go; gamma "
                "is chosen for that",
            )


def largest_curvature_of(
    problem: Problem, settings: EstimateSettings, nbeta: float, gamma: float | None = None
) -> float:
    """Largest curvature of the loss of one batch at w*; with `gamma` at a draw of N(w*, 1/gamma).

    0 where w* has none of its own: where the loss at a distance of .3 / sqrt(nbeta h), h the curvature that was found,
    is far above what chains meet. h is then the rounding, or a higher derivative, of a Hessian that vanishes.
    """
    seed = settings.seed
    with problem.opened(settings) as (flat, batches), isolated_generators(seed):
        content = flat.prepare(next(batches.stream(seed, "curvature")).content, batches.batch_size)
        directions = torch_generator(seed, "curvature direction")
        start, noise = (
            torch.randn((1, flat.dimension), generator=directions, dtype=flat.dtype, device="cpu").to(flat.device)
            for _ in range(2)
        )
        loop = LoopModel(flat)
        position = flat.origin[None] if gamma is None else flat.origin + noise / math.sqrt(gamma)

        def evaluate(positions: torch.Tensor) -> Evaluation:
            return loop.evaluate(positions, [content], batches.batch_size)

        found = float(largest_curvature(evaluate, position, start)[0])
        if gamma is None and found > 0 and beyond(evaluate, position, _NEAR * noise / math.sqrt(nbeta * found), nbeta):
            return 0.0
    return found


def curvature_met(problem: Problem, settings: EstimateSettings, nbeta: float, ratio: float) -> float:
    """The curvature h at a draw of N(w*, 1/gamma), with the gamma for which sqrt(nbeta h / gamma) is `ratio`.

    It stands for the curvature at w* where that vanishes, as at all-zero factors: chains localised by gamma meet such
    a one at most. It falls with gamma, or stays, so that there is one such gamma, found by bisection of its logarithm.
    0 if there is no curvature at all.
    """
    (low, high), found = _LOG_GAMMA, 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        here = largest_curvature_of(problem, settings, nbeta, math.exp(middle))
        if nbeta * here <= ratio**2 * math.exp(middle):
            high, found = middle, here
        else:  # also where it is not finite
            low = middle
    return found
