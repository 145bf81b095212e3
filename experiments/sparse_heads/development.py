"""How heads specialise: three seeds, what they compute at every checkpoint, each head's importance and LLC, and stages.

    python experiments/sparse_heads/development.py --out RUNS/heads [--seeds 3 4 5] [--workers 2]

Takes the runs that `models.py --preset demo --sigmas 1 --layers 3` has left in the folder, or trains them, and
estimates the LLC over those with one head and with the most; a call that was stopped goes on. Then prints, and writes
to `development.md` and `development.png`, of the runs with the most heads:

- the reference that w^L is nearest to, on the same 1,024 contexts for all seeds;
- when w^L comes near preprocessed gradient descent, by `detect_specialisation`, also for the control with one head;
- onsets, layer by layer: from which step on what the layer loses without its most important head, with one head only,
  and its effective number of heads stay above half of their final values;
- joint PCA of all seeds with the references; the LLC;
- the LLC of every head at some checkpoints beside masking it, and their rank correlation;
- stages of the curves of heads, of LLC, loss and components; which recur over seeds; false-positive rates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from models import cells
from scipy.stats import spearmanr

import llc_dynamics as ld
from llc_dynamics.heads import Heads, ImportanceHistory, head_llc_curves, importance_over_training
from llc_dynamics.heads.importance import log_ratios
from llc_dynamics.sampling import MALT
from llc_dynamics.seeding import torch_generator
from llc_dynamics.sweeps import LLCConfig, estimate_curves, load_sweep, run_sweep
from llc_dynamics.systems.sparse_heads import references as ref
from llc_dynamics.systems.sparse_heads.system import SparseRegression
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
    seeds_of,
    stage_lines,
    table,
)

_CONTEXTS, _MASKED = 1024, 512
#: Heads are small: a few draws tell them apart, at a finer resolution than the whole model can be sampled at.
_OF_HEADS = {
    "num_draws": 30,
    "num_burnin": 10,
    "sampler": MALT(nbeta=1e5, localization=1200.0, num_steps=4, updates_per_batch=5),
}
_COMPARED = ("zero", "flow", "preprocessed", "ridge", "ols", "lasso")


@dataclass(frozen=True)
class OfHeads:
    """Importance over one run; {head: LLC curve}."""

    history: ImportanceHistory
    llc: Mapping[tuple[int, int], ld.LLCCurve]


def system_of(run: ld.Trajectory) -> SparseRegression:
    """The system of a run."""
    system = load_config(run).system
    assert isinstance(system, SparseRegression)
    return system


def develop(run: ld.Trajectory, count: int) -> tuple[Development, dict[str, Array]]:
    """w^L at every checkpoint on contexts that are the same for all seeds, and the references there."""
    system = system_of(run)
    contexts = system.task.contexts(torch_generator(0, "development"), count, dtype=torch.float64)
    names = [name for name in ref.names_for(system.task) if name in _COMPARED]
    references = {name: each.numpy() for name, each in ref.estimates(contexts, system.task, names).items()}
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


def heads_of(run: ld.Trajectory, config: LLCConfig, points: int, workers: int | None) -> OfHeads:
    """Importance at every checkpoint, and the LLC of every head at some."""
    system = system_of(run)
    model = system.build(0)
    heads = Heads(system.heads(), model)
    batch = tuple(each.double() for each in system.sample(torch_generator(0, "heads"), _MASKED))
    history = importance_over_training(run, system.build(0).double(), heads, system.loss, batch)
    steps = [int(step) for step in np.asarray(run.weight_steps)]
    chosen = {min(steps, key=lambda step: abs(step - wanted)) for wanted in np.geomspace(steps[-1], 400, points)}
    data = system.sample(torch_generator(0, "LLC of heads"), config.fixed_samples)
    curves = head_llc_curves(
        run, model, heads, config.loss_of(system), data, chosen=heads.masks, steps=sorted(chosen),
        settings=replace(config.estimate, **_OF_HEADS), workers=workers,
    )  # fmt: skip
    return OfHeads(history, curves)


def specialisation_lines(found: Sequence[Development], references: Mapping[str, Array]) -> list[str]:
    """When w^L comes near preprocessed gradient descent, and nearer than ridge is."""
    apart = float(np.square(references["ridge"] - references["preprocessed"]).sum(-1).mean())
    rows = []
    for name, each in zip(seeds_of(found), found, strict=True):
        samples = each.distances["preprocessed"][1:]
        errors = samples.std(1, ddof=1) / np.sqrt(samples.shape[1])
        curve = ld.Curve(each.steps[1:], samples.mean(1), errors, samples=samples)
        verdict = ld.detect_specialisation(curve, reference_distance=apart)
        if verdict.t_half_interval is None:
            said = ["none", "; ".join(reason.text for reason in verdict.reasons)]
        else:
            low, high = verdict.t_half_interval
            said = [f"{verdict.t_half:,.0f} ({low:,.0f} to {high:,.0f})", f"{verdict.start / verdict.end:.3g} times"]
        rows.append([f"H = {system_of(each.run).num_heads}, {name}", *said])
    return ["## Preprocessed gradient descent", "", *table(["", "half of the fall (90%)", "how much nearer"], rows)]


def onset_lines(of_heads: Sequence[OfHeads]) -> list[str]:
    """What a layer's heads are worth: when, and in which order of layers."""
    histories = [each.history for each in of_heads]
    layers = next(iter(histories[0].values())).layers
    rows = []
    for name, curve in _CURVES.items():
        of_layers = []
        for layer in layers:
            curves = [curve(history, layer) for history in histories]
            at = median_and_range([onset(each.steps, np.nan_to_num(each.values)) for each in curves])
            final = ", ".join(f"{each.values[-1]:.2g}" for each in curves)
            of_layers.append(f"{at}; final {final}")
        rows.append([name, *of_layers])
    return ["## Onsets in heads", "", *table(["", *(f"layer {layer}" for layer in layers)], rows)]


