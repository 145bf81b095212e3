"""The report: self-contained, escaped, and in agreement with the verdicts that it puts into words."""

from __future__ import annotations

import json
import math
import re
import tomllib

import numpy as np
import plotly.graph_objects
import pytest
import torch
from pages import Reader, data_of, visible
from stored_llc import store_llc
from sweep_runs import STEPS, record

import llc_dynamics as ld
from llc_dynamics.errors import DataError, TrajectoryError
from llc_dynamics.llc.storage import curve_folder, point_file
from llc_dynamics.report import analyse, render, write_report
from llc_dynamics.report import page as report_page
from llc_dynamics.report.numbers import listed, percent, plain, with_error
from llc_dynamics.report.page import dark_variant
from llc_dynamics.report.reproduce import settings_text
from llc_dynamics.report.transitions import Names
from llc_dynamics.report.words import llc_sentences, run_sentences


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """M = 2 goes straight to dMMSE, M = 8 passes by ridge, M = infinity becomes ridge."""
    folder = tmp_path_factory.mktemp("sweep")
    runs = [record(folder / f"M-{m}", m) for m in (2.0, 8.0, math.inf)]
    store_llc(runs[0], [5.0, 20.0, 30.0], [0.5, 1.0, 1.0], [(), (), ()])
    bad = ("chains disagree: R-hat of the loss is 1.310 (limit 1.05)",)
    store_llc(runs[1], [5.0, 20.0, 33.0, 60.0], [0.5, 1.0, 1.0, 2.0], [(), bad, (), ()])
    store_llc(runs[2], [math.nan, 50.0], [math.nan, 3.0], [("all chains failed",), ()])
    return runs


@pytest.fixture(scope="module")
def analysis(sweep):
    return analyse(sweep)


@pytest.fixture(scope="module")
def page(sweep, analysis):
    return render(analysis, sweep[0].path.parent)


@pytest.fixture
def _without_figures(monkeypatch):
    """Pages in words only: drawing takes seconds, and one page with all figures is tested above."""
    monkeypatch.setattr(report_page, "report_figures", lambda _: [])


