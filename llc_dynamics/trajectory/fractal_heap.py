"""HDF5's fractal heaps and version 2 B-trees, as far as groups with many links use them.

HDF5 File Format Specification, version 3.0, sections III.A.2 (version 2 B-trees) and III.G (fractal heap).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from llc_dynamics.trajectory.placed import NOWHERE, Placed, StructureError

_DEEPEST = 5


@dataclass(frozen=True)
class FractalHeap:
    """Finds the objects of a heap; of the doubling table only rows of direct blocks (megabytes of links)."""

    file: Placed
    id_length: int
    offset_size: int
    #: (first offset in the heap, size, address) of every direct block.
    blocks: tuple[tuple[int, int, int], ...]

    @classmethod
    def read(cls, file: Placed, address: int) -> FractalHeap:
        file.visit(address)
        head = file.read(address, 142)
        if head[:5] != b"FRHP\0" or head[7:9] != b"\0\0":
            raise StructureError("no fractal heap, or one behind filters")
        (id_length,) = struct.unpack_from("<H", head, 5)
        width, start, largest, bits, _, root, rows = struct.unpack_from("<HQQHHQH", head, 110)
        offset_size = (bits + 7) // 8
        if not (0 < width <= 256 and 0 < start <= largest <= 1 << 24 and 0 < bits <= 64 and rows <= 64):
            raise StructureError("a fractal heap of impossible sizes")
        if root == NOWHERE:
            return cls(file, id_length, offset_size, ())
        if rows == 0:
            return cls(file, id_length, offset_size, ((0, start, root),))
        file.visit(root)
        block = file.read(root, 13 + offset_size + 8 * rows * width)
        if block[:5] != b"FHIB\0":
            raise StructureError("no indirect block of a fractal heap")
        addresses = struct.unpack_from(f"<{rows * width}Q", block, 13 + offset_size)
        blocks, offset = [], 0
        for place, child in enumerate(addresses):
            size = start << max(0, place // width - 1)
            if size > largest:
                if child != NOWHERE:
                    raise StructureError("more links in one group than are read")
                continue
            if child != NOWHERE:
                blocks.append((offset, size, child))
            offset += size
        return cls(file, id_length, offset_size, tuple(blocks))

    def item(self, heap_id: bytes) -> bytes:
        """The object that a heap id stands for."""
        if len(heap_id) != self.id_length or self.id_length <= 1 + self.offset_size or heap_id[0] != 0:
            raise StructureError("no object of a fractal heap")
        offset = int.from_bytes(heap_id[1 : 1 + self.offset_size], "little")
        length = int.from_bytes(heap_id[1 + self.offset_size :], "little")
        for first, size, address in self.blocks:
            if first <= offset < first + size:
                if offset + length > first + size:
                    break
                return self.file.read(address + offset - first, length)
        raise StructureError("an object outside its fractal heap")


@dataclass(frozen=True)
class TreeRecords:
    """The records of a version 2 B-tree."""

    file: Placed
    kind: int
    record_size: int
    #: For each depth, the bytes that count the records of a child, and those that count all below it.
    counts: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, file: Placed, address: int, kind: int, record_size: int) -> Iterator[bytes]:
        """All records in order."""
        file.visit(address)
        head = file.read(address, 38)
        node_size, size, depth, _, _, root, in_root, total = struct.unpack_from("<IHHBBQHQ", head, 6)
        if head[:4] != b"BTHD" or head[4] != 0 or head[5] != kind or size != record_size:
            raise StructureError("no B-tree of this kind")
        if depth > _DEEPEST or not 64 <= node_size <= 1 << 20:
            raise StructureError("a B-tree of impossible sizes")
        if root == NOWHERE:
            return iter(())
        tree = cls(file, kind, record_size, _count_sizes(node_size, record_size, depth))
        return tree._all(root, in_root, depth, total)

    def _all(self, root: int, in_root: int, depth: int, total: int) -> Iterator[bytes]:
        found = 0
        for record in self._node(root, in_root, depth):
            found += 1
            yield record
        if found != total:
            raise StructureError(f"a B-tree that claims {total} records and has {found}")

    def _node(self, address: int, count: int, depth: int) -> Iterator[bytes]:
        self.file.visit(address)
        record_bytes, (few, many) = count * self.record_size, self.counts[depth]
        pointer = 8 + few + many
        length = 6 + record_bytes + (pointer * (count + 1) if depth else 0)
        node = self.file.read(address, length)
        if node[:6] != (b"BTIN\0" if depth else b"BTLF\0") + bytes([self.kind]):
            raise StructureError("no node of a B-tree")
        for place in range(count + 1):
            if depth:
                at = 6 + record_bytes + pointer * place
                (child,) = struct.unpack_from("<Q", node, at)
                yield from self._node(child, int.from_bytes(node[at + 8 : at + 8 + few], "little"), depth - 1)
            if place < count:
                yield node[6 + place * self.record_size : 6 + (place + 1) * self.record_size]


def _count_sizes(node_size: int, record_size: int, depth: int) -> tuple[tuple[int, int], ...]:
    """For each depth: bytes for the number of a child's records, and for that of all records below it.

    As the library computes them from the most that fits into nodes (H5B2hdr.c).
    """
    most = (node_size - 10) // record_size
    few = _bytes_for(most)
    sizes, below, many = [(0, 0)], most, 0
    for _ in range(depth):
        sizes.append((few, many))
        pointer = 8 + few + many
        here = (node_size - 10 - pointer) // (record_size + pointer)
        below = (here + 1) * below + here
        many = _bytes_for(below)
    return tuple(sizes)


def _bytes_for(number: int) -> int:
    return (max(1, number).bit_length() - 1) // 8 + 1
