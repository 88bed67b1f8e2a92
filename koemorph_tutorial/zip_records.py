"""The records of a zip as torch writes it: where they are, whether they are what was written, without torch.

Stored bytes and a CRC32 for each, at offsets that are multiples of 64; TorchScript compresses its source code. All
else is damage, or was made to deceive. The format: PKWARE's APPNOTE.TXT, whose sections are named below.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from .records import TRY_OLDER, DamagedCheckpointError
from .stored import END, END_64, ENTRY, LOCAL, LOCATOR_64

_LARGE = 1 << 24  # bytes that are worth a second thread
_CHUNK = 1 << 18  # what a core's cache holds: larger ones are slower
_KNOWN_FLAGS = 0x0808  # sizes after the bytes, names in UTF-8: all that torch.save sets
_DIRECTORY = 0x10  # an attribute: torch takes a record that has it for an empty one
_MOST_SOURCE = 1 << 26  # bytes, in all: no model has 64 MB of source code


def read_records(file: BinaryIO, path: Path) -> list[zipfile.ZipInfo]:
    """Return the directory of a zip of torch's, after all of it that can be checked was checked.

    Raises:
        DamagedCheckpointError: no such zip, cut short, or one that torch would not have written.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - END.size, 0))
    file.read()  # zipfile would take a disk that cannot read this for a file that is cut short
    try:
        with zipfile.ZipFile(file) as archive:
            entries, start = archive.infolist(), archive.start_dir
            records = [
                info for info in entries if info.file_size or not info.filename.endswith("/")
            ]  # as `zip -r` makes them
    except Exception as error:  # whatever a broken directory makes of it
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk
        records = []
    if not records:
        raise cut_short(path)
    if not any(info.filename.endswith("/data.pkl") for info in records):
        raise no_checkpoint(path, 0)
    if len({info.filename.lower() for info in records}) < len(records):  # torch looks for names in any case
        raise DamagedCheckpointError(f"{path}: expected each record once, found one twice; {TRY_OLDER}")
    for info in records:
        _check_record(info, path)
    source = sum(info.file_size for info in records if info.compress_type != zipfile.ZIP_STORED)
    if source > _MOST_SOURCE:
        raise DamagedCheckpointError(
            f"{path}: expected the source code of a model, found {source:,} bytes of it (a zip bomb?); do not unpack "
            "this file"
        )
    if sum(info.compress_size for info in records) > size:  # longer than the file, or one over the other
        raise cut_short(path)
    _check_end(file, path, len(entries), start, size)
    return records


def _check_record(info: zipfile.ZipInfo, path: Path) -> None:
    """Refuse what torch does not write: it is damage, a zip bomb, or a way out of the folder it is unpacked to."""
    code = info.filename.partition("/")[2].startswith("code/")
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    packed = code and info.compress_type == zipfile.ZIP_DEFLATED
    odd = info.flag_bits & ~_KNOWN_FLAGS or info.external_attr & _DIRECTORY or info.volume or info.comment
    if not (stored or packed) or odd:
        raise DamagedCheckpointError(
            f"{path}: record {info.filename!r}: expected stored bytes, found a compressed, encrypted or foreign "
            f"record; {TRY_OLDER}"
        )
    if info.filename.startswith("/") or ".." in info.filename.split("/") or "\0" in info.orig_filename:
        raise DamagedCheckpointError(
            f"{path}: record {info.filename!r}: expected a name within the archive, found one that leads out of it; do "
            "not unpack this file"
        )


def _check_end(file: BinaryIO, path: Path, count: int, start: int, size: int) -> None:
    """Check that directory and end are where, and as long as, they say themselves: torch looks at each of these."""
    file.seek(start)
    tail = file.read(size - start)
    end = len(tail) - END.size
    holds = end >= 0 and tail[end : end + 4] == b"PK\x05\x06"
    if holds:
        _, disk, first, here, total, length, offset, comment = END.unpack_from(tail, end)
        long = end - LOCATOR_64.size
        found, stop = (disk, first, here, total, length, offset, comment), end
        if long >= 0 and tail[long : long + 4] == b"PK\x06\x07" and long >= END_64.size:
            _, disk, at, disks = LOCATOR_64.unpack_from(tail, long)
            stop = long - END_64.size
            name, rest, _, _, own, first, here_64, total_64, length_64, offset_64 = END_64.unpack_from(tail, stop)
            holds = (name, rest, disk, disks, own, first, at) == (b"PK\x06\x06", 44, 0, 1, 0, 0, start + stop)
            holds &= (here_64, total_64, length_64, offset_64) == (count, count, stop, start)
        holds &= all(
            one in (exact, full)
            for one, exact, full in zip(
                found,
                (0, 0, count, count, stop, start, 0),
                (0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),  # where the longer end has the number
                strict=True,
            )
        )
        at = 0
        for _ in range(count):
            lengths = struct.unpack_from("<3H", tail, at + 28)
            holds &= tail[at : at + 4] == b"PK\x01\x02"
            at += ENTRY.size + sum(lengths)
            if at > stop:
                break
        holds &= at == stop
    if not holds:
        raise DamagedCheckpointError(
            f"{path}: expected the end of a zip archive as torch.save writes it, found one that does not fit what lies "
            f"before it: the end of the file is damaged; {TRY_OLDER}"
        )


