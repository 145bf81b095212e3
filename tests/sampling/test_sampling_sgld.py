"""SGLD against a slow twin and against exact stationary values (science.md, section 2)."""

import math

import numpy as np
import pytest
import torch
from problems import NO_DATA, Vector, exact_loss, quadratic

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.diagnostics import monte_carlo_error
from llc_dynamics.sampling import Evaluation, Noise, Target


def test_update_is_the_equation():
    sampler = ld.SGLD(step_size=0.03, localization=7.0)
    origin, position, gradient = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target, noise = Target(origin, 11.0, 7.0), Noise([torch.Generator().manual_seed(1)])
    state = sampler.init(position[None], None, target, noise)
    sampler.update(state, Evaluation(torch.zeros(1, 3), gradient[None]), None, target, noise, False)
    noise = torch.empty(5, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(1))
    expected = position - 0.03 / 2 * (11.0 * gradient + 7.0 * (position - origin)) + math.sqrt(0.03) * noise
    torch.testing.assert_close(state.position[0], expected)


@pytest.mark.parametrize(
    ("step_size", "localization", "nbeta"),
    [(0.05, 1.0, 4.0), (0.05, 4.0, 4.0), (0.2, 4.0, 4.0), (0.3, 0.0, 2.0), (0.002, 100.0, 40.0), (0.01, 1.0, 40.0)],
)
def test_quadratic_has_its_stationary_value_and_the_posteriors(step_size, localization, nbeta):
    curvature = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64).repeat_interleave(400)
    a = nbeta * curvature + localization
    expected = float((0.5 * nbeta * curvature / (a * (1 - step_size * a / 4))).sum())
    slowest = 2 / float(a.min()) / step_size
    result = ld.estimate_llc(
        Vector(1200, torch.float64),
        quadratic(curvature),
        NO_DATA,
        sampler=ld.SGLD(step_size, nbeta, localization),
        num_chains=2,
        num_draws=300,
        num_burnin=int(6 * slowest),  # what is left of the start is then exp(-12)
    )
    error = monte_carlo_error(result.trace)[0]
    assert abs(result.trace.mean() - expected) < 4 * error
    assert abs(result.llc - float((0.5 * nbeta * curvature / a).sum())) < 4 * result.standard_error
    assert result.standard_error < 0.03 * expected
    # (w - w*).grad U / d, at finite eps 1/(1 - eps a / 4) per direction; less the heat of the step 1
    expected_virial = float((1 / (1 - step_size * a / 4)).mean())
    assert abs(result.virial + result.virial_heat - expected_virial) < 5 * result.virial_error + 1e-3
    assert abs(result.virial - 1) < 4 * result.virial_error + 1e-3


def test_small_steps_give_the_posterior_value():
    curvature = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64).repeat_interleave(700)
    nbeta, gamma = 10.0, 5.0
    expected = float((0.5 * nbeta * curvature / (nbeta * curvature + gamma)).sum())
    result = ld.estimate_llc(
        Vector(2100, torch.float64),
        quadratic(curvature),
        NO_DATA,
        sampler=ld.SGLD(0.002, nbeta, gamma),
        num_chains=2,
        num_draws=500,
        num_burnin=500,
    )
    assert abs(result.llc - expected) < 4 * result.standard_error


def stationary_mean(gradient, value, step_size):
    """E[value(w)] under the exact stationary law of w' = w - eps/2 gradient(w) + sqrt(eps) xi, by quadrature."""
    grid = np.linspace(-2.5, 2.5, 401)
    middle = grid - step_size / 2 * gradient(grid)
    kernel = np.exp(-((grid[:, None] - middle[None, :]) ** 2) / (2 * step_size))
    kernel /= kernel.sum(0)
    density = np.exp(-value(grid))
    for _ in range(int(20 / step_size)):
        density = kernel @ density
    return float((value(grid) * density).sum() / density.sum())


@pytest.mark.parametrize("k", [2, 3])
def test_singular_minimum_has_learning_coefficient_one_over_2k(k):
    copies, step_size = 2500, 0.02
    law = (lambda w: 2 * k * w ** (2 * k - 1), lambda w: w ** (2 * k))
    at_this_step, at_half = stationary_mean(*law, step_size), stationary_mean(*law, step_size / 2)
    # without the bias of first order in the step: exactly 1/(2k) at gamma = 0
    assert 2 * at_half - at_this_step == pytest.approx(1 / (2 * k), rel=0.01)
    result = ld.estimate_llc(
        Vector(copies, torch.float64),
        exact_loss(law[1]),
        NO_DATA,
        sampler=ld.SGLD(step_size, nbeta=1.0, localization=0.0),
        num_chains=2,
        num_draws=400,
        num_burnin=400,
    )
    raw, error = float(result.trace.mean()), monte_carlo_error(result.trace)[0]
    assert abs(raw / copies - at_this_step) < 4 * error / copies
    assert error < 0.015 * raw
    # the step's shift is that of a power |w|^2k, and is taken off as such: to a tenth of itself
    exact = 1 / (2 * k)
    assert abs(result.llc / copies - exact) < 4 * error / copies + 0.1 * abs(at_this_step - exact)


@pytest.mark.parametrize(
    "settings",
    [
        {"step_size": 0.0},
        {"step_size": -1e-4},
        {"step_size": math.nan},
        {"step_size": math.inf},
        {"nbeta": 0.0},
        {"nbeta": math.nan},
        {"localization": -1.0},
        {"localization": math.nan},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ld.SGLD(**settings)
