"""Chains that end in another well are found by going downhill; chains that did not leave are left in peace."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from estimates import codes, estimate
from problems import NO_DATA, Vector
from torch import nn

import llc_dynamics as ld
from llc_dynamics.llc import judged
from llc_dynamics.sampling.descent import rest_above
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.theory import rank_minimal_network


def two_wells(height):
    """Wells at w = 0, of loss 0, and at w = 2, of loss `height`, in the first direction; a bowl in the others."""

    def loss(model, batch):
        w = model.w[0]
        valley = (w * (w - 2)).square() + height * (w / 2).square() * (3 - w)
        return (valley + model.w[1:].square().sum() / 2).expand(len(batch[0]))

    return loss


def at(height, first):
    model = Vector(5, torch.float64)
    with FlatModel(model, two_wells(height)) as flat:
        position = torch.full((5,), 0.3, dtype=torch.float64)
        position[0] = first
        return rest_above(flat, position, NO_DATA, 3, 25)


def test_where_a_descent_comes_to_rest():
    assert abs(at(0.3, 0.4)) < 1e-6
    assert at(0.3, 2.2) == pytest.approx(0.3, abs=0.02)
    assert abs(at(0.0, 2.2)) < 1e-6  # as deep: the same loss, and no reason


def test_a_descent_that_still_falls_says_nothing():
    model = Vector(2, torch.float64)
    valley = lambda m, batch: (m.w[0] ** 20 + 1e-3 * torch.exp(-m.w[1])).expand(len(batch[0]))  # noqa: E731
    with FlatModel(model, valley) as flat:
        found = rest_above(flat, torch.tensor([1.0, -9.0], dtype=torch.float64), NO_DATA, 3, 6)
    assert math.isnan(found) or found <= 0


def test_chains_over_the_barrier_are_flagged():
    settings = {"num_chains": 6, "num_draws": 150, "num_burnin": 50, "chain_method": "vmap"}
    stays = estimate(Vector(5), two_wells(1.0), NO_DATA, sampler=ld.SGLD(0.005, 60.0, 5.0), seed=2, **settings)
    assert "left_well" not in codes(stays.reasons)
    assert np.abs(stays.downhill).max() < 0.1
    away = judged(dataclasses.replace(stays, downhill=(*stays.downhill[:4], 60.0, 60.0)))
    (reason,) = [each for each in away.reasons if each.code == "left_well"]
    assert "chain 4, chain 5 came to rest at a loss of 1 above that of w*" in reason.text


def test_curved_valleys_are_one_well():
    network = rank_minimal_network((6, 5, 4, 6), 2, seed=3)
    inputs = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    found = estimate(
        network, ld.behavioural(lambda m, b: m(b[0])), (inputs,),
        sampler=ld.MALT(localization=5.0, num_steps=8), num_chains=4, num_draws=40, num_burnin=20, batch_size=400,
    )  # fmt: skip
    assert "left_well" not in codes(found.reasons)
    assert any(math.isfinite(each) for each in found.downhill)


def test_minibatches_of_a_given_loss_are_not_looked_at():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    found = estimate(
        nn.Linear(3, 1), lambda m, b: m(b[0])[:, 0].square(), (x,), sampler=ld.SGLD(1e-3), batch_size=10, num_draws=8
    )
    assert all(map(math.isnan, found.downhill))