class TestPage:
    def test_it_is_well_formed_and_fetches_nothing(self, page):
        reader = Reader(page)
        assert reader.depth_error is None
        assert reader.open == []
        assert "http://" not in page
        assert "https://" not in page
        assert not any(tag in ("link", "iframe", "object", "img") or "src" in found for tag, found in reader.tags)
        assert all(found["href"].startswith("#") for _, found in reader.tags if "href" in found)
        assert sum(tag == "script" for tag, _ in reader.tags) == 3  # its data, plotly, and what draws
        assert "default-src 'none'" in page
        assert "@import" not in page
        assert not re.search(r"url\((?!#)", page)
        assert len(page) < 3_000_000

    def test_every_figure_has_a_caption_and_a_description(self, page, analysis):
        reader = Reader(page)
        figures = [found["id"] for tag, found in reader.tags if tag == "figure"]
        described = [found["aria-label"] for tag, found in reader.tags if tag == "figure"]
        assert len(figures) == sum(tag == "figcaption" for tag, _ in reader.tags)
        assert all(len(text) > 40 for text in described)
        for name in ("ood-loss", "ood-rebound", "distances", "pca-1-2", "components", "llc", "llc-axis", "losses"):
            assert f"figure-{name}" in figures
        assert analysis.pca is not None

    def test_plotly_knows_every_word_of_every_panel(self, page):
        found = data_of(page)["panels"]
        ids = {each["id"] for tag, each in Reader(page).tags if "data-panel" in each}
        assert ids == set(found)
        for panel in found.values():
            plotly.graph_objects.Figure(data=panel["traces"], layout=panel["layout"])

    def test_points_say_their_run_and_step(self, page, analysis):
        panels = data_of(page)["panels"]
        for name in ("ood-loss", "pca-1-2", "llc"):
            lines = [trace for trace in panels[f"panel-{name}-0"]["traces"] if "customdata" in trace]
            assert [trace["meta"] for trace in lines] == [run.label for run in analysis.runs]
            assert all(len(trace["x"]) == len(trace["customdata"]) for trace in lines)

    def test_ids_are_unique_and_references_lead_somewhere(self, page):
        reader = Reader(page)
        ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        wanted = {a["href"][1:] for _, a in reader.tags if a.get("href", "").startswith("#")}
        assert wanted <= set(ids)

    def test_the_words_hold_the_numbers_of_the_verdict(self, page, analysis):
        text = visible(page)
        (run,) = (run for run in analysis.runs if run.axis.value == 8)
        verdict = run.transitions[0].transience
        assert verdict.transient
        low, high = verdict.t_crit_interval
        assert f"at step {verdict.t_crit:,} (90% interval {low:,} to {high:,})" in text
        assert f"rose by {percent(verdict.rebound_relative, verdict.rebound_standard_error / verdict.minimum)}" in text
        assert f"{verdict.rebound_paired_z:.1f} paired standard errors" in text
        assert f"z = {verdict.rebound_z:.1f} with the jitter" in text
        assert f"ridge: {plain(run.levels['loss/ood']['ridge'].value)}" in text
        assert f"dMMSE: {plain(run.levels['loss/ood']['dmmse'].value)}" in text
        assert f"{percent(verdict.nearness)} less than at the first checkpoint" in text
        assert "Transient ridge was found in 1 of 3 runs: M = 8." in text
        assert "It was not found for M = 2 and M = ∞." in text
        for other in (run for run in analysis.runs if run.axis.value != 8):
            names = Names(other.description, other.transitions[0].transition)
            assert names.told(other.transitions[0].transience.reasons[0]) in text

    def test_levels_are_the_losses_of_the_predictors(self, sweep, analysis):
        arrays = sweep[1].arrays("probes")
        loss = ((arrays["ood/reference/dmmse"].astype(float) - arrays["ood/target"]) ** 2).mean()
        assert analysis.runs[1].levels["loss/ood"]["dmmse"].value == pytest.approx(loss)
        gap = ((arrays["ood/reference/dmmse"].astype(float) - arrays["ood/reference/ridge"]) ** 2).mean()
        assert analysis.runs[1].transitions[0].gap.value == pytest.approx(gap)
        assert "dmmse" not in analysis.runs[2].levels["loss/ood"]

    def test_unconverged_points_are_counted_and_their_reasons_shown(self, page):
        text = visible(page)
        assert "1 of 4 points did not converge and is left out of these numbers" in text
        assert "R-hat of the loss is 1.310" in text
        assert "2 of 9 points of the LLC curves did not converge (1 of 4 for M = 8 and 1 of 2 for M = ∞)" in text
        assert "gamma = 1,000" in text

    def test_the_llc_in_words(self, analysis):
        sentences = " ".join(run_sentences(analysis.runs[1]))
        assert "The LLC rises from 5.00 ± 0.50 at step 0 to 60.0 ± 2.0 at step 10,000." in sentences
        assert "the only converged point" in " ".join(run_sentences(analysis.runs[2]))

    def test_the_verdict_counts_what_did_not_converge(self, page, analysis):
        text = visible(page)
        box = text[: text.index(" Runs ")]
        assert "the LLC is 30.0 ± 1.0 for M = 2, 60.0 ± 2.0 for M = 8 and 50.0 ± 3.0 for M = ∞." in box
        assert "Over training 2 of 9 points did not converge" in box
        assert len(analysis.runs[1].llc) == 4

    def test_nothing_is_said_to_rise_within_its_error(self):
        flat = ld.Curve([0, 10], [10.0, 11.0], [1.0, 1.0])
        assert "does not change beyond its error" in llc_sentences(flat)[0]
        falling = ld.Curve([0, 10], [20.0, 11.0], [1.0, 1.0])
        assert "falls from 20.0 ± 1.0" in llc_sentences(falling)[0]
        hopeless = ld.Curve([0, 10], [20.0, 11.0], [1.0, 1.0], converged=[False, False])
        assert llc_sentences(hopeless) == ["None of the 2 points of the LLC curve converged, so no LLC is stated."]

    @pytest.mark.usefixtures("_without_figures")
    def test_same_runs_same_words(self, sweep, page):
        again = render(analyse(sweep), sweep[0].path.parent)
        for part in (r'<section class="verdict".*?</section>', r'<ul class="findings">.*?</ul>'):
            (words,) = re.findall(part, again, re.DOTALL)
            assert words in page

    @pytest.mark.usefixtures("_without_figures")
    def test_write_report_takes_a_folder_and_leaves_one_file(self, sweep, tmp_path):
        path = write_report(sweep[0].path.parent, tmp_path / "new" / "report.html")
        assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


