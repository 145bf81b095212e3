"""`engine="devinterp"`: devinterp's optimisers in our estimator, step by step and on average against our kernels."""

import functools
import importlib.util
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from estimates import estimate
from problems import NO_DATA, Vector, network, quadratic, regression, squared_error
from torch import nn

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, MissingPackageError
from llc_dynamics.llc import EstimateSettings, Problem, llc_point
from llc_dynamics.sampling import Noise
from llc_dynamics.sampling.batches import make_batches

needs_devinterp = pytest.mark.skipif(
    importlib.util.find_spec("devinterp") is None,
    reason='devinterp is not installed: pip install "llc-dynamics[devinterp]"',
)
SHAPES = [(4, 3), (4,), (1, 4), (1,)]


def fitted():
    """A linear model with a bias at the least-squares solution."""
    (x, y), model = regression(), nn.Linear(3, 1)
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(64, 1)], 1), y).solution[:, 0]
    with torch.no_grad():
        model.weight.copy_(best[None, :3])
        model.bias.copy_(best[3:])
    return model


class NoiseByTensor(Noise):
    """The numbers that devinterp's optimisers draw: torch.normal for each tensor, of which `chosen` are used."""

    def __init__(self, shapes, chosen, generators):
        super().__init__(generators)
        self.shapes, self.chosen = shapes, chosen

    def normal(self, out):
        for row, generator in zip(out, self.generators, strict=True):
            parts = [torch.normal(0.0, 1.0, shape, generator=generator).flatten() for shape in self.shapes]
            row.copy_(torch.cat(parts)[self.chosen])
        return out


class WithTheirThreePoints(ld.RMSpropSGLD):
    """RMSpropSGLD with v from 0, no correction, and a preconditioner that never settles, as devinterp has it."""

    def init(self, *arguments):
        state = super().init(*arguments)
        state.moment.zero_()
        state.updates = 10**9  # decay to this power is 0, and so is the correction
        return state

    def update(self, *arguments):
        return super().update(*arguments[:-1], True)


def mask_of(name):
    masks = {"0.weight": torch.zeros(4, 3, dtype=torch.bool), "2.bias": None}
    masks["0.weight"][1:, :2] = True
    chosen = torch.cat([masks["0.weight"].flatten(), torch.zeros(8), torch.ones(1)]).bool()
    return (masks, SHAPES[::3], chosen[[*range(12), 20]]) if name else (None, SHAPES, torch.ones(21, dtype=torch.bool))


@needs_devinterp
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (ld.SGLD(1e-3, 40.0, 3.0), ld.SGLD(1e-3, 40.0, 3.0)),
        (ld.SGLD(1e-3, 40.0, 0.0), ld.SGLD(1e-3, 40.0, 0.0)),
        (ld.RMSpropSGLD(1e-3, 40.0, 3.0, 0.9, 0.3), WithTheirThreePoints(1e-3, 40.0, 3.0, 0.9, 0.3)),
    ],
)
def test_given_the_same_noise_both_engines_take_the_same_steps(monkeypatch, theirs, ours, dtype, rounding, masked):
    masks, shapes, chosen = mask_of(masked)
    settings = {"num_chains": 2, "num_draws": 40, "num_burnin": 5, "batch_size": 16, "parameters": masks}
    model, data = network(dtype=dtype), regression(dtype=dtype)
    found = estimate(model, squared_error, data, sampler=theirs, engine="devinterp", **settings)
    monkeypatch.setattr("llc_dynamics.sampling.engine.Noise", functools.partial(NoiseByTensor, shapes, chosen))
    expected = estimate(model, squared_error, data, sampler=ours, **settings)
    for name in ("trace", "distance_trace", "virial_trace"):
        scale = np.abs(getattr(expected, name)).mean()
        assert scale > 0
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=rounding, atol=rounding * scale, err_msg=name
        )


@needs_devinterp
def test_one_tensor_gets_the_very_noise_of_our_kernels():
    """No injection: for a single float32 tensor both engines draw the same numbers from a chain's generator."""
    model, settings = nn.Linear(3, 1, bias=False), {"num_draws": 30, "num_burnin": 5, "batch_size": 16}
    ours = estimate(model, squared_error, regression(), sampler=ld.SGLD(1e-3), **settings)
    theirs = estimate(model, squared_error, regression(), sampler=ld.SGLD(1e-3), engine="devinterp", **settings)
    np.testing.assert_allclose(theirs.distance_trace, ours.distance_trace, rtol=1e-4)


