"""What is tuned of the references: minimises their mean loss on contexts that nothing else is measured on.

    python -m llc_dynamics.systems.linear_transformer.tuning

writes `tuned.json` beside this file, for d = 10, n = 20 and the ten published noise settings. Other settings are tuned
when they are asked for, on fewer contexts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from llc_dynamics.seeding import numpy_generator, torch_generator
from llc_dynamics.settings import from_mapping, to_mapping
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import PUBLISHED, Noise, draw, query_loss

_FILE = Path(__file__).with_name("tuned.json")
_CONTEXTS, _STARTS = 8_192, 6
_CONTEXTS_STORED, _STARTS_STORED = 65_536, 32
_DIMENSION, _EXAMPLES = 10, 20
_STEPS = (1, 2, 4)
_FEW = 1024

Weights = Callable[[ref.Spectrum, Tensor], Tensor]  # in the eigenbasis, from values of the order of 1


def tuned(noise: Noise, dimension: int, num_examples: int) -> ref.Tuning:
    """The stored tuning of a published setting, else a new one."""
    if (dimension, num_examples) == (_DIMENSION, _EXAMPLES):
        stored = json.loads(_FILE.read_text()) if _FILE.exists() else {}
        if noise.label in stored:
            return from_mapping(ref.Tuning, stored[noise.label], f"{_FILE.name}: {noise.label}")
    return tune(noise, dimension, num_examples)


@lru_cache(maxsize=32)
def tune(noise: Noise, dimension: int, num_examples: int, count: int = _CONTEXTS, starts: int = _STARTS) -> ref.Tuning:
    """Tune on `count` contexts from a generator of its own; the rates of GD-k and GD++-k from random starts."""
    contexts = draw(torch_generator(0, "tuning"), count, dimension, num_examples, torch.float64).contexts(noise)
    spectrum = ref.Spectrum(contexts)
    w = spectrum.rotated(contexts.w)

    def loss(weights: Tensor) -> Tensor:
        return query_loss(weights, w).mean()

    noiseless = noise.mean_variance == 0
    constant, factor, cap = 0.0, 1.0, 0.0
    if not noiseless:

        def of_constant(log_c: float) -> Any:
            return loss(ref.ridge_weights(spectrum, math.exp(log_c))).item()

        bounds = (math.log(1e-4 * noise.mean_variance), math.log(1e2 * noise.mean_variance))
        constant = math.exp(optimize.minimize_scalar(of_constant, bounds=bounds, method="bounded").x)
        if num_examples > dimension:
            factor, cap = _tuned_ridge(spectrum, loss, noise)
    scale = 1 / (num_examples + dimension + 1 + noise.mean_variance)

    def descent(spectrum: ref.Spectrum, values: Tensor) -> Tensor:
        return ref.descended(spectrum, values * scale)

    def preconditioned(spectrum: ref.Spectrum, values: Tensor) -> Tensor:
        steps = (len(values) + 1) // 2
        return ref.precondition_descended(spectrum, values[:steps] * scale, values[steps:] * scale)

    gd, gdpp = {}, {}
    for steps in _STEPS:
        gd[str(steps)] = tuple((_minimised(descent, steps, spectrum, starts) * scale).tolist())
        both = (_minimised(preconditioned, 2 * steps - 1, spectrum, starts) * scale).tolist()
        gdpp[str(steps)] = (tuple(both[:steps]), tuple(both[steps:]))
    return ref.Tuning(constant, factor, cap, gd, gdpp)


def _tuned_ridge(spectrum: ref.Spectrum, loss: Callable[[Tensor], Tensor], noise: Noise) -> tuple[float, float]:
    """Factor and cap of TunedRR."""

    def of_logarithms(values: NDArray[np.float64]) -> Any:
        return loss(ref.ridge_weights(spectrum, ref.capped(spectrum, *np.exp(values).tolist()))).item()

    start = np.log([1.2, 1.5 * noise.mean_variance**0.5])
    found = optimize.minimize(of_logarithms, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-7})
    factor, cap = np.exp(found.x).tolist()
    return factor, cap


def _minimised(weights: Weights, size: int, spectrum: ref.Spectrum, starts: int) -> NDArray[np.float64]:
    """L-BFGS from random starts on a few contexts, since there are local minima; the best goes on with all."""
    generator = numpy_generator(0, "tuning", size)
    all_contexts = spectrum.contexts
    few = ref.Spectrum(replace(all_contexts, moments=all_contexts.moments[:_FEW], w=all_contexts.w[:_FEW]))
    found = [_descend(weights, generator.lognormal(-0.3, 0.8, size), few) for _ in range(starts)]
    return _descend(weights, min(found, key=lambda each: each.fun).x, spectrum).x


def _descend(weights: Weights, start: NDArray[np.float64], spectrum: ref.Spectrum) -> Any:
    w = spectrum.rotated(spectrum.contexts.w)

    def value_and_gradient(values: NDArray[np.float64]) -> Any:
        at = torch.tensor(values, requires_grad=True)
        value = query_loss(weights(spectrum, at), w).mean()
        (gradient,) = torch.autograd.grad(value, at)
        return value.item(), gradient.numpy()

    return optimize.minimize(value_and_gradient, start, jac=True, method="L-BFGS-B")


def main() -> None:
    """Write `tuned.json`."""
    table = {}
    for noise in PUBLISHED:
        # Without noise GD++-4 is a polynomial of a high degree, and it runs away beyond the largest eigenvalue it saw.
        count = _CONTEXTS_STORED * (1 if noise.mean_variance else 8)
        table[noise.label] = to_mapping(tune(noise, _DIMENSION, _EXAMPLES, count, _STARTS_STORED))
    _FILE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
