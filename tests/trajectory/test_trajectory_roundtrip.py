"""What is recorded is read back, bit for bit."""

import h5py
import numpy as np
import pytest
import torch
from trajectory_runs import ARRAYS, CONFIG, Tied, new_model, row_of, train

import llc_dynamics as ld
from llc_dynamics.errors import DataError, ManifestMismatchError, StepNotStoredError, TrajectoryError
from llc_dynamics.trajectory.sealed import row_checksum


def equal(a, b):
    """Same names, formats, shapes and bytes."""
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(a[name].reshape(-1).view(torch.uint8), b[name].reshape(-1).contiguous().view(torch.uint8))
        for name in a
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path, expected = tmp_path_factory.mktemp("runs") / "run", {}
    train(path, 10, expected=expected)
    return ld.Trajectory(path), expected


def test_every_row_comes_back_bit_for_bit(recorded):
    run, expected = recorded
    assert run.steps.tolist() == list(expected)
    for step, state in expected.items():
        assert equal(state, run.state_dict(step))
    assert run.complete
    assert run.config == CONFIG
    assert run.provenance["versions"]["torch"] == torch.__version__
    assert run.verify().ok
    assert run.verify().rows == 11


def test_metrics_samples_and_arrays(recorded):
    run, _ = recorded
    assert run.metric_names == ["loss", "nothing", "odd/only"]
    np.testing.assert_array_equal(run.metrics("odd/only"), [s / 3 if s % 2 else np.nan for s in range(11)])
    assert np.isnan(run.metrics("nothing")).all()
    assert run.metrics("loss").dtype == np.float64
    samples = run.samples("ood_loss")
    assert samples.shape == (11, 6)
    assert np.isnan(samples[[0, 3, 6, 9]]).all()
    assert np.isfinite(samples[[1, 2, 4, 10]]).all()
    for key, value in ARRAYS["evaluation"].items():
        got = run.arrays("evaluation")[key]
        assert got.dtype == value.dtype
        np.testing.assert_array_equal(got, value)
    for call in (lambda: run.metrics("los"), lambda: run.samples("x"), lambda: run.arrays("evaluatio")):
        with pytest.raises(TrajectoryError, match=r"did you mean|the run has"):
            call()


def test_outputs_index_like_the_array_they_are(recorded):
    run, expected = recorded
    whole = np.stack([(state["embed.weight"] * 2).reshape(4, 5).numpy() for state in expected.values()])
    lazy = run.outputs()
    assert (lazy.shape, lazy.dtype, len(lazy), lazy.ndim) == (whole.shape, whole.dtype, 11, 3)
    np.testing.assert_array_equal(np.asarray(lazy), whole)
    mask = np.arange(11) % 4 == 1
    for key in (
        0,
        -1,
        slice(None),
        slice(2, 9, 3),
        slice(None, None, -2),
        [7, 1, 1, 10],
        np.array([], int),
        mask,
        (slice(1, 5), 2),
        ([8, 0], slice(None), 3),
        (4, 1, 2),
    ):
        np.testing.assert_array_equal(lazy[key], whole[key])
    np.testing.assert_array_equal(run.outputs([9, 2, 3])[:], whole[[9, 2, 3]])
    with pytest.raises(IndexError):
        lazy[11]
    with pytest.raises(DataError, match="first axis"):
        lazy[..., 0]


def test_load_into_restores_ties_and_moves_on_a_mismatch_nothing(recorded):
    run, expected = recorded
    model = Tied()
    run.load_into(model, 7)
    assert equal(expected[7], model.state_dict())
    assert model.embed.weight is model.unembed.weight
    with torch.no_grad():
        model.embed.weight.fill_(3)
    assert (model.unembed.weight == 3).all()

    for change, name in (
        (lambda m: delattr(m, "scale"), "'scale' .* not in the model"),
        (lambda m: m.register_buffer("more", torch.zeros(1)), "'more' .* not in the run"),
        (lambda m: setattr(m, "scale", torch.nn.Parameter(torch.ones(2))), r"'scale' .*shape \[\] .*\[2\]"),
        (lambda m: m.bits16.resize_(3, 2), r"'bits16' .*\[2, 3\].*\[3, 2\]"),
    ):
        other = Tied()
        change(other)
        before = {key: value.clone() for key, value in other.state_dict().items()}
        with pytest.raises(ManifestMismatchError, match=name):
            run.load_into(other, 7)
        assert equal(before, other.state_dict())


