"""Weights that are stored narrower, as differences, or compressed."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from trajectory_runs import CONFIG, new_model, row_of, train_step

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, CorruptRunError, DataError, ManifestMismatchError, MissingPackageError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.trajectory import WeightStorage, storage, verify_run
from llc_dynamics.trajectory.packed import frame_content_size
from llc_dynamics.trajectory.sealed import digest_outside, encode_header
from llc_dynamics.trajectory.storage import from_differences, to_differences

needs_codec = pytest.mark.skipif(
    not __import__("importlib").util.find_spec("hdf5plugin"), reason="needs the extra 'compression'"
)
PACKED = [
    {"compression": "zstd"},
    {"compression": "zstd", "delta": True},
    {"compression": "zstd", "delta": True, "dtype": "bfloat16"},
]
WAYS = [
    {"dtype": "float16"},
    {"dtype": "bfloat16"},
    *(pytest.param(way, marks=needs_codec) for way in PACKED),
]


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
    # Backwards as well: differences are undone from the first row of the shard, or from the last that was read.
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
        ({"compression": "gzip"}, "compression"),
        ({"delta": True}, "delta.*compression = 'zstd'"),
        ({"delta": 1}, "delta"),
        ({"dtipe": "float16"}, "did you mean 'dtype'"),
    ],
)
def test_bad_settings_are_named(tmp_path, way, name):
    with pytest.raises(ConfigError, match=name):
        ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), storage=way)
    assert not (tmp_path / "run").exists()


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    def missing(module, extra, purpose):
        raise MissingPackageError(f'{purpose} needs {module}; pip install "llc-dynamics[{extra}]"')

    monkeypatch.setattr(storage, "optional_import", missing)
    with pytest.raises(MissingPackageError, match=r"llc-dynamics\[compression\]"):
        ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), storage={"compression": "zstd"})
    # Nothing stands in the way of a later try with other settings.
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1)) as writer:
        writer.record(0)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<u2", "|u1", "<i8"])
def test_differences_against_python_numbers(dtype):
    generator = np.random.default_rng(0)
    size = np.dtype(dtype).itemsize
    first, second = (generator.integers(0, 256, (200, size)).astype(np.uint8).reshape(-1).view(dtype) for _ in range(2))
    second[:50] = first[:50]
    stored = to_differences(second, first)
    top = 1 << 8 * size
    for a, b, d in zip(first.view(f"u{size}"), second.view(f"u{size}"), stored, strict=True):
        change = (int(b) - int(a)) % top
        change = change - top if change >= top // 2 else change
        assert int(d) == (2 * change if change >= 0 else -2 * change - 1)
    assert from_differences(stored, first, np.dtype(dtype)).tobytes() == second.tobytes()
    whole = to_differences(first, None)
    assert whole.dtype.kind == "u"
    assert from_differences(whole, None, np.dtype(dtype)).tobytes() == first.tobytes()


@needs_codec
def test_what_is_written_is_smaller_and_plain_h5py_reads_it(tmp_path):
    import hdf5plugin  # noqa: F401

    model = torch.nn.Linear(1000, 20)
    sizes = {}
    for name, way in {"raw": None, "zstd": PACKED[0], "delta": PACKED[1], "all": PACKED[2]}.items():
        with torch.no_grad():
            model.weight.copy_(torch.randn(20, 1000, generator=torch_generator(0, "storage")))
        with ld.TrajectoryWriter(tmp_path / name, model, storage=way) as writer:
            for step in range(8):
                writer.record(step)
                model.weight.data.mul_(1.0001)
        sizes[name] = (tmp_path / name / "shards" / "shard-000000.h5").stat().st_size
    assert sizes["all"] < 0.3 * sizes["delta"] < 0.3 * sizes["zstd"] < 0.3 * sizes["raw"] or (
        sizes["all"] < sizes["delta"] < sizes["zstd"] < sizes["raw"]
    )
    with h5py.File(tmp_path / "zstd" / "shards" / "shard-000000.h5") as file:
        found = file["state/float32"][3][: 20 * 1000].reshape(20, 1000)
    np.testing.assert_array_equal(found, ld.Trajectory(tmp_path / "zstd").state_dict(3)["weight"].numpy())


@pytest.fixture(scope="module")
def packed_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    run = record(path, PACKED[1], num_steps=4)
    return path, read_all_weights(run)


@needs_codec
def test_every_byte_of_a_compressed_shard_is_guarded(packed_run, tmp_path):
    path = shutil.copytree(packed_run[0], tmp_path / "run")
    shard = path / "shards" / "shard-000000.h5"
    content = shard.read_bytes()
    described = json.loads(content.split(b"\n", 2)[1])
    places = [place for rows in described["packed"].values() for place in rows]
    assert len(places) >= 9
    chosen = [offset + delta for offset, length, _ in places for delta in (0, 4, length // 2, length - 1)]
    chosen += np.random.default_rng(0).integers(0, len(content), 60).tolist()
    refused = 0
    for place in chosen:
        changed = bytearray(content)
        changed[place] ^= 1
        shard.write_bytes(changed)
        try:
            assert read_all_weights(ld.Trajectory(path)) == packed_run[1]
        except CorruptRunError as error:
            assert "shard-000000" in str(error)  # noqa: PT017
            refused += 1
            assert refused % 10 or not verify_run(path).ok
    assert refused > 4 * len(places)


def signed(shard, change):
    """The shard with another header, and what the header says of the rest made true."""
    content = shard.read_bytes()
    head, text = content.split(b"\n", 2)[:2]
    user_block, described = int(head.split()[3]), json.loads(text)
    change(described)
    with shard.open("r+b") as stream:
        described["digest"] = digest_outside(stream, user_block, len(content), sorted(map(tuple, described["bulk"])))
        stream.seek(0)
        stream.write(encode_header(described, user_block))


def claim_elsewhere(described):
    described["packed"]["state/float32"][0][0] += 8


def claim_none(described):
    del described["packed"]


def claim_fewer(described):
    described["packed"]["state/float32"].pop()


def claim_nonsense(described):
    described["packed"]["state/float32"] = 7


@needs_codec
@pytest.mark.parametrize("change", [claim_elsewhere, claim_none, claim_fewer, claim_nonsense])
def test_a_header_that_does_not_fit_the_compressed_rows_is_refused(packed_run, tmp_path, change):
    path = shutil.copytree(packed_run[0], tmp_path / "run")
    signed(path / "shards" / "shard-000000.h5", change)
    with pytest.raises(CorruptRunError, match="shard-000000"):
        read_all_weights(ld.Trajectory(path))


@needs_codec
def test_a_frame_that_claims_more_than_a_row_is_refused_before_hdf5_sees_it(packed_run, tmp_path):
    import zlib

    path = shutil.copytree(packed_run[0], tmp_path / "run")
    shard = path / "shards" / "shard-000000.h5"
    content = bytearray(shard.read_bytes())
    described = json.loads(bytes(content).split(b"\n", 2)[1])
    offset, length, _ = described["packed"]["state/float32"][0]
    frame = bytes(content[offset : offset + length])
    # A frame of one segment that says, in 8 bytes, that it holds 2^60 bytes.
    bomb = (frame[:4] + bytes([0xE0]) + (1 << 60).to_bytes(8, "little") + frame[13:])[:length]
    assert frame_content_size(bomb) == 1 << 60
    content[offset : offset + length] = bomb
    shard.write_bytes(content)

    def change(described):
        described["packed"]["state/float32"][0][2] = zlib.crc32(bomb)

    signed(shard, change)
    with pytest.raises(CorruptRunError, match="do not match"):
        ld.Trajectory(path).state_dict(0)


@needs_codec
def test_frame_sizes_as_zstd_writes_them(tmp_path):
    import hdf5plugin

    for size in (1, 100, 255, 256, 257, 65_791, 65_792, 1 << 20):
        with h5py.File(tmp_path / f"{size}.h5", "w") as file:
            dataset = file.create_dataset("x", data=np.zeros(size, "u1"), chunks=(size,), **hdf5plugin.Zstd())
            _, frame = dataset.id.read_direct_chunk((0,))
            assert frame_content_size(frame) == size
    assert frame_content_size(b"") == frame_content_size(b"x" * 40) == frame_content_size(frame[:5]) == -1


@needs_codec
def test_a_manifest_that_asks_for_a_row_of_terabytes_is_refused(packed_run, tmp_path):
    from llc_dynamics.trajectory.manifest import write_signed

    path = shutil.copytree(packed_run[0], tmp_path / "run")
    content = json.loads((path / "manifest.json").read_text())
    del content["checksum"]
    next(entry for entry in content["state"] if entry["dtype"] == "complex64")["shape"] = [1 << 45]
    write_signed(path / "manifest.json", content)
    with pytest.raises(CorruptRunError):
        ld.Trajectory(path).state_dict(0)


@needs_codec
def test_a_full_disk_while_compressing_leaves_nothing_behind(tmp_path):
    import os
    import resource
    import signal

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        model = torch.nn.Linear(50_000, 1)
        writer = ld.TrajectoryWriter(tmp_path / "run", model, storage=PACKED[0], rows_per_shard=2)
        writer.record(0)
        writer.seal()
        writer.record(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            writer.seal()
        except ld.LLCDynamicsError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            writer.seal()
            writer.close()
            os._exit(0)
        os._exit(1)

    child = os.fork()
    if child == 0:
        try:
            fill()
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run = ld.Trajectory(tmp_path / "run")
    assert run.weight_steps.tolist() == [0, 1]
    assert run.verify().ok


def test_exact_storage_reads_as_the_default(tmp_path):
    first, second = (record(tmp_path / name, way) for name, way in (("none", None), ("exact", {"dtype": "exact"})))
    assert read_all_weights(first) == read_all_weights(second)
