"""`calibrate`: settings that explore and come out at the exact value, evidence for them, and files that hold both."""

import dataclasses
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from estimates import codes
from problems import outputs

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.errors import ConfigError, CorruptRunError
from llc_dynamics.llc import Calibration, EstimateSettings, read_settings, write_settings
from llc_dynamics.llc.calibration import CalibrationOptions
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.trials import calibrate_problems
from llc_dynamics.sampling import HMC, MALT, SGLD, RMSpropSGLD, Underdamped
from llc_dynamics.theory import Quadratic, half_squared_error, potential_data

# Half of the directions stiff, half of them flat; a whole range of curvatures, the flattest of which no budget reaches.
GAP = [40.0] * 32 + [0.0] * 32
NO_GAP = np.geomspace(40.0, 4e-4, 64).tolist()
N = 1000
ROWS = torch.zeros(4, 1)


def calibrate(curvatures, **changes):
    """With the behavioural loss, a mean over d outputs: curvatures h / d."""
    model = Quadratic(curvatures)
    wanted = {"num_samples": N, "gradients": 400} | changes
    return ld.calibrate(model, ld.behavioural(outputs), (ROWS,), **wanted)


@pytest.fixture(scope="module")
def with_gap():
    return calibrate(GAP, target_error=0.02, gradients=2000)


@pytest.fixture(scope="module")
def without_gap():
    return calibrate(NO_GAP, gradients=2000)


def exact(curvatures, nbeta, localization):
    return theory.quadratic_llc(np.array(curvatures) / len(curvatures), nbeta, localization)


def work(settings):
    """Gradients of a chain, by counting the updates."""
    updates = settings.num_burnin + settings.num_draws * settings.steps_per_draw
    return updates * settings.sampler.gradients_per_update


def test_a_gap_in_the_spectrum_is_a_plateau(with_gap):
    """Between the stiff and the flat directions the value is that of the stiff ones, whatever gamma."""
    assert with_gap.plateau
    assert "plateau" in codes(with_gap.findings)
    trial = with_gap.trials[-1]
    assert exact(GAP, trial.nbeta, trial.localization) > 0.95 * 16


def test_no_gap_no_plateau(without_gap):
    """There the exact value goes on growing, by more than 5% with each rung."""
    values = [exact(NO_GAP, trial.nbeta, trial.localization) for trial in without_gap.trials]
    assert all(after > 1.1 * before for before, after in pairwise(values))
    assert len(values) >= 4
    assert not without_gap.plateau
    assert "no_plateau" in codes(without_gap.findings)


@pytest.mark.parametrize("curvatures", [GAP, NO_GAP])
def test_every_trial_has_the_exact_value(curvatures, with_gap, without_gap):
    """Within 4 standard errors, that are themselves good to a quarter; a rung is a factor 4 in gamma."""
    found = with_gap if curvatures is GAP else without_gap
    for trial in found.trials:
        truth = exact(curvatures, trial.nbeta, trial.localization)
        assert abs(trial.llc - truth) < 4 * 1.25 * trial.standard_error, trial
        assert trial.explored, trial.reasons
        assert trial.ratio == pytest.approx(
            math.sqrt(trial.nbeta * max(curvatures) / len(curvatures) / trial.localization), rel=0.02
        )
    assert {trial.kernel for trial in found.trials} == {"SGLD", "MALT"}
    gammas = [trial.localization for trial in found.trials]
    assert all(before == pytest.approx(4 * after, rel=0.02) for before, after in pairwise(gammas))


def test_an_estimate_with_the_settings_is_exact_and_as_good_as_promised(with_gap):
    model = Quadratic(GAP)
    result = ld.estimate_llc(model, ld.behavioural(outputs), (ROWS,), settings=with_gap, seed=7)
    assert result.converged, result.reasons
    assert result.loss == with_gap.loss == "behavioural"
    assert result.settings["seed"] == 7
    assert result.localization == with_gap.settings.sampler.localization
    truth = exact(GAP, result.nbeta, result.localization)
    assert abs(result.llc - truth) < 4 * result.standard_error
    # the error of an error: a factor 2 is far outside of chance
    assert result.standard_error < 2 * 0.02 * result.llc
    low, high = result.lambda_interval(0.999)
    assert low < 16 < high