def test_load_into_widens_and_never_narrows(tmp_path):
    model = torch.nn.Linear(3, 2)
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        writer.record(0)
    wide = torch.nn.Linear(3, 2).double()
    ld.Trajectory(tmp_path / "run").load_into(wide, 0)
    assert torch.equal(wide.weight, model.weight.double())
    with pytest.raises(ManifestMismatchError, match="float32 in the run, but bfloat16"):
        ld.Trajectory(tmp_path / "run").load_into(torch.nn.Linear(3, 2).bfloat16(), 0)


def test_a_step_that_was_not_stored_names_its_neighbours(tmp_path):
    train(tmp_path / "run", 30, every=10)
    run = ld.Trajectory(tmp_path / "run")
    with pytest.raises(StepNotStoredError, match="10 and 20"):
        run.state_dict(14)
    with pytest.raises(StepNotStoredError, match="nearest stored: 30"):
        run.load_into(Tied(), 99)
    with pytest.raises(StepNotStoredError):
        run.outputs([0, 5])
    with pytest.raises(DataError, match="whole number"):
        run.state_dict(1.0)


FORMATS = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def test_every_number_format_keeps_its_bits(tmp_path):
    model, generator = torch.nn.Module(), torch.Generator().manual_seed(0)
    for position, dtype in enumerate(FORMATS):
        top = 2 if dtype == torch.bool else 256
        raw = torch.randint(
            0, top, (2, 3, torch.empty((), dtype=dtype).element_size()), dtype=torch.uint8, generator=generator
        )
        model.register_buffer(f"b{position}", raw.view(dtype)[..., 0])
    model.register_buffer("strided", torch.arange(12.0).reshape(3, 4).T)
    model.register_buffer("conjugate", torch.tensor([1 + 2j, 3 - 1j]).conj())
    model.register_buffer("empty", torch.empty(0, 4))
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        writer.record(5)
    read = ld.Trajectory(tmp_path / "run").state_dict(5)
    state = {name: tensor.resolve_conj() for name, tensor in model.state_dict().items()}
    assert equal(state, read)


def test_non_finite_weights_are_stored_as_they_are(tmp_path):
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[float("nan"), -float("inf")]])
    model.weight.data.view(torch.int32)[0, 0] |= 0x1234
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        writer.record(0, {"loss": torch.tensor(float("inf"))})
    run = ld.Trajectory(tmp_path / "run")
    assert equal(run.state_dict(0), model.state_dict())
    assert run.metrics("loss")[0] == np.inf


def test_resume_state_keeps_types_keys_and_bits(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    state = {
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "numpy": np.random.default_rng(5).bit_generator.state,
        "values": [1, -0.0, float("nan"), 1e-310, True, None, "text", (2**200, ())],
        "tensors": {1: torch.ones(2, dtype=torch.bfloat16), -2: torch.tensor(3), "empty": torch.empty(0, 3)},
        "arrays": [np.arange(3, dtype=">i4"), np.array(2.5), np.array([True])],
        "numbers": np.float32(0.1),
    }
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        writer.seal(state)
        run = ld.Trajectory(tmp_path / "run")
        assert len(run.steps) == 0
        read = run.resume_state()
    other = torch.optim.Adam(torch.nn.Linear(2, 2).parameters())
    other.load_state_dict(read["optimiser"])
    assert repr(other.state_dict()) == repr(optimiser.state_dict())
    assert torch.equal(read["rng"], state["rng"])
    assert read["numpy"] == state["numpy"]
    assert repr(read["values"]) == repr(state["values"])
    assert [*read["tensors"]] == [1, -2, "empty"]
    assert repr(read["tensors"]) == repr(state["tensors"])
    assert [a.tolist() for a in read["arrays"]] == [[0, 1, 2], 2.5, [True]]
    assert read["numbers"] == float(np.float32(0.1))


@pytest.mark.parametrize(
    "bad", [{"f": print}, {"a": [np.array(["x"])]}, {(1, 2): 3}, {"t": torch.ones(1).to_sparse()}, [1]]
)
def test_a_resume_state_that_cannot_be_stored_is_refused_and_the_former_kept(tmp_path, bad):
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1)) as writer:
        writer.seal({"good": 1})
        with pytest.raises(DataError, match="state"):
            writer.seal(bad)
        assert ld.Trajectory(tmp_path / "run").resume_state() == {"good": 1}


