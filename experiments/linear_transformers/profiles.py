"""Single noise levels, within the training range and beyond, of the models that table.py chose.

    python experiments/linear_transformers/profiles.py --out RUNS/table [--noise "sigma up to 5" ...]

Every level has the same 10,000 contexts but for their noise. Writes `profiles.jsonl`, a row for each model or
reference, training noise and level, and prints two tables for each training noise: the mean adjusted loss (without the
one context in 10,000 of the largest loss: beyond its range a model has tails that no mean resolves), and the noise that
the predictor goes by: the sigma of the ridge regression that is nearest to w^L, by the median of |w^L - w_ridge|^2 over
the contexts. A predictor that takes one noise for all contexts has the same sigma at every level. References are tuned
for the training noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cells import ALGORITHMS, NOISES, Cell, best, contexts, load, mean_and_error, oracle_loss, weights_of
from torch import Tensor

from llc_dynamics.rows import Row, stored_rows
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import Contexts, Noise, query_loss
from llc_dynamics.systems.linear_transformer.tuning import tuned

_LEVELS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 10.0)
_COUNT, _WORST = 10_000, 1
_REFERENCES = ("constrr", "adarr", "tunedrr", "oracle")
_SIGMAS = tuple(0.25 * each for each in range(41))


def measure(weights: Tensor, on: Contexts, oracle: Tensor, ridges: Mapping[float, Tensor]) -> Row:
    """Adjusted loss and implied noise of weight vectors [B, d]."""
    losses = query_loss(weights, on.w) - oracle
    mean, error = mean_and_error(losses.sort().values[: len(losses) - _WORST])
    away = {sigma: (weights - each).square().sum(-1).median().item() for sigma, each in ridges.items()}
    implied = min(away, key=away.__getitem__)
    return {"adjusted": mean, "error": error, "all": losses.mean().item(), "implied_sigma": implied}


def profiles(noise: str, models: Mapping[Cell, Row], folder: Path) -> list[Row]:
    """All levels of the models of one training noise, and of the references."""
    rows = []
    for level in _LEVELS:
        on = contexts("profiles", _COUNT, Noise(sigmas=(level,)))
        oracle, spectrum = oracle_loss(on), ref.Spectrum(on)
        ridges = {sigma: ref.ridge(spectrum, sigma**2) for sigma in _SIGMAS}
        given = ref.estimates(on, tuned(NOISES[noise], on.dimension, on.num_examples), _REFERENCES)
        found = {(ref.LABELS[name], 0): weights for name, weights in given.items()}
        for cell, row in models.items():
            if cell.noise == noise:
                found[ALGORITHMS[cell.algorithm], cell.layers] = weights_of(load(cell, folder, row["seed"]), on)
        for (name, layers), weights in found.items():
            of = {"name": name, "layers": layers, "noise": noise, "sigma": level}
            rows.append(of | measure(weights, on, oracle, ridges))
    return rows


def markdown(rows: Sequence[Row], shown: Callable[[Row], str]) -> str:
    """A row for each predictor, a column for each level."""
    levels = list(dict.fromkeys(row["sigma"] for row in rows))
    lines = [f"| sigma | {' | '.join(f'{level:g}' for level in levels)} |", f"|{'---|' * (len(levels) + 1)}"]
    for name, layers in sorted({(row["name"], row["layers"]) for row in rows}, key=lambda each: each[::-1]):
        of = [row for row in rows if (row["name"], row["layers"]) == (name, layers)]
        lines.append(f"| {f'{name}, {layers}' if layers else name} | {' | '.join(map(shown, of))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that table.py filled")
    parser.add_argument("--noise", nargs="+", default=list(NOISES), choices=list(NOISES))
    chosen = parser.parse_args()
    models = best(stored_rows(chosen.out / "models.jsonl"))
    rows = [row for noise in chosen.noise for row in profiles(noise, models, chosen.out)]
    (chosen.out / "profiles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for noise in chosen.noise:
        own = [row for row in rows if row["noise"] == noise]
        print(f"\nTrained on {noise}: adjusted loss\n\n{markdown(own, lambda row: format(row['adjusted'], '.3g'))}")
        print(f"\nTrained on {noise}: implied sigma\n\n{markdown(own, lambda row: format(row['implied_sigma'], 'g'))}")


if __name__ == "__main__":
    main()
