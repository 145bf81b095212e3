"""`llc_curve`: stored point by point, resumed, the same on any number of workers, and never a wrong reuse."""

import os
import shutil
import threading

import h5py
import numpy as np
import pytest
import torch
from problems import regression, squared_error
from torch import nn

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, CorruptRunError, DataError, StepNotStoredError, TrajectoryError
from llc_dynamics.llc import EstimateSettings, Problem, Thresholds, llc_point
from llc_dynamics.llc import point as point_module

STEPS = [0, 10, 20, 30, 40]
SHORT = {
    "sampler": ld.SGLD(1e-4, localization=100.0),
    "num_chains": 2,
    "num_draws": 12,
    "num_burnin": 3,
    "batch_size": 16,
}


def network():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))


DATA = regression()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    torch.manual_seed(0)
    model, folder = network(), tmp_path_factory.mktemp("runs") / "run"
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    with ld.TrajectoryWriter(folder, model, config={}) as writer:
        for step in range(41):
            if step in STEPS:
                writer.record(step, metrics={"loss": 0.0})
            optimiser.zero_grad()
            squared_error(model, DATA).mean().backward()
            optimiser.step()
    return folder


@pytest.fixture
def run(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "run")


@pytest.fixture
def computed(monkeypatch):
    """The seeds of the points that were really computed in this process."""
    seeds = []

    def counting(problem, settings, *rest):
        seeds.append(settings.seed)
        return original(problem, settings, *rest)

    original = point_module.estimate
    monkeypatch.setattr(point_module, "estimate", counting)
    return seeds


def curve(run, **changes):
    everyday = {} if "settings" in changes else SHORT
    return ld.llc_curve(
        run, network(), changes.pop("loss_fn", squared_error), changes.pop("data", DATA), **everyday | changes
    )


def same(one, other):
    return (
        np.array_equal(one.steps, other.steps)
        and np.array_equal(one.values, other.values)
        and all(np.array_equal(a.trace, b.trace) for a, b in zip(one.results, other.results, strict=True))
    )


def test_a_curve_is_a_curve(run):
    found = curve(run)
    assert isinstance(found, ld.Curve)
    assert isinstance(found, ld.LLCCurve)
    assert found.name == "llc"
    np.testing.assert_array_equal(found.steps, STEPS)
    np.testing.assert_array_equal(found.values, [result.llc for result in found.results])
    np.testing.assert_array_equal(found.converged, [not reasons for reasons in found.reasons])
    assert (found.standard_errors > 0).all()
    np.testing.assert_allclose(np.diag(found.covariance), found.standard_errors**2)
    np.testing.assert_array_equal(found.to_xarray()["covariance"].sel(step=10), found.covariance[1])
    errors = found.difference(30, 40).standard_error, np.hypot(*found.standard_errors[3:])
    assert errors[0] < 0.9 * errors[1]
    assert len(found.initial_loss) == len(found.virial) == 5
    assert found.initial_loss.values[0] > found.initial_loss.values[-1]


@pytest.mark.parametrize("common", [True, False])
def test_a_point_is_the_estimate_at_its_checkpoint(run, common):
    """With common noise all points have the curve's own seed, otherwise each has one of its own."""
    model = network()
    trajectory = ld.Trajectory(run)
    found = ld.llc_curve(
        trajectory, model, squared_error, DATA, steps=[10, 20], settings=EstimateSettings(**SHORT, common_noise=common)
    )
    seeds = [0, 0] if common else [point_module.derive_seed(0, "llc", step) for step in (10, 20)]
    for step, seed, result in zip((10, 20), seeds, found.results, strict=True):
        trajectory.load_into(model, step)
        direct = ld.estimate_llc(model, squared_error, DATA, seed=seed, **SHORT)
        np.testing.assert_array_equal(result.trace, direct.trace)
        assert (result.settings["seed"], result.settings["common_noise"]) == (seed, common)


def test_everything_is_stored_without_a_pickle(run):
    found = curve(run)
    again = ld.LLCCurve.load(run, "llc")
    assert same(found, again)
    for one, other in zip(found.results, again.results, strict=True):
        assert repr(one.to_dict()) == repr(other.to_dict())
        np.testing.assert_array_equal(one.distance_trace, other.distance_trace)
        np.testing.assert_array_equal(one.virial_trace, other.virial_trace)
    with h5py.File(run / "llc" / "llc" / "step-20.h5") as file:  # any HDF5 tool reads it
        np.testing.assert_array_equal(file["trace"][()], found.results[2].trace)


