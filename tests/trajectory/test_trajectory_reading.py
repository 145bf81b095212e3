"""Reading a part of what is stored, in bounded memory, and while it grows."""

import tracemalloc

import numpy as np
import pytest
import torch
from trajectory_runs import train

import llc_dynamics as ld
from llc_dynamics.errors import CorruptRunError, DataError, StepNotStoredError, TrajectoryError
from llc_dynamics.trajectory import lazy as lazy_rows


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path, expected = tmp_path_factory.mktemp("runs") / "run", {}
    train(path, 10, expected=expected)
    return ld.Trajectory(path), expected


@pytest.mark.parametrize("name", ["embed.weight", "scale", "count", "seen", "bits16"])
def test_a_tensor_over_training_is_the_stack_of_the_checkpoints(recorded, name):
    run, expected = recorded
    whole = torch.stack([state[name] for state in expected.values()])
    rows = run.tensor(name)
    assert (rows.shape, rows.dtype, len(rows)) == (tuple(whole.shape), whole.dtype, 11)
    mask = np.arange(11) % 4 == 1
    for key in (0, -1, slice(None), slice(2, 9, 3), slice(None, None, -2), [7, 1, 1, 10], mask, slice(0, 0)):
        found = rows[key]
        index = torch.from_numpy(np.arange(11)[key].copy() if not isinstance(key, int) else np.array(key))
        assert found.dtype == whole.dtype
        assert torch.equal(found, whole[index])
    if whole.ndim == 3:
        assert torch.equal(rows[2:5, 1], whole[2:5, 1])
        assert torch.equal(rows[[8, 0], :, 2], whole[[8, 0], :, 2])
        assert torch.equal(rows[4, 1, 2], whole[4, 1, 2])
    assert torch.equal(run.tensor(name, [9, 3])[:], whole[[9, 3]])


def test_a_tensor_or_step_that_is_not_there(recorded):
    run, _ = recorded
    with pytest.raises(TrajectoryError, match=r"no tensor 'embed\.wait'; did you mean 'embed\.weight'"):
        run.tensor("embed.wait")
    with pytest.raises(TrajectoryError, match="did you mean 'scale'"):
        run.state_dict(3, names=["scal"])
    with pytest.raises(StepNotStoredError):
        run.tensor("scale", [0, 99])
    with pytest.raises(DataError, match="first axis"):
        run.tensor("embed.weight")[..., 0]
    with pytest.raises(IndexError):
        run.tensor("embed.weight")[11]


def test_picked_tensors_keep_nothing_else_alive(recorded):
    run, expected = recorded
    found = run.state_dict(4, names=["scale", "embed.weight", "bits16"])
    assert list(found) == ["scale", "embed.weight", "bits16"]
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[4][name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    # All of a state dict lies in one piece, without one tensor reaching into another.
    state = run.state_dict(4)
    state["embed.weight"].zero_()
    assert torch.equal(state["unembed.bias"], expected[4]["unembed.bias"])
    assert torch.equal(run.state_dict(4)["embed.weight"], expected[4]["embed.weight"])


def test_a_part_of_every_row_is_read_without_holding_the_rows(tmp_path, monkeypatch):
    model = torch.nn.Linear(1, 1)
    vector = np.arange(50_000, dtype=np.float32)
    with ld.TrajectoryWriter(tmp_path / "run", model, rows_per_shard=7) as writer:
        for step in range(100):
            writer.record(step, outputs=vector + step)
    outputs = ld.Trajectory(tmp_path / "run").outputs()
    assert outputs.nbytes == 20_000_000
    monkeypatch.setattr(lazy_rows, "_PIECE", 1 << 20)
    tracemalloc.start()
    part = outputs[:, 100:103]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(part, vector[100:103] + np.arange(100, dtype=np.float32)[:, None])
    assert peak < 4 << 20
    np.testing.assert_array_equal(outputs[::-3, 7], 7 + np.arange(99, -1, -3, dtype=np.float32))
    # Reading neighbours takes the room of the result and one shard's worth of bookkeeping, no copy of it.
    tracemalloc.start()
    rows = outputs[10:60]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.nbytes == 10_000_000
    assert peak < rows.nbytes + (1 << 20)


def test_a_damaged_row_is_refused_by_a_lazy_tensor(tmp_path):
    import h5py

    path = tmp_path / "run"
    train(path, 5)
    shard = path / "shards" / "shard-000000.h5"
    with h5py.File(shard) as file:
        place = file["state/float32"].id.get_offset() + 3
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)
    rows = ld.Trajectory(path).tensor("scale")
    rows[1:]
    with pytest.raises(CorruptRunError, match="step 0"):
        rows[0]


def test_refresh_shows_what_was_sealed_since_also_to_lazy_rows_made_later(tmp_path):
    model = torch.nn.Linear(2, 1)
    writer = ld.TrajectoryWriter(tmp_path / "run", model, rows_per_shard=2)
    run = ld.Trajectory(tmp_path / "run")
    for step in range(6):
        writer.record(step, {"loss": float(step)}, np.full(3, step), weights=step % 3 == 0)
    writer.seal()
    assert len(run) == len(run.weight_steps) == 0
    assert run.refresh() == 6
    assert run.refresh() == 0
    assert run.weight_steps.tolist() == [0, 3]
    early = run.outputs()
    for step in range(6, 9):
        writer.record(step, {"loss": float(step)}, np.full(3, step), weights=step % 3 == 0)
    writer.finish()
    assert run.refresh() == 3
    assert (len(early), len(run.outputs())) == (6, 9)
    np.testing.assert_array_equal(early[:, 0], np.arange(6))
    np.testing.assert_array_equal(run.metrics("loss"), np.arange(9.0))
    assert run.weight_steps.tolist() == [0, 3, 6]
    assert run.complete
    writer.close()
