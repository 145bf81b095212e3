"""The header is the whole index: HDF5's own view of every file equals it, and one that lies is refused."""

import shutil

import numpy as np
import pytest
import torch
from interchange_runs import train_with_curve
from sealed_files import by_hdf5, by_index, change_header, sign
from trajectory_runs import read_all, train

import llc_dynamics as ld
from llc_dynamics.errors import CorruptRunError, DataError, TrajectoryError
from llc_dynamics.trajectory import sealed, sealing
from llc_dynamics.trajectory.sealed import SealedFile, row_checksum
from llc_dynamics.trajectory.sealing import Rows, write_sealed

SHARD = "shards/shard-000001.h5"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "sound"
    train_with_curve(path, 8)
    return path


@pytest.fixture
def run(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "run")


def test_hdf5_sees_what_the_index_lists_in_files_of_every_kind(run, tmp_path):
    with ld.TrajectoryWriter(tmp_path / "sparse", torch.nn.Linear(2, 3), rows_per_shard=2) as writer:
        for step in range(4):
            if step < 2:
                metrics = {f"distance/ood/reference {number}": step for number in range(300)}
                writer.record(step, metrics, np.zeros((2, 0, 3)), {"loss/ood": np.ones(4)}, weights=False)
            else:
                writer.record(step, {"loss": 1.0, "loss/ood": 2.0})
    ld.export_run(run, tmp_path / "run.h5")
    ld.export_run(tmp_path / "sparse", tmp_path / "sparse.h5")
    files = sorted(tmp_path.rglob("*.h5"))
    assert len(files) >= 12
    for path in files:
        assert by_index(path) == by_hdf5(path)
    shard = by_index(tmp_path / "sparse" / "shards" / "shard-000000.h5")
    assert shard["outputs"][:3] == ("<f4", (2, 2, 0, 3), None)
    assert shard["state/float32"][:3] == ("<f4", (0, 9), None)


def test_formats_shapes_and_many_names(tmp_path):
    draw = np.random.default_rng(0)
    tables, rows = {}, {}
    for dtype in sorted(sealed.DTYPES):
        for shape in [(), (1,), (7,), (0,), (3, 0, 2), (2, 3), (1, 1, 1, 5), (2,) * 8, (1,) * 31]:
            values = draw.integers(0, 100, shape).astype(dtype)
            name = f"{dtype[1:]}/{'x'.join(map(str, shape)) or 'scalar'}"
            tables[f"tables/{name}"] = values
            if shape:
                rows[f"rows/{name}"] = Rows.of(values, list(range(shape[0])))
    tables |= {f"many/{number} {'x' * (number % 40)}": np.arange(number % 5) for number in range(2500)}
    write_sealed(tmp_path / "x.h5", "test", "id", {"more": [1, "ä"]}, tables, rows)
    assert by_index(tmp_path / "x.h5") == by_hdf5(tmp_path / "x.h5")
    file = SealedFile(tmp_path / "x.h5", "test", "id")
    assert file.details == {"more": [1, "ä"]}
    found = file.tables()
    for name, values in tables.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    for name, each in rows.items():
        values = each.read(0, len(each.steps))
        np.testing.assert_array_equal(file.rows(name, 0, len(values)), values)
        assert found[f"checksum/{name}"].tolist() == [row_checksum(step, name, row) for step, row in enumerate(values)]


def test_the_row_checksum_is_xxh3_of_step_name_and_bytes():
    import xxhash

    row = np.arange(5, dtype="<f4")
    given = (7).to_bytes(8, "little") + b"state/float32\0" + row.tobytes()
    assert row_checksum(7, "state/float32", row) == xxhash.xxh3_64_intdigest(given)
    seen = {row_checksum(7, "state/float32", row)}
    for step, name, values in ((8, "state/float32", row), (7, "outputs", row), (7, "state/float32", row[:-1])):
        seen.add(row_checksum(step, name, values))
    for place in range(20):
        changed = row.copy()
        changed.view(np.uint8)[place] ^= 1
        seen.add(row_checksum(7, "state/float32", changed))
    assert len(seen) == 24


# --- indices that lie -------------------------------------------------------------------------------------------------


