"""The crossover experiment on made-up runs whose losses, LLCs and order are known."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import crossover_runs_made_up as made_up
import numpy as np
import pytest
from scripts import EXPERIMENTS, load_together

import llc_dynamics as ld
from llc_dynamics.errors import DataError, TrajectoryError
from llc_dynamics.report import analyse
from llc_dynamics.theory import Solution, crossover

script, crossover_llc, predictions, crossover_runs, crossover_tables = load_together(
    "transient_ridge",
    *("crossover", "crossover_llc", "crossover_predictions", "crossover_runs", "crossover_tables"),
)
END = int(made_up.STEPS[-1])
BAD = int(made_up.LLC_STEPS[5])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("crossover")
    return [made_up.make_sweep(top / str(seed), seed, bad=(BAD,)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def records(folders):
    return crossover_runs.read_seeds(folders, "llc")


def of(records, number, seed=0):
    return next(record for record in records if record.num_tasks == number and record.seed == seed)


def test_ideal_losses_and_their_difference(records) -> None:
    for record in records:
        if record.finite:
            assert record.gap.value == pytest.approx(made_up.GAP[record.num_tasks], rel=1e-5)
            # the plain difference of the losses is the same in expectation
            assert abs(record.paired_gap.value - record.gap.value) < 4 * record.paired_gap.standard_error
            assert record.ridge.value - record.dmmse.value == pytest.approx(record.paired_gap.value)
        assert record.nats == made_up.NATS
    assert of(records, math.inf).gap is None


def test_times_are_those_of_the_report(folders, records) -> None:
    run = ld.Trajectory(folders[0] / "M-8")
    told, record = analyse([run]).runs[0].transitions[0].transience, of(records, 8.0)
    assert (record.status, record.t_crit, record.t_crit_interval) == ("transient", told.t_crit, told.t_crit_interval)
    low, high = np.quantile(record.t_draws, [0.05, 0.95])
    assert low <= record.t_crit <= high
    times = [of(records, number).t_crit for number in (8.0, 16.0, 32.0)]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_fall_of_the_loss_within_a_run(records) -> None:
    """Known from the made-up function, with its distance to dMMSE_M in two parts; smoothing blurs it a little."""
    for record in records:
        if not record.finite:
            continue
        half = made_up.TURN[record.num_tasks] * (1 + 0.05 * record.seed)

        def distance(step, gap=made_up.GAP[record.num_tasks], half=half):
            risen = made_up.turned(step, 120.0)
            return gap * (risen * (1 - made_up.turned(step, half))) ** 2 + (1 - risen) ** 2 * 4.04

        known = distance(record.t_crit) - distance(END)
        assert record.fall == pytest.approx(known, rel=0.08)
        assert 0 < record.fall_error < 0.2 * record.fall
        assert record.fall_draws.std() > 0.5 * record.fall_error
        assert abs((record.loss_at - record.loss_end) - record.fall) < 0.15 * record.fall


def test_the_llc_between_its_points(records) -> None:
    record = of(records, 16.0)
    for step in (record.t_crit, 2500, END):
        value, error = record.llc.at(step)
        known = 20 + made_up.PRICE[16.0] * made_up.turned(step, made_up.TURN[16.0])
        assert abs(value - known) < 4 * error + 0.1
        assert 0.02 < error < 0.4
    nearest = record.llc.nearest(BAD * 1.01)
    assert (nearest["step"], nearest["converged"], nearest["reasons"]) == (BAD, False, ["chains disagree"])
    assert math.isnan(record.llc.at(20)[0])  # long before the first point
    change, error = record.llc.change(record.t_crit, END)
    assert change == pytest.approx(record.llc.at(END)[0] - record.llc.at(record.t_crit)[0])
    assert error < record.llc.at(END)[1] + record.llc.at(record.t_crit)[1]


def test_errors_of_the_llc_hold(folders) -> None:
    """At nominal 90%, 30 curves, rising and flat ones; the fit is cautious, so only too few would be wrong."""
    generator = np.random.default_rng(11)
    stored = ld.LLCCurve.load(folders[0] / "M-16")
    template = stored.results[0]
    for height in (lambda t: 20 + 6 * made_up.turned(t, 2500.0), lambda _: 20.0):
        held = []
        for repetition in range(15):
            results = {
                int(step): dataclasses.replace(
                    template, llc=height(step) + 0.2 * generator.normal(), standard_error=0.2
                )
                for step in made_up.LLC_STEPS
            }
            llc = crossover_llc.smooth_llc(ld.LLCCurve(results), seed=repetition)
            change, error = llc.change(900, END)
            value, level_error = llc.at(900)
            held.append(abs(change - height(END) + height(900)) < 1.645 * error)
            held.append(abs(value - height(900)) < 1.645 * level_error)
        assert np.mean(held) > 0.9 - 4 * math.sqrt(0.9 * 0.1 / 15)


def test_common_noise_makes_changes_exact(folders) -> None:
    """Draws that all points share, and a tenth of their own: the change is known far better, and its 90% holds."""
    generator = np.random.default_rng(12)
    template = ld.LLCCurve.load(folders[0] / "M-16").results[0]
    held, errors = [], []
    for repetition in range(15):
        shared = generator.normal(size=(2, 200))
        results = {}
        for step in made_up.LLC_STEPS:
            trace = 20 + 6 * made_up.turned(step, 2500.0) + 4.0 * (shared + 0.1 * generator.normal(size=(2, 200)))
            results[int(step)] = dataclasses.replace(
                template, llc=float(trace.mean()), standard_error=0.2, corrected_trace=trace, settings={"seed": 0}
            )
        change, error = crossover_llc.smooth_llc(ld.LLCCurve(results), seed=repetition).change(900, END)
        held.append(abs(change - 6 * (made_up.turned(END, 2500.0) - made_up.turned(900, 2500.0))) < 1.645 * error)
        errors.append(error)
    assert np.median(errors) < 0.3 * math.hypot(0.2, 0.2)
    assert np.mean(held) > 0.9 - 4 * math.sqrt(0.9 * 0.1 / 15)


def test_too_few_converged_points_say_nothing(folders, tmp_path) -> None:
    run = ld.Trajectory(shutil.copytree(folders[0] / "M-8", tmp_path / "M-8"))
    made_up.store_curve(run, lambda _: 5.0, 0.1, 0, "few", bad=tuple(map(int, made_up.LLC_STEPS[3:])))
    record = crossover_runs.read_run(run, "few")
    assert record.llc.fit is None
    assert math.isnan(record.llc.change(record.t_crit, END)[0])
    assert crossover_runs.read_run(run, "few", unconverged=True).llc.at(END)[0] == pytest.approx(5, abs=0.5)


def test_the_ratio_orders_crossovers_as_n_does() -> None:
    generator = np.random.default_rng(1)
    gains, prices = generator.uniform(1e-4, 1e-2, 60), generator.uniform(1, 50, 60)
    sizes = [
        crossover(simple=Solution(gain, 0.0), accurate=Solution(0.0, price)).n
        for gain, price in zip(gains, prices, strict=True)
    ]
    ratios = predictions.crossover_ratio(gains, prices)
    assert np.array_equal(np.argsort(sizes), np.argsort(ratios))
    assert ratios == pytest.approx([n / math.log(n) for n in sizes])


@pytest.mark.parametrize(
    ("gain", "price", "ratio", "kind"),
    [
        (1e-3, 4.0, 4e3, "crosses"),
        (2.0, 1.0, 0.5, "always"),  # above log(n)/n at every n, but still later than one at 0.4
        (1.0, -2.0, 0.0, "always"),
        (1.0, 0.0, 0.0, "always"),
        (-1.0, 2.0, math.inf, "never"),
        (-1.0, -2.0, math.inf, "never"),
        (0.0, 2.0, math.inf, "never"),
        (0.0, -2.0, 0.0, "always"),
    ],
)
def test_kinds_of_crossover(gain, price, ratio, kind) -> None:
    assert predictions.crossover_ratio(gain, price) == ratio
    simple, accurate = predictions.as_solutions(gain, price, 0.3, ("ridge", "dMMSE"))
    found = crossover(simple=simple, accurate=accurate, loss_difference_error=0.1)
    assert found.kind == kind
    assert (found.loss_difference, found.llc_difference, found.llc_difference_error) == (gain, price, 0.3)


def test_predictions_have_the_known_ratio(records) -> None:
    for definition in predictions.DEFINITIONS:
        found = predictions.predict(records, definition)
        assert [one.record.num_tasks for one in found] == [8.0, 16.0, 32.0] * 2
        for one in found:
            number = one.record.num_tasks
            gain = made_up.GAP[number] * made_up.NATS
            if definition == "ideal":
                known = made_up.PRICE[number] * made_up.turned(END, made_up.TURN[number]) / gain
                # the gap of these sequences is exact, so that only the LLC's error is between the two
                assert abs(one.ratio - known) < 4 * one.price_error / gain + 0.02 * known
            elif definition == "loss only":
                assert one.ratio == pytest.approx(1 / gain, rel=1e-5)
            low, high = one.ratio_interval
            assert low < one.ratio < high
            assert np.quantile(one.ratio_draws, [0.05, 0.95]) == pytest.approx((low, high), rel=0.1)


def test_the_order_is_found(records) -> None:
    for definition in predictions.DEFINITIONS:
        found = predictions.order_agreement(
            predictions.predict(records, definition), "all, censored later than the rest", num_bootstrap=400
        )
        assert found.within_groups == pytest.approx(1)
        assert found.spearman > 0.8
    scale = predictions.fitted_scale(predictions.predict(records, "ideal"))
    assert (scale["runs"], scale["left_out"]) == (6, 0)
    exact = [dataclasses.replace(one, ratio=one.record.t_crit / 300) for one in predictions.predict(records, "ideal")]
    scale = predictions.fitted_scale(exact)
    assert scale["factor"] == pytest.approx(300)
    assert scale["sequences_per_ratio"] == pytest.approx(300 * 32)
    assert scale["scatter_dex"] == pytest.approx(0, abs=1e-9)


def test_the_reversed_order_is_found_too(records) -> None:
    """LLCs that fall with M faster than the gain: the theory's order is then the opposite of what was seen."""
    turned = [
        dataclasses.replace(one, ratio=1 / one.ratio, ratio_draws=1 / one.ratio_draws)
        for one in predictions.predict(records, "loss only")
    ]
    found = predictions.order_agreement(turned, "without censored", num_bootstrap=400)
    assert found.within_groups == pytest.approx(-1)
    assert found.spearman_interval[1] < 0
    assert found.p_value > 0.9


