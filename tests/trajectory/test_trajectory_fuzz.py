"""A small run of `experiments/robustness/fuzz.py`: mutants are refused by name or read exactly right."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from scripts import load_script

hypothesis = pytest.importorskip("hypothesis")


@pytest.fixture(scope="module")
def fuzz():
    return load_script("robustness/fuzz.py")


@pytest.fixture(scope="module")
def runs(fuzz, tmp_path_factory):
    found = fuzz.make_runs(tmp_path_factory.mktemp("fuzz"))
    for run in found:
        fuzz.contents(run)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="reads in forked processes")
def test_mutants_of_all_ways(fuzz, runs):
    """In processes of their own, so that a crash of a library would be told from a pass."""
    verdicts = fuzz.run_batch(runs, list(range(1000)), seed=20, patience=60.0)
    bad = [entry for entry in verdicts if entry[2] not in fuzz.GOOD]
    assert bad == []
    assert len(verdicts) == 1000
    counts = Counter((way, verdict) for _, way, verdict in verdicts)
    # The mutations are neither all harmless nor all caught by the outermost check.
    for way in ("bytes", "sealed", "index", "header", "manifest"):
        assert counts[way, "refused"] > 3
    assert counts["sealed", "exact"] > 3
    # Few changed indices do no harm, about 14 of these mutants; which ones depends on the sizes of the files.
    assert counts["index", "exact"] + counts["index", "authored"] > 3


def test_mutants_that_hypothesis_draws(fuzz, runs, tmp_path):
    """JSON trees and plain damage; what fails is made as small as can be."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]
    expected = [fuzz.contents(run) for run in copies]

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(draw):
        case = fuzz.draw_mutant(draw, copies, ("bytes", "header", "manifest"))
        assert fuzz.judge(copies[case.run], case, expected[case.run]) in fuzz.GOOD

    check()


def test_a_reader_that_believes_what_it_reads_is_found_out(fuzz, runs, monkeypatch):
    """The fuzzer itself: without row checksums wrong data gets through, and is noticed."""
    from llc_dynamics.trajectory import shards

    honest = fuzz.read_batch

    def credulous(*arguments):
        shards.row_checksum = lambda *_: _Any()
        honest(*arguments)

    monkeypatch.setattr(fuzz, "read_batch", credulous)
    verdicts = fuzz.run_batch(runs, list(range(300)), seed=21, patience=60.0)
    assert any(verdict.startswith("wrong data") for _, _, verdict in verdicts)


class _Any(int):
    """Equal to everything."""

    __hash__ = int.__hash__

    def __eq__(self, _):
        return True

    def __ne__(self, _):
        return False