def entry(name, place, value):
    def change(described):
        described["datasets"][name][place] = value

    change.__name__ = f"{name} {['dtype', 'shape', 'offset', 'bytes'][place]} {str(value)[:30]}"
    return change


def update(name, given):
    def change(described):
        described["datasets"][name] = given

    change.__name__ = f"{name} {str(given)[:60]}"
    return change


def shifted(name, by):
    def change(described):
        described["datasets"][name][2] += by

    change.__name__ = f"{name} by {by}"
    return change


def overlapping(described):
    described["datasets"]["outputs"][2] = described["datasets"]["state/float32"][2] + 8


def without_checksums(described):
    del described["datasets"]["checksum/outputs"]


def renamed(described):
    described["datasets"]["surplus"] = described["datasets"].pop("metrics/loss")


def no_index(described):
    described["datasets"] = []


def no_datasets(described):
    described["datasets"] = {}


HUGE = 1 << 62
LIES = [
    *(entry("outputs", 0, value) for value in (">f4", "<c16", "|V8", "|O", "|S4", "<f4,<f4", "f4", None, ["<f4"], 4)),
    *(
        entry("outputs", 1, value)
        for value in ([3, HUGE], [3, 4, 5, 1], [-3, -4, 5], [3, 4.0, 5], None, 60, [True] * 3)
    ),
    *(entry("outputs", 1, value) for value in ([3, 4, 5] + [1] * 31, [10**40, 0], [3, 0, HUGE, HUGE])),
    *(entry("outputs", 2, value) for value in (0, -8, 10**9, 10**30, None, 1.5, "600", True)),
    *(entry("outputs", 3, value) for value in (0, 239, 10**15, -240, None, 240.0, True)),
    *(update("outputs", value) for value in (None, [], ["<f4", [3, 4, 5], 600], {"dtype": "<f4"}, "x")),
    *(update("outputs", ["<f4", shape, None, 0]) for shape in ([3, 0, HUGE], [3, 0, HUGE, HUGE], [0, 4, 5])),
    *(shifted(name, 8) for name in ("outputs", "step", "checksum/state/float32")),
    *(entry("step", 1, value) for value in ([2], [1, 3])),
    *(update(name, ["<f8", [0], None, 0]) for name in ("metrics/a%2fb", "metrics/\x1b[2J", "metrics/a/b", "metrics/")),
    *(update(name, ["<f8", [3], None, 24]) for name in ("metrics/x", "../x")),
    *(overlapping, without_checksums, renamed, no_index, no_datasets),
]


@pytest.mark.parametrize("change", LIES, ids=lambda change: change.__name__)
def test_an_index_that_lies_is_refused_by_name(run, change):
    path = run / SHARD
    path.write_bytes(change_header(path.read_bytes(), change))
    with pytest.raises(CorruptRunError, match="shard-000001"):
        read_all(ld.Trajectory(run))
    assert not ld.Trajectory(run).verify().ok


def test_the_unchanged_file_sealed_again_is_read(run, sound):
    """So that the refusals above are due to what was changed."""
    sign(run / SHARD)
    (run / SHARD).write_bytes(change_header((run / SHARD).read_bytes(), lambda _: None))
    assert read_all(ld.Trajectory(run)) == read_all(ld.Trajectory(sound))


@pytest.mark.parametrize("version", [-5, True, 1e308, "3", None, 0, 3.0, [3]])
def test_a_version_that_is_none(run, version):
    path = run / SHARD
    sound = path.read_bytes()
    path.write_bytes(change_header(sound, lambda described: described.update(schema_version=version)))
    with pytest.raises(CorruptRunError, match="shard-000001"):
        ld.Trajectory(run).require_whole()


@pytest.mark.parametrize("head", [b"-5", b"1e308", b"True", b"3.0", b"", b"9" * 4000, b"0x3"])
def test_a_version_in_the_first_line_that_is_none(run, head):
    path = run / SHARD
    path.write_bytes(path.read_bytes().replace(b"sealed 3 ", b"sealed " + head + b" ", 1))
    with pytest.raises(CorruptRunError, match="shard-000001"):
        ld.Trajectory(run).require_whole()