def test_a_censored_run_is_last_or_left_out(records) -> None:
    last = of(records, 32.0)
    censored = dataclasses.replace(
        last, status="censored", t_crit=END, t_draws=np.full(len(last.t_draws), math.inf), fall=0.0
    )
    changed = [censored if record is last else record for record in records]
    found = script.findings(changed, "llc", num_bootstrap=200)
    by = {(row["definition"], row["selection"]): row for row in found["order"]}
    assert by["ideal", "all, censored later than the rest"]["runs"] == 6
    assert by["ideal", "all, censored later than the rest"]["of_them_censored"] == 1
    assert by["ideal", "without censored"]["runs"] == 5
    assert by["within run", "all, censored later than the rest"]["runs"] == 5
    text = crossover_tables.markdown(found)
    assert "> 12,000" in text
    assert '"within run" makes no prediction for M = 32 seed 0' in text
    assert "censored (the loss falls to the end): M = 32 seed 0" in text


def test_dmmse_preferred_from_the_beginning_is_kept(folders, tmp_path) -> None:
    """With a lower LLC than ridge's, the crossover is predicted at 0: the lowest rank, said in the notes."""
    for number, price in ((8.0, -6.0), (16.0, 8.0), (32.0, 12.0), (math.inf, 0.0)):
        label = "inf" if math.isinf(number) else f"{number:.0f}"
        run = ld.Trajectory(shutil.copytree(folders[0] / f"M-{label}", tmp_path / "low" / f"M-{label}"))
        made_up.store_curve(
            run, lambda t, m=number, p=price: 20 + p * made_up.turned(t, made_up.TURN[m]), 0.1, 0, "low"
        )
    records = crossover_runs.read_seeds([tmp_path / "low"], "low")
    found = script.findings(records, "low", num_bootstrap=200)
    ratios = {row["M"]: row["ratio"] for row in found["predictions"] if row["definition"] == "ideal"}
    assert ratios[8.0] == 0
    assert ratios[16.0] > 0
    assert any("preferred from the beginning" in note and "M = 8 seed 0" in note for note in found["notes"])
    assert next(row for row in found["order"] if row["definition"] == "ideal")["runs"] == 3


