"""A file as one stream of gzip or zstd, as their programs read and write it; with a seal behind it where it is ours.

Both check a sum of what was packed. It does not cover every bit of the file: a time, a name, padding may change unseen.
So ours end with a CRC32 of all that lies before it, in a place that other programs skip. (One that was cut off just
before it is as good as one of theirs.)
"""

from __future__ import annotations

import importlib
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from .records import TRY_OLDER, CheckpointError, DamagedCheckpointError, UnsupportedCheckpointError
from .text import printable

Kind = Literal["gzip", "zstd"]

STARTS: Mapping[Kind, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_SEALS: Mapping[Kind, tuple[bytes, bytes]] = {  # what stands before and behind the CRC32
    # an empty member with a field of its own: RFC 1952, 2.3.1.1
    "gzip": (b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x08\x00KM\x04\x00", b"\x03\x00" + bytes(8)),
    # a frame that is to be skipped: RFC 8878, 3.1.2
    "zstd": (b"\x5b\x2a\x4d\x18\x06\x00\x00\x00KM", b""),
}
_CHUNK = 1 << 20
_NOT_HERE = ("too much memory", "ictionary")  # of what zstd says where the file is whole


def zstd() -> Any:
    """Return the zstd of the standard library, which has it from Python 3.14 on, or the same for older ones."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def zstd_options() -> dict[Any, int]:
    """Return how zstd is to pack: with a checksum, and fast; higher levels look longer and find no more in noise."""
    known = zstd().CompressionParameter
    # A table that the nearest cache holds. In noise there is nothing to be found in a larger one.
    return {known.compression_level: 1, known.checksum_flag: 1, known.hash_log: 12}


def pack_stream(source: BinaryIO, target: BinaryIO, kind: Kind) -> None:
    """Write all of `source` to `target` as one stream, and the seal; the same bytes each time.

    Raises:
        ValueError: the source ends before its end: it was changed meanwhile.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    if kind == "gzip":
        # Digits repeat nothing but single bytes: looking for more takes three times as long, and finds nothing.
        compressor: Any = zlib.compressobj(6, zlib.DEFLATED, 31, 9, zlib.Z_RLE)
    else:
        compressor = zstd().ZstdCompressor(options=zstd_options())
        compressor.set_pledged_input_size(size)
    crc = 0
    for at in range(0, size, _CHUNK):
        packed = compressor.compress(read_exactly(source, min(_CHUNK, size - at)))
        target.write(packed)
        crc = zlib.crc32(packed, crc)
    packed = compressor.flush()
    target.write(packed)
    before, behind = _SEALS[kind]
    target.write(before + struct.pack("<L", zlib.crc32(packed, crc)) + behind)


def read_exactly(source: BinaryIO, size: int) -> bytes:
    """Return the next bytes of a file that is known to have them.

    Raises:
        ValueError: it has not: it was changed meanwhile.
    """
    data = source.read(size)
    if len(data) < size:
        raise ValueError(f"expected {size:,} more bytes to pack, found {len(data):,}: the file was changed meanwhile")
    return data


def unpack_stream(source: BinaryIO, kind: Kind, path: Path, limit: int, step: int = _CHUNK) -> Iterator[bytes]:
    """Yield what a stream holds, at most `step` bytes at a time; who takes all of it has a file that was checked whole.

    `path` is for the message. A stream without our seal was written by another program; it is checked by its own sums.

    Raises:
        DamagedCheckpointError: other bytes than were written, cut short, something behind its end, or a bomb: more than
            `limit` bytes.
        UnsupportedCheckpointError: packed so that more memory than is sensible, or a dictionary, is needed.
    """
    size = source.seek(0, os.SEEK_END)
    seal, left = _read_seal(source, kind, size)
    source.seek(0)
    crc = unpacked = 0
    decompressor = zlib.decompressobj(31) if kind == "gzip" else zstd().ZstdDecompressor()
    while not decompressor.eof:
        data = source.read(min(_CHUNK, left))
        if not data:
            raise DamagedCheckpointError(
                f"{path}: expected a whole {kind} file, found the beginning of one: it is cut short; {TRY_OLDER}"
            )
        if not unpacked and kind == "zstd":
            _check_claim(data, path, size, limit)
        left -= len(data)
        crc = zlib.crc32(data, crc)
        try:
            for chunk in _steps(decompressor, data, step):
                unpacked += len(chunk)
                if unpacked > limit:
                    raise bomb(path, size, unpacked)
                yield chunk
        except (zlib.error, zstd().ZstdError) as error:
            raise _undecodable(path, kind, error, ours=seal is not None) from None
    behind = left + len(decompressor.unused_data)
    if behind:
        raise DamagedCheckpointError(
            f"{path}: expected nothing behind the end of the {kind} stream, found {behind:,} bytes; {TRY_OLDER}"
        )
    if seal not in (None, crc):
        raise DamagedCheckpointError(
            f"{path}: expected CRC32 {seal:08x} of the whole file, found {crc:08x}: it is damaged; {TRY_OLDER}"
        )


def _read_seal(source: BinaryIO, kind: Kind, size: int) -> tuple[int | None, int]:
    """Return the CRC32 of the seal, None where there is none, and how many bytes lie before it."""
    before, behind = _SEALS[kind]
    length = len(before) + 4 + len(behind)
    source.seek(max(size - length, 0))
    tail = source.read(length)
    if len(tail) == length and tail.startswith(before) and tail.endswith(behind):
        return int.from_bytes(tail[len(before) : len(before) + 4], "little"), size - length
    return None, size


def _check_claim(start: bytes, path: Path, size: int, limit: int) -> None:
    """Refuse a frame that says itself that it is too large."""
    module = zstd()
    try:
        claimed = module.get_frame_info(start).decompressed_size
    except module.ZstdError:
        return  # the decompressor says more
    if claimed is not None and claimed > limit:
        raise bomb(path, size, claimed)


def _steps(decompressor: Any, data: bytes, step: int) -> Iterator[bytes]:
    """Yield what comes out of `data`, at most `step` bytes at a time."""
    while True:
        chunk = decompressor.decompress(data, step)
        yield chunk
        if hasattr(decompressor, "needs_input"):
            data, done = b"", decompressor.needs_input
        else:  # zlib may keep the end of a chunk that is full
            data = decompressor.unconsumed_tail
            done = not data and len(chunk) < step
        if done or decompressor.eof:
            return


def _undecodable(path: Path, kind: Kind, error: Exception, *, ours: bool) -> CheckpointError:
    said = printable(str(error).rpartition(": ")[2])
    if not ours and any(words in said for words in _NOT_HERE):
        return UnsupportedCheckpointError(
            f"{path}: expected a {kind} file as its program writes it by default, found one that says: {said}; unpack "
            "it with that program"
        )
    return DamagedCheckpointError(
        f"{path}: expected the bytes of a {kind} file, found others, which cannot be unpacked ({said}): it is damaged; "
        f"{TRY_OLDER}"
    )


def bomb(path: Path, packed: int, unpacked: int) -> DamagedCheckpointError:
    """Return the error of a file that unpacks to more than a checkpoint can."""
    return DamagedCheckpointError(
        f"{path}: expected a compressed checkpoint, found {packed:,} bytes that unpack to {unpacked:,} or more (a "
        "bomb?); do not unpack this file"
    )
