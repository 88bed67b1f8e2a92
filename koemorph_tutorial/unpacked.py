"""What is in a compressed file, in memory, to be read as if it lay on a disk; unpacked once for all who read it."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from .records import Codec


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """What is in a compressed file, and how many bytes that one takes."""

    data: memoryview
    codec: Codec
    packed: int


class Unpacked(io.RawIOBase):
    """What is in a compressed file, in memory, to be read as if it lay on a disk; each reader has its own place in it.

    `codec` is by which it was compressed, `packed` how many bytes it takes on the disk.
    """

    def __init__(self, content: Content) -> None:
        self._content: Content | None = content  # alive as long as somebody reads it
        self.codec, self.packed = content.codec, content.packed
        self._data, self._at = content.data, 0

    def is_same(self, other: object) -> bool:
        """Say whether another reader reads the same file."""
        return isinstance(other, Unpacked) and self._content is not None and self._content is other._content

    def close(self) -> None:
        """Let go of the bytes."""
        self._content, self._data = None, memoryview(b"")
        super().close()

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place; a ValueError for one before the beginning, as of any file in memory."""
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        if at < 0:
            raise ValueError(f"negative seek position {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and return with how many bytes: fewer only at the end."""
        if self.closed:
            raise ValueError("the file is closed")
        view = memoryview(buffer).cast("B")
        piece = self._data[self._at : self._at + len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def identity_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what tells that a file is the same one, and has not changed."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# One unpacking serves all who read a file at a time, by its identity.
CONTENTS: WeakValueDictionary[tuple[int, int, int, int], Content] = WeakValueDictionary()
