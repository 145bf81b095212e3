"""Normal crossings L(w) = prod_i w_i^(2 k_i): the learning coefficient, and the exact estimate at a finite temperature.

With one coordinate this is the potential w^(2k).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import finite_number, whole_numbers

_SPACING = 0.02  # of the grid in log L
_TAIL = 36.0  # the mass that is cut off on the left is exp(-36) of the whole in each coordinate


def normal_crossing_llc(exponents: Sequence[int]) -> tuple[float, int]:
    """Learning coefficient and multiplicity of L(w) = prod_i w_i^(2 k_i) at w = 0.

    lambda = min_i 1 / (2 k_i); the multiplicity is the number of coordinates that attain it (Watanabe 2009, theorem
    2.4 in the case of a constant prior density).

    Parameters
    ----------
    exponents : k_i, whole numbers of zero or more, not all zero; a zero is a coordinate on which L does not depend.

    Raises `ConfigError` for values outside these ranges.
    """
    exponents = _checked(exponents)
    return 1 / (2 * max(exponents)), exponents.count(max(exponents))


def localized_normal_crossing_llc(exponents: Sequence[int], nbeta: float, localization: float) -> float:
    """nbeta E[L(w)] for L = prod_i w_i^(2 k_i) under w ~ exp(-nbeta L(w) - gamma/2 |w|^2), in any dimension.

    Under the localising Gaussian the z_i = 2 k_i log |w_i| are independent, so log L = sum z_i has a density that is
    the convolution of d densities that are known in closed form, and the expectation is a one-dimensional sum:

        lambda_hat = sum_z p(z) nbeta e^z exp(-nbeta e^z) / sum_z p(z) exp(-nbeta e^z).

    The result is good to about nine digits: in log coordinates all integrands are analytic and vanish at both ends. As
    nbeta grows it approaches `normal_crossing_llc`, at a rate of 1 / log(nbeta) where the multiplicity is above 1.

    Parameters
    ----------
    exponents : k_i, whole numbers of zero or more, not all zero.
    nbeta : inverse temperature, positive.
    localization : gamma of the density above. Zero is allowed for one coordinate only, where lambda_hat = 1 / (2k) at
        every nbeta; with more the density cannot be normalised.

    Raises `ConfigError` for values outside these ranges.
    """
    powers = [2 * exponent for exponent in _checked(exponents) if exponent]
    nbeta = finite_number("nbeta", nbeta, zero=False)
    localization = finite_number("localization", localization, zero=True)
    if localization == 0:
        if len(exponents) > 1:
            raise ConfigError(
                f"localization is 0, but exp(-nbeta prod w_i^(2 k_i)) has no finite mass in {len(exponents)} "
                "dimensions; take localization above 0"
            )
        return 1 / powers[0]
    # Scaled to gamma = 1 by w -> w sqrt(gamma): L turns into L gamma^(-sum k_i).
    log_scale = np.log(nbeta) - sum(powers) / 2 * np.log(localization)
    density, start = _density_of_log(powers[0])
    for power in powers[1:]:
        other, other_start = _density_of_log(power)
        density, start = fftconvolve(density, other) * _SPACING, start + other_start
    energy = np.exp(np.minimum(log_scale + _SPACING * (start + np.arange(len(density))), 700.0))
    weight = density * np.exp(-energy)
    return float(np.sum(weight * energy) / np.sum(weight))


def _density_of_log(power: int) -> tuple[NDArray[np.float64], int]:
    """Density of z = power log |w|, w standard normal, on the grid `_SPACING` * (start + 0, 1, 2, ...)."""
    start = int(np.floor(-power * _TAIL / _SPACING))
    stop = int(np.ceil(power * np.log(9.0) / _SPACING))  # |w| up to 9 standard deviations
    log_w = _SPACING * np.arange(start, stop + 1) / power
    return np.sqrt(2 / np.pi) * np.exp(log_w - 0.5 * np.exp(2 * log_w)) / power, start


def _checked(exponents: Sequence[int]) -> list[int]:
    exponents = whole_numbers("exponents", exponents, 0)
    if not any(exponents):
        raise ConfigError(
            f"exponents must hold a number above 0 (k_i of prod w_i^(2 k_i), such as [1, 2]); got {exponents}"
        )
    return exponents