class TestAnalysis:
    def test_to_dict_is_json(self, analysis):
        text = json.dumps(analysis.to_dict(), allow_nan=False)
        back = json.loads(text)
        assert [run["label"] for run in back["runs"]] == ["M = 2", "M = 8", "M = ∞"]
        assert back["runs"][1]["transitions"][0]["transience"]["transient"] is True
        assert back["runs"][2]["description"]["axis"]["value"] == "inf"
        assert set(back["runs"][1]["references"]["loss/ood"]) == {"ridge", "dmmse"}
        assert "distance/id/dmmse" in back["runs"][1]["curves"]

    def test_references_are_projected_and_not_fitted(self, sweep, analysis):
        pca = analysis.pca
        assert set(pca.references) == {"ridge", "dMMSE, M = 2", "dMMSE, M = 8"}
        assert pca.reference_of == {"dMMSE, M = 2": "M = 2", "dMMSE, M = 8": "M = 8"}
        stacked = np.concatenate([np.asarray(run.outputs()).reshape(len(run.steps), -1) for run in sweep])
        centred = stacked - stacked.mean(0)
        _, _, v = np.linalg.svd(centred, full_matrices=False)
        ridge = (sweep[0].arrays("probes")["root/reference/ridge"].ravel() - stacked.mean(0)) @ v[:2].T
        np.testing.assert_allclose(np.abs(pca.references["ridge"][:2]), np.abs(ridge), rtol=1e-3, atol=1e-4)

    def test_infinity_is_judged_without_dmmse(self, analysis):
        run = analysis.runs[2]
        (found,) = run.transitions
        assert found.specialisation is None
        assert not found.transience.transient
        assert not any("dmmse" in note.text for note in run.notes)

    @pytest.mark.usefixtures("_without_figures")
    def test_another_root_batch_is_left_out_of_the_pca_and_said(self, tmp_path):
        runs = [record(tmp_path / "a", 8.0), record(tmp_path / "b", math.inf, root_seed=5)]
        found = analyse(runs)
        assert list(found.pca.scores) == ["M = 8"]
        assert any(note.code == "other_batch" for note in found.notes)
        assert "recorded on another batch" in visible(render(found, tmp_path))

    @pytest.mark.usefixtures("_without_figures")
    def test_seeds_tell_runs_of_one_m_apart(self, tmp_path):
        runs = [record(tmp_path / "a", 8.0), record(tmp_path / "b", 8.0, seed=1), record(tmp_path / "c", 8.0, seed=1)]
        found = analyse(runs)
        assert [run.label for run in found.runs] == ["M = 8, seed 0", "M = 8, seed 1, b", "M = 8, seed 1, c"]
        assert "the runs here have seeds 0 and 1" in visible(render(found, tmp_path))

    def test_no_runs(self):
        with pytest.raises(DataError, match="no runs"):
            analyse([])


