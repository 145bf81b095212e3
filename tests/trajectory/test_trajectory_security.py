"""Folders made to harm: refused with a message, without running code, and without taking memory, disk or time."""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from problems import squared_outputs
from sealed_files import change_header, sign
from trajectory_runs import new_model, read_all, signed_manifest, train

import llc_dynamics as ld
from llc_dynamics.errors import CorruptRunError, DataError, LLCDynamicsError, TrajectoryError
from llc_dynamics.trajectory import manifest as manifest_module
from llc_dynamics.trajectory.manifest import LARGEST_JSON

SHARD = "shards/shard-000001.h5"
MEBIBYTE = 1 << 20

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="reads in forked processes")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "sound"
    train(path, 8)
    return path


@pytest.fixture
def run(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "run")


def read_and_verify(path):
    """Everything that can be asked of a run; the first error is raised at the end."""
    error = None
    for work in (
        lambda: read_all(ld.Trajectory(path)),
        lambda: ld.Trajectory(path).verify(),
        lambda: ld.Trajectory(path, skip_damaged=True).steps,
    ):
        try:
            work()
        except LLCDynamicsError as found:
            error = error or found
    if error is not None:
        raise error


def in_bounds(path, memory=64 * MEBIBYTE, seconds=60):
    """Read `path` in a child: how it ended, in words. Memory, time and what lies in the folder must stay in bounds."""
    before = {str(entry): entry.lstat().st_size for entry in path.parent.rglob("*")}
    with tempfile.TemporaryFile("w+") as results:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(seconds)
                high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                # ru_maxrss of a forked process begins with the parent's peak; new memory shows in the address space.
                own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (own + 8 * memory, resource.RLIM_INFINITY))
                try:
                    read_and_verify(path)
                    results.write("read")
                except LLCDynamicsError as error:
                    results.write(f"refused: {error}")
                except BaseException:
                    results.write(traceback.format_exc())
                grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - high) << 10
                if grown > memory:
                    results.write(f" and took {grown // MEBIBYTE} MiB")
                results.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the reader was ended by signal {os.WTERMSIG(status)}"
        results.seek(0)
        found = results.read()
    assert {str(entry): entry.lstat().st_size for entry in path.parent.rglob("*")} == before
    return found


# --- no code ----------------------------------------------------------------------------------------------------------

_FORBIDDEN = (
    *("compile", "exec", "import", "pickle.find_class", "marshal.loads", "os.system", "os.exec", "os.posix_spawn"),
    *("subprocess.Popen", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "socket."),
    *("shutil.", "os.putenv", "webbrowser.open", "tempfile."),
)
_watched: list[tuple[str, tuple]] | None = None


def _hook(event, arguments):
    if _watched is not None and (event == "open" or event.startswith(_FORBIDDEN)):
        _watched.append((event, arguments))


def test_reading_runs_no_code_and_opens_no_other_file(run, monkeypatch):
    """By Python's audit events: nothing is compiled, imported, unpickled, started, written or removed."""
    global _watched
    for name in ("conftest.py", "sitecustomize.py", "__init__.py", "weights.pkl", "arrays/x.pt", "shards/run.sh"):
        (run / name).write_text("raise SystemExit('code was run')")
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "path", ["", str(run), *sys.path])
    read_and_verify(run)  # imports what it needs
    sys.addaudithook(_hook)
    try:
        _watched = []
        read_all(ld.Trajectory(run))
        ld.Trajectory(run).verify()
        seen = _watched
    finally:
        _watched = None
    opened = [arguments for event, arguments in seen if event == "open"]
    # Evaluating the annotations of own dataclasses is the one thing that compiles: text of this package's source.
    source = "".join(path.read_text() for path in Path(ld.__file__).parent.rglob("*.py"))
    compiled = [arguments[0] for event, arguments in seen if event == "compile"]
    assert all((text.decode() if isinstance(text, bytes) else text).replace("'", '"') in source for text in compiled)
    assert sum(event == "exec" for event, _ in seen) == len(compiled)
    assert [entry for entry in seen if entry[0] not in ("open", "compile", "exec")] == []
    assert opened
    for path, mode, flags in opened:
        if isinstance(path, int):
            continue  # a stream around a descriptor that was opened before
        assert str(path).startswith(str(run)), path
        assert not (mode and set(mode) & set("wax+"))
        # Only the question whether a writer holds the lock needs a descriptor that could write.
        assert not flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        assert not flags & os.O_RDWR or str(path).endswith("run.lock")


