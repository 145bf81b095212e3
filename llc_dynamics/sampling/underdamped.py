"""Underdamped Langevin dynamics: the splitting BAOAB, one gradient a step, without a Metropolis test.

    B  p <- p - (h'/2) nbeta grad L_B(w),  h' = 2 tan(sqrt(gamma) h/2) / sqrt(gamma)
    A  (w - w*, p) rotated by sqrt(gamma) h/2: drift and localisation together, exactly (see `harmonic`)
    O  p <- exp(-friction h) p + sqrt(1 - exp(-2 friction h)) xi
    A, B

(Leimkuhler & Matthews 2013, whose A is free motion: gamma = 0, h' = h). With that h', longer than h by h^2 gamma / 12
of itself, the law of the position is exact for a quadratic loss of curvatures h_i at any stable h, below about
2 / sqrt(nbeta h_i + gamma), as long as the gradients are; with kicks of length h the variances are too large by
h^2 gamma / 12 of nbeta h_i. Momenta are colder than they should be: E[p_i^2] = 1 - nbeta h_i h'^2 / 4. Minibatch noise
heats the stiff directions by an amount proportional to h. Along flat directions momentum covers in n steps what SGLD
needs n^2 for.

Two remedies against the heat: `num_steps` steps on one batch (for a loss with its minimum at w* on every batch, see
`holds_batch` in `kernel`), and a `thermostat`, which renews the component of the momentum along the gradient in every
step. That component is where the noise of the batch enters, and almost nothing of the flat directions lies in it.
It is renewed at temperature 1 where BAOAB's own is 1 - nbeta h_i h'^2 / 4, so positions are warmer by up to that much:
the one error that is left on a quadratic, and 2% in the stiffest direction at most at the step that is found by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling.harmonic import Rotation, curvature_for_steps, kick_time
from llc_dynamics.sampling.kernel import (
    ChainState,
    Evaluate,
    Evaluation,
    Kernel,
    Noise,
    Target,
    require_count,
    require_positive,
)

# A step found by itself: this over the largest frequency at w*.
_STEP_OF_FREQUENCY = 0.3
# Of step_size sqrt(gamma): a half step turns by half of it, and at a right angle the kick would be infinite.
_LARGEST_ANGLE = 3.0


@dataclass(kw_only=True)
class State(ChainState):
    """Positions and momenta [g, d]; `scratch` [g, d] is working memory, the others [g, 1] are numbers of the step."""

    momentum: torch.Tensor
    scratch: torch.Tensor
    kick: torch.Tensor
    kept: torch.Tensor
    fresh: torch.Tensor
    rotate: Rotation
    moved: bool = False


@dataclass(frozen=True)
class Underdamped(Kernel[State]):
    """Settings of underdamped Langevin dynamics.

    Parameters
    ----------
    step_size : h, in units in which the momentum is standard normal (h^2 is comparable to SGLD's eps). None: .3 over
        the largest frequency sqrt(nbeta h_max + gamma) at w*.
    nbeta, localization : as of every `Kernel`.
    friction : of the momentum, per unit of time; None stands for 2 sqrt(gamma).
    num_steps : steps on one batch, each with one gradient.
    thermostat : renew the momentum along the gradient in every step; see the module.

    Raises `ConfigError` for a value out of its range.
    """

    friction: float | None = None
    num_steps: int = 1
    thermostat: bool = False

    has_momentum = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("Underdamped", "num_steps", self.num_steps)
        if self.friction is not None:
            require_positive("Underdamped", "friction", self.friction)
        elif self.localization == 0:
            raise ConfigError("Underdamped: without localization there is no natural friction; give friction=")
        if self.step_size is not None and self.step_size * math.sqrt(self.localization) >= _LARGEST_ANGLE:
            raise ConfigError(
                f"Underdamped: step_size {self.step_size:g} is unstable at localization {self.localization:g}; it must "
                f"stay below {_LARGEST_ANGLE / math.sqrt(self.localization):.3g}, and below 2 over the largest "
                "frequency sqrt(nbeta h_max + gamma)"
            )

    @property
    def gradients_per_update(self) -> int:
        """One for each step: the last half kick of an update uses the gradient of the next one's batch."""
        return self.num_steps

    @property
    def holds_batch(self) -> bool:
        """With more than one step on a batch."""
        return self.num_steps > 1

    def init(self, position: torch.Tensor, evaluate: Evaluate, target: Target, noise: Noise) -> State:
        """Chains at `position` [g, d] with momenta from equilibrium."""
        momentum = noise.normal(torch.empty_like(position))
        if self.step_size is None:
            start = noise.normal(torch.empty_like(position))
            curvature = curvature_for_steps(evaluate, position, start, momentum, target, _STEP_OF_FREQUENCY)
            stiffest = target.nbeta * curvature + target.localization
            time = (_STEP_OF_FREQUENCY / stiffest.sqrt().clamp_min(1e-12))[:, None]
        else:
            time = torch.full((len(position), 1), self.step_size, dtype=position.dtype, device=position.device)
        friction = 2 * math.sqrt(self.localization) if self.friction is None else self.friction
        kept = torch.exp(-friction * time)
        return State(
            position=position.clone(),
            momentum=momentum,
            scratch=torch.empty_like(position),
            kick=kick_time(target, time) * (-target.nbeta / 2),
            kept=kept,
            fresh=torch.sqrt(1 - kept.square()),
            rotate=Rotation(target, time / 2),
        )

    def on_new_batch(self, state: State, evaluation: Evaluation, target: Target) -> None:
        """The last half kick of the update before; at the start there is none."""
        if state.moved:
            state.momentum.addcmul_(evaluation.gradient, state.kick.expand_as(evaluation.gradient))
            state.moved = False

    def update(
        self, state: State, evaluation: Evaluation, evaluate: Evaluate, target: Target, noise: Noise, adapting: bool
    ) -> None:
        """`num_steps` steps but for the last half kick."""
        position, momentum, scratch = state.position, state.momentum, state.scratch
        for step in range(self.num_steps):
            if step:
                evaluation = evaluate(position)
                momentum.addcmul_(evaluation.gradient, state.kick.expand_as(momentum))
            if self.thermostat:
                _renew_along(evaluation.gradient, momentum, noise)
            momentum.addcmul_(evaluation.gradient, state.kick.expand_as(momentum))
            state.rotate(position, momentum)
            noise.normal(scratch)
            momentum.mul_(state.kept).addcmul_(scratch, state.fresh.expand_as(scratch))
            state.rotate(position, momentum)
        state.moved = True


def _renew_along(gradient: torch.Tensor, momentum: torch.Tensor, noise: Noise) -> None:
    """Draw the momentum's component along the gradient anew: N(0, 1) given position and batch, as in equilibrium."""
    size = torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp_min(1e-30)
    along = torch.linalg.vecdot(gradient, momentum)[:, None] / size
    renewed = noise.normal(torch.empty_like(along))
    momentum.addcmul_(gradient, ((renewed - along) / size).expand_as(gradient))
