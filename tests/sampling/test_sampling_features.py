"""Parts of a model, microbatches, vmap, more draws later, observed and behavioural losses.

The few statistical tests allow four standard errors, each a false alarm in 1 of 15,000 for another seed.
"""

import functools
from collections import namedtuple
from dataclasses import replace

import numpy as np
import problems
import pytest
import torch
from estimates import estimate
from problems import least_squares, squared_error
from torch import nn
from torch.nn import functional

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling import Chains, ChainSettings
from llc_dynamics.sampling.batches import make_batches
from llc_dynamics.sampling.calls import take_slice
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.selection import resolve_selection
from llc_dynamics.theory import Quadratic, potential_data
from llc_dynamics.theory import squared_error as potential_loss

network = functools.partial(problems.network, dtype=torch.float64)
regression = functools.partial(problems.regression, 40, dtype=torch.float64)
CPU = torch.device("cpu")
BEHAVIOURAL = ld.behavioural(problems.outputs)
KERNELS = [
    ld.SGLD(1e-3, localization=4.0),
    ld.RMSpropSGLD(1e-3, localization=4.0, decay=0.9),
    ld.Underdamped(0.05, localization=4.0),
    ld.Underdamped(localization=4.0, num_steps=2, thermostat=True),
    ld.MALT(localization=4.0, num_steps=3, updates_per_batch=4),
    ld.HMC(0.1, localization=4.0, num_steps=3, updates_per_batch=None),
    ld.MALA(localization=4.0, updates_per_batch=1),
]
each_kernel = pytest.mark.parametrize(
    "kernel", KERNELS, ids=lambda kernel: f"{type(kernel).__name__}-{kernel.updates_per_batch}"
)
BY_DRAW = ("loss_difference", "distance", "virial", "virial_by_block", "fresh_difference", "half_difference")
ALL_TRACES = (*BY_DRAW, "kinetic", "gradient_kinetic", "acceptance", "step_size")


def run(model, kernel, calls=(6,), *, loss_fn=BEHAVIOURAL, data=None, batch_size=8, flat=None, **changes):
    """Traces of short chains, with draws in one call of `advance` or several."""
    observed = changes.pop("observed", None)
    kernel = replace(kernel, nbeta=changes.pop("nbeta", 20.0))
    settings = ChainSettings(sampler=kernel, **{"num_chains": 2, "num_burnin": 5, "seed": 4, **changes})
    batches = make_batches(regression() if data is None else data, batch_size, None, CPU)
    with flat or FlatModel(model, loss_fn) as entered:
        chains = Chains(entered, batches, settings, observed)
        for draws in calls:
            traces = chains.advance(draws)
    return traces


def assert_same(one, other, rtol=0.0, atol=0.0, names=ALL_TRACES):
    for name in names:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=atol, err_msg=name)


# --- chains -----------------------------------------------------------------------------------------------------------


@each_kernel
def test_more_draws_later_are_the_draws_of_one_run(kernel):
    whole = run(network(), kernel, (10,))
    assert np.isfinite(whole.loss_difference).all()
    for calls in ((5, 5), (1, 2, 7), (4, 6)):
        assert_same(run(network(), kernel, calls), whole)
    spaced = run(network(), kernel, (10,), steps_per_draw=3, loss_fn=BEHAVIOURAL)
    assert_same(run(network(), kernel, (5, 5), steps_per_draw=3), spaced)


@each_kernel
def test_more_draws_later_of_chains_side_by_side(kernel):
    whole = run(network(), kernel, (8,), chain_method="vmap")
    assert_same(run(network(), kernel, (3, 5), chain_method="vmap"), whole)


@each_kernel
def test_a_chain_does_not_depend_on_how_many_there_are(kernel):
    one, three = (run(network(), kernel, num_chains=chains) for chains in (1, 3))
    for name in ALL_TRACES:
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name)[:1], err_msg=name)
    assert len({float(values[-1]) for values in three.loss_difference}) == 3


@each_kernel
def test_vmap_is_the_loop(kernel):
    loop, side_by_side = (run(network(), kernel, (8,), chain_method=method) for method in ("loop", "vmap"))
    assert_same(side_by_side, loop, rtol=1e-7, atol=1e-10)
    given = {"loss_fn": squared_error, "batch_size": 40 if kernel.holds_batch else 8}
    loop, side_by_side = (run(network(), kernel, chain_method=method, **given) for method in ("loop", "vmap"))
    assert_same(side_by_side, loop, rtol=1e-7, atol=1e-10)
    loop, side_by_side = (
        run(network(), kernel, flat=FlatModel(network(), BEHAVIOURAL, parameters="2.*"), chain_method=method)
        for method in ("loop", "vmap")
    )
    assert_same(side_by_side, loop, rtol=1e-7, atol=1e-10)


