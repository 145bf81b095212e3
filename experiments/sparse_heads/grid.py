"""Preprocess-then-optimise against gradient descent, ridge and Lasso over a grid of d, s, n and sigma.

    python experiments/sparse_heads/grid.py --out RUNS/grid [--dimensions 16 64] [--contexts 4000]

Each cell is a row of `grid.jsonl`, made once: the mean excess risk of every predictor with its error and its median,
its constants tuned for that cell on other contexts. Prints the table and writes it to `grid.md`; preprocessed gradient
descent is in bold where it is below gradient descent and ridge by three errors of the paired difference.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from llc_dynamics.rows import Row, append_row, stored_rows
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.sparse_heads import references as ref
from llc_dynamics.systems.sparse_heads.task import SparseTask, excess_risk

_NAMES = ("flow", "preprocessed", "ridge", "ols", "lasso", "support")
_SIGMAS, _EXAMPLES, _SPARSITIES = (0.1, 0.5, 1.0), (0.75, 1.25, 2.5, 5.0), (1 / 16, 1 / 4, 1.0)


def tasks(dimensions: list[int]) -> list[SparseTask]:
    """d; s from one to d; n from 3/4 d to 5 d; sigma."""
    return [
        SparseTask(d, max(round(share * d), 1), round(ratio * d), sigma)
        for d in dimensions
        for share in _SPARSITIES
        for ratio in _EXAMPLES
        for sigma in _SIGMAS
    ]


def cell(task: SparseTask, count: int) -> Row:
    """Risks of every predictor, and the differences of preprocessed gradient descent to two of them."""
    contexts = task.contexts(torch_generator(1, "grid"), count)
    names = [name for name in _NAMES if name in ref.names_for(task)]
    risks = {name: excess_risk(each, contexts.w) for name, each in ref.estimates(contexts, task, names).items()}
    row: Row = {"d": task.dimension, "s": task.sparsity, "n": task.num_examples, "sigma": task.sigma, "contexts": count}
    row["risks"] = {name: [*_mean(risk), risk.median().item()] for name, risk in risks.items()}
    row["less"] = {name: _mean(risks["preprocessed"] - risks[name]) for name in ("flow", "ridge", "lasso")}
    return row


def _mean(values: Tensor) -> list[float]:
    return [values.mean().item(), values.std().item() / math.sqrt(len(values))]


def markdown(rows: list[Row]) -> str:
    """Means with errors; preprocessed gradient descent in bold where it wins."""
    lines = [
        f"| d, s, n, sigma | {' | '.join(ref.LABELS[name] for name in _NAMES)} |",
        f"|{'---|' * (len(_NAMES) + 1)}",
    ]
    for row in rows:
        wins = all(row["less"][name][0] + 3 * row["less"][name][1] < 0 for name in ("flow", "ridge"))
        cells = []
        for name in _NAMES:
            shown = "{:.3g} ± {:.1g}".format(*row["risks"][name][:2]) if name in row["risks"] else ""
            cells.append(f"**{shown}**" if wins and name == "preprocessed" else shown)
        lines.append(f"| {row['d']}, {row['s']}, {row['n']}, {row['sigma']:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the table")
    parser.add_argument("--dimensions", nargs="+", type=int, default=[16])
    parser.add_argument("--contexts", type=int, default=4000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "grid.jsonl"
    done = {(row["d"], row["s"], row["n"], row["sigma"]) for row in stored_rows(path)}
    for task in tasks(chosen.dimensions):
        if (task.dimension, task.sparsity, task.num_examples, task.sigma) not in done:
            append_row(path, cell(task, chosen.contexts))
    text = markdown(stored_rows(path))
    (chosen.out / "grid.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
