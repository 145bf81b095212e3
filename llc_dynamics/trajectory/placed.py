"""Reading pieces of a file at addresses that the file itself gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

#: The address that HDF5 writes where there is none.
NOWHERE = (1 << 64) - 1
#: No single structure of a sealed file is larger.
_LARGEST = 1 << 24


class StructureError(ValueError):
    """Something in an HDF5 file is not as sealed files are."""


@dataclass
class Placed:
    """Bytes of `stream` by addresses that count from `base`; none beyond `size` is ever asked for."""

    stream: BinaryIO
    base: int
    size: int
    _visited: set[int] = field(default_factory=set)

    def read(self, address: int, length: int) -> bytes:
        if length > _LARGEST:
            raise StructureError(f"a structure of {length} bytes")
        self.stream.seek(self.require(address, length))
        content = b""
        while len(content) < length:
            piece = self.stream.read(length - len(content))
            if not piece:
                raise StructureError("the file ends before its structures do")
            content += piece
        return content

    def require(self, address: int, length: int) -> int:
        """The place in the file of `length` bytes at `address`; `StructureError` unless they are inside it."""
        if address > self.size or length > self.size or self.base + address + length > self.size:
            raise StructureError("an address outside the file")
        return self.base + address

    def visit(self, address: int) -> None:
        """Called once for every structure that is followed: a second visit would be a circle."""
        if address in self._visited:
            raise StructureError("two ways to one structure")
        self._visited.add(address)
