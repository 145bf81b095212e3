"""Damaged and hostile files: refused by name, or read exactly right; never read wrongly."""

import random
import shutil

import h5py
import numpy as np
import pytest
from sealed_files import sign
from trajectory_runs import read_all, signed_manifest, train

import llc_dynamics as ld
from llc_dynamics.errors import CorruptRunError, LLCDynamicsError, TrajectoryError
from llc_dynamics.trajectory import verify_run

SHARD = "shards/shard-000001.h5"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "sound"
    train(path, 8)
    return path, read_all(ld.Trajectory(path))


@pytest.fixture
def run(sound, tmp_path):
    return shutil.copytree(sound[0], tmp_path / "run")


def outcome(path, expected):
    """Give "refused" or "exact"; anything else (a wrong value, another exception) fails the test."""
    try:
        found = read_all(ld.Trajectory(path))
    except LLCDynamicsError as error:
        return "refused" if str(path) in str(error) else f"refused without naming the file: {error}"
    assert found == expected
    return "exact"


@pytest.mark.parametrize(
    ("file", "count"),
    [(SHARD, 200), ("resume.h5", 60), ("arrays/evaluation.h5", 60), ("manifest.json", 60), ("complete.json", 30)],
)
def test_a_flipped_byte_is_refused_or_harmless(tmp_path, file, count):
    run = tmp_path / "run"
    train(run, 3, rows_per_shard=2)
    expected = read_all(ld.Trajectory(run))
    draw, path = random.Random(file), run / file
    content = path.read_bytes()
    outcomes = []
    for _ in range(count):
        place = draw.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= draw.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        path.write_bytes(changed)
        outcomes.append(outcome(run, expected))
        if outcomes[-1] == "refused" and len(outcomes) % 10 == 0:
            assert not verify_run(run).ok
    # Only padding of the user block and white space may go unnoticed.
    assert set(outcomes) <= {"refused", "exact"}
    assert outcomes.count("refused") > 0.6 * count


def test_every_byte_of_steps_weights_and_metrics_is_guarded(run):
    """The places that matter most, found through h5py, each byte of each."""
    path = run / SHARD
    content = path.read_bytes()
    with h5py.File(path) as file:
        ranges = [
            (file[name].id.get_offset(), 12)
            for name in ("step", "state/float32", "outputs", "metrics/loss", "checksum/outputs")
        ]
    for start, length in ranges:
        for place in range(start, start + length):
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(CorruptRunError, match="shard-000001"):
                read_all(ld.Trajectory(run))


