"""Units of weights: against exact Gauss-Newton diagonals and sizes, and estimates in them against closed forms."""

import math

import numpy as np
import pytest
import torch
from estimates import estimate
from problems import squared_outputs
from torch import nn
from torch.func import functional_call

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError
from llc_dynamics.sampling import metric
from llc_dynamics.sampling.batches import make_batches
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.theory import ReLUNetwork, rescaled


def network():
    """A small ReLU network in float64, every unit on for a good part of the inputs; 40 inputs."""
    model = ReLUNetwork((3, 4, 2), seed=1).double()
    with torch.no_grad():
        model.biases[0].add_(0.5)
    return model, (torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),)


def units_of(model, divergence, data, parameters=None, batch_size=None):
    flat = FlatModel(model, ld.behavioural(lambda m, batch: m(batch[0]), divergence), parameters=parameters)
    with flat:
        batches = make_batches(data, batch_size or len(data[0]), None, flat.device)
        return metric.curvature_units(flat, batches)


def jacobian(model, inputs):
    """[samples, outputs, weights]"""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    parts = torch.func.jacrev(lambda w: functional_call(model, w, (inputs,)))(weights)
    return torch.cat([part.flatten(2) for part in parts.values()], 2)


@pytest.mark.parametrize("divergence", ["squared", "kl"])
def test_units_are_those_of_the_gauss_newton_diagonal(divergence, monkeypatch):
    monkeypatch.setattr(metric, "_PROBES", 2000)
    model, data = network()
    found = units_of(model, divergence, data).numpy() ** -2.0
    slopes = jacobian(model, data[0])
    if divergence == "squared":
        exact = 2 / 2 * slopes.square().sum(1).mean(0)  # the second derivative of a mean over two outputs is 2/2
    else:
        p = torch.softmax(model(data[0]).detach(), -1)
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        exact = torch.einsum("jkw,jkl,jlw->w", slopes, curvature, slopes) / len(p)
    # the square of a sum of many random signs has a relative variance of 2 at most; 26 weights, 4 standard errors
    assert np.allclose(found, exact.numpy(), rtol=4 * math.sqrt(2 / 2000))


def test_a_weight_without_curvature_keeps_its_unit():
    model, data = network()
    with torch.no_grad():
        model.biases[0][2] = -100.0  # a unit that is never on
    units = units_of(model, "squared", data)
    dead = jacobian(model, data[0]).square().sum((0, 1)) == 0
    assert dead.any()
    assert (units[dead] == 1).all()
    assert (units[~dead] != 1).all()