# --- claims that are too large ----------------------------------------------------------------------------------------


def huge_state(run):
    signed_manifest(run, lambda m: [entry.update(shape=[1 << 33], offset=0) for entry in m["state"][-1:]])


def huge_first_tensor(run):
    def change(manifest):
        manifest["state"] = manifest["state"][:1]
        manifest["state"][0].update(shape=[1 << 40], offset=0)

    signed_manifest(run, change)


def empty_and_huge(run):
    def change(manifest):
        manifest["state"] = manifest["state"][:1]
        manifest["state"][0].update(shape=[0, 1 << 62, 1 << 62], offset=0)

    signed_manifest(run, change)


def numbers_of_a_thousand_digits(run):
    (run / "manifest.json").write_text('{"format": "llc_dynamics trajectory", "x": ' + "9" * 10_000 + "}")


def deep_nesting(run):
    (run / "manifest.json").write_text("[" * 3_000_000)


def deep_nesting_of_objects(run):
    (run / "manifest.json").write_text('{"a":' * 1_000_000 + "1" + "}" * 1_000_000)


def deep_configuration(run):
    deep = 0
    for _ in range(900):
        deep = [deep]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(manifest_module, "_DEEPEST", 2000)
        signed_manifest(run, lambda manifest: manifest["config"].update(deep=deep))


def huge_manifest(run):
    with (run / "manifest.json").open("w") as stream:
        stream.truncate(50 << 30)


def endless_manifest(run):
    (run / "manifest.json").unlink()
    (run / "manifest.json").symlink_to("/dev/zero")


def endless_shard(run):
    (run / SHARD).unlink()
    (run / SHARD).symlink_to("/dev/zero")


def pipes(run):
    for name in (SHARD, "resume.h5", "complete.json", "arrays/evaluation.h5", "run.lock"):
        (run / name).unlink()
        os.mkfifo(run / name)


def pipe_for_a_manifest(run):
    (run / "manifest.json").unlink()
    os.mkfifo(run / "manifest.json")


def a_number_out_of_a_gap(run):
    """999,999,996 shards are missing before this one."""
    shutil.copy(run / SHARD, run / "shards" / "shard-999999999.h5")


def folder_for_a_shard(run):
    (run / SHARD).unlink()
    (run / SHARD).mkdir()


def huge_shard(run):
    """50 GB on paper; the header says so, too."""
    with (run / SHARD).open("r+b") as stream:
        stream.truncate(50 << 30)


def huge_user_block(run):
    content = bytearray((run / SHARD).read_bytes())
    head, _, rest = bytes(content).partition(b"\n")
    fields = head.split(b" ")
    fields[3] = b"999999999"
    (run / SHARD).write_bytes(b" ".join(fields) + b"\n" + rest)
    with (run / SHARD).open("r+b") as stream:
        stream.truncate(4 << 30)


def in_shard(change):
    def damage(run):
        with h5py.File(run / SHARD, "r+", libver=("v110", "v110")) as file:
            change(file)
        sign(run / SHARD)

    damage.__name__ = change.__name__
    STRUCTURES.append(damage)
    return damage


STRUCTURES: list = []


