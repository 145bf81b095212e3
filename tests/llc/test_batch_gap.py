"""Chains that move on one batch for long: in-sample is too low, out-of-sample too high, and theory says by how much."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import llc_dynamics as ld
from llc_dynamics.llc.resolution import batch_gap, share_of_slope


class Scaled(nn.Module):
    """w . (scale * x): a quadratic loss whose Hessian on a batch is a random perturbation of the population's."""

    def __init__(self, scales):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(scales)))
        self.register_buffer("scales", scales)

    def forward(self, x):
        return (x * self.scales) @ self.w


def sample(dimension):
    return lambda generator, size: (torch.randn(size, dimension, generator=generator),)


@pytest.mark.parametrize(("power", "gamma", "size", "hold"), [(1.2, 5.0, 150, 30), (0.0, 0.2, 600, 100)])
def test_the_correction_gives_the_populations_value(power, gamma, size, hold):
    """A spectrum without a gap (theta .34), and one on a plateau (theta 0, where in-sample is right)."""
    dimension, nbeta = 60, 200.0
    scales = torch.arange(1, dimension + 1).float() ** (-power / 2)
    exact = ld.theory.quadratic_llc((2 * scales.double() ** 2).tolist(), nbeta, gamma)
    result = ld.estimate_llc(
        Scaled(scales),
        ld.behavioural(lambda model, batch: model(batch[0])),
        sample(dimension),
        sampler=ld.MALT(nbeta=nbeta, localization=gamma, num_steps=8, updates_per_batch=hold),
        num_samples=1000,
        batch_size=size,
        num_chains=4,
        num_draws=600,
        num_burnin=100,
        seed=1,
    )
    inside = float(result.trace.mean())
    assert abs(result.llc - exact) < 4 * result.standard_error
    assert abs(result.llc - exact) < 0.05 * exact
    assert result.standard_error < 0.05 * exact
    assert result.batch_gap > 0.08 * exact
    assert result.llc == pytest.approx(inside + result.batch_correction)
    if power:
        assert inside < 0.94 * exact
        assert inside + result.batch_gap > 1.07 * exact


def test_nothing_is_corrected_without_a_look_out_of_sample():
    losses = np.random.default_rng(0).gamma(5, size=(2, 50))
    found = batch_gap(losses, np.full_like(losses, np.nan), share_of_slope(losses, np.zeros_like(losses)))
    assert math.isnan(found.gap)
    assert (found.correction, found.systematic_error) == (0.0, 0.0)
    assert found.influence is losses


def test_an_unknown_slope_leaves_the_middle():
    losses = np.full((2, 4), 10.0)
    fresh = np.array([[12.0, np.nan, 12.2, 11.8], [np.nan, 12.0, np.nan, 12.0]])
    found = batch_gap(losses, fresh, share_of_slope(losses, np.full_like(losses, np.nan)))
    assert found.gap == pytest.approx(2.0)
    assert found.correction == pytest.approx(1.0)
    assert found.influence.mean() == pytest.approx(11.0)
    assert 0.5 < found.systematic_error < 0.8  # .3 of the gap, and the order left out
