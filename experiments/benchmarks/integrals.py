"""lambda_hat of small problems at a resolution (nbeta, gamma), without chains: quadrature, marginals, importance.

    lambda_hat = nbeta E[L(u) - L(u*)],    u ~ exp(-nbeta L(u) - gamma/2 |u - u*|^2)

`LossDifference` is L(u) - L(u*) at points [P, d], in float64. A value that is not good to some tenths of a percent
raises `NotSettledError`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import fftconvolve
from torch import Tensor

LossDifference = Callable[[Tensor], Tensor]
Features = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

_POINTS = {1: 401, 2: 81, 3: 33}
_MOST_POINTS = 6_000_000
_DEPTH = 25.0
_CHUNK = 8192
_SINGULAR = {1: (2001, 1601), 2: (601, 481), 3: (121, 97), 4: (40, 36)}
_REACH = 8.0
_TOLERANCE = 1e-3


class NotSettledError(RuntimeError):
    """Another grid, or other draws, give another value."""


def in_chunks(function: Callable[[Tensor], Tensor], places: Tensor, chunk: int = _CHUNK) -> Tensor:
    return torch.cat([function(part) for part in places.split(chunk)])


def quadrature(loss: LossDifference, start: Sequence[float], nbeta: float, gamma: float) -> float:
    """In one to three dimensions."""

    def terms(places: Tensor) -> Tensor:
        losses = nbeta * loss(places)
        return torch.stack([losses, -losses], 1)

    return _integrated(terms, start, nbeta, gamma)


def linear_quadrature(features: Features, start: Sequence[float], outer: Tensor, nbeta: float, gamma: float) -> float:
    """For outputs f(x) = sum_h a_h phi_h(b, x): the weights a are normal given b, and integrated in closed form.

    Parameters
    ----------
    features : of b [P, d]: G = mean phi phi' [P, H, H], c = mean phi f* [P, H, N] and mean |f*|^2 [P].
    start : b*. outer : a*, [H, N].
    """
    return _integrated(lambda places: _marginal(features, places, outer, nbeta, gamma), start, nbeta, gamma)


def _integrated(terms: Callable[[Tensor], Tensor], start: Sequence[float], nbeta: float, gamma: float) -> float:
    """The mean of terms[:, 0] under exp(terms[:, 1] - gamma/2 |u - u*|^2), on finer and finer grids.

    u = u* + s sinh(t), equally spaced in t: fine at u*, where posteriors are narrow, and as wide as the localisation.
    Trapezoids of a smooth function that vanishes at both ends converge faster than any power of the spacing. Each grid
    covers what the one before found to matter.
    """
    dims, scale = len(start), 0.3 / math.sqrt(nbeta + gamma)
    reach = math.asinh(_REACH / math.sqrt(gamma) / scale)
    box = [(-reach, reach)] * dims
    points, previous = _POINTS[dims], math.nan
    while points**dims <= _MOST_POINTS:
        t = torch.cartesian_prod(*[torch.linspace(*side, points, dtype=torch.float64) for side in box])
        t = t.reshape(-1, dims)
        offset = scale * torch.sinh(t)
        found = in_chunks(terms, offset + torch.tensor(start, dtype=torch.float64))
        log = found[:, 1] - gamma / 2 * offset.square().sum(1) + torch.log(torch.cosh(t)).sum(1)
        value = _mean(found[:, 0], log)
        if abs(value - previous) <= _TOLERANCE * max(abs(value), 0.01):
            return value
        log = torch.nan_to_num(log, nan=-math.inf)
        inside = t[log > log.max() - _DEPTH]
        cells = [(high - low) / (points - 1) for low, high in box]
        box = [
            (max(float(own.min()) - cell, low), min(float(own.max()) + cell, high))
            for own, cell, (low, high) in zip(inside.T, cells, box, strict=True)
        ]
        points, previous = int(1.4 * points), value
    raise NotSettledError(f"the value has not settled: {previous:.6g}, {value:.6g}")


def _marginal(features: Features, places: Tensor, outer: Tensor, nbeta: float, gamma: float) -> Tensor:
    """nbeta E[L | b] and the log of the integral over a, [P, 2]."""
    gram, cross, constant = features(places)
    precision = 2 * nbeta * gram + gamma * torch.eye(gram.shape[-1], dtype=gram.dtype)
    pull = 2 * nbeta * cross + gamma * outer
    mean = torch.linalg.solve(precision, pull)
    spread = torch.linalg.solve(precision, gram).diagonal(dim1=-2, dim2=-1).sum(-1) * outer.shape[1]
    loss = spread + ((gram @ mean) * mean - 2 * cross * mean).sum((-2, -1)) + constant
    log = -torch.linalg.slogdet(precision).logabsdet * outer.shape[1] / 2 + (pull * mean).sum((-2, -1)) / 2
    return torch.stack([nbeta * loss, log - nbeta * constant], 1)


def importance(loss: LossDifference, start: Sequence[float], nbeta: float, gamma: float, draws: int = 2**14) -> float:
    """For a regular posterior in up to some ten dimensions: points of a t law around its normal approximation."""
    origin, dims = torch.tensor(start, dtype=torch.float64), len(start)

    def energy(u: Tensor) -> Tensor:
        return nbeta * loss(u[None])[0] + gamma / 2 * (u - origin).square().sum()

    mode = origin.clone()
    for _ in range(50):
        slope, curvature = torch.func.grad(energy)(mode), torch.func.hessian(energy)(mode)
        mode = mode - torch.linalg.solve(curvature, slope)
    factor = torch.linalg.cholesky(torch.linalg.inv(torch.func.hessian(energy)(mode)))
    found, freedom = [], 10
    for seed in range(3):
        uniform = stats.qmc.Sobol(dims + 1, seed=seed).random(draws).clip(1e-12, 1 - 1e-12)
        noise = torch.from_numpy(stats.norm.ppf(uniform[:, :-1]))
        noise *= torch.from_numpy(np.sqrt(freedom / stats.chi2.ppf(uniform[:, -1:], freedom)))
        places = mode + noise @ factor.T
        losses = nbeta * in_chunks(loss, places, 1024)
        tail = (freedom + dims) / 2 * torch.log1p(noise.square().sum(1) / freedom)
        found.append(_mean(losses, tail - losses - gamma / 2 * (places - origin).square().sum(1)))
    return _settled(found, 5 * _TOLERANCE)


def product_chain(start: Sequence[float], strength: float, nbeta: float, gamma: float) -> float:
    """For L = c (prod w_l - prod w_l*)^2: log |prod w_l| is a sum of independent numbers, and so is the sign's.

    The density of log |w| on either side of zero is known; those of a product are convolutions of them, and the
    expectation is a one-dimensional sum.
    """
    spacing, lowest = 0.004, -28.0
    plus, minus, at = np.ones(1), np.zeros(1), 0.0
    for centre in start:
        log = np.arange(lowest, math.log(abs(centre) + 9 / math.sqrt(gamma)), spacing)
        one, other = (
            np.exp(log - gamma / 2 * (sign * np.exp(log) - centre) ** 2) * spacing * math.sqrt(gamma / 2 / math.pi)
            for sign in (1, -1)
        )
        plus, minus = (
            fftconvolve(plus, one) + fftconvolve(minus, other),
            fftconvolve(plus, other) + fftconvolve(minus, one),
        )
        at += log[0]
    size = np.exp(at + spacing * np.arange(len(plus)))
    mass = energy = 0.0
    for density, sign in ((plus, 1), (minus, -1)):
        loss = nbeta * strength * (sign * size - math.prod(start)) ** 2
        weight = np.maximum(density, 0) * np.exp(-loss)
        mass, energy = mass + float(weight.sum()), energy + float((weight * loss).sum())
    return energy / mass


def zero_product(inputs: int, hidden: int, outputs: int, strength: float, nbeta: float, gamma: float) -> float:
    """For L = c |B A|^2 at A = 0 [H, M], B = 0 [N, H]: over the singular values of B, or of A if it has fewer.

    Given B the columns of A are normal, with precision gamma + 2 nbeta c s^2 along each singular vector; the singular
    values have the density prod s^|N - H| prod |s_i^2 - s_j^2| exp(-gamma s^2 / 2).
    """
    if min(hidden, outputs) > min(hidden, inputs):
        inputs, outputs = outputs, inputs
    few = min(hidden, outputs)
    found = []
    for points in _SINGULAR[few]:
        lowest = min(0.0, math.log(gamma) - math.log(2 * nbeta * strength) / 2) - 6
        log = np.linspace(lowest, math.log(5 + math.sqrt(max(hidden, outputs))), points) - math.log(gamma) / 2
        s = np.stack(np.meshgrid(*[np.exp(log)] * few, indexing="ij", copy=False)).reshape(few, -1)
        with np.errstate(divide="ignore"):
            weight = ((abs(hidden - outputs) + 1) * np.log(s) - gamma * s**2 / 2).sum(0)
            for one, other in itertools.combinations(s, 2):
                weight += np.log(np.abs(one**2 - other**2))
        pull = 2 * nbeta * strength * s**2
        weight -= inputs / 2 * np.log1p(pull / gamma).sum(0)
        found.append(_mean(torch.from_numpy(inputs / 2 * (pull / (pull + gamma)).sum(0)), torch.from_numpy(weight)))
    return _settled(found)


def radial(
    loss: Callable[[NDArray[np.float64]], NDArray[np.float64]], dimension: int, nbeta: float, gamma: float
) -> float:
    """For L(|u|), at u* = 0 in d dimensions."""
    log = np.linspace(-20, math.log(_REACH / math.sqrt(gamma) + math.sqrt(dimension / gamma)), 20_001)
    energy = torch.from_numpy(nbeta * loss(np.exp(log)))
    return _mean(energy, torch.from_numpy(dimension * log - gamma / 2 * np.exp(2 * log)) - energy)


def _mean(values: Tensor, log_weights: Tensor) -> float:
    finite = torch.nan_to_num(log_weights, nan=-math.inf, posinf=-math.inf)
    weights = torch.exp(finite - finite.max())
    return float((weights * torch.nan_to_num(values)).sum() / weights.sum())


def _settled(found: Sequence[float], tolerance: float = _TOLERANCE) -> float:
    if max(found) - min(found) > tolerance * max(abs(found[0]), 0.01):
        raise NotSettledError(f"the value has not settled: {', '.join(f'{each:.6g}' for each in found)}")
    return found[0]
