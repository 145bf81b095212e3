"""Damaged and hostile files: refused by name, or read exactly right; never read wrongly."""

import hashlib
import json
import random
import shutil

import h5py
import numpy as np
import pytest
from trajectory_runs import read_all, train

import llc_dynamics as ld
from llc_dynamics.errors import CorruptRunError, LLCDynamicsError, TrajectoryError
from llc_dynamics.trajectory import verify_run
from llc_dynamics.trajectory.checksum import row_checksum, row_checksums
from llc_dynamics.trajectory.sealed import digest_outside, encode_header

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
    assert "step 4" in report.problems[0]


def test_a_missing_shard_is_named(run):
    (run / SHARD).unlink()
    trajectory = ld.Trajectory(run)
    for read in (lambda: trajectory.steps, lambda: trajectory.metrics("loss"), lambda: trajectory.outputs()):
        with pytest.raises(CorruptRunError, match=r"shard-000001.*missing"):
            read()
    trajectory.state_dict(7)
    assert any("shard-000001" in problem for problem in trajectory.verify().problems)
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
        assert sum(name in problem for problem in problems) == 1


def test_a_newer_schema_says_so(run):
    def text(path):
        return path.read_text()

    path = run / "manifest.json"
    path.write_text(text(path).replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(TrajectoryError, match=r"schema version 3.*install a newer"):
        ld.Trajectory(run)
    shutil.copy(run / SHARD, run / "copy")
    path = run / SHARD
    path.write_bytes(path.read_bytes().replace(b"sealed 2 ", b"sealed 7 ", 1))
    path = run / "manifest.json"
    path.write_text(text(path).replace('"schema_version": 3', '"schema_version": 2'))
    with pytest.raises(TrajectoryError, match=r"shard-000001.*schema version 7"):
        _ = ld.Trajectory(run).steps


def sign(path):
    """Give a changed file a header that fits it, as someone would who means to deceive."""
    content = path.read_bytes()
    head, text = content.split(b"\n", 2)[:2]
    user_block, described = int(head.split()[3]), json.loads(text)
    described["size"] = len(content)
    bulk = []
    with h5py.File(path, "r") as file:

        def add(_, item):
            if isinstance(item, h5py.Dataset) and item.id.get_offset() and item.ndim > 1 and item.chunks is None:
                bulk.append((item.id.get_offset(), item.nbytes))

        file.visititems(add)
    described["bulk"] = sorted(bulk)
    with path.open("r+b") as stream:
        described["digest"] = digest_outside(stream, user_block, len(content), described["bulk"])
        stream.seek(0)
        stream.write(encode_header(described, user_block))


def change_header(content, change):
    """A sealed file whose header says something else, with a valid checksum."""
    head, text = content.split(b"\n", 2)[:2]
    user_block, described = int(head.split()[3]), json.loads(text)
    change(described)
    return encode_header(described, user_block) + content[user_block:]


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
def test_a_hostile_shard_with_a_valid_header_is_refused(run, change):
    path = run / SHARD
    (run.parent / "secret.bin").write_bytes(b"s" * 240)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        change(file)
    sign(path)
    with pytest.raises(CorruptRunError, match="shard-000001"):
        read_all(ld.Trajectory(run))


def test_the_unchanged_shard_signed_again_is_read(run, sound):
    """So that the refusals above are due to what was changed."""
    sign(run / SHARD)
    assert outcome(run, sound[1]) == "exact"


def signed_manifest(run, change):
    from llc_dynamics.trajectory.manifest import write_signed

    path = run / "manifest.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    write_signed(path, content)


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
    ],
)
def test_a_hostile_manifest_is_refused(run, change):
    signed_manifest(run, change)
    with pytest.raises(CorruptRunError):
        read_all(ld.Trajectory(run))


