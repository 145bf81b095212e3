"""A run that was recorded before is read value by value."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.llc import LLCCurve

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import golden_run  # noqa: E402


def bits(tensor):
    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def filled(values, shape):
    """[C, ...] with NaN rows where nothing was recorded."""
    return np.stack([np.full(shape, np.nan, np.float32) if value is None else value for value in values])


@pytest.fixture(scope="module")
def run():
    return ld.Trajectory(GOLDEN / "run")


def test_layout_and_settings(run):
    assert json.loads((run.path / "manifest.json").read_text())["schema_version"] == 3
    assert run.config == golden_run.CONFIG
    assert run.provenance == golden_run.PROVENANCE
    assert run.description == golden_run.DESCRIPTION
    assert run.complete
    assert run.verify().ok, run.verify()
    kinds = {entry.name: entry.kind for entry in run.manifest.state.entries}
    assert [name for name, kind in kinds.items() if kind == "parameter"] == ["scale", "net.weight", "net.bias"]


def test_weights_bit_for_bit(run):
    assert run.steps.tolist() == golden_run.STEPS
    assert run.weight_steps.tolist() == golden_run.WEIGHT_STEPS
    for step in golden_run.WEIGHT_STEPS:
        expected = golden_run.state(step)
        found = run.state_dict(step)
        assert found.keys() == expected.keys()
        assert {name: bits(tensor) for name, tensor in found.items()} == {n: bits(t) for n, t in expected.items()}
        model = golden_run.Golden()
        run.load_into(model, step)
        assert bits(model.net.weight.detach()) == bits(expected["net.weight"])


def test_metrics_outputs_samples_arrays_and_resume_state(run):
    recorded = [golden_run.metrics(step) for step in golden_run.STEPS]
    names = sorted({name for row in recorded for name in row})
    assert run.metric_names == names
    for name in names:
        np.testing.assert_array_equal(run.metrics(name), [row.get(name, np.nan) for row in recorded])
    vectors = filled([golden_run.outputs(step) for step in golden_run.STEPS], (3, 2))
    np.testing.assert_array_equal(np.asarray(run.outputs()), vectors)
    assert run.sample_names == ["loss/ood"]
    series = [(golden_run.samples(step) or {}).get("loss/ood") for step in golden_run.STEPS]
    np.testing.assert_array_equal(run.samples("loss/ood"), filled(series, (4,)))
    assert run.array_names == ["evaluation"]
    for name, array in golden_run.ARRAYS["evaluation"].items():
        found = run.arrays("evaluation")[name]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    state = run.resume_state()
    assert bits(state.pop("rng")) == bits(golden_run.RESUME["rng"])
    assert state == {name: value for name, value in golden_run.RESUME.items() if name != "rng"}


def test_the_stored_llc_point(run):
    expected = json.loads((GOLDEN / "llc.json").read_text())
    curve = LLCCurve.load(run, "golden")
    assert curve.steps.tolist() == [golden_run.LLC_STEP]
    assert float(curve.values[0]) == pytest.approx(expected["llc"], rel=1e-12)
    assert float(curve.standard_errors[0]) == pytest.approx(expected["standard_error"], rel=1e-12)
    assert curve.results[0].trace.shape == (2, 12)


def test_a_golden_run_can_be_gone_on_with(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(GOLDEN / "run", path)
    model = golden_run.Golden()
    with ld.TrajectoryWriter(path, model, golden_run.CONFIG, arrays=golden_run.ARRAYS, resume=True) as writer:
        for step in [*golden_run.STEPS[-2:], 20]:
            model.load_state_dict(golden_run.state(step))
            writer.record(step, golden_run.metrics(step), golden_run.outputs(step), golden_run.samples(step))
        writer.finish()
    longer = ld.Trajectory(path)
    assert longer.steps.tolist() == [*golden_run.STEPS, 20]
    assert longer.verify().ok
    assert longer.manifest == run.manifest
    assert longer.weight_steps.tolist() == [*golden_run.WEIGHT_STEPS, 20]
    assert bits(longer.state_dict(20)["brief"]) == bits(golden_run.state(20)["brief"])