def test_change_of_the_llc_against_the_control(records) -> None:
    rows = predictions.llc_changes(records)
    assert len(rows) == 2 * 6
    for row in rows:
        half, price = made_up.TURN[row["M"]], made_up.PRICE[row["M"]]
        known = price * (made_up.turned(row["stop"], half) - made_up.turned(row["start"], half))
        assert abs(row["change"] - known) < 4 * row["error"] + 0.1
        assert abs(row["control"]) < 4 * row["control_error"] + 0.01
        assert row["difference"] == pytest.approx(row["shared_change"] - row["control"])
        # the control is flat
        assert (row["log_ratio"] > 0) == (row["shared_change"] > 0)
        assert row["stop"] == (END if row["window"] == "to the end" else 2 * row["start"])
    pooled = next(
        row
        for row in predictions.pooled_changes(rows)
        if (row["window"], row["quantity"], row["runs_of"]) == ("to the end", "difference", "all with an inner minimum")
    )
    by_seed = [
        np.mean([r["difference"] for r in rows if r["seed"] == s and r["window"] == "to the end"]) for s in (0, 1)
    ]
    assert (pooled["seeds"], pooled["runs"], pooled["rising"]) == (2, 6, 6)
    assert pooled["mean"] == pytest.approx(np.mean(by_seed))
    assert pooled["standard_error"] == pytest.approx(abs(by_seed[0] - by_seed[1]) / 2)


