"""Weights that are stored narrower."""

import numpy as np
import pytest
import torch
from trajectory_runs import CONFIG, new_model, row_of, train_step

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError, ManifestMismatchError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.trajectory import WeightStorage

WAYS = [{"dtype": "float16"}, {"dtype": "bfloat16"}]


def model_of_all_formats():
    """`Tied` has float32, int64, bool and bfloat16; here are a double, a complex number and an empty tensor."""
    model = new_model()
    model.register_buffer("wide", torch.zeros(3, dtype=torch.float64))
    model.register_buffer("phases", torch.zeros(2, dtype=torch.complex64))
    model.register_buffer("blank", torch.zeros(0, 2, dtype=torch.float16))
    return model


def record(path, way, num_steps=7, expected=None, resume=False):
    model, generator = model_of_all_formats(), torch_generator(3, "train")
    with ld.TrajectoryWriter(path, model, CONFIG, rows_per_shard=3, storage=way, resume=resume) as writer:
        for step in range(num_steps + 1):
            if step:
                train_step(model, generator)
                model.wide.add_(torch.randn(3, generator=generator, dtype=torch.float64))
                model.phases.add_(torch.randn(2, generator=generator, dtype=torch.complex64))
            writer.record(step, *row_of(model, step), weights=step != 4)
            if expected is not None:
                expected[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        writer.finish()
    return ld.Trajectory(path)


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.resolve_conj().reshape(-1).view(torch.uint8).tolist()


def rounded(tensor, dtype):
    if dtype == "exact" or tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    return tensor.to(getattr(torch, dtype)).to(tensor.dtype)


@pytest.mark.parametrize("way", WAYS)
def test_rows_come_back_rounded_once_and_otherwise_bit_for_bit(tmp_path, way):
    expected = {}
    run = record(tmp_path / "run", way, expected=expected)
    assert run.manifest.storage == WeightStorage(**way)
    assert run.weight_steps.tolist() == [0, 1, 2, 3, 5, 6, 7]
    for step in [*run.weight_steps, *run.weight_steps[::-1], 6, 6, 2]:
        found = run.state_dict(int(step))
        for name, tensor in expected[int(step)].items():
            wanted = rounded(tensor, way.get("dtype", "exact"))
            assert bits(found[name]) == bits(wanted)
    np.testing.assert_array_equal(run.outputs([5])[0], (expected[5]["embed.weight"] * 2).reshape(4, 5))
    assert run.verify().ok
    assert run.verify().rows == 8
    model = model_of_all_formats()
    run.load_into(model, 3)
    assert torch.equal(model.scale.detach(), rounded(expected[3]["scale"], way.get("dtype", "exact")))


@pytest.mark.parametrize("way", WAYS)
def test_a_rerun_meets_its_own_rounded_rows(tmp_path, way):
    record(tmp_path / "run", way, num_steps=4)
    run = record(tmp_path / "run", way, num_steps=7, resume=True)
    whole = record(tmp_path / "whole", way, num_steps=7)
    first, second = read_all_weights(run), read_all_weights(whole)
    assert first == second
    model = model_of_all_formats()
    with torch.no_grad():
        model.scale += 0.25
    with (
        ld.TrajectoryWriter(tmp_path / "run", model, CONFIG, resume=True) as writer,
        pytest.raises(ManifestMismatchError, match="parameter 'scale'"),
    ):
        writer.record(0, *row_of(model_of_all_formats(), 0))


def read_all_weights(run):
    return {
        int(step): {name: tensor.resolve_conj().tolist() for name, tensor in run.state_dict(int(step)).items()}
        for step in run.weight_steps
    }


def test_a_run_goes_on_with_its_own_storage_only(tmp_path):
    record(tmp_path / "run", {"dtype": "bfloat16"}, num_steps=2)
    record(tmp_path / "run", None, num_steps=3, resume=True)
    with pytest.raises(ManifestMismatchError, match=r"storage\.dtype is 'bfloat16' in the stored run and 'exact'"):
        record(tmp_path / "run", WeightStorage(), resume=True)


def test_numbers_beyond_float16_are_refused_and_infinities_kept(tmp_path):
    model = torch.nn.Linear(2, 1)
    with ld.TrajectoryWriter(tmp_path / "run", model, storage={"dtype": "float16"}) as writer:
        model.weight.data = torch.tensor([[float("inf"), 65519.0]])
        model.bias.data[0] = float("nan")
        writer.record(0)
        model.weight.data = torch.tensor([[1.0, -70000.0]])
        with pytest.raises(DataError, match=r"state 'weight': 7e\+04 is beyond float16"):
            writer.record(1)
        model.weight.data = torch.tensor([[1.0, 2.0]])
        writer.record(1)
    run = ld.Trajectory(tmp_path / "run")
    assert run.state_dict(0)["weight"].tolist() == [[float("inf"), 65504.0]]
    assert run.state_dict(0)["bias"].isnan().all()
    assert run.state_dict(1)["weight"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("way", "name"),
    [
        ({"dtype": "float8"}, "dtype"),
        ({"compression": "zstd"}, "unknown setting"),
        ({"dtipe": "float16"}, "did you mean 'dtype'"),
    ],
)
def test_bad_settings_are_named(tmp_path, way, name):
    with pytest.raises(ConfigError, match=name):
        ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), storage=way)
    assert not (tmp_path / "run").exists()


def test_exact_storage_reads_as_the_default(tmp_path):
    first, second = (record(tmp_path / name, way) for name, way in (("none", None), ("exact", {"dtype": "exact"})))
    assert read_all_weights(first) == read_all_weights(second)