@pytest.mark.parametrize("curvatures", [GAP, NO_GAP, [2.0], [4.0] * 8])
@pytest.mark.parametrize("gradients", [150, 1000])
def test_the_budget_is_kept(curvatures, gradients):
    found = calibrate(curvatures, gradients=gradients, num_chains=2)
    result = ld.estimate_llc(Quadratic(curvatures), ld.behavioural(outputs), (ROWS,), settings=found)
    assert result.num_gradients <= gradients
    assert work(found.settings) <= gradients
    assert sum(2 * trial.gradients for trial in found.trials) <= 5 * gradients


def test_where_all_directions_count_the_ladder_ends():
    """lambda is d/2 at most: a finer gamma has nothing to find there."""
    found = calibrate([4.0] * 32, gradients=4000)
    assert found.plateau
    assert len(found.trials) < 4
    assert found.trials[-1].llc > 0.9 * 16


def test_an_error_that_cannot_be_reached_is_told():
    found = calibrate(GAP, gradients=150, target_error=0.001)
    (text,) = (str(each) for each in found.findings if each.code == "expected_error")
    assert "0% takes" in text
    assert "times the gradients" in text


def test_time_ends_the_trials():
    found = calibrate(GAP, gradients=50_000, max_seconds=1e-9)
    assert len(found.trials) <= 1
    assert "out_of_time" in codes(found.findings)
    assert work(found.settings) <= 50_000


def test_a_long_curve_gets_cheap_estimates():
    """Of so many points none may take more than the trials do; of one, the whole budget may go."""
    problem = Problem(Quadratic(GAP), ld.behavioural(outputs), (ROWS,))
    options = CalibrationOptions(gradients=2000, target_error=0.005, num_samples=N, max_seconds=300.0)
    one, many = (calibrate_problems([problem], options, points=[problem] * number) for number in (1, 10**7))
    assert work(many.settings) < work(one.settings)
    assert any("points of the curves" in str(each) for each in many.findings)
    assert not any("points of the curves" in str(each) for each in one.findings)


def test_checkpoints_that_are_no_minimum_of_the_given_loss_do_not_decide(tmp_path):
    """At the first of three w* is far from the minimum: the settings are those for the other two."""
    model, far = Quadratic(GAP), Quadratic(GAP)
    with torch.no_grad():
        for parameter in far.parameters():
            parameter.fill_(3.0)
    with ld.TrajectoryWriter(tmp_path / "run", model, config={}) as writer:
        for step, state in enumerate((far, model, model)):
            model.load_state_dict(state.state_dict())
            writer.record(step)
            model.load_state_dict(Quadratic(GAP).state_dict())
    data = potential_data(model, 200, noise=0.1)
    found = ld.calibrate(model, half_squared_error, data, gradients=400, run=tmp_path / "run", steps=[0, 1, 2])
    (said,) = (each for each in found.findings if each.code == "no_minimum")
    assert "no minimum of the given loss at 0," in str(said)
    assert "not_explored" not in codes(found.findings)
    assert {trial.place for trial in found.trials if trial.ratio > 4} == {"1", "2"}


def test_deep_linear_network_with_fresh_batches():
    """Minibatches of the behavioural loss: the value of a long run with other settings, at the same resolution."""
    from llc_dynamics.theory import DeepLinearData, rank_minimal_network

    network = rank_minimal_network((8, 6, 8), 2, seed=1)
    data = DeepLinearData(network.product().detach())
    loss = ld.behavioural(outputs)
    found = ld.calibrate(network, loss, data, num_samples=N, batch_size=32, gradients=1000, target_error=0.1)
    assert found.trials[0].explored, found.trials[0].reasons
    result = ld.estimate_llc(network, loss, data, settings=found)
    batch = data(torch.Generator().manual_seed(0), 512)
    reference = ld.estimate_llc(
        network,
        loss,
        batch,
        sampler=HMC(localization=result.localization, nbeta=result.nbeta, num_steps=12, updates_per_batch=None),
        num_draws=150,
        num_burnin=30,
        batch_size=512,
        num_chains=2,
    )
    error = math.hypot(result.standard_error, reference.standard_error)
    # the bias that batches may leave is what the calibration tests to 5%
    assert abs(result.llc - reference.llc) < 4 * error + 0.05 * reference.llc


