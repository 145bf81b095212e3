"""Which problems are compared, made by name. Needs torch and the package (the driver's side)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from llc_dynamics import InContextRegression, Trajectory
from llc_dynamics.seeding import torch_generator
from llc_dynamics.sweeps import load_preset
from llc_dynamics.systems.registry import system_mapping
from llc_dynamics.training import RunConfig, load_config
from peers import problems
from peers.modules import build, largest_curvature
from peers.problems import Problem

# Widths, rank and exact learning coefficient (Aoyagi 2024).
DEEP_LINEAR = ([13, 6, 5, 7, 17, 5], 1, 15.5)
# One of the class of 1,000 parameters of `deep_linear.py` (its seed 0): inputs uniform on [-10, 10], no noise.
DEEP_LINEAR_1K = ([8, 24, 24, 5, 23, 10], 2, 25.0)
NAMES = ("deep-linear", "deep-linear-noiseless", "deep-linear-1K", "mlp", "in-context")


def make(name: str, num_samples: int = 100_000, run: Path | None = None, steps: Sequence[int] = ()) -> list[Problem]:
    """The problems of one of `NAMES`, curvature included; "in-context" gives one for each of `steps` of `run`.

    Without a run "in-context" is the untrained model of the demo: enough for the cost of a step. `num_samples` is the n
    of the deep linear networks.
    """
    if name in ("deep-linear", "deep-linear-noiseless"):
        widths, rank, exact = DEEP_LINEAR
        noise = 0.0 if name.endswith("noiseless") else 1.0
        made = [problems.deep_linear(widths, rank, num_samples, exact, noise_std=noise)]
    elif name == "deep-linear-1K":
        widths, rank, exact = DEEP_LINEAR_1K
        made = [problems.deep_linear(widths, rank, num_samples, exact, noise_std=0.0, half_width=10.0)]
    elif name == "mlp":
        made = [problems.mlp()]
    elif name == "in-context":
        made = _in_context(run, steps)
    else:
        raise ValueError(f"problem '{name}' is unknown; known: {', '.join(NAMES)}")
    # The Hessian of a transformer is dear, and a fraction of the stable step needs no second digit.
    effort = {"num_samples": 256, "iterations": 15} if name == "in-context" else {}
    return [replace(problem, curvature=largest_curvature(problem, **effort)) for problem in made]


def _in_context(run: Path | None, steps: Sequence[int], num_sequences: int = 16_384) -> list[Problem]:
    """Checkpoints of a stored run on `num_sequences` sequences from its own q_M; nbeta = n / log n at the demo's n.

    The targets are the checkpoint's own outputs, so that all tools sample the density of the behavioural loss.
    """
    preset = load_preset("transient_ridge/demo")
    states: dict[str, dict[str, torch.Tensor]] = {}
    if run is None:
        config: RunConfig = preset.run_configs()["M-12"]
        states["initial"] = config.system.build(config.seed).state_dict()
    else:
        stored = Trajectory(run)
        config = load_config(stored)
        for wanted in steps or (int(stored.steps[-1]),):
            nearest = int(stored.steps[np.abs(stored.steps - wanted).argmin()])
            states[f"step{nearest}"] = stored.state_dict(nearest)
    system = config.system
    assert isinstance(system, InContextRegression)
    x, y = system.sample(torch_generator(config.seed, "peers data"), num_sequences)
    n = preset.llc.estimate.num_samples
    assert n is not None
    made = [
        problems.in_context(
            name=f"in-context-M{system.num_tasks:g}-{label}",
            config=asdict(system.transformer()),
            weights={key: value.cpu().numpy() for key, value in state.items()},
            x=x.numpy(),
            y=y.numpy(),
            nbeta=problems.default_nbeta(n),
            sampling={"system": system_mapping(system), "num_samples": n},
        )
        for label, state in states.items()
    ]
    return [replace(problem, targets=_outputs(problem)) for problem in made]


def _outputs(problem: Problem) -> np.ndarray:
    module = build(problem)
    with torch.no_grad():
        parts = [module(part) for part in torch.from_numpy(problem.inputs).split(1024)]
    return torch.cat(parts).numpy()
