"""Which bytes of a .pth lie in which part of a file of shuffle-zstd: all follows from one small record, the index.

Bytes of one kind come together: those between the numbers, numbers of 2 bytes, of 4, of 8, of 16. They are cut into
runs of up to half a megabyte, none of which mixes large tensors, and runs are joined to parts of some megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .records import TRY_OLDER, DamagedCheckpointError, UnsupportedCheckpointError
from .text import printable

Span = tuple[int, int]  # offset and size
Run = list[Span]  # what lies one after another in it

VERSION = 1
WIDTHS = (2, 4, 8, 16)  # bytes of a number
# These belong to the version: by them a reader knows what lies where.
_LEAST, MOST_RUN, _PART = 1 << 13, 1 << 19, 1 << 22  # bytes: small tensors are joined up to the first
_MOST_PIECES, MOST_INDEX = 100_000, 1 << 22  # bytes: each piece takes up to 40 of them


class Piece(NamedTuple):
    """Where in a file numbers lie: `size` bytes from `offset` on, `width` bytes for each number."""

    offset: int
    size: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """One record of the file: `runs` of numbers that have `width` bytes."""

    name: str
    width: int
    runs: Sequence[Run]

    @property
    def size(self) -> int:
        """Its bytes, unpacked."""
        return sum(map(length_of, self.runs))


def length_of(run: Run) -> int:
    """Return the bytes of a run."""
    return sum(size for _, size in run)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What the first record says: the `size` of the .pth, where its `pickle` and its numbers lie.

    >>> [part.runs for part in Index(size=100, pickle=(10, 20), pieces=[Piece(40, 8, 4)]).parts()]
    [[[(10, 20)]], [[(0, 10), (30, 10), (48, 52)]], [[(40, 8)]]]

    Raises:
        ValueError: pieces that lie over each other or outside of the file, or hold half a number.
    """

    size: int
    pickle: Span | None
    pieces: Sequence[Piece]

    def __post_init__(self) -> None:
        for width in {piece.width for piece in self.pieces} - {*WIDTHS}:
            raise ValueError(f"numbers of {width:,} bytes")
        at = 0
        for offset, size, width in sorted([*self.pieces, *([(*self.pickle, 1)] if self.pickle else [])]):
            if size < 1 or size % width or offset < at or offset + size > self.size:
                raise ValueError(f"{size:,} bytes of it at {offset:,}, where {at:,} to {self.size:,} is left")
            at = offset + size

    @classmethod
    def of(cls, size: int, pieces: Sequence[Piece], pickle: Piece | None) -> Index:
        """Return the index of a .pth of `size` bytes; of very many pieces the smallest ones are left out.

        Raises:
            ValueError: as the class; names the pieces.
        """
        whole = [piece._replace(size=piece.size - piece.size % max(piece.width, 1)) for piece in pieces]
        numbers = sorted((piece for piece in whole if piece.size and piece.width != 1), key=lambda piece: -piece.size)
        try:
            return cls(
                size=size,
                pickle=(pickle.offset, pickle.size) if pickle and pickle.size else None,
                pieces=sorted(numbers[:_MOST_PIECES]),
            )
        except ValueError as error:
            raise ValueError(
                f"pieces: expected numbers of 1, 2, 4, 8 or 16 bytes, one after another within the file, found {error}"
            ) from None

    @classmethod
    def from_json(cls, raw: bytes, path: Path) -> Index:
        """Read the record; `path` is for the message.

        Raises:
            DamagedCheckpointError: it is not as this library writes it. UnsupportedCheckpointError: of a newer version.
        """
        version = 0
        try:
            content = json.loads(raw)
            version = _whole(content["version"])
            pickle = content["pickle"]
            index = cls(
                size=_whole(content["size"]),
                pickle=None if pickle is None else (_whole(pickle[0]), _whole(pickle[1])),
                pieces=sorted(
                    Piece(_whole(offset), _whole(size), _whole(width)) for offset, size, width in content["pieces"]
                ),
            )
            if version == VERSION and raw == index.to_json():
                return index
            found = "one that is written differently"
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            found = printable(str(error)) if type(error) is ValueError else "none"
        if version > VERSION:
            raise UnsupportedCheckpointError(
                f"{path}: expected version {VERSION} of shuffle-zstd, found {printable(str(version), 20)}; update this "
                "library, which knows no newer one"
            )
        raise DamagedCheckpointError(f"{path}: expected the index of shuffle-zstd, found {found}; {TRY_OLDER}")

    def to_json(self) -> bytes:
        """Return the record."""
        content = {"version": VERSION, "size": self.size, "pickle": self.pickle, "pieces": self.pieces}
        return json.dumps(content, separators=(",", ":")).encode()

    def parts(self) -> Iterator[Part]:
        """Yield the parts in order; every byte of the .pth is in one of them."""
        if self.pickle:
            yield Part(name="header", width=1, runs=[[self.pickle]])
        number = 0
        for width in (1, *WIDTHS):
            spans = self._between() if width == 1 else (piece[:2] for piece in self.pieces if piece.width == width)
            for runs in _joined(_runs(spans)):
                yield Part(name=str(number), width=width, runs=runs)
                number += 1

    def _between(self) -> Iterator[Span]:
        at = 0
        taken = sorted([*(piece[:2] for piece in self.pieces), *([self.pickle] if self.pickle else [])])
        for offset, size in [*taken, (self.size, 0)]:
            if offset > at:
                yield at, offset - at
            at = offset + size


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} in it")
    return value


def _runs(spans: Iterable[Span]) -> Iterator[Run]:
    run: Run = []
    length = 0
    for offset, size in spans:
        if run and length + size > MOST_RUN:
            yield run
            run, length = [], 0
        for at in range(0, size, MOST_RUN):
            count = min(size - at, MOST_RUN)
            run.append((offset + at, count))
            length += count
            if length >= _LEAST:
                yield run
                run, length = [], 0
    if run:
        yield run


def _joined(runs: Iterable[Run]) -> Iterator[list[Run]]:
    part: list[Run] = []
    length = 0
    for run in runs:
        part.append(run)
        length += length_of(run)
        if length >= _PART:
            yield part
            part, length = [], 0
    if part:
        yield part
