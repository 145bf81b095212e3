"""The battery of known answers: its integrals against each other and closed forms, its scores, some of its problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scripts import load_together

from llc_dynamics import theory

integrals, problems, battery, kept = load_together(
    "benchmarks", "integrals", "battery_problems", "battery", "battery_kept"
)
NBETA, GAMMA = 100.0, 3.0


def test_quadrature_gives_the_closed_forms():
    quadratic = integrals.quadrature(lambda u: (u.square() * torch.tensor([0.5, 2.0])).sum(1), [0.0, 0.0], NBETA, GAMMA)
    assert quadratic == pytest.approx(theory.quadratic_llc([1.0, 4.0], NBETA, GAMMA), rel=1e-3)
    crossing = integrals.quadrature(lambda u: u.prod(1).square(), [0.0] * 3, NBETA, GAMMA)
    exact = theory.localized_normal_crossing_llc([1, 1, 1], NBETA, GAMMA)
    assert crossing == pytest.approx(exact, rel=2e-3)
    assert integrals.product_chain([0.0] * 3, 1.0, NBETA, GAMMA) == pytest.approx(exact, rel=1e-3)
    assert integrals.radial(np.square, 5, NBETA, GAMMA) == pytest.approx(5 * NBETA / (2 * NBETA + GAMMA), rel=1e-3)


def test_a_chain_away_from_zero_and_draws_of_importance_agree_with_quadrature():
    start = [1.0, 0.8]
    by_grid = integrals.quadrature(lambda u: (u.prod(1) - 0.8).square(), start, NBETA, GAMMA)
    assert integrals.product_chain(start, 1.0, NBETA, GAMMA) == pytest.approx(by_grid, rel=2e-3)
    bowl = integrals.quadrature(lambda u: torch.exp(u).sum(1) - u.sum(1) - 2, [0.0, 0.0], NBETA, GAMMA)
    drawn = integrals.importance(lambda u: torch.exp(u).sum(1) - u.sum(1) - 2, [0.0, 0.0], NBETA, GAMMA)
    assert drawn == pytest.approx(bowl, rel=0.02)


def test_inner_and_outer_weights_integrated_apart_or_together():
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]

    def together(u):  # a tanh(b x) against tanh(x)
        return (u[:, 1:] * torch.tanh(u[:, :1] * x[:, 0]) - torch.tanh(x[:, 0])).square().mean(1)

    problem = problems.hidden_layer(
        "", "", lambda b, x: torch.tanh(x * b), [1.0], [[1.0]], x.float(), GAMMA, 1.0, num_samples=100
    )
    assert problem.value(NBETA, GAMMA) == pytest.approx(
        integrals.quadrature(together, [1.0, 1.0], NBETA, GAMMA), rel=2e-3
    )


@pytest.mark.parametrize("widths", [(6, 3, 1), (5, 2, 4), (4, 3, 8), (8, 3, 4), (3, 8, 4)])
def test_networks_at_zero_approach_aoyagis_lambda(widths):
    assert integrals.zero_product(*widths, 1.0, 1e5, 0.1) == pytest.approx(
        theory.reduced_rank_llc(*widths, 0), rel=0.02
    )


def test_a_value_that_has_not_settled_is_refused(monkeypatch):
    monkeypatch.setattr(integrals, "_MOST_POINTS", 40_000)
    with pytest.raises(integrals.NotSettledError):
        integrals.quadrature(lambda u: torch.rand(len(u), dtype=torch.float64), [0.0, 0.0], 1e4, 1.0)


def row(llc=1.0, error=0.1, exact=1.0, converged=True):
    return {
        "llc": llc, "total_error": error, "exact": exact, "converged": converged, "z": (llc - exact) / error,
        "off": llc / exact - 1,
    }  # fmt: skip


def test_scores():
    rows = [
        row(), row(1.15), row(converged=False), row(1.5, 0.4, converged=False),  # right; the last is not precise
        row(2.0), row(0.5, converged=False),  # wrong, one of them believed
        row(1.25), row(exact=math.nan),  # between right and wrong, but far; and without a value
    ]  # fmt: skip
    score = battery.summary(rows)
    assert score["estimates"] == 7
    assert score["right: converged"] == "50% of 4"
    assert score["right, precise: converged"] == "67% of 3"
    assert score["off by > 3 errors: not"] == "50% of 2"
    assert score["off by > 20%, converged"] == 2


def test_there_are_forty_problems_of_ten_classes_and_those_that_others_keep():
    known = problems.problems()
    assert len(known) >= 40
    assert len({each.kind for each in known}) == 10
    for each in known:
        assert sum(p.numel() for p in each.model().parameters()) == len(each.start)
    assert next((lam, there) for _, lam, there in kept.kept()) == (0.5, 0.571)


@pytest.mark.parametrize(("name", "way"), [("|w|^4 in six dimensions", "malt"), ("Poisson regression", "sgld")])
def test_estimates_are_right_and_say_so(name, way):
    found = battery.measure({"problem": name, "way": way, "seed": 3})
    assert found["converged"], found["reasons"]
    assert abs(found["z"]) < 3.3  # false alarms: 1 in 1,000
    assert abs(found["off"]) < 0.2