def test_minibatches_of_the_given_loss_get_a_kernel_that_takes_their_noise():
    model = Quadratic([40.0] * 8 + [1.0] * 8)
    data = potential_data(model, 400, noise=0.1)
    found = ld.calibrate(model, half_squared_error, data, batch_size=100, gradients=400)
    assert isinstance(found.settings.sampler, SGLD)
    assert found.loss == "given"
    assert "given_loss" in codes(found.findings)
    result = ld.estimate_llc(model, half_squared_error, data, settings=found, seed=3)
    assert result.converged, result.reasons
    # half of |f|^2 has half the curvature of L
    truth = theory.quadratic_llc(np.array([20.0] * 8 + [0.5] * 8), result.nbeta, result.localization)
    assert abs(result.llc - truth) < 4 * result.standard_error
    # without a batch size, so few samples are taken all together
    whole = ld.calibrate(model, half_squared_error, data, gradients=400, trials=False)
    assert (whole.settings.batch_size, type(whole.settings.sampler)) == (400, MALT)


def test_batches_that_do_not_span_the_directions_are_enlarged():
    """300 features and one output: on 64 samples some directions look far too stiff, and most are not there."""
    x = torch.randn(1500, 300, generator=torch.Generator().manual_seed(1))
    model = torch.nn.Linear(300, 1, bias=False)
    loss = ld.behavioural(lambda model, batch: model(batch[0]))
    found = ld.calibrate(model, loss, (x,), batch_size=64, gradients=1000)
    assert found.settings.batch_size > 4 * 64
    assert "batch" in codes(found.findings)
    result = ld.estimate_llc(model, loss, (x,), settings=found, seed=4)
    assert result.converged, result.reasons
    curvatures = torch.linalg.eigvalsh(2 * x.T.double() @ x.double() / len(x)).numpy()
    truth = theory.quadratic_llc(curvatures, result.nbeta, result.localization)
    assert abs(result.llc - truth) < 4 * result.standard_error
    # what spans them is left as it is
    few = ld.calibrate(torch.nn.Linear(3, 1), loss, (x[:, :3],), batch_size=64, gradients=1000)
    assert few.settings.batch_size == 64


def test_rare_features_are_all_sampled():
    """Each of 20 features is on in 2 of 500 samples: held batches of 32 miss nearly all of them."""
    x = torch.zeros(500, 20)
    for feature in range(20):
        x[25 * feature : 25 * feature + 2, feature] = 5.0
    model = torch.nn.Linear(20, 1, bias=False)
    loss = ld.behavioural(lambda model, batch: model(batch[0]))
    found = ld.calibrate(model, loss, (x,), batch_size=32, gradients=1000)
    result = ld.estimate_llc(model, loss, (x,), settings=found, seed=4)
    truth = theory.quadratic_llc(np.full(20, 2 * 2 * 25 / 500), result.nbeta, result.localization)
    assert abs(result.llc - truth) < 4 * result.standard_error
    assert abs(result.llc - truth) < 0.2 * truth or not result.converged


def test_by_rule_alone():
    found = calibrate(GAP, trials=False, gradients=900)
    assert found.trials == ()
    assert codes(found.findings) == ["untried"]
    settings = found.settings
    assert 0.8 * 900 < work(settings) <= 900
    finer = calibrate(GAP, trials=False, gradients=1800).settings.sampler.localization
    assert 3 < settings.sampler.localization / finer < 6
    assert calibrate(GAP, trials=False, nbeta=50.0).settings.sampler.nbeta == 50.0


