"""Where an estimate stops being believed: all limits in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import with_plain_numbers


@dataclass(frozen=True)
class Thresholds:
    """Limits of the checks behind `LLCResult.converged`.

    Parameters
    ----------
    r_hat : largest rank-normalised split R-hat of the loss and of |w - w*|^2, unless noise alone explains more
        (see `diagnostics.r_hat_by_chance`). What is below, the standard error says, which holds the spread between
        chains: eight chains with 76 effective draws in all have 1.09 by chance, with 41 1.15.
    min_ess : least bulk effective sample size of the loss; a standard error from 20 draws is itself good to 16%, which
        the interval's Student's t allows for.
    precision : largest total error, as a share of the estimate.
    virial_low, virial_high : range of the virial ratio over all parameters. Below: not explored. Above: heated by the
        step size or by gradient noise. What the step of SGLD adds in equilibrium is known and taken off before.
    heating : largest excess of the virial ratio over 1 as a share of what the loss contributes to it, for in a network
        with many flat directions localisation contributes most, and the few that carry the loss (and the estimate) can
        be hot without being seen in the whole.
    kinetic_high : largest kinetic temperature, over all parameters and along the gradient. There is no lower limit:
        discretisation alone lowers it by about (h omega)^2 / 4 where the estimate is sound.
    left_well : largest share of the estimate by which chains may come to rest above L(w*), downhill.
    min_acceptance : least mean acceptance of a Metropolis test.
    bias : largest share of the estimate that a bias of the step or the batch may have.
    correction : largest share of the estimate that SGLD's step may have added before it is taken off.
    block_virial_low, block_virial_high : the same for every parameter tensor; wider, and with `block_errors` standard
        errors of allowance, because there are many tensors and each is noisier.
    max_virial_error : largest standard error of the virial ratio with which it says anything; in few directions that is
        not reached with `min_ess` draws, and 1.5 times what they give by chance is allowed where |w - w*|^2 is settled.
    errors : standard errors of allowance for the change between the halves, and for temperatures and biases.
    virial_errors : those of the virial ratio; fewer, because its limits already lie away from 1.
    block_errors : the same for the blocks.
    negative_errors : standard errors below zero from which a negative estimate is reported.
    distance_change : differences of |w - w*|^2 between chains or halves below this share of its mean do not matter:
        with many parameters it hardly fluctuates, and slow chains in equilibrium then fail R-hat over a percent. Chains
        that have not explored are found by the virial ratio, of which gamma |w - w*|^2 / d is a part.
    loss_change : differences of the loss between chains or halves below this share of its mean do not matter either,
        however exactly the chains know them: the estimate moves by half of it at most.
    share_below : largest share of draws that are clearly below the loss at w*; there is none if w* is a minimum.
    """

    r_hat: float = 1.2
    min_ess: float = 20.0
    precision: float = 0.2
    virial_low: float = 0.9
    virial_high: float = 1.1
    block_virial_low: float = 0.8
    block_virial_high: float = 1.25
    max_virial_error: float = 0.2
    errors: float = 3.0
    block_errors: float = 4.0
    negative_errors: float = 2.0
    distance_change: float = 0.1
    loss_change: float = 0.05
    virial_errors: float = 1.5
    heating: float = 0.05
    kinetic_high: float = 1.1
    min_acceptance: float = 0.4
    bias: float = 0.1
    left_well: float = 0.1
    correction: float = 0.5
    share_below: float = 0.05

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        for each in fields(self):
            limit = getattr(self, each.name)
            if not isinstance(limit, int | float):
                raise ConfigError(f"Thresholds: {each.name} must be a number, got {limit!r}")
        if not self.r_hat > 1:
            raise ConfigError(f"Thresholds: r_hat must be above 1, got {self.r_hat}")
        if not (self.virial_low < 1 < self.virial_high and self.block_virial_low < 1 < self.block_virial_high):
            raise ConfigError("Thresholds: the virial limits must enclose 1, its value in equilibrium")
        if min(self.min_ess, self.max_virial_error, self.errors, self.block_errors, self.negative_errors) < 0:
            raise ConfigError("Thresholds: limits must not be negative")