@in_shard
def huge_contiguous(file):
    del file["outputs"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    file.create_dataset("outputs", shape=(3, 1 << 40), dtype="<f4", dcpl=plist)


@in_shard
def huge_steps(file):
    del file["step"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    file.create_dataset("step", shape=(1 << 40,), dtype="<i8", dcpl=plist)


@in_shard
def nothing_times_huge(file):
    del file["outputs"]
    file.create_dataset("outputs", shape=(3, 0, 1 << 62), dtype="<f4")


@in_shard
def thirty_two_axes(file):
    del file["outputs"]
    file.create_dataset("outputs", shape=(3, *[1] * 31), dtype="<f4", data=np.zeros((3, *[1] * 31), "<f4"))


@in_shard
def compressed(file):
    del file["metrics/loss"]
    file.create_dataset("metrics/loss", data=np.zeros(3), chunks=(3,), compression="gzip")


@in_shard
def bomb(file):
    del file["outputs"]
    file.create_dataset("outputs", shape=(3, 1 << 28), dtype="<f4", chunks=(1, 1 << 28), compression="gzip")


@in_shard
def unknown_filter(file):
    del file["outputs"]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((3, 20))
    plist.set_filter(31_999, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((3, 20))
    h5py.h5d.create(file.id, b"outputs", h5py.h5t.IEEE_F32LE, space, dcpl=plist)


@in_shard
def external_link(file):
    del file["metrics/loss"]
    file["metrics/loss"] = h5py.ExternalLink("/etc/passwd", "/x")


@in_shard
def external_group(file):
    del file["metrics"]
    file["metrics"] = h5py.ExternalLink("shard-000000.h5", "/metrics")


@in_shard
def soft_link_upwards(file):
    file["metrics/up"] = h5py.SoftLink("/")


@in_shard
def dangling_soft_link(file):
    file["metrics/nothing-there"] = h5py.SoftLink("/nowhere")


@in_shard
def cycle_of_groups(file):
    file["metrics/a"] = file["metrics"]


@in_shard
def external_storage_of_a_system_file(file):
    del file["metrics/loss"]
    file.create_dataset("metrics/loss", shape=(3,), dtype="<f8", external=[("/etc/passwd", 0, 24)])


@in_shard
def virtual_dataset_outside(file):
    del file["metrics/loss"]
    layout = h5py.VirtualLayout(shape=(3,), dtype="<f8")
    layout[:] = h5py.VirtualSource("../shards/shard-000000.h5", "metrics/loss", shape=(3,))
    file.create_virtual_dataset("metrics/loss", layout)


def typed(name, dtype, data=None):
    def change(file):
        del file["metrics/loss"]
        file.create_dataset("metrics/loss", shape=(3,), dtype=dtype, data=data)

    change.__name__ = name
    return in_shard(change)


KINDS = [
    typed("strings_of_any_length", h5py.string_dtype()),
    typed("fixed_strings", "S8"),
    typed("ragged_arrays", h5py.vlen_dtype(np.float64)),
    typed("compound", np.dtype([("a", "<f8"), ("b", "<i4")])),
    typed("references", h5py.ref_dtype),
    typed("region_references", h5py.regionref_dtype),
    typed("opaque", np.dtype("V8")),
    typed("enumeration", h5py.enum_dtype({"a": 1, "b": 2}, basetype="<i8")),
    typed("booleans", bool),
    typed("array_type", np.dtype(("<f8", (4,)))),
    typed("other_byte_order", ">f8"),
    typed("other_width", "<f2"),
    typed("complex", "<c16"),
]


@in_shard
def attributes_that_point_elsewhere(file):
    """Attributes are not read at all: this one is harmless."""
    file.attrs["x"] = "a" * 60_000
    file["metrics/loss"].attrs["DIMENSION_LIST"] = np.array([file["step"].ref], dtype=h5py.ref_dtype)


@in_shard
def names_that_climb(file):
    file["metrics/%2E%2E%2F%2E%2E%2Fetc%2Fpasswd"] = np.zeros(3)


@needs_fork
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux counts it")
@pytest.mark.parametrize(
    "damage",
    [
        *(huge_state, huge_first_tensor, empty_and_huge, numbers_of_a_thousand_digits, deep_nesting),
        *(
            deep_nesting_of_objects,
            deep_configuration,
            huge_manifest,
            endless_manifest,
            endless_shard,
            pipes,
            pipe_for_a_manifest,
        ),
        *(a_number_out_of_a_gap, folder_for_a_shard, huge_shard, huge_user_block),
    ],
    ids=lambda damage: damage.__name__,
)
def test_refused_with_a_message_and_without_cost(run, damage):
    damage(run)
    found = in_bounds(run)
    assert found.startswith("refused: "), found
    assert str(run) in found
    assert "MiB" not in found.removeprefix("refused: ").replace("16 MiB, which", "")


@needs_fork
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux counts it")
@pytest.mark.parametrize("damage", STRUCTURES, ids=lambda damage: damage.__name__)
def test_structures_of_hdf5_are_not_interpreted(run, damage):
    """Links, filters and claims that HDF5 would follow: the index is read, exactly or not at all, and without cost."""
    expected = read_all(ld.Trajectory(run))
    damage(run)
    found = in_bounds(run)
    assert found == "read" or found.startswith(f"refused: {run}"), found
    if found == "read":
        # Small tables are what the author of a seal says.
        assert read_all(ld.Trajectory(run)) | {"metrics": None} == expected | {"metrics": None}


def test_a_manifest_as_large_as_may_be_is_read_and_a_larger_one_never_written(tmp_path):
    table = ["x" * 1000] * (LARGEST_JSON // 1100)
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), {"table": table}):
        pass
    assert ld.Trajectory(tmp_path / "run").config == {"table": table}
    deep: list = []
    for _ in range(120):
        deep = [deep]
    with pytest.raises(LLCDynamicsError, match="nested more than"):
        ld.TrajectoryWriter(tmp_path / "other", torch.nn.Linear(1, 1), {"deep": deep})
    with pytest.raises(LLCDynamicsError, match="keep large tables out"):
        ld.TrajectoryWriter(tmp_path / "other", torch.nn.Linear(1, 1), {"table": table * 2})


# --- links in the folder ----------------------------------------------------------------------------------------------


def test_files_may_be_links_if_what_they_lead_to_belongs_to_the_run(run, sound, tmp_path):
    """As in the caches of download tools, where every file is a link to a blob."""
    expected = read_all(ld.Trajectory(sound))
    linked = tmp_path / "linked"
    for entry in sorted(run.rglob("*")):
        place = linked / entry.relative_to(run)
        if entry.is_dir():
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(entry)
    assert read_all(ld.Trajectory(linked)) == expected
    assert ld.Trajectory(linked).verify().ok
    (linked / SHARD).unlink()
    (linked / SHARD).symlink_to(run / "shards" / "shard-000000.h5")
    with pytest.raises(CorruptRunError, match="renamed"):
        read_all(ld.Trajectory(linked))
    (linked / SHARD).unlink()
    (linked / SHARD).symlink_to("/etc/passwd")
    with pytest.raises(CorruptRunError, match=r"shard-000001\.h5: no valid header") as refused:
        read_all(ld.Trajectory(linked))
    assert "root" not in str(refused.value).replace(str(linked), "")


@pytest.mark.parametrize("begun", [True, False], ids=["run", "folder that looks like one that was begun"])
@pytest.mark.parametrize("name", ["shards", "arrays", "run.lock"])
def test_a_writer_changes_nothing_behind_a_link(run, tmp_path, name, begun):
    victim = tmp_path / "victim"
    if name == "run.lock":
        victim.write_text("my thesis")
    else:
        victim.mkdir()
        (victim / "data.h5").write_text("my data")
        (victim / ".shard-000009.h5.1-0123abcd.tmp").write_text("mine, too")
    target = run if begun else tmp_path / "other"
    if not begun:
        target.mkdir()
        (target / "run.lock").touch()
    entry = target / name
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
    entry.symlink_to(victim)
    with pytest.raises(TrajectoryError, match=rf"{name}: .*link|holds no run; nothing in it was changed"):
        ld.TrajectoryWriter(target, new_model(), resume=True)
    if victim.is_file():
        assert victim.read_text() == "my thesis"
    else:
        assert {path.name: path.read_text() for path in victim.iterdir()} == {
            "data.h5": "my data",
            ".shard-000009.h5.1-0123abcd.tmp": "mine, too",
        }


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../up", "a/b", "/etc/passwd", "..", "", "a\0b", "x" * 200, "%2e%2e/x"])
def test_names_that_climb_out_of_the_folder(run, name):
    """In the manifest, from the caller, and as names of curves."""
    signed_manifest(run, lambda manifest: manifest["arrays"].update({name: "0" * 64}))
    with pytest.raises(CorruptRunError, match=r"manifest\.json: not a valid manifest"):
        ld.Trajectory(run)
    with pytest.raises(LLCDynamicsError):
        ld.TrajectoryWriter(run.parent / "new", new_model(), arrays={name: {"x": np.zeros(1)}})
    with pytest.raises(LLCDynamicsError):
        ld.LLCCurve.load(run, name)
    assert not (run.parent / "new").exists()


def test_metrics_may_be_called_nearly_anything(tmp_path):
    """A metric's name never becomes a path: it comes back as it was given."""
    names = ["../../etc/passwd", "/absolute", "a/b/c", "..", ".", "%2E", "C:\\x", "é", "loss/ood", "loss", "loss%2Food"]
    with ld.TrajectoryWriter(tmp_path / "run", new_model()) as writer:
        writer.record(0, {name: float(number) for number, name in enumerate(names)})
    run = ld.Trajectory(tmp_path / "run")
    assert run.metric_names == sorted(names)
    assert [run.metrics(name)[0] for name in names] == list(range(len(names)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\x9b1m", "é\u202e", "\ud800", "a\0", "tab\t", "\u2028", ""])
def test_names_that_a_terminal_would_obey_are_refused(tmp_path, name):
    with ld.TrajectoryWriter(tmp_path / "run", new_model()) as writer:
        for arguments in (({name: 1.0},), (None, None, {name: np.zeros(2)})):
            with pytest.raises(DataError, match="printable characters") as refused:
                writer.record(0, *arguments)
            assert str(refused.value).isprintable()
        writer.record(0, {"loss": 1.0})
    with pytest.raises(DataError, match="printable characters"):
        ld.TrajectoryWriter(tmp_path / "other", new_model(), arrays={"set": {name: np.zeros(1)}})


def test_stored_names_that_a_terminal_would_obey_are_refused(run):
    """Whoever makes a file can write anything into its index."""
    path = run / SHARD
    content = path.read_bytes()
    for name in ("metrics/%1B%5B2J", "samples/%0A", "metrics/\x1b[2J"):

        def change(described, name=name):
            described["datasets"][name] = described["datasets"].pop("metrics/loss")

        path.write_bytes(change_header(content, change))
        with pytest.raises(CorruptRunError, match="shard-000001"):
            read_all(ld.Trajectory(run))


def test_a_hostile_resume_tree_is_refused(run):
    """The tree is JSON of its own: types, names and ranges that lead nowhere."""

    from llc_dynamics.trajectory.extras import read_resume
    from llc_dynamics.trajectory.manifest import Manifest
    from llc_dynamics.trajectory.sealing import write_sealed

    run_id = Manifest.read(run).run_id
    deep = '{"list":[' * 50_000 + "]}" * 50_000
    for tree in (
        deep,
        '{"tensor": ["float32", 0, 1099511627776], "shape": [1099511627776]}',
        '{"tensor": ["float32", -5, 4], "shape": [2, -2]}',
        '{"tensor": ["object", 0, 1], "shape": []}',
        '{"tensor": ["__class__", 0, 1], "shape": []}',
        '{"array": ["float32", 0, 1], "shape": "x"}',
        '{"array": ["float32", 0, 0], "shape": [0, 4611686018427387904, 9]}',
        '{"mapping": 3}',
        '{"mapping": [[[], {"value": 1}]]}',
        '{"float": "__import__"}',
        "{}",
        "[]",
        "NaN",
    ):
        tables = {"tree": np.frombuffer(tree.encode(), np.uint8), "data/float32": np.zeros(4, np.float32)}
        write_sealed(run / "resume.h5", "resume", run_id, {"rows": 0}, tables)
        for tensors in (True, False):
            with pytest.raises(CorruptRunError, match=r"resume\.h5"):
                read_resume(run, run_id, tensors)
    assert json.loads((run / "complete.json").read_text())


def test_a_hostile_llc_point_is_refused_by_name(tmp_path):
    """The estimate of a stored point is JSON: other types, missing fields, an identity that is none."""
    model = torch.nn.Linear(2, 1)
    with ld.TrajectoryWriter(tmp_path / "run", model) as writer:
        writer.record(0)
    ld.llc_curve(
        tmp_path / "run",
        model,
        squared_outputs,
        (torch.ones(8, 2),),
        sampler=ld.SGLD(step_size=1e-3, localization=1.0),
        num_chains=2,
        num_draws=8,
        num_burnin=2,
        batch_size=4,
        progress=False,
    )
    point = tmp_path / "run" / "llc" / "llc" / "step-0.h5"
    sound = point.read_bytes()
    ld.LLCCurve.load(tmp_path / "run")
    for change in (
        lambda header: header["result"].update(llc="4.2"),
        lambda header: header["result"].update(standard_error=-1.0),
        lambda header: header["result"].update(virial_by_block={"weight": None}),
        lambda header: header["result"].update(settings=[1]),
        lambda header: header["result"].update(reasons=[["x"]]),
        lambda header: header["result"].update(__class__="x"),
        lambda header: header["result"].pop("ess"),
        lambda header: header.update(result=3),
        lambda header: header.update(failed_chains={"a": 1}),
        lambda header: header.update(thresholds="x"),
        lambda header: header["identity"].update(curve="text"),
        lambda header: header.update(identity=None),
    ):
        point.write_bytes(change_header(sound, change))
        with pytest.raises(CorruptRunError, match=r"step-0\.h5"):
            ld.LLCCurve.load(tmp_path / "run")
