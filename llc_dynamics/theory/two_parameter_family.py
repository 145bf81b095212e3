"""The two-parameter polynomial networks of arXiv 2608.20183: their learning coefficients and exact estimates.

One weight matrix A(t) = [[t1 + t2, t1^2], [t1^2, t2^2]] is used in all L layers, with the activation x^r between
them: f(x) = A (A ( ... (A x)^r ... )^r )^r, powers taken entry by entry, none after the last layer. The truth is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llc_dynamics.errors import ConfigError
from llc_dynamics.ranges import finite_number, numbers_of, whole_number

_ANGLES = (96, 192, 384, 768, 1536, 3072)
_BLOCK = 64  # radii at a time
_LARGEST_DEGREE = 10_000


def two_parameter_family_llc(layers: int, power: int) -> float:
    """Learning coefficient 3 / (2 D) with D = 2 (1 + r + ... + r^(L-1)), at t = 0; the multiplicity is 1.

    The paper (arXiv 2608.20183) prints r = 2: 3/4, 1/4, 3/28, 1/20, 3/124 for L = 1..5, found with its algorithm. The
    closed form for all L and r is derived here. Give s = t1 + t2 the weight 2 and t = t1 the weight 1: all entries of
    A then have weight 2, with leading part [[s, t^2], [t^2, t^2]], and f has weight D_L = 2 + r D_(L-1), D_1 = 2. The
    leading part of f vanishes only at s = t = 0: for t = 0 it is a power of s times a power of x_1; for t = 1 and
    s != 1 the matrix is invertible, so that no layer maps a non-zero vector to zero; for s = t = 1 it is
    [[1, 1], [1, 1]] and f is a power of x_1 + x_2 times a positive constant. Hence the loss E|f(x)|^2 lies between two
    multiples of rho^(2 D), rho the weighted radius, for every distribution of x that does not live on the lines
    x_1 = 0 and x_1 + x_2 = 0; the volume where it is below v is about v^((2 + 1) / (2 D)), and lambda = 3 / (2 D). The
    tests confirm it numerically for r = 2 and 3, by the limit of nbeta E[L] and by counting the area of {L < v}.

    For r = 3: 3/4, 3/16, 3/52, 3/160, 3/484 for L = 1..5.

    Parameters
    ----------
    layers : L, 1 or more.
    power : r, 1 or more.

    Raises `ConfigError` for values outside these ranges.
    """
    return 3 / (2 * _weight(layers, power))


def two_parameter_family_outputs(
    parameters: ArrayLike, inputs: ArrayLike, layers: int, power: int
) -> NDArray[np.float64]:
    """Outputs f(x), shape [..., B, 2], for parameters (t1, t2) of shape [..., 2] and inputs [B, 2]."""
    t = numbers_of("parameters", parameters)[..., None, :]
    x = numbers_of("inputs", inputs)
    if x.ndim != 2 or x.shape[-1] != 2 or t.shape[-1] != 2:
        raise ConfigError(f"parameters must be [..., 2] and inputs [B, 2]; got {(*t.shape[:-2], 2)} and {x.shape}")
    layers, power = whole_number("layers", layers, 1), whole_number("power", power, 1)
    t1, t2 = t[..., 0], t[..., 1]
    first, second = x[:, 0], x[:, 1]
    for layer in range(layers):
        if layer:
            first, second = _power(first, power), _power(second, power)
        first, second = (t1 + t2) * first + t1**2 * second, t1**2 * first + t2**2 * second
    return np.stack([first, second], axis=-1)


def localized_two_parameter_family_llc(
    layers: int, power: int, inputs: ArrayLike, nbeta: float, localization: float
) -> float:
    """nbeta E[L(t)] for L(t) = mean over `inputs` of |f(x)|^2, under t ~ exp(-nbeta L(t) - gamma/2 |t|^2).

    This, not lambda, is what a correct sampler returns at finite nbeta and gamma: as L behaves like rho^(2 D) with D
    up to 62 at r = 2, L = 5, nbeta = n / log n is far from asymptotic. Computed by quadrature in weighted polar
    coordinates t1 + t2 = e^(2u) cos a, t1 = e^u sin a, in which both integrals are equally spaced sums of analytic
    functions (periodic in a, vanishing at both ends in u).

    Parameters
    ----------
    layers, power : L and r of the family.
    inputs : the data x, [B, 2].
    nbeta : inverse temperature, positive.
    localization : gamma of the density above, zero or more.

    Raises `ConfigError` for values outside these ranges.
    """
    degree = _weight(layers, power)
    if degree > _LARGEST_DEGREE:
        raise ConfigError(
            f"layers={layers}, power={power}: the loss has weight {2 * degree}, too steep to integrate; "
            "take fewer layers"
        )
    nbeta = finite_number("nbeta", nbeta, zero=False)
    localization = finite_number("localization", localization, zero=True)
    previous = float("nan")
    for angles in _ANGLES:
        value = _polar_quadrature(layers, power, inputs, nbeta, localization, angles)
        if abs(value - previous) <= 1e-8 * value:
            return value
        previous = value
    raise ConfigError(
        f"the quadrature has not settled with {_ANGLES[-1]} angles at nbeta={nbeta}, localization={localization}: the "
        "two act on very different scales; bring them closer together"
    )


def _polar_quadrature(
    layers: int, power: int, inputs: ArrayLike, nbeta: float, localization: float, angles: int
) -> float:
    """E[nbeta L] with equally spaced angles, and u = log(radius) spaced finely enough for its steepest feature."""
    # The wall exp(-e^(2 D u)) has a width of 1 / (2 D) in u; the bulk is smooth.
    spacing = min(0.02, 1 / (6 * _weight(layers, power)))
    angle = 2 * np.pi * np.arange(angles) / angles
    jacobian = 2 * np.cos(angle) ** 2 + np.sin(angle) ** 2
    mass = energy = 0.0
    # From the outside inwards until what is left, whose volume is about e^(3u), is negligible against what was summed.
    place, top = 0, 3.0 + 0.5 * np.log1p(1 / max(localization, 1e-6))
    while True:
        u = top - spacing * (place + np.arange(_BLOCK))[:, None]
        s, t1 = np.exp(2 * u) * np.cos(angle), np.exp(u) * np.sin(angle)
        parameters = np.stack([t1, s - t1], axis=-1)
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = two_parameter_family_outputs(parameters, inputs, layers, power)
            cost = nbeta * np.mean(np.sum(outputs**2, axis=-1), axis=-1)
        cost = np.where(np.isfinite(cost), np.minimum(cost, 1e300), 1e300)
        weight = jacobian * np.exp(3 * u - cost - 0.5 * localization * np.sum(parameters**2, axis=-1))
        mass += float(np.sum(weight))
        energy += float(np.sum(weight * cost))
        place += _BLOCK
        rest = angles * 2 * np.exp(3 * u[-1, 0]) / (3 * spacing)
        if rest < 1e-12 * mass and cost[-1].max() < 1e-3:
            return energy / mass


def _power(values: NDArray[np.float64], power: int) -> NDArray[np.float64]:
    """values^power by multiplication, several times faster than numpy's general power."""
    result = values
    for _ in range(power - 1):
        result = result * values
    return result


def _weight(layers: int, power: int) -> int:
    """D = 2 (1 + r + ... + r^(L-1))."""
    layers, power = whole_number("layers", layers, 1), whole_number("power", power, 1)
    return 2 * sum(power**layer for layer in range(layers))