@pytest.mark.parametrize(("version", "advice"), [(1, "record the run again"), (9, "install a newer llc-dynamics")])
def test_other_versions_say_so(run, version, advice):
    path = run / SHARD
    path.write_bytes(path.read_bytes().replace(b"sealed 3 ", f"sealed {version} ".encode(), 1))
    with pytest.raises(TrajectoryError, match=rf"shard-000001.*schema version {version}, .*reads version 3; {advice}"):
        ld.Trajectory(run)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_would_not_be_read_back_is_not_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("no index")

    with monkeypatch.context() as patched:
        patched.setattr(sealing, "checked_index", refuse)
        with pytest.raises(TrajectoryError, match="would not be read back"):
            write_sealed(tmp_path / "x.h5", "test", "id", {}, {"step": np.arange(3)})
    for tables, words in (
        ({f"{number:04} {'x' * 4000}": np.zeros(1) for number in range(4500)}, "4,500 datasets would take 17 MiB"),
        ({"x": np.zeros(3, complex)}, "'x' holds complex128"),
        ({"x": np.array(["a"])}, "'x' holds <U1"),
    ):
        with pytest.raises(DataError, match=words):
            write_sealed(tmp_path / "x.h5", "test", "id", {}, tables)
    assert list(tmp_path.iterdir()) == []


def test_names_that_could_never_be_sealed_are_refused_when_they_are_recorded(tmp_path):
    """At most 5,000 names in a shard: whatever `record` takes can be sealed."""
    long = {f"{number:04}{'é' * 196}": 1.0 for number in range(5000)}
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1)) as writer:
        writer.record(0, long)
        with pytest.raises(DataError, match="step 1: 5,001 names of metrics and samples, and at most 5,000 are stored"):
            writer.record(1, long | {"one more": 1.0})
        assert writer.pending == 1
        # In a shard of its own.
        writer.record(1, {"one more": 1.0})
        assert len(ld.Trajectory(tmp_path / "run")) == writer.pending == 1
    run = ld.Trajectory(tmp_path / "run")
    assert run.steps.tolist() == [0, 1]
    assert len(run.metric_names) == 5001
    assert run.verify().ok
    assert by_index(run.path / "shards" / "shard-000000.h5") == by_hdf5(run.path / "shards" / "shard-000000.h5")


def test_arrays_with_too_many_axes_are_refused_when_they_are_given(tmp_path):
    many = np.zeros((1,) * 32)
    with pytest.raises(DataError, match="fewer than 32 axes"):
        ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), arrays={"set": {"x": many}})
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(1, 1), arrays={"set": {"x": many[0]}}) as writer:
        with pytest.raises(DataError, match="fewer than 32 axes"):
            writer.record(0, outputs=many)
        writer.record(0, outputs=many[0])
    assert ld.Trajectory(tmp_path / "run").outputs().shape == (1,) * 32


# --- a run that changes under a reader --------------------------------------------------------------------------------


def test_another_run_in_the_place_of_an_open_one_is_named_as_that(tmp_path):
    def readers(run):
        return (
            lambda: run.state_dict(4),
            lambda: run.metrics("loss"),
            lambda: run.outputs()[:],
            lambda: run.arrays("evaluation"),
            run.resume_state,
            lambda: run.complete,
        )

    for warm in (False, True):
        for other_steps in (8, 3):
            path = tmp_path / f"{warm}-{other_steps}"
            train(path / "run", 8)
            train(path / "other", other_steps)
            run = ld.Trajectory(path / "run")
            if warm:
                for read in readers(run):
                    read()
            shutil.rmtree(path / "run")
            (path / "other").rename(path / "run")
            for read in readers(run):
                try:
                    read()
                except CorruptRunError as error:
                    assert "another run" in str(error)  # noqa: PT017
                    assert "was put in the place of the one that was opened" in str(error)  # noqa: PT017
                else:
                    assert warm, "only what was read before may still be there"
            assert ld.Trajectory(path / "run").verify().ok


def test_a_shard_that_was_rewound_under_an_open_reader_is_named_as_that(tmp_path):
    from llc_dynamics.runs import rewind_run

    train(tmp_path / "run", 8, rows_per_shard=4)
    run = ld.Trajectory(tmp_path / "run")
    run.metrics("loss")
    rewind_run(tmp_path / "run", 5)
    with pytest.raises(CorruptRunError, match=r"shard-000001\.h5: the file was replaced while the run was open"):
        run.state_dict(7)
