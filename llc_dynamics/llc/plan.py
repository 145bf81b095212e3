"""What an estimate at one resolution takes: kernel, step, burn-in, and how many gradients its draws cost.

The work is set by one number, r = sqrt(nbeta h / gamma), with h the largest curvature: a step is bounded by nbeta h,
and a chain has explored when it has passed along the directions that gamma alone holds. SGLD takes some r^2 updates for
such a passage, a kernel with momentum some r / .35 gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llc_dynamics.sampling import MALT, SGLD, Kernel

# Steps of MALT per radian of the stiffest direction: what its adaptation arrives at, on networks that were tried.
_MALT_STEP = 0.35
# In passages: burn-in, and the least draws. Chains start in equilibrium along flat directions, unless the loss
# forbids it.
_SGLD, _MALT = (2.0, 5.0), (3.0, 7.0)
# A change of the batch is a shock to MALT, gone after a quarter of a passage.
_BATCH_PASSAGES = 6.0
_STEPS_OF_TRAJECTORY = 16
_FEWEST_DRAWS, _FEWEST_UPDATES = 24, 12
# Gradients with which a chain goes downhill in the end, and those with which MALT finds its first step.
_DOWNHILL, _FIRST_STEP = 25, 26
# SGLD with passages longer than this has a draw at every fourth update, not at every second.
_LONG = 50


@dataclass(frozen=True)
class Plan:
    """A kernel, and what its chains cost.

    update : gradients of one update. apart : those apart from updates. least : draws that an estimate has at least.
    """

    sampler: Kernel
    update: float
    apart: int
    num_burnin: int
    steps_per_draw: int
    least: int

    def draws_within(self, gradients: float) -> int:
        """As many draws as so many gradients pay for, burn-in included."""
        updates = (gradients - self.apart) / self.update - self.num_burnin - 1
        return max(1 + math.floor(updates / self.steps_per_draw), 1)

    def gradients(self, draws: int) -> int:
        """Gradients of a chain with so many draws."""
        return self.apart + math.ceil((self.num_burnin + (draws - 1) * self.steps_per_draw + 1) * self.update)


def plan_sgld(nbeta: float, gamma: float, ratio: float, step: float) -> Plan:
    """SGLD with eps = `step` / (nbeta h + gamma)."""
    passage = ratio**2 / step
    eps = float(f"{step / (gamma * (1 + ratio**2)):.3g}")
    every = 4 if passage > _LONG else 2
    burnin, updates = (each * passage for each in _SGLD)
    least = max(math.ceil(updates / every), _FEWEST_DRAWS)
    return Plan(SGLD(eps, nbeta, gamma), 1.0, _DOWNHILL, max(math.ceil(burnin), _FEWEST_UPDATES), every, least)


def plan_malt(nbeta: float, gamma: float, ratio: float, whole: bool) -> Plan:
    """MALT; `whole` says whether a batch is all the data."""
    passage = ratio / _MALT_STEP
    length = int(min(max(passage / 4, 4), _STEPS_OF_TRAJECTORY))
    hold = None if whole else math.ceil(_BATCH_PASSAGES * passage / length)
    burnin, updates = (each * passage / length for each in _MALT)
    sampler = MALT(nbeta=nbeta, localization=gamma, num_steps=length, updates_per_batch=hold)
    update = length + (0.0 if hold is None else 1 / hold)
    least = max(math.ceil(updates), _FEWEST_DRAWS)
    return Plan(sampler, update, _FIRST_STEP + _DOWNHILL, max(math.ceil(burnin), _FEWEST_UPDATES), 1, least)
