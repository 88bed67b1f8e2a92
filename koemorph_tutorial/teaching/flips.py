"""Harm a file, one bit at a time: which bytes of it a weight is, and what turns one of its bits over.

No torch. Where a file has several names, as hard links, all of them are harmed: work on a copy.
"""

from __future__ import annotations

import random
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from koemorph_tutorial.header import read_header

BITS = range(31, -1, -1)  # of a float32, as they are written: the sign first


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One number of a model in a file: the tensor's `name`, its place in it, and the first of its four bytes."""

    name: str
    index: int
    byte: int

    def __str__(self) -> str:
        return f"number {self.index:,} of {self.name}"


def draw(path: str | Path, seed: int) -> Weight:
    """Draw a weight out of a checkpoint's model, each as likely as any other."""
    return next(draws(Path(path), seed))


def draws(path: Path, seed: int) -> Iterator[Weight]:
    """Yield weights out of a checkpoint's model for ever, each time each as likely as any other."""
    header = read_header(path)
    tensors = header.content["model_state_dict"]
    ends = dict(zip(tensors, accumulate(stub.numbers for stub in tensors.values()), strict=True))
    chance = random.Random(seed)
    while True:
        place = chance.randrange(max(ends.values()))
        name = next(name for name, end in ends.items() if place < end)
        stub = tensors[name]
        index = place - ends[name] + stub.numbers
        start = first_byte(path, header.places[stub.storage.key].record)
        yield Weight(name=name, index=index, byte=start + 4 * (stub.offset + index))


def first_byte(path: str | Path, record: str) -> int:
    """Return where in a zip the bytes of a record begin: behind a header of 30 bytes, its name and some padding."""
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo(record).header_offset
    with open(path, "rb") as file:
        file.seek(header + 26)
        name, padding = struct.unpack("<HH", file.read(4))
    return header + 30 + int(name) + int(padding)


def flip(path: str | Path, weight: Weight, bit: int) -> None:
    """Flip one bit of a weight in the file, on the disk; 31 is the sign, 0 the last of the mantissa."""
    if bit not in BITS:
        raise ValueError(f"bit: expected 0 to 31, found {bit!r}")
    flip_at(path, weight.byte + bit // 8, bit % 8)  # the lowest byte comes first


def flip_at(path: str | Path, byte: int, bit: int) -> None:
    """Flip one bit, 0 to 7, of one byte of the file, on the disk."""
    with open(path, "r+b") as file:
        file.seek(byte)
        (old,) = file.read(1)
        file.seek(byte)
        file.write(bytes([old ^ 1 << bit]))


def bits_of(path: str | Path, weight: Weight) -> str:
    """Return the 32 bits of a weight in the file, the sign first."""
    with open(path, "rb") as file:
        file.seek(weight.byte)
        (number,) = struct.unpack("<I", file.read(4))
    return f"{number:032b}"
