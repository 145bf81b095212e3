"""`llc_spectrum`: the exact value at every resolution, at one model and over a run, stored and resumed."""

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics import plots, theory
from llc_dynamics.errors import ConfigError, StepNotStoredError
from llc_dynamics.llc import EstimateSettings
from llc_dynamics.llc.storage import stored_points
from llc_dynamics.sampling import MALT, Underdamped
from llc_dynamics.theory import Quadratic, squared_error

CURVATURES = [100.0] * 10 + [10.0] * 10 + [1.0] * 20
DATA = (torch.zeros(4, 1), torch.zeros(4, len(CURVATURES)))
GAMMAS, NBETAS = [40.0, 10.0], [3.0, 1.0]
SHORT = {"num_draws": 8, "num_burnin": 2, "num_chains": 2}


def spectrum(**changes):
    return ld.llc_spectrum(Quadratic(CURVATURES), squared_error, DATA, **{"localizations": GAMMAS} | changes)


@pytest.mark.parametrize(
    "settings",
    [
        EstimateSettings(sampler=MALT(localization=1.0, num_steps=5), num_draws=60, num_burnin=16, num_chains=2),
        EstimateSettings(sampler=Underdamped(0.02, localization=1.0), num_draws=250, num_burnin=60, num_chains=2),
    ],
    ids=["MALT", "Underdamped"],
)
def test_exact_at_every_resolution(settings):
    found = spectrum(nbetas=NBETAS, settings=settings)
    assert found.steps.tolist() == [0]
    assert found.localizations.tolist() == sorted(GAMMAS)
    assert found.nbetas.tolist() == sorted(NBETAS)
    exact = [[theory.quadratic_llc(CURVATURES, nbeta, gamma) for gamma in sorted(GAMMAS)] for nbeta in sorted(NBETAS)]
    assert found.values.shape == (1, 2, 2)
    np.testing.assert_array_less(np.abs(found.values[0] - exact), 4 * 1.25 * found.standard_errors[0])
    for row, nbeta in zip(found.results[0], found.nbetas, strict=True):
        for result, gamma in zip(row, found.localizations, strict=True):
            assert (result.nbeta, result.localization) == (nbeta, gamma)


def test_chains_at_a_smaller_gamma_are_longer():
    """In proportion to a passage: 1 / sqrt(gamma) with momentum, 1 / gamma without."""
    for sampler, factor in ((MALT(localization=1.0, num_steps=2), 2), (ld.SGLD(1e-3), 4)):
        found = spectrum(sampler=sampler, **SHORT, nbetas=[1.0])
        fine, coarse = found.results[0][0]
        assert coarse.trace.shape[1] == 8
        assert fine.trace.shape[1] == factor * 8
        assert fine.settings["num_burnin"] == factor * 2


class TestRun:
    @pytest.fixture
    def run(self, tmp_path):
        model = Quadratic(CURVATURES)
        with ld.TrajectoryWriter(tmp_path / "run", model, config={}) as writer:
            for step in (0, 5, 9):
                writer.record(step, metrics={"loss": 0.0})
        return tmp_path / "run"

    def over(self, run, **changes):
        short = {"sampler": MALT(localization=1.0, num_steps=2), **SHORT, "nbetas": [1.0, 2.0]}
        return spectrum(run=run, **short | changes)

    def test_stored_and_resumed(self, run):
        calls = []
        first = self.over(run, progress=lambda *call: calls.append(call))
        assert first.values.shape == (3, 2, 2)
        assert first.steps.tolist() == [0, 5, 9]
        assert calls == [(done + 1, 12) for done in range(12)]
        folders = sorted(path.name for path in (run / "llc").iterdir())
        assert folders == [f"spectrum-gamma-{gamma}-nbeta-{nbeta}" for gamma in (10, 40) for nbeta in (1, 2)]
        assert all(list(stored_points(run / "llc" / name)) == [0, 5, 9] for name in folders)
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*.h5")}
        again = self.over(run, steps=[5])
        np.testing.assert_array_equal(again.values, first.values[1:2])
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*.h5")} == before

    def test_only_the_chosen_parameters_are_sampled(self, run):
        half = torch.arange(len(CURVATURES)) < len(CURVATURES) // 2
        found = self.over(run, steps=[5], parameters={"weight": half}, nbetas=[1.0])
        assert {result.dimension for row in found.results[0] for result in row} == {int(half.sum())}
        with pytest.raises(ConfigError, match="sampled_parameters"):
            self.over(run, steps=[5], nbetas=[1.0])

    def test_curve(self, run):
        found = self.over(run)
        curve = found.curve(40.0, nbeta=2.0)
        assert curve.steps.tolist() == [0, 5, 9]
        np.testing.assert_array_equal(curve.values, found.values[:, 1, 1])
        np.testing.assert_array_equal(curve.values, ld.LLCCurve.load(run, "spectrum-gamma-40-nbeta-2").values)
        np.testing.assert_array_equal(curve.standard_errors, found.standard_errors[:, 1, 1])
        with pytest.raises(ConfigError, match="nbeta must be one of 1, 2"):
            found.curve(40.0)
        with pytest.raises(ConfigError, match=r"localization 20\.0 was not estimated; there are 10, 40"):
            found.curve(20.0, 1.0)

    def test_plots(self, run):
        found = self.over(run)
        ax = plots.plot_spectrum(found)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["step 0", "step 5", "step 9"]
        one = plots.plot_spectrum(self.over(run, steps=[9]))
        assert len(one.get_legend().get_texts()) == 2

    def test_bad_input(self, run):
        with pytest.raises(StepNotStoredError, match="no checkpoint at step 4; the nearest"):
            self.over(run, steps=[4])
        with pytest.raises(ConfigError, match="no steps"):
            self.over(run, steps=[])
        with pytest.raises(ConfigError, match="give run=, too"):
            spectrum(steps=[5])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"localizations": []}, "localizations must be one or more positive numbers"),
        ({"localizations": [1.0, 0.0]}, "localizations must be"),
        ({"nbetas": [float("nan")]}, "nbetas must be"),
        ({"num_drws": 3}, "did you mean 'num_draws'"),
    ],
)
def test_bad_values(wrong, message):
    with pytest.raises(ConfigError, match=message):
        spectrum(**wrong)
