"""devinterp's former accuracy cases: normal crossings, and reduced-rank regression with a truth of rank 0.

    python experiments/benchmarks/battery_kept.py [--seeds SEED ...] [--out rows.jsonl]

The cases of its `tests/slt` up to 1.3.2, n = 1,000: y = x w_1^p w_2^q at w = 0 with x ~ N(0, 4) and noise of deviation
1/4; and y = B A x + N(0, 1), whose truth is zero, at the minimum of the data's loss. Ours is at the defaults of
`ld.calibrate`: on the given loss, on the behavioural one, and on the behavioural one at A = B = 0. The table has
lambda, the exact learning coefficient of the truth, what devinterp 1.3.2 gives at its settings, and the exact value at
the resolution of our estimate. That is not known at the minimum of a finite sample, where layers have their full rank.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import integrals
import torch
from battery import estimated
from common import Row, command_line, fill, markdown_head, markdown_row
from known_answers import Known, by_quadrature, normal
from torch import Tensor

from llc_dynamics.theory import normal_crossing_llc, reduced_rank_llc

# (p, q) and (inputs, hidden, outputs): what devinterp 1.3.2 estimates
CROSSINGS = {(0, 1): 0.571, (1, 1): 0.338, (0, 2): 0.219, (2, 2): 0.086, (1, 3): 0.108}
REGRESSIONS = {(5, 3, 5): 6.00, (5, 4, 5): 7.09, (4, 3, 8): 6.08, (8, 3, 4): 6.53, (3, 8, 4): 5.71}
SAMPLES = 1000


def crossings(powers: tuple[int, int]) -> list[Known]:
    x, y = 2 * normal(SAMPLES, 1, "inputs"), normal(SAMPLES, 1, "noise") / 4

    def outputs(u: Tensor, batch: Any) -> Tensor:
        return batch[0] * u[0] ** powers[0] * u[1] ** powers[1]

    def losses(u: Tensor, batch: Any) -> Tensor:
        return (outputs(u, batch) - batch[1]).square()[:, 0]

    name, start = f"crossing {list(powers)}", (0.0, 0.0)
    common: dict[str, Any] = {"gamma": math.nan, "stiff": math.nan, "num_samples": SAMPLES, "batch_size": SAMPLES}
    given, own = (by_quadrature(f, start, (x, y), loss) for f, loss in ((losses, "given"), (outputs, "squared")))
    return [
        Known("given", name, losses, start, (x, y), given, loss="given", **common),
        Known("behavioural", name, outputs, start, (x,), own, **common),
    ]


def regressions(widths: tuple[int, int, int]) -> list[Known]:
    inputs, hidden, outputs = widths
    x, y = normal(SAMPLES, inputs, "inputs"), normal(SAMPLES, outputs, "noise")
    size = hidden * inputs

    def product(u: Tensor, batch: Any) -> Tensor:
        # the mean over outputs, as in its loss
        return batch[0] @ u[:size].view(hidden, inputs).T @ u[size:].view(outputs, hidden).T / math.sqrt(outputs)

    def losses(u: Tensor, batch: Any) -> Tensor:
        return (product(u, batch) - batch[1] / math.sqrt(outputs)).square().sum(1)

    # the best product of rank H on the data: the largest parts of the fitted outputs
    solution = torch.linalg.lstsq(x, y).solution
    left, values, right = torch.linalg.svd(x @ solution, full_matrices=False)
    root = values[:hidden].sqrt()
    fitted = torch.linalg.lstsq(x, left[:, : len(root)] * root).solution
    a, b = torch.zeros(hidden, inputs), torch.zeros(outputs, hidden)
    a[: len(root)], b[:, : len(root)] = fitted.T, (root[:, None] * right[: len(root)]).T
    scale = float(b.norm() / a.norm()) ** 0.5 if float(a.norm()) else 1.0
    best = tuple(torch.cat([(a * scale).flatten(), (b / scale).flatten()]).tolist())
    name = f"regression {widths}"
    common: dict[str, Any] = {"gamma": math.nan, "stiff": math.nan, "num_samples": SAMPLES, "batch_size": SAMPLES}
    at_zero = functools.cache(functools.partial(integrals.zero_product, inputs, hidden, outputs, 1 / outputs))
    given = Known("given", name, losses, best, (x, y), _unknown, loss="given", **common)
    return [
        given,
        Known("behavioural", name, product, best, (x,), _unknown, **common),
        Known("behavioural, at zero", name, product, (0.0,) * len(best), (_whitened(x),), at_zero, **common),
    ]


def _unknown(_: float, __: float) -> float:
    return math.nan


def _whitened(x: Tensor) -> Tensor:
    """Inputs with a second moment of exactly 1, as the closed form has them."""
    factor = torch.linalg.cholesky(x.double().T @ x.double() / len(x))
    return torch.linalg.solve_triangular(factor, x.double().T, upper=False).T.float()


@functools.cache
def kept() -> tuple[tuple[Known, float, float], ...]:
    """Each problem with its lambda and devinterp's estimate."""
    found = [
        (each, normal_crossing_llc(case)[0], there) for case, there in CROSSINGS.items() for each in crossings(case)
    ]
    return (
        *found,
        *(
            (each, reduced_rank_llc(*case, 0), there)
            for case, there in REGRESSIONS.items()
            for each in regressions(case)
        ),
    )


def measure(cell: Row) -> Row:
    problem, lam, there = next(
        each for each in kept() if (each[0].name, each[0].kind) == (cell["problem"], cell["loss"])
    )
    return {"lambda": lam, "there": there, **estimated(problem, "calibrated", cell["seed"])}


def main() -> None:
    parser = command_line(__doc__, out="a file for the rows, one JSON object a line; a second call goes on with it")
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = [
        {"problem": each.name, "loss": each.kind, "seed": seed}
        for each, _, _ in kept()
        for seed in options.seeds
        if options.only in each.name
    ]
    rows = fill(cells, options.out, measure)
    names = ("problem", "loss", "lambda", "devinterp 1.3.2", "ours", "exact here", "gamma", "converged")
    print("\n" + markdown_head(names))
    for row in rows:
        if "refused" in row:
            print(markdown_row([row["problem"], row["loss"], row["refused"]]))
            continue
        ours = f"{row['llc']:.3g} ± {row['total_error']:.1g}"
        said = "yes" if row["converged"] else ", ".join(reason.split(":")[0] for reason in row["reasons"])
        known = (row["lambda"], row["there"], ours, row["exact"], row["gamma"], said)
        print(markdown_row([row["problem"], row["loss"], *known]))


if __name__ == "__main__":
    main()
