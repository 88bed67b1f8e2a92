"""Records of a zip, stored one after another: written, or read where no other byte can stand.

The format: PKWARE's APPNOTE.TXT, whose sections are named below.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from .records import TRY_OLDER, DamagedCheckpointError

FOLDER = "shuffle-zstd/"  # in which all of them lie

LOCAL = struct.Struct("<4s5H3L2H")  # the header before a record, without its name: 4.3.7
ENTRY = struct.Struct("<4s6H3L5H2L")  # of a record in the directory, without its name: 4.3.12
END_64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
LOCATOR_64 = struct.Struct("<4sLQL")  # 4.3.15
END = struct.Struct("<4s4H2LH")  # 4.3.16
_DAY = 0x21  # 1980-01-01, the first that a zip knows: the same bytes whenever they are packed


class Records:
    """Stored records one after another, written or read; what is read must be what would have been written."""

    def __init__(self, file: BinaryIO, path: Path | None = None) -> None:
        self._file, self._path = file, path
        self._at = self._count = self._size = 0
        if path is not None:  # to be read
            self._size = file.seek(0, os.SEEK_END)
            file.seek(0)
        self._directory = bytearray()

    def write(self, name: str, data: bytes) -> None:
        """Write a record of less than 4 GiB."""
        self._file.write(self._enter(name, zlib.crc32(data), len(data)))
        self._file.write(data)

    def read(self, name: str, most: int) -> bytes:
        """Return the next record, which must have that name and at most so many bytes, and be whole."""
        length = LOCAL.size + len(FOLDER) + len(name)
        found = self._file.read(length)
        crc, size = LOCAL.unpack_from(found)[6:8] if len(found) == length else (0, 0)
        if found != self._enter(name, crc, size) or size > most or self._at > self._size:
            raise self._damaged(name, "something else" if self._at <= self._size else "the end of the file")
        data = self._file.read(size)
        if zlib.crc32(data) != crc:
            raise self._damaged(name, f"CRC32 {zlib.crc32(data):08x} instead of {crc:08x}")
        return data

    def _enter(self, name: str, crc: int, size: int) -> bytes:
        """Return the header before a record (4.3.7), and add its entry to the directory (4.3.12)."""
        raw = (FOLDER + name).encode()
        extra = struct.pack("<2HQ", 1, 8, self._at) if self._at >= 0xFFFFFFFF else b""  # 4.5.3
        known = (45 if extra else 20, 0, 0, 0, _DAY, crc, size, size, len(raw))
        self._directory += ENTRY.pack(
            b"PK\x01\x02", known[0], *known, len(extra), 0, 0, 0, 0, min(self._at, 0xFFFFFFFF)
        )
        self._directory += raw + extra
        self._count += 1
        self._at += LOCAL.size + len(raw) + size
        return LOCAL.pack(b"PK\x03\x04", *known, 0) + raw

    def end(self) -> bytes:
        """Return the directory and what stands behind it (4.3.14 to 4.3.16)."""
        size, count = len(self._directory), self._count
        end = b""
        if self._at >= 0xFFFFFFFF or count >= 0xFFFF:
            end = END_64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, self._at)
            end += LOCATOR_64.pack(b"PK\x06\x07", 0, self._at + size, 1)
        few = min(count, 0xFFFF)
        end += END.pack(b"PK\x05\x06", 0, 0, few, few, size, min(self._at, 0xFFFFFFFF), 0)
        return bytes(self._directory) + end

    def read_end(self) -> None:
        """Check that nothing but the directory of what was read follows."""
        expected = self.end()
        if self._file.read(len(expected) + 1) != expected:
            raise DamagedCheckpointError(
                f"{self._path}: expected the end of a file of shuffle-zstd, found one that does not fit what lies "
                f"before it: it is damaged, or cut short; {TRY_OLDER}"
            )

    def _damaged(self, name: str, found: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            f"{self._path}: record {FOLDER + name!r}: expected as it was written, found {found}; {TRY_OLDER}"
        )
