"""A safetensors file read as data: a length, a header in JSON, and the bytes of tensors one after another.

The format, https://github.com/huggingface/safetensors, holds no checksums: what can be told is its structure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO

from .archive import Place
from .records import UnsupportedCheckpointError
from .stubs import StorageStub, TensorStub, item_bytes

_LONGEST = 1 << 24  # bytes of a header: a hundred thousand tensors and more
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors(file: BinaryIO) -> tuple[dict[str, TensorStub], Mapping[str, Place], dict[str, str]]:
    """Return the tensors of an open file by name, where their bytes lie, and its metadata.

    Raises:
        ValueError: what is wrong with it. UnsupportedCheckpointError: what is not known here.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if length > _LONGEST or start > size:
        raise ValueError(f"it says to have a header of {length:,} bytes")
    text = file.read(length)
    if text.count(b"[") + text.count(b"{") > length // 8 + 9:  # each takes seven times its own length to read
        raise ValueError("more brackets than a header of tensors has")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("a header in which too much is nested") from None
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise ValueError("metadata that is no text")
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    places, at = {}, 0
    for name in sorted(tensors, key=lambda name: header[name]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        if begin != at:
            raise ValueError(f"tensor {name!r} begins at byte {begin:,} of the data, not at {at:,}")
        places[name], at = Place(offset=start + begin, size=end - begin), end
    if start + at != size:
        raise ValueError(f"its tensors end at byte {start + at:,}, and the file at {size:,}")
    return tensors, places, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name that is there twice")
    return dict(pairs)


def _tensor(name: str, entry: Any) -> TensorStub:
    if isinstance(entry, dict):
        dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if type(dtype) is str and isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2:
            kind = _DTYPES.get(dtype)
            if kind is None:
                raise UnsupportedCheckpointError(f"tensor {name!r} of the dtype {dtype!r}, which is not known here")
            whole = all(type(number) is int and 0 <= number < 2**63 for number in (*shape, *offsets))
            if whole and len(shape) <= 64 and prod(shape) * item_bytes(kind) == offsets[1] - offsets[0]:
                stride = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
                return TensorStub(tuple(shape), kind, StorageStub(name, kind, prod(shape)), 0, stride)
    raise ValueError(f"tensor {name!r}, whose description does not fit its bytes")
