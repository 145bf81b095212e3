"""The reader of HDF5 structures against the HDF5 library, and on structures that the library crashes on."""

import importlib.util
import math
import random
import struct
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from llc_dynamics.errors import TrajectoryError
from llc_dynamics.trajectory import sealed
from llc_dynamics.trajectory.placed import StructureError
from llc_dynamics.trajectory.structure import stored_datasets

GOLDEN = Path(__file__).parent / "golden"
USER_BLOCK = 512


def make(path, fill):
    with h5py.File(path, "w", libver=("v110", "v110"), userblock_size=USER_BLOCK) as file:
        fill(file)
    return path


def by_library(path):
    """{path: (format, shape, bytes)} as h5py gives it."""
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item.dtype, item.shape, item[()].tobytes() if item.chunks is None else None

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def by_us(path, user_block=USER_BLOCK):
    with path.open("rb") as stream:
        return {
            name: (each.dtype, each.shape, each[()].tobytes() if each.chunks is None else None)
            for name, each in stored_datasets(stream, user_block, path.stat().st_size).items()
        }


def test_golden_files():
    files = sorted(GOLDEN.rglob("*.h5"))
    assert files
    for path in files:
        user_block = int(path.open("rb").readline().split()[3])
        assert by_us(path, user_block) == by_library(path)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 45, 46, 300, 2500])
def test_groups_of_any_size(tmp_path, count):
    """Up to 8 links in the header, then in a heap; above 45 records the B-tree has two levels."""

    def fill(file):
        file.create_group("metrics")
        for number in range(count):
            file[f"metrics/name {number}" + "x" * (number % 40)] = np.arange(number % 5, dtype="<f8")

    path = make(tmp_path / "file.h5", fill)
    assert by_us(path) == by_library(path)
    assert len(by_us(path)) == count


def test_all_formats_and_shapes(tmp_path):
    draw = np.random.default_rng(0)
    formats = ["|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"]
    shapes = [(), (1,), (7,), (0,), (3, 0, 2), (2, 3), (1, 1, 1, 5), (2,) * 8]

    def fill(file):
        for dtype in formats:
            for shape in shapes:
                values = draw.integers(0, 100, shape).astype(dtype)
                file.create_dataset(f"{dtype[1:]}/a/{'x'.join(map(str, shape)) or 'scalar'}", data=values)
        file.attrs["text"] = "ä" * 300
        file["f4"].attrs["numbers"] = np.arange(50)

    path = make(tmp_path / "file.h5", fill)
    assert by_us(path) == by_library(path)
    with path.open("rb") as stream:
        dataset = stored_datasets(stream, USER_BLOCK, path.stat().st_size)["i4/a/2x3"]
        with h5py.File(path) as file:
            twin = file["i4/a/2x3"]
            for key in (0, 1, -1, slice(0, 1), slice(1, None), slice(None), slice(2, 1), ()):
                np.testing.assert_array_equal(dataset[key], twin[key])
        for key in (2, -3, slice(None, None, 2), (0, 1)):
            with pytest.raises(IndexError):
                dataset[key]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda file: file.create_dataset("x", data=np.arange(4), chunks=(2,)), "not a plain dataset"),
        (lambda file: file.create_dataset("x", data=np.arange(4), maxshape=(None,), chunks=(2,)), "may grow"),
        (lambda file: file.create_dataset("x", data=np.arange(4.0, dtype=">f8")), "plain numbers"),
        (lambda file: file.create_dataset("x", data=np.arange(4.0).astype("c8")), "plain numbers"),
        (lambda file: file.create_dataset("x", data=np.longdouble(1.0)), "plain numbers"),
        (lambda file: file.create_dataset("x", data="text"), "plain numbers"),
        (lambda file: file.create_dataset("x", data=h5py.Empty("f8")), "plain shape"),
        (lambda file: file.__setitem__("x", np.dtype("f8")), "neither a group nor a dataset"),
        (lambda file: file.__setitem__("x", h5py.SoftLink("/y")), "link to somewhere else"),
        (lambda file: file.__setitem__("x", h5py.ExternalLink("a.h5", "/y")), "link to somewhere else"),
        (lambda file: [file.create_group("x"), file.__setitem__("y", file["x"])], "two ways"),
        (lambda file: file.create_group("x").__setitem__("y", file["/"]), "two ways"),
        (lambda file: file.create_group("a/b/c/d/e"), "too deep"),
        (lambda file: file.create_dataset("x", shape=(4,), external=[("a.bin", 0, 32)], dtype="f8"), "message of type"),
    ],
)
def test_what_no_sealed_file_holds(tmp_path, what, words):
    path = make(tmp_path / "file.h5", what)
    with pytest.raises(StructureError, match=words):
        by_us(path)


