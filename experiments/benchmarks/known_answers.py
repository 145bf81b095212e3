"""Small problems whose lambda_hat is known at every resolution (nbeta, gamma), for `battery.py`.

Each is a function u -> outputs or losses, at u*, of a module whose weights are u or a rotation of it. Values come from
`integrals`: closed forms, quadrature of the loss on the whole data, or sums over factors of the posterior.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import integrals
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import llc_dynamics as ld
from llc_dynamics.seeding import torch_generator
from llc_dynamics.theory import quadratic_llc

Value = Callable[[float, float], float]
Function = Callable[[Tensor, Any], Tensor]


class Rotated(nn.Module):
    """f(R w, batch), with w = R' u* at first; R is the identity or a random rotation."""

    rotation: Tensor

    def __init__(self, function: Function, start: Sequence[float], rotate: bool) -> None:
        super().__init__()
        self.function = function
        u = torch.tensor(start, dtype=torch.float64)
        r = torch.eye(len(u), dtype=torch.float64)
        if rotate:
            r = torch.linalg.qr(torch.randn(r.shape, generator=torch_generator(0, "rotation"), dtype=r.dtype)).Q
        self.register_buffer("rotation", r.float())
        self.weight = nn.Parameter((r.T @ u).float())

    def forward(self, batch: Any) -> Tensor:
        return self.function(self.rotation @ self.weight, batch)


@dataclass(frozen=True)
class Known:
    """A problem, settings that someone would choose by hand, and its value.

    Parameters
    ----------
    kind, name : the class it belongs to in tables, and its own name.
    function : of (u, batch): outputs [B, k], or for the loss "given" one loss per sample [B].
    start : u*. data : a tuple of tensors, or a function that draws fresh samples.
    value : lambda_hat at (nbeta, gamma).
    gamma, stiff : localisation, and the largest curvature that chains meet, for a step chosen by hand.
    loss : "squared" and "kl" are behavioural: |f - f*|^2 summed over outputs, or the divergence of the softmax.
    num_samples, batch_size : n of nbeta = n / log n, and B.
    """

    kind: str
    name: str
    function: Function
    start: tuple[float, ...]
    data: Any
    value: Value
    gamma: float
    stiff: float
    loss: Literal["squared", "kl", "given"] = "squared"
    num_samples: int = 1000
    batch_size: int = 100
    rotate: bool = False

    @property
    def nbeta(self) -> float:
        return self.num_samples / math.log(self.num_samples)

    def model(self) -> nn.Module:
        return Rotated(self.function, self.start, self.rotate)

    @property
    def loss_fn(self) -> Any:
        if self.loss == "given":
            return lambda model, batch: model(batch)
        if self.loss == "kl":
            return ld.behavioural(lambda model, batch: model(batch), "kl")

        def outputs(model: nn.Module, batch: Any) -> Tensor:
            found = model(batch)
            return found * math.sqrt(found.shape[1])  # the loss is then a sum over the outputs

        return ld.behavioural(outputs)


