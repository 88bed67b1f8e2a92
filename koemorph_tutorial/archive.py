"""The bytes of a checkpoint file, without torch: what kind of file it is, whether it is whole, where things lie in it.

``torch.save`` writes a zip whose records are stored, not compressed, each with a CRC32; ``torch.jit.save`` does the
same, and compresses source code. ``torch.load`` does not look at these checksums; `verify` does.

A compressed checkpoint is read like a plain one: `open_file` gives what is in it, and nobody above needs to know.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

from .compression import LEGACY, codec_of, unpack, unpack_beginning
from .records import (
    SUFFIXES,
    TRY_OLDER,
    CheckpointError,
    CheckpointNotFoundError,
    Codec,
    DamagedCheckpointError,
    UnsupportedCheckpointError,
    split_codec,
)
from .streams import STARTS, unpack_stream
from .unpacked import CONTENTS, Content, Unpacked, identity_of
from .zip_records import (
    cut_short,
    damaged,
    find_damaged,
    has_checksums,
    no_checkpoint,
    read_records,
    seek_behind_header,
)

_NEWEST = 10  # version of torch's zip format: kMaxSupportedFileFormatVersion of torch 2.13
FileKind = Literal["zip", "legacy", "safetensors"]

ZIP_START = b"PK\x03\x04"
_START = 64  # bytes that tell a codec
_TELLING = 14  # bytes that tell what is in a file

_OTHER_FILES = (  # how a file, or what is in a compressed one, begins; what it is, what to do
    (STARTS["gzip"], "a gzip file", "unpack it with gunzip"),
    (STARTS["zstd"], "a zstd file", "unpack it with unzstd"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", "name a file of torch.save"),
    (b"\x89PNG", "a PNG picture", "name a file of torch.save"),
    (b"\x80", "a plain pickle", "name a file of torch.save; to open a pickle is to run what it names"),
)


def open_file(path: Path) -> BinaryIO:
    """Open a checkpoint for reading, of a compressed one what is in it; one clear line for what cannot be one.

    A compressed file is unpacked into memory, and all of it checked. While it is held open, to open it once more costs
    nothing.

    Raises:
        CheckpointNotFoundError: nothing of that name, or not to be read.
        DamagedCheckpointError: a directory, a pipe, an empty file; a compressed one that is not what was written.
        UnsupportedCheckpointError: more in it than the memory holds.
    """
    with ExitStack() as stack, reading(path):
        file = stack.enter_context(open_bytes(path))
        codec = _codec(file)
        if codec is not None:
            return cast(BinaryIO, Unpacked(_unpack(file, codec, path)))
        stack.pop_all()  # it stays open
        return file


def _codec(file: BinaryIO) -> Codec | None:
    file.seek(0)
    codec = codec_of(file.read(_START))
    file.seek(0)
    return codec


def _unpack(file: BinaryIO, codec: Codec, path: Path) -> Content:
    status = os.fstat(file.fileno())
    identity = identity_of(status)
    content = CONTENTS.get(identity)
    if content is None:
        if codec != "shuffle-zstd":
            # Whatever is no checkpoint is refused before all of it is unpacked; so are most bombs.
            start = b""
            for chunk in unpack_stream(file, codec, path, sys.maxsize, _START):
                start += chunk
                if len(start) >= _TELLING:
                    break
            if not start.startswith(b"\x80"):  # of a pickle, unpack says more
                _kind_of_start(start[:_TELLING], None, path, codec)
        data = memoryview(unpack(file, codec, path)).toreadonly()
        content = CONTENTS[identity] = Content(data=data, codec=codec, packed=status.st_size)
    return content


def read_beginning(path: Path) -> tuple[bytes, Codec] | None:
    """Return the pickled object tree of a compressed checkpoint, and the codec; nothing behind it is unpacked.

    None for a plain file.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: as `open_file`, for what the beginning shows.
    """
    with open_bytes(path) as file, reading(path):
        codec = _codec(file)
        return None if codec is None else (unpack_beginning(file, codec, path), codec)


def codec_of_file(path: Path) -> Codec | None:
    """Say by which codec a file is compressed, whatever its name says; None for any other.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: as `open_bytes`.
    """
    with open_bytes(path) as file, reading(path):
        return _codec(file)


def open_bytes(path: Path) -> BinaryIO:
    """Open a checkpoint for reading as it lies on the disk, compressed or not.

    Raises:
        CheckpointNotFoundError: nothing of that name, or not to be read.
        DamagedCheckpointError: a directory, a pipe, an empty file.
    """
    expected = "expected a checkpoint file (.pth)"
    if "\0" in str(path):
        raise CheckpointNotFoundError(f"{str(path)!r}: {expected}, but no file can have this name")
    try:
        _check_mode(path, os.stat(path).st_mode, expected)
        # Without O_NONBLOCK a pipe that has taken the file's place since would wait for a writer for ever.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except (FileNotFoundError, NotADirectoryError):
        other = next((form.name for form in other_forms(path) if os.path.isfile(form)), None)
        todo = f"name {other}, which lies there" if other else "check the path"
        raise CheckpointNotFoundError(f"{path}: {expected}, found nothing of that name; {todo}") from None
    except OSError as error:  # no permission, a link to itself, a name too long …
        raise CheckpointNotFoundError(f"{path}: {expected}, but it cannot be read: {error.strerror}") from None
    status = os.fstat(file.fileno())
    try:
        _check_mode(path, status.st_mode, expected)
        if status.st_size == 0:
            raise DamagedCheckpointError(f"{path}: {expected}, found an empty file; {TRY_OLDER}")
    except DamagedCheckpointError:
        file.close()
        raise
    return file


def other_forms(path: Path) -> list[Path]:
    """Return the names beside `path` that the same checkpoint may have: plain, and compressed by each codec.

    >>> [form.name for form in other_forms(Path("run.pth.gz"))]
    ['run.pth', 'run.pth.zst', 'run.shuffle.pth']
    """
    plain = split_codec(path.name)[0]
    if not plain.endswith(".pth"):
        return []
    stem = plain.removesuffix(".pth")
    return [path.with_name(name) for name in (plain, *map(stem.__add__, SUFFIXES.values())) if name != path.name]


def _check_mode(path: Path, mode: int, expected: str) -> None:
    if stat.S_ISDIR(mode):
        raise DamagedCheckpointError(f"{path}: {expected}, found a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise DamagedCheckpointError(f"{path}: {expected}, found no regular file")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a disk says that cannot read a file any more into an error of ours.

    Raises:
        DamagedCheckpointError: with the words of the disk.
    """
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise DamagedCheckpointError(
            f"{path}: expected bytes that can be read, found: {error.strerror or error}; copy what can be read, look "
            f"after the disk, and {TRY_OLDER}"
        ) from error