@needs_devinterp
@pytest.mark.parametrize(
    "sampler",
    # stability 5 outweighs sqrt(v), so that the three points in which devinterp's RMSprop differs hardly matter
    [ld.SGLD(5e-3, 40.0, 10.0), ld.RMSpropSGLD(0.03, 40.0, 10.0, stability=5.0)],
)
def test_both_engines_agree_on_average(sampler):
    settings = {"sampler": sampler, "num_chains": 4, "num_draws": 250, "num_burnin": 100, "batch_size": 32}
    ours = estimate(fitted(), squared_error, regression(), seed=1, **settings)
    theirs = estimate(fitted(), squared_error, regression(), seed=2, engine="devinterp", **settings)
    assert ours.llc != theirs.llc
    error = math.hypot(ours.standard_error, theirs.standard_error)
    assert error < 0.1 * abs(ours.llc)
    assert abs(ours.llc - theirs.llc) < 4 * error


@needs_devinterp
def test_their_moving_preconditioner_is_biased_and_ours_is_not():
    """A Gaussian in 20 dimensions, without localisation: lambda_hat is 10."""
    sampler = ld.RMSpropSGLD(0.02, nbeta=4.0, localization=0.0, decay=0.9, stability=0.1)
    settings = {"sampler": sampler, "num_chains": 4, "num_draws": 500, "num_burnin": 200}
    ours = estimate(Vector(20), quadratic(1.0), NO_DATA, **settings)
    theirs = estimate(Vector(20), quadratic(1.0), NO_DATA, engine="devinterp", **settings)
    assert abs(ours.llc - 10) < 4 * ours.standard_error
    assert theirs.llc > 10 + 4 * theirs.standard_error


@needs_devinterp
def test_chains_in_one_batch_of_work_take_the_same_path():
    settings = {"sampler": ld.SGLD(1e-3), "engine": "devinterp", "num_chains": 3, "num_draws": 20, "num_burnin": 2}
    one, many = (
        estimate(network(), squared_error, regression(), chain_method=method, **settings) for method in ("loop", "vmap")
    )
    np.testing.assert_allclose(many.trace, one.trace, rtol=1e-3, atol=1e-4 * np.abs(one.trace).mean())


@needs_devinterp
def test_a_chain_that_dies_is_reported():
    result = estimate(
        network(), squared_error, regression(), sampler=ld.SGLD(50.0, 40.0, 3.0), engine="devinterp", num_draws=20
    )
    assert len(result.failed_chains) == 4
    assert math.isnan(result.llc)


@needs_devinterp
def test_nbeta_of_one_needs_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate(
            network(),
            squared_error,
            regression(),
            sampler=ld.SGLD(1e-3, 1.0),
            engine="devinterp",
            num_draws=4,
            num_burnin=2,
        )


@needs_devinterp
def test_result_and_stored_points_say_who_made_the_updates(tmp_path):
    model, settings = network(), {"sampler": ld.SGLD(1e-3), "num_chains": 2, "num_draws": 8, "num_burnin": 2}
    with ld.TrajectoryWriter(tmp_path / "run", model, config={}) as writer:
        writer.record(0, metrics={"loss": 0.0})
    problem = Problem(model, squared_error, regression())
    theirs, ours = EstimateSettings(engine="devinterp", **settings), EstimateSettings(**settings)
    result = llc_point(tmp_path / "run", 0, problem, theirs)
    assert result.settings["engine"] == "devinterp"
    assert result.provenance["engine"].startswith("devinterp 2.")
    assert llc_point(tmp_path / "run", 0, problem, theirs).provenance == result.provenance
    with pytest.raises(ConfigError, match="engine is devinterp there and not set here"):
        llc_point(tmp_path / "run", 0, problem, ours)


def test_the_engine_is_a_setting_only_where_it_is_not_ours():
    batches = make_batches(regression(), 16, None, torch.device("cpu"))
    assert "engine" not in EstimateSettings().resolved(batches)
    assert EstimateSettings(engine="devinterp").resolved(batches)["engine"] == "devinterp"


@pytest.mark.parametrize("sampler", [ld.Underdamped(0.1), ld.MALA(0.1), ld.HMC(), ld.MALT()])
def test_a_kernel_that_devinterp_does_not_have_is_refused(sampler):
    with pytest.raises(ConfigError, match=f"no {type(sampler).__name__}; it runs SGLD and RMSpropSGLD"):
        estimate(network(), squared_error, regression(), sampler=sampler, engine="devinterp")


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'devinterp'"):
        estimate(network(), squared_error, regression(), engine="devintrp")


def test_without_devinterp_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "devinterp.optim.sgmcmc", None)
    with pytest.raises(MissingPackageError, match=r'pip install "llc-dynamics\[devinterp\]"') as error:
        estimate(network(), squared_error, regression(), engine="devinterp", num_draws=4)
    assert isinstance(error.value, ld.LLCDynamicsError)
    assert isinstance(error.value, ImportError)
