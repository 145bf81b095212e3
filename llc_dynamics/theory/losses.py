"""Per-sample squared errors, `loss_fn(model, (x [B, ...], y [B, k])) -> [B]`, in the scalings that are in use.

The scaling matters: lambda does not depend on it, but lambda_hat at a given nbeta and localisation does.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from llc_dynamics.errors import DataError


def squared_error(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """|f(x) - y|^2, [B]: summed over the outputs."""
    return _squared_differences(model, batch).sum(-1)


def half_squared_error(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """1/2 |f(x) - y|^2, [B]: a Gaussian negative log likelihood with unit variance, up to a constant."""
    return _squared_differences(model, batch).sum(-1) / 2


def mean_squared_error(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """|f(x) - y|^2 / k, [B]: the mean over the k outputs, as in Furman & Lau's published code."""
    return _squared_differences(model, batch).mean(-1)


def _squared_differences(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    outputs = model(x)
    if outputs.shape != y.shape:
        raise DataError(
            f"the targets have shape {tuple(y.shape)} but the model's outputs {tuple(outputs.shape)}; they must agree"
        )
    return (outputs - y).square()
