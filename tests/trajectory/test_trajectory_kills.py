"""A small run of `experiments/robustness/crash.py`: training, estimation and export, killed at random moments."""

import os
import random

import pytest
from scripts import load_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked jobs")


@pytest.fixture(scope="module")
def crash():
    return load_script("robustness/crash.py")


def test_training(crash, tmp_path):
    tally = crash.kill_training(10, random.Random(0), tmp_path, num_steps=12, watched=False)
    assert tally.kills >= 10
    assert tally.rows > 10


def test_llc(crash, tmp_path):
    tally = crash.kill_llc(10, random.Random(0), tmp_path, workers=2, num_draws=4, num_points=3)
    assert tally.kills >= 10
    assert tally.reads >= 10


def test_export(crash, tmp_path):
    tally = crash.kill_export(10, random.Random(0), tmp_path, num_steps=24)
    assert tally.kills >= 10
    assert tally.rows > 0


def test_a_row_that_changed_is_found_out(crash, tmp_path, monkeypatch):
    """The comparison itself: a loop that goes on with other batches must be noticed."""
    honest = crash.train_tiny

    def other(place, config):
        import dataclasses

        if place.name not in ("warm", "timed"):
            config = dataclasses.replace(config, seed=4)
        honest(place, config)

    monkeypatch.setattr(crash, "train_tiny", other)
    with pytest.raises(crash.BadReadError):
        crash.kill_training(3, random.Random(0), tmp_path, num_steps=12, watched=False)
