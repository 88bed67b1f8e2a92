"""Zips, pickles and safetensors put together byte by byte, so that they can be what no library would write."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# ------------------------------------------------------------------------------------------------ a zip, byte by byte


@dataclass(frozen=True)
class Record:
    """A record of a zip: what its directory says of it may be a lie."""

    name: str
    data: bytes
    method: int = 0
    size: int | None = None
    crc: int | None = None


def zipped(records: Sequence[Record], before: bytes = b"") -> bytes:
    """Return a zip of `records`, after the bytes `before`, which are no part of it."""
    body, directory = bytearray(before), bytearray()
    for record in records:
        name = record.name.encode("utf-8", "surrogatepass")
        size = len(record.data) if record.size is None else record.size
        crc = zlib.crc32(record.data) if record.crc is None else record.crc
        known = (record.method, 0, 0, crc, len(record.data), size, len(name), 0)
        directory += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0x800, *known, 0, 0, 0, 0, len(body)) + name
        body += struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0x800, *known) + name + record.data
    count = len(records)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + end)


def records_of(data: bytes) -> list[Record]:
    """Return the records of a zip, to be written anew with changes."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [Record(info.filename, file.read(info)) for info in file.infolist()]


def twin_of(path: Path) -> Path | None:
    """Write a zip anew beside it, with one byte changed that does not matter, so that it has to be compared."""
    if not path.is_file() or path.read_bytes()[:2] != b"PK":
        return None
    twin = path.with_name(f"twin of {path.name}")
    changed = path.read_bytes().replace(b"archive/version3", b"archive/version4")
    twin.write_bytes(changed.replace(struct.pack("<L", zlib.crc32(b"3\n")), struct.pack("<L", zlib.crc32(b"4\n"))))
    return twin


def archive(pickled: bytes, storages: Mapping[str, bytes] | None = None, folder: str = "archive") -> list[Record]:
    """Return the records that torch.save would write around a header of one's own."""
    numbers = {"0": struct.pack("<6f", *range(6)), "1": struct.pack("<2f", 6, 7)} if storages is None else storages
    return [
        Record(f"{folder}/data.pkl", pickled),
        Record(f"{folder}/byteorder", b"little"),
        *(Record(f"{folder}/data/{key}", data) for key, data in numbers.items()),
        Record(f"{folder}/version", b"3\n"),
    ]


def archive_file(path: Path, body: bytes, **options: Any) -> Path:
    """Write a file as torch.save does, around a program for the pickle machine."""
    path.write_bytes(zipped(archive(program(body), **options)))
    return path


# ------------------------------------------------------------------------------------------ a pickle, opcode by opcode


def program(body: bytes) -> bytes:
    """Return a whole pickle, of protocol 2."""
    return b"\x80\x02" + body + b"."


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def mapping(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def called(name: str, arguments: bytes) -> bytes:
    """Return the call of `name` (``module function``) with a tuple."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"R"


def storage(key: str = "0", elements: int = 6, kind: str = "torch FloatStorage") -> bytes:
    name = b"c" + kind.replace(" ", "\n").encode() + b"\n"
    return b"(" + text("storage") + name + text(key) + text("cpu") + number(elements) + b"tQ"


def tensor(
    stored: bytes | None = None, shape: Sequence[int] = (2, 3), stride: Sequence[int] = (3, 1), offset: int = 0
) -> bytes:
    place = (storage() if stored is None else stored) + number(offset) + numbers(shape) + numbers(stride)
    return called(
        "torch._utils _rebuild_tensor_v2", b"(" + place + b"\x89" + called("collections OrderedDict", b")") + b"t"
    )


def state(weight: bytes | None = None, **more: bytes) -> bytes:
    """Return the program of a checkpoint whose weight is made by `weight`."""
    bias = tensor(storage("1", 2), (2,), (1,))
    states = mapping({"weight": tensor() if weight is None else weight, "bias": bias})
    return mapping({"epoch": number(3), "model_state_dict": states, "config": b"}", **more})


# --------------------------------------------------------------------------------------------------------- safetensors


def safetensors_file(
    path: Path, header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None
) -> Path:
    """Write a safetensors file whose header is anything at all."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(shape: Sequence[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
