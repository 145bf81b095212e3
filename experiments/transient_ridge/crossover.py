"""Does lambda_hat rise when ridge gives way, and do crossovers over M come in the order of the theory?

    python experiments/transient_ridge/crossover.py runs/crossover/0 runs/crossover/1 runs/crossover/2 --out FOLDER

One sweep folder a seed, each with a run at M = infinity and an LLC curve of one name in every run, of one resolution.
FOLDER gets `crossover.json` (everything), `tables.md`, four CSV tables and three figures. README.md, "Predicted and
observed crossover", says what is computed and what it means.

What an interval from three seeds can hold and what it cannot: the intervals of the rank correlations are over runs
within these seeds (the members are resampled, the seeds never) and over the errors of lambda_hat, losses and t_crit. So
they say how far the agreement hangs on single runs and on noise. They say nothing about other task draws or other
initial weights, beyond what the spread of the three within-seed values lets one see; and all seeds share the same M.
Where a mean over seeds is given, its interval is Student's with two degrees of freedom, which is wide and as honest as
three numbers are. Two resolutions of the LLC are two answers, not more evidence for one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossover_predictions import (
    DEFINITIONS,
    SELECTIONS,
    Prediction,
    fitted_scale,
    llc_changes,
    order_agreement,
    pooled_changes,
    predict,
)
from crossover_runs import RunRecord, read_seeds
from crossover_tables import markdown, order_row, plain, prediction_row, run_row, write_csv

from llc_dynamics.errors import LLCDynamicsError
from llc_dynamics.trajectory.files import write_whole


def findings(records: Sequence[RunRecord], name: str, num_bootstrap: int = 4000) -> dict[str, Any]:
    """All numbers, as JSON types: the content of `crossover.json`."""
    predictions = {definition: predict(records, definition) for definition in DEFINITIONS}
    scales = {definition: fitted_scale(found) for definition, found in predictions.items()}
    rows = [
        prediction_row(one, scales[definition]["factor"]) for definition, found in predictions.items() for one in found
    ]
    changes = llc_changes(records)
    return plain(
        {
            "llc_name": name,
            "definitions": DEFINITIONS,
            "runs": [run_row(record) for record in records],
            "llc_changes": changes,
            "llc_changes_pooled": pooled_changes(changes),
            "predictions": rows,
            "scales": [{"definition": definition, **scale} for definition, scale in scales.items()],
            "order": _orders(predictions, num_bootstrap),
            "notes": _notes(records, predictions),
        }
    )


def _orders(predictions: dict[str, list[Prediction]], num_bootstrap: int) -> list[dict[str, Any]]:
    rows = []
    for selection in SELECTIONS:
        for definition, found in predictions.items():
            agreement = order_agreement(found, selection, num_bootstrap=num_bootstrap)
            rows.append(order_row(definition, selection, agreement))
        by_tasks = order_agreement(predictions["loss only"], selection, by_tasks=True, num_bootstrap=num_bootstrap)
        rows.append(order_row("M itself", selection, by_tasks))
    return rows


def _notes(records: Sequence[RunRecord], predictions: dict[str, list[Prediction]]) -> list[str]:
    """What was left out, cannot be told, or is tied."""

    def named(chosen: Sequence[RunRecord]) -> str:
        return ", ".join(f"M = {record.num_tasks:g} seed {record.seed}" for record in chosen)

    finite = [record for record in records if record.finite]
    notes = []
    for words, chosen in (
        ("training is not finished", [record for record in records if not record.complete]),
        ("fewer than 4 LLC points can be used", [record for record in records if record.llc.fit is None]),
        ("t_crit is censored (the loss falls to the end)", [r for r in finite if r.status == "censored"]),
        ("t_crit is a minimum without a verdict", [r for r in finite if r.status == "not resolved"]),
        ("the out-of-distribution loss never fell", [r for r in finite if r.status == "at the start"]),
    ):
        if chosen:
            notes.append(f"{words}: {named(chosen)}")
    late = max((r.t_crit for r in finite if r.status != "censored"), default=0)
    early = [r for r in finite if r.status == "censored" and r.last_step < late]
    if early:
        notes.append(
            f"censored before the latest observed t_crit ({late:,}), so that their rank is not sure: {named(early)}"
        )
    for definition, found in predictions.items():
        missing = [record for record in finite if record not in [one.record for one in found]]
        at_zero = [one.record for one in found if one.ratio == 0]
        never = [one.record for one in found if one.ratio == float("inf")]
        if missing:
            notes.append(f'"{definition}" makes no prediction for {named(missing)}')
        if at_zero:
            notes.append(
                f'"{definition}": dlambda <= 0, dMMSE preferred from the beginning, lowest rank: {named(at_zero)}'
            )
        if never:
            notes.append(f'"{definition}": dl <= 0, ridge never yields, highest rank: {named(never)}')
    return notes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="sweep folders, one a seed")
    parser.add_argument("--name", default="llc", help="of the stored LLC curves (default: llc)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--unconverged", action="store_true", help="let LLC points count that did not converge")
    parser.add_argument("--energy-tasks", type=float, help="M of the figure of free energies (default: the middle one)")
    given = parser.parse_args(arguments)
    try:
        records = read_seeds(given.folders, given.name, given.unconverged)
        found = findings(records, given.name)
    except LLCDynamicsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    write_whole(given.out / "crossover.json", json.dumps(found, indent=1, allow_nan=False).encode())
    write_whole(given.out / "tables.md", markdown(found).encode())
    for table in ("runs", "llc_changes", "predictions", "order"):
        write_csv(given.out / f"{table}.csv", found[table])
    _draw(records, found, given.out, given.energy_tasks)
    print(markdown(found))
    return 0


def _draw(records: Sequence[RunRecord], found: dict[str, Any], out: Path, num_tasks: float | None) -> None:
    from crossover_figures import draw_free_energy, draw_llc, draw_order

    predictions = {definition: predict(records, definition) for definition in DEFINITIONS}
    factors = {scale["definition"]: scale["factor"] for scale in found["scales"]}
    draw_llc(records, out / "llc_across_crossover.png")
    draw_order(predictions, factors, out / "predicted_against_observed.png")
    tasks = sorted({record.num_tasks for record in records if record.finite})
    middle = tasks[len(tasks) // 2] if num_tasks is None else num_tasks
    draw_free_energy(predictions, middle, out / "free_energy.png")


if __name__ == "__main__":
    sys.exit(main())
