"""Ideal and classical predictors of in-context regression, each as a weight vector w_hat [B, d] of its context.

All of them are spectral: with Sigma = sum x x' = V diag(s) V' and alpha = sum y x, w_hat = V f(s) V' alpha for a filter
f that may depend on the context. They compute in float64 whatever they are given. The prediction for a query is
w_hat . x, and its loss 1/2 |w_hat - w|^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llc_dynamics.errors import ConfigError
from llc_dynamics.systems.linear_transformer.task import Contexts


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Contexts in the eigenbasis of their Sigma: s [B, d], V' alpha [B, d], V [B, d, d], sum y^2 [B]."""

    contexts: Contexts

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.contexts.moments[:, :-1, :-1].double())
        return values.clamp(min=0), vectors

    @property
    def values(self) -> Tensor:
        return self._decomposition[0]

    @cached_property
    def alpha(self) -> Tensor:
        return self.rotated(self.contexts.moments[:, :-1, -1])

    def rotated(self, vectors: Tensor) -> Tensor:
        """Vectors [B, d] in the eigenbasis."""
        return (self._decomposition[1].mT @ vectors.double()[..., None])[..., 0]

    def back(self, filtered: Tensor) -> Tensor:
        """From the eigenbasis to the inputs' own, in the format of the contexts."""
        return (self._decomposition[1] @ filtered[..., None])[..., 0].to(self.contexts.w.dtype)

    @cached_property
    def noise_variance(self) -> Tensor:
        """sigma^2 [B] from the residuals of least squares, sum r^2 / (n - d). Raises `ConfigError` for n <= d."""
        n, d = self.contexts.num_examples, self.contexts.dimension
        if n <= d:
            raise ConfigError(
                f"n = {n} examples for d = {d} inputs leave no residuals to estimate noise from (AdaRR and TunedRR); "
                f"take num_examples of {d + 1} or more"
            )
        explained = (self.alpha.square() / self.values).sum(-1)
        return (self.contexts.moments[:, -1, -1].double() - explained).clamp(min=0) / (n - d)


def zero(spectrum: Spectrum) -> Tensor:
    """Predicts 0."""
    return torch.zeros_like(spectrum.contexts.w)


def gradient_descent(spectrum: Spectrum, rates: Sequence[float] | Tensor) -> Tensor:
    """GD-k from 0 on 1/2 sum (y - w.x)^2, a rate for each step."""
    return spectrum.back(descended(spectrum, rates))


def descended(spectrum: Spectrum, rates: Sequence[float] | Tensor) -> Tensor:
    """The same in the eigenbasis: w <- w + eta (alpha - s w)."""
    w = torch.zeros_like(spectrum.alpha)
    for rate in rates:
        w = w + rate * (spectrum.alpha - spectrum.values * w)
    return w


def preconditioned(spectrum: Spectrum, rates: Sequence[float] | Tensor, curvatures: Sequence[float] | Tensor) -> Tensor:
    """GD++-k (von Oswald et al. 2023): every step also transforms the inputs, x <- (I - gamma Sigma) x."""
    return spectrum.back(precondition_descended(spectrum, rates, curvatures))


def precondition_descended(
    spectrum: Spectrum, rates: Sequence[float] | Tensor, curvatures: Sequence[float] | Tensor
) -> Tensor:
    """The same in the eigenbasis: w <- w + eta m^2 (alpha - s w), m <- m (1 - gamma s m^2), but for the last m."""
    w, m = torch.zeros_like(spectrum.alpha), torch.ones_like(spectrum.alpha)
    for rate, curvature in zip(rates, (*curvatures, 0.0), strict=True):
        w = w + rate * m.square() * (spectrum.alpha - spectrum.values * w)
        m = m * (1 - curvature * spectrum.values * m.square())
    return w


def least_squares(spectrum: Spectrum) -> Tensor:
    """OLS, Sigma^-1 alpha. Raises `ConfigError` for n < d, where Sigma is singular."""
    n, d = spectrum.contexts.num_examples, spectrum.contexts.dimension
    if n < d:
        raise ConfigError(f"OLS: n = {n} examples do not determine d = {d} weights; take num_examples of {d} or more")
    return spectrum.back(spectrum.alpha / spectrum.values)


def ridge(spectrum: Spectrum, variance: Tensor | float) -> Tensor:
    """(Sigma + c I)^-1 alpha, with c one number or one for each context [B]. c = sigma^2 is the Bayes optimum."""
    return spectrum.back(ridge_weights(spectrum, variance))


def ridge_weights(spectrum: Spectrum, variance: Tensor | float) -> Tensor:
    """The same in the eigenbasis."""
    c = torch.as_tensor(variance, dtype=torch.float64, device=spectrum.alpha.device)
    shifted = spectrum.values + (c if c.ndim == 0 else c[:, None])
    return torch.where(shifted > 0, spectrum.alpha / shifted.clamp(min=1e-300), 0.0)


def capped(spectrum: Spectrum, factor: float, cap: float) -> Tensor:
    """TunedRR's estimate of sigma^2 [B]."""
    return (factor * spectrum.noise_variance).clamp(max=cap**2)


@dataclass(frozen=True)
class Tuning:
    """What is tuned of the references for one noise setting, d and n, on contexts of their own; see `tuning.tune`.

    constant : c of ConstRR. factor, cap : TunedRR takes min(factor * estimate, cap^2) for sigma^2. gd : rates of GD-k
    by k. gdpp : (rates, curvatures) of GD++-k by k.
    """

    constant: float
    factor: float
    cap: float
    gd: Mapping[str, tuple[float, ...]]
    gdpp: Mapping[str, tuple[tuple[float, ...], ...]]


#: Names and labels. Those of `NEED_RESIDUALS` need n > d.
LABELS = {
    "zero": "zero",
    "gd1": "GD, 1 step",
    "gd2": "GD, 2 steps",
    "gd4": "GD, 4 steps",
    "gdpp2": "GD++, 2 steps",
    "gdpp4": "GD++, 4 steps",
    "ols": "least squares",
    "constrr": "ConstRR",
    "adarr": "AdaRR",
    "tunedrr": "TunedRR",
    "oracle": "ridge that knows sigma",
}
NEED_RESIDUALS = ("ols", "adarr", "tunedrr")


def names_for(dimension: int, num_examples: int) -> list[str]:
    """The references that contexts of these sizes have."""
    return [name for name in LABELS if num_examples > dimension or name not in NEED_RESIDUALS]


def estimates(contexts: Contexts, tuning: Tuning, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """w_hat [B, d] of every reference by name, or of those that are named."""
    spectrum = Spectrum(contexts)
    wanted = names_for(contexts.dimension, contexts.num_examples) if names is None else names
    return {name: _estimate(name, spectrum, tuning) for name in wanted}


def _estimate(name: str, spectrum: Spectrum, tuning: Tuning) -> Tensor:
    match name:
        case "zero":
            return zero(spectrum)
        case "ols":
            return least_squares(spectrum)
        case "constrr":
            return ridge(spectrum, tuning.constant)
        case "adarr":
            return ridge(spectrum, spectrum.noise_variance)
        case "tunedrr":
            return ridge(spectrum, capped(spectrum, tuning.factor, tuning.cap))
        case "oracle":
            return ridge(spectrum, spectrum.contexts.sigma.double().square())
        case _ if name.startswith("gdpp"):
            return preconditioned(spectrum, *tuning.gdpp[name.removeprefix("gdpp")])
        case _:
            return gradient_descent(spectrum, tuning.gd[name.removeprefix("gd")])
