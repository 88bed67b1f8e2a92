"""The two files of a comparison, open: one pair of tensors at a time, and what of them turned out to be damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from koemorph_tutorial.header import Header
from koemorph_tutorial.records import CheckpointError, UnsupportedCheckpointError
from koemorph_tutorial.stubs import TensorStub, item_bytes
from koemorph_tutorial.tensors import Array, TensorReader
from koemorph_tutorial.text import printable

from .arrays import Change, compare_arrays
from .rows import Row

_PATIENCE = 16  # a storage may be read, and its numbers compared, so many times


class Side:
    """One of the two files, open, and what of it turned out to be damaged."""

    def __init__(self, path: Path, header: Header, stack: ExitStack) -> None:
        self.places = header.places
        self._path, self._last = path, ""
        unchecked = {key: replace(place, crc=None) for key, place in header.places.items()}
        self._reader = stack.enter_context(TensorReader(path, header))
        self._unchecked = stack.enter_context(TensorReader(path, replace(header, places=unchecked)))
        self._damage: dict[str, tuple[str, str]] = {}  # by storage
        self._left = _PATIENCE * (header.size + 1_000_000)  # bytes

    def takes(self, stub: TensorStub) -> bool:
        """Say whether there is patience left to read a tensor: a few bytes can name a large storage without end."""
        key = stub.storage.key
        self._left -= stub.numbers * item_bytes(stub.dtype)
        if key != self._last and key in self.places:
            self._left -= self.places[key].size
        self._last = key
        return self._left >= 0

    def read(self, stub: TensorStub, where: str) -> Array | None:
        """Return the numbers of a tensor, also where its checksum says that they changed; None where there are none."""
        key = stub.storage.key
        # What a stride says along an axis of one number is of no use, and may be more than numpy can hold.
        steps = tuple(0 if length == 1 else step for length, step in zip(stub.shape, stub.stride, strict=True))
        stub = replace(stub, stride=steps)
        try:
            if key not in self._damage:
                return self._reader.read(stub)
        except UnsupportedCheckpointError:
            return None
        except CheckpointError as error:
            self._damage[key] = where, _why(error, self._path)
        try:
            return self._unchecked.read(stub)
        except CheckpointError:
            return None

    def damage_rows(self, name: str) -> Iterator[Row]:
        """Yield a row for each storage that was read and is damaged; `name` is A or B."""
        for where, why in self._damage.values():
            told = printable(why, 300)
            row = Row(section="damage", where=where, what="damaged")
            yield replace(row, a=told) if name == "A" else replace(row, b=told)


def _why(error: CheckpointError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").partition(";")[0].replace(" is damaged: ", ": ")


def geometry(stub: TensorStub) -> tuple[Any, ...]:
    """Return what tells which bytes a tensor is made of, and how."""
    return stub.storage.key, stub.dtype, stub.shape, stub.offset, stub.stride, stub.lazily


def compare_tensors(a: TensorStub, b: TensorStub, sides: Sequence[Side], where: str) -> Change | str | None:
    """Say how two tensors of one shape differ; as text, why they could not be compared."""
    same_dtype = a.dtype == b.dtype
    if not a.numbers:
        return None if same_dtype else Change(numbers=0)
    # An expanded tensor repeats its numbers without end: they are compared once.
    steps = list(zip(a.shape, a.stride, b.stride, strict=True))
    once = tuple(1 if x == y == 0 else length for length, x, y in steps)
    repeated = a.numbers // prod(once)
    a, b = replace(a, shape=once), replace(b, shape=once)
    if a.numbers > a.storage.elements + b.storage.elements:
        return "its numbers lie over each other"
    if not all(side.takes(stub) for side, stub in zip(sides, (a, b), strict=True)):
        return "too many tensors share its numbers"
    arrays = [side.read(stub, where) for side, stub in zip(sides, (a, b), strict=True)]
    if arrays[0] is None or arrays[1] is None:
        return "its numbers are not in the file"
    return compare_arrays(arrays[0], arrays[1], (a.dtype, b.dtype), repeated)
