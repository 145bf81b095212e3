"""Runs as the training loop stores them, with a function that moves between zero, ridge and dMMSE in a known way."""

import math

import numpy as np
import torch

import llc_dynamics as ld

STEPS = np.unique(np.round(np.concatenate([[0], np.geomspace(1, 10_000, 35)])).astype(int))
SEQUENCES, ROOT, LENGTH, DIMENSION = 96, 6, 4, 2


def world(num_tasks, root_seed=0):
    """Evaluation arrays as a training run stores them: the root batch is shared, dMMSE depends on M."""
    arrays = {}
    for name, count, seed in (("id", SEQUENCES, 10), ("ood", SEQUENCES, 11), ("root", ROOT, 12 + root_seed)):
        generator = np.random.default_rng(seed)
        arrays[f"{name}_x"] = generator.normal(size=(count, LENGTH, DIMENSION)).astype(np.float32)
        arrays[f"{name}_y"] = generator.normal(size=(count, LENGTH)).astype(np.float32)
        arrays[f"{name}_ridge"] = 0.5 * arrays[f"{name}_y"]
        if math.isfinite(num_tasks):
            shift = generator.normal(size=(count, LENGTH)) * (1 + 2 / num_tasks)
            arrays[f"{name}_dmmse"] = (0.5 * arrays[f"{name}_y"] + shift).astype(np.float32)
    return arrays


def mixture(step, num_tasks):
    """How much of zero, ridge and dMMSE the model's function holds: M = 8 passes by ridge, M = 2 does not."""
    rise = 1 / (1 + (100 / max(step, 1e-9)) ** 2)
    turn = 1 / (1 + (3000 / max(step, 1e-9)) ** 2)
    if math.isinf(num_tasks):
        return rise, 0.0
    return (rise * (1 - turn), 0.9 * turn) if num_tasks == 8 else (0.0, rise)


def record(path, num_tasks=8.0, *, finish=True, steps=STEPS, config=None, root_seed=0, drop=(), outputs=True, seed=0):
    """A run as the training loop stores it, with a function that moves between zero, ridge and dMMSE."""
    arrays = world(num_tasks, root_seed)
    model = torch.nn.Linear(2, 1)
    config = config or {
        "task": {"num_tasks": "inf" if math.isinf(num_tasks) else num_tasks, "seed": 0},
        "training": {"num_steps": 10_000},
        "seed": seed,
    }
    generator = np.random.default_rng(int(min(num_tasks, 99)) + seed)
    with ld.TrajectoryWriter(path, model, config=config, arrays={"evaluation": arrays}) as writer:
        for step in steps:
            to_ridge, to_dmmse = mixture(step, num_tasks)
            function, measured, samples = {}, {}, {}
            for name in ("id", "ood", "root"):
                dmmse = arrays.get(f"{name}_dmmse", arrays[f"{name}_ridge"])
                f = to_ridge * arrays[f"{name}_ridge"] + to_dmmse * dmmse
                function[name] = f + 0.01 * generator.normal(size=f.shape)
            for name in ("id", "ood"):
                targets = {f"{name}_loss": "y", f"ridge_distance_{name}": "ridge"}
                if math.isfinite(num_tasks):
                    targets[f"dmmse_distance_{name}"] = "dmmse"
                for metric, target in targets.items():
                    values = ((function[name] - arrays[f"{name}_{target}"]) ** 2).mean(axis=1)
                    measured[metric] = float(values.mean())
                    samples[metric] = values.astype(np.float32)
            measured["train_loss"] = measured["id_loss"] if step else math.nan
            measured = {name: value for name, value in measured.items() if name not in drop}
            samples = {
                n: v for n, v in samples.items() if n in measured and n != "id_loss" and n != "ridge_distance_id"
            }
            extra = {"outputs": function["root"].astype(np.float32)} if outputs else {}
            writer.record(int(step), metrics=measured, samples=samples, **extra)
        if finish:
            writer.finish()
    return ld.Trajectory(path)
