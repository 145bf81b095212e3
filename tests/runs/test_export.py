"""A run into one file and back, the virtual view, one checkpoint as safetensors."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from interchange_runs import kill_at_each_change, read_sparse, record_sparse, train_with_curve
from safetensors import safe_open
from safetensors.torch import load_file
from sealed_files import change_header
from trajectory_runs import Tied, contents, new_model, read_all, train

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.errors import CorruptRunError, DataError, StepNotStoredError, TrajectoryError
from llc_dynamics.runs import verify_archive
from llc_dynamics.trajectory import sealing
from llc_dynamics.trajectory.sealed import SealedFile
from llc_dynamics.trajectory.shards import Shard

FORMAT = Path(__file__).parents[2] / "docs" / "trajectory-format.md"


@pytest.fixture
def run(tmp_path):
    return train_with_curve(tmp_path / "run")


@pytest.fixture
def file(run, tmp_path):
    return ld.export_run(run, tmp_path / "run.h5")


def test_a_run_comes_back_bit_for_bit(run, file, tmp_path):
    before = contents(run)
    back = ld.import_run(file, tmp_path / "back")
    assert contents(run) == before
    origin = ld.Trajectory(run)
    assert read_all(back) == read_all(origin)
    assert back.verify().ok
    assert back.manifest.run_id == origin.manifest.run_id
    assert {key: back.provenance[key] for key in origin.provenance} == origin.provenance
    assert back.provenance["imported"]["from"] == "run.h5"
    for step in (0, 4, 8):
        name = f"llc/llc/step-{step}.h5"
        assert (back.path / name).read_bytes() == (run / name).read_bytes()
    np.testing.assert_array_equal(ld.LLCCurve.load(back).values, ld.LLCCurve.load(origin).values)
    # An imported run can be exported and goes on as the original does.
    again = ld.import_run(ld.export_run(back, tmp_path / "again.h5"), tmp_path / "again")
    assert read_all(again) == read_all(origin)
    train(run, 14), train(again.path, 14)
    assert read_all(ld.Trajectory(again.path)) == read_all(ld.Trajectory(run))


def test_row_checksums_are_those_of_the_shards(run, file):
    origin, done = ld.Trajectory(run), 0
    with h5py.File(file) as exported:
        for index in range(4):
            with h5py.File(Shard(run, index, origin.manifest).path) as shard:
                rows = len(shard["step"])
                for name in ("state/float32", "state/bfloat16", "outputs", "samples/ood_loss"):
                    part = exported[f"checksum/{name}"][done : done + rows]
                    np.testing.assert_array_equal(part, shard[f"checksum/{name}"][:])
            done += rows
    assert done == 11


@pytest.mark.parametrize("storage", [None, {"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_weights_at_some_steps_and_narrow_ones_come_back(tmp_path, storage):
    run = ld.Trajectory(record_sparse(tmp_path / "run", 10, storage))
    back = ld.import_run(ld.export_run(run, tmp_path / "run.h5"), tmp_path / "back")
    assert read_sparse(back) == read_sparse(run)
    assert back.weight_steps.tolist() == [0, 3, 6, 9]
    narrow = h5py.File(tmp_path / "run.h5")["state/float32"].dtype
    assert narrow == np.dtype({None: "f4", "bfloat16": "u2", "float16": "f2"}[storage and storage["dtype"]])


def test_what_h5py_sees(run, file):
    with h5py.File(file) as exported:
        assert exported.attrs["format"] == "llc_dynamics export"
        manifest = json.loads(bytes(exported["manifest"][:]))
        assert manifest["config"] == ld.Trajectory(run).config
        np.testing.assert_array_equal(exported["step"], np.arange(11))
        np.testing.assert_array_equal(exported["metrics/odd%2Fonly"], ld.Trajectory(run).metrics("odd/only"))
        np.testing.assert_array_equal(exported["outputs"], np.asarray(ld.Trajectory(run).outputs()))
        np.testing.assert_array_equal(exported["arrays/evaluation/mask"], [1, 0, 1])
        curve = ld.LLCCurve.load(ld.Trajectory(run))
        np.testing.assert_array_equal(exported["curves/llc/step"], curve.steps)
        np.testing.assert_array_equal(exported["curves/llc/llc"], curve.values)
        np.testing.assert_array_equal(exported["curves/llc/standard_error"], curve.standard_errors)


def test_an_unfinished_run_without_extras(tmp_path):
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(2, 1)) as writer:
        writer.record(5)
    back = ld.import_run(ld.export_run(tmp_path / "run", tmp_path / "run.h5"), tmp_path / "back")
    assert back.steps.tolist() == [5]
    assert not back.complete
    assert back.metric_names == []
    with pytest.raises(TrajectoryError):
        back.outputs()


def test_every_bit_of_an_export_is_checked(file):
    whole = file.read_bytes()
    assert verify_archive(file) == 11
    draw = np.random.default_rng(0)
    for position in [0, 25, 600, len(whole) - 1, *draw.integers(0, len(whole), 150)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(draw.integers(8))
        file.write_bytes(damaged)
        try:
            verify_archive(file)
        except TrajectoryError as problem:
            message = str(problem)
        else:
            message = None
        if message is not None:
            assert str(file) in message
            continue
        # Only the padding of the user block is in no checksum.
        assert position < SealedFile(file, "export").user_block
        assert whole[position] == 0


def test_what_is_no_export_is_refused_by_name(run, file, tmp_path, monkeypatch):
    (tmp_path / "text.h5").write_text("hello, this is a text file")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "cut.h5").write_bytes(file.read_bytes()[:-100])
    newer = bytearray(file.read_bytes())
    newer[: len(b"llc_dynamics sealed 3 ")] = b"llc_dynamics sealed 9 "
    (tmp_path / "newer.h5").write_bytes(newer)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = [1, 2]
    out = tmp_path / "out"
    for name, words in (
        ("missing.h5", "no such file"),
        ("run", "this is a folder"),
        ("text.h5", "not a file that `llc-dynamics export` wrote"),
        ("other.h5", "not a file that `llc-dynamics export` wrote"),
        ("empty.h5", "no valid header"),
        ("cut.h5", "bytes where .* were written"),
        ("newer.h5", "schema version 9.*install a newer"),
        ("run/shards/shard-000000.h5", "kind 'shard'"),
    ):
        with pytest.raises(TrajectoryError, match=rf"{name}: .*{words}"):
            ld.import_run(tmp_path / name, out)
        assert not out.exists()
    for place in (run, tmp_path / "text.h5"):
        before = place.read_bytes() if place.is_file() else contents(place)
        with pytest.raises(TrajectoryError, match="nothing in it was changed"):
            ld.import_run(file, place)
        assert (place.read_bytes() if place.is_file() else contents(place)) == before
    for place in (file, tmp_path / "text.h5", run):
        with pytest.raises(TrajectoryError, match="not overwritten"):
            ld.export_run(run, place)
    with pytest.raises(TrajectoryError, match="inside a run folder"):
        ld.export_run(run, run / "x.h5")
    for name, words in (("missing", "no such folder"), ("text.h5", "a file, not a run"), ("", "not a run folder")):
        with pytest.raises(TrajectoryError, match=words):
            ld.export_run(tmp_path / name, tmp_path / "new.h5")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run", "--out", "sub/new.h5"]) == 0
    assert main(["import", "sub/new.h5", "--out", "new"]) == 0
    assert read_all(ld.Trajectory("new")) == read_all(ld.Trajectory(run))


def test_a_hostile_export_writes_nothing_outside(file, tmp_path):
    """A file with sound checksums whose names climb out of the folder, or whose shapes are too large."""

    def forged(change):
        content = file.read_bytes()
        (tmp_path / "forged.h5").write_bytes(change_header(content, lambda described: change(described["datasets"])))

    def climb(name):
        def change(datasets):
            datasets[name] = datasets.pop("files/resume.h5")

        return change

    def huge(datasets):
        datasets["metrics/huge"] = ["<f8", [1 << 40], 4096, 8 << 40]

    def longer(datasets):
        datasets["metrics/longer"] = ["<f8", [0], None, 0]

    def without(name):
        return lambda datasets: datasets.pop(name)

    forged(climb("files/llc/fine/step-77.h5"))
    ld.import_run(tmp_path / "forged.h5", tmp_path / "fine")
    moved = (tmp_path / "fine" / "llc" / "fine" / "step-77.h5").read_bytes()
    assert moved == (file.parent / "run" / "resume.h5").read_bytes()
    for change in (
        climb("files/manifest.json"),
        climb("files/llc/fine/evil.py"),
        climb("files/shards/shard-000009.h5"),
        climb("files/llc/../step-1.h5"),
        climb("files//etc/passwd"),
        climb("metrics/%1B"),
        *(
            huge,
            longer,
            *map(without, ("step", "manifest", "state/float32", "checksum/outputs", "arrays/evaluation/x")),
        ),
    ):
        forged(change)
        with pytest.raises(CorruptRunError, match=r"forged\.h5: "):
            ld.import_run(tmp_path / "forged.h5", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))


def test_a_damaged_run_is_not_exported(run, tmp_path):
    shard = run / "shards" / "shard-000002.h5"
    content = bytearray(shard.read_bytes())
    content[SealedFile(shard, "shard").datasets["state/float32"].offset] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptRunError, match="shard-000002"):
        ld.export_run(run, tmp_path / "out.h5")
    shard.unlink()
    with pytest.raises(CorruptRunError, match="shard-000002"):
        ld.export_run(run, tmp_path / "out.h5")
    assert not list(tmp_path.glob("*.h5")) + list(tmp_path.glob(".out*"))


def test_a_run_that_is_being_written_is_exported_as_far_as_it_is_sealed(tmp_path):
    with ld.TrajectoryWriter(tmp_path / "run", new_model(), rows_per_shard=2) as writer:
        with pytest.raises(TrajectoryError, match="nothing to export"):
            ld.export_run(tmp_path / "run", tmp_path / "none.h5")
        for step in range(5):
            writer.record(step)
        ld.export_run(tmp_path / "run", tmp_path / "run.h5")
    assert ld.import_run(tmp_path / "run.h5", tmp_path / "back").steps.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_full_disk_leaves_no_half_export(run, tmp_path, monkeypatch, after):
    fill_disk(monkeypatch, after)
    before = contents(run)
    with pytest.raises(TrajectoryError, match=r"No space left.*free some space"):
        ld.export_run(run, tmp_path / "out.h5")
    assert contents(run) == before
    assert not list(tmp_path.glob("*out*"))


def fill_disk(monkeypatch, after):
    """From the n-th write into an export on, there is no space."""
    writes, honest = 0, sealing.write_at

    def full(stream, offset, content):
        nonlocal writes
        writes += 1
        if writes >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return honest(stream, offset, content)

    monkeypatch.setattr(sealing, "write_at", full)


def test_a_full_disk_stops_an_import_that_goes_on_later(file, tmp_path, monkeypatch):
    written, real = [], sealing.replacing

    def full(path):
        written.append(path)
        if path.name == "shard-000000.h5":
            raise TrajectoryError(f"{path}: No space left") from OSError(errno.ENOSPC, "No space left")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(sealing, "replacing", full)
        with pytest.raises(TrajectoryError, match="No space left"):
            ld.import_run(file, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert ld.import_run(file, tmp_path / "back").verify().ok
    assert not list(tmp_path.glob(".back*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_at_any_change_there_is_no_half_export_and_no_half_import(tmp_path):
    train(tmp_path / "run", 4)
    out, back = tmp_path / "out.h5", tmp_path / "back"
    expected = read_all(ld.Trajectory(tmp_path / "run"))

    def check_export(number):
        if out.exists():
            assert verify_archive(out) == 5
            out.unlink()
        assert len(list(tmp_path.glob(".out*"))) <= 1, number

    kill_at_each_change(lambda: ld.export_run(tmp_path / "run", out), check_export)
    ld.export_run(tmp_path / "run", out)
    assert not list(tmp_path.glob(".out*"))

    # Every import goes on from what the former, killed ones left.
    for first in (1, 7):
        shutil.rmtree(back, ignore_errors=True)
        steps = []

        def check_import(number, steps=steps):
            steps.append(number)
            if back.exists():
                assert read_all(ld.Trajectory(back)) == expected
                shutil.rmtree(back)

        kill_at_each_change(lambda: ld.import_run(out, back), check_import, first)
        assert len(steps) > 3
    ld.import_run(out, back)
    assert read_all(ld.Trajectory(back)) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "out.h5", "run"]


def test_an_export_and_its_import_take_bounded_memory(tmp_path):
    """200 MB of rows, read and written with far less than that, in a process of its own."""
    import resource

    model = torch.nn.Linear(1000, 1000, bias=False)
    with ld.TrajectoryWriter(tmp_path / "run", model, rows_per_shard=2) as writer:
        for step in range(50):
            writer.record(step, outputs=np.zeros(1000))
    del writer

    def peak(work):
        """MiB by which the memory of a forked process grew at the most."""
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            work()
            os.write(writing, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return int(os.read(reading, 100)) / 1024

    # Measured 62 and 138, and as much for 400 MB: the import holds a shard of up to 64 MiB until it is sealed.
    assert peak(lambda: ld.export_run(tmp_path / "run", tmp_path / "x.h5")) < 100
    assert peak(lambda: ld.import_run(tmp_path / "x.h5", tmp_path / "back")) < 180


def test_view_shows_all_shards_and_can_be_moved(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["view", "run"]) == 0
    origin = ld.Trajectory(run)
    assert origin.verify().ok
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(run, moved)
    monkeypatch.chdir("/")
    origin = ld.Trajectory(moved)
    with h5py.File(moved / "view.h5") as view:
        np.testing.assert_array_equal(view["step"], origin.steps)
        np.testing.assert_array_equal(view["outputs"], np.asarray(origin.outputs()))
        np.testing.assert_array_equal(view["samples/ood_loss"], origin.samples("ood_loss"))
        for name in origin.metric_names:
            np.testing.assert_array_equal(view[f"metrics/{name.replace('/', '%2F')}"], origin.metrics(name))
        for step in origin.steps.tolist():
            for name, tensor in origin.state_dict(step).items():
                plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
                seen = view[f"tensors/{name}"][step]
                assert seen.shape == tuple(tensor.shape)
                np.testing.assert_array_equal(seen, plain.numpy().view(seen.dtype))
    train(moved, 13)
    ld.write_view(moved)
    with h5py.File(moved / "view.h5") as view:
        assert len(view["step"]) == 14
    (moved / "shards" / "shard-000001.h5").unlink()
    with h5py.File(moved / "view.h5") as view:
        assert view["step"][:].tolist() == [0, 1, 2, -1, -1, -1, *range(6, 14)]
        assert np.isnan(view["state/float32"][3:6]).all()


def test_view_of_weights_at_some_steps(tmp_path):
    run = ld.Trajectory(record_sparse(tmp_path / "run", 10))
    with h5py.File(ld.write_view(tmp_path / "run")) as view:
        assert view["state_step"][:].tolist() == [0, 3, 6, 9]
        assert len(view["step"]) == 11
        for row, step in enumerate((0, 3, 6, 9)):
            np.testing.assert_array_equal(view["tensors/scale"][row], run.state_dict(step)["scale"].numpy())


def test_view_of_the_golden_run(tmp_path):
    golden = Path(__file__).parents[1] / "trajectory" / "golden" / "run"
    run = shutil.copytree(golden, tmp_path / "run")
    origin = ld.Trajectory(run)
    with h5py.File(ld.write_view(run)) as view:
        np.testing.assert_array_equal(view["state_step"], origin.weight_steps)
        np.testing.assert_array_equal(view["metrics/loss%2Food"], origin.metrics("loss/ood"))
        name = origin.manifest.state.entries[0].name
        for row, step in enumerate(origin.weight_steps.tolist()):
            np.testing.assert_array_equal(view[f"tensors/{name}"][row], origin.state_dict(step)[name].numpy())
    back = ld.import_run(ld.export_run(run, tmp_path / "x.h5"), tmp_path / "back")
    assert read_sparse(back) == read_sparse(origin)


def test_a_view_replaces_nothing_of_others(run):
    (run / "view.h5").write_text("mine")
    with pytest.raises(TrajectoryError, match="not a view that was made here"):
        ld.write_view(run)
    assert (run / "view.h5").read_text() == "mine"


def test_one_checkpoint_as_safetensors(run, tmp_path):
    out = tmp_path / "x.safetensors"
    assert main(["export", str(run), "--step", "4", "--out", str(out)]) == 0
    stored = ld.Trajectory(run).state_dict(4)
    loaded = load_file(out)
    assert loaded.keys() == stored.keys()
    for name, tensor in stored.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    model = Tied()
    model.load_state_dict(loaded)
    assert model.unembed.weight is model.embed.weight
    with safe_open(out, "pt") as file:
        assert file.metadata()["step"] == "4"
    with pytest.raises(TrajectoryError, match="not overwritten"):
        ld.export_checkpoint(run, 4, out)
    fine = torch.nn.Module()
    fine.register_buffer("odd", torch.zeros(2, dtype=torch.complex128))
    with ld.TrajectoryWriter(tmp_path / "complex", fine) as writer:
        writer.record(0)
    with pytest.raises(DataError, match="holds complex128; safetensors cannot store it"):
        ld.export_checkpoint(tmp_path / "complex", 0, tmp_path / "y.safetensors")
    with pytest.raises(StepNotStoredError, match="nearest stored"):
        ld.export_checkpoint(run, 400, tmp_path / "y.safetensors")
    with pytest.raises(TrajectoryError, match=r"ends in \.safetensors"):
        ld.export_checkpoint(run, 4, tmp_path / "y.pt")
    assert main(["export", str(run), "--out", str(tmp_path / "y.safetensors")]) == 1
    assert not list(tmp_path.glob("*y.*"))


def test_format_document_is_true_without_this_package(tmp_path):
    """The examples of the format document, run by an interpreter that cannot import llc_dynamics."""
    import subprocess
    import sys

    text = FORMAT.read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 3
    train_with_curve(tmp_path / "runs" / "demo" / "M-12")
    model = new_model()
    run = ld.Trajectory(tmp_path / "runs" / "demo" / "M-12")
    ld.write_view(run.path)
    ld.export_run(run, tmp_path / "M-12.h5")
    run.load_into(model, 3)
    for example in examples:
        assert "llc_dynamics" not in example.replace("b'llc_dynamics", "")
        assert len([line for line in example.splitlines() if line.strip()]) <= 10 or "checksum" in example
        program = "import sys; sys.modules['llc_dynamics'] = None\n" + example
        if "tensors = " in example:
            program += "\nimport json; print(json.dumps({name: x.tolist() for name, x in tensors.items()}))"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if "tensors = " in example:
            found = json.loads(done.stdout.splitlines()[-1])
            np.testing.assert_array_equal(np.float32(found["scale"]), model.scale.detach().numpy())
