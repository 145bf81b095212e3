"""Adjusted loss at single noise levels, within the training range and beyond, of the models that table.py chose.

    python experiments/linear_transformers/profiles.py --out RUNS/table [--noise "sigma up to 5" ...]

Every level has the same 20,000 contexts but for their noise. Writes `profiles.jsonl`, a row for each model or
reference, training noise and level, and prints a table for each training noise: mean / median. References are tuned
for the training noise. Beyond its range a model may have tails that no mean resolves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cells import (
    ALGORITHMS,
    NOISES,
    adjusted,
    best,
    contexts,
    load,
    mean_and_error,
    oracle_loss,
    rows_of,
)

from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import Noise, query_loss
from llc_dynamics.systems.linear_transformer.tuning import tuned

_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
_COUNT = 20_000
_REFERENCES = ("constrr", "adarr", "tunedrr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that table.py filled")
    parser.add_argument("--noise", nargs="+", default=list(NOISES), choices=list(NOISES))
    chosen = parser.parse_args()
    models = best(rows_of(chosen.out / "models.jsonl"))
    rows = []
    for level in _LEVELS:
        on = contexts("profiles", _COUNT, Noise(sigmas=(level,)))
        oracle = oracle_loss(on)
        for noise in chosen.noise:
            tuning = tuned(NOISES[noise], on.dimension, on.num_examples)
            found = {
                (ref.LABELS[name], 0): query_loss(weights, on.w) - oracle
                for name, weights in ref.estimates(on, tuning, _REFERENCES).items()
            }
            for cell, row in models.items():
                if cell.noise == noise:
                    model = load(cell, chosen.out, row["seed"])
                    found[ALGORITHMS[cell.algorithm], cell.layers] = adjusted(model, on, oracle)
            for (name, layers), values in found.items():
                mean, error = mean_and_error(values)
                given = {"name": name, "layers": layers, "noise": noise, "sigma": level}
                rows.append({**given, "adjusted": mean, "error": error, "median": values.median().item()})
    (chosen.out / "profiles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for noise in chosen.noise:
        own = [row for row in rows if row["noise"] == noise]
        print(f"\nTrained on {noise}\n\n| sigma | {' | '.join(f'{level:g}' for level in _LEVELS)} |")
        print(f"|{'---|' * (len(_LEVELS) + 1)}")
        for name, layers in sorted({(row["name"], row["layers"]) for row in own}, key=lambda each: each[::-1]):
            found = [row for row in own if (row["name"], row["layers"]) == (name, layers)]
            shown = [f"{row['adjusted']:.3g} / {row['median']:.3g}" for row in found]
            label = f"{name}, {layers}" if layers else name
            print(f"| {label} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
