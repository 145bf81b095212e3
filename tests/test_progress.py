"""Progress where there is no terminal: lines now and then, with the time that is left."""

import pytest

from llc_dynamics import progress
from llc_dynamics.progress import Lines, progress_bars


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    monkeypatch.setattr(progress, "_FIRST", 10.0)
    return clock


def test_a_short_job_is_silent(clock, capsys):
    with progress_bars() as bars:
        task = bars.add_task("LLC M-2", total=9)
        for clock.now in range(1, 10):
            bars.advance(task)
    assert capsys.readouterr().err == ""


def test_lines_now_and_then_with_the_pace_of_all_tasks_of_a_work(clock, capsys):
    """Twelve points of two runs, 10 s each one after the other: a line after 10 s, then every 30 s."""
    bars = Lines()
    tasks = [bars.add_task(f"LLC {name}", total=6) for name in ("M-2", "M-\x1b[31m")]
    for number in range(12):
        clock.now += 10
        bars.advance(tasks[number // 6])
    assert capsys.readouterr().err.splitlines() == [
        "after 10 s: LLC 1 of 12, about 1 min 50 s left",
        "after 40 s: LLC 4 of 12, about 1 min 20 s left",
        "after 1 min 10 s: LLC 7 of 12, about 50 s left",
        "after 1 min 40 s: LLC 10 of 12, about 20 s left",
    ]


def test_a_first_unit_that_takes_long(clock, capsys):
    """Who waits is told so before it is done; then how long the others take."""
    bars = Lines()
    task = bars.add_task("LLC x", total=3)
    for clock.now in (5, 15, 45):
        bars.refresh()
    clock.now = 90
    bars.advance(task)
    assert capsys.readouterr().err.splitlines() == [
        "after 15 s: LLC x 0 of 3",
        "after 45 s: LLC x 0 of 3",
        "after 1 min 30 s: LLC x 1 of 3, about 3 min left",
    ]


def test_a_training_that_goes_on_is_judged_by_what_it_does_now(clock, capsys):
    """It comes in at step 900 of 1000 after 5 s, and makes one step a second."""
    bars = Lines()
    task = bars.add_task("train M-\x1b", total=1000)
    for clock.now, step in ((5, 900), (10, 905), (40, 935)):
        bars.update(task, completed=step)
    assert capsys.readouterr().err.splitlines() == [
        "after 10 s: train M-\\x1b 905 of 1,000, about 1 min 35 s left",
        "after 40 s: train M-\\x1b 935 of 1,000, about 1 min 5 s left",
    ]


def test_a_training_whose_first_steps_are_dense_with_checkpoints(clock, capsys):
    """100 steps take 100 s, the others a tenth of that each: the very first say nothing about the rest."""
    bars = Lines()
    task = bars.add_task("train x", total=1000)
    for step in range(1, 300):
        clock.now += 1 if step <= 100 else 0.1
        bars.update(task, completed=step)
    assert capsys.readouterr().err.splitlines() == [
        "after 10 s: train x 10 of 1,000",
        "after 40 s: train x 40 of 1,000",
        "after 1 min 10 s: train x 70 of 1,000, about 15 min 30 s left",
        "after 1 min 40 s: train x 100 of 1,000, about 15 min left",
    ]


def test_points_that_come_after_a_training_have_their_own_time(clock, capsys):
    bars = Lines()
    train = bars.add_task("train x", total=1)
    clock.now = 95
    bars.advance(train)
    points = bars.add_task("LLC x", total=10)
    for clock.now in (105, 115, 125):
        bars.advance(points)
    assert capsys.readouterr().err == "after 2 min 5 s: LLC x 3 of 10, about 1 min 10 s left\n"


def test_points_that_wait_for_a_worker_until_the_trainings_are_done(clock, capsys):
    bars = Lines()
    trains = [bars.add_task(f"train {name}", total=1) for name in "xy"]
    clock.now = 5
    bars.advance(trains[0])
    points = bars.add_task("LLC x", total=10)
    clock.now = 1000
    bars.advance(trains[1])
    clock.now = 1030
    bars.advance(points)
    assert capsys.readouterr().err.splitlines() == [
        "after 16 min 40 s: LLC x 0 of 10",
        "after 17 min 10 s: LLC x 1 of 10, about 4 min 30 s left",
    ]


def test_nothing_is_said_of_what_is_done_or_unknown(clock, capsys):
    """And a limit is not passed by a guess."""
    bars = Lines()
    bars.add_task("verify x", total=None)
    done = bars.add_task("train M-2", total=1)
    tried = bars.add_task("calibrate x, trials", total=None, limit=100)
    clock.now = 5
    bars.advance(done)
    bars.update(tried, completed=1, total=27)
    clock.now = 40
    bars.update(tried, completed=2, total=27)
    assert capsys.readouterr().err == "after 40 s: calibrate x, trials 2 of 27, at most 1 min left\n"


@pytest.mark.parametrize(("silent", "fewest", "most"), [(False, 120, 160), (True, 0, 0)])
def test_lines_become_rarer_and_can_be_switched_off(silent, fewest, most, clock, capsys):
    """10,000 s, for which 30 s between two lines would make 333."""
    bars = Lines(silent=silent)
    task = bars.add_task("LLC x", total=1000)
    for _ in range(999):
        clock.now += 10
        bars.advance(task)
    assert fewest <= len(capsys.readouterr().err.splitlines()) <= most