def test_a_dead_chain_survives_storing(run):
    found = curve(run, sampler=ld.SGLD(1e4), steps=[40])
    assert np.isnan(found.values).all()
    assert found.results[0].failed_chains == ld.LLCCurve.load(run).results[0].failed_chains != ()


def test_a_killed_curve_goes_on_where_it_stopped(run, computed):
    whole = curve(run, name="whole")
    child = os.fork()
    if child == 0:  # dies like a killed process: no clean-up of any kind
        curve(run, progress=lambda *call: os._exit(7) if call[1] == 3 else None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    (run / "llc" / "llc" / ".step-30.h5.1-00000000.tmp").write_bytes(b"half a file")
    partial = ld.LLCCurve.load(run, "llc")
    np.testing.assert_array_equal(partial.steps, STEPS[:3])
    computed.clear()
    assert same(curve(run), whole)
    assert len(computed) == 2
    assert same(curve(run), whole)
    assert len(computed) == 2


def test_more_steps_later_compute_only_the_new_ones(run, computed):
    curve(run, steps=[0, 40])
    curve(run, steps=[40, 20])
    assert len(computed) == 3
    np.testing.assert_array_equal(ld.LLCCurve.load(run).steps, [0, 20, 40])


def test_workers_do_not_matter(run):
    torch.set_num_threads(2)
    try:
        torch.ones(500, 500) @ torch.ones(500, 500)  # the parent's thread pool is awake
        closure = {"scale": 1.0}
        loss = lambda model, batch: closure["scale"] * squared_error(model, batch)  # noqa: E731
        calls = []
        two = curve(run, name="two", workers=2, loss_fn=loss, progress=lambda *call: calls.append(call))
        assert torch.get_num_threads() == 2
        assert same(two, curve(run, name="one", loss_fn=loss))
        assert sorted(call[0] for call in calls) == STEPS
        assert [call[1:] for call in calls] == [(done, 5) for done in range(1, 6)]
    finally:
        torch.set_num_threads(1)


def test_what_cannot_be_sent_is_said(run):
    lock = threading.Lock()
    loss = lambda model, batch: squared_error(model, batch) if lock else None  # noqa: E731
    with pytest.raises(ConfigError, match=r"cannot be sent to another process: TypeError: cannot pickle.*lock"):
        curve(run, workers=2, loss_fn=loss)


def test_an_error_in_a_worker_is_the_callers(run):
    with pytest.raises(DataError, match="one loss per sample"):
        curve(run, workers=2, loss_fn=lambda model, batch: squared_error(model, batch).mean())


def test_the_model_comes_back_with_its_own_weights(run):
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ld.llc_curve(run, model, squared_error, DATA, steps=[40], **SHORT)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_draws": 13}, "num_draws is 12 there and 13 here"),
        ({"sampler": ld.SGLD(1e-5, localization=100.0)}, "sampler.step_size is 0.0001 there and 1e-05 here"),
        ({"seed": 1}, "seed is 0 there"),
        ({"settings": EstimateSettings(**SHORT, common_noise=False)}, "common_noise is True there and False here"),
        ({"num_samples": 65}, "num_samples is 64 there and 65 here"),
        ({"data": (DATA[0], DATA[1] + 1e-6)}, "data is"),
        ({"loss_fn": lambda model, batch: 2 * squared_error(model, batch)}, "other losses on a fixed probe"),
    ],
)
def test_another_computation_under_the_same_name_is_refused(run, change, message, computed):
    before = curve(run, steps=[0, 40])
    with pytest.raises(ConfigError, match=message) as caught:
        curve(run, steps=[0, 40], **change)
    assert "name=" in str(caught.value)
    assert "overwrite=True" in str(caught.value)
    assert same(ld.LLCCurve.load(run), before)
    assert len(computed) == 2
    curve(run, steps=[40], **change, name="other")
    assert len(computed) == 3
    assert not same(curve(run, steps=[0, 40], **change, overwrite=True), before)
    assert len(computed) == 5
    curve(run, steps=[0, 40], **change, overwrite=True)  # what is already of these settings stays
    assert len(computed) == 5


