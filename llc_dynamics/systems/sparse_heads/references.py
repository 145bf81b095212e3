"""Ideal and classical predictors of sparse regression, each as a weight vector w_hat [B, d] of its context.

Gradient descent is on 1/(2n) sum (y - w.x)^2 from zero; its flow at time t is (1 - exp(-t s)) / s on the eigenvalues s
of S = X'X / n. Preprocess-then-optimise is the same on x~ = R x with a diagonal R of the context, which is the flow
w' = R^2 (X'y / n - S w): with r = X'y / n,

    literal     R^2 = r^2                                   (as in the paper, from memory: a head multiplies x_j by r_j)
    normalised  R^2 = r^2 / mean_j r_j^2
    mixed       R^2 = (1 - share) + share r^2 / mean_j r_j^2

Their constants (times, rates, shares, c, the penalty) are tuned on contexts that nothing else is measured on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.settings import nearest
from llc_dynamics.systems.linear_transformer.references import Spectrum, least_squares, ridge
from llc_dynamics.systems.linear_transformer.task import Contexts
from llc_dynamics.systems.sparse_heads.task import SparseTask, excess_risk

Preprocessing = Literal["literal", "normalised", "mixed"]
STEPS = 5  # of the variants with constant steps
_CONTEXTS = {"lasso": 1024}  # to tune on; for all others:
_MANY_CONTEXTS = 4096
_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)

LABELS = {
    "zero": "zero",
    "gd": f"GD, {STEPS} steps",
    "flow": "GD flow",
    "literal": f"preprocessed GD, {STEPS} steps",
    "normalised": f"preprocessed GD (normalised), {STEPS} steps",
    "mixed": f"preprocessed GD (mixed), {STEPS} steps",
    "preprocessed": "preprocessed GD flow",
    "ridge": "ridge",
    "ols": "least squares",
    "lasso": "Lasso",
    "support": "least squares on the true support",
}


def preprocessing(contexts: Contexts, kind: Preprocessing, share: float = 1.0) -> Tensor:
    """The diagonal of R [B, d]; `share` is that of the correlations in "mixed"."""
    squares = (contexts.moments[:, :-1, -1] / contexts.num_examples).square()
    if kind == "literal":
        return squares.sqrt()
    relative = squares / squares.mean(-1, keepdim=True).clamp(min=1e-300 if squares.dtype == torch.float64 else 1e-30)
    return (relative if kind == "normalised" else 1 - share + share * relative).sqrt()


def preprocessed(contexts: Contexts, scales: Tensor) -> Spectrum:
    """The context as seen through x~ = R x, R's diagonal `scales` [B, d]; w_hat is R times what is found there."""
    row = torch.cat((scales, torch.ones_like(scales[:, :1])), dim=1)
    return Spectrum(replace(contexts, moments=contexts.moments * row[:, :, None] * row[:, None, :]))


def flow(spectrum: Spectrum, time: float) -> Tensor:
    """The flow of gradient descent at a time."""
    s = spectrum.values / spectrum.contexts.num_examples
    growth = torch.where(time * s > 1e-12, -torch.expm1(-time * s) / s.clamp(min=1e-300), time)
    return spectrum.back(growth * spectrum.alpha / spectrum.contexts.num_examples)


def descent(spectrum: Spectrum, rate: float, steps: int = STEPS) -> Tensor:
    """Steps of one rate."""
    s = spectrum.values / spectrum.contexts.num_examples
    growth = rate * sum((1 - rate * s) ** step for step in range(steps))
    return spectrum.back(growth * spectrum.alpha / spectrum.contexts.num_examples)


def on_support(contexts: Contexts) -> Tensor:
    """Least squares on the entries that are non-zero in w. Raises `ConfigError` for fewer examples than those."""
    support = contexts.w != 0
    most = int(support.sum(-1).max())
    if contexts.num_examples < most:
        raise ConfigError(
            f"least squares on the true support: n = {contexts.num_examples} examples do not determine {most} weights; "
            f"take num_examples of {most} or more"
        )
    both = support[:, :, None] & support[:, None, :]
    unit = torch.eye(contexts.dimension, dtype=torch.float64, device=contexts.w.device)
    sigma = torch.where(both, contexts.moments[:, :-1, :-1].double(), unit)
    alpha = torch.where(support, contexts.moments[:, :-1, -1].double(), 0.0)
    return torch.linalg.solve(sigma, alpha[..., None])[..., 0].to(contexts.w.dtype)


