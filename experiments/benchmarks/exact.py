"""Estimates beside exact answers: quadratics, normal crossings, the two-parameter family, a small ReLU network.

    python experiments/benchmarks/exact.py [SECTION ...] [--out FILE] [--seed SEED]

Sections (all, if none is named):

- quadratics: every kernel on a grid of (step, gamma, nbeta), in standard errors from its own stationary value.
- crossings: prod w_i^(2 k_i) up to k = 3, MALT with its step found by itself.
- family: the two-parameter networks of arXiv 2608.20183, r = 2 and 3, L = 1..5. One rule for all cells, see `family`.
- relu: SGLD, RMSprop-SGLD, the underdamped kernel and MALT beside MALA on a small ReLU network.
- rescaling: the same network in coordinates that are rescaled by 10^-3 to 10^3; the coefficient of variation.

Tables go to the terminal, and as JSON to FILE.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from common import Row, chosen_sections, command_line, markdown_head, markdown_row, write_json
from torch import nn
from torch.func import functional_call

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.llc import LLCResult
from llc_dynamics.seeding import torch_generator
from llc_dynamics.theory import (
    NormalCrossing,
    Quadratic,
    ReLUNetwork,
    TwoParameterFamily,
    family_data,
    potential_data,
    rescaled,
    squared_error,
)


def estimate(model: nn.Module, data: tuple[torch.Tensor, ...], **settings: Any) -> LLCResult:
    """On the whole data, with all chains as one batch of work: these models are far too small for a loop."""
    return ld.estimate_llc(model, squared_error, data, batch_size=len(data[0]), chain_method="vmap", **settings)


# --- quadratics -------------------------------------------------------------------------------------------------------

CURVATURES = [0.1, 1.0, 10.0] * 10
# (step as a share of that of the stiffest direction, gamma, nbeta)
GRID = [(0.2, 1.0, 10.0), (0.2, 30.0, 3.0), (0.5, 5.0, 2.0), (0.5, 100.0, 1.0), (1.0, 5.0, 2.0), (1.0, 30.0, 30.0)]


def quadratics(seed: int) -> list[Row]:
    rows = []
    h = np.array(CURVATURES)
    model = Quadratic(CURVATURES)
    for size, gamma, nbeta in GRID:
        a = nbeta * h + gamma
        time_step = size / math.sqrt(a.max())
        eps = size / a.max()
        gradient = np.sqrt(h**2 / a)
        stability = 2 * float(gradient.max())
        scale = 1 / (gradient + stability)
        exact = theory.quadratic_llc(CURVATURES, nbeta, gamma)
        kernels: list[tuple[Any, float, int]] = [
            (ld.SGLD(eps, nbeta, gamma), exact, 600),
            (
                ld.RMSpropSGLD(eps * stability, nbeta, gamma, decay=0.98, stability=stability),
                float(np.sum(nbeta * h / a / (1 - eps * stability * scale * a / 4)) / 2),
                600,
            ),
            (ld.Underdamped(time_step, nbeta, gamma), exact, 400),
            (ld.MALT(time_step, nbeta, gamma, num_steps=4), exact, 150),
            (ld.HMC(time_step, nbeta, gamma, num_steps=5), exact, 150),
            (ld.MALA(max(size, 0.5) / math.sqrt(a.max()), nbeta, gamma), exact, 600),
        ]
        for kernel, expected, draws in kernels:
            found = estimate(
                model,
                potential_data(model, 4),
                sampler=kernel,
                num_chains=16,
                num_draws=draws,
                num_burnin=_burn_in(kernel, a.min()),
                seed=seed,
            )
            rows.append(
                {
                    "kernel": type(kernel).__name__,
                    "step": size,
                    "gamma": gamma,
                    "nbeta": nbeta,
                    "llc": found.llc,
                    "error": found.standard_error,
                    "exact": expected,
                    "z": (found.llc - expected) / found.standard_error,
                    "virial": found.virial,
                    "kinetic": found.kinetic,
                    "acceptance": found.acceptance,
                    "converged": found.converged,
                }
            )
    return rows


def _burn_in(kernel: Any, slowest: float) -> int:
    """Updates after which the slowest direction, of curvature `slowest`, has forgotten its start."""
    if isinstance(kernel, ld.MALT | ld.Underdamped) or kernel.gradients_per_update > 1:
        return 200 if isinstance(kernel, ld.Underdamped) else 50
    eps = kernel.step_size**2 if isinstance(kernel, ld.MALA) else kernel.step_size
    if isinstance(kernel, ld.RMSpropSGLD):
        eps /= 1.5 * kernel.stability  # the preconditioner is about this where the gradient is largest
    return max(300, math.ceil(8 / (eps * slowest)))


# --- normal crossings -------------------------------------------------------------------------------------------------


def crossings(seed: int) -> list[Row]:
    """nbeta = 10^4 and gamma = 1 throughout; the exact value is that of this resolution, lambda its limit."""
    rows = []
    nbeta, gamma = 1e4, 1.0
    for exponents in [(1,), (2,), (3,), (1, 1), (1, 2), (2, 2), (1, 3), (2, 3), (3, 3), (1, 2, 3)]:
        model = NormalCrossing(exponents).double()
        data = tuple(part.double() for part in potential_data(model, 4))
        kernel = ld.MALT(nbeta=nbeta, localization=gamma, num_steps=16, target_acceptance=0.9)
        found = estimate(model, data, sampler=kernel, num_chains=64, num_draws=150, num_burnin=100, seed=seed)
        exact = theory.localized_normal_crossing_llc(exponents, nbeta, gamma)
        lam = theory.normal_crossing_llc(exponents)[0]
        rows.append({"exponents": exponents, **beside(found, exact, lam)})
    return rows


# --- the two-parameter family -----------------------------------------------------------------------------------------

RADIUS = 0.15
LARGEST_NBETA = 1e140


def family(seed: int) -> list[Row]:
    """All cells by one rule, without knowing lambda: gamma = 1, and nbeta such that a typical loss at a distance of
    `RADIUS` from w* is 1 / nbeta. n / log n is no use here: the loss is like a radius to a power of up to 484, and at
    nbeta = 10^4 the chains roam where its leading term does not lead."""
    rows = []
    for power, layers in itertools.product((2, 3), range(1, 6)):
        model = TwoParameterFamily(layers, power).double()
        data = tuple(part.double() for part in family_data())
        nbeta = min(1 / typical_loss(model, data, RADIUS, seed), LARGEST_NBETA)
        kernel = ld.MALT(nbeta=nbeta, localization=1.0, num_steps=16)
        start = time.perf_counter()
        # on to an error of 5%, or 2,000 draws a chain: the heavy cells need more
        counts: dict[str, Any] = {"num_draws": 250, "num_burnin": 150, "target_error": 0.05, "max_draws": 2000}
        found = estimate(model, data, sampler=kernel, num_chains=128, seed=seed, **counts)
        exact = theory.localized_two_parameter_family_llc(layers, power, data[0].numpy(), nbeta, 1.0)
        lam = theory.two_parameter_family_llc(layers, power)
        row = {"r": power, "L": layers, "log10 nbeta": math.log10(nbeta), **beside(found, exact, lam)}
        rows.append({**row, "seconds": time.perf_counter() - start})
        print(markdown_row(rows[-1].values()), flush=True)
    return rows


def typical_loss(model: nn.Module, data: tuple[torch.Tensor, ...], radius: float, seed: int) -> float:
    """Median over directions of the loss at this distance from the present weights."""
    origin = nn.utils.parameters_to_vector(model.parameters()).detach()
    losses = []
    with torch.no_grad():
        for direction in torch.randn(256, len(origin), generator=torch_generator(seed, "directions")).to(origin):
            nn.utils.vector_to_parameters(origin + radius * direction / direction.norm(), model.parameters())
            losses.append(float(squared_error(model, data).mean()))
        nn.utils.vector_to_parameters(origin, model.parameters())
    return float(np.median(losses))


# --- a small ReLU network ---------------------------------------------------------------------------------------------

WIDTHS = (4, 5, 2)


def relu_problem(seed: int) -> tuple[ReLUNetwork, tuple[torch.Tensor, torch.Tensor]]:
    """A network and 200 inputs with its own outputs as targets: w* is a minimum, with loss zero."""
    model = ReLUNetwork(WIDTHS, seed=seed).double()
    x = torch.randn(200, WIDTHS[0], generator=torch_generator(seed, "inputs"), dtype=torch.float64)
    with torch.no_grad():
        for bias in model.biases[:-1]:
            bias.add_(0.5)  # every unit is on for a good part of the inputs
        return model, (x, model(x))


def curvatures(model: nn.Module, data: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, float]:
    """Diagonal, and largest eigenvalue, of the Gauss-Newton matrix 2/n J'J, exact where the loss is zero."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: functional_call(model, p, (data[0],)))(parameters)
    flat = torch.cat([part.flatten(2) for part in jacobian.values()], 2).flatten(0, 1)
    return 2 / len(data[0]) * flat.square().sum(0), float(torch.linalg.matrix_norm(flat, 2) ** 2 * 2 / len(data[0]))


