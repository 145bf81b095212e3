"""Kernels with momentum and a Metropolis test: MALT, Hamiltonian Monte Carlo and MALA.

One update is a trajectory of `num_steps` steps of the splitting BA O AB (Leimkuhler & Matthews 2013; the localisation
is part of the exact drift A, see `harmonic`), all on one batch, accepted or undone by the error of its energy. Its
stationary law on a fixed batch is therefore exact whatever the step size, and the step can be chosen by itself: in the
burn-in each chain adapts its own to a wanted acceptance.

- `MALT` (Metropolis-adjusted Langevin trajectories, Riou-Durand & Vogrinc 2022, arXiv 2202.13230), here with the
  momentum kept from one trajectory to the next and turned round by a refusal (Horowitz 1991): friction and noise act in
  every step, so that short trajectories still cover ground, and stiff directions forget while flat ones glide.
- `HMC`: no friction inside, a new momentum for every trajectory (Duane et al. 1987; Neal 2011).
- `MALA`: HMC with one step (Roberts & Tweedie 1996); eps of the Langevin equation is `step_size`^2.

A batch is held for many updates, so there is no gradient noise while it is, and none of the heat that fresh noise in
every step brings to the stiff directions. A change of the batch is a small shock, which friction has to carry off
before the next one: the batch should last for several times 1/friction. What is left is the difference between the
batch's loss and the population's, smaller for larger batches; the engine measures it as it goes
(`fresh_difference`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import between_0_and_1
from llc_dynamics.sampling.harmonic import Rotation, curvature_for_steps
from llc_dynamics.sampling.kernel import (
    ChainState,
    Evaluate,
    Evaluation,
    Kernel,
    Noise,
    Target,
    require_count,
    require_positive,
    wide_dtype,
    widened,
)

# First step: this over the largest frequency at w*. The adaptation takes it from there.
_FIRST_STEP = 0.3
_ADAPTATION_RATE = 0.6
# Energies this far apart are a refusal whatever the random number.
_LARGEST_ENERGY_ERROR = 500.0


@dataclass(kw_only=True)
class State(ChainState):
    """Positions and momenta [g, d]; `step`, `acceptance` and `mean_log` [g]; `scratch` [g, d] is working memory."""

    momentum: torch.Tensor
    acceptance: torch.Tensor
    step: torch.Tensor
    scratch: torch.Tensor
    mean_log: torch.Tensor
    adaptations: int = 0


@dataclass(frozen=True)
class _MetropolisTrajectory(Kernel[State]):
    """What MALT, HMC and MALA share; see the module."""

    num_steps: int = 16
    target_acceptance: float = 0.85
    updates_per_batch: int | None = 32

    exact = True
    has_momentum = True
    holds_batch = True
    keeps_momentum = True

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        require_count(name, "num_steps", self.num_steps)
        if self.updates_per_batch is not None:
            require_count(name, "updates_per_batch", self.updates_per_batch)
        between_0_and_1(f"{name}: target_acceptance", self.target_acceptance)

    @property
    def gradients_per_update(self) -> int:
        """One for each step of the trajectory; a new batch costs one more."""
        return self.num_steps

    def _friction(self) -> float:
        return 0.0

    def with_step(self, factor: float) -> Self:
        """The same kernel with `factor` times the step; without one that is given, with a higher wanted acceptance.

        The step's error of the energy goes with its square, so that halving the step leaves a quarter of the refusals.
        """
        if self.step_size is not None:
            return super().with_step(factor)
        refused = (1 - self.target_acceptance) * factor**2
        return replace(self, target_acceptance=1 - min(max(refused, 0.005), 0.5))

    def halved(self) -> tuple[Self, int]:
        """With twice as many steps in a trajectory, which then takes as long."""
        return replace(self.with_step(0.5), num_steps=2 * self.num_steps), 1

    def init(self, position: torch.Tensor, evaluate: Evaluate, target: Target, noise: Noise) -> State:
        """Chains at `position` [g, d] with momenta from equilibrium, and a first step size for each."""
        momentum = noise.normal(torch.empty_like(position))
        chains = len(position)
        if self.step_size is None:
            start = noise.normal(torch.empty_like(position))
            curvature = curvature_for_steps(evaluate, position, start, momentum, target, _FIRST_STEP)
            stiffest = target.nbeta * curvature + target.localization
            step = _FIRST_STEP / widened(stiffest).sqrt().clamp_min(1e-12)
        else:
            step = torch.full(
                (chains,), float(self.step_size), dtype=wide_dtype(position.device), device=position.device
            )
        zeros = torch.zeros_like(step)
        return State(
            position=position.clone(),
            momentum=momentum,
            acceptance=zeros.clone(),
            step=step,
            scratch=torch.empty_like(position),
            mean_log=zeros.clone(),
        )

    def update(
        self, state: State, evaluation: Evaluation, evaluate: Evaluate, target: Target, noise: Noise, adapting: bool
    ) -> None:
        """One trajectory, and its Metropolis test; in the burn-in also a change of the step size."""
        if not adapting and state.adaptations > 0:
            state.step, state.adaptations = state.mean_log.exp(), 0
        if not self.keeps_momentum:
            noise.normal(state.momentum)
        before = evaluation.loss
        start, start_momentum = state.position.clone(), state.momentum.clone()
        start_losses, start_gradient = evaluation.losses, evaluation.gradient.clone()
        time = state.step.to(start.dtype)[:, None]
        rotate = Rotation(target, time / 2)
        kept = torch.exp(-self._friction() * time)
        fresh = torch.sqrt(1 - kept.square())
        kick = time * (-target.nbeta / 2)
        # the kinetic energy that the kicks add, [g]: with the change of the loss the whole error of the energy, because
        # the drift conserves it and the noise is no error
        gained = torch.zeros_like(before)
        for _ in range(self.num_steps):
            gained += _kicked(state.momentum, evaluation.gradient, kick)
            rotate(state.position, state.momentum)
            if self._friction() > 0:
                noise.normal(state.scratch)
                state.momentum.mul_(kept).addcmul_(state.scratch, fresh.expand_as(state.scratch))
            rotate(state.position, state.momentum)
            evaluation = evaluate(state.position)
            gained += _kicked(state.momentum, evaluation.gradient, kick)
        error = target.nbeta * (evaluation.loss - before) + gained
        error = torch.where(error.isfinite(), error, _LARGEST_ENERGY_ERROR).clamp(max=_LARGEST_ENERGY_ERROR)
        acceptance = torch.exp(-error).clamp(max=1.0)
        refused = noise.uniform(start) >= acceptance
        losses, gradient = evaluation.losses, start_gradient
        if bool(refused.any()):
            state.position[refused] = start[refused]
            state.momentum[refused] = -start_momentum[refused]
            losses = torch.where(refused[:, None], start_losses, losses)
        gradient[~refused] = evaluation.gradient[~refused]
        state.evaluation = Evaluation(losses, gradient)
        state.acceptance = acceptance
        if adapting and self.step_size is None:
            self._adapt(state)

    def _adapt(self, state: State) -> None:
        """Robbins-Monro on the logarithm of the step; what counts afterwards is an average over the later ones.

        The n-th has the weight n^3: four fifths of the average come from the last third of the burn-in, however long
        it is (polynomial-decay averaging, Shamir & Zhang 2013, arXiv 1212.1824).
        """
        state.adaptations += 1
        rate = _ADAPTATION_RATE / math.sqrt(state.adaptations)
        logs = state.step.log() + rate * (state.acceptance - self.target_acceptance)
        state.step = logs.exp()
        state.mean_log = state.mean_log + (logs - state.mean_log) * (4 / (state.adaptations + 3))


@dataclass(frozen=True)
class MALT(_MetropolisTrajectory):
    """Metropolis-adjusted Langevin trajectories with kept momentum; the kernel that explores, and needs no epsilon.

    Parameters
    ----------
    step_size : h of one step, in units in which the momentum is standard normal (h^2 is comparable to SGLD's eps).
        None: started from the curvature at w* and adapted in the burn-in, for each chain by itself.
    nbeta, localization : as of every `Kernel`.
    num_steps : steps, each with one gradient, in a trajectory on one batch; one more gradient starts it.
    target_acceptance : what the step size is adapted to.
    updates_per_batch : trajectories on one batch, before fresh samples are drawn; None for one batch a chain.
    friction : of the momentum, per unit of time; None stands for 2 sqrt(gamma), which damps flat directions critically.

    Raises `ConfigError` for a value out of its range.
    """

    friction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.friction is not None:
            require_positive("MALT", "friction", self.friction, "for none use HMC")
        elif self.localization == 0:
            raise ConfigError("MALT: without localization there is no natural friction; give friction=, or use HMC")

    def _friction(self) -> float:
        return 2 * math.sqrt(self.localization) if self.friction is None else self.friction


@dataclass(frozen=True)
class HMC(_MetropolisTrajectory):
    """Hamiltonian Monte Carlo: a reference for small problems, exact on a full batch. Parameters as of `MALT`."""

    keeps_momentum = False


@dataclass(frozen=True)
class MALA(HMC):
    """Metropolis-adjusted Langevin: HMC with one step. `step_size` is h, SGLD's eps is h^2. Others as of `MALT`."""

    num_steps: int = field(default=1, init=False)
    target_acceptance: float = 0.6

    def halved(self) -> tuple[Self, int]:
        """Its step is h, and its time h^2."""
        return self.with_step(0.5), 4


def _kicked(momentum: torch.Tensor, gradient: torch.Tensor, kick: torch.Tensor) -> torch.Tensor:
    """Add kick * gradient to the momentum, in place; the kinetic energy gained, wide [g].

    kick g.p + (kick g)^2 / 2 rather than the difference of two large energies.
    """
    along = widened(torch.linalg.vecdot(gradient, momentum))
    size = widened(torch.linalg.vecdot(gradient, gradient))
    momentum.addcmul_(gradient, kick.expand_as(gradient))
    wide = widened(kick[:, 0])
    return wide * along + wide.square() * size / 2