def lasso(contexts: Contexts, least: float = 0.0) -> Callable[[float], Tensor]:
    """w_hat [B, d] = argmin 1/(2n) |y - X w|^2 + penalty |w|_1 as a function of the penalty, from `least` up.

    From scikit-learn's paths of least angle regression, which are linear between their knots.
    """
    from sklearn.linear_model import lars_path_gram

    paths = []
    for moments in contexts.moments.double().cpu().numpy() / contexts.num_examples:
        knots, _, path = lars_path_gram(
            Xy=moments[:-1, -1], Gram=moments[:-1, :-1], n_samples=1, method="lasso", alpha_min=least
        )
        paths.append((knots[::-1], path[:, ::-1]))  # found from the largest penalty down

    def at(penalty: float) -> Tensor:
        found = np.stack([[np.interp(penalty, knots, row) for row in path] for knots, path in paths])
        return torch.from_numpy(found).to(contexts.w)

    return at


#: Between what the constant of a reference is looked for.
_BOUNDS = {
    "gd": (1e-3, 2.0),
    "flow": (1e-2, 1e4),
    "literal": (1e-3, 1e2),
    "normalised": (1e-3, 2.0),
    "mixed": (1e-3, 2.0),
    "preprocessed": (1e-2, 1e6),
    "ridge": (1e-6, 1e4),
    "lasso": (1e-4, 3.0),
}


def _family(name: str, contexts: Contexts, share: float = 1.0) -> Callable[[float], Tensor]:
    """w_hat [B, d] of a reference as a function of its constant; what does not depend on it is computed once."""
    match name:
        case "gd" | "flow" | "ridge":
            raw = Spectrum(contexts)
            methods: dict[str, Callable[[Spectrum, float], Tensor]] = {"gd": descent, "flow": flow, "ridge": ridge}
            return partial(methods[name], raw)
        case "literal" | "normalised" | "mixed" | "preprocessed":
            kind: Preprocessing = "literal" if name == "preprocessed" else name
            scales = preprocessing(contexts, kind, share)
            seen = preprocessed(contexts, scales)
            if name == "preprocessed":
                return lambda constant: scales * flow(seen, constant)
            return lambda constant: scales * descent(seen, constant)
        case "lasso":
            return lasso(contexts)
        case "ols":
            return lambda _: least_squares(Spectrum(contexts))
        case "support":
            return lambda _: on_support(contexts)
        case "zero":
            return lambda _: torch.zeros_like(contexts.w)
        case _:
            raise ConfigError(f"reference '{name}' is unknown; {nearest(name, LABELS)}")


def names_for(task: SparseTask) -> list[str]:
    """The references that contexts of these sizes have: least squares needs as many examples as weights."""
    needed = {"ols": task.dimension, "support": task.sparsity}
    return [name for name in LABELS if task.num_examples >= needed.get(name, 0)]


def estimates(contexts: Contexts, task: SparseTask, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """w_hat [B, d] of all references, or of those that are named, with the constants that are best for the task."""
    found = {}
    for name in names_for(task) if names is None else names:
        constant, share = tuned(task, name)
        family = lasso(contexts, constant) if name == "lasso" else _family(name, contexts, share)
        found[name] = family(constant)
    return found


@lru_cache(maxsize=1024)
def tuned(task: SparseTask, name: str) -> tuple[float, float]:
    """The constant of a reference with the least mean excess risk, and the share of "mixed" that goes with it."""
    if name not in _BOUNDS:
        return math.nan, 1.0
    count = _CONTEXTS.get(name, _MANY_CONTEXTS)
    contexts = task.contexts(torch_generator(0, "tuning"), count, dtype=torch.float64)
    found = []
    for share in _SHARES if name == "mixed" else (1.0,):
        family = _family(name, contexts, share)
        constant, risk = _least(partial(_mean_risk, family, contexts.w), *_BOUNDS[name])
        found.append((risk, constant, share))
    _, constant, share = min(found)
    return constant, share


def _mean_risk(family: Callable[[float], Tensor], w: Tensor, constant: float) -> float:
    return excess_risk(family(constant), w).mean().item()


def _least(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """(argument, value) of the least value between two positive numbers: the best of a grid, then refined."""
    grid = np.linspace(math.log(low), math.log(high), 24)
    values = [value if math.isfinite(value) else math.inf for value in (function(math.exp(each)) for each in grid)]
    place = int(np.argmin(values))
    bounds = (grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)])
    found = optimize.minimize_scalar(
        lambda log: function(math.exp(log)), bounds=bounds, method="bounded", options={"xatol": 1e-2}
    )
    return math.exp(found.x), float(found.fun)
