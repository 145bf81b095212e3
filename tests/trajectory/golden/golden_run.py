"""What the golden run holds, as formulas, so that the tests need no second copy of the values.

`record.py` beside it recorded it once; it is recorded again only when the format changes.
"""

import numpy as np
import torch

import llc_dynamics as ld

STEPS = [0, 1, 2, 5, 10]
WEIGHT_STEPS = [0, 5, 10]
DESCRIPTION = {"words": "A golden run.", "references": {"ridge": "ridge"}}
CONFIG = {"seed": 7, "model": {"width": 2, "name": "golden"}, "rate": 0.125, "tags": ["a", "ß"], "limit": "inf"}
PROVENANCE = {"versions": {"llc-dynamics": "0.1.0"}, "note": "golden"}
ARRAYS = {
    "evaluation": {
        "x": np.arange(12, dtype=np.float32).reshape(6, 2) / 4,
        "mask": np.array([True, False, True]),
        "big": np.array([2**60, -3], dtype=np.int64),
    }
}
RESUME = {"step": 10, "rng": torch.arange(5, dtype=torch.uint8), "extra": (1, None, {"lr": 0.1, "name": "adam"})}
LLC_STEP = 5


class Golden(torch.nn.Module):
    """Tensors of five number formats, one of them a scalar, one empty."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 3)
        self.scale = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("brief", torch.zeros(2, 2, dtype=torch.bfloat16))
        self.register_buffer("mask", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("none", torch.zeros(0, 4, dtype=torch.float16))


def state(step):
    """The tensors at `step`; the numbers are exact in every format."""
    grid = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    return {
        "net.weight": grid / 8 - step,
        "net.bias": torch.tensor([step / 2, float("nan"), -0.0]),
        "scale": torch.tensor(step + 2.0**-40, dtype=torch.float64),
        "count": torch.tensor(step * 2**40),
        "brief": torch.tensor([[1.5, -2.0], [step, 0.25]], dtype=torch.bfloat16),
        "mask": torch.tensor([step % 2 == 0, step > 3, False]),
        "none": torch.zeros(0, 4, dtype=torch.float16),
    }


def metrics(step):
    """`distance/ood/ridge` is missing at even steps, `late` before step 5."""
    values = {"loss": 1 / (step + 1), "loss/ood": 2.0 * step, "nothing": float("nan")}
    if step % 2:
        values["distance/ood/ridge"] = step / 3
    if step >= 5:
        values["late"] = float("inf")
    return values


def outputs(step):
    """[3, 2]; none at step 2."""
    return None if step == 2 else np.arange(6, dtype=np.float32).reshape(3, 2) * np.float32(step / 4)


def samples(step):
    """[4]; none at step 0."""
    return None if step == 0 else {"loss/ood": np.arange(4, dtype=np.float32) / np.float32(8) + step}


def per_sample_loss(model, batch):
    (x,) = batch
    return (x @ model.net.weight.T).square().sum(1) * 0.5


def estimate(path):
    """One stored point of an LLC curve: 2 chains of 12 draws."""
    model = Golden()
    for fixed in (model.net.bias, model.scale):
        fixed.requires_grad_(False)
    return ld.llc_curve(
        path,
        model,
        per_sample_loss,
        (torch.from_numpy(ARRAYS["evaluation"]["x"]),),
        steps=[LLC_STEP],
        name="golden",
        sampler=ld.SGLD(step_size=1e-3, localization=10.0),
        num_chains=2,
        num_draws=12,
        num_burnin=4,
        batch_size=6,
        seed=1,
        progress=False,
    )