def test_a_chain_that_dies_leaves_the_others_alone():
    """Chains side by side: those that live go on as they do in the loop, where they are apart."""

    class Cliff(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def loss_fn(model, batch):
        safe = torch.where(model.w[0] > 0.4, torch.nan, 1.0)
        return (safe * model.w.square().sum()).expand(len(batch[0]))

    for kernel in (ld.SGLD(0.01, localization=1.0), ld.Underdamped(0.1, localization=1.0, friction=3.0)):
        settings = {"loss_fn": loss_fn, "data": (torch.zeros(8, 1),), "num_chains": 8, "nbeta": 5.0}
        loop, vmap = (run(Cliff(), kernel, (40,), chain_method=method, **settings) for method in ("loop", "vmap"))
        assert 0 < len(loop.failed) < 8
        assert sorted(map(str, loop.failed)) == sorted(map(str, vmap.failed))
        assert_same(vmap, loop, rtol=1e-7, atol=1e-10)


class Everything(nn.Module):
    """Tied, frozen and unused parameters, dropout, BatchNorm, and buffers that every forward pass changes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm, self.dropout, self.last = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1)
        self.last.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2, 2))
        self.norm.running_mean.fill_(0.3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.last(self.dropout(self.norm(self.second(self.first(x))))) + 0.01 * self.calls


def test_tied_weights_batchnorm_dropout_and_buffers_under_vmap():
    model = Everything().double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loop, vmap = (
        run(model, ld.SGLD(1e-3), loss_fn=squared_error, chain_method=method, num_chains=3)
        for method in ("loop", "vmap")
    )
    assert_same(vmap, loop, rtol=1e-7, atol=1e-10)
    assert model.training
    assert model.second.weight is model.first.weight
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_tied_weights_count_once():
    """f = w u x with w = u is w^2 x: the gradient is that of both uses."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(1, 1, bias=False).double()
            self.two = nn.Linear(1, 1, bias=False).double()
            self.two.weight = self.one.weight
            nn.init.constant_(self.one.weight, 3.0)

        def forward(self, x):
            return self.two(self.one(x))

    x, y = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    with FlatModel(Tied(), squared_error) as flat:
        assert flat.dimension == 1
        gradient = flat.losses_and_gradient(torch.tensor([2.0], dtype=torch.float64), (x, y), 4)[1]
        assert float(gradient) == pytest.approx(4 * 2.0**3)  # of w^4


def test_vmap_wants_one_precision_and_no_microbatches():
    with pytest.raises(ConfigError, match="vmap"):
        run(network(), KERNELS[0], chain_method="vmap", flat=FlatModel(network(), BEHAVIOURAL, microbatch_size=2))
    with pytest.raises(ConfigError, match="chain_method must be"):
        run(network(), KERNELS[0], chain_method="threads")
    mixed = network()
    mixed[0].float()
    with pytest.raises(ConfigError, match="vmap"):
        run(mixed, KERNELS[0], chain_method="vmap")


# --- parts of a model -------------------------------------------------------------------------------------------------


PARAMETERS = {name: torch.zeros(2, 3) for name in ("blocks.0.query", "blocks.0.key", "blocks.1.query", "head")}


class TestSelection:
    def names(self, selection):
        return list(resolve_selection(selection, PARAMETERS))

    def test_names_and_patterns(self):
        assert self.names(None) == list(PARAMETERS)
        assert self.names("head") == ["head"]
        assert self.names("blocks.0.*") == ["blocks.0.query", "blocks.0.key"]
        assert self.names(["head", "*.query"]) == ["blocks.0.query", "blocks.1.query", "head"]
        assert self.names({"blocks.?.query": None}) == ["blocks.0.query", "blocks.1.query"]

    def test_a_name_to_the_letter_is_no_pattern(self):
        odd = {name: torch.zeros(2) for name in ("d.w[0]", "d.w0", "d.*", "d.w?")}
        for name in odd:
            assert list(resolve_selection(name, odd)) == [name]
        assert list(resolve_selection("d.w[0-9]", odd)) == ["d.w0"]
        assert list(resolve_selection({"d.w[0]": np.array([True, False])}, odd)) == ["d.w[0]"]

    def test_names_of_wrapped_models(self):
        """As a run stores them, or as the wrapper has them."""
        wrapped = {f"_orig_mod.{name}": each for name, each in PARAMETERS.items()}
        for pattern in ("head", "_orig_mod.head", "h*"):
            assert list(resolve_selection(pattern, wrapped)) == ["_orig_mod.head"]
        assert list(resolve_selection("blocks.0.*", wrapped)) == ["_orig_mod.blocks.0.query", "_orig_mod.blocks.0.key"]

    def test_masks(self):
        left, right = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
        left[:, 0], right[:, 1:] = True, True
        assert torch.equal(resolve_selection({"head": left}, PARAMETERS)["head"], left)
        union = resolve_selection({"head": left, "h*": right}, PARAMETERS)
        assert union == {"head": None}  # together the whole tensor
        assert self.names({"head": left & right, "blocks.0.key": left}) == ["blocks.0.key"]

    @pytest.mark.parametrize(
        ("selection", "error", "message"),
        [
            ("blocks.0.quary", ConfigError, "did you mean 'blocks.0.query'"),
            ("blocks.7.*", ConfigError, "matches no parameter"),
            ("head[0]", ConfigError, r"\[...\] is a pattern for one character, and 'head\[0\]' matches.*mean 'head'"),
            (torch.nn.Parameter(torch.zeros(2, 3)), ConfigError, "give names or patterns of parameters, got a Tensor"),
            (3, ConfigError, "give names or patterns of parameters, got a int"),
            ([], ConfigError, "chooses no weight"),
            ({"head": torch.zeros(2, 3, dtype=torch.bool)}, ConfigError, "chooses no weight"),
            ({"head": torch.ones(3, 2, dtype=torch.bool)}, DataError, r"\(2, 3\).*\(3, 2\)"),
            ({"head": torch.ones(2, 3)}, DataError, "float32"),
            ({"head": [True]}, DataError, "list"),
        ],
    )
    def test_what_cannot_be_meant(self, selection, error, message):
        with pytest.raises(error, match=message):
            resolve_selection(selection, PARAMETERS)

    @pytest.mark.parametrize("method", ["loop", "vmap"])
    @pytest.mark.parametrize("kernel", [ld.SGLD(4e-3, 10.0, 2.0), ld.MALT(0.15, 10.0, 2.0, num_steps=4)])
    def test_the_estimate_is_that_of_the_chosen_curvatures(self, kernel, method):
        curvatures = [0.1, 30.0, 1.0, 5.0] * 12
        model, chosen = Quadratic(curvatures), torch.tensor([True, False, True, True] * 12)
        kept = [h for h, yes in zip(curvatures, chosen, strict=True) if yes]
        result = estimate(
            model,
            potential_loss,
            potential_data(model, 4),
            sampler=kernel,
            num_chains=4,
            num_draws=150,
            num_burnin=150 if isinstance(kernel, ld.SGLD) else 30,
            parameters={"weight": chosen},
            chain_method=method,
        )
        sgld = isinstance(kernel, ld.SGLD)
        exact = theory.quadratic_sgld_llc(kept, 10.0, 2.0, 4e-3) if sgld else theory.quadratic_llc(kept, 10.0, 2.0)
        assert result.dimension == 36
        assert abs(result.llc - exact) < 4 * result.standard_error
        assert result.standard_error < 0.08 * exact

    def test_all_others_stay_where_they_are(self):
        model, mask = network(), torch.zeros(4, 3, dtype=torch.bool)
        mask[1] = True
        seen = []

        def loss_fn(model, batch):
            seen.append([parameter.detach().clone() for parameter in model.parameters()])
            return squared_error(model, batch)

        run(model, ld.SGLD(1e-2), flat=FlatModel(model, loss_fn, parameters={"0.weight": mask}))
        weights, *others = (torch.stack(values) for values in zip(*seen, strict=True))
        assert (weights[:, ~mask] == weights[0, ~mask]).all()
        assert (weights[:, mask] != weights[0, mask]).any()
        assert all((values == values[0]).all() for values in others)

    def test_one_block_is_a_chain_of_its_own(self):
        """Sampling one layer by name is sampling a model whose other layers are frozen."""
        frozen = network()
        frozen[0].requires_grad_(False)
        named = run(network(), KERNELS[0], flat=FlatModel(network(), BEHAVIOURAL, parameters="2.*"))
        assert_same(named, run(frozen, KERNELS[0]))


# --- microbatches -----------------------------------------------------------------------------------------------------


class TestMicrobatches:
    def test_the_gradient_is_that_of_the_batch(self):
        batch = tuple(tensor[:8] for tensor in regression())
        with FlatModel(network(), squared_error) as flat:
            losses, gradient = flat.losses_and_gradient(flat.origin + 0.1, batch, 8)
            gradient = gradient.clone()
        for size in (1, 3, 8, 100):
            with FlatModel(network(), squared_error, microbatch_size=size) as flat:
                parts, accumulated = flat.losses_and_gradient(flat.origin + 0.1, batch, 8)
                torch.testing.assert_close(parts, losses)
                torch.testing.assert_close(accumulated, gradient)

    @each_kernel
    def test_the_chain_is_the_same(self, kernel):
        whole = run(network(), kernel)
        assert_same(
            run(network(), kernel, flat=FlatModel(network(), BEHAVIOURAL, microbatch_size=3)), whole, 1e-8, 1e-11
        )

    def test_batches_of_any_structure_are_cut(self):
        pair = namedtuple("pair", "x y")
        x, scale = torch.arange(8), torch.ones(3)
        cut = take_slice({"a": pair(x, [x, scale]), "b": (x, "label", torch.tensor(2.0))}, 2, 5, 8)
        assert isinstance(cut["a"], pair)
        assert cut["a"].x.tolist() == cut["a"].y[0].tolist() == cut["b"][0].tolist() == [2, 3, 4]
        assert len(cut["a"].y[1]) == 3
        assert cut["b"][1:] == ("label", torch.tensor(2.0))


# --- observed and behavioural losses ----------------------------------------------------------------------------------


SHORT = {"num_chains": 2, "num_draws": 30, "num_burnin": 10, "batch_size": 8}


class TestObserve:
    def test_the_sampled_loss_is_observed_as_itself(self):
        twice = {"same": squared_error, "twice": lambda model, batch: 2 * squared_error(model, batch)}
        result = estimate(network(), squared_error, regression(), observe=twice, **SHORT)
        raw = result.trace.mean()
        assert result.observed["same"][0] == pytest.approx(raw)
        assert result.observed["twice"][0] == pytest.approx(2 * raw)
        assert result.observed["twice"][1] == pytest.approx(2 * result.observed["same"][1])
        plain = estimate(network(), squared_error, regression(), **SHORT)
        np.testing.assert_array_equal(plain.trace, result.trace)
        assert plain.observed == {}

    def test_the_given_loss_beside_the_behavioural_one(self):
        """At the least-squares solution both are the same quadratic: nbeta E|x.(w - w*)|^2."""
        data, model, _ = least_squares(200)
        settings = {**SHORT, "num_draws": 200, "batch_size": 200, "sampler": ld.SGLD(1e-4, 200.0, 50.0)}
        result = estimate(model, BEHAVIOURAL, data, observe={"given": squared_error}, **settings)
        assert result.loss == "behavioural"
        assert result.observed["given"][0] == pytest.approx(result.trace.mean(), rel=1e-6)

    def test_several_datasets_at_once(self):
        other = regression()[0][:5] + 1

        def elsewhere(model, batch):
            return (model(other) ** 2).mean().expand(len(batch[0]))

        result = estimate(network(), squared_error, regression(), observe={"other": elsewhere}, **SHORT)
        assert np.isfinite(result.observed["other"]).all()
        assert result.observed["other"][0] != pytest.approx(result.llc)


@pytest.mark.parametrize(
    "kernel", [ld.SGLD(2e-3, 10.0, 2.0), ld.Underdamped(0.05, 10.0, 2.0), ld.MALT(0.1, 10.0, 2.0, num_steps=4)]
)
def test_slopes_are_the_derivatives_of_the_exact_value(kernel):
    """On the whole data, whose halves differ by as much as the loss does: no batch noise is to be taken off."""
    h = np.array([0.1, 1.0, 5.0] * 10)
    model = Quadratic(list(h))
    x, y = potential_data(model, 8, noise=1.0)
    result = estimate(
        model,
        potential_loss,
        (x, torch.cat([y[::2], y[1::2]])),  # y in one half, -y in the other
        sampler=kernel,
        num_chains=8,
        num_draws=150,
        num_burnin=150 if isinstance(kernel, ld.SGLD) else 50,
        steps_per_draw=6 if isinstance(kernel, ld.SGLD) else 1,
        chain_method="vmap",
    )
    a = 10 * h + 2
    assert abs(result.slope_nbeta - np.sum(10 * h * 2 / a**2) / 2) < 4 * result.slope_nbeta_error
    assert abs(result.slope_gamma + np.sum(10 * h * 2 / a**2) / 2) < 4 * result.slope_gamma_error
    assert result.slope_nbeta_error < 2


class TestBehavioural:
    def classes(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 10), nn.Unflatten(1, (2, 5))).double()

    def losses(self, model, loss_fn, distance):
        x = regression()[0]
        with FlatModel(model, loss_fn) as flat:
            step = torch.randn(flat.dimension, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            place = flat.origin + distance * step
            losses = flat.losses(place, flat.prepare((x,), 40), 40)
            flat._place(place)
            with torch.no_grad():
                outputs = model(x)
        with torch.no_grad():
            return losses, outputs, model(x)

    def test_squared(self):
        losses, there, origin = self.losses(network(), BEHAVIOURAL, 0.3)
        torch.testing.assert_close(losses, (there - origin).square().mean(1))

    def test_kl_is_that_of_torch(self):
        loss_fn = ld.behavioural(lambda model, batch: model(batch[0]), "kl")
        losses, there, origin = self.losses(self.classes(), loss_fn, 0.5)
        pair = (there.log_softmax(-1), origin.log_softmax(-1))
        expected = functional.kl_div(*pair, reduction="none", log_target=True).sum(-1).mean(1)
        torch.testing.assert_close(losses, expected)
        assert (losses > 0).all()

    @pytest.mark.parametrize("divergence", ["squared", "kl"])
    def test_zero_at_the_start_and_never_negative(self, divergence):
        loss_fn = ld.behavioural(lambda model, batch: model(batch[0]), divergence)
        for distance in (0.0, 1e-3, 0.1, 10.0):
            losses = self.losses(self.classes(), loss_fn, distance)[0]
            assert (losses > -1e-12).all()
            assert bool((losses.abs() < 1e-12).all()) == (distance == 0)

    def test_a_bound_saturates_each_sample_and_leaves_small_losses_alone(self):
        bounded = ld.behavioural(lambda model, batch: model(batch[0]), bound=0.5)
        for distance in (1e-4, 0.3, 30.0):
            plain, found = (self.losses(network(), loss_fn, distance)[0] for loss_fn in (BEHAVIOURAL, bounded))
            torch.testing.assert_close(found, plain * 0.5 / (plain + 0.5))
            assert (found < 0.5).all()
            assert found.allclose(plain, rtol=1e-3) == (distance == 1e-4)

    def test_an_estimate_that_is_not_at_a_minimum_is_not_negative(self):
        """The given loss falls by moving away from random weights; what is measured against itself cannot."""
        settings = {"sampler": ld.SGLD(1e-3, 10.0, 5.0), "num_draws": 100, "num_burnin": 50, "num_chains": 2}
        given = estimate(network(), squared_error, regression(), **settings)
        own = estimate(network(), BEHAVIOURAL, regression(), **settings)
        assert given.llc < -2 * given.standard_error
        assert (given.loss, own.loss) == ("given", "behavioural")
        assert (own.trace >= 0).all()
        assert own.initial_loss == 0.0

    def test_both_losses_agree_at_a_minimum(self):
        data, model, curvatures = least_squares(500, 20)
        nbeta, gamma = 300.0, 100.0
        kernel = ld.Underdamped(0.3 / 25, nbeta, gamma)
        result = estimate(
            model, BEHAVIOURAL, data, sampler=kernel, num_chains=2, num_draws=800, num_burnin=200, batch_size=400
        )
        exact = theory.quadratic_llc(curvatures.numpy(), nbeta, gamma)
        # batches of 400: the noise of the curvatures, |x|^2 / B = 5%, heats by a share of that times h omega
        assert abs(result.llc - exact) < 4 * result.standard_error + 0.02 * exact
        assert result.standard_error < 0.05 * exact

    def test_what_cannot_be_meant(self):
        with pytest.raises(ConfigError, match="divergence"):
            ld.behavioural(lambda model, batch: None, "l1")  # noqa: ARG005
        for bound in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match="bound must be positive"):
                ld.behavioural(lambda model, batch: None, bound=bound)  # noqa: ARG005
        with pytest.raises(ConfigError, match="output_fn"):
            ld.behavioural(None)
        for outputs, kind in ((1.0, "float"), (torch.tensor(1.0), "without dimensions")):
            with pytest.raises(DataError, match=kind):
                run(network(), KERNELS[0], loss_fn=ld.behavioural(functools.partial(lambda o, *_: o, outputs)))
        broken = network()
        nn.init.constant_(broken[0].weight, torch.nan)
        with pytest.raises(DataError, match=r"outputs at w\*"):
            run(broken, KERNELS[0])


def test_kernels_of_this_file_are_all_kernels():
    assert {type(kernel) for kernel in KERNELS} == set(ld.sampling.KERNELS.values())
    assert all(replace(kernel) == kernel for kernel in KERNELS)