def without_the_best(history: ImportanceHistory, layer: int) -> ld.Curve:
    """Log ratio without the head that is the most important at the end."""
    return history.log_ratio(history[max(history)].most_important(layer))


_CURVES = {
    "log ratio without the most important head": without_the_best,
    "log ratio with one head": ImportanceHistory.keep_one,
    "effective heads": ImportanceHistory.effective_heads,
}


def head_llc_lines(of_heads: Sequence[OfHeads], names: Sequence[str]) -> list[str]:
    """LLC of every head beside masking it."""
    rows, ranks = [], []
    for name, each in zip(names, of_heads, strict=True):
        steps = [int(step) for step in next(iter(each.llc.values())).steps]
        for step in steps:
            importance, layers = each.history[step], {}
            for head, curve in each.llc.items():
                masked = float(log_ratios(importance.masked[head], importance.full).mean())
                layers.setdefault(head[0], []).append((masked, curve.values[curve.place_of(step)]))
            pairs = np.array([pair for of_layer in layers.values() for pair in of_layer])
            within = [spearmanr(*np.array(of_layer).T).statistic for of_layer in layers.values()]
            sums = ", ".join(f"{sum(llc for _, llc in of_layer):.0f}" for of_layer in layers.values())
            shown = f"{spearmanr(*pairs.T).statistic:.2f}"
            ranks.append([name, f"{step:,}", sums, shown, ", ".join(f"{rank:.2f}" for rank in within)])
        for head, curve in each.llc.items():
            places = [curve.place_of(step) for step in steps]
            cells = [
                f"{curve.values[place]:.1f} ± {curve.standard_errors[place]:.1f}, "
                f"{'{:.2f} ± {:.2f}'.format(*each.history[step].log_ratio(head))}"
                for place, step in zip(places, steps, strict=True)
            ]
            rows.append([name, f"{head[0]}.{head[1]}", *cells])
    curves = [curve for each in of_heads for curve in each.llc.values()]
    converged = sum(int(curve.converged.sum()) for curve in curves)
    said = f"{converged} of {sum(map(len, curves))} points converged. Cells: LLC, log ratio without the head."
    of_ranks = table(["", "step", "sum of LLCs by layer", "rank correlation, all heads", "within layers"], ranks)
    steps = [f"step {step:,}" for step in map(int, curves[0].steps)]
    return ["## LLC of heads", "", said, "", *of_ranks, *table(["", "head", *steps], rows)]


def draw_heads(axis: Axes, of_heads: Sequence[OfHeads]) -> None:
    """What layers of the first seed lose with one head."""
    history = of_heads[0].history
    for layer in history[max(history)].layers:
        curve = history.keep_one(layer)
        axis.plot(curve.steps, curve.values, label=f"layer {layer}", lw=1)
    axis.set(ylabel="log ratio with one head")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of what is found")
    parser.add_argument("--preset", type=Path, default=Path(__file__).with_name("demo.toml"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5])
    parser.add_argument("--workers", type=int, help="processes; by default one for every core")
    parser.add_argument("--contexts", type=int, default=_CONTEXTS)
    parser.add_argument("--head-points", type=int, default=3, help="checkpoints at which heads have an LLC")
    parser.add_argument("--null", type=int, default=100, help="curves without stages of every kind; 0: none")
    chosen = parser.parse_args()
    preset = load_sweep(chosen.preset)
    sweeps = cells(preset, None, [preset.system.sigma], [preset.system.num_layers], ["linear"], chosen.seeds)  # type: ignore[attr-defined]
    trained = [
        ld.Trajectory(path)
        for folder, sweep in sweeps.items()
        for path in run_sweep(sweep, chosen.out / folder, workers=chosen.workers)
    ]
    most = max(system_of(run).num_heads for run in trained)
    runs = [run for run in trained if system_of(run).num_heads in (1, most)]
    estimate_curves(runs, preset.llc, workers=chosen.workers)
    pairs = [develop(run, chosen.contexts) for run in runs]
    every, references = [each for each, _ in pairs], pairs[0][1]
    found = [each for each in every if system_of(each.run).num_heads == most]
    of_heads = [heads_of(each.run, preset.llc, chosen.head_points, chosen.workers) for each in found]
    of_pca, scores, projected = pca_lines(found, references, ref.LABELS)
    lines = [*nearest_lines(found, ref.LABELS), *specialisation_lines(every, references), *onset_lines(of_heads)]
    lines += [*of_pca, *llc_lines(found), *head_llc_lines(of_heads, seeds_of(found))]
    curves = curves_of(found, scores)
    for name, curve in _CURVES.items():
        for layer in of_heads[0].history[0].layers:
            curves[f"{name}, layer {layer}"] = [curve(each.history, layer) for each in of_heads]
    lines += stage_lines(curves, chosen.null)
    (chosen.out / "development.md").write_text("\n".join(lines))
    draw_figure(
        chosen.out / "development.png", found, scores, projected, ref.LABELS, projected,
        list(found[0].distances), lambda axis: draw_heads(axis, of_heads),
    )  # fmt: skip
    print("\n".join(lines))


if __name__ == "__main__":
    main()