def test_row_checksum_against_a_slow_twin():
    import zlib

    generator = np.random.default_rng(0)
    for size in (0, 1, 7, 8, 9, 4099):
        row = generator.integers(0, 256, size).astype(np.uint8)
        raw = row.tobytes()
        total = sum(int.from_bytes(raw[i : i + 8], "little") for i in range(0, size, 8)) % 2**64
        crc = zlib.crc32((12).to_bytes(8, "little") + b"outputs" + raw)
        assert row_checksum(12, "outputs", row, version=1) == (crc << 32) + ((total >> 32) ^ (total % 2**32))


def slow_checksum(step, dataset, raw):
    """Version 2, word by word."""
    words = [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)]
    columns = [sum(words[j::1024]) % 2**64 for j in range(min(1024, len(words)))]
    rows = [sum(words[i : i + 1024]) % 2**64 for i in range(0, len(words), 1024)]
    text = step.to_bytes(8, "little") + len(raw).to_bytes(8, "little") + dataset.encode() + b"\0"
    text += b"".join(total.to_bytes(8, "little") for total in [*columns, *rows])
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def test_the_second_row_checksum_against_a_slow_twin():
    generator = np.random.default_rng(1)
    # 300,000 bytes are more than one piece of 32 matrix rows.
    for size in (0, 1, 7, 8, 9, 4099, 8191, 8192, 8193, 16384, 300_001):
        raw = generator.integers(0, 256, size).astype(np.uint8).tobytes()
        for offset in (0, 3):
            row = np.frombuffer(b"x" * offset + raw, np.uint8)[offset:]
            assert row_checksum(12, "outputs", row) == slow_checksum(12, "outputs", raw)


@pytest.mark.parametrize("version", [1, 2])
def test_checksums_of_many_rows_are_those_of_each(version):
    generator = np.random.default_rng(3)
    for shape in ((0, 5), (3, 0), (1, 1), (70, 3), (5, 1024), (40, 2, 1025), (7, 8192), (2, 40_000), (2, 70_001)):
        rows = generator.standard_normal(shape).astype(np.float64 if shape[-1] % 2 else np.float32)
        steps = list(range(4, 4 + shape[0]))
        each = [row_checksum(step, "outputs", row, version) for step, row in zip(steps, rows, strict=True)]
        assert row_checksums(steps, "outputs", rows, version) == each


def test_the_second_row_checksum_finds_what_disks_do():
    """Flips, zeroed and exchanged sectors, shifts, and errors that keep the sum of all words."""
    generator = np.random.default_rng(2)
    row = generator.integers(0, 256, 100_000).astype(np.uint8)
    seen = {row_checksum(3, "state/float32", row)}

    def changed(change):
        damaged = row.copy()
        change(damaged)
        found = row_checksum(3, "state/float32", damaged)
        assert found not in seen
        seen.add(found)

    def exchange(array, first, second, length):
        array[first : first + length], array[second : second + length] = (
            array[second : second + length].copy(),
            array[first : first + length].copy(),
        )

    for place in generator.integers(0, row.size, 50):
        changed(lambda damaged, place=place: damaged.__setitem__(place, damaged[place] ^ 64))
    for length in (1, 8, 512, 4096, 8192):
        changed(lambda damaged, length=length: damaged.__setitem__(slice(16384, 16384 + length), 0))
        changed(lambda damaged, length=length: exchange(damaged, 8192, 40960, length))
        changed(lambda damaged, length=length: exchange(damaged, 8192, 8192 + length, length))
        changed(lambda damaged, length=length: damaged.__setitem__(slice(None), np.roll(damaged, length)))

    def keep_the_sum(damaged):
        words = damaged[:80_000].view("<u8")
        words[5] += 1
        words[2000] -= 1

    changed(keep_the_sum)
    changed(lambda damaged: damaged[:80_000].view("<u8").__setitem__([7, 8], damaged[:80_000].view("<u8")[[8, 7]]))
    for step, name, shorter in ((4, "state/float32", row), (3, "outputs", row), (3, "state/float32", row[:-1])):
        assert row_checksum(step, name, shorter) not in seen
    ending = row.copy()
    ending[-1] = 0
    assert row_checksum(3, "outputs", ending) != row_checksum(3, "outputs", ending[:-1])