def test_a_shorter_control_shortens_the_comparison(records) -> None:
    control = of(records, math.inf)
    shorter = [dataclasses.replace(r, last_step=5000) if r is control else r for r in records]
    row = next(r for r in predictions.llc_changes(shorter) if r["seed"] == 0 and r["window"] == "to the end")
    assert (row["stop"], row["shared_stop"]) == (END, 5000)
    assert row["shared_change"] != row["change"]


def test_the_script_writes_everything(folders, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "transient_ridge"))  # figures are imported when they are drawn
    out = tmp_path / "out"
    assert script.main([*map(str, folders), "--out", str(out)]) == 0
    found = json.loads((out / "crossover.json").read_text())
    assert len(found["runs"]) == 8
    assert {row["definition"] for row in found["order"]} == {*predictions.DEFINITIONS, "M itself"}
    text = (out / "tables.md").read_text()
    assert text in capsys.readouterr().out
    assert len([line for line in (out / "runs.csv").read_text().splitlines() if line]) == 9
    for name in ("llc_across_crossover", "predicted_against_observed", "free_energy"):
        assert (out / f"{name}.png").stat().st_size > 10_000


def some(folders, tmp_path, *names):
    for name in names:
        shutil.copytree(folders[0] / name, tmp_path / "some" / name)
    return tmp_path / "some"


def test_refuses_what_is_no_sweep(folders, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrajectoryError, match="neither a run nor a folder of runs"):
        crossover_runs.read_seeds([tmp_path / "empty"], "llc")
    with pytest.raises(DataError, match="M = infinity"):
        crossover_runs.read_seeds([folders[0] / "M-8"], "llc")
    assert script.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_refuses_a_sweep_without_control_or_with_few_runs(folders, tmp_path) -> None:
    with pytest.raises(DataError, match="no run at M = infinity"):
        crossover_runs.read_seeds([some(folders, tmp_path / "a", "M-8", "M-16", "M-32")], "llc")
    with pytest.raises(DataError, match="2 finite values of M"):
        crossover_runs.read_seeds([some(folders, tmp_path / "b", "M-8", "M-16", "M-inf")], "llc")


def test_refuses_missing_curves_and_repeated_seeds(folders) -> None:
    with pytest.raises(TrajectoryError, match=r"no LLC curve 'fine' in M-8, .*stored there: llc.*--name fine"):
        crossover_runs.read_seeds(folders, "fine")
    with pytest.raises(DataError, match="seed 0 already"):
        crossover_runs.read_seeds([folders[0], folders[0]], "llc")
