"""Where the datasets of an HDF5 file lie, found without the HDF5 library.

The library trusts the structures of a file: ones that were made to harm crash it (a B-tree that claims 2^63 records is
enough), and a seal tells damage, not authors. This reader knows only what sealed files are made of and refuses the
rest: a superblock of version 2 or 3, object headers of version 2, groups with links in their header or in a fractal
heap under a version 2 B-tree, hard links, and datasets of plain numbers. It follows an address once, reads inside the
file only, and makes room for nothing that the file merely claims.

Layout of all structures: HDF5 File Format Specification, version 3.0. Their checksums are not compared again: the seal
covers them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.trajectory.fractal_heap import FractalHeap, TreeRecords
from llc_dynamics.trajectory.placed import NOWHERE, Placed, StructureError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEEPEST = 3
_SMALLEST_HEADER = 12
#: Message types that say nothing about where data lie: nil, fill values, group info, attributes and times.
_IGNORED = frozenset({0x00, 0x04, 0x05, 0x0A, 0x0C, 0x0D, 0x0E, 0x12, 0x15, 0x16})
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _LAYOUT, _FILTERS, _CONTINUATION = 0x01, 0x02, 0x03, 0x06, 0x08, 0x0B, 0x10
_SHARED = 0x02
#: Sign, exponent (place, size) and mantissa (place, size) and bias of IEEE numbers by their size.
_IEEE = {2: (15, 10, 5, 0, 10, 15), 4: (31, 23, 8, 0, 23, 127), 8: (63, 52, 11, 0, 52, 1023)}


@dataclass(frozen=True)
class StoredDataset:
    """A dataset of plain numbers: in one piece at `offset` (0 if it is empty), or in `chunks` behind `filters`."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    chunks: tuple[int, ...] | None
    filters: tuple[int, ...]
    _stream: BinaryIO

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, key: int | slice | tuple[()]) -> NDArray:
        """All values for `()`, or those at some places of the first axis; KeyError for a packed dataset."""
        if self.chunks is not None:
            raise KeyError(f"'{self.name}' is compressed")
        if key == ():
            return self._read(0, self.nbytes).reshape(self.shape)
        if not self.shape or isinstance(key, tuple):
            raise IndexError(f"'{self.name}' has {len(self.shape)} axes")
        if isinstance(key, slice):
            start, stop, stride = key.indices(self.shape[0])
            if stride != 1:
                raise IndexError(f"'{self.name}': read every row, or index what was read")
            rows = max(0, stop - start)
        else:
            start, rows = (key + self.shape[0] if key < 0 else key), 1
            if not 0 <= start < self.shape[0]:
                raise IndexError(f"'{self.name}' has {self.shape[0]} rows")
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        values = self._read(start * row_bytes, rows * row_bytes).reshape(rows, *self.shape[1:])
        return values if isinstance(key, slice) else values[0]

    def _read(self, start: int, length: int) -> NDArray:
        values = np.empty(length // self.dtype.itemsize, self.dtype)
        place = values.view(np.uint8).data if length else memoryview(b"")
        self._stream.seek(self.offset + start)
        while len(place):
            count = self._stream.readinto(place)  # type: ignore[attr-defined]
            if not count:
                raise StructureError("the file ends before its data does")
            place = place[count:]
        return values


def stored_datasets(stream: BinaryIO, start: int, size: int) -> dict[str, StoredDataset]:
    """All datasets by path, of the HDF5 file that lies in `stream` from `start` to `size`.

    Raises `StructureError` for anything that a sealed file is not made of.
    """
    first = Placed(stream, 0, size)
    head = first.read(start, 44)
    if not head.startswith(_SIGNATURE) or head[8] not in (2, 3) or head[9:11] != b"\x08\x08":
        raise StructureError("no superblock of version 2 or 3")
    base, _, end, root = struct.unpack_from("<QQQQ", head, 12)
    if base != start or not 0 < end <= size:
        raise StructureError("the superblock is of another file")
    # Addresses count from the superblock; `end` does so in some versions of the library, and in others not.
    return dict(_group(Placed(stream, base, size), root, "", 0))


def _group(file: Placed, address: int, prefix: str, depth: int) -> Iterator[tuple[str, StoredDataset]]:
    messages = dict.fromkeys((_LINK_INFO, _LINK, _DATASPACE, _DATATYPE, _LAYOUT, _FILTERS))
    links: list[bytes] = []
    for kind, content in _messages(file, address):
        if kind == _LINK:
            links.append(content)
        elif kind in messages and messages[kind] is None:
            messages[kind] = content
        else:
            raise StructureError(f"'{prefix or '/'}' has a message of type {kind:#x}")
    info = messages.pop(_LINK_INFO)
    if info is None:
        yield prefix, _dataset(file, prefix, messages)
        return
    if any(content is not None for content in messages.values()):
        raise StructureError(f"'{prefix}' is a group and a dataset in one")
    if depth > _DEEPEST:
        raise StructureError(f"'{prefix}' lies too deep")
    links += _dense_links(file, info)
    names = set()
    for link in links:
        name, target = _link(link, prefix)
        if name in names or not name or "/" in name or name in (".", ".."):
            raise StructureError(f"'{prefix}' has a link of the name {name!r}, or two of them")
        names.add(name)
        yield from _group(file, target, f"{prefix}/{name}" if prefix else name, depth + 1)


def _messages(file: Placed, address: int) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the messages of an object header, without those that say nothing about the data."""
    file.visit(address)
    head = file.read(address, _SMALLEST_HEADER)
    if head[:5] != b"OHDR\x02":
        raise StructureError("no object header of version 2")
    flags = head[5]
    start = address + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
    width = 1 << (flags & 3)
    length = int.from_bytes(file.read(start, width), "little")
    header_size = 4 + 2 * (flags >> 2 & 1)
    chunks = [file.read(start + width, length)]
    while chunks:
        chunk = chunks.pop()
        at = 0
        while at + header_size <= len(chunk):
            kind, size, message_flags = struct.unpack_from("<BHB", chunk, at)
            at += header_size
            if at + size > len(chunk) or message_flags & _SHARED:
                raise StructureError("a message that lies elsewhere")
            content = chunk[at : at + size]
            at += size
            if kind == _CONTINUATION:
                if len(content) < 16:
                    raise StructureError("a continuation that leads nowhere")
                there, more = struct.unpack_from("<QQ", content)
                file.visit(there)
                block = file.read(there, more)
                if block[:4] != b"OCHK" or more < 8:
                    raise StructureError("no continuation of an object header")
                chunks.append(block[4:-4])
            elif kind not in _IGNORED:
                yield kind, content


def _link(content: bytes, prefix: str) -> tuple[str, int]:
    """Name and address of a hard link."""
    if len(content) < 3 or content[0] != 1:
        raise StructureError(f"'{prefix}' has a link of another version")
    flags, at = content[1], 2
    if flags & 8:
        if content[at] != 0:
            raise StructureError(f"'{prefix}' has a link to somewhere else")
        at += 1
    at += 8 * (flags >> 2 & 1) + (flags >> 4 & 1)
    width = 1 << (flags & 3)
    length = int.from_bytes(content[at : at + width], "little")
    at += width
    name, address = content[at : at + length], content[at + length : at + length + 8]
    if len(name) != length or len(address) != 8:
        raise StructureError(f"'{prefix}' has a link that is cut short")
    try:
        return name.decode(), int.from_bytes(address, "little")
    except UnicodeDecodeError:
        raise StructureError(f"'{prefix}' has a link whose name is no text") from None


def _dense_links(file: Placed, info: bytes) -> Iterator[bytes]:
    """The links that a group keeps in a fractal heap, if it does."""
    if len(info) < 18 or info[0] != 0:
        raise StructureError("a group of another version")
    heap_address, tree_address = struct.unpack_from("<QQ", info, 2 + 8 * (info[1] & 1))
    if heap_address == NOWHERE and tree_address == NOWHERE:
        return
    heap = FractalHeap.read(file, heap_address)
    # Records of type 5: the hash of a name, and where in the heap its link is.
    for record in TreeRecords.read(file, tree_address, kind=5, record_size=11):
        yield heap.item(record[4:])


def _dataset(file: Placed, name: str, messages: dict[int, bytes | None]) -> StoredDataset:
    space, kind, layout = messages[_DATASPACE], messages[_DATATYPE], messages[_LAYOUT]
    if space is None or kind is None or layout is None:
        raise StructureError(f"'{name}' is neither a group nor a dataset")
    shape, dtype = _shape(space, name), _dtype(kind, name)
    nbytes = math.prod(shape) * dtype.itemsize
    filters = _filters(messages[_FILTERS], name)
    version, form = (layout[0], layout[1]) if len(layout) > 2 else (0, 0)
    if version in (3, 4) and form == 1 and len(layout) >= 18 and not filters:
        address, length = struct.unpack_from("<QQ", layout, 2)
        if length != nbytes:
            raise StructureError(f"'{name}' claims {nbytes} bytes and has {length}")
        offset = file.require(address, nbytes) if nbytes else 0
        return StoredDataset(name, dtype, shape, offset, None, (), file.stream)
    if version == 4 and form == 2 and filters and len(layout) > 5:
        axes, width = layout[3], layout[4]
        sizes = [int.from_bytes(layout[5 + width * axis :][:width], "little") for axis in range(axes)]
        if axes != len(shape) + 1 or sizes[-1] != dtype.itemsize:
            raise StructureError(f"'{name}' has chunks of another shape")
        return StoredDataset(name, dtype, shape, 0, tuple(sizes[:-1]), filters, file.stream)
    raise StructureError(f"'{name}' is not a plain dataset")


def _shape(space: bytes, name: str) -> tuple[int, ...]:
    if len(space) < 4 or space[0] != 2 or space[3] not in (0, 1) or space[1] > 32:
        raise StructureError(f"'{name}' has no plain shape")
    rank, limited = space[1], space[2] & 1
    if len(space) < 4 + 8 * rank * (1 + limited) or (space[3] == 0 and rank):
        raise StructureError(f"'{name}' has no plain shape")
    shape = struct.unpack_from(f"<{rank}Q", space, 4)
    if limited and struct.unpack_from(f"<{rank}Q", space, 4 + 8 * rank) != shape:
        raise StructureError(f"'{name}' may grow, which nothing in a sealed file does")
    if 0 in shape and math.prod(axis or 1 for axis in shape) >= 1 << 60:
        raise StructureError(f"'{name}' is empty and claims more than there can be")
    return tuple(shape)


def _dtype(kind: bytes, name: str) -> np.dtype:
    """Little-endian whole numbers and IEEE floating-point numbers; `StructureError` for anything else."""
    if len(kind) >= 12 and kind[0] >> 4 in (1, 3, 4):
        form, bits, (size,) = kind[0] & 15, kind[1:4], struct.unpack_from("<I", kind, 4)
        first, precision = struct.unpack_from("<HH", kind, 8)
        whole = size in (1, 2, 4, 8) and first == 0 and precision == 8 * size
        if form == 0 and whole and bits in (b"\x00\0\0", b"\x08\0\0"):
            return np.dtype(f"<{'i' if bits[0] else 'u'}{size}")
        if form == 1 and whole and size in _IEEE and len(kind) >= 20:
            sign, exponent, exponent_size, mantissa, mantissa_size, bias = _IEEE[size]
            if bits == bytes((0x20, sign, 0)) and kind[12:20] == struct.pack(
                "<BBBBI", exponent, exponent_size, mantissa, mantissa_size, bias
            ):
                return np.dtype(f"<f{size}")
    raise StructureError(f"'{name}' does not hold plain numbers")


def _filters(message: bytes | None, name: str) -> tuple[int, ...]:
    """The numbers of the filters of a dataset, in the order in which they were applied."""
    if message is None:
        return ()
    if len(message) < 2 or message[0] != 2:
        raise StructureError(f"'{name}' has filters of another version")
    found, at = [], 2
    for _ in range(message[1]):
        if at + 8 > len(message):
            raise StructureError(f"'{name}' has filters that are cut short")
        (number,) = struct.unpack_from("<H", message, at)
        named = 2 * (number >= 256)
        (name_length,) = struct.unpack_from("<H", message, at + 2) if named else (0,)
        _, values = struct.unpack_from("<HH", message, at + 2 + named)
        at += 6 + named + name_length + 4 * values
        found.append(number)
    return tuple(found)
