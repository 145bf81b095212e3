"""What users give the stage detectors and the theory by mistake: a message of ours, never one of a library below."""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scripts import load_script

import llc_dynamics as ld
from llc_dynamics import theory
from llc_dynamics.cli import main
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import Finding
from llc_dynamics.plots import plot_free_energy, plot_stages
from llc_dynamics.seeding import derive_seed
from llc_dynamics.stages import (
    agreement,
    change_points,
    detect_specialisation,
    detect_stages,
    detect_transience,
    null_curve,
    null_rates,
    seed_agreement,
)
from llc_dynamics.theory import Solution

synthetic_run = load_script("benchmarks/synthetic_runs.py").synthetic_run
false_positive_rate = load_script("benchmarks/synthetic_runs.py").false_positive_rate
STEPS = np.unique(np.geomspace(1, 10_000, 40).astype(int))
X = np.log1p(STEPS)
TENT = -np.abs(X - np.log1p(300))
NOISE = 0.1 * np.random.default_rng(0).standard_normal(len(STEPS))
ERRORS = np.full(len(STEPS), 0.1)
CURVE = ld.Curve(STEPS, TENT + NOISE, ERRORS, "LLC")
NAN = ld.Curve(STEPS, np.full(len(STEPS), np.nan))
RUN = synthetic_run("transient", STEPS, 16)
RIDGE, DMMSE = Solution(1.30, 20.0, name="ridge"), Solution(1.25, 60.0, name="dMMSE")


def transience(**changes):
    given = {"general": RUN.general, "specialised": RUN.specialised, "ood_loss": RUN.ood_loss}
    return detect_transience(**{**given, "num_bootstrap": 50, **changes})


