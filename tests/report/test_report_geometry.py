"""Where runs turn in the plane of the joint PCA: in the analysis, its JSON, the page's figure and on the terminal."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import Reader
from sweep_runs import record

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.report import Analysis, analyse, pca_figures, render
from llc_dynamics.report.figures import run_styles
from llc_dynamics.report.geometry import COSINE_LIKE, LIKELY, find_geometry, turning_phrase
from llc_dynamics.report.joint_pca import PCAAnalysis
from llc_dynamics.report.pca_figures import geometry
from llc_dynamics.stages import trajectory_geometry

STEPS = np.unique(np.geomspace(1, 1e5, 60).astype(int))
WHERE = np.linspace(0, 1, len(STEPS))
# Not cosines, and PC2 turns back at a known place.
ARC = 10 * np.stack([np.exp(-2 * WHERE), (WHERE - 0.8) ** 2], axis=1)
COSINES = 10 * np.stack([np.cos(np.pi * WHERE), 0.5 * np.cos(2 * np.pi * WHERE)], axis=1)


def scored(scores: dict[str, np.ndarray]) -> PCAAnalysis:
    components = next(iter(scores.values())).shape[1]
    ratio = np.array([0.6, 0.3])[:components]
    control = np.tile([0.997, 0.988], (5, 1))
    steps = {label: STEPS[: len(score)] for label, score in scores.items()}
    return PCAAnalysis(scores, steps, {}, {}, ratio, {}, control, (4, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """M = 8 passes by ridge and turns to dMMSE; M = 2 has six checkpoints only."""
    folder = tmp_path_factory.mktemp("geometry")
    record(folder / "M-8", 8.0)
    record(folder / "M-2", 2.0, steps=[0, 10, 100, 300, 1000, 10_000])
    return folder


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyse([ld.Trajectory(folder / name) for name in ("M-2", "M-8")])


def test_geometry_of_a_run_in_the_joint_pca(analysis: Analysis) -> None:
    run = analysis.runs[1]
    assert analysis.pca is not None
    assert run.geometry is not None
    alone = trajectory_geometry(analysis.pca.steps[run.label], analysis.pca.scores[run.label])
    assert run.geometry.sentence == alone.sentence
    assert "vertex at " in turning_phrase(run.geometry)
    stored = json.loads(json.dumps(run.to_dict()["geometry"], allow_nan=False))
    assert [each["step"] for each in stored["turning_points"]] == [p.step for p in alone.turning_points]
    assert stored["cosine_content"] == list(alone.cosine_content)
    assert stored["resolution"] == alone.resolution
    assert stored["notes"] == [note.to_dict() for note in alone.notes]
    assert stored["cosine_like"] is False
    longest = max(len(value) for value in stored.values() if isinstance(value, list))
    assert longest <= max(len(alone.turning_points), len(alone.notes), 2)  # nothing on the grid
    assert len(alone.to_dict()["position"]) == len(alone.steps)


def test_too_few_checkpoints_are_left_out_with_a_note(analysis: Analysis) -> None:
    run = analysis.runs[0]
    assert run.geometry is None
    assert run.to_dict()["geometry"] is None
    (note,) = [note.text for note in run.notes if note.code == "no_geometry"]
    assert note.startswith("no geometry of the trajectory PCA: 6 usable points")


def test_what_cannot_be_judged_is_said() -> None:
    assert find_geometry("a", None) == (None, [])
    assert find_geometry("b", scored({"a": ARC})) == (None, [])
    for scores, why in ((np.ones((60, 2)), "constant"), (ARC[:, :1], "one component only"), (ARC[:5], "5 usable")):
        found, (note,) = find_geometry("a", scored({"a": scores[: len(STEPS)]}))
        assert found is None
        assert why in note.text
    still, notes = find_geometry("a", scored({"a": ARC * [1, 0]}))
    assert still is not None
    assert notes == []


def test_phrase_names_the_likely_points_by_kind() -> None:
    found, _ = find_geometry("a", scored({"a": ARC}))
    assert found is not None
    named = re.findall(r"PC2 turns back at ([\d,]+) \(([\d,]+) to ([\d,]+)\)", turning_phrase(found))
    ((place, low, high),) = [[float(number.replace(",", "")) for number in each] for each in named]
    assert low <= place <= high
    at = np.interp(np.log1p(place), np.log1p(STEPS), WHERE)
    assert at == pytest.approx(0.8, abs=0.05)
    straight, _ = find_geometry("a", scored({"a": np.stack([WHERE, 2 * WHERE], axis=1)}))
    assert straight is not None
    assert turning_phrase(straight) == "none"
    many = trajectory_geometry(STEPS, np.stack([np.sin(9 * np.pi * WHERE), 3 * WHERE], axis=1))
    likely = [p for p in many.turning_points if p.component == 0 and p.probability >= LIKELY]
    assert len(likely) > 6
    assert f" and {len(likely) - 6} later ones" in turning_phrase(many)


def test_the_page_shows_it(analysis: Analysis) -> None:
    run = analysis.runs[1]
    assert run.geometry is not None
    (figure,) = geometry(analysis, run_styles(analysis))
    page = render(analysis, figures=[figure])
    assert "figure-geometry" in [attributes.get("id") for _, attributes in Reader(page).tags]
    assert "no geometry of the trajectory PCA: 6 usable points" in page
    assert f"M = 8: {turning_phrase(run.geometry)}" in figure.alt
    assert "M = 2" not in figure.alt
    assert "not that the turn means something" in figure.caption
    first, second = run.geometry.cosine_content
    assert f"{first:.2f} and {second:.2f} for M = 8; median of random walks" in figure.caption
    assert COSINE_LIKE not in figure.caption


def test_cosines_are_marked_and_not_all_runs_are_drawn(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pca_figures, "_MAX_PANELS", 3)
    labels = [f"run {k}" for k in range(4)]
    pca = scored({label: COSINES if label == "run 1" else ARC for label in labels})
    likely, _ = find_geometry("run 0", pca)
    marked, _ = find_geometry("run 1", pca)
    assert likely is not None
    assert marked is not None
    assert marked.cosine_like
    assert not likely.cosine_like
    runs = tuple(
        replace(analysis.runs[0], label=label, geometry=marked if label == "run 1" else likely) for label in labels
    )
    many = replace(analysis, runs=runs, pca=pca)
    (figure,) = geometry(many, run_styles(many))
    assert [panel.title for panel in figure.panels] == ["run 0", "run 1 (cosine-like)", "run 2"]
    static = figure.static()
    static.draw_without_rendering()
    assert [ax.get_title(loc="left") for ax in static.axes] == ["run 0", "run 1 (cosine-like)", "run 2"]
    assert f"Both are 0.7 or more for run 1 ({COSINE_LIKE}). 3 of 4 runs are shown." in figure.caption
    assert "median of random walks 1.00 and 0.99" in figure.caption
    assert not caplog.records  # matplotlib has nothing to say of the limits
    (none,) = [list(geometry(replace(many, pca=None), run_styles(many)))]
    assert none == []


def test_the_terminal_names_the_turns(
    folder: Path, capsys: pytest.CaptureFixture[str], analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["stages", str(folder)]) == 0
    few, enough = capsys.readouterr().out.split("\nM = 8  ")
    assert "note: no geometry of the trajectory PCA: 6 usable points" in few
    assert "turns in PC1-PC2" not in few
    run = analysis.runs[1]
    assert run.geometry is not None
    (line,) = [line for line in enough.splitlines() if "PC1-PC2" in line]
    assert line == f"  turns in PC1-PC2, probability 0.9 or more: {turning_phrase(run.geometry)}"
    marked, _ = find_geometry("a", scored({"a": COSINES}))
    monkeypatch.setattr("llc_dynamics.report.analysis.find_geometry", lambda *_: (marked, []))
    assert main(["stages", str(folder / "M-8")]) == 0
    assert "(cosine-like: a random walk's PCA turns so, too)" in capsys.readouterr().out
