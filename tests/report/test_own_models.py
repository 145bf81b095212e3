"""The page on a run of anyone's own: words, metrics, unfinished curves, and a hostile description."""

import json
import math

import numpy as np
import pytest
import torch
from pages import Reader, visible
from stored_llc import store_point

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.curve import Curve
from llc_dynamics.report import analyse, write_report
from llc_dynamics.report import page as report_page
from llc_dynamics.report.figures import run_styles
from llc_dynamics.report.geometry import find_geometry
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.metric_figures import other_metrics
from llc_dynamics.report.words import llc_sentences

STEPS = [0, 1, 2, 5, 10, 20, 50, 100, 200, 400]
CLASSIFIER = {
    "loss": "cross-entropy",
    "probes": {"test": "held-out digits"},
    "words": "A small classifier of handwritten digits.",
}
OURS = ("ridge", "dmmse", "transien", "in-context", "regression", "mean squared", "tasks", "specialis", "new tasks")


def record(path, description=CLASSIFIER, axis=None):
    """A classifier: a cross-entropy, an accuracy that is measured at every third checkpoint, function vectors."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    if axis is not None:
        description = {**description, "axis": {"name": "width", "value": axis, "label": f"width {axis}"}}
    vectors = np.random.default_rng(len(path.name)).normal(size=(len(STEPS), 6, 3)).cumsum(axis=0)
    with ld.TrajectoryWriter(path, model, {"training": {"num_steps": 400}}, description=description) as writer:
        for place, step in enumerate(STEPS):
            samples = np.linspace(0.5, 1.5, 20) * math.exp(-place / 4)
            metrics = {"train_loss": float(samples.mean()), "loss/test": float(samples.mean())}
            if place % 3 == 0:
                metrics["eval_accuracy"] = 0.1 + 0.08 * place
            writer.record(step, metrics, vectors[place].astype(np.float32), {"loss/test": samples.astype(np.float32)})
        writer.finish()
    return ld.Trajectory(path)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run whose LLC curve peaked in between and stopped at step 50 of 400."""
    run = record(tmp_path_factory.mktemp("own") / "digits")
    for step, value in zip(STEPS[:7], [2.54, 8.0, 20.0, 39.7, 30.0, 12.0, 3.95], strict=True):
        store_point(run, step, value, 0.2, dimension=3, settings={"sampler": {"localization": 100.0}})
    return run


def test_a_page_without_one_word_of_another_system(interrupted, tmp_path):
    path = write_report(interrupted, tmp_path / "page.html", figures=tmp_path / "png")
    page = path.read_text(encoding="utf-8")
    everything = " ".join([visible(page), *(str(attributes) for _, attributes in Reader(page).tags)]).lower()
    assert not [word for word in OURS if word in everything]
    assert "a small classifier of handwritten digits." in everything
    figures = {path.stem for path in (tmp_path / "png").iterdir()}
    assert {f"{name}.{ending}" for name in figures for ending in ("png", "svg")} == {
        path.name for path in (tmp_path / "png").iterdir()
    }
    assert {f"figure-{name}" for name in figures} == {
        found["id"] for tag, found in Reader(page).tags if tag == "figure"
    }
    assert {"llc", "chains", "losses", "metric-0", "pca-1-2", "pca-3d"} <= figures
    assert not [name for name in figures if "distance" in name or "rebound" in name]
    text = visible(page)
    assert "The LLC rises from 2.54 ± 0.20 at step 0 to 3.95 ± 0.20 at step 50, with a peak of 39.70 ± 0.20" in text
    assert "The curve ends at step 50 of 400: what the LLC does later is not known." in text
    assert (
        "the LLC curve ends at step 50 of 400: 7 points are stored, and 3 checkpoints with weights come after" in text
    )
    assert "not reached (3.95 ± 0.20 at step 50)" in text
    assert "7 of 7 up to there" in text
    assert "At the last checkpoint the LLC" not in text


def test_what_is_shown_of_a_metric(interrupted):
    analysis = analyse([interrupted])
    (figure,) = other_metrics(analysis, run_styles(analysis))
    (ax,) = figure.static().axes
    (line,) = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    np.testing.assert_array_equal(line.get_xdata(), STEPS[::3])
    assert np.isfinite(line.get_ydata()).all()
    assert ax.get_yscale() == "linear"
    assert ax.get_ylabel() == "eval_accuracy"
    assert figure.title == "Metric: eval_accuracy"


