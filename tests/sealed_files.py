"""Sealed files taken apart and sealed again, as someone would who means to deceive."""

import io
import json

import h5py

from llc_dynamics.trajectory.sealed import checked_index, digest_outside_rows, encode_header


def split_header(content):
    """The size of the user block, and what the header says."""
    head, text = content.split(b"\n", 2)[:2]
    return int(head.split()[3]), json.loads(text)


def change_header(content, change):
    """A sealed file whose header says something else, with a valid checksum and, where the index is one, digest."""
    user_block, described = split_header(content)
    change(described)
    try:
        datasets = checked_index(described["datasets"], user_block, described["size"])
        described["digest"] = digest_outside_rows(io.BytesIO(content), datasets, user_block, described["size"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        pass
    room = max(user_block, len(json.dumps(described)) + 200)
    return encode_header(described, room)[:user_block] + content[user_block:]


def sign(path):
    """Give a changed file a header that fits it, with the index that it had."""
    content = path.read_bytes()
    path.write_bytes(change_header(content, lambda described: described.update(size=len(content))))


def place_of(path, name):
    """The offset of a dataset, by HDF5."""
    with h5py.File(path) as file:
        return file[name].id.get_offset()


def by_index(path):
    """{name: (format, shape, offset, bytes)} as the header lists it."""
    content = path.read_bytes()
    _, described = split_header(content)
    return {
        name: (dtype, tuple(shape), offset, b"" if offset is None else content[offset : offset + nbytes])
        for name, (dtype, shape, offset, nbytes) in described["datasets"].items()
    }


def by_hdf5(path):
    """The same as the HDF5 library gives it."""
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            assert item.chunks is None
            assert not item.external
            offset = item.id.get_offset() if item.size else None
            found[name] = item.dtype.str, item.shape, offset, item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(take)
    return found
