"""Figures: what is drawn is what was given, doubtful points are marked, and inputs stay as they were."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics import plots
from llc_dynamics.curve import Curve
from llc_dynamics.errors import DataError
from llc_dynamics.plots.losses import since_minimum
from llc_dynamics.plots.step_axis import format_step

STEPS = np.array([0, 10, 30, 100, 300, 1000, 3000, 10_000])


def dipping(seed=0, num_samples=64):
    """A loss that falls to its least value at step 1,000 and rises by 20% to the end, with samples."""
    values = np.array([5.0, 4.8, 4.5, 4.0, 3.0, 2.0, 2.2, 2.4])
    spread = np.random.default_rng(seed).normal(0, 1.0, num_samples)
    spread -= spread.mean()
    return Curve(STEPS, values, name="ood_loss", samples=values[:, None] * (1 + 0.2 * spread[None, :]))


def verdict(step=1000):
    return SimpleNamespace(transient=True, t_crit=step, t_crit_interval=(300, 3000))


def visible_lines(ax):
    return [line for line in ax.get_lines() if not line.get_label().startswith("_")]


def with_gid(ax, gid):
    """All points [point, 2] of the lines marked `gid`."""
    points = [line.get_xydata() for line in ax.get_lines() if line.get_gid() == gid]
    return np.concatenate(points) if points else np.empty((0, 2))


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


class TestStyle:
    def test_infinity_is_ink_and_colours_grow_lighter_along_a_numeric_axis(self):
        colors = plots.axis_colors([4, 64, 1, math.inf, 16, 256])
        lightness = [np.dot(mpl.colors.to_rgb(colors[m]), [0.2126, 0.7152, 0.0722]) for m in (1, 4, 16, 64, 256)]
        assert len(set(colors.values())) == 6
        assert np.all(np.diff(lightness) > 0)
        assert colors[math.inf] == plots.style.INK

    def test_words_take_their_colours_from_a_cycle(self):
        colors = plots.axis_colors(["adam", "muon", "adam", 3.0])
        assert [colors["adam"], colors["muon"]] == list(plots.style.CATEGORICAL[:2])
        assert len(set(colors.values())) == 3

    def test_labels(self):
        assert [plots.style.key_label(key) for key in (math.inf, 1024.0, 0.5, "a")] == ["∞", "1,024", "0.5", "a"]
        assert [format_step(s) for s in (0, 300, 2000, 1_500_000)] == ["0", "300", "2k", "1.5M"]


class TestStepAxis:
    def test_ticks_stand_at_their_steps_and_step_zero_is_on_the_axis(self):
        _, ax = plt.subplots()
        plots.set_step_axis(ax, 10_000)
        labels = [text.get_text() for text in ax.get_xticklabels()]
        assert list(ax.get_xticks()) == [0, 10, 100, 1000, 10_000]
        assert labels == ["0", "10", "100", "1k", "10k"]
        assert ax.get_xlim()[0] <= 0 < 10_000 <= ax.get_xlim()[1]

    def test_scale_is_log_of_one_plus_step_over_the_width(self):
        _, ax = plt.subplots()
        plots.set_step_axis(ax, 10_000, linear_width=10)
        x = ax.transData.transform([(0, 0), (90, 0), (990, 0)])[:, 0]
        assert x[2] - x[0] == pytest.approx(2 * (x[1] - x[0]))  # log 1, log 10, log 100

    @pytest.mark.parametrize("last", [0, 1, 7, 150_000])
    def test_any_length_of_run(self, last):
        _, ax = plt.subplots()
        plots.set_step_axis(ax, last)
        ax.figure.canvas.draw()
        assert np.isfinite(ax.get_xlim()).all()


class TestLosses:
    def test_one_line_per_run_with_a_band_a_level_and_t_crit(self):
        curves = {8: dipping(), math.inf: Curve(STEPS, np.linspace(5, 1, 8))}
        ax = plots.plot_loss(curves, verdicts={8: verdict()}, levels={"ridge": 0.9}, ylabel="Loss on new tasks")
        assert [line.get_label() for line in visible_lines(ax)] == ["8", "∞"]
        assert len(ax.collections) == 1  # only M = 8 has samples, so only it has a band
        np.testing.assert_allclose(with_gid(ax, "t_crit"), [[1000, 2.0]])
        assert any(np.allclose(line.get_ydata(), 0.9) for line in ax.get_lines())
        assert "ridge" in [text.get_text() for text in ax.texts]
        assert ax.get_ylabel() == "Loss on new tasks"
        assert "updates" in ax.get_xlabel()

    def test_the_band_is_95_percent_of_the_sampling_error(self):
        curve = dipping(num_samples=400)
        ax = plots.plot_loss(curve)
        (band,) = ax.collections
        top = band.get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(5.0 + 1.959964 * curve.samples[0].std(ddof=1) / 20)

    def test_a_run_without_transience_gets_no_mark(self):
        none = SimpleNamespace(transient=False, t_crit=None, t_crit_interval=None)
        ax = plots.plot_loss(dipping(), verdicts=none)
        assert len(with_gid(ax, "t_crit")) == 0

    def test_rebound_is_paired(self):
        change = since_minimum(dipping())
        assert change.steps.tolist() == [1000, 3000, 10_000]
        np.testing.assert_allclose(change.values, [0, 10, 20])
        # By construction the samples move together: their paired spread is a tenth of their own.
        curve = dipping()
        paired = 100 / 2.0 * (curve.samples[7] - curve.samples[5]).std(ddof=1) / 8
        assert change.standard_errors[-1] == pytest.approx(paired)
        assert change.standard_errors[0] == 0
        ax = plots.plot_rebound({8: dipping(), 16: dipping(1)})
        assert len(visible_lines(ax)) == 2
        assert ax.get_xlim()[0] > 300

    def test_plot_loss_levels_and_log_axis(self):
        ax = plots.plot_loss({"train": Curve(STEPS, np.geomspace(5, 0.1, 8))}, levels={"dMMSE": 0.1})
        assert ax.get_yscale() == "log"
        assert ax.texts[0].get_text() == "dMMSE"

    @pytest.mark.parametrize("values", [np.linspace(1, -1, 8), np.linspace(0.2, 0.98, 8), np.geomspace(1, 9, 8)])
    def test_what_is_signed_or_spans_less_than_a_decade_is_linear(self, values):
        assert plots.plot_loss(Curve(STEPS, values)).get_yscale() == "linear"

    def test_a_metric_measured_at_some_checkpoints_is_a_line_through_its_points(self):
        values = np.array([5.0, np.nan, np.nan, 3.0, np.nan, 2.0, np.nan, 3.0])
        plots.plot_rebound(Curve(STEPS, values))
        (line,) = visible_lines(plots.plot_loss(Curve(STEPS, values, np.full(8, 0.1))))
        np.testing.assert_array_equal(line.get_xydata(), [[0, 5], [100, 3], [1000, 2], [10_000, 3]])
        assert line.get_marker() == "."
        (whole,) = visible_lines(plots.plot_loss(dipping()))
        assert whole.get_marker() == "None"
        (alone,) = visible_lines(plots.plot_loss(Curve(STEPS, np.where(STEPS == 30, 1.0, np.nan))))
        assert alone.get_xydata().tolist() == [[30, 1]]
        assert alone.get_marker() == "."

    def test_long_legends_are_thinned_and_say_so(self):
        ax = plots.plot_loss({float(2**k): Curve(STEPS, np.linspace(5, 1, 8) + k) for k in range(14)})
        assert len(legend_texts(ax)) == 9
        assert "of 14" in ax.get_legend().get_title().get_text()

    def test_what_is_not_a_curve_is_named(self):
        with pytest.raises(DataError, match="8 is a list"):
            plots.plot_loss({8: [1, 2, 3]})
        with pytest.raises(DataError, match="no curves"):
            plots.plot_loss({})


class TestDistances:
    def test_one_line_for_each_reference(self):
        curves = {"ridge": dipping(), "dMMSE": Curve(STEPS, np.geomspace(4, 0.1, 8))}
        ax = plots.plot_distances(curves, t_crit=1000, title="M = 8")
        assert [line.get_label() for line in visible_lines(ax)] == ["to ridge", "to dMMSE"]
        assert [line.get_linestyle() for line in visible_lines(ax)] == ["-", "--"]
        assert ax.get_title(loc="left") == "M = 8"
        assert ax.get_yscale() == "log"
        assert legend_texts(ax) == ["to ridge", "to dMMSE"]

    def test_what_was_never_measured_is_left_out(self):
        ax = plots.plot_distances({"ridge": dipping(), "dMMSE": Curve(STEPS, np.full(8, np.nan))}, legend=False)
        assert [line.get_label() for line in visible_lines(ax)] == ["to ridge"]
        assert ax.get_yscale() == "linear"
        assert ax.get_legend() is None


class TestLLC:
    curve = Curve(
        STEPS,
        [np.nan, 5, 20, 60, 90, 110, 130, 140],
        standard_errors=[np.nan, 1, 2, 2, 3, 3, 4, 5],
        converged=[0, 0, 1, 1, 1, 0, 1, 1],
    )

    def test_unconverged_points_are_hollow_and_failed_ones_on_the_axis(self):
        ax = plots.plot_llc_curve({8: self.curve})
        np.testing.assert_array_equal(with_gid(ax, "unconverged"), [[10, 5], [1000, 110]])
        np.testing.assert_array_equal(with_gid(ax, "converged")[:, 0], [30, 100, 300, 3000, 10_000])
        assert with_gid(ax, "failed")[:, 0].tolist() == [0]
        hollow = next(line for line in ax.get_lines() if line.get_gid() == "unconverged")
        assert hollow.get_markerfacecolor() == plots.style.PAPER
        assert legend_texts(ax) == ["did not converge", "no estimate"]

    def test_a_wild_unconverged_point_does_not_set_the_scale(self):
        curve = Curve(STEPS, [-500, 5, 20, 60, 90, 110, 130, 900], converged=[0, 1, 1, 1, 1, 0, 1, 0])
        ax = plots.plot_llc_curve(curve)
        np.testing.assert_array_equal(with_gid(ax, "unconverged"), [[1000, 110]])
        np.testing.assert_array_equal(with_gid(ax, "unconverged off scale")[:, 0], [0, 10_000])
        low, high = ax.get_ylim()
        assert -500 < low < 5
        assert 130 < high < 900
        assert "off the scale" in legend_texts(ax)[0]

    def test_a_curve_of_unknown_convergence_is_not_called_doubtful(self):
        ax = plots.plot_llc_curve(Curve(STEPS, np.arange(8.0)))
        assert len(with_gid(ax, "unconverged")) == 0
        assert ax.get_legend() is None

    def test_a_curve_with_common_noise_has_two_bands(self):
        covariance = 4.0 + np.diag([0.01, 0.03, 0.01, 0.0, 0.01, 0.03, 0.01, 0.01])
        covariance[3] = covariance[:, 3] = np.nan
        curve = Curve(STEPS, np.arange(8.0), converged=[1, 1, 1, 1, 0, 1, 1, 1], covariance=covariance)
        # of neighbours that are known and converged; of two sides the root mean square
        wanted = np.array([0.04, 0.04, 0.04, np.nan, np.nan, 0.04, 0.03, 0.02]) ** 0.5
        np.testing.assert_allclose(plots.bands.change_errors(curve), wanted)
        ax = plots.plot_llc_curve(curve)
        level, shape = (band.get_paths()[0].get_extents() for band in ax.collections[:2])
        assert level.y1 - 7 > 3.9 > 0.3 > shape.y1 - 7 > 0.25
        assert legend_texts(ax)[:2] == ["error of a change to the next point (95%)", "error of the level (95%)"]
        assert plots.bands.change_errors(Curve(STEPS, np.arange(8.0), np.ones(8))) is None

    def test_against_a_number(self):
        ax = plots.plot_llc_against(
            [1, 4, 16, 64, math.inf], [40, 60, np.nan, 120, 130], [3, 4, np.nan, 5, 6], [1, 0, 0, 1, 1], name="M"
        )
        assert ax.get_xlabel() == "M (log scale)"
        np.testing.assert_allclose(with_gid(ax, "unconverged"), [[2, 60]])
        assert with_gid(ax, "failed")[0, 0] == 4  # log2 of 16
        assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "4", "16", "64", "∞"]
        infinity = with_gid(ax, "converged")[-1]
        assert infinity[0] > 6
        assert infinity[1] == 130

    def test_against_infinity_alone_signed_numbers_and_bad_lengths(self):
        plots.plot_llc_against([math.inf], [10.0]).figure.canvas.draw()
        ax = plots.plot_llc_against([-1, 0, 2], [1.0, 2.0, 3.0], name="bias")
        assert ax.get_xlabel() == "bias"
        np.testing.assert_allclose(with_gid(ax, "converged"), [[-1, 1], [0, 2], [2, 3]])
        with pytest.raises(DataError, match="one length"):
            plots.plot_llc_against([1, 2], [1.0])
        with pytest.raises(DataError, match="numbers or infinity"):
            plots.plot_llc_against([math.nan], [1.0])

    def test_trace_shows_running_means_and_names_failed_chains(self):
        trace = np.random.default_rng(0).normal(10, 1, (3, 50))
        trace[1, 20:] = np.nan
        result = SimpleNamespace(trace=trace, failed_chains=(SimpleNamespace(chain=1),), llc=10.0, standard_error=0.1)
        ax = plots.plot_trace(result)
        lines = visible_lines(ax)
        assert [line.get_label() for line in lines] == ["chain 0", "chain 1 (failed)", "chain 2"]
        assert lines[0].get_ydata()[-1] == pytest.approx(trace[0].mean())
        assert len(lines[1].get_xdata()) == 20


class TestPCA:
    scores: ClassVar = {8: np.c_[np.arange(8.0), np.arange(8.0) ** 2, np.ones(8)], math.inf: -np.ones((8, 3))}

    def test_trajectories_references_and_marks(self):
        ax = plots.plot_trajectory_pca(
            self.scores,
            components=(0, 1),
            references={"ridge": [1.0, 2.0, 3.0], "dMMSE": [4.0, 5.0, 6.0]},
            reference_of={"dMMSE": 8},
            explained_variance_ratio=[0.5, 0.25, 0.1],
            steps=dict.fromkeys(self.scores, STEPS),
            t_crit={8: 1000, math.inf: None},
        )
        assert ax.get_xlabel() == "PC1 (50.0% of the variance)"
        assert ax.get_ylabel() == "PC2 (25.0% of the variance)"
        np.testing.assert_array_equal(with_gid(ax, "reference"), [[1, 2], [4, 5]])
        np.testing.assert_array_equal(with_gid(ax, "t_crit"), [[5, 25]])
        np.testing.assert_array_equal(with_gid(ax, "start")[0], [0, 0])
        np.testing.assert_array_equal(with_gid(ax, "end")[0], [7, 49])
        assert legend_texts(ax)[:2] == ["8", "∞"]
        # a reference of one run is named in the legend only: names beside many squares would overlap
        assert [text.get_text() for text in ax.texts] == ["ridge"]
        assert legend_texts(ax)[-1] == "dMMSE"

    def test_the_references_of_nine_runs_do_not_write_over_one_another(self):
        keys = [f"M = {2**k}" for k in range(9)]
        names = {f"dMMSE, {key}": [0.01 * place, 0.0] for place, key in enumerate(keys)}
        ax = plots.plot_trajectory_pca(
            {key: np.c_[np.arange(4.0), np.arange(4.0)] for key in keys},
            references={"ridge": [0.0, 0.0], **names},
            reference_of=dict(zip(names, keys, strict=True)),
        )
        assert len(with_gid(ax, "reference")) == 10
        assert [text.get_text() for text in ax.texts] == ["ridge"]
        assert legend_texts(ax)[-1] == "dMMSE"

    def test_takes_what_fit_took(self, tmp_path):
        vectors = np.random.default_rng(0).normal(size=(2, 8, 5)).cumsum(axis=1)
        pca = ld.JointTrajectoryPCA(n_components=3).fit(list(vectors))
        ax = plots.plot_trajectory_pca(pca, list(vectors), references={"origin": np.zeros(5)}, components=(0, 2))
        assert legend_texts(ax)[:2] == ["run 0", "run 1"]
        np.testing.assert_allclose(visible_lines(ax)[0].get_xydata(), pca.transform(vectors[0])[:, [0, 2]])
        np.testing.assert_allclose(with_gid(ax, "reference"), [pca.transform(np.zeros(5))[[0, 2]]])
        assert ax.get_xlabel() == f"PC1 ({100 * pca.explained_variance_ratio_[0]:.1f}% of the variance)"
        model = torch.nn.Linear(1, 1)
        for name, description in (("a_$x", {}), ("b", {"axis": {"name": "M", "value": 2, "label": "M = 2"}})):
            with ld.TrajectoryWriter(tmp_path / name, model, description=description) as writer:
                for step, outputs in enumerate(vectors[0]):
                    writer.record(step, outputs=outputs.astype(np.float32))
        runs = [ld.Trajectory(tmp_path / name) for name in ("a_$x", "b")]
        drawn = plots.plot_trajectory_pca(ld.JointTrajectoryPCA(2).fit(runs), runs, t_crit={"M = 2": 3})
        assert legend_texts(drawn)[:2] == [r"a_\$x", "M = 2"]
        assert len(with_gid(drawn, "t_crit")) == 1
        drawn.figure.canvas.draw()
        one = plots.plot_trajectory_pca(ld.JointTrajectoryPCA(2).fit(runs[0]), runs[0])
        assert len(with_gid(one, "start")) == 1
        with pytest.raises(DataError, match=r"plot_trajectory_pca\(pca, runs\)"):
            plots.plot_trajectory_pca(pca)

    def test_missing_components_are_an_error_with_advice(self):
        with pytest.raises(DataError, match="n_components"):
            plots.plot_trajectory_pca(self.scores, components=(0, 3))

    def test_three_components_are_drawn_in_space(self):
        ax = plots.plot_trajectory_pca(
            {"a": np.arange(12.0).reshape(4, 3)}, components=(0, 1, 2), references={"r": [1, 2, 3]}
        )
        assert ax.name == "3d"
        np.testing.assert_array_equal(ax.lines[0].get_data_3d(), np.arange(12.0).reshape(4, 3).T)
        assert ax.get_zlabel() == "PC3"
        with pytest.raises(DataError, match="3d"):
            plots.plot_trajectory_pca(self.scores, components=(0, 1, 1), ax=plt.subplots()[1])

    def test_explained_variance_sums(self):
        ax = plots.plot_explained_variance([0.5, 0.25, 0.1])
        assert [bar.get_height() for bar in ax.patches] == [50, 25, 10]
        np.testing.assert_allclose(visible_lines(ax)[0].get_ydata(), [50, 75, 85])

    def test_components_over_time_say_their_cosine_content(self):
        ax = plots.plot_components_over_time(
            self.scores,
            dict.fromkeys(self.scores, STEPS),
            component=1,
            cosine_content={8: [0.9, 0.4, 0.1]},
            references={"ridge": [1.0, 2.0, 3.0]},
        )
        assert legend_texts(ax)[0] == "8 (cosine content 0.40)"
        np.testing.assert_array_equal(visible_lines(ax)[0].get_ydata(), np.arange(8.0) ** 2)


def test_the_given_axes_is_used_and_inputs_are_not_changed():
    curve, before = dipping(), copy.deepcopy(dipping())
    scores = {8: np.random.default_rng(0).normal(size=(8, 3))}
    scores_before = {8: scores[8].copy()}
    _, axes = plt.subplots(2, 4)
    calls = [
        lambda ax: plots.plot_loss({8: curve}, verdicts={8: verdict()}, ax=ax),
        lambda ax: plots.plot_rebound(curve, ax=ax),
        lambda ax: plots.plot_loss(curve, ax=ax),
        lambda ax: plots.plot_distances({"a": curve, "b": curve}, ax=ax),
        lambda ax: plots.plot_llc_curve(curve, ax=ax),
        lambda ax: plots.plot_trace(scores[8], ax=ax),
        lambda ax: plots.plot_trajectory_pca(scores, ax=ax),
        lambda ax: plots.plot_components_over_time(scores, {8: STEPS}, ax=ax),
    ]
    figures = plt.get_fignums()
    for call, ax in zip(calls, axes.ravel(), strict=True):
        assert call(ax) is ax
    assert plt.get_fignums() == figures
    np.testing.assert_array_equal(curve.values, before.values)
    np.testing.assert_array_equal(curve.samples, before.samples)
    np.testing.assert_array_equal(scores[8], scores_before[8])


def test_global_settings_are_left_alone():
    before = dict(mpl.rcParams)
    plots.plot_loss(dipping())
    assert dict(mpl.rcParams) == before


def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, llc_dynamics; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_llc_curve_says_what_it_counts():
    class AtAResolution(ld.Curve):
        resolution = "nbeta 145, gamma 1000"

    class Finer(ld.Curve):
        resolution = "nbeta 145, gamma 250"

    points = ([1, 10, 100], [1.0, 2.0, 3.0])
    one, other = AtAResolution(*points), Finer(*points)
    assert ld.plots.plot_llc_curve(one).get_title(loc="left") == "nbeta 145, gamma 1000"
    assert ld.plots.plot_llc_curve({"a": one, "b": one}).get_title(loc="left") == "nbeta 145, gamma 1000"
    both = ld.plots.plot_llc_curve({"coarse": one, "fine": other}).get_title(loc="left")
    assert both == "coarse: nbeta 145, gamma 1000\nfine: nbeta 145, gamma 250"
    assert ld.plots.plot_llc_curve(ld.Curve(*points)).get_title(loc="left") == ""
