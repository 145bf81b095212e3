"""Sweeps with a known crossover: functions that pass by ridge on their way to dMMSE_M, and LLC curves to order."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from stored_llc import store_point
from sweep_runs import describe

import llc_dynamics as ld

STEPS = np.unique(np.concatenate([[0], np.geomspace(10, 12_000, 46).round(), np.arange(600, 12_001, 600)])).astype(int)
LLC_STEPS = STEPS[np.searchsorted(STEPS, np.geomspace(250, 12_000, 11).round())]
SEQUENCES, LENGTH = 96, 4
TURN = {8.0: 1500.0, 16.0: 3000.0, 32.0: 6000.0, math.inf: math.inf}  # when half of the way to dMMSE_M is done
GAP = {8.0: 0.5, 16.0: 0.25, 32.0: 0.12, math.inf: 0.0}  # mean squared distance of ridge to dMMSE_M on q_M
PRICE = {8.0: 5.0, 16.0: 8.0, 32.0: 12.0, math.inf: 0.0}  # lambda(dMMSE_M) - lambda(ridge)
NATS = LENGTH / (2 * 0.125)


def turned(step: float, half: float) -> float:
    """How much of the way from ridge to dMMSE_M is done."""
    return 0.0 if math.isinf(half) or not step else 1 / (1 + (half / step) ** 2)


def make_sweep(folder: Path, seed: int, *, tasks=tuple(TURN), turn=TURN, price=PRICE, name="llc", bad=()) -> Path:
    """Runs M-8 ... M-inf of one seed. bad : steps at which LLC points did not converge."""
    for number in tasks:
        label = "inf" if math.isinf(number) else f"{number:.0f}"
        run = _record(folder / f"M-{label}", number, seed, turn[number] * (1 + 0.05 * seed))
        if name:
            store_curve(run, lambda t, m=number: 20 + price[m] * turned(t, turn[m]), 0.15, seed, name, bad)
    return folder


def _record(path: Path, number: float, seed: int, half: float) -> ld.Trajectory:
    generator = np.random.default_rng([seed, int(min(number, 99))])
    noise = 0.2 * generator.normal(size=(2, SEQUENCES, LENGTH))
    targets = 2 * generator.normal(size=(2, SEQUENCES, LENGTH))
    # on q_M (0) dMMSE is the posterior mean and ridge strays from it; on q_inf (1) the other way round
    best = targets + noise
    stray = generator.normal(size=(2, SEQUENCES, LENGTH))
    stray *= np.sqrt([GAP[number], 4.0])[:, None, None] / np.sqrt((stray**2).mean(axis=(1, 2), keepdims=True))
    ridge, dmmse = (best[0] + stray[0], best[1]), (best[0], best[1] + stray[1])
    arrays = {}
    for place, where in enumerate(("id", "ood")):
        arrays[f"{where}/target"], arrays[f"{where}/reference/ridge"] = targets[place], ridge[place]
        if math.isfinite(number):
            arrays[f"{where}/reference/dmmse"] = dmmse[place]
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    config = {
        "seed": seed,
        "system": {"name": "in_context_regression", "noise_variance": 0.125, "context_length": LENGTH},
        "training": {"num_steps": int(STEPS[-1]), "batch_size": 32},
    }
    description = describe(number).to_dict()
    model = torch.nn.Linear(1, 1)
    with ld.TrajectoryWriter(path, model, config, arrays={"probes": arrays}, description=description) as writer:
        for step in STEPS:
            done, risen = turned(step, half), turned(step, 120.0)
            measured, samples = {}, {}
            for place, where in enumerate(("id", "ood")):
                f = risen * ((1 - done) * ridge[place] + done * dmmse[place]) + 0.01 * generator.normal(
                    size=best[0].shape
                )
                against = {f"loss/{where}": targets[place], f"distance/{where}/ridge": ridge[place]}
                if math.isfinite(number):
                    against[f"distance/{where}/dmmse"] = dmmse[place]
                for metric, target in against.items():
                    samples[metric] = ((f - target) ** 2).mean(axis=1).astype(np.float32)
                    measured[metric] = float(samples[metric].mean())
            kept = {key: value for key, value in samples.items() if key not in ("loss/id", "distance/id/ridge")}
            writer.record(int(step), metrics=measured, samples=kept)
        writer.finish()
    return ld.Trajectory(path)


def store_curve(run, height, error, seed, name="llc", bad=(), steps=LLC_STEPS) -> None:
    """An LLC curve `height(step)` plus noise of size `error`, as `llc_curve` stores it."""
    generator = np.random.default_rng([seed, len(run.path.name)])
    for step in map(int, steps):
        value = height(step) + error * float(generator.normal())
        reasons = ("chains disagree",) if step in bad else ()
        store_point(run, step, value, error, reasons=reasons, name=name, dimension=2)