def test_a_loss_that_differs_only_away_from_the_start_is_noticed(run):
    """Both are zero at w*, as every loss that is measured against the outputs there."""

    def towards_start(power):
        def loss_fn(model, batch):
            start = ld.Trajectory(run).state_dict(40)["0.weight"]
            return ((model[0].weight - start).abs() ** power).sum() + 0 * squared_error(model, batch)

        return loss_fn

    curve(run, steps=[40], loss_fn=towards_start(2))
    with pytest.raises(ConfigError, match="probe"):
        curve(run, steps=[40], loss_fn=towards_start(4))


def test_functions_are_told_apart_by_what_they_sample(run):
    def sampler(scale):
        return lambda generator, size: tuple(scale * torch.randn(size, d, generator=generator) for d in (3, 1))

    curve(run, steps=[0], data=sampler(1.0), num_samples=100)
    with pytest.raises(ConfigError, match="probe"):
        curve(run, steps=[0], data=sampler(1.1), num_samples=100)
    with pytest.raises(ConfigError, match="data is None there and q_M here"):
        curve(run, steps=[0], data=sampler(1.0), num_samples=100, data_id="q_M")


def test_other_weights_are_noticed(run, tmp_path):
    curve(run, steps=[0])
    torch.manual_seed(1)
    other, model = tmp_path / "other", network()
    with ld.TrajectoryWriter(other, model, config={}) as writer:
        writer.record(0, metrics={"loss": 0.0})
    shutil.copytree(run / "llc", other / "llc")
    with pytest.raises(ConfigError, match="the weights of the checkpoint are other ones"):
        curve(other, steps=[0])


def test_another_choice_of_parameters_is_noticed(run):
    curve(run, steps=[0])
    part = network()
    part[0].requires_grad_(False)
    with pytest.raises(ConfigError, match="sampled_parameters"):
        ld.llc_curve(run, part, squared_error, DATA, steps=[0], **SHORT)