def has_checksums(records: list[zipfile.ZipInfo]) -> bool:
    """Say whether checksums were stored at all; a good file may have been saved without."""
    filled = [info for info in records if info.file_size]
    return not filled or any(info.CRC for info in filled)


def find_damaged(file: BinaryIO, path: Path, records: list[zipfile.ZipInfo]) -> Iterator[DamagedCheckpointError]:
    """Yield an error for each record whose bytes are not those that its CRC32 was made of.

    Two cores share the work where there is enough of it: zlib computes without Python's lock.
    """
    if sum(info.compress_size for info in records) < _LARGE:
        yield from filter(None, (_check(file, path, info) for info in records))
        return
    turn = Lock()
    with ThreadPoolExecutor(2) as pool:
        try:
            yield from filter(None, pool.map(lambda info: _check(_Shared(file, turn), path, info), records))
        finally:
            pool.shutdown(cancel_futures=True)


class _Shared(io.RawIOBase):
    """A file that others read as well, one at a time: with a position of its own."""

    def __init__(self, file: BinaryIO, turn: Lock) -> None:
        self._file, self._turn, self._at = file, turn, 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset if whence == os.SEEK_SET else self._at + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        with self._turn:
            self._file.seek(self._at)
            count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]  # typeshed: not in BinaryIO
        self._at += count
        return count


def _check(file: Any, path: Path, info: zipfile.ZipInfo) -> DamagedCheckpointError | None:
    found = 0
    try:
        seek_behind_header(file, path, info.orig_filename, info.header_offset)
        for chunk in _chunks(file, path, info, memoryview(bytearray(min(info.compress_size, _CHUNK)))):
            found = zlib.crc32(chunk, found)
    except DamagedCheckpointError as error:
        return error
    return None if found == info.CRC else damaged(path, info.filename, info.CRC, found)


def _chunks(file: BinaryIO, path: Path, info: zipfile.ZipInfo, buffer: memoryview) -> Iterator[bytes | memoryview]:
    """Yield the bytes of the record that `file` stands at, unpacked."""
    left, unpack, unpacked = info.compress_size, zlib.decompressobj(-15), 0
    while left:
        count = file.readinto(buffer[: min(left, len(buffer))])  # type: ignore[attr-defined]  # typeshed: not in BinaryIO
        if not count:
            raise cut_short(path)
        left -= count
        if info.compress_type == zipfile.ZIP_STORED:
            yield buffer[:count]
            continue
        rest: bytes | memoryview = buffer[:count]
        piece = b""
        while rest or len(piece) == _CHUNK:  # as much at a time as fits; zlib may keep the end of it when all is read
            try:
                piece = unpack.decompress(rest, _CHUNK)
            except zlib.error:
                raise damaged(path, info.filename, info.CRC, None) from None
            unpacked += len(piece)
            stuck = not piece and rest and rest == unpack.unconsumed_tail
            if unpacked > info.file_size or stuck or unpack.unused_data:
                raise damaged(path, info.filename, info.CRC, None)
            yield piece
            rest = unpack.unconsumed_tail
    if info.compress_type != zipfile.ZIP_STORED and (unpacked != info.file_size or not unpack.eof):
        raise damaged(path, info.filename, info.CRC, None)


def seek_behind_header(file: BinaryIO, path: Path, record: str, offset: int) -> None:
    """Move to the first byte of a record, whose header lies at `offset`; the name there must be its own."""
    file.seek(max(offset, 0))  # below 0 where the end of the file is damaged
    head = file.read(LOCAL.size)
    if len(head) == LOCAL.size:
        signature, *_, name_length, extra_length = LOCAL.unpack(head)
        name = file.read(name_length)
        if offset >= 0 and signature == b"PK\x03\x04" and name == record.encode():
            file.seek(extra_length, os.SEEK_CUR)
            return
    raise DamagedCheckpointError(
        f"{path}: record {record!r}: expected at byte {offset}, found something else; {TRY_OLDER}"
    )


def cut_short(path: Path) -> DamagedCheckpointError:
    """Return the error of a file that ends before its bytes do."""
    return DamagedCheckpointError(
        f"{path}: expected a whole zip archive, found the beginning of one: the file is cut short; {TRY_OLDER}"
    )


def no_checkpoint(path: Path, count: int) -> DamagedCheckpointError:
    """Return the error of a zip that has not just one pickled object tree."""
    return DamagedCheckpointError(
        f"{path}: expected one record data.pkl, as torch.save writes it, found {count}: another kind of zip; check the "
        "path"
    )


def damaged(path: Path, record: str, expected: int, found: int | None) -> DamagedCheckpointError:
    """Return the error of a record whose bytes are not those that were written; None: they cannot be unpacked."""
    what = f"{found:08x}" if found is not None else "bytes that cannot be unpacked"
    return DamagedCheckpointError(
        f"{path}: record {record!r} is damaged: expected CRC32 {expected:08x}, found {what}; {TRY_OLDER}"
    )
