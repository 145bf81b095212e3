"""SGLD's finite step: what it adds to an estimate, taken off draw by draw, and the virial ratio that it leaves.

The law of SGLD at a step eps differs from exp(-U), U = nbeta L + gamma/2 |w - w*|^2. With g_B the gradient of a batch,

    lambda_hat = (1 - eps gamma/4) nbeta E[L - L(w*)] - (eps/8) nbeta^2 E|g_B|^2 / k,
    k = E[(w - w*).nbeta g_B] / (2 nbeta E[L - L(w*)])

is that of exp(-U) itself

- at every stable step if L is quadratic (k = 1) and gradients are exact: in a direction of curvature h, with
  a = nbeta h + gamma, E[nbeta L] is nbeta h / (2 a (1 - eps a/4)), and E[nbeta^2 g^2] is 2 nbeta h times that;
- to first order in eps if L is a power |w|^2k along its directions, 2k being what the virial of the loss shows: the
  step shifts E[nbeta L] by (eps/8) nbeta^2 E[g^2] / k (from the modified equation of the Euler-Maruyama scheme,
  U - (eps/8) |grad U|^2 + (eps/4) lap U);
- with gradient noise of variance c in a direction, which acts as a higher temperature, up to
  (eps/8) nbeta^2 c gamma/a: nothing in directions that are stiff against gamma.

In equilibrium E[(w - w*).grad U_B] = d + (eps/4) E|grad U_B|^2 holds exactly, whatever the loss, the noise and the
step: the virial ratio of SGLD is above 1 by a known amount.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.llc.diagnostics import monte_carlo_error

Trace = NDArray[np.float64]

# k is believed if its standard error is below this, and no higher power than |w|^8 is assumed.
_KNOWN, _LARGEST_POWER = 0.25, 4.0


@dataclass(frozen=True)
class StepCorrection:
    """The estimate's trace without the step's bias, [chain, draw]; the systematic error of that; and the virial's."""

    trace: Trace
    systematic_error: float
    virial_heat: Trace


def without_step(
    losses: Trace, distances: Trace, virials: Trace, gradient_squares: Trace, step: float, gamma: float, nbeta: float,
    dimension: int,
) -> StepCorrection:  # fmt: skip
    """From nbeta (L_B(w) - L_B(w*)), |w - w*|^2, the virial ratio and |g_B|^2, all [chain, draw].

    The systematic error is half of what it matters that the directions that heat may have another power than k, the
    mean.
    `virial_heat` is (eps/4) |grad U_B|^2 / d.
    """
    forces = dimension * virials - gamma * distances  # (w - w*).nbeta g_B
    heat = step / 8 * nbeta**2 * gradient_squares
    power = _power(losses, forces)
    trace = (1 - step * gamma / 4) * losses - heat / power
    whole = nbeta**2 * gradient_squares + gamma**2 * distances + 2 * gamma * forces
    left = (1 - 1 / power) * float(heat.mean()) / 2 if heat.size else math.nan
    return StepCorrection(trace, left, step / 4 * whole / dimension)


def _power(losses: Trace, forces: Trace) -> float:
    """k, where it is known; 1, a quadratic, otherwise."""
    middle = float(losses.mean()) if losses.size else math.nan
    if not middle > 0:
        return 1.0
    power = float(forces.mean()) / (2 * middle)
    error = monte_carlo_error(forces / 2 - power * losses)[0] / middle
    return min(max(power, 1.0), _LARGEST_POWER) if error < _KNOWN else 1.0
