"""Stochastic gradient Langevin dynamics with localisation (Welling & Teh 2011; Lau et al. 2023, arXiv 2308.12108).

    w <- w - (eps/2) (nbeta grad L_B(w) + gamma (w - w*)) + sqrt(eps) xi,        xi ~ N(0, I)

eps = `step_size`, gamma = `localization`. As eps -> 0 the chain samples exp(-nbeta L(w) - gamma/2 |w - w*|^2). With a
quadratic loss of curvatures h_i and exact gradients the law at finite eps is known: with a_i = nbeta h_i + gamma,

    Var(w_i) = 1 / (a_i (1 - eps a_i / 4)),  stable for eps a_i < 4,
    lambda_hat = 1/2 sum_i nbeta h_i / (a_i (1 - eps a_i / 4)),

which is what the tests hold it to. Moving along a direction without curvature takes about 1 / (gamma eps) steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from llc_dynamics.sampling.kernel import ChainState, Evaluate, Evaluation, Kernel, Noise, Target


@dataclass(kw_only=True)
class State(ChainState):
    """Positions w [g, d]; `noise` [g, d] is scratch memory."""

    noise: torch.Tensor


@dataclass(frozen=True)
class SGLD(Kernel[State]):
    """Settings of SGLD.

    Parameters
    ----------
    step_size : eps of the update above; the drift carries eps/2, the noise sqrt(eps).
    nbeta, localization : as of every `Kernel`.

    Raises `ConfigError` for a value out of its range.
    """

    step_size: float = 1e-4

    finds_step = False

    def init(self, position: torch.Tensor, evaluate: Evaluate, target: Target, noise: Noise) -> State:
        """Chains that start at `position` [g, d]."""
        return State(position=position.clone(), noise=torch.empty_like(position))

    def update(
        self, state: State, evaluation: Evaluation, evaluate: Evaluate, target: Target, noise: Noise, adapting: bool
    ) -> None:
        """One step, in place: w <- w - (eps/2) (nbeta grad L_B(w) + gamma (w - w*)) + sqrt(eps) xi."""
        half_step = self.step_size / 2
        noise.normal(state.noise)
        # (1 - eps gamma / 2) w + (eps gamma / 2) w*: the pull towards w* in one pass over the vector
        state.position.lerp_(target.origin, half_step * self.localization)
        state.position.add_(evaluation.gradient, alpha=-half_step * target.nbeta)
        state.position.add_(state.noise, alpha=math.sqrt(self.step_size))
