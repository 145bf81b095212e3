"""Trackers: they get what is recorded, and what they do cannot harm a recording."""

import csv
import warnings

import numpy as np
import pytest
import torch
from stored_llc import store_point

import llc_dynamics as ld
from llc_dynamics.adapters import CSVTracker, TensorBoardTracker, WandbTracker, log_curve, log_run
from llc_dynamics.adapters.trainer import TrainerRecording
from llc_dynamics.errors import ConfigError, TrajectoryError

X = torch.arange(8.0).reshape(4, 2)


class Fake:
    def __init__(self, raises=None):
        self.seen = []
        self.raises = raises

    def log(self, step, values):
        if self.raises is not None:
            raise self.raises
        self.seen.append((step, dict(values)))
        values.clear()  # what a tracker does with its values is its own affair


def squares(model, batch):
    return model(batch[0]).square().mean(1)


def record(path, trackers, last=3, **settings):
    """Steps 0 to `last`, of which the even ones are scheduled, with a metric and a probe."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    steps = range(0, 5, 2)
    with ld.Recorder(path, model, steps, probes={"x": (X, X)}, loss_fn=squares, trackers=trackers, **settings) as each:
        for step in range(last + 1):
            each(step, {"loss": torch.tensor(0.5 * step)})
            with torch.no_grad():
                model.weight.add_(1.0)
    return ld.Trajectory(path)


def test_trackers_get_each_recorded_row_once(tmp_path):
    """Metrics of the loop and of the probes, as they are stored; a training that comes again adds what is new."""
    first, second, again = Fake(), Fake(), Fake()
    run = record(tmp_path / "run", [first, second])
    assert first.seen == second.seen
    assert [step for step, _ in first.seen] == [0, 2]
    for row, (_, values) in enumerate(first.seen):
        assert values == {name: run.metrics(name)[row] for name in ("loss", "loss/x")}
        assert {type(value) for value in values.values()} == {float}
    record(tmp_path / "run", [again], last=4)
    assert [step for step, _ in again.seen] == [4]


@pytest.mark.parametrize("error", [OSError("no network"), KeyError("loss"), MemoryError()])
def test_a_tracker_that_raises_loses_nothing(error, tmp_path):
    """One warning, all rows, and the tracker after it gets everything."""
    sound = Fake()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = record(tmp_path / "run", [Fake(raises=error), sound], last=4)
    (warning,) = said
    assert f"Fake failed at step 0 ({type(error).__name__}" in str(warning.message)
    assert warning.filename == __file__  # the caller's own line
    quiet = record(tmp_path / "quiet", [], last=4)
    assert run.complete
    assert run.steps.tolist() == quiet.steps.tolist() == [step for step, _ in sound.seen]
    for name in quiet.metric_names:
        np.testing.assert_array_equal(run.metrics(name), quiet.metrics(name))


def test_stopping_a_training_inside_a_tracker_stops_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "run", [Fake(raises=KeyboardInterrupt())])
    assert ld.Trajectory(tmp_path / "run").steps.tolist() == [0]


def test_what_is_no_tracker_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"PosixPath has no method log\(step, values\)"):
        record(tmp_path / "run", [tmp_path])
    assert not (tmp_path / "run").exists()


def test_a_callback_of_a_trainer_takes_trackers(tmp_path):
    fake = Fake()
    recording = TrainerRecording(tmp_path / "run", steps=[0, 1], trackers=[fake])
    recording.begin(torch.nn.Linear(2, 1), 0, 1)
    recording.flush()
    recording.reach(1)
    recording.add({"train_loss": 2.0})
    recording.end()
    assert fake.seen == [(0, {}), (1, {"train_loss": 2.0})]


def stored_run(folder):
    """A run with a metric that is missing at a step, and two points of an LLC curve."""
    with ld.TrajectoryWriter(folder, torch.nn.Linear(2, 1)) as writer:
        for step, metrics in ((0, {"loss": 3.0}), (5, {"loss": 2.0, "accuracy": 0.25}), (9, {"loss": 1.0})):
            writer.record(step, metrics)
        writer.finish()
    run = ld.Trajectory(folder)
    store_point(run, 5, 1.5, 0.1, dimension=3, settings={})
    store_point(run, 9, 2.5, float("nan"), reasons=("no error",), dimension=3, settings={})
    return run


STORED = [
    (0, {"loss": 3.0}),
    (5, {"loss": 2.0, "accuracy": 0.25}),
    (9, {"loss": 1.0}),
    (5, {"llc": 1.5, "llc/standard_error": 0.1, "llc/converged": 1.0}),
    (9, {"llc": 2.5, "llc/converged": 0.0}),
]


def test_a_stored_run_with_its_curves(tmp_path):
    run, fake = stored_run(tmp_path / "run"), Fake()
    log_run(run.path, [fake])
    assert fake.seen == STORED
    curve = Fake()
    log_curve(ld.Curve(steps=[1, 2], values=[0.5, float("nan")], name="loss"), [curve])
    assert curve.seen == [(1, {"loss": 0.5})]
    with pytest.raises(TrajectoryError):
        log_run(tmp_path / "nowhere", [fake])


def test_csv_has_every_number_on_a_line(tmp_path):
    run, path = stored_run(tmp_path / "run"), tmp_path / "new" / "metrics.csv"
    log_run(run, [CSVTracker(path)])
    CSVTracker(path).log(11, {'a "name", with all': 1e-17})
    with open(path, newline="", encoding="utf-8") as file:
        rows = [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
    wanted = [*STORED, (11, {'a "name", with all': 1e-17})]
    assert sorted(rows) == sorted((step, name, value) for step, values in wanted for name, value in values.items())


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log_run(stored_run(tmp_path / "run"), [TensorBoardTracker(tmp_path / "events")])
    events = accumulators.EventAccumulator(str(tmp_path / "events")).Reload()
    found = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found["loss"] == [(0, 3.0), (5, 2.0), (9, 1.0)]
    assert found["llc"] == [(5, 1.5), (9, 2.5)]
    assert found["llc/converged"] == [(5, 1.0), (9, 0.0)]


class FakeWandbRun:
    def __init__(self):
        self.axes, self.rows = {}, []

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, row):
        self.rows.append(row)


def test_wandb_has_its_own_axis_for_each_metric(tmp_path):
    """The steps of wandb only grow; those of a curve begin anew."""
    run = FakeWandbRun()
    log_run(stored_run(tmp_path / "run"), [WandbTracker(run)])
    assert run.rows == [{"training_step": step, **values} for step, values in STORED]
    assert run.axes == dict.fromkeys({name for _, values in STORED for name in values}, "training_step")


def test_wandb_itself_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path), project="test") as run:
        log_run(stored_run(tmp_path / "run"), [WandbTracker(run)])
        assert {name: run.summary[name] for name in ("loss", "llc", "training_step")} == {
            "loss": 1.0,
            "llc": 2.5,
            "training_step": 9,
        }