def test_the_loss_is_called_what_the_description_calls_it(interrupted, tmp_path):
    from llc_dynamics.report.metric_figures import losses

    analysis = analyse([interrupted])
    (figure,) = losses(analysis, run_styles(analysis))
    first, second = figure.static().axes
    assert first.get_ylabel() == "Loss (cross-entropy)"
    assert [ax.get_title(loc="left") for ax in (first, second)] == ["Training batches", "Held-out digits"]
    assert {ax.get_yscale() for ax in (first, second)} == {"log" if math.exp(9 / 4) > 10 else "linear"}
    analysis = analyse([record(tmp_path / "plain", {})])
    (plain,) = losses(analysis, run_styles(analysis))
    assert plain.static().axes[0].get_ylabel() == "Loss"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([2.5, 39.7, 4.0], ", with a peak of 39.70 ± 0.20 at step 10 between"),
        ([30.0, 5.0, 20.0], ", with a low of 5.00 ± 0.20 at step 10 between"),
        ([10.0, 10.5, 12.0], "at step 20."),
        ([10.0, 12.3, 12.0], "at step 20."),  # within its errors
    ],
)
def test_an_extreme_between_the_ends_is_named(values, said):
    assert said in llc_sentences(Curve([0, 10, 20], values, [0.2] * 3))[0]


def test_several_extremes_and_an_unconverged_one():
    curve = Curve([0, 1, 2, 3, 4], [10, 30, 1, 99, 10], [0.1] * 5, converged=[1, 1, 1, 0, 1])
    text = llc_sentences(curve)[0]
    assert "with a peak of 30.00 ± 0.10 at step 1 and a low of 1.00 ± 0.10 at step 2 between" in text
    assert "99" not in text


def test_a_smooth_curve_that_misses_its_points_is_left_out_and_said():
    steps = np.unique(np.geomspace(1, 1e5, 60).astype(int))
    jumps = (
        np.random.default_rng(0).normal(size=(len(steps), 2)) * np.where(np.arange(len(steps)) % 7, 1, 2000)[:, None]
    )
    smooth = np.stack([np.linspace(0, 9, len(steps)), np.linspace(-3, 3, len(steps)) ** 2], axis=1)

    def judged(scores):
        pca = PCAAnalysis({"a": scores}, {"a": steps}, {}, {}, np.array([0.6, 0.3]), {}, None, (2,))
        return find_geometry("a", pca)

    found, notes = judged(smooth)
    assert found is not None
    assert notes == []
    found, (note,) = judged(jumps)
    assert found is None
    assert note.code == "poor_fit"
    assert "90% is asked for" in note.text


def test_runs_without_transitions_in_the_order_and_labels_of_their_axis(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "report_figures", lambda _: [])
    runs = [record(tmp_path / f"w{width}", axis=width) for width in (128, 8, 16)]
    analysis = analyse(runs)
    assert [run.label for run in analysis.runs] == ["width 8", "width 16", "width 128"]
    assert analysis.to_dict()["runs"][0]["transitions"] == []
    page = write_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "3 runs with 30 checkpoints, up to step 400" in visible(page)


def hostile(label):
    return {**CLASSIFIER, "axis": {"name": "M", "value": 1, "label": label}, "references": {"a": label}}


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", "../../etc/passwd", "$x_{ & ' \"", "_hidden", "{0}%s$title"]
)
def test_labels_with_markup_paths_and_formulas_are_shown_as_they_are(label, tmp_path):
    run = record(tmp_path / "run", hostile(label))
    path = write_report(run, tmp_path / "page.html", figures=tmp_path / "png")
    page = path.read_text(encoding="utf-8")
    reader = Reader(page)
    assert reader.depth_error is None
    assert sum(tag == "script" for tag, _ in reader.tags) == 3
    assert label in "".join(reader.text)
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "page.html", "png"}