def test_what_cannot_be_calibrated():
    with pytest.raises(ConfigError, match=r"gradients is 50: too few .* give \d+ or more"):
        calibrate(GAP, gradients=50)
    with pytest.raises(ConfigError, match="no curvature"):
        calibrate([0.0] * 4)
    for name, wrong in (
        ("gradients", 0),
        ("target_error", 0.0),
        ("target_error", None),
        ("nbeta", -1.0),
        ("workers", 0),
        ("trials", "no"),
        ("max_seconds", 0),
    ):
        with pytest.raises(ConfigError, match=name):
            calibrate(GAP, **{name: wrong})
    with pytest.raises(ConfigError, match="give run=, too"):
        calibrate(GAP, steps=[1])
    with pytest.raises(ConfigError, match="empty list"):
        calibrate(GAP, run=[])


def test_settings_stand_alone():
    model, loss, data = Quadratic(GAP), ld.behavioural(outputs), (ROWS,)
    found = calibrate(GAP, trials=False)
    with pytest.raises(ConfigError, match="num_draws given beside settings="):
        ld.estimate_llc(model, loss, data, settings=found, num_draws=7)
    # what agrees is no contradiction
    same = {"num_draws": found.settings.num_draws, "num_samples": N, "sampler": found.settings.sampler}
    assert EstimateSettings.of(found, same) == found.settings
    with pytest.raises(ConfigError, match="num_samples given beside settings="):
        ld.estimate_llc(model, loss, data, settings=found, num_samples=N + 1)
    with pytest.raises(ConfigError, match="sampler, batch_size given beside settings="):
        ld.estimate_llc(model, loss, data, settings=found.settings, batch_size=2, sampler=MALT(localization=3.0))


class TestRuns:
    """Places at checkpoints of one run and of two."""

    @pytest.fixture
    def runs(self, tmp_path):
        model = Quadratic(GAP)
        paths = [tmp_path / "one", tmp_path / "two"]
        for path in paths:
            with ld.TrajectoryWriter(path, model, config={}) as writer:
                for step in range(10):
                    writer.record(step, metrics={"loss": 0.0})
        return paths

    def places(self, run, steps=None):
        found = calibrate(GAP, run=run, steps=steps, gradients=95, target_error=9.0)
        return list(dict.fromkeys(trial.place for trial in found.trials))

    def test_places(self, runs):
        assert self.places(runs[0]) == ["3", "6", "9"]
        assert self.places(runs, steps=[5]) == ["one at 5", "two at 5"]

    def test_finished_trials_are_kept(self, runs, tmp_path, monkeypatch):
        """Stopped in the middle, and called again: the same evidence, and nothing computed twice."""
        wanted = {"run": runs[0], "steps": [4, 9], "gradients": 95, "target_error": 9.0, "store": tmp_path / "trials"}
        made, progress = [], []
        calibrate_module = sys.modules[ld.calibrate.__module__]
        sampled = calibrate_module.estimate

        def counting(problem, settings):
            if len(made) == 1:
                made.append("stopped")
                raise KeyboardInterrupt
            made.append(settings)
            return sampled(problem, settings)

        monkeypatch.setattr(calibrate_module, "estimate", counting)
        with pytest.raises(KeyboardInterrupt):
            calibrate(GAP, **wanted)
        first = calibrate(GAP, **wanted, progress=lambda *call: progress.append(call))
        number = len(made)
        again = calibrate(GAP, **wanted)
        assert len(made) == number
        assert dataclasses.replace(again, trials=()) == dataclasses.replace(first, trials=())
        assert [repr(trial) for trial in again.trials] == [repr(trial) for trial in first.trials]
        assert progress[-1][0] == progress[-1][1]
        # another seed is another trial; damage is named
        calibrate(GAP, **wanted, seed=3)
        assert len(made) > number
        for path in (tmp_path / "trials").iterdir():
            path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CorruptRunError, match="delete it"):
            calibrate(GAP, **wanted)

    def test_workers_do_not_matter(self, runs):
        wanted = {"run": runs, "steps": [9], "gradients": 95, "target_error": 9.0}
        one, two = (calibrate(GAP, **wanted, workers=workers) for workers in (1, 2))
        assert [repr(trial) for trial in one.trials] == [repr(trial) for trial in two.trials]
        assert one.settings == two.settings