@pytest.mark.parametrize("file", [SHARD, "resume.h5", "arrays/evaluation.h5", "manifest.json", "complete.json"])
def test_a_file_cut_short_is_refused(run, sound, file):
    path = run / file
    content = path.read_bytes()
    size = len(content)
    # The last byte of a JSON file is a line break.
    for length in {0, 1, 20, 100, 511, 512, 1024, size // 2, size - 2, size - 1 - file.endswith(".json")}:
        path.write_bytes(content[: min(length, size - 2)])
        assert outcome(run, sound[1]) == "refused"
        assert not verify_run(run).ok
    if file.endswith(".h5"):
        path.write_bytes(content + b"\0")
        assert outcome(run, sound[1]) == "refused"


def test_damage_in_one_row_names_its_step_and_spares_the_others(run):
    path = run / SHARD
    with h5py.File(path) as file:
        dataset = file["state/float32"]
        place = dataset.id.get_offset() + dataset.shape[1] * 4 + 2
    changed = bytearray(path.read_bytes())
    changed[place] ^= 8
    path.write_bytes(changed)
    trajectory = ld.Trajectory(run)
    with pytest.raises(CorruptRunError, match=r"shard-000001\.h5: step 4: .*state.*Restore"):
        trajectory.state_dict(4)
    for step in (3, 5, 0, 8):
        trajectory.state_dict(step)
    trajectory.outputs()[:]
    report = trajectory.verify()
    assert report.rows == 8
    assert len(report.problems) == 1
    assert "step 4" in report.problems[0].text


def test_a_missing_shard_is_named(run):
    (run / SHARD).unlink()
    trajectory = ld.Trajectory(run)
    for read in (lambda: trajectory.steps, lambda: trajectory.metrics("loss"), lambda: trajectory.outputs()):
        with pytest.raises(CorruptRunError, match=r"shard-000001.*missing"):
            read()
    trajectory.state_dict(7)
    assert any("shard-000001" in problem.text for problem in trajectory.verify().problems)
    assert ld.Trajectory(run, skip_damaged=True).steps.tolist() == [0, 1, 2, 6, 7, 8]
    with pytest.raises(CorruptRunError, match="shard-000001"):
        train(run, 8)


def test_missing_last_shards_of_a_finished_or_resumable_run_are_noticed(run):
    (run / "shards" / "shard-000002.h5").unlink()
    trajectory = ld.Trajectory(run)
    with pytest.raises(CorruptRunError, match="9 checkpoints and 6"):
        _ = trajectory.complete
    with pytest.raises(CorruptRunError, match="after 9 checkpoints, but only 6"):
        trajectory.resume_state()
    assert len(trajectory.verify().problems) == 2


def test_swapped_renamed_and_mixed_shards_are_refused(run, tmp_path):
    first, second = run / "shards" / "shard-000000.h5", run / SHARD
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    with pytest.raises(CorruptRunError, match="renamed"):
        _ = ld.Trajectory(run).steps
    first.write_bytes(content[0])
    train(tmp_path / "other", 8)
    shutil.copy(tmp_path / "other" / SHARD, second)
    with pytest.raises(CorruptRunError, match="another run"):
        _ = ld.Trajectory(run).steps


def test_verify_lists_foreign_and_left_over_files_and_spares_results(run):
    (run / "llc").mkdir()
    (run / "llc" / "curve.h5").write_bytes(b"x")
    assert ld.Trajectory(run).verify().ok
    (run / "notes.txt").write_text("x")
    (run / "shards" / "shard-1.h5").write_text("x")
    (run / "arrays" / "more.h5").write_text("x")
    (run / "shards" / ".shard-000003.h5.123-0123abcd.tmp").write_text("x")
    problems = ld.Trajectory(run).verify().problems
    assert len(problems) == 4
    for name in ("notes.txt", "shard-1.h5", "more.h5", "died"):
        assert sum(name in problem.text for problem in problems) == 1


def test_a_newer_schema_says_so(run):
    def text(path):
        return path.read_text()

    path = run / "manifest.json"
    path.write_text(text(path).replace('"schema_version": 3', '"schema_version": 4'))
    with pytest.raises(TrajectoryError, match=r"schema version 4.*install a newer"):
        ld.Trajectory(run)
    shutil.copy(run / SHARD, run / "copy")
    path = run / SHARD
    path.write_bytes(path.read_bytes().replace(b"sealed 3 ", b"sealed 7 ", 1))
    path = run / "manifest.json"
    path.write_text(text(path).replace('"schema_version": 4', '"schema_version": 3'))
    with pytest.raises(TrajectoryError, match=r"shard-000001.*schema version 7"):
        _ = ld.Trajectory(run).steps


def soft(file):
    del file["outputs"]
    file["outputs"] = h5py.SoftLink("/state/float32")


def external_link(file):
    del file["outputs"]
    file["outputs"] = h5py.ExternalLink("elsewhere.h5", "/secret")


def external_storage(file):
    del file["outputs"]
    file.create_dataset("outputs", shape=(3, 4, 5), dtype="<f4", external=[("secret.bin", 0, 240)])


def virtual(file):
    del file["outputs"]
    layout = h5py.VirtualLayout(shape=(3, 4, 5), dtype="<f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(3, 4, 5))
    file.create_virtual_dataset("outputs", layout)


def huge(file):
    del file["outputs"]
    file.create_dataset("outputs", shape=(3, 1 << 40), dtype="<f4", chunks=(1, 1 << 20))


def compressed_bomb(file):
    del file["outputs"]
    file.create_dataset("outputs", data=np.zeros((3, 1 << 20), "<f4"), compression="gzip")


def wrong_type(file):
    data = file["metrics/loss"][:]
    del file["metrics/loss"]
    file["metrics/loss"] = data.astype("<f4")


def strings(file):
    del file["metrics/loss"]
    file["metrics/loss"] = ["a", "b", "c"]


def wrong_shape(file):
    data = file["state/float32"][:, :-1]
    del file["state/float32"]
    file["state/float32"] = data


def missing(file):
    del file["checksum/outputs"]


def surplus(file):
    file["surplus"] = np.zeros(3)


def wrong_step(file):
    file["step"][1] = 77


def cycle(file):
    file["metrics/again"] = file["/"]


@pytest.mark.parametrize(
    "change",
    [
        soft,
        external_link,
        external_storage,
        virtual,
        huge,
        compressed_bomb,
        wrong_type,
        strings,
        wrong_shape,
        missing,
        surplus,
        wrong_step,
        cycle,
    ],
)
def test_structures_that_were_made_to_harm_are_not_interpreted(run, sound, change):
    """Behind a valid seal: what the index lists is read exactly, or refused because its bytes changed.

    (Metrics are small tables: behind a valid seal they are what its author says.)
    """
    path = run / SHARD
    (run.parent / "secret.bin").write_bytes(b"s" * 240)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    sign(path)
    try:
        found = read_all(ld.Trajectory(run))
    except CorruptRunError as error:
        assert "shard-000001" in str(error)  # noqa: PT017
    else:
        assert found | {"metrics": None} == sound[1] | {"metrics": None}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["arrays"].update({"../../climb": "0" * 64}),
        lambda m: m["arrays"].update({"/etc/passwd": "0" * 64}),
        lambda m: m["state"][0].update(shape=[1 << 50, 1 << 50]),
        lambda m: m["state"][0].update(shape=[-1, 5]),
        lambda m: m["state"][-1].update(offset=0),
        lambda m: m["state"][0].update(dtype="object"),
        lambda m: m["state"].append(m["state"][0]),
        lambda m: m.update(state=3),
        lambda m: m.update(config=[1]),
        lambda m: m.update(schema_version=-5),
        lambda m: m.update(schema_version=True),
        lambda m: m.update(schema_version=1e308),
        lambda m: m.update(schema_version="3"),
        lambda m: m.update(schema_version=None),
    ],
)
def test_a_hostile_manifest_is_refused(run, change):
    signed_manifest(run, change)
    with pytest.raises(CorruptRunError):
        read_all(ld.Trajectory(run))