def kind_of_file(file: BinaryIO, path: Path) -> FileKind:
    """Say of which kind an open file is, from how it begins.

    Raises:
        UnsupportedCheckpointError: a file of another kind. DamagedCheckpointError: of none that is known.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return _kind_of_start(file.read(_TELLING), size, path, getattr(file, "codec", None))


def _kind_of_start(start: bytes, size: int | None, path: Path, codec: Codec | None) -> FileKind:
    """Say of which kind a file is that begins so; `size` is that of the whole, None where nobody knows it."""
    if start in (b"\x80\x02" + LEGACY, b"\x80\x03" + LEGACY):
        return "legacy"
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and (size is None or length < size or path.suffix == ".safetensors"):
        return "safetensors"
    if ZIP_START.startswith(start[: len(ZIP_START)]):  # a zip with anything before it torch takes for a pickle
        return "zip"
    inside = f" in the {codec} file" if codec else ""
    expected = f"{path}: expected a zip archive as torch.save writes it{inside}, found"
    for begin, what, todo in _OTHER_FILES:
        if start.startswith(begin):
            raise UnsupportedCheckpointError(f"{expected} {what}; {todo}")
    raise DamagedCheckpointError(f"{expected} a file that begins with {start[:8]!r}; check the path")


def verify(file: BinaryIO, path: Path) -> None:
    """Check every record of the open checkpoint `file` against the CRC32 that was stored when it was written.

    `path` is only for the message. What this cannot see: a file that was written wrong in memory, and what the
    disk holds where the kernel's cache still has the right bytes.

    Raises:
        DamagedCheckpointError: no zip, cut short, or a record whose bytes changed.
        UnsupportedCheckpointError: a whole file that holds no checksums.
    """
    kind = kind_of_file(file, path)
    if kind != "zip":
        raise UnsupportedCheckpointError(
            f"{path}: expected the zip format, found "
            + (
                "the one that torch.save wrote before 1.6, which holds no checksums; load it with torch.load and save "
                "it again"
                if kind == "legacy"
                else "a safetensors file, which holds no checksums and nothing to go on from; name a file of torch.save"
            )
        )
    records = read_records(file, path)
    if not has_checksums(records):
        raise UnsupportedCheckpointError(
            f"{path}: expected checksums, found none (saved with compute_crc32 off?), so whether it is sound cannot be "
            "told; load it with verify=False if you trust it, and save it again"
        )
    error = next(find_damaged(file, path, records), None)
    if error is not None:
        raise error


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the bytes of a storage lie in a file: `size` of them, from `offset` on.

    In a zip `record` is the name of theirs and `offset` that of the header before them. `crc` is the CRC32 that was
    stored when they were written; None where the file has none.
    """

    offset: int
    size: int
    record: str = ""
    crc: int | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What of a zip its header is read from: the `pickle`, and where each storage lies in it, by its key.

    `constants` are the pickled constants of an archive of TorchScript, which torch tells one by, and `code` its other
    records; `checksums`: it holds any.
    """

    pickle: bytes
    places: Mapping[str, Place]
    checksums: bool
    constants: bytes | None = None
    code: Mapping[str, str] = field(default_factory=dict)


def parts_of(file: BinaryIO, path: Path) -> Parts:
    """Return the record ``data.pkl``, the pickled object tree, after its checksum was checked, and what lies beside it.

    `path` is only for messages.

    Raises:
        DamagedCheckpointError: no zip of torch's, or a damaged ``data.pkl``.
        UnsupportedCheckpointError: numbers of another order of their bytes, or a newer format of torch's.
    """
    with reading(path):
        records = read_records(file, path)
        pickles = [info for info in records if info.filename.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise no_checkpoint(path, len(pickles))
        checksums = has_checksums(records)
        places = {info.filename: _place(info, checksums) for info in records}
        root = pickles[0].filename.removesuffix("data.pkl")
        inside = {name.removeprefix(root): place for name, place in places.items() if name.startswith(root)}
        if len(inside) < len(places):
            raise DamagedCheckpointError(f"{path}: expected one folder of records, found several; {TRY_OLDER}")
        short = {name.lower(): place for name, place in inside.items()}  # torch looks for them in any case
        small: dict[str, bytes] = {
            name: bytes(read_place(file, path, short[name]))
            for name in ("data.pkl", "constants.pkl", "byteorder", "version")
            if name in short and (name.endswith(".pkl") or short[name].size < 99)
        }
        _check_format(path, short, small)
        code = {
            name: f"{place.size:,} bytes, CRC32 {place.crc or 0:08x}"
            for name, place in inside.items()
            if name.startswith(("code/", "constants")) and not name.endswith(".debug_pkl")
        }
        return Parts(
            pickle=small["data.pkl"],
            constants=small.get("constants.pkl"),
            places={name.removeprefix("data/"): place for name, place in inside.items() if name.startswith("data/")},
            checksums=checksums,
            code=code if "constants.pkl" in short else {},
        )


def _check_format(path: Path, names: Collection[str], small: Mapping[str, bytes]) -> None:
    """Refuse what torch reads another way than it is read here; `small` holds the short ones of the records `names`."""
    if small.get("byteorder", b"" if "byteorder" in names else b"little") != b"little":
        raise UnsupportedCheckpointError(
            f"{path}: expected the numbers of a little-endian machine, found another order of their bytes; load it "
            "with torch.load there, and save the numbers as text"
        )
    if "constants.pkl" in names and not any(name.startswith("code/") for name in names):
        raise DamagedCheckpointError(f"{path}: expected a TorchScript archive, found one without code; {TRY_OLDER}")
    version = re.fullmatch(rb"(\d{1,4})\n?", small.get("version", b"" if "version" in names else b"3"))
    if version is None or int(version[1]) < 1:
        raise DamagedCheckpointError(f"{path}: expected the version of the format, found none; {TRY_OLDER}")
    if int(version[1]) > _NEWEST:
        raise UnsupportedCheckpointError(
            f"{path}: expected version {_NEWEST} of torch's format or older, found {int(version[1])}; update this "
            "library, which knows no newer one"
        )


def _place(info: zipfile.ZipInfo, checksums: bool) -> Place:
    return Place(
        offset=info.header_offset,
        size=info.file_size,
        record=info.orig_filename,
        crc=info.CRC if checksums else None,
    )


def seek_place(file: BinaryIO, path: Path, place: Place) -> None:
    """Move to the first byte of a place."""
    if place.record:
        seek_behind_header(file, path, place.record, place.offset)
    else:
        file.seek(place.offset)


def read_place(file: BinaryIO, path: Path, place: Place) -> bytearray:
    """Return the bytes that lie at a place, after they were checked where the file has a checksum for them.

    Raises:
        DamagedCheckpointError: cut short, or other bytes than were written.
    """
    data = bytearray(min(place.size, file.seek(0, os.SEEK_END)))  # whatever it says to hold
    seek_place(file, path, place)
    if file.readinto(data) != place.size:  # type: ignore[attr-defined]  # typeshed: not in BinaryIO
        raise cut_short(path)
    if place.crc is not None and zlib.crc32(data) != place.crc:
        raise damaged(path, place.record, place.crc, zlib.crc32(data))
    return data
