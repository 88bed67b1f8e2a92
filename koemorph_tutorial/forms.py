"""A checkpoint in its other form, plain or compressed: whole and compared before it has its name, or not there at all.

What a form was made of is removed last, by who asks for it, once the new one is durable.
"""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import BinaryIO

from . import archive, compression, unpacked
from .compression import Piece
from .durable import link, refusals_named, same_bytes, sync_directory, write_copy, write_file
from .header import header_of
from .records import TRY_OLDER, CheckpointError, CheckpointWriteError, Codec, DamagedCheckpointError
from .stubs import find_tensors, item_bytes
from .zip_records import read_records, seek_behind_header


def put_in_place(source: Path, target: Path) -> None:
    """Give a checkpoint the further name `target` in one step: a link, of a compressed one a plain file of its content.

    A name of a run (best, last) stands for bytes that any program can read, and that no compressing removes.

    Raises:
        CheckpointError: a compressed file whose content cannot be unpacked, or is no checkpoint.
        OSError: the disk refused; what was there before is as it was.
    """
    with archive.open_file(source) as file:
        if isinstance(file, unpacked.Unpacked):
            archive.kind_of_file(file, source)
            write_copy(file, target)
            return
    link(source, target)


def write_packed(plain: BinaryIO, target: Path, codec: Codec) -> None:
    """Pack what an open, verified .pth holds into `target`, durably; it is there once it was unpacked and compared."""
    pieces, pickle = _pieces(plain, target)

    def write(packed: BinaryIO) -> None:
        try:
            compression.pack(plain, packed, codec, pieces=pieces, pickle=pickle)
        except ValueError as error:  # records that lie over each other, or a file that somebody writes to meanwhile
            raise DamagedCheckpointError(f"{target}: nothing was written: {error}; {TRY_OLDER}") from None

    def check(packed: BinaryIO) -> None:
        if not same_bytes(io.BytesIO(compression.unpack(packed, codec, target)), plain):
            raise OSError(errno.EIO, "what was read back is not what was compressed")

    with refusals_named(target):
        write_file(target, write, check=check)
        sync_directory(target.parent)


def _pieces(plain: BinaryIO, path: Path) -> tuple[list[Piece], Piece]:
    """Return where the numbers of each storage of an open .pth lie, and of how many bytes each is; and its pickle."""
    header = header_of(plain, path)
    widths: dict[str, int] = {}
    for _, stub in find_tensors(header.content):
        width = item_bytes(stub.storage.dtype)
        # A complex number is two, whose bytes resemble each other as those of two neighbours do.
        widths.setdefault(stub.storage.key, width // 2 if stub.storage.dtype.startswith("complex") else width)
    pieces = []
    for key, width in widths.items():
        place = header.places.get(key)
        if place is not None and width:
            archive.seek_place(plain, path, place)
            pieces.append(Piece(offset=plain.tell(), size=place.size, width=width))
    (info,) = [each for each in read_records(plain, path) if each.filename.partition("/")[2] == "data.pkl"]
    seek_behind_header(plain, path, info.orig_filename, info.header_offset)
    return pieces, Piece(offset=plain.tell(), size=info.file_size, width=1)


def is_there_already(target: Path, plain: BinaryIO, codec: Codec | None) -> bool:
    """Say whether `target` is this very file in that form, as a kill before the removal of its source leaves it.

    Raises:
        CheckpointWriteError: it is another file.
    """
    if not os.path.lexists(target):
        return False
    same = False
    try:
        with archive.open_file(target) as file:
            same = getattr(file, "codec", None) == codec and same_bytes(plain, file)
    except CheckpointError:
        pass  # whatever it is, it is another one
    if not same:
        refusal = CheckpointWriteError(
            f"{target}: expected no file of that name, found another one; move it away, or name another output"
        )
        refusal.errno = errno.EEXIST
        raise refusal
    with refusals_named(target), open(target, "rb") as file:
        os.fsync(file.fileno())  # nobody knows who wrote it
        sync_directory(target.parent)
    return True


def identity_of(path: Path) -> tuple[int, ...]:
    """Return what tells that a file is the same, and was not changed; nothing where there is none."""
    try:
        return unpacked.identity_of(path.stat(follow_symlinks=False))
    except OSError:
        return ()


def remove_source(source: Path, target: Path, before: tuple[int, ...]) -> None:
    """Remove a file whose other form is durable, if it still is what it was `before` it was read, or gone already.

    Raises:
        CheckpointWriteError: it is another one now, or the disk refused; then both files are there.
    """
    now = identity_of(source)
    if now not in (before, ()):
        raise CheckpointWriteError(
            f"{source}: expected the file that was read, found another one in its place; both it and {target} stay"
        )
    with refusals_named(source):
        source.unlink(missing_ok=True)
        sync_directory(source.parent)