def test_plain_h5py_reads_a_shard(recorded):
    """The documented layout, with none of our reading code."""
    run, expected = recorded
    with h5py.File(run.path / "shards" / "shard-000001.h5") as file:
        assert file["step"][:].tolist() == [3, 4, 5]
        entry = next(item for item in run.manifest.to_json()["state"] if item["name"] == "unembed.bias")
        row = file["state/float32"][1]
        np.testing.assert_array_equal(row[entry["offset"] : entry["offset"] + 5], expected[4]["unembed.bias"].numpy())
        assert int(file["checksum/state/float32"][1]) == row_checksum(4, "state/float32", row)
        assert file["outputs"].dtype == np.float32


def test_own_loop_seals_full_shards_by_itself_and_a_reader_sees_them(tmp_path):
    model = new_model()
    writer = ld.TrajectoryWriter(tmp_path / "run", model, rows_per_shard=4)
    run, seen = ld.Trajectory(tmp_path / "run"), []
    for step in range(10):
        writer.record(step, *row_of(model, step))
        run.refresh()
        seen.append(len(run.steps))
    assert writer.pending == 2
    writer.close()
    writer.close()
    assert seen == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert run.refresh() == 2
    assert not run.complete
    with pytest.raises(TrajectoryError, match="closed"):
        writer.record(10)


def test_the_names_of_a_compiled_model_are_the_models_own(tmp_path):
    model = torch.nn.Linear(2, 2)
    compiled = torch.compile(model)
    with ld.TrajectoryWriter(tmp_path / "run", compiled) as writer:
        writer.record(0)
    run = ld.Trajectory(tmp_path / "run")
    assert list(run.state_dict(0)) == ["weight", "bias"]
    run.load_into(compiled, 0)


def test_rows_per_shard_follows_the_size_of_a_row(tmp_path):
    def rows(count):
        with ld.TrajectoryWriter(tmp_path / str(count), torch.nn.Linear(count, 1, bias=False)) as writer:
            return writer.rows_per_shard

    assert (rows(10), rows(3_000_000), rows(20_000_000)) == (32, 5, 1)


def test_tensors_by_name_are_recorded_as_they_are_at_each_step(tmp_path):
    tensors = {"w": torch.zeros(2, 3), "count": torch.tensor(0), "scale": torch.ones(2, dtype=torch.float16)}
    expected = {}
    with ld.TrajectoryWriter(tmp_path / "run", tensors, rows_per_shard=2) as writer:
        for step in range(5):
            tensors["w"] = torch.full((2, 3), float(step))
            tensors["count"] += 1
            writer.record(step, weights=step != 3)
            expected[step] = {name: tensor.clone() for name, tensor in tensors.items()}
        tensors["w"] = torch.zeros(3, 2)
        with pytest.raises(ManifestMismatchError, match="the model changed"):
            writer.record(5)
    run = ld.Trajectory(tmp_path / "run")
    assert run.weight_steps.tolist() == [0, 1, 2, 4]
    assert all(equal(run.state_dict(step), expected[step]) for step in (0, 1, 2, 4))
    kinds = {entry.name: entry.kind for entry in run.manifest.state.entries}
    assert kinds == {"w": "parameter", "count": "buffer", "scale": "parameter"}
    with ld.TrajectoryWriter(tmp_path / "run", expected[4], resume=True) as writer:
        writer.record(4)
        writer.record(5)
    # The model itself, in which `scale` is a buffer, is another one.
    model = torch.nn.Module()
    model.register_parameter("w", torch.nn.Parameter(torch.zeros(2, 3)))
    model.register_buffer("count", torch.tensor(0))
    model.register_buffer("scale", torch.ones(2, dtype=torch.float16))
    with pytest.raises(ManifestMismatchError, match="'scale' is a parameter in the run, but a buffer"):
        ld.TrajectoryWriter(tmp_path / "run", model, resume=True)
    run.load_into(model, 2)
    assert torch.equal(model.w, expected[2]["w"])
