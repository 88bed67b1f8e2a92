"""Checkpoints of every kind of tensor, packed; and files that no packer would write."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from koemorph_tutorial import compression
from koemorph_tutorial.compression import Piece
from koemorph_tutorial.records import Codec
from koemorph_tutorial.stored import Records

# How much memory a process had at most. What Linux says in ru_maxrss may be that of the process that started it.
PEAK = """
def peak():
    import re, resource, sys
    if sys.platform == "linux":
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""

CODECS: tuple[Codec, ...] = ("gzip", "zstd", "shuffle-zstd")
NAME = Path("run/last_model.pth")  # only for messages: the bytes are in memory


@dataclass(frozen=True)
class Saved:
    """What torch.save made of a checkpoint, and where which numbers lie in it."""

    data: bytes
    pieces: tuple[Piece, ...]
    header: Piece

    @property
    def pickle(self) -> bytes:
        return self.data[self.header.offset : self.header.offset + self.header.size]


def saved(content: Any) -> Saved:
    """Save by torch.save, and look where the records came to lie; the tensors say how wide their numbers are."""
    file = io.BytesIO()
    torch.save(content, file)
    widths = [tensor.element_size() for tensor in _storages(content, {}).values()]
    pieces, header = [], None
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            lengths = file.read(4)
            first = file.tell() + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            name = info.filename.partition("/")[2]
            if name == "data.pkl":
                header = Piece(offset=first, size=info.file_size, width=1)
            elif name.startswith("data/"):
                pieces.append(Piece(offset=first, size=info.file_size, width=widths[int(name[5:])]))
    assert header is not None
    return Saved(file.getvalue(), tuple(pieces), header)


def _storages(value: Any, found: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return a tensor of each storage, in the order in which torch numbers them."""
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        found.setdefault(storage.data_ptr() or -id(value), value)
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            _storages(item, found)
    return found


def packed(file: Saved, codec: Codec) -> bytes:
    """Pack it as this library does."""
    target = io.BytesIO()
    compression.pack(io.BytesIO(file.data), target, codec, pieces=file.pieces, pickle=file.header)
    return target.getvalue()


def unpacked(data: bytes, codec: Codec) -> bytes:
    return bytes(compression.unpack(io.BytesIO(data), codec, NAME))


def beginning(data: bytes, codec: Codec) -> bytes:
    return compression.unpack_beginning(io.BytesIO(data), codec, NAME)


def forged(index: bytes | Mapping[str, Any], records: Mapping[str, bytes], end: bytes | None = None) -> bytes:
    """Return a file of shuffle-zstd whose checksums hold, whatever its index says."""
    target = io.BytesIO()
    writer = Records(target)
    writer.write("index", index if isinstance(index, bytes) else json.dumps(index, separators=(",", ":")).encode())
    for name, data in records.items():
        writer.write(name, data)
    target.write(writer.end() if end is None else end)
    return target.getvalue()


def records_of(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the index of a file of shuffle-zstd, and its other records by their names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    return json.loads(found.pop("index")), found
