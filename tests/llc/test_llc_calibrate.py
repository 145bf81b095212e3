"""`calibrate`: settings that explore and come out at the exact value, evidence for them, and files that hold both."""

import dataclasses
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from estimates import texts
from problems import outputs

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.errors import ConfigError, CorruptRunError
from llc_dynamics.llc import Calibration, EstimateSettings, read_settings, write_settings
from llc_dynamics.sampling import HMC, MALT, RMSpropSGLD, Underdamped
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
    return calibrate(GAP, target_error=0.02)


@pytest.fixture(scope="module")
def without_gap():
    return calibrate(NO_GAP)


def exact(curvatures, nbeta, localization):
    return theory.quadratic_llc(np.array(curvatures) / len(curvatures), nbeta, localization)


def by_purpose(calibration, purpose):
    return [trial for trial in calibration.trials if trial.purpose == purpose]


def test_a_gap_in_the_spectrum_is_a_plateau(with_gap):
    """Between the stiff and the flat directions the value is that of the stiff ones, whatever gamma."""
    assert with_gap.plateau
    assert any(text.startswith("plateau") for text in texts(with_gap.findings))
    trial = by_purpose(with_gap, "resolution")[-1]
    assert exact(GAP, trial.nbeta, trial.localization) > 0.95 * 16


def test_no_gap_no_plateau(without_gap):
    """There the exact value goes on growing, by more than 5% with each rung."""
    rungs = by_purpose(without_gap, "resolution")
    values = [exact(NO_GAP, trial.nbeta, trial.localization) for trial in rungs]
    assert all(after > 1.1 * before for before, after in pairwise(values))
    assert len(rungs) == 3
    assert not without_gap.plateau
    assert any(text.startswith("no plateau") for text in texts(without_gap.findings))


@pytest.mark.parametrize("curvatures", [GAP, NO_GAP])
def test_every_trial_has_the_exact_value(curvatures, with_gap, without_gap):
    """Rungs and other temperatures: within 4 standard errors, that are themselves good to a quarter."""
    found = with_gap if curvatures is GAP else without_gap
    for trial in (*by_purpose(found, "resolution"), *by_purpose(found, "nbeta")):
        truth = exact(curvatures, trial.nbeta, trial.localization)
        assert abs(trial.llc - truth) < 4 * 1.25 * trial.standard_error, trial
        assert trial.explored or trial.purpose == "nbeta", trial.reasons
        assert trial.ratio == pytest.approx(
            math.sqrt(trial.nbeta * max(curvatures) / len(curvatures) / trial.localization), rel=0.02
        )
    assert {round(trial.nbeta * 3 * math.log(N) / N) for trial in by_purpose(found, "nbeta")} == {1, 9}


def test_control_is_the_loss_under_the_localisation_alone(with_gap):
    """nbeta E[L] over w ~ N(0, 1/gamma) is nbeta sum(h) / (2 d gamma), far above any estimate."""
    (control,) = by_purpose(with_gap, "control")
    nbeta, gamma = N / math.log(N), with_gap.settings.sampler.localization
    assert control.nbeta == 0
    assert abs(control.llc - nbeta * sum(GAP) / len(GAP) / 2 / gamma) < 5 * control.standard_error
    assert control.llc > 5 * by_purpose(with_gap, "resolution")[-1].llc


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


def test_deep_linear_network_with_fresh_batches():
    """Minibatches of the behavioural loss: the value of a long run with other settings, at the same resolution."""
    from llc_dynamics.theory import DeepLinearData, rank_minimal_network

    network = rank_minimal_network((8, 6, 8), 2, seed=1)
    data = DeepLinearData(network.product().detach())
    loss = ld.behavioural(outputs)
    found = ld.calibrate(network, loss, data, num_samples=N, batch_size=32, gradients=150, target_error=0.1)
    assert isinstance(found.settings.sampler, MALT)
    assert by_purpose(found, "batch")
    first = by_purpose(found, "resolution")[0]
    assert first.explored, first.reasons
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


def test_minibatches_of_the_given_loss_get_a_kernel_without_a_metropolis_test():
    model = Quadratic([40.0] * 8 + [1.0] * 8)
    data = potential_data(model, 400, noise=0.1)
    rule = {"gradients": 400, "trials": False}
    found = ld.calibrate(model, half_squared_error, data, batch_size=100, **rule)
    assert isinstance(found.settings.sampler, Underdamped)
    assert found.loss == "given"
    assert found.settings.batch_size == 100
    assert isinstance(ld.calibrate(model, half_squared_error, data, batch_size=400, **rule).settings.sampler, MALT)
    # half of |f|^2 has half the curvature of L, and the underdamped step follows from it
    curvature = 20 * found.settings.nbeta(400) + found.settings.sampler.localization
    assert found.settings.sampler.step_size * math.sqrt(curvature) == pytest.approx(0.15, rel=0.02)


def test_by_rule_alone():
    found = calibrate(GAP, trials=False, gradients=900)
    assert found.trials == ()
    assert "nothing was tried" in found.findings[0].text
    settings = found.settings
    work = (settings.num_burnin + settings.num_draws) * settings.sampler.gradients_per_update
    assert 0.8 * 900 < work < 1.3 * 900
    finer = calibrate(GAP, trials=False, gradients=1800).settings.sampler.localization
    assert finer == pytest.approx(settings.sampler.localization / 4, rel=0.02)
    assert calibrate(GAP, trials=False, nbeta=50.0).settings.sampler.nbeta == 50.0


def test_what_cannot_be_calibrated():
    with pytest.raises(ConfigError, match=r"gradients is 50: too few .* give 95 or more"):
        calibrate(GAP, gradients=50)
    with pytest.raises(ConfigError, match="no curvature"):
        calibrate([0.0] * 4)
    for name, wrong in (("gradients", 0), ("target_error", 0.0), ("nbeta", -1.0), ("workers", 0)):
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
            if len(made) == 3:
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
            EstimateSettings(sampler=RMSpropSGLD(), num_samples=77, control_variate=True, seed=4),
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
    assert len(by_purpose(found, "resolution")) == 1
    assert not found.trials[0].explored
    assert "NOT EXPLORED" in found.findings[0].text
    assert "negative estimate" in found.findings[0].text
