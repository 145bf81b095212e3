"""SGLD with an RMSprop preconditioner (Li et al. 2016; as in Hitchcock & Hoogland 2025, arXiv 2507.21449).

    v <- alpha v + (1 - alpha) (grad L_B)^2, starting from 1;    v_hat = v / (1 - alpha^t)
    G = 1 / (sqrt(v_hat) + a)
    w <- w - (eps/2) G (nbeta grad L_B(w) + gamma (w - w*)) + sqrt(eps G) xi

The moments are those of the loss gradient alone, never of the localisation; v starts at 1 and v_hat carries the usual
correction, so that the first steps are small. After t steps the start still has the weight alpha^t: the burn-in should
be several times 1 / (1 - alpha).

A preconditioner that keeps changing with the position needs a drift term (its divergence) that nobody computes, and
without it the stationary law is wrong at any step size. Here G is **fixed at the end of the burn-in**: from then on
this is SGLD in rescaled coordinates, whose law is right as eps -> 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from llc_dynamics.ranges import between_0_and_1
from llc_dynamics.sampling.kernel import ChainState, Evaluate, Evaluation, Kernel, Noise, Target, require_positive


@dataclass(kw_only=True)
class State(ChainState):
    """Positions w and second moments v [g, d]; `noise` [g, d] is scratch memory; G once it is known."""

    noise: torch.Tensor
    moment: torch.Tensor
    updates: int = 0
    preconditioner: torch.Tensor | None = None


@dataclass(frozen=True)
class RMSpropSGLD(Kernel[State]):
    """Settings of RMSprop-preconditioned SGLD.

    Parameters
    ----------
    step_size : eps of the update above.
    nbeta, localization : as of every `Kernel`; the localisation is not preconditioned.
    decay : alpha of the average of squared gradients.
    stability : a of G = 1 / (sqrt(v_hat) + a).

    Raises `ConfigError` for a value out of its range.
    """

    step_size: float = 1e-4
    decay: float = 0.99
    stability: float = 0.1

    finds_step = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("RMSpropSGLD", "stability", self.stability)
        between_0_and_1("RMSpropSGLD: decay", self.decay)

    def init(self, position: torch.Tensor, evaluate: Evaluate, target: Target, noise: Noise) -> State:
        """Chains at `position` [g, d] with v = 1."""
        return State(position=position.clone(), noise=torch.empty_like(position), moment=torch.ones_like(position))

    def update(
        self, state: State, evaluation: Evaluation, evaluate: Evaluate, target: Target, noise: Noise, adapting: bool
    ) -> None:
        """One step, in place."""
        if adapting:
            state.moment.mul_(self.decay).addcmul_(evaluation.gradient, evaluation.gradient, value=1 - self.decay)
            state.updates += 1
        if adapting or state.preconditioner is None:
            state.preconditioner = self._preconditioner(state)
        force = torch.sub(state.position, target.origin).mul_(self.localization)
        force.add_(evaluation.gradient, alpha=target.nbeta)
        state.position.addcmul_(force, state.preconditioner, value=-self.step_size / 2)
        noise.normal(state.noise)
        state.position.addcmul_(state.noise, state.preconditioner.sqrt(), value=math.sqrt(self.step_size))

    def _preconditioner(self, state: State) -> torch.Tensor:
        correction = 1 - self.decay**state.updates if state.updates else 1.0
        return (state.moment / correction).sqrt_().add_(self.stability).reciprocal_()
