"""Runs as the training loop stores them, with a function that moves between zero, ridge and dMMSE in a known way."""

import math

import numpy as np
import torch

import llc_dynamics as ld
from llc_dynamics.systems.description import Axis, Description, Transition

STEPS = np.unique(np.round(np.concatenate([[0], np.geomspace(1, 10_000, 35)])).astype(int))
SEQUENCES, ROOT, LENGTH, DIMENSION = 96, 6, 4, 2


def describe(num_tasks):
    """What the in-context system says of a run."""
    finite = math.isfinite(num_tasks)
    label = f"M = {num_tasks:.0f}" if finite else "M = ∞"
    return Description(
        axis=Axis("M", float(num_tasks), label),
        probes={"id": "training tasks", "ood": "new tasks", "root": "one task"},
        function_vector="root",
        references={"ridge": "ridge", **({"dmmse": f"dMMSE, {label}"} if finite else {})},
        transitions=(Transition("ridge", "dmmse" if finite else None, "ood", "id"),),
        loss="mean squared error",
        words="M is the number of regression tasks that a model was trained on.",
    )


def world(num_tasks, root_seed=0):
    """Arrays of the probes as a training run stores them: the root batch is shared, dMMSE depends on M."""
    arrays = {}
    for name, count, seed in (("id", SEQUENCES, 10), ("ood", SEQUENCES, 11), ("root", ROOT, 12 + root_seed)):
        generator = np.random.default_rng(seed)
        arrays[f"{name}/batch/0"] = generator.normal(size=(count, LENGTH, DIMENSION)).astype(np.float32)
        arrays[f"{name}/target"] = generator.normal(size=(count, LENGTH)).astype(np.float32)
        arrays[f"{name}/batch/1"] = arrays[f"{name}/target"]
        arrays[f"{name}/reference/ridge"] = 0.5 * arrays[f"{name}/target"]
        if math.isfinite(num_tasks):
            shift = generator.normal(size=(count, LENGTH)) * (1 + 2 / num_tasks)
            arrays[f"{name}/reference/dmmse"] = (0.5 * arrays[f"{name}/target"] + shift).astype(np.float32)
    return arrays


def mixture(step, num_tasks):
    """How much of zero, ridge and dMMSE the model's function holds: M = 8 passes by ridge, M = 2 does not."""
    rise = 1 / (1 + (100 / max(step, 1e-9)) ** 2)
    turn = 1 / (1 + (3000 / max(step, 1e-9)) ** 2)
    if math.isinf(num_tasks):
        return rise, 0.0
    return (rise * (1 - turn), 0.9 * turn) if num_tasks == 8 else (0.0, rise)


def record(
    path,
    num_tasks=8.0,
    *,
    finish=True,
    steps=STEPS,
    config=None,
    root_seed=0,
    drop=(),
    outputs=True,
    seed=0,
    description=None,
):
    """A run as the training loop stores it, with a function that moves between zero, ridge and dMMSE."""
    arrays = world(num_tasks, root_seed)
    model = torch.nn.Linear(2, 1)
    config = config or {
        "system": {"name": "in_context_regression"},
        "training": {"num_steps": 10_000},
        "seed": seed,
    }
    description = describe(num_tasks).to_dict() if description is None else description
    generator = np.random.default_rng(int(min(num_tasks, 99)) + seed)
    with ld.TrajectoryWriter(path, model, config, arrays={"probes": arrays}, description=description) as writer:
        for step in steps:
            to_ridge, to_dmmse = mixture(step, num_tasks)
            function, measured, samples = {}, {}, {}
            for name in ("id", "ood", "root"):
                ridge = arrays[f"{name}/reference/ridge"]
                f = to_ridge * ridge + to_dmmse * arrays.get(f"{name}/reference/dmmse", ridge)
                function[name] = f + 0.01 * generator.normal(size=f.shape)
            for name in ("id", "ood"):
                targets = {f"loss/{name}": "target", f"distance/{name}/ridge": "reference/ridge"}
                if math.isfinite(num_tasks):
                    targets[f"distance/{name}/dmmse"] = "reference/dmmse"
                for metric, target in targets.items():
                    values = ((function[name] - arrays[f"{name}/{target}"]) ** 2).mean(axis=1)
                    measured[metric] = float(values.mean())
                    samples[metric] = values.astype(np.float32)
            measured["train_loss"] = measured["loss/id"] if step else math.nan
            measured = {name: value for name, value in measured.items() if name not in drop}
            samples = {n: v for n, v in samples.items() if n in measured and n != "distance/id/ridge"}
            extra = {"outputs": function["root"].astype(np.float32)} if outputs else {}
            writer.record(int(step), metrics=measured, samples=samples, **extra)
        if finish:
            writer.finish()
    return ld.Trajectory(path)