def test_thresholds_judge_stored_points_anew(run, computed):
    assert not curve(run, steps=[40], seed=1).converged.any()
    anything = Thresholds(
        r_hat=99, min_ess=0, virial_low=-99, virial_high=99, block_virial_low=-99, block_virial_high=99,
        max_virial_error=99, errors=99, negative_errors=99, precision=99,
    )  # fmt: skip
    assert curve(run, steps=[40], seed=1, thresholds=anything).converged.all()
    assert len(computed) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_point_is_named_and_can_be_computed_again(run, damage):
    before = curve(run)
    path = run / "llc" / "llc" / "step-20.h5"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-9] ^= 1
    path.write_bytes(content if damage == "flip" else content[: len(content) // 2 * (damage == "cut")])
    for read in (lambda: ld.LLCCurve.load(run), lambda: curve(run)):
        with pytest.raises(CorruptRunError, match=r"step-20\.h5.*delete"):
            read()
    path.unlink()
    assert same(curve(run), before)


def test_points_of_different_settings_do_not_make_a_curve(run):
    curve(run, steps=[0], name="a")
    curve(run, steps=[10], name="b", num_draws=13)
    shutil.copy(run / "llc" / "b" / "step-10.h5", run / "llc" / "a" / "step-10.h5")
    with pytest.raises(ConfigError, match="different settings"):
        ld.LLCCurve.load(run, "a")


def test_one_point(run):
    problem = Problem(network(), squared_error, DATA)
    first = llc_point(run, 30, problem, EstimateSettings(**SHORT), name="p")
    np.testing.assert_array_equal(first.trace, curve(run, name="p").results[3].trace)
    with pytest.raises(ConfigError, match="num_draws"):
        llc_point(run, 10, problem, EstimateSettings(**SHORT | {"num_draws": 20}), name="p")


def test_only_the_chosen_parameters_are_sampled(run):
    whole, part = curve(run, name="whole", steps=[40]), curve(run, name="part", steps=[40], parameters="3.*")
    assert part.results[0].dimension == 7 < whole.results[0].dimension
    with pytest.raises(ConfigError, match="sampled_parameters"):
        curve(run, name="whole", steps=[40], parameters="3.*")
    # an iterator is as good, and as many other weights of the same tensor are others
    assert same(curve(run, name="part", steps=[40], parameters=iter(["3.*"])), part)
    mask = torch.arange(6)[None] < 3
    curve(run, name="half", steps=[40], parameters={"3.weight": mask})
    with pytest.raises(ConfigError, match="sampled_parameters"):
        curve(run, name="half", steps=[40], parameters={"3.weight": ~mask})


@pytest.mark.parametrize("late", [True, False])
def test_of_two_curves_at_once_the_first_to_finish_a_point_keeps_it(run, monkeypatch, late):
    """Another process, with other settings, stores its point while this one computes (or just before it writes)."""
    original, others = point_module.estimate, []

    def overtaken(problem, settings, *rest):
        result = original(problem, settings, *rest)
        if not others:
            others.append("computing")
            others.append(curve(run, steps=[20], num_draws=20))
        return result

    monkeypatch.setattr(point_module, "estimate", overtaken)
    if late:  # after the last look at what is stored
        monkeypatch.setattr(point_module, "require_same_curve", lambda *_, **__: None)
    with pytest.raises(ConfigError, match=r"step-20\.h5: num_draws is 20 there and 12 here.*overwrite=True"):
        curve(run, steps=[20])
    assert same(ld.LLCCurve.load(run), others[1])
    assert [each.name for each in (run / "llc" / "llc").iterdir()] == ["step-20.h5"]


def test_of_two_equal_curves_at_once_both_get_the_same(run, monkeypatch):
    original, others = point_module.estimate, []

    def overtaken(problem, settings, *rest):
        result = original(problem, settings, *rest)
        if not others:
            others.append("computing")
            others.append(curve(run, steps=[20]))
        return result

    monkeypatch.setattr(point_module, "estimate", overtaken)
    assert same(curve(run, steps=[20]), others[1])


def test_two_processes_with_different_settings(run):
    """Whoever is first at each step: all points that are stored stay as they were finished."""
    children = []
    for num_draws in (12, 13):
        child = os.fork()
        if child == 0:
            try:
                curve(run, num_draws=num_draws)
            except ConfigError:
                os._exit(3)
            os._exit(0)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes in ([0, 3], [3, 3])
    points = [ld.LLCCurve.load(run, steps=[int(path.stem[5:])]) for path in (run / "llc" / "llc").iterdir()]
    assert len(points) >= 1
    assert codes == [3, 3] or len({point.results[0].trace.shape for point in points}) == 1


@pytest.mark.parametrize("linked", ["llc", "llc/llc"])
def test_a_link_is_not_followed_out_of_the_run(run, tmp_path, linked):
    (tmp_path / "elsewhere").mkdir()
    (run / linked).parent.mkdir(exist_ok=True)
    (run / linked).symlink_to(tmp_path / "elsewhere")
    for use in (lambda: curve(run), lambda: curve(run, overwrite=True), lambda: ld.LLCCurve.load(run)):
        with pytest.raises(TrajectoryError, match="it is a link, which is not followed"):
            use()
    assert not any((tmp_path / "elsewhere").iterdir())


class TestBadInput:
    def test_step_not_stored(self, run):
        with pytest.raises(StepNotStoredError, match="no checkpoint at step 19; the nearest checkpoint is at 20"):
            curve(run, steps=[0, 19])
        assert not (run / "llc").exists()

    def test_unknown_setting(self, run):
        with pytest.raises(ConfigError, match="did you mean 'num_burnin'"):
            curve(run, num_burn_in=3)

    @pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": 1.5}, {"steps": []}, {"name": "../x"}, {"name": ""}])
    def test_settings(self, run, wrong):
        with pytest.raises(ConfigError):
            curve(run, **wrong)

    def test_not_a_run(self, tmp_path):
        with pytest.raises(TrajectoryError):
            curve(tmp_path / "nothing")

    def test_nothing_stored(self, run):
        with pytest.raises(TrajectoryError, match="compute them with llc_curve"):
            ld.LLCCurve.load(run, "llc")
        curve(run, steps=[0])
        with pytest.raises(TrajectoryError, match="no points at steps 10"):
            ld.LLCCurve.load(run, "llc", steps=[0, 10])
