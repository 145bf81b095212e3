"""`llc-dynamics stages` and the report's stages: small stored runs with a known turn of the LLC."""

import re
from pathlib import Path

import numpy as np
import pytest
from pages import Reader, visible
from stored_llc import store_llc
from sweep_runs import record

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.report import analyse, write_report
from llc_dynamics.report.developmental import ALONE, LLC, NOTHING, stage_sentences

TURN = 400


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """M = 8 with an LLC curve that turns at step 400, and M = 2 without one."""
    folder = tmp_path_factory.mktemp("stages")
    run = record(folder / "M-8", 8.0)
    record(folder / "M-2", 2.0)
    x = np.log1p(run.steps)
    values = 40 - 5 * np.abs(x - np.log1p(TURN)) + 0.5 * np.random.default_rng(0).standard_normal(len(x))
    store_llc(run, values.tolist(), [0.5] * len(x), [()] * len(x))
    few = x[:: len(x) // 4]
    store_llc(run, few.tolist(), [0.5] * len(few), [()] * len(few), name="few")
    return folder


def test_stages_of_llc_and_ood_loss_are_printed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", str(runs)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    without, with_llc = captured.out.split("\nM = 8  ")
    assert "no LLC curve 'llc' to find stages in; `llc-dynamics llc" in without
    assert "stages of the LLC" not in without
    assert "stages of the loss on new tasks" in without
    assert "stages of the loss on new tasks" in with_llc
    (place,) = re.findall(r"stages of the LLC: 1 boundaries resolved.*\n +turn at ([\d,]+) \(", with_llc)
    assert abs(np.log10((float(place.replace(",", "")) + 1) / (TURN + 1))) < 0.1
    assert re.search(r": \+[\d.]+ ± [\d.]+, loss -[\d.]+: rise\n", with_llc)
    assert "change points of LLC: " in with_llc
    assert "LLC: within 0.1 decades both find 1 of 1 boundaries" in with_llc
    assert "change points of LLC, loss on new tasks" in with_llc
    assert "such a boundary is found" not in captured.out


def test_null_check(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", str(runs / "M-8"), "--null-check", "--repetitions", "4"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "null check of the LLC: at the points and errors of this curve" in captured.out
    rates = re.findall(r"is found in ([\d.]+)% of 4 (.+) \(95% interval ([\d.]+) to ([\d.]+)%\)", captured.out)
    assert len(rates) == 6
    assert len({what for _, what, _, _ in rates}) == 6
    assert all(float(low) <= float(rate) <= float(high) for rate, _, low, high in rates)


def test_another_curve_and_too_few_points(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", str(runs / "M-8"), "--name", "few"]) == 0
    out = capsys.readouterr().out
    assert "no stages of the LLC: " in out
    assert "at least 8" in out
    assert main(["stages", str(runs / "M-8"), "--name", "nowhere"]) == 0
    out = capsys.readouterr().out
    assert "no LLC curve 'nowhere'" in out
    assert "--name nowhere" in out


def test_null_check_without_any_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "short", 8.0, steps=[0, 1, 2, 5])
    assert main(["stages", str(tmp_path / "short"), "--null-check"]) == 0
    assert "null check: not possible" in capsys.readouterr().out


def test_bad_repetitions(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stages", str(runs), "--null-check", "--repetitions", "0"]) == 1
    assert "--repetitions must be 1 or more, got 0" in capsys.readouterr().err


def test_the_report_shows_false_positive_rates(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    options = ["--out", str(page), "--null-check", "2", "--figures", str(figures)]
    assert main(["report", str(runs / "M-8"), *options]) == 0
    text = visible(page.read_text(encoding="utf-8"))
    assert (
        f"Of 2 curves of each of {len(NOTHING)} kinds that have no stages, at the points and errors of the LLC" in text
    )
    assert "False-positive rates of the stages" in text
    assert (figures / "null-rates.svg").exists()
    assert main(["report", str(runs / "M-8"), "--null-check", "-1"]) == 1
    assert "--null-check must be 0 or more" in capsys.readouterr().err


def test_the_report_shows_the_stages(runs: Path, tmp_path: Path) -> None:
    page = write_report(runs, tmp_path / "page.html", figures=tmp_path / "png").read_text(encoding="utf-8")
    assert "figure-stages" in [attributes.get("id") for _, attributes in Reader(page).tags]
    assert (tmp_path / "png" / "stages.png").exists()
    assert (tmp_path / "png" / "geometry.png").exists()
    text = visible(page)
    (run,) = analyse([ld.Trajectory(runs / "M-8")]).runs
    assert run.stages is not None
    (turn,) = run.stages.reports[LLC].resolved
    assert set(run.stages.reports) == {LLC, "loss on new tasks"}
    assert f"Between stages of the LLC lie a turn at step {turn.step:,.0f} (90% interval " in text
    assert "Change points of the LLC alone find 1 of 1 again within 0.1 decades" in text
    assert "Change points of LLC, loss on new tasks" in text
    assert [each.step for each in run.stages.agreements[ALONE].agreed] == [turn.step]
    assert run.to_dict()["stages"]["reports"][LLC]["boundaries"][0]["step"] == turn.step
    assert len(stage_sentences(run.stages)) == 3
