"""The figure of stages shows the boundaries, probabilities and types of the report, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

import llc_dynamics as ld
from llc_dynamics import plots
from llc_dynamics.errors import DataError
from llc_dynamics.stages import Boundary, NullRate, Stage, change_points, detect_stages


@pytest.fixture(scope="module")
def found():
    """A rise to step 300 and a fall, with errors; one point unconverged, one NaN."""
    steps = np.unique(np.geomspace(1, 10_000, 40).astype(int))
    x = np.log1p(steps)
    values = 10 - 3 * np.abs(x - np.log1p(300)) + 0.3 * np.random.default_rng(0).standard_normal(len(x))
    values[5] = np.nan
    converged = np.arange(len(x)) != 7
    curve = ld.Curve(steps, values, np.full(len(x), 0.3), "LLC", converged)
    return curve, detect_stages(curve)


def lines(ax, gid):
    return [line for line in ax.get_lines() if line.get_gid() == gid]


def texts(ax, gid):
    return [text.get_text() for text in ax.texts if text.get_gid() == gid]


def test_everything_of_the_report_is_drawn(found):
    curve, report = found
    (turn,) = report.resolved
    weak = Boundary(2000.0, (1500.0, 2600.0), 0.4, "plateau", False)
    shown = replace(report, boundaries=(*report.boundaries, weak))
    ax = plots.plot_stages(shown, curve, title="M = 8")
    (solid,) = lines(ax, "resolved")
    assert solid.get_xdata()[0] == turn.step
    assert solid.get_linestyle() == "-"
    assert [line.get_xdata()[0] for line in lines(ax, "unresolved")][-1] == 2000.0
    assert {line.get_linestyle() for line in lines(ax, "unresolved")} == {"--"}
    assert texts(ax, "type") == ["rise", "fall"]
    assert texts(ax, "probability") == [">.99" if turn.probability >= 0.995 else f"{turn.probability:.2f}"]
    spans = [patch.get_extents().transformed(ax.transData.inverted()) for patch in ax.patches]
    for boundary in shown.boundaries:
        assert any(np.allclose([span.x0, span.x1], boundary.interval, rtol=1e-6) for span in spans)
    (fit,) = lines(ax, "fit")
    np.testing.assert_allclose(fit.get_ydata(), report.fit.mean)
    assert len(lines(ax, "points")[0].get_xdata()) == len(curve) - 2
    assert lines(ax, "unconverged")[0].get_xdata().tolist() == [curve.steps[7]]
    assert ax.get_title(loc="left") == "M = 8"
    assert ax.get_ylabel() == "LLC"


def test_without_a_curve_and_without_boundaries(found):
    _, report = found
    whole = Stage(report.stages[0].start, report.stages[-1].end, 0.1, 1.0, "unresolved")
    ax = plots.plot_stages(replace(report, boundaries=(), stages=(whole,)))
    assert not lines(ax, "resolved")
    assert texts(ax, "type") == ["–"]
    ax.figure.canvas.draw()


def test_crowded_probabilities_do_not_overlap(found):
    curve, report = found
    steps = (300.0, 330.0, 360.0, 8000.0, 9500.0)
    many = tuple(Boundary(step, (0.95 * step, 1.05 * step), 0.95, "turn", True) for step in steps)
    ax = plots.plot_stages(replace(report, boundaries=many), curve)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_gid() == "probability"]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    right = ax.get_window_extent().x1
    assert all(box.x1 <= right for box in boxes)


def test_changes_are_marked_by_agreement(found):
    curve, report = found
    (turn,) = report.resolved
    changes = change_points({"LLC": curve})
    near, far = replace(changes, steps=(turn.step * 1.05, 5000.0)), replace(changes, steps=(20.0,))
    ax = plots.plot_stages(report, curve, changes={"LLC alone": near, "joint signal": far})
    assert [list(line.get_xdata()) for line in lines(ax, "agreed change")] == [[turn.step * 1.05], []]
    assert [list(line.get_xdata()) for line in lines(ax, "change")] == [[5000.0], [20.0]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "change points, LLC alone",
        "change points, joint signal",
    ]
    assert plots.plot_stages(report, curve, changes=near).get_legend() is None


def test_bad_input(found):
    curve, report = found
    with pytest.raises(DataError, match="detect_stages"):
        plots.plot_stages(curve)
    with pytest.raises(DataError, match="report is about"):
        plots.plot_stages(report, [1, 2, 3])


def test_null_rates_with_their_intervals():
    rates = [NullRate("constant", 20, 1), NullRate("random_walk", 20, 4)]
    ax = plots.plot_null_rates({"a": rates, "b": rates})
    assert [text.get_text() for text in ax.get_xticklabels()] == ["constant", "random\nwalk"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    line = ax.containers[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [5.0, 20.0])
    with pytest.raises(DataError, match="no rates"):
        plots.plot_null_rates([])
