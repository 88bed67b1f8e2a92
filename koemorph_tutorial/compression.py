"""Fewer bytes for the same numbers: a checkpoint compressed, and back byte for byte; or without what inference leaves.

What is packed are the bytes of the .pth, not the objects in it, so to unpack them runs nothing. gzip and zstd are plain
streams, which ``gunzip`` and ``unzstd`` give back; shuffle-zstd makes byte planes first, and is smaller and faster.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from . import shuffled
from .parts import Piece
from .planes import plane_entropies, shuffle, unshuffle
from .records import SUFFIXES, TRY_OLDER, Codec, DamagedCheckpointError, UnsupportedCheckpointError
from .slimming import for_inference
from .stored import LOCAL
from .streams import STARTS, pack_stream, unpack_stream

__all__ = [
    "Piece",
    "check_codec",
    "codec_of",
    "for_inference",
    "pack",
    "plane_entropies",
    "shuffle",
    "unpack",
    "unpack_beginning",
    "unshuffle",
]

_LEAST_LIMIT, _MOST_TIMES = 1 << 30, 200  # bytes; times the packed size: zeros are smaller, but do not fill a gigabyte
LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # what torch.save before 1.6 wrote behind the first two bytes of a pickle
_SMALL = 1 << 16
_DESCRIPTOR = struct.Struct("<4s3L")  # behind a record of a zip whose size was not known before: APPNOTE.TXT 4.3.9


def codec_of(start: bytes) -> Codec | None:
    """Say by which codec a file is compressed, from its first 64 bytes; None: by none that is known here.

    >>> codec_of(bytes.fromhex("28b52ffd")), codec_of(b"PK and more")
    ('zstd', None)
    """
    if start.startswith(b"PK\x03\x04") and start[30:].startswith(shuffled.START):
        return "shuffle-zstd"
    return next((codec for codec, begin in STARTS.items() if start.startswith(begin)), None)


def pack(
    source: BinaryIO, target: BinaryIO, codec: Codec, *, pieces: Sequence[Piece] = (), pickle: Piece | None = None
) -> None:
    """Write the bytes of the .pth `source` to `target`, compressed; the same bytes each time.

    shuffle-zstd is told by `pieces` where which numbers lie, and by `pickle` where the record ``data.pkl`` does, so
    that a header is read from the beginning of the file. What it is not told costs size, never a byte.

    >>> import io
    >>> packed = io.BytesIO()
    >>> pack(io.BytesIO(bytes(1000)), packed, "zstd")
    >>> unpack(packed, "zstd", Path("zeros")) == bytes(1000)
    True

    Raises:
        ValueError: an unknown codec; pieces that lie over each other or outside of the file, or of an unknown width.
    """
    check_codec(codec)
    if codec == "shuffle-zstd":
        shuffled.pack(source, target, pieces, pickle)
    else:
        pack_stream(source, target, codec)


def check_codec(codec: str) -> None:
    """Refuse a codec that is not known, by a ValueError."""
    if codec not in SUFFIXES:
        raise ValueError(f"codec: expected one of {', '.join(SUFFIXES)}, found {codec!r}")


def unpack(source: BinaryIO, codec: Codec, path: Path) -> bytes:
    """Return the whole .pth that was packed into `source`, after everything was checked; `path` is for the message.

    Of gzip and zstd also what other programs packed: one member or one frame.

    Raises:
        DamagedCheckpointError: other bytes than were written, cut short, something behind them, or a bomb.
        UnsupportedCheckpointError: a pickle, as the recipe packs it; a newer format; more than the memory holds.
    """
    check_codec(codec)
    limit = _limit(source)
    try:
        if codec == "shuffle-zstd":
            return shuffled.unpack(source, path, limit)
        out = io.BytesIO()  # gives its bytes away without another copy of them
        for chunk in unpack_stream(source, codec, path, limit):
            if out.tell() < 14 <= out.tell() + len(chunk):
                _refuse_pickle(out.getvalue() + chunk[:14], path)
            out.write(chunk)
        return out.getvalue()
    except MemoryError:
        raise UnsupportedCheckpointError(
            f"{path}: expected a checkpoint that fits into memory, found a larger one; open it where there is more"
        ) from None


def _limit(source: BinaryIO) -> int:
    return max(_LEAST_LIMIT, _MOST_TIMES * source.seek(0, os.SEEK_END))


def _refuse_pickle(start: bytes | bytearray, path: Path) -> None:
    if start[:1] == b"\x80" and start[2:14] != LEGACY:
        raise UnsupportedCheckpointError(
            f"{path}: expected a file of torch.save in it, found a plain pickle, as gzip and pickle.dump write it: to "
            "open it is to run what it names, so it is not opened; if you trust who made it, unpickle it yourself and "
            "write it anew with save_compressed_checkpoint"
        )


def unpack_beginning(source: BinaryIO, codec: Codec, path: Path) -> bytes:
    """Return the record ``data.pkl`` of the .pth alone, unpacking no more than it takes to come to its end.

    Its own checksum was checked; nothing else of the file was.

    Raises:
        DamagedCheckpointError: as `unpack`.
        UnsupportedCheckpointError: as `unpack`; or the .pth does not begin with that record, as those of torch.save do.
    """
    check_codec(codec)
    if codec == "shuffle-zstd":
        return shuffled.unpack_pickle(source, path)
    return _Beginning(unpack_stream(source, codec, path, _limit(source), _SMALL), path).pickle()


class _Beginning:
    """The first bytes of a .pth, of which more are unpacked as they are asked for."""

    def __init__(self, chunks: Iterator[bytes], path: Path) -> None:
        self._chunks, self._path = chunks, path
        self._data = bytearray()

    def _fill(self, size: int) -> None:
        if size > shuffled.MOST_PICKLE:
            raise UnsupportedCheckpointError(
                f"{self._path}: expected a header of less than {shuffled.MOST_PICKLE:,} bytes, found none in so many; "
                "unpack it with decompress"
            )
        while len(self._data) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise DamagedCheckpointError(
                    f"{self._path}: expected a checkpoint in it, found {len(self._data):,} bytes, the beginning of one "
                    f"at most; {TRY_OLDER}"
                )
            self._data += chunk

    def pickle(self) -> bytes:
        """Return the first record, which must be ``data.pkl``."""
        self._fill(14)
        _refuse_pickle(self._data, self._path)
        self._fill(LOCAL.size)
        signature, _, flags, method, _, _, crc, packed, size, name, extra = LOCAL.unpack_from(self._data)
        begin = LOCAL.size + name + extra
        record = b""
        if signature == b"PK\x03\x04" and not method:
            self._fill(begin)
            record = bytes(self._data[LOCAL.size : LOCAL.size + name])
        if not record.endswith(b"/data.pkl"):
            raise UnsupportedCheckpointError(
                f"{self._path}: expected a file in it that begins with the record data.pkl, as those of torch.save do, "
                "found another one; unpack it with decompress"
            )
        if flags & 0x8:
            return self._up_to_descriptor(begin)
        self._fill(begin + size)
        data = bytes(self._data[begin : begin + size])
        if packed != size or zlib.crc32(data) != crc:
            raise DamagedCheckpointError(
                f"{self._path}: record {record.decode('utf-8', 'replace')!r} is damaged: expected CRC32 {crc:08x}, "
                f"found {zlib.crc32(data):08x}; {TRY_OLDER}"
            )
        return data

    def _up_to_descriptor(self, begin: int) -> bytes:
        """Return the bytes from `begin` on up to the descriptor that fits them."""
        crc, summed, at = 0, begin, begin
        while True:
            at = self._data.find(b"PK\x07\x08", at)
            if at < 0:
                at = max(len(self._data) - 3, begin)
                self._fill(len(self._data) + 1)
                continue
            self._fill(at + _DESCRIPTOR.size)
            _, stored, packed, size = _DESCRIPTOR.unpack_from(self._data, at)
            if packed == size == at - begin:
                crc, summed = zlib.crc32(self._data[summed:at], crc), at
                if stored in (crc, 0):  # 0: saved without checksums
                    return bytes(self._data[begin:at])
            at += 4
