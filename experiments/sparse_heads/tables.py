"""The tables of the README, of what models.py measured.

    python experiments/sparse_heads/tables.py --out RUNS/heads

Medians over contexts of the excess risk; of several seeds the mean, with its standard error where there are two or more
(the error over contexts otherwise). Prints Markdown and writes it to `tables.md`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from llc_dynamics.errors import DataError
from llc_dynamics.rows import Row, stored_rows
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.sparse_heads import references as ref
from llc_dynamics.systems.sparse_heads.task import SparseTask, excess_risk

Pair = Sequence[float]
_COMPARED = ("preprocessed", "ridge", "lasso")


def over_seeds(pairs: Sequence[Pair]) -> str:
    """Of (value, error over contexts) of several seeds."""
    values = np.array([pair[0] for pair in pairs])
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else pairs[0][1]
    return f"{values.mean():.3g} ± {error:.1g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def seeds_of(rows: Sequence[Row], value: Callable[[Row], Pair | None], **fixed: object) -> str:
    """One cell: a value of all seeds with these settings; empty if there are none."""
    found = [value(row) for row in rows if all(row[name] == each for name, each in fixed.items())]
    pairs = [each for each in found if each is not None]
    return over_seeds(pairs) if pairs else ""


def settings_of(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Attention, depth and noise level of each group of rows."""
    names = ("attention", "layers", "sigma")
    return [
        dict(zip(names, each, strict=True)) for each in sorted({tuple(row[name] for name in names) for row in rows})
    ]


def title(fixed: dict[str, object]) -> str:
    """Of a group."""
    return f"{fixed['attention']} attention, {fixed['layers']} layers, sigma = {fixed['sigma']}"


def by_examples(rows: Sequence[Row]) -> str:
    """Risk against the number of examples in context, for each number of heads, beside predictors tuned for that n."""
    parts = []
    for fixed in settings_of(rows):
        group = [row for row in rows if all(row[name] == each for name, each in fixed.items()) and "by_examples" in row]
        if not group:
            continue
        counts = list(group[0]["by_examples"])
        lines = [
            [
                f"H = {heads}",
                *(seeds_of(group, lambda row, n=n: row["by_examples"][n]["median"], heads=heads) for n in counts),
            ]
            for heads in sorted({row["heads"] for row in group})
        ]
        task = SparseTask(**group[0]["task"])
        for name in _COMPARED:
            cells = [reference(SparseTask(**{**group[0]["task"], "num_examples": int(n)}), name) for n in counts]
            lines.append([ref.LABELS[name], *cells])
        n = task.num_examples
        parts.append(
            f"{title(fixed)}, trained at n = {n}:\n\n" + table(["", *(f"n = {each}" for each in counts)], lines)
        )
    return "\n".join(parts)


def reference(task: SparseTask, name: str, count: int = 2048) -> str:
    """The median risk of a predictor, its constant tuned for the task."""
    contexts = task.contexts(torch_generator(1, "tables"), count)
    risk = excess_risk(ref.estimates(contexts, task, [name])[name], contexts.w).median().item()
    return f"{risk:.3g}"


def by_layer(rows: Sequence[Row]) -> str:
    """Risk of a linear probe after each layer: full, pruned, and the single-head model."""
    parts = []
    for fixed in settings_of(rows):
        group = [row for row in rows if all(row[name] == each for name, each in fixed.items())]
        layers = range(len(group[0]["probes"]))
        lines = []
        for heads in sorted({row["heads"] for row in group}):
            kinds = ["probes"] if heads == 1 else ["probes", "pruned_probes"]
            for kind in kinds:
                label = "single head" if heads == 1 else f"H = {heads}{', pruned' if kind != 'probes' else ''}"
                cells = [seeds_of(group, lambda row, k=kind, at=at: row[k][at]["median"], heads=heads) for at in layers]
                lines.append([label, *cells])
        parts.append(f"{title(fixed)}:\n\n" + table(["", *(f"layer {layer + 1}" for layer in layers)], lines))
    return "\n".join(parts)


def by_head(rows: Sequence[Row]) -> str:
    """What a layer's heads share: effective number, the largest log share, and the ratio with one head alone."""
    several = [row for row in rows if row["heads"] > 1]
    lines = []
    for fixed in settings_of(several):
        for heads in sorted({row["heads"] for row in several}):
            for layer in map(str, range(1, int(str(fixed["layers"])) + 1)):
                key = {**fixed, "heads": heads}
                cells = [
                    seeds_of(several, lambda row, at=layer: row["effective_heads"][at], **key),
                    seeds_of(several, lambda row, at=layer: row["log_shares"][at][0], **key),
                    seeds_of(several, lambda row, at=layer: row["mean_shares"][at][0], **key),
                    seeds_of(several, lambda row, at=layer: row["keep_one"][at][1], **key),
                ]
                if any(cells):
                    lines.append([title(fixed), str(heads), layer, *cells])
    head = [
        "",
        "heads",
        "layer",
        "effective heads",
        "largest log share",
        "largest share of the mean",
        "one head: ratio of medians",
    ]
    return table(head, lines)


def claims(rows: Sequence[Row]) -> str:
    """Each claim of the paper: in how many seeds it holds for the model with the most heads."""
    lines = []
    for fixed in settings_of(rows):
        group = [row for row in rows if all(row[name] == each for name, each in fixed.items())]
        ridge = float(reference(SparseTask(**group[0]["task"]), "ridge"))
        found: dict[str, list[bool]] = {}
        for seed in sorted({row["seed"] for row in group}):
            by_heads = {row["heads"]: row for row in group if row["seed"] == seed}
            for claim, holds in checked(by_heads, ridge).items():
                found.setdefault(claim, []).append(holds)
        lines += [[title(fixed), claim, f"{sum(held)} of {len(held)}"] for claim, held in found.items()]
    return table(["", "claim", "seeds"], lines)


def checked(by_heads: dict[int, Row], ridge: float) -> dict[str, bool]:
    """Claims on the models of one seed, {heads: row}, by their median risks; `ridge` is that of ridge regression."""
    most = max(by_heads)
    row = by_heads[most]
    median, error = row["risk"]["median"]
    found = {
        "more heads, less risk": falls([by_heads[heads]["risk"]["median"][0] for heads in sorted(by_heads)]),
        f"H = {most} is below ridge by 3 errors": median + 3 * error < ridge,
    }
    if most > 1:
        effective = [pair[0] for pair in row["effective_heads"].values()]
        found |= {
            "layer 1 has the most effective heads": effective[0] == max(effective),
            "the ratio with one head falls with depth": falls([pair[1][0] for pair in row["keep_one"].values()]),
        }
        if 1 in by_heads:
            single = by_heads[1]["risk"]["median"][0]
            found["pruned is below the single-head model"] = row["pruned"]["median"][0] < single
    if "descent_after" in row:
        raw, after = (each["median"][0] for each in row["descent_after"][:2])
        found["gradient descent after layer 1 beats that on the raw context"] = after < raw
    return found


def falls(values: Sequence[float]) -> bool:
    """Whether each value is below the one before."""
    return all(after < before for before, after in pairwise(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of models.py")
    folder = parser.parse_args().out
    rows = stored_rows(folder / "heads.jsonl")
    if not rows:
        raise DataError(f"{folder}: no model is measured yet; run models.py --out {folder}")
    parts = {
        "Claims": claims(rows),
        "Risk against the number of examples": by_examples(rows),
        "Heads by layer": by_head(rows),
        "Probes by layer": by_layer(rows),
    }
    text = "\n".join(f"## {name}\n\n{part}" for name, part in parts.items())
    (folder / "tables.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