def difference(function: Function, start: Sequence[float], batch: Any, loss: str) -> integrals.LossDifference:
    """L(u) - L(u*) at points [P, d] on the whole data, in float64."""
    batch = tuple(part.double() if part.is_floating_point() else part for part in batch)
    origin = torch.tensor(start, dtype=torch.float64)
    there = function(origin, batch)

    def at(u: Tensor) -> Tensor:
        found = function(u, batch)
        if loss == "given":
            return (found - there).mean()
        if loss == "kl":
            return (there.softmax(-1) * (there.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()
        return (found - there).square().sum(-1).mean()

    return torch.vmap(at)


# --- data -------------------------------------------------------------------------------------------------------------


def normal(samples: int, size: int, purpose: str) -> Tensor:
    return torch.randn(samples, size, generator=torch_generator(0, purpose))


def scales(samples: int = 1000) -> tuple[Tensor]:
    """x [n, 1] with a mean square of exactly 1: outputs g(u) x have the loss |g(u)|^2 on the whole data."""
    x = normal(samples, 1, "scales").double()
    return ((x / x.square().mean().sqrt()).float(),)


def fresh_scales(generator: torch.Generator, batch_size: int) -> tuple[Tensor]:
    return (torch.randn(batch_size, 1, generator=generator),)


@functools.cache
def digits(classes: tuple[int, ...], components: int) -> tuple[Tensor, Tensor]:
    """The first principal components of images of these digits, of unit variance, and their classes, one-hot [n, c]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, classes)
    x = images[chosen] - images[chosen].mean(0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:components].T
    y = np.searchsorted(classes, labels[chosen])
    return torch.from_numpy(x / x.std(0)).float(), F.one_hot(torch.from_numpy(y)).float()


# --- kinds of problems ------------------------------------------------------------------------------------------------

# g, of weights [..., d] to outputs [..., k], and u*
Factor = tuple[Callable[[Tensor], Tensor], tuple[float, ...]]


def by_quadrature(function: Function, start: Sequence[float], data: Any, loss: str = "squared") -> Value:
    at = difference(function, start, data, loss)
    return functools.cache(lambda nbeta, gamma: integrals.quadrature(at, start, nbeta, gamma))


def side_by_side(
    kind: str,
    name: str,
    factors: Sequence[tuple[Factor, int]],
    gamma: float,
    stiff: float,
    *,
    noise: float | None = None,
    values: Sequence[Value | None] | None = None,
    **others: Any,
) -> Known:
    """Outputs g(u) x, g made of independent parts: each factor (g_i, u_i*), so many times.

    With `noise` the loss is the given one, |g(u) x - y|^2 with targets +-y for each x; otherwise it is behavioural.
    `values` replace the quadrature over a factor.
    """
    sizes = [len(first) * count for (_, first), count in factors]
    start = tuple(value for (_, first), count in factors for value in first * count)

    def outputs(u: Tensor, batch: Any) -> Tensor:
        parts = u.split(sizes)
        found = [g(own.view(count, -1)).reshape(-1) for ((g, _), count), own in zip(factors, parts, strict=True)]
        return torch.cat(found) * batch[0]

    own: list[tuple[Value, int]] = []
    for place, ((g, first), count) in enumerate(factors):
        given = values[place] if values else None
        own.append((given or _quadrature(g, first), count))
    function: Function = outputs
    data = others.pop("data", None) or scales()
    if noise is not None:
        others["loss"] = "given"
        y = noise * normal(len(data[0]) // 2, len(outputs(torch.tensor(start), data)[0]), "noise")
        x = data[0][: len(data[0]) // 2]
        x = x / x.square().mean().sqrt()
        data = (torch.cat([x, x]), torch.cat([y, -y]))

        def function(u: Tensor, batch: Any) -> Tensor:
            return (outputs(u, batch) - batch[1]).square().sum(-1)

    value = functools.cache(lambda nbeta, gamma: sum(count * each(nbeta, gamma) for each, count in own))
    return Known(kind, name, function, start, data, value, gamma, stiff, **others)


def _quadrature(g: Callable[[Tensor], Tensor], start: Sequence[float]) -> Value:
    there = g(torch.tensor(start, dtype=torch.float64))
    return lambda nbeta, gamma: integrals.quadrature(lambda u: (g(u) - there).square().sum(-1), start, nbeta, gamma)


def hidden_layer(
    kind: str,
    name: str,
    features: Callable[[Tensor, Tensor], Tensor],
    inner: Sequence[float],
    outer: Sequence[Sequence[float]],
    x: Tensor,
    gamma: float,
    stiff: float,
    **others: Any,
) -> Known:
    """Outputs phi(b, x) a with features [B, H] of the inner weights b*, and the outer ones a* [H][N]."""
    a = torch.tensor(outer, dtype=torch.float64)
    size = len(inner)

    def function(u: Tensor, batch: Any) -> Tensor:
        return features(u[:size], batch[0]) @ u[size:].view(a.shape)

    rows = x.double()
    target = features(torch.tensor(inner, dtype=torch.float64), rows) @ a

    def moments(places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi = torch.vmap(features, (0, None))(places, rows)
        constant = target.square().sum(-1).mean().expand(len(places))
        return phi.mT @ phi / len(rows), phi.mT @ target / len(rows), constant

    value = functools.cache(lambda nbeta, gamma: integrals.linear_quadrature(moments, list(inner), a, nbeta, gamma))
    start = (*inner, *a.flatten().tolist())
    return Known(kind, name, function, start, (x,), value, gamma, stiff, **others)


def linear(kind: str, name: str, x: Tensor, gamma: float, *, noise: Tensor | None = None, **others: Any) -> Known:
    """x'u, behavioural at u* = 0; or with noisy targets the given squared error at its least-squares solution."""
    rows = x.double()
    curvatures = 2 * torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp(min=0)
    start, data = torch.zeros(x.shape[1], dtype=torch.float64), (x,)

    def function(u: Tensor, batch: Any) -> Tensor:
        return (batch[0] @ u)[:, None]

    if noise is not None:
        start = torch.linalg.lstsq(rows, noise.double()[:, None]).solution[:, 0]
        data = (x, noise)
        others["loss"] = "given"

        def function(u: Tensor, batch: Any) -> Tensor:
            return (batch[0] @ u - batch[1]).square()

    others.setdefault("num_samples", len(x))
    value = functools.partial(quadratic_llc, curvatures.numpy())
    return Known(kind, name, function, tuple(start.tolist()), data, value, gamma, float(curvatures.max()), **others)


def likelihood(
    kind: str,
    name: str,
    losses: Function,
    start: Sequence[float],
    data: Any,
    gamma: float,
    stiff: float,
    *,
    by_draws: bool = False,
    **others: Any,
) -> Known:
    """A negative log likelihood at its minimum on the data, which Newton's method finds from `start`."""
    batch = tuple(part.double() if part.is_floating_point() else part for part in data)
    u = torch.tensor(start, dtype=torch.float64)
    for _ in range(60):
        slope, curvature = (
            each(lambda v: losses(v, batch).mean())(u) for each in (torch.func.grad, torch.func.hessian)
        )
        u = u - torch.linalg.lstsq(curvature + 1e-9 * torch.eye(len(u)), slope[:, None]).solution[:, 0]
    found = tuple(u.tolist())
    at = difference(losses, found, data, "given")
    integral = integrals.importance if by_draws else integrals.quadrature
    value = functools.cache(lambda nbeta, gamma: integral(at, found, nbeta, gamma))
    others.setdefault("num_samples", len(data[0]))
    return Known(kind, name, losses, found, data, value, gamma, stiff, loss="given", **others)