CURVES = {
    "steps as text": (lambda: ld.Curve(["a", "b"], [1, 2]), "whole numbers of optimiser updates, got"),
    "numbers as text": (lambda: ld.Curve(["1", "2"], [1, 2]), "whole numbers"),
    "a step that is None": (lambda: ld.Curve([1, None], [1, 2]), "whole numbers"),
    "ragged steps": (lambda: ld.Curve([[1], [2, 3]], [1, 2]), "steps must be numbers"),
    "steps beyond integers": (lambda: ld.Curve([1, 1e19], [1, 2]), "whole numbers"),
    "truth values as steps": (lambda: ld.Curve([False, True], [1, 2]), "whole numbers"),
    "values as text": (lambda: ld.Curve([1, 2], ["a", "b"]), "values must be numbers"),
    "complex values": (lambda: ld.Curve([1, 2], [1j, 2]), "values must be numbers"),
    "no values": (lambda: ld.Curve([1, 2], None), "values are missing"),
    "ragged samples": (lambda: ld.Curve([1, 2], [1, 2], samples=[[1], [2, 3]]), "samples must be numbers, one row"),
    "samples as text": (lambda: ld.Curve([1, 2], [1, 2], samples=[["a"], ["b"]]), "samples must be numbers"),
}
DETECTORS = {
    "no curve": (lambda: detect_stages(None), "curve is a NoneType; give an ld.Curve"),
    "infinite throughout": (lambda: detect_stages(ld.Curve(STEPS, np.full(len(STEPS), np.inf))), "at every step"),
    "nothing converged": (lambda: detect_stages(ld.Curve(STEPS, TENT, None, "LLC", 0 * STEPS)), "0 usable points"),
    "a loss that is NaN": (lambda: detect_stages(CURVE, NAN), "loss .* at every step"),
    "threshold 2": (lambda: detect_stages(CURVE, threshold=2), "threshold must be between 0 and 1"),
    "threshold as text": (lambda: detect_stages(CURVE, threshold="0.9"), "threshold must be between 0 and 1"),
    "no level": (lambda: detect_stages(CURVE, level=None), "level must be between 0 and 1"),
    "seed as text": (lambda: detect_stages(CURVE, seed="abc"), "seed must be a whole number"),
    "seed 1.5": (lambda: detect_stages(CURVE, seed=1.5), "seed must be a whole number"),
    "no repetitions": (lambda: null_rates(CURVE, 0), "repetitions must be a whole number of 1 or more"),
    "half a repetition": (lambda: null_rates(CURVE, 2.5), "repetitions must be a whole number"),
    "null rates at 2": (lambda: null_rates(CURVE, 1, threshold=2), "threshold must be between 0 and 1"),
    "null rates, seed": (lambda: null_rates(CURVE, 1, seed="x"), "seed must be a whole number"),
    "null rates of None": (lambda: null_rates(None, 1), "give an ld.Curve"),
    "null like None": (lambda: null_curve("constant", None), "give an ld.Curve"),
    "null like 2 points": (lambda: null_curve("constant", ld.Curve([1, 2], [1, 2])), "at least 8"),
    "null like NaN": (lambda: null_curve("constant", ld.Curve(STEPS, np.where(X < 3, np.nan, X))), "leave them out"),
    "no general": (lambda: transience(general=None), "general is None; only the specialised"),
    "no loss": (lambda: transience(ood_loss=None), "ood_loss is None"),
    "other sequences": (
        lambda: transience(specialised=synthetic_run("transient", STEPS, 12).specialised),
        r"samples of 16 sequences \(ood_loss\) and .* 12 sequences \(specialised\)",
    ),
    "samples of another run": (
        lambda: transience(ood_loss=ld.Curve(STEPS, RUN.ood_loss.values, samples=RUN.general.samples)),
        "ood_loss: the samples at step 1 have mean .* another curve or run",
    ),
    "fewer checkpoints": (
        lambda: transience(specialised=ld.Curve(STEPS[:-1], RUN.specialised.values[:-1])),
        "same checkpoints of one run",
    ),
    "reference as text": (lambda: transience(reference_distance="far"), "give the positive distance"),
    "three references": (lambda: transience(reference_distance=np.ones(3)), "give the positive distance"),
    "a NaN threshold": (lambda: transience(min_z=float("nan")), "min_z must be finite"),
    "a NaN nearness": (lambda: transience(min_nearness=float("nan")), "min_nearness"),
    "half a draw": (lambda: transience(num_bootstrap=100.5), "num_bootstrap must be a whole number"),
    "transience, seed": (lambda: transience(seed="q"), "seed must be a whole number"),
    "an endless resolution": (lambda: transience(resolution=float("inf")), "resolution .* must be finite"),
    "no specialised": (lambda: detect_specialisation(None), "give an ld.Curve"),
    "its reference as text": (lambda: detect_specialisation(RUN.specialised, reference_distance="far"), "positive"),
    "change points of None": (lambda: change_points({"LLC": None}), "LLC is a NoneType; give an ld.Curve"),
    "scale as text": (lambda: change_points({"LLC": CURVE}, scale="x"), "scale must be finite and positive"),
    "half a cell": (lambda: change_points({"LLC": CURVE}, num_cells=20.5), "num_cells must be a whole number"),
    "no common time": (
        lambda: change_points({"a": ld.Curve(STEPS[:12], X[:12]), "b": ld.Curve(STEPS[20:], X[20:])}),
        "'a' ends at step .* before 'b' begins",
    ),
    "agreement of None": (lambda: agreement(None, None), "agreement of a NoneType"),
    "agreement, swapped": (lambda: agreement(change_points({"a": CURVE}), detect_stages(CURVE)), "in this order"),
    "one report": (lambda: seed_agreement(detect_stages(CURVE)), "give a list"),
    "no control runs": (lambda: false_positive_rate(bool, "flat", STEPS, repetitions=0), "repetitions"),
    "control without steps": (lambda: synthetic_run("flat", []), "non-empty list"),
    "any seed": (lambda: derive_seed(None, "x"), "seed must be a whole number"),
}
THEORY = {
    "level as text": (lambda: theory.crossover(simple=RIDGE, accurate=DMMSE, level="a"), "between 0 and 1"),
    "error as text": (
        lambda: theory.crossover(simple=RIDGE, accurate=DMMSE, loss_difference_error="a"),
        "loss_difference_error must be finite",
    ),
    "loss as text": (lambda: theory.free_energy("a", 1, 10), "loss must be a number"),
    "n as text": (lambda: theory.free_energy(1, 1, "a"), "n must be a number"),
    "n below zero": (lambda: theory.free_energy(1, 1, -5), "sample sizes above 1"),
    "NaN lambda": (lambda: theory.free_energy(1, float("nan"), 100), "llc must be finite"),
    "multiplicity 0": (lambda: theory.free_energy(1, 1, 100, 0), "multiplicity must be a whole number of 1"),
    "shapes": (lambda: theory.free_energy([1, 2], [1, 2, 3], 10), "do not go together"),
    "curvatures as text": (lambda: theory.quadratic_llc("a", 1, 1), "curvatures must be"),
    "nbeta as text": (lambda: theory.quadratic_llc([1.0], "a", 1), "nbeta must be finite"),
    "three numbers": (lambda: Solution.measured((1.0, 0.1, 3), 5.0), "loss has 3 entries"),
}
PLOTS = {
    "no report": (lambda: plot_stages(None), "give what ld.detect_stages returned"),
    "a list of changes": (lambda: plot_stages(detect_stages(CURVE), changes=[1]), "give what change_points returned"),
    "no changes": (lambda: plot_stages(detect_stages(CURVE), changes={"a": None}), "holds a NoneType"),
    "no pairs": (lambda: plot_free_energy({}), "no pairs"),
    "n as text": (lambda: plot_free_energy((RIDGE, DMMSE), n="a"), "n must be a number"),
    "no n": (lambda: plot_free_energy((RIDGE, DMMSE), n=[]), "sample sizes"),
    "an error of no pair": (
        lambda: plot_free_energy({8: (RIDGE, DMMSE)}, loss_difference_error={9: 0.1}),
        r"given for 9, but the pairs are \[8\]",
    ),
}
ALL = {
    **CURVES,
    **DETECTORS,
    **{f"theory, {k}": v for k, v in THEORY.items()},
    **{f"plot, {k}": v for k, v in PLOTS.items()},
}