class TestFiles:
    def test_save_and_load(self, with_gap, tmp_path):
        path = with_gap.save(tmp_path / "calibration")
        assert path == tmp_path / "calibration" / "settings.toml"
        names = {each.name for each in (tmp_path / "calibration").iterdir()}
        assert names == {"settings.toml", "evidence.csv"}
        assert read_settings(path) == (with_gap.settings, "behavioural")
        loaded = Calibration.load(tmp_path / "calibration")
        assert repr(loaded) == repr(with_gap)
        assert len(with_gap.table().splitlines()) == 1 + len(with_gap.trials)
        (tmp_path / "calibration" / "evidence.csv").write_text("purpose,place\nresolution,3\n")
        with pytest.raises(ConfigError, match="not the evidence of a calibration"):
            Calibration.load(tmp_path / "calibration")

    @pytest.mark.parametrize(
        "settings",
        [
            EstimateSettings(),
            EstimateSettings(sampler=MALT(nbeta=30.0, localization=4.5, updates_per_batch=None), batch_size=3),
            EstimateSettings(sampler=Underdamped(0.01), target_error=0.03, max_draws=9000, max_seconds=1.5),
            EstimateSettings(sampler=RMSpropSGLD(), num_samples=77, seed=4),
            EstimateSettings(sampler=ld.MALA(step_size=0.2, target_acceptance=0.5), microbatch_size=8),
        ],
    )
    def test_round_trip(self, settings, tmp_path):
        path = write_settings(tmp_path / "a" / "b.toml", settings, "given", {"findings": ['a "quote"\nand a line']})
        assert read_settings(path) == (settings, "given")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[llc", "not valid TOML"),
            ("[lcl]", r"no \[llc\] table"),
            ("llc = 3", r"no \[llc\] table"),
            ("[llc]\nnum_draws = 8", r"no \[llc.sampler\] table"),
            ("[llc]\nloss = 'mine'\n[llc.sampler]", "'given' or 'behavioural', got 'mine'"),
            ("[llc]\nnum_drws = 8\n[llc.sampler]", "did you mean 'num_draws'"),
            ("[llc]\nnum_draws = '8'\n[llc.sampler]", "num_draws: expected int"),
            ("[llc]\nbatch_size = 8.5\n[llc.sampler]", "batch_size: expected int"),
            ("[llc]\nnum_draws = 2\n[llc.sampler]", "num_draws must be a whole number of at least 4"),
            ("[llc]\n[llc.sampler]\nkernel = 'MALTA'", "did you mean 'MALT'"),
            ("[llc]\n[llc.sampler]\nkernel = 3", "kernel '3' is unknown"),
            ("[llc]\n[llc.sampler]\nkernel = 'MALT'\nlocalisation = 3.0", "did you mean 'localization'"),
            ("[llc]\n[llc.sampler]\nkernel = 'MALT'\nlocalization = -3.0", "localization must be"),
        ],
    )
    def test_bad_files(self, text, message, tmp_path):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=message) as raised:
            read_settings(path)
        assert str(raised.value).startswith(str(path))

    def test_missing_file(self, tmp_path):
        with pytest.raises(ConfigError, match=r"nothing\.toml: no such config file"):
            read_settings(tmp_path / "nothing.toml")


def test_where_no_trial_is_sound_the_finding_says_why():
    """w* = 0 is no minimum of (w - 1)^2: negative estimates on every rung."""
    model = Quadratic([2.0] * 16)
    data = torch.zeros(4, 1), torch.ones(4, 16)
    found = ld.calibrate(model, half_squared_error, data, num_samples=N, gradients=100, target_error=9.0)
    assert not any(trial.explored for trial in found.trials)
    (text,) = (each.text for each in found.findings if each.code == "not_explored")
    assert "NOT EXPLORED" in text
    assert "negative estimate" in text
