"""How linear transformers of four layers develop: five seeds, what they compute at every checkpoint, LLC and stages.

    python experiments/linear_transformers/development.py --out RUNS/development [--seeds 5] [--workers 2]

Trains `development.toml` with every seed and estimates the LLC over each run; a call that was stopped goes on. Then
prints, and writes to `development.md` and `development.png`:

- the reference that w^L is nearest to, by E |w^L - w_r|^2 over the same 2,000 contexts for all seeds; the step at which
  a reference first is the nearest, with a 95% interval of a bootstrap over contexts, and over seeds;
- onsets: the first step from which on a product of a layer, or its momentum u, stays above half of its final value;
- joint PCA of all seeds on those contexts, with the references;
- the LLC, and stages of LLC, loss and components; which boundaries recur over seeds; false-positive rates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes

import llc_dynamics as ld
from llc_dynamics.seeding import torch_generator
from llc_dynamics.sweeps import find_runs, load_sweep, run_sweep
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.model import PRODUCTS
from llc_dynamics.systems.linear_transformer.system import MixedNoiseRegression
from llc_dynamics.systems.linear_transformer.tuning import tuned
from llc_dynamics.training import load_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from over_seeds import (
    Array,
    Development,
    curves_of,
    draw_figure,
    llc_lines,
    median_and_range,
    nearest_lines,
    onset,
    pca_lines,
    series,
    stage_lines,
    table,
)

_CONTEXTS = 2000


def develop(run: ld.Trajectory, count: int) -> tuple[Development, dict[str, Array]]:
    """w^L at every checkpoint on contexts that are the same for all seeds, and the references there."""
    system = load_config(run).system
    assert isinstance(system, MixedNoiseRegression)
    contexts = system.contexts(torch_generator(0, "development"), count, dtype=torch.float64)
    given = ref.estimates(contexts, tuned(system.noise, system.dimension, system.num_examples))
    references = {name: each.numpy() for name, each in given.items()}
    model = system.build(0).double()
    steps = np.asarray(run.weight_steps)
    found = []
    with torch.no_grad():
        for step in steps:
            run.load_into(model, int(step))
            found.append(model(contexts.moments).numpy())
    outputs = np.stack(found)
    distances = {name: np.square(outputs - each).sum(-1) for name, each in references.items()}
    return Development(run, ld.LLCCurve.load(run), steps, outputs, distances), references


def onset_lines(found: Sequence[Development]) -> list[str]:
    """Onsets of the products and of u, layer by layer."""
    layers = load_config(found[0].run).system.num_layers  # type: ignore[attr-defined]
    rows = []
    for name in (*PRODUCTS, "u"):
        of_layers = []
        for layer in range(1, layers + 1):
            metric = f"{name}/layer_{layer}"
            of_layers.append(median_and_range([onset(*series(each.run, metric)) for each in found]))
        rows.append([name, *of_layers])
    return ["## Onsets", "", *table(["", *(f"layer {layer}" for layer in range(1, layers + 1))], rows)]


def draw_momentum(axis: Axes, found: Sequence[Development]) -> None:
    """The momentum u of every layer of the first seed."""
    layers = load_config(found[0].run).system.num_layers  # type: ignore[attr-defined]
    for layer in range(1, layers + 1):
        axis.plot(*series(found[0].run, f"u/layer_{layer}"), label=f"layer {layer}", lw=1)
    axis.set(ylabel="root mean square of u")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of what is found")
    parser.add_argument("--preset", type=Path, default=Path(__file__).with_name("development.toml"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="processes; by default one for every core")
    parser.add_argument("--contexts", type=int, default=_CONTEXTS)
    parser.add_argument("--null", type=int, default=100, help="curves without stages of every kind; 0: none")
    chosen = parser.parse_args()
    sweep = load_sweep(chosen.preset)
    folders = [chosen.out / f"seed-{seed}" for seed in range(chosen.seeds)]
    for seed, folder in enumerate(folders):
        run_sweep(sweep.with_seed(seed), folder, workers=chosen.workers, estimate=True)
    pairs = [develop(find_runs(folder)[0], chosen.contexts) for folder in folders]
    found, references = [each for each, _ in pairs], pairs[0][1]
    of_pca, scores, projected = pca_lines(found, references, ref.LABELS)
    lines = [*nearest_lines(found, ref.LABELS), *onset_lines(found), *of_pca, *llc_lines(found)]
    lines += stage_lines(curves_of(found, scores), chosen.null)
    (chosen.out / "development.md").write_text("\n".join(lines))
    draw_figure(
        chosen.out / "development.png", found, scores, projected, ref.LABELS, ("zero", "gd1", "constrr", "ols"),
        ("zero", "gd1", "gd4", "constrr", "adarr", "tunedrr", "oracle"), lambda axis: draw_momentum(axis, found),
    )  # fmt: skip
    print("\n".join(lines))


if __name__ == "__main__":
    main()
