"""The table of Vladymyrov et al. (2024): trains every cell, chooses seeds, and writes it beside the published one.

    python experiments/linear_transformers/table.py --out RUNS/table [--algorithms full diag] [--layers 2 3 4]
        [--noise "sigma up to 3"] [--workers 2]

`models.jsonl` has a row for every trained model and `models/` its weights: a call that was stopped goes on there. The
seed of a cell is chosen on 20,000 contexts, its loss reported on 100,000 others, the same ones for all cells:
`table.jsonl` and `table.md`. A model of several layers is a polynomial of so high a degree that one context in 100,000
may rule its mean. Where the ten contexts of the largest loss add more than 5% to a mean, the cell is the mean without
them, with the mean of all beside it. A run that diverges is a row that says so; it is never chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from cells import (
    ALGORITHMS,
    NOISES,
    ROWS,
    Cell,
    adjusted,
    best,
    contexts,
    load,
    mean_and_error,
    oracle_loss,
    save,
)

from llc_dynamics.errors import DataError
from llc_dynamics.rows import Row, append_row, stored_rows
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import query_loss
from llc_dynamics.systems.linear_transformer.tuning import tuned
from llc_dynamics.training.loop import TrainingState
from llc_dynamics.workers import Job, report, require_workers, run_jobs

_CHOICE, _REPORT = 20_000, 100_000
_WORST, _RULING = 1e-4, 1.05  # share of the contexts of the largest loss, and what they may add to a mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the models and tables")
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=list(ALGORITHMS))
    parser.add_argument("--layers", nargs="+", type=int, default=list(range(1, 8)))
    parser.add_argument("--noise", nargs="+", default=list(NOISES), choices=list(NOISES))
    parser.add_argument("--workers", type=int, help="processes; by default one for every core")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    # Deep models first: the last worker to end is then never far behind. One program serves all models of a job.
    groups = [(algorithm, layers) for layers in sorted(chosen.layers, reverse=True) for algorithm in chosen.algorithms]
    jobs = [
        Job(
            train_models,
            (algorithm, layers, chosen.noise, str(chosen.out)),
            bar=f"{ALGORITHMS[algorithm]} {layers}",
            total=len(chosen.noise) * Cell(algorithm, layers, chosen.noise[0]).seeds,
        )
        for algorithm, layers in groups
    ]
    run_jobs(jobs, workers=require_workers(chosen.workers))
    write_table(chosen.out, chosen.noise)


def train_models(algorithm: str, layers: int, noises: list[str], out: str) -> None:
    """In a worker: all models of one class and depth that have no row yet."""
    folder = Path(out)
    rows = folder / "models.jsonl"
    torch._dynamo.reset()  # the programs of the job before count against a limit
    known = [{name: row[name] for name in ("algorithm", "layers", "noise", "seed")} for row in stored_rows(rows)]
    done = 0
    for noise in noises:
        cell = Cell(algorithm, layers, noise)
        on = contexts("choice", _CHOICE, NOISES[noise])
        oracle = oracle_loss(on)
        for seed in range(cell.seeds):
            key = {"algorithm": algorithm, "layers": layers, "noise": noise, "seed": seed}
            if key not in known:
                append_row(rows, key | train_model(cell, seed, folder, on, oracle))
            done += 1
            report(f"{ALGORITHMS[algorithm]} {layers}", done)


def train_model(cell: Cell, seed: int, folder: Path, on: ref.Contexts, oracle: torch.Tensor) -> Row:
    """Train one model, store it, and measure it on the contexts for the choice."""
    config = cell.config(seed)
    start = time.process_time()
    state = TrainingState(config, "cpu")
    try:
        state.advance(config.training.num_steps)
    except DataError as error:
        return {"diverged": True, "choice": None, "seconds": time.process_time() - start, "message": str(error)}
    seconds = time.process_time() - start
    save(state.model, cell.path(folder, seed))
    loss = adjusted(load(cell, folder, seed), on, oracle).mean().item()
    return {"diverged": not loss < float("inf"), "choice": loss, "seconds": round(seconds, 2)}


def write_table(folder: Path, noises: list[str]) -> None:
    """Evaluate the chosen models and the references on the contexts that are reported."""
    trained = stored_rows(folder / "models.jsonl")
    chosen = best(trained)
    found: list[Row] = []
    for noise in noises:
        on = contexts("report", _REPORT, NOISES[noise])
        oracle = oracle_loss(on)
        tuning = tuned(NOISES[noise], on.dimension, on.num_examples)
        for name, weights in ref.estimates(on, tuning).items():
            published = ROWS[name, 0][list(NOISES).index(noise)] if (name, 0) in ROWS else None
            found.append(_row(name, 0, noise, query_loss(weights, on.w) - oracle, published))
        for cell, row in chosen.items():
            if cell.noise == noise:
                losses = adjusted(load(cell, folder, row["seed"]), on, oracle)
                found.append(_row(cell.algorithm, cell.layers, noise, losses, cell.published, seed=row["seed"]))
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    diverged = sum(row["diverged"] for row in trained)
    minutes = sum(row["seconds"] for row in trained) / 60
    text = f"{len(trained)} models, {diverged} of them diverged, {minutes:.1f} minutes of processor time.\n\n"
    (folder / "table.md").write_text(text + markdown(found, noises))
    print(text + markdown(found, noises))


def _row(name: str, layers: int, noise: str, losses: torch.Tensor, published: float | None, **more: int) -> Row:
    mean, error = mean_and_error(losses)
    kept, overall = losses.sort().values[: len(losses) - round(_WORST * len(losses))], mean
    if mean > _RULING * kept.mean().item() > 0:
        mean, error = mean_and_error(kept)
    return {
        "name": name,
        "layers": layers,
        "noise": noise,
        "adjusted": mean,
        "error": error,
        "all": overall,
        "published": published,
        "ratio": mean / published if published else None,
        **more,
    }


def markdown(rows: list[Row], noises: list[str]) -> str:
    """Adjusted loss, its error in the last digits' units, and the ratio to the published value, cell by cell."""
    lines = [f"| | {' | '.join(noises)} |", f"|{'---|' * (len(noises) + 1)}"]
    for name, layers in dict.fromkeys((row["name"], row["layers"]) for row in rows):
        cells = {row["noise"]: row for row in rows if (row["name"], row["layers"]) == (name, layers)}
        label = f"{ALGORITHMS[name]}, {layers}" if layers else ref.LABELS[name]
        lines.append(f"| {label} | {' | '.join(_shown(cells.get(noise)) for noise in noises)} |")
    return "\n".join(lines) + "\n"


def _shown(row: Row | None) -> str:
    if row is None:
        return ""
    ratio = "" if row["ratio"] is None else f" ({row['ratio']:.2f})"
    heavy = f"; all {row['all']:.3g}" if row["all"] != row["adjusted"] else ""
    return f"{row['adjusted']:.3g} ± {row['error']:.1g}{ratio}{heavy}"


if __name__ == "__main__":
    main()
