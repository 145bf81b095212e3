"""Exact motion in the localising potential, and the step size that the curvature of the loss allows.

The kernels with momentum split U = nbeta L + gamma/2 |w - w*|^2 into the loss, which kicks the momentum, and the
localisation, whose motion together with the drift is a rotation in (w - w*, p) that is taken exactly (the splitting of
Hilbert-space Hamiltonian Monte Carlo, Beskos et al. 2011). Directions in which the loss is flat, thousands of them in a
network, then contribute nothing to the error of a step.
"""

from __future__ import annotations

import math

import torch

from llc_dynamics.sampling.kernel import Evaluate, Target

_POWER_ITERATIONS = 12
# Relative size of the displacement of the finite difference along which a curvature is measured.
_DISPLACEMENT = 1e-3
# Of nbeta L: d directions have d/2 of it in equilibrium at most.
_MOST_ENERGY = 0.5
_SHORTER, _SMALLEST_REACH = 0.25, 1e-12


class Rotation:
    """The flow of p^2/2 + gamma/2 |w - w*|^2 over a time t, in place; `time` is one number or one for each chain."""

    def __init__(self, target: Target, time: torch.Tensor) -> None:
        frequency = math.sqrt(target.localization)
        angle = frequency * time
        self._origin = target.origin
        self._cos = torch.cos(angle)
        self._sin_over = time if frequency == 0 else torch.sin(angle) / frequency
        self._sin_times = -frequency * torch.sin(angle)

    def __call__(self, position: torch.Tensor, momentum: torch.Tensor) -> None:
        """Move positions and momenta [g, d]."""
        displacement = position.sub_(self._origin)
        moved = displacement * self._cos
        moved.addcmul_(momentum, self._sin_over.expand_as(momentum))
        momentum.mul_(self._cos).addcmul_(displacement, self._sin_times.expand_as(displacement))
        torch.add(moved, self._origin, out=position)


def kick_time(target: Target, time: torch.Tensor) -> torch.Tensor:
    """How long the loss must push in a step that drifts for `time`, so that quadratics have the right law.

    2 tan(w h/2) / w with w = sqrt(gamma). Between two rotations by w h/2, kicks of length h' leave in a direction of
    curvature h_i the variance 1 / (gamma + nbeta h_i (w h'/2) / tan(w h/2)).
    """
    frequency = math.sqrt(target.localization)
    return time if frequency == 0 else 2 * torch.tan(frequency * time / 2) / frequency


def largest_curvature(evaluate: Evaluate, position: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Largest eigenvalue of the Hessian of the batch loss at `position` [g, d], by power iteration, [g].

    From below, and closer than a step size needs; `start` [g, d] are random directions. Products with the Hessian are
    central differences of the gradient, so that any module will do.
    """
    direction = start / start.norm(dim=1, keepdim=True).clamp_min(1e-30)
    scale = (
        _DISPLACEMENT * position.square().mean(1, keepdim=True).sqrt().clamp_min(1e-2) * math.sqrt(position.shape[1])
    )
    largest = torch.zeros(len(position), dtype=position.dtype, device=position.device)
    for _ in range(_POWER_ITERATIONS):
        ahead = evaluate(position + scale * direction).gradient.clone()
        change = (ahead - evaluate(position - scale * direction).gradient) / (2 * scale)
        size = change.norm(dim=1)
        largest = torch.where(size.isfinite(), torch.maximum(largest, size), largest)
        direction = torch.where((size > 0)[:, None], change / size.clamp_min(1e-30)[:, None], direction)
    return largest


def beyond(evaluate: Evaluate, position: torch.Tensor, displacement: torch.Tensor, nbeta: float) -> torch.Tensor:
    """Whether nbeta L rises by more than chains meet in equilibrium, d/2, at this distance from `position`, bool [g].

    The mean over both sides, which holds nothing of the slope of a batch's loss. One that is not finite is too high.
    """
    sides = evaluate(position + displacement).loss + evaluate(position - displacement).loss
    rise = nbeta * (sides / 2 - evaluate(position).loss)
    return ~(rise <= _MOST_ENERGY * position.shape[1])


def curvature_for_steps(
    evaluate: Evaluate,
    position: torch.Tensor,
    start: torch.Tensor,
    momentum: torch.Tensor,
    target: Target,
    share: float,
) -> torch.Tensor:
    """The largest curvature h [g] that a step of `share` / sqrt(nbeta h + gamma) from `position` [g, d] meets.

    It is that at `position`, as in every quadratic. Where the Hessian vanishes, as at all-zero factors, such a step
    would leave everything that chains meet: there it is the curvature at a distance at which the loss is one that they
    do meet. `start`, `momentum` [g, d] are random directions.
    """
    curvature = largest_curvature(evaluate, position, start)
    reach = share / (target.nbeta * curvature + target.localization).sqrt().clamp_min(_SMALLEST_REACH)
    far = beyond(evaluate, position, reach[:, None] * momentum, target.nbeta)
    if not far.any():
        return curvature
    while far.any() and reach.min() > _SMALLEST_REACH:
        reach = torch.where(far, _SHORTER * reach, reach)
        far = beyond(evaluate, position, reach[:, None] * momentum, target.nbeta)
    return torch.maximum(curvature, largest_curvature(evaluate, position + reach[:, None] * momentum, start))
