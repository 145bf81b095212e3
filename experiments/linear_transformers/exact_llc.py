"""Exact LLCs of linear transformers against estimates.

    python experiments/linear_transformers/exact_llc.py [--dimension 3] [--only TEXT] [--seed 0]

The loss is the behavioural one, the squared distance of w^L to that at w* on fixed contexts; for one layer, at the
minimum of the population loss, the excess loss is the same but for the distribution of contexts. A regular point has
lambda = rank / 2, and at a localisation gamma the value is 1/2 sum h / (h + gamma/nbeta) over the eigenvalues h of the
Hessian. The singular one, two heads of which the second is zero, has more than its Hessian says.

Points that are no minimum of one layer of FULL are the best conditioned of `_SEEDS` random ones, of equals the one of
the largest curvature. Every estimate is one of MALT on all contexts. gamma / nbeta is a twentieth of the smallest h,
and 1/64^2 of the largest at least, and at the singular point.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import llc_dynamics as ld
from llc_dynamics.llc import EstimateSettings
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer.model import Architecture, LinearTransformer
from llc_dynamics.systems.linear_transformer.task import Noise, draw

NBETA, LARGEST_RATIO = 1e5, 64.0
_SEEDS, _CONTEXTS = 200, 400
_RANK = 1e-10  # eigenvalues below this share of the largest are zero


@dataclass(frozen=True)
class Case:
    """A row of the table: a point, and lambda as a function of the number of inputs d."""

    name: str
    algorithm: str
    layers: int
    heads: int
    exact: Callable[[int], float]
    zero_head: bool = False


CASES = (
    Case("FULL, one layer, one head", "full", 1, 1, lambda d: d * (d + 2) / 2),
    Case("FULL, one layer, two heads", "full", 1, 2, lambda d: d * (d + 3) / 2),
    Case("FULL, one layer, three heads", "full", 1, 3, lambda d: d * (d + 4) / 2),
    Case("FULL, one layer, two heads, one zero", "full", 1, 2, lambda d: (d * (d + 2) + d) / 2, zero_head=True),
    Case("DIAG, one layer", "diag", 1, 1, lambda _: 0.5),
    Case("GD++, two layers", "gdpp", 2, 1, lambda _: 1.5),
    Case("GD++, three layers", "gdpp", 3, 1, lambda _: 2.5),
    Case("DIAG, two layers", "diag", 2, 1, lambda _: 2.5),
    Case("DIAG, three layers", "diag", 3, 1, lambda _: 4.0),
    Case("FULL, two layers", "full", 2, 1, lambda d: (4 * (d + 1) ** 2 - 2 - d * (d + 1)) / 2),
)


def contexts(dimension: int) -> tuple[Tensor, Tensor]:
    """Moments and task vectors of the fixed contexts, with n = 2 d examples and sigma ~ U(0, 1)."""
    drawn = draw(torch_generator(0, "exact LLC"), _CONTEXTS, dimension, 2 * dimension, torch.float64)
    return drawn.contexts(Noise(1.0)).batch


def weights(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """w^L [B, d]."""
    return model(batch[0])


def point(case: Case, dimension: int, data: tuple[Tensor, Tensor]) -> LinearTransformer:
    """The model at w*."""

    def built(seed: int) -> LinearTransformer:
        sizes = Architecture(dimension, 2 * dimension, case.algorithm, case.layers, case.heads)
        return LinearTransformer(sizes, seed=seed).double()

    if case.algorithm == "full" and case.layers == 1:
        return at_minimum(built(0), case.zero_head)

    def badness(model: LinearTransformer) -> tuple[float, float]:
        found = curvatures(model, data)
        return condition(found), -float(found.min())

    return min((built(seed) for seed in range(_SEEDS)), key=badness)


def at_minimum(model: LinearTransformer, zero_head: bool) -> LinearTransformer:
    """One layer of FULL at a minimum of the loss, a generic one or that at which all heads but the first are zero.

    The prediction depends on sum_k sym(p_k (x) Q_k), p_k the last row of P_k and Q_k without its last column, which at
    the minimum is that of p = e_y and Q = c I on the inputs. Generic is p_k = a_k e_y, sum_k a_k Q_k = Q.
    """
    p, q = model.p[0], model.q[0]
    d, heads = p.shape[1] - 1, p.shape[0]
    generator = torch_generator(0, "minimum")
    shares, free = torch.zeros(heads, dtype=p.dtype), torch.zeros_like(q)
    shares[0] = 1.0
    if heads > 1 and not zero_head:
        shares.uniform_(0.5, 1.5, generator=generator)
        free.normal_(generator=generator)
        free -= shares[:, None, None] * torch.einsum("k,kij->ij", shares, free) / shares.square().sum()
    with torch.no_grad():
        p.zero_()
        p[:, -1, -1] = shares
        q.copy_(0.5 * free)
        q[:, :d, :d] -= 0.7 * (shares / shares.square().sum())[:, None, None] * torch.eye(d, dtype=q.dtype)
    return model


def curvatures(model: LinearTransformer, data: tuple[Tensor, Tensor]) -> NDArray[np.float64]:
    """The eigenvalues of the Hessian of the behavioural loss that are not zero."""
    values = {name: each.detach() for name, each in model.named_parameters()}

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (data[0],)).flatten()

    by_parameter = torch.func.jacrev(outputs)(values)
    jacobian = torch.cat([each.flatten(1) for each in by_parameter.values()], 1)
    found = torch.linalg.eigvalsh(2 * jacobian.T @ jacobian / len(jacobian)).numpy()
    return found[found > _RANK * found.max()]


def condition(eigenvalues: NDArray[np.float64]) -> float:
    """The largest over the smallest."""
    return float(eigenvalues.max() / eigenvalues.min())


def localization(case: Case, eigenvalues: NDArray[np.float64]) -> float:
    """gamma, as above."""
    coarsest = 0.0 if case.zero_head else float(eigenvalues.min()) / 20
    return NBETA * max(coarsest, float(eigenvalues.max()) / LARGEST_RATIO**2)


def estimate(
    model: LinearTransformer, data: tuple[Tensor, Tensor], gamma: float, seed: int, draws: int = 600
) -> LLCResult:
    """Eight chains of MALT."""
    settings = EstimateSettings(
        sampler=ld.MALT(nbeta=NBETA, localization=gamma, updates_per_batch=None),
        num_chains=8,
        num_draws=draws,
        num_burnin=draws // 6,
        batch_size=_CONTEXTS,
        chain_method="vmap",
        seed=seed,
    )
    return ld.estimate_llc(model, ld.behavioural(weights), data, settings=settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = contexts(options.dimension)
    print("| case | lambda | by the Hessian | at this gamma | estimate | lambda, 95% | converged | within | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if options.only not in case.name:
            continue
        model, start = point(case, options.dimension, data), time.process_time()
        found = curvatures(model, data)
        result = estimate(model, data, localization(case, found), options.seed)
        exact = case.exact(options.dimension)
        here = 0.5 * float((found / (found + result.localization / NBETA)).sum())
        wanted = exact if case.zero_head else here
        low, high = result.lambda_interval()
        error = abs(result.llc - wanted)
        verdict = "yes" if error < 0.05 * wanted or error < 3 * result.standard_error else "NO"
        print(
            f"| {case.name} | {exact:g} | {len(found) / 2:g} | {'unknown' if case.zero_head else f'{here:.3f}'} | "
            f"{result.llc:.3f} ± {result.standard_error:.3f} | {low:.3g} to {high:.3g} | "
            f"{'yes' if result.converged else '; '.join(map(str, result.reasons))} | {verdict}, {error / wanted:.1%} | "
            f"{time.process_time() - start:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
