"""A checkpoint file without torch: is it whole, and where in it is the header?

``torch.save`` writes a zip whose records are stored, not compressed, each with a CRC32. ``torch.load`` does not look at
these checksums; `verify` does.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .records import CheckpointNotFoundError, DamagedCheckpointError, UnsupportedCheckpointError

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_CHUNK = 1 << 20
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # torch.save before 1.6
_OTHER_FILES = (  # how a file begins, what it is, what to do
    (b"\x1f\x8b", "a gzip file", "unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it with unzstd"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", "name a file of torch.save"),
    (b"\x89PNG", "a PNG picture", "name a file of torch.save"),
    (b"\x80", "a plain pickle", "name a file of torch.save; to open a pickle is to run what it names"),
)
_KNOWN_FLAGS = 0x0808  # sizes after the bytes, names in UTF-8: all that torch.save sets
_DIRECTORY = 0x10  # an attribute: torch takes a record that has it for an empty one
_TRY_OLDER = "use an older checkpoint of the run"


def open_file(path: Path) -> BinaryIO:
    """Open a checkpoint for reading; one clear line for what cannot be one.

    Raises:
        CheckpointNotFoundError: nothing of that name.
        DamagedCheckpointError: a directory, a pipe, an empty file.
    """
    expected = "expected a checkpoint file (.pth)"
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise DamagedCheckpointError(f"{path}: {expected}, found a directory; name a file in it")
        if not stat.S_ISREG(mode):  # a named pipe would wait for a writer for ever
            raise DamagedCheckpointError(f"{path}: {expected}, found no regular file")
        file = open(path, "rb")  # noqa: SIM115  # the caller closes what it asked for
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFoundError(f"{path}: {expected}, found nothing of that name; check the path") from None
    except OSError as error:  # no permission, a link to itself, a name too long …
        raise CheckpointNotFoundError(f"{path}: {expected}, but it cannot be read: {error.strerror}") from None
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise DamagedCheckpointError(f"{path}: {expected}, found an empty file; {_TRY_OLDER}")
    return file


def verify(file: BinaryIO, path: Path) -> None:
    """Check every record of the open checkpoint `file` against the CRC32 that was stored when it was written.

    `path` is only for the message. What this cannot see: a file that was written wrong in memory, and what the
    disk holds where the kernel's cache still has the right bytes.

    Raises:
        DamagedCheckpointError: no zip, cut short, or a record whose bytes changed.
        UnsupportedCheckpointError: a whole file that holds no checksums.
    """
    records = _records(file, path)
    filled = [info for info in records if info.file_size]
    if filled and all(info.CRC == 0 for info in filled):
        raise UnsupportedCheckpointError(
            f"{path}: expected checksums, found none (saved with compute_crc32 off?), so whether it is sound cannot be "
            "told; load it with verify=False if you trust it, and save it again"
        )
    buffer = memoryview(bytearray(_CHUNK))
    for info in records:
        _seek_record(file, path, info)
        found, left = 0, info.file_size
        while left:
            count = file.readinto(buffer[: min(left, _CHUNK)])  # type: ignore[attr-defined]  # typeshed: not in BinaryIO
            if not count:
                raise _cut_short(path)
            found = zlib.crc32(buffer[:count], found)
            left -= count
        if found != info.CRC:
            raise _damaged(path, info, found)


@dataclass(frozen=True)
class Parts:
    """What of a file its header is read from: the `pickle`, and how many bytes each storage has, by its key."""

    pickle: bytes
    storages: Mapping[str, int]
    size: int


def read_parts(path: Path) -> Parts:
    """Return the record ``data.pkl``, the pickled object tree, after its checksum was checked, and what lies beside it.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: as `open_file`; also a damaged ``data.pkl``.
    """
    with open_file(path) as file:
        records = _records(file, path)
        pickles = [info for info in records if info.filename.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise _no_checkpoint(path, len(pickles))
        _seek_record(file, path, pickles[0])
        data = file.read(pickles[0].file_size)
        size = os.fstat(file.fileno()).st_size
    if pickles[0].CRC and zlib.crc32(data) != pickles[0].CRC:
        raise _damaged(path, pickles[0], zlib.crc32(data))
    folder = pickles[0].filename.removesuffix(".pkl") + "/"
    storages = {
        info.filename.removeprefix(folder): info.file_size for info in records if info.filename.startswith(folder)
    }
    return Parts(data, storages, size)


def _records(file: BinaryIO, path: Path) -> list[zipfile.ZipInfo]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(len(_LEGACY_START))
    try:
        records = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        records = []
    if not records:
        if start.startswith(b"PK"):
            raise _cut_short(path)
        if start == _LEGACY_START:
            raise UnsupportedCheckpointError(
                f"{path}: expected the zip format, found the one that torch.save wrote before 1.6, which holds no "
                "checksums; load it with torch.load and save it again"
            )
        kinds = [(what, todo) for begin, what, todo in _OTHER_FILES if start.startswith(begin)]
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
            kinds = [("a safetensors file", "open it with safetensors.torch.load_file")]
        what, todo = kinds[0] if kinds else (f"a file that begins with {start[:8]!r}", "check the path")
        raise DamagedCheckpointError(f"{path}: expected a zip archive as torch.save writes it, found {what}; {todo}")
    if not any(info.filename.endswith("/data.pkl") for info in records):
        raise _no_checkpoint(path, 0)
    if len({info.filename for info in records}) < len(records):
        raise DamagedCheckpointError(f"{path}: expected each record once, found one twice; {_TRY_OLDER}")
    for info in records:
        # torch stores its records plainly: whatever else it says is damage or a zip bomb.
        stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        odd = info.flag_bits & ~_KNOWN_FLAGS or info.external_attr & _DIRECTORY or info.volume or info.comment
        if not stored or odd:
            raise DamagedCheckpointError(
                f"{path}: record {info.filename!r}: expected stored bytes, found a compressed, encrypted or foreign "
                f"record; {_TRY_OLDER}"
            )
    if sum(info.file_size for info in records) > size:  # longer than the file, or one over the other
        raise _cut_short(path)
    return records


def _seek_record(file: BinaryIO, path: Path, info: zipfile.ZipInfo) -> None:
    """Move to the first byte of a record; the name before it must be the one in the directory at the end."""
    file.seek(max(info.header_offset, 0))  # below 0 where the end of the file is damaged
    head = file.read(_LOCAL_HEADER.size)
    if len(head) == _LOCAL_HEADER.size:
        signature, *_, name_length, extra_length = _LOCAL_HEADER.unpack(head)
        name = file.read(name_length)
        if info.header_offset >= 0 and signature == b"PK\x03\x04" and name == info.orig_filename.encode():
            file.seek(extra_length, os.SEEK_CUR)
            return
    raise DamagedCheckpointError(
        f"{path}: record {info.filename!r}: expected at byte {info.header_offset}, found something else; {_TRY_OLDER}"
    )


def _cut_short(path: Path) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"{path}: expected a whole zip archive, found the beginning of one: the file is cut short; {_TRY_OLDER}"
    )


def _no_checkpoint(path: Path, count: int) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"{path}: expected one record data.pkl, as torch.save writes it, found {count}: another kind of zip; check the "
        "path"
    )


def _damaged(path: Path, info: zipfile.ZipInfo, found: int) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"{path}: record {info.filename!r} is damaged: expected CRC32 {info.CRC:08x}, found {found:08x}; {_TRY_OLDER}"
    )