@pytest.mark.parametrize("case", ALL)
def test_a_clear_message(case):
    call, said = ALL[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((DataError, ConfigError), match=said):
            call()
    plt.close("all")


def test_some_errors_of_zero_and_large_values():
    """More points than cells: the weights of points without an error must not overflow, nor those of tiny ones."""
    steps = np.unique(np.geomspace(1, 100_000, 400).astype(int))
    tent = 1e8 * -np.abs(np.log1p(steps) - np.log1p(300))
    for errors in (np.where(np.arange(len(steps)) % 2, 0.0, 1e6), np.zeros(len(steps)), np.full(len(steps), 1e-200)):
        report = detect_stages(ld.Curve(steps, tent, errors), ld.Curve(steps, -tent, np.zeros(len(steps))))
        (turn,) = report.resolved
        assert abs(np.log10(turn.step / 300)) < 0.05


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_units_do_not_matter(scale):
    report = detect_stages(ld.Curve(STEPS, scale * CURVE.values, scale * ERRORS))
    (turn,) = report.resolved
    assert abs(np.log10(turn.step / 300)) < 0.1
    assert [stage.type for stage in report.stages] == ["rise", "fall"]


def test_a_jump_is_cut_where_it_is():
    """Lines that meet would bend far ahead of it."""
    for seed in range(3):
        noise = 0.1 * np.random.default_rng(seed).standard_normal(len(STEPS))
        found = change_points({"LLC": ld.Curve(STEPS, np.where(STEPS > 300, 5.0, 0.0) + noise, ERRORS)})
        assert any(abs(np.log10(step / 300)) < 0.1 for step in found.steps)


def test_step_zero_and_late_steps_have_a_place():
    """Time is log(t + 1): step 0 counts, and so do steps of 1e9."""
    steps = np.unique(np.concatenate([[0], np.geomspace(1, 1e9, 60).astype(int)]))
    x = np.log1p(steps)
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(x))
    curve = ld.Curve(steps, -np.abs(x - np.log1p(1e5)) + noise, np.full(len(x), 0.1))
    (turn,) = detect_stages(curve).resolved
    assert abs(np.log10(turn.step / 1e5)) < 0.1
    ax = plot_stages(detect_stages(curve), curve)
    ax.figure.canvas.draw()
    plt.close("all")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        (["nowhere"], "no such folder"),
        (["empty"], "neither a run nor a folder of runs"),
        (["empty", "--null-check", "--repetitions", "0"], "--repetitions must be 1 or more"),
    ):
        assert main(["stages", str(tmp_path / arguments[0]), *arguments[1:]]) == 1
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.err.count("\n") == 1


def test_a_run_without_metrics_has_no_stages_and_no_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    model = torch.nn.Linear(2, 1)
    with ld.TrajectoryWriter(tmp_path / "run", model, config={}) as writer:
        for step in range(0, 120, 10):
            writer.record(step)
    assert main(["stages", str(tmp_path / "run"), "--null-check", "--repetitions", "1"]) == 0
    out = capsys.readouterr().out
    assert "no LLC curve 'llc' to find stages in" in out
    assert "null check: not possible" in out


class Result:
    """What `Solution.measured` reads of an `ld.LLCResult`."""

    def __init__(self, llc, total_error, reasons=()):
        self.llc, self.total_error = llc, total_error
        self.reasons = tuple(Finding("made_up", reason) for reason in reasons)
        self.converged = not reasons


def test_measured_solutions_carry_their_errors():
    ridge = Solution.measured((1.30, 0.005), Result(20.0, 3.0), name="ridge")
    dmmse = Solution.measured(1.25, (60.0, 4.0), name="dMMSE")
    assert ridge == Solution(1.30, 20.0, 0.005, 3.0, name="ridge")
    assert dmmse == Solution(1.25, 60.0, 0.0, 4.0, name="dMMSE")
    found = theory.crossover(simple=ridge, accurate=dmmse)
    assert found.llc_difference_error == 5.0
    assert found.interval[0] < found.n < found.interval[1]
    with pytest.raises(ConfigError, match=r"did not converge \(chains drift\)"):
        Solution.measured(1.0, Result(20.0, 3.0, ("chains drift",)), name="ridge")