@pytest.mark.parametrize(
    "description",
    [
        {**CLASSIFIER, "words": "A" * 10_000_000},
        hostile("\x1b[31mred"),
        {"axis": "M = 8"},
        {"transitions": [{"general": "nothing", "specialised": None, "probe": "nowhere"}]},
        {"probes": {"../up": "a"}},
        {"unknown": 1},
    ],
)
def test_a_description_that_cannot_be_used_is_said_in_one_note(description, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report_page, "report_figures", lambda _: [])
    run = record(tmp_path / "run")
    monkeypatch.setattr(ld.Trajectory, "description", property(lambda _: description))
    analysis = analyse([run])
    (found,) = analysis.runs
    assert found.label == "run"
    assert [note.code for note in found.notes] == ["bad_description"]
    page = write_report(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "run: the stored description is not used: " in visible(page)
    assert len(page) < 2_200_000  # 1.96 MB of it plotly
    assert main(["stages", str(tmp_path / "run")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_names_from_files_reach_the_terminal_without_control_sequences(tmp_path, capsys):
    run = record(tmp_path / "r\x1b[31mun")
    for arguments in (["stages", str(run.path)], ["pca", str(run.path)], ["watch", str(run.path), "--once"]):
        assert main(arguments) == 0
        assert "\x1b" not in capsys.readouterr().out


def test_values_beyond_any_axis_are_no_error(tmp_path, capsys):
    model = torch.nn.Linear(2, 1)
    with ld.TrajectoryWriter(tmp_path / "wild", model) as writer:
        for step in range(6):
            writer.record(step, {"loss": (-1) ** step * 1e308, "other": 0.5 + step})
    write_report(ld.Trajectory(tmp_path / "wild"), tmp_path / "page.html", figures=tmp_path / "png")
    assert main(["watch", str(tmp_path / "wild"), "--once"]) == 0
    assert "1e+308" in capsys.readouterr().out


def test_findings_as_json(interrupted, capsys):
    assert main(["stages", str(interrupted.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (run,) = found["runs"]
    assert {"train_loss", "loss/test", "eval_accuracy"} == set(run["curves"])
    codes = {note["code"]: note["text"] for note in run["notes"]}
    assert codes["llc_ends_early"].startswith("the LLC curve ends at step 50 of 400")
    assert run["llc"]["steps"] == STEPS[:7]
    assert run["transitions"] == []
    assert main(["pca", str(interrupted.path), "--json"]) == 0
    pca = json.loads(capsys.readouterr().out)
    assert len(pca["scores"]["digits"]) == len(STEPS)
    assert all(set(note) == {"code", "text"} for note in pca["notes"])


def test_a_system_named_on_the_command_line_describes_a_run_that_does_not(tmp_path, capsys):
    record(tmp_path / "plain", {})
    record(tmp_path / "described")
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "import llc_dynamics as ld\n"
        "from llc_dynamics.systems.description import Axis, Description\n"
        "from llc_dynamics.systems.system import System\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine(System):\n"
        "    def describe(self):\n"
        "        return Description(axis=Axis('depth', 2, 'depth 2'))\n"
    )
    system = ["--system", f"{tmp_path / 'mine.py'}:Mine"]
    assert main(["stages", str(tmp_path / "plain"), "--json", *system]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["label"] == "depth 2"
    assert main(["stages", str(tmp_path / "described"), *system]) == 0
    assert "depth 2" not in capsys.readouterr().out
    assert main(["stages", str(tmp_path / "plain"), "--system", "nowhere.py:Mine"]) == 1
    assert "nowhere.py" in capsys.readouterr().err


def test_verification_as_json(tmp_path, capsys):
    run = record(tmp_path / "run")
    store_point(run, 0, 1.0, 0.1, dimension=3)
    assert main(["verify", str(run.path), "--json"]) == 0
    (sound,) = json.loads(capsys.readouterr().out)
    assert (sound["checkpoints"], sound["problems"]) == (len(STEPS), [])
    assert sound["llc"] == [{"name": "llc", "points": 1, "sound": 1, "problems": []}]
    (run.path / "llc" / "llc" / "notes.txt").write_text("mine")
    assert main(["verify", str(run.path), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert [problem["code"] for problem in found["llc"][0]["problems"]] == ["foreign"]
