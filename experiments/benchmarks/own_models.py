"""Curves of models that nobody tuned for: `ld.calibrate(model, loss, data, run=run)` and nothing else.

    llc-dynamics train transient_ridge/demo --out RUNS/demo
    python experiments/benchmarks/own_models.py train RUNS
    python experiments/benchmarks/own_models.py curve RUNS --workers 2 --out own_models.jsonl

Two classifiers of digits, a transformer that groks addition, a character GPT-2 (`own_problems.py`), and the runs in
RUNS/demo. Each with the behavioural loss (KL; squared for the demo) and with the given one. `curve` calibrates,
estimates the LLC at every checkpoint, and prints a table; a second call goes on with what is in --out.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import own_problems
import torch
from common import Row, command_line, fill, markdown_head, markdown_row

import llc_dynamics as ld
from llc_dynamics.training import load_config

LOSSES = ("behavioural", "given")
WANTED_ERROR = 0.1
WANTED_SHARE = 0.9


def train(folder: Path, names: list[str], num_steps: int | None) -> None:
    for name in names:
        start = time.perf_counter()
        own_problems.MODELS[name].train(folder / name, num_steps)
        run = ld.Trajectory(folder / name)
        last = ", ".join(f"{metric} {run.metrics(metric)[-1]:.3g}" for metric in run.metric_names)
        print(f"{name}: {len(run.weight_steps)} checkpoints in {time.perf_counter() - start:.0f} s; {last}", flush=True)


def problem(run: Path, loss: str) -> tuple[torch.nn.Module, Any, Any, dict[str, int]]:
    """Model, loss, data, and what `ld.calibrate` must be told beside them: n, for data that are a function."""
    if run.name in own_problems.MODELS:
        own = own_problems.MODELS[run.name]
        loss_fn = own_problems.loss if loss == "given" else ld.behavioural(own_problems.outputs, "kl")
        return own.model(), loss_fn, own.data()[0], {}
    config = load_config(ld.Trajectory(run))
    loss_fn = config.system.loss if loss == "given" else ld.behavioural(config.system.outputs)
    return config.system.build(config.seed), loss_fn, config.system.sample, {"num_samples": 1000}


def measure(run: Path, loss: str, workers: int, threads: int, points: int | None, **options: Any) -> Row:
    """Calibrate, then the curve; the run is left as it is. `options` go to `calibrate`: none in the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run.name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("llc"))
        model, loss_fn, data, told = problem(run, loss)
        start, busy = time.perf_counter(), busy_seconds()
        found = ld.calibrate(model, loss_fn, data, run=copy, workers=workers, threads=threads, **told, **options)
        calibrated, busy_calibrated = time.perf_counter(), busy_seconds()
        print(f"{run.name}, {loss}: calibrated in {calibrated - start:.0f} s", *found.findings, sep="\n  ", flush=True)
        steps = ld.Trajectory(copy).weight_steps
        if points is not None:
            steps = steps[np.linspace(0, len(steps) - 1, points).astype(int)]
        curve = ld.llc_curve(
            copy,
            model,
            loss_fn,
            data,
            steps=steps.tolist(),
            settings=found,
            workers=workers,
            threads=threads,
            progress=False,
        )
        end = time.perf_counter()
    shares = curve.standard_errors / np.abs(curve.values)
    settings = found.settings
    codes = Counter(reason.code for reasons in curve.reasons for reason in reasons)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "calibrate_s": calibrated - start,
        "curve_s": end - calibrated,
        "calibrate_busy_s": busy_calibrated - busy,
        "curve_busy_s": busy_seconds() - busy_calibrated,
        "kernel": type(settings.sampler).__name__,
        "gamma": settings.sampler.localization,
        "batch": settings.batch_size,
        "gradients": settings.num_chains * max(result.num_gradients for result in curve.results),
        "points": len(curve.steps),
        "converged": float(np.mean(curve.converged)),
        "good": float(np.mean(curve.converged & (shares <= WANTED_ERROR))),
        "median_error": float(np.nanmedian(shares)),
        "largest_error": float(np.nanmax(shares)),
        "reasons": dict(codes),
        "findings": [str(each) for each in found.findings],
        "curve": [
            [int(step), float(value), float(error), [reason.text for reason in reasons]]
            for step, value, error, reasons in zip(
                curve.steps, curve.values, curve.standard_errors, curve.reasons, strict=True
            )
        ],
    }


def busy_seconds() -> float:
    """Processor time of this process and of its workers that have ended."""
    return sum(os.times()[:4])


def table(rows: list[Row]) -> str:
    """A Markdown table: seconds by the clock (and of the processors); reasons against points at the end of each row."""
    names = ("model", "loss", "calibrate, s (busy)", "kernel", "gamma", "batch", "gradients a point")

    def seconds(row: Row, of: str) -> str:
        return f"{row[f'{of}_s']:.0f} ({row[f'{of}_busy_s']:.0f})"

    results = ("curve, s (busy)", "points", f"converged at {WANTED_ERROR:.0%}", "median error", "largest", "reasons")
    lines = [markdown_head([*names, *results])]
    for row in rows:
        reasons = ", ".join(f"{code} {count}" for code, count in sorted(row["reasons"].items()))
        good = f"{row['good']:.0%}" if row["good"] < WANTED_SHARE else f"**{row['good']:.0%}**"
        lines.append(
            markdown_row(
                [
                    *(row["model"], row["loss"], seconds(row, "calibrate"), row["kernel"], row["gamma"], row["batch"]),
                    *(row["gradients"], seconds(row, "curve"), row["points"], good),
                    *(f"{row['median_error']:.1%}", f"{row['largest_error']:.1%}", reasons),
                ]
            )
        )
    return "\n".join(lines)


def runs_of(folder: Path) -> Iterator[Path]:
    """The trained models, and the runs of the demo where they are."""
    for place in [*(folder / name for name in own_problems.MODELS), *sorted((folder / "demo").glob("M-*"))]:
        if (place / "manifest.json").exists():
            yield place


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, out="rows of results as they come, to go on with")
    parser.add_argument("verb", choices=("train", "curve"))
    parser.add_argument("folder", type=Path, help="where the runs are")
    parser.add_argument("--models", nargs="+", help="these alone")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--points", type=int, help="checkpoints of a curve; all of them by default")
    parser.add_argument("--steps", type=int, help="of training")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.verb == "train":
        train(options.folder, options.models or list(own_problems.MODELS), options.steps)
        return
    runs = {run.name: run for run in runs_of(options.folder) if run.name in (options.models or [run.name])}
    if not runs:
        parser.error(f"no runs in {options.folder}: train them first")
    cells = [{"model": name, "loss": loss} for name in runs for loss in options.losses]
    rows = fill(
        cells,
        options.out,
        lambda cell: measure(runs[cell["model"]], cell["loss"], options.workers, 1, options.points),
    )
    print(table(rows))


if __name__ == "__main__":
    main()
