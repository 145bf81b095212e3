"""The detectors on the recorded runs of preset `small` (data/README.md)."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

import llc_dynamics as ld

RECORDED = Path(__file__).parents[2] / "data" / "transient_ridge" / "small_seed0.csv"


def columns(num_tasks: float) -> dict[str, np.ndarray]:
    with RECORDED.open() as stream:
        rows = [row for row in csv.DictReader(stream) if float(row["num_tasks"]) == num_tasks]
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def verdict(num_tasks: float) -> ld.stages.TransienceVerdict:
    found = columns(num_tasks)
    steps = found["step"].astype(int)

    def curve(name: str, errors: np.ndarray | None = None) -> ld.Curve:
        return ld.Curve(steps, found[name], errors, name=name)

    return ld.detect_transience(
        general=curve("distance/ood/ridge"),
        specialised=None if num_tasks == math.inf else curve("distance/ood/dmmse"),
        ood_loss=curve("loss/ood", found["standard_error/loss/ood"]),
    )


@pytest.mark.parametrize("num_tasks", [12, 16])
def test_transient_ridge(num_tasks: int) -> None:
    found = verdict(num_tasks)
    assert found.transient
    assert found.t_crit is not None
    assert 800 < found.t_crit < 2500
    assert found.rebound_relative > 0.2


@pytest.mark.parametrize("num_tasks", [1, 2, 4, 8, 64, math.inf])
def test_no_transient_ridge(num_tasks: float) -> None:
    """Straight to the training tasks, or ridge to the end."""
    assert not verdict(num_tasks).transient


@pytest.mark.parametrize(("num_tasks", "least_ratio"), [(1, 1000), (4, 100), (12, 30)])
def test_specialisation(num_tasks: int, least_ratio: float) -> None:
    found = columns(num_tasks)
    steps = found["step"].astype(int)
    specialised = ld.detect_specialisation(ld.Curve(steps, found["distance/id/dmmse"], name="distance/id/dmmse"))
    assert specialised.kind == "specialised"
    assert specialised.ratio > least_ratio
