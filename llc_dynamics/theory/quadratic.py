"""Exact LLC estimates for a quadratic loss: of the localised posterior, and of SGLD at a finite step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import finite_number, numbers_of


def quadratic_llc(curvatures: Sequence[float] | ArrayLike, nbeta: float, localization: float) -> float:
    """nbeta E[L(w) - L(w*)] for L = 1/2 sum h_i w_i^2 under w ~ exp(-nbeta L(w) - gamma/2 |w|^2).

    Each coordinate is normal with precision nbeta h_i + gamma, so

        lambda_hat = 1/2 sum nbeta h_i / (nbeta h_i + gamma),

    which is d/2 at gamma = 0 for d positive curvatures.

    Parameters
    ----------
    curvatures : h_i, [d], zero or more each.
    nbeta : inverse temperature, positive.
    localization : gamma of the density above, zero or more.

    Raises `ConfigError` for values outside these ranges, or if no curvature and no localisation bounds a coordinate.
    """
    pull, precision = _precisions(curvatures, nbeta, localization)
    return float(0.5 * np.sum(pull / precision))


def quadratic_sgld_llc(
    curvatures: Sequence[float] | ArrayLike, nbeta: float, localization: float, step_size: float
) -> float:
    """The value that SGLD with exact gradients has in its own stationary law, at step eps.

    The step w <- w - (eps/2) (nbeta grad L(w) + gamma w) + sqrt(eps) xi is a linear recursion in each coordinate;
    with a_i = nbeta h_i + gamma its stationary variance is 1 / (a_i (1 - eps a_i / 4)), so

        lambda_hat = 1/2 sum nbeta h_i / (a_i (1 - eps a_i / 4)).

    Parameters as for `quadratic_llc`, and `step_size` : eps, positive, with eps max a_i < 4.

    Raises `ConfigError` for values outside these ranges; at eps a_i >= 4 the chain diverges and has no such value.
    """
    pull, precision = _precisions(curvatures, nbeta, localization)
    step_size = finite_number("step_size", step_size, zero=False)
    if step_size * precision.max() >= 4:
        raise ConfigError(
            f"step_size {step_size} diverges: eps (nbeta h + gamma) is {step_size * precision.max():.3g} in the "
            f"stiffest direction and must stay below 4; take less than {4 / precision.max():.3g}"
        )
    return float(0.5 * np.sum(pull / (precision * (1 - step_size * precision / 4))))


def _precisions(
    curvatures: Sequence[float] | ArrayLike, nbeta: float, localization: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """nbeta h_i and nbeta h_i + gamma."""
    h = numbers_of("curvatures", curvatures)
    if h.ndim != 1 or not len(h) or not np.isfinite(h).all() or (h < 0).any():
        raise ConfigError(f"curvatures must be a list of finite numbers of zero or more; got {curvatures!r}")
    pull = finite_number("nbeta", nbeta, zero=False) * h
    precision = pull + finite_number("localization", localization, zero=True)
    if (precision == 0).any():
        raise ConfigError("a curvature of 0 needs localization above 0: nothing else bounds that direction")
    return pull, precision