def relu(seed: int) -> list[Row]:
    model, data = relu_problem(seed)
    nbeta, gamma = 100.0, 20.0
    stiffest = nbeta * curvatures(model, data)[1] + gamma
    common: dict[str, Any] = {"nbeta": nbeta, "localization": gamma}
    kernels = [
        (ld.MALA(**common), 2000, 10000),
        (ld.MALT(num_steps=8, **common), 100, 500),
        (ld.Underdamped(0.3 / math.sqrt(stiffest), **common), 500, 3000),
        (ld.SGLD(0.1 / stiffest, **common), 2000, 10000),
        (ld.RMSpropSGLD(0.1 / stiffest, stability=1.0, **common), 2000, 10000),
    ]
    rows: list[Row] = []
    for kernel, burnin, updates in kernels:
        every = max(updates // 500, 1)
        settings = {"num_burnin": burnin, "num_draws": updates // every, "steps_per_draw": every}
        start = time.perf_counter()
        found = estimate(model, data, sampler=kernel, num_chains=16, seed=seed, **settings)
        rows.append({"kernel": type(kernel).__name__, **beside(found), "seconds": time.perf_counter() - start})
        rows[-1]["beside MALA"] = found.llc / rows[0]["llc"] - 1
        print(markdown_row(rows[-1].values()), flush=True)
    return rows


def rescaling(seed: int) -> list[Row]:
    """Hidden units times c, their outgoing weights over c: the same function, in coordinates 6 decades apart.

    With metric="curvature" the localisation is measured in the curvature at w*, and nothing depends on c; without it
    the posterior itself does. Other noise at each scale, so that the spread is honest and not zero by having the same
    numbers.
    """
    base, data = relu_problem(seed)
    nbeta, gamma = 100.0, 20.0
    methods: dict[str, dict[str, Any]] = {
        "MALT, curvature metric": {
            "sampler": ld.MALT(nbeta=nbeta, localization=gamma, num_steps=8), "num_draws": 1000, "num_burnin": 150,
            "metric": "curvature",
        },
        "RMSprop-SGLD, curvature metric": {
            "sampler": ld.RMSpropSGLD(1e-3, nbeta=nbeta, localization=gamma, stability=1.0), "num_draws": 800,
            "num_burnin": 1000, "steps_per_draw": 8, "metric": "curvature",
        },
        "MALT, as the weights are": {
            "sampler": ld.MALT(nbeta=nbeta, localization=1.0, num_steps=8), "num_draws": 300, "num_burnin": 100
        },
    }  # fmt: skip
    loss = ld.behavioural(lambda model, batch: math.sqrt(WIDTHS[-1]) * model(batch[0]))  # a sum over the outputs
    rows = []
    for place, (name, settings) in enumerate(methods.items()):
        found = []
        for exponent in (-3, -1.5, 0, 1.5, 3):
            model = rescaled(base, [10.0**exponent] * (len(WIDTHS) - 2))
            own_seed = seed + 100 * place + int(2 * exponent)
            found.append(
                ld.estimate_llc(
                    model, loss, data, batch_size=len(data[0]), chain_method="vmap", num_chains=16, seed=own_seed,
                    **settings,
                )
            )  # fmt: skip
        values = np.array([each.llc for each in found])
        rows.append(
            {
                "method": name,
                "values": values.tolist(),
                "coefficient of variation": float(values.std(ddof=1) / values.mean()),
                "relative standard error": float(np.mean([each.standard_error for each in found]) / values.mean()),
                "virials": [each.virial for each in found],
                "converged": [each.converged for each in found],
            }
        )
        print(markdown_row(rows[-1].values()), flush=True)
    return rows


# --- tables -----------------------------------------------------------------------------------------------------------


def beside(found: LLCResult, exact: float | None = None, lam: float | None = None) -> Row:
    """An estimate, and how far it is from the exact value at its resolution and from lambda."""
    row: Row = {"llc": found.llc, "error": found.standard_error}
    if exact is not None and lam is not None:
        row |= {
            "exact here": exact,
            "lambda": lam,
            "off exact": found.llc / exact - 1,
            "off lambda": found.llc / lam - 1,
        }
    return row | {
        "virial": found.virial,
        "acceptance": found.acceptance,
        "converged": found.converged,
        "reasons": ", ".join(reason.code for reason in found.reasons),
    }


def show(name: str, rows: Sequence[Row]) -> None:
    print(f"\n{name}\n{markdown_head(list(rows[0]))}")
    for row in rows:
        print(markdown_row(row.values()))


SECTIONS: dict[str, Callable[[int], list[Row]]] = {
    each.__name__: each for each in (quadratics, crossings, family, relu, rescaling)
}


def main() -> None:
    parser = command_line(__doc__, out="a JSON file for the tables")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in chosen_sections(parser, arguments.sections, SECTIONS):
        found[name] = SECTIONS[name](arguments.seed)
        show(name, found[name])
        write_json(arguments.out, found)


if __name__ == "__main__":
    main()