class Scales(nn.Module):
    """f(x) = w x elementwise: Gauss-Newton diagonal, and Hessian, 2/k E[x_i^2]."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=torch.float64))

    def forward(self, x):
        return self.weight * x


@pytest.mark.parametrize("chain_method", ["loop", "vmap"])
def test_a_quadratic_has_the_value_of_its_units(chain_method):
    model = Scales(6)
    x = torch.diag_embed(torch.tensor([1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64))
    nbeta, gamma = 30.0, 10.0
    loss = ld.behavioural(lambda m, batch: m(batch[0]))
    settings = {"sampler": ld.MALT(nbeta=nbeta, localization=gamma, num_steps=8), "num_draws": 300, "num_burnin": 60}
    found = estimate(
        model, loss, (x,), batch_size=6, num_chains=8, metric="curvature", chain_method=chain_method, **settings
    )
    flat = FlatModel(model, loss)
    with flat:
        units = metric.curvature_units(flat, make_batches((x,), 6, None, flat.device))
    curvature = 2 / 6 * x.square().mean(0) * units.square()
    exact = float((nbeta * curvature / (nbeta * curvature + gamma)).sum() / 2)
    # diagonal inputs: the probes have no noise, all curvatures are 1 in their own units
    assert exact == pytest.approx(6 / 2 * nbeta / (nbeta + gamma))
    assert abs(found.llc - exact) < 4 * found.standard_error
    assert found.standard_error < 0.05 * exact
    assert found.virial == pytest.approx(1, abs=0.1)


def test_relative_units_are_the_size_of_each_tensor():
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0, 0], [0, 3.0, 0]]))
        model.bias.zero_()
    with FlatModel(model, ld.behavioural(lambda m, batch: m(batch[0]))) as flat:
        units = metric.relative_units(flat).numpy()
    assert np.allclose(units[:6], math.sqrt(18 / 6))
    # no size: the unit stays
    assert np.allclose(units[6:], 1)


def test_a_quadratic_has_the_value_of_its_relative_units():
    model = Scales(4)
    with torch.no_grad():
        model.weight.fill_(5.0)
    x = torch.diag_embed(torch.tensor([0.1, 0.3, 1.0, 3.0], dtype=torch.float64))
    nbeta, gamma = 30.0, 10.0
    loss = ld.behavioural(lambda m, batch: m(batch[0]))
    settings = {"sampler": ld.MALT(nbeta=nbeta, localization=gamma, num_steps=8), "num_draws": 300, "num_burnin": 60}
    found = estimate(model, loss, (x,), batch_size=4, num_chains=8, metric="relative", **settings)
    stiffness = nbeta * 2 / 4 * x.square().mean(0) * 5.0**2
    exact = float((stiffness / (stiffness + gamma)).sum() / 2)
    assert abs(found.llc - exact) < 4 * found.standard_error
    assert found.standard_error < 0.05 * exact


@pytest.mark.parametrize("units", ["curvature", "relative"])
def test_an_estimate_does_not_change_when_a_network_is_rescaled(units):
    base, data = network()
    loss = ld.behavioural(lambda m, batch: m(batch[0]))
    settings = {
        "sampler": ld.MALT(nbeta=100.0, localization=20.0, num_steps=4),
        "num_draws": 20,
        "num_burnin": 20,
        "num_chains": 2,
        "batch_size": 40,
    }
    plain, same = [], []
    for factor in (1e-3, 1.0, 1e3):
        model = rescaled(base, [factor])
        same.append(estimate(model, loss, data, metric=units, **settings).llc)
        plain.append(estimate(model, loss, data, **settings).llc)
    # the same random numbers: equal but for rounding, which a Metropolis test may turn into another path
    assert same == pytest.approx([same[1]] * 3, rel=1e-6)
    assert abs(plain[0] / plain[1] - 1) > 0.1


def test_masked_weights_have_units_of_their_own():
    model, data = network()
    everything = units_of(model, "squared", data)
    names = [name for name, _ in model.named_parameters()]
    part = units_of(model, "squared", data, parameters=names[0])
    assert torch.equal(part, everything[: len(part)])


def test_the_model_comes_back_and_the_next_estimate_is_plain():
    model, data = network()
    before = [p.detach().clone() for p in model.parameters()]
    loss = ld.behavioural(lambda m, batch: m(batch[0]))
    settings = {"sampler": ld.MALT(nbeta=10.0), "num_draws": 4, "num_burnin": 4, "num_chains": 1, "batch_size": 40}
    first = estimate(model, loss, data, **settings)
    with_metric = estimate(model, loss, data, metric="curvature", **settings)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert estimate(model, loss, data, **settings).llc == first.llc != with_metric.llc
    assert with_metric.settings["metric"] == "curvature"
    assert "metric" not in first.settings


def test_what_metric_does_not_go_with():
    model, data = network()
    with pytest.raises(ConfigError, match="metric must be one of euclidean, curvature, relative, got 'fisher'"):
        estimate(model, ld.behavioural(lambda m, batch: m(batch[0])), data, metric="fisher")
    with pytest.raises(ConfigError, match=r"needs a loss made by ld\.behavioural"):
        estimate(model, squared_outputs, data, metric="curvature")
    with pytest.raises(ConfigError, match="leave metric out"):
        ld.EstimateSettings(metric="curvature", engine="devinterp")