@pytest.mark.usefixtures("_without_figures")
class TestLessThanAWholeSweep:
    def test_a_single_run_without_llc(self, tmp_path):
        run = record(tmp_path / "only", 8.0)
        text = visible(write_report(run, tmp_path / "r.html").read_text(encoding="utf-8"))
        assert "How only developed" in text
        assert "No LLC curve is stored" in text
        assert "Transient ridge was found in 1 of 1 run: M = 8." in text

    def test_an_unfinished_run_says_so(self, tmp_path):
        record(tmp_path / "half", 8.0, finish=False, steps=STEPS[:15])
        text = visible(write_report(tmp_path / "half", tmp_path / "r.html").read_text(encoding="utf-8"))
        assert f"training is not finished: the last stored step is {STEPS[14]:,} of 10,000" in text
        assert "(not finished)" in text

    def test_three_checkpoints_give_a_page_without_a_verdict(self, tmp_path):
        record(tmp_path / "short", 8.0, steps=STEPS[:3])
        text = visible(write_report(tmp_path / "short", tmp_path / "r.html").read_text(encoding="utf-8"))
        assert "no verdict on transience" in text

    def test_missing_metrics_are_named(self, tmp_path):
        record(tmp_path / "run", 8.0, drop=("loss/ood", "distance/ood/dmmse", "loss/id"), outputs=False)
        text = visible(write_report(tmp_path / "run", tmp_path / "r.html").read_text(encoding="utf-8"))
        assert "not measured in this run: loss/ood, distance/ood/dmmse" in text
        assert "none holds what a verdict on transient ridge needs" in text
        assert "no function vectors are stored" in text

    def test_a_run_of_something_else(self, tmp_path):
        model = torch.nn.Linear(2, 1)
        with ld.TrajectoryWriter(tmp_path / "mine", model, config={"optimizer": "adam"}) as writer:
            for step in range(12):
                writer.record(step, metrics={"loss": 1 / (step + 1), "accuracy": step / 12})
            writer.finish()
        page = write_report(tmp_path / "mine", tmp_path / "r.html").read_text(encoding="utf-8")
        assert "recorded by a training loop of their own" in visible(page)

    def test_a_run_without_checkpoints_is_left_out(self, tmp_path):
        record(tmp_path / "runs" / "a", 8.0)
        with ld.TrajectoryWriter(tmp_path / "runs" / "b", torch.nn.Linear(2, 1), config={}):
            pass
        text = visible(write_report(tmp_path / "runs", tmp_path / "r.html").read_text(encoding="utf-8"))
        assert "b was left out" in text
        with pytest.raises(TrajectoryError, match="no checkpoint"):
            write_report(tmp_path / "runs" / "b", tmp_path / "r.html")

    def test_a_damaged_run_is_left_out_and_named(self, tmp_path):
        for name in ("a", "b"):
            record(tmp_path / "runs" / name, 8.0)
        shard = next(path for path in sorted((tmp_path / "runs" / "b").rglob("*.h5")) if "shard" in path.name)
        content = bytearray(shard.read_bytes())
        shard.write_bytes(content[: len(content) // 2])
        text = visible(write_report(tmp_path / "runs", tmp_path / "r.html").read_text(encoding="utf-8"))
        assert "b was left out" in text

    def test_a_run_without_a_manifest_that_can_be_read_is_left_out_and_named(self, tmp_path):
        for name in ("a", "b"):
            record(tmp_path / "runs" / name, 8.0)
        (tmp_path / "runs" / "b" / "manifest.json").write_text("{")
        text = visible(write_report(tmp_path / "runs", tmp_path / "r.html").read_text(encoding="utf-8"))
        assert "b was left out" in text
        assert "Transient ridge was found in 1 of 1 run" in text

    def test_a_damaged_llc_point_is_said_and_the_others_are_kept(self, tmp_path):
        run = record(tmp_path / "run", 8.0)
        steps = store_llc(run, [5.0, 20.0, 30.0], [0.5, 1.0, 1.0], [(), (), ()])
        point = point_file(curve_folder(run.path, "llc"), int(steps[1]))
        point.write_bytes(point.read_bytes()[:-100])
        (found,) = analyse([run]).runs
        assert found.llc.steps.tolist() == [steps[0], steps[2]]
        (note,) = [note for note in found.notes if note.code == "llc_points_left_out"]
        assert note.text.startswith("1 of 3 points of the LLC curve 'llc' cannot be read and are left out: ")

    def test_an_empty_llc_folder_is_said(self, tmp_path):
        run = record(tmp_path / "run", 8.0)
        curve_folder(run.path, "llc").mkdir(parents=True)
        text = visible(write_report(run, tmp_path / "r.html").read_text(encoding="utf-8"))
        assert "holds no finished point" in text


def test_one_checkpoint_can_be_drawn(tmp_path):
    run = record(tmp_path / "first", 8.0, steps=[0])
    store_llc(run, [5.0], [math.nan], [("too few effective draws",)])
    page = write_report(run, tmp_path / "r.html").read_text(encoding="utf-8")
    assert {"figure-ood-loss", "figure-llc"} <= {a.get("id") for tag, a in Reader(page).tags if tag == "figure"}


def test_hostile_names_are_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    name = "<img src=x onerror=alert(2)> $a_{ & ' \""
    config = {"note": evil, evil: [1, 2], "seed": 0}
    record(tmp_path / "runs" / name, 8.0, config=config)
    with ld.TrajectoryWriter(tmp_path / "runs" / "_other", torch.nn.Linear(2, 1), config={evil: evil}) as writer:
        for step in range(3):
            writer.record(step, metrics={"a<b>$x_{": 1.0})
    page = write_report(tmp_path / "runs", tmp_path / "r.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert sum(tag == "script" for tag, _ in reader.tags) == 3
    assert not any(tag in ("img", "b>") for tag, _ in reader.tags)
    assert not any("onerror" in attributes for _, attributes in reader.tags)
    assert evil not in page
    assert evil in "".join(reader.text)
    assert name in "".join(reader.text)
    assert "Metric: a<b>$x_{" in "".join(reader.text)
    assert reader.depth_error is None


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "error", "text"),
        [
            (3.1612, 0.0213, "3.161 ± 0.021"),
            (1234.5, 67.0, "1,234 ± 67"),
            (3.1612, None, "3.16"),
            (0.00012, math.nan, "1.20e-04"),
            (math.nan, 1.0, "not known"),
        ],
    )
    def test_with_error(self, value, error, text):
        assert with_error(value, error) == text

    def test_percent_and_lists(self):
        assert percent(0.1213, 0.0081) == "12.13% ± 0.81%"
        assert percent(0.1213) == "12.1%"
        assert listed(["a", "b", "c"]) == "a, b and c"


def test_settings_text_reads_back():
    settings = {
        "name": 'a "quoted" \\ name\nof\x7f two lines',
        "rate": 1e-05,
        "flag": True,
        "many": "inf",
        "none": None,
        "nested": {"deeper": {"x": 1}, "y": [1, 2.5]},
        "odd key!": 3,
        "runs": [{"width": 8, "num_steps": None}, {"width": "inf"}],
    }
    wanted = {key: value for key, value in settings.items() if value is not None}
    wanted["runs"] = [{"width": 8}, {"width": "inf"}]
    assert tomllib.loads(settings_text(settings)) == wanted


def test_dark_colours_are_light_enough():
    for color in ("#1f2328", "#3355cc", "#a23fa8", "#0072b2"):
        variant = dark_variant(color)
        channels = [int(variant[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (max(channels) + min(channels)) / 2 >= 0.6