def test_files_of_other_kinds(tmp_path):
    with h5py.File(tmp_path / "old.h5", "w", libver="earliest", userblock_size=USER_BLOCK) as file:
        file["x"] = [1.0]
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "zeros.h5").write_bytes(bytes(5000))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(StructureError):
            by_us(path)


def test_more_links_than_are_read_are_not_written(tmp_path, monkeypatch):
    """What would not be read back is refused when it is written."""
    monkeypatch.setattr(sealed, "stored_datasets", lambda *_: {})
    with pytest.raises(TrajectoryError, match="would not be read back"):
        sealed.write_sealed(tmp_path / "x.h5", "kind", "id", {}, {"step": np.arange(3)}, {})
    assert list(tmp_path.iterdir()) == []


# --- structures that were made to harm --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzz():
    path = Path(__file__).parents[2] / "experiments" / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz_structures", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def many(file):
    for number in range(60):
        file[f"metrics/name {number}"] = np.arange(3.0)


def test_a_tree_that_claims_more_records_than_there_are(tmp_path, fuzz):
    """HDF5 2.0.0 ends with a segmentation fault on this one."""
    path = make(tmp_path / "file.h5", many)
    content = bytearray(path.read_bytes())
    start = content.index(b"BTHD")
    struct.pack_into("<Q", content, start + 26, (1 << 63) + 60)
    struct.pack_into("<I", content, start + 34, fuzz.lookup3(bytes(content[start : start + 34])))
    path.write_bytes(content)
    with pytest.raises(StructureError, match="claims 9223372036854775868 records and has 60"):
        by_us(path)


def test_any_field_set_to_any_number(tmp_path, fuzz):
    """Each byte of each structure, and hurtful numbers over it: refused, or the values that are there."""
    path = make(tmp_path / "file.h5", many)
    sound = path.read_bytes()
    values = {entry[2] for entry in by_library(path).values()}
    blocks = fuzz.checksummed_blocks(sound)
    assert {sound[start : start + 4] for start, _ in blocks} >= {b"OHDR", b"FRHP", b"BTHD", b"BTLF", b"BTIN"}
    draw, refused, read = random.Random(0), 0, 0
    for start, length in blocks:
        for place in range(start, start + length, 1 if sound[start : start + 4] != b"OHDR" else 5):
            changed = bytearray(sound)
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(fuzz.HURTFUL + fuzz.HURTFUL_LONG) % (1 << 8 * size)
            changed[place : place + size] = number.to_bytes(size, "little")
            path.write_bytes(changed[: len(sound)])
            try:
                found = by_us(path)
            except (StructureError, struct.error, IndexError):
                refused += 1
                continue
            read += 1
            assert all(math.prod(shape) * dtype.itemsize <= len(sound) for dtype, shape, _ in found.values())
            # Another place inside the file is for the row checksums to notice; sizes are what they claim.
            assert all(len(content) == math.prod(shape) * dtype.itemsize for dtype, shape, content in found.values())
    assert refused > 300
    assert read > 100
    assert values
