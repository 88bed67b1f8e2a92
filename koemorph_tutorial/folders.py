"""A checkpoint of many files: a folder that is there at once and complete, or not at all, and knows its own bytes.

Order of a save: a temporary folder beside the target, every file in it synced and summed up, a manifest of the sums,
the folder synced, the rename that gives it its name, the parent synced. Whatever stops that before the rename leaves
nothing under the name; so a folder with a name is complete, until a disk changes something, and the sums show that.

A kill leaves the temporary folder. It is locked while somebody fills it, so the next save knows what is stale.

What this does not promise: the sums are of what the kernel gave back after the write, not of what lies on the platter.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .archive import reading
from .durable import (
    TEMPORARY,
    prepare_directory,
    refusals_named,
    sync_directory,
    temporary_of,
    write_file,
)
from .records import (
    CheckpointNotFoundError,
    CheckpointWriteError,
    DamagedCheckpointError,
    NewerFormatError,
    UsedDirectoryError,
)

MANIFEST_NAME = "manifest.json"
_VERSION = 1
_ANOTHER = "use an older folder of the run"
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder says of itself: `files` are the size in bytes and the CRC32 of each.

    `saves` counts the saves into the folder's parent, itself included, so the most is the newest; `line` names the line
    of runs; `ranks` is how many processes wrote it; `objects` are the classes of what was saved.
    """

    line: str
    saves: int
    ranks: int
    torch: str
    objects: Mapping[str, str]
    files: Mapping[str, tuple[int, int]]
    version: int = _VERSION


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A folder that is being filled: its temporary `path`, the `lock` on it, and what it will be called and follow."""

    path: Path
    lock: int
    folder: Path
    line: str
    saves: int


def begin(folder: Path) -> Unfinished:
    """Make a temporary folder beside `folder`, after what kills have left there was removed.

    Raises:
        UsedDirectoryError: something has that name already; it is not touched.
        CheckpointWriteError: the disk refused.
    """
    _check_unused(folder)
    parent = folder.parent
    prepare_directory(parent)
    _sweep(parent)
    newest = next(iter(find_complete(parent)), None)
    with refusals_named(folder):
        while True:
            path = temporary_of(folder)
            os.mkdir(path)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # a sweep looks at it, or a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.isdir(path):
                break
            os.close(lock)  # a sweep was faster than the lock
    return Unfinished(
        path=path,
        lock=lock,
        folder=folder,
        line=newest[1].line if newest else secrets.token_hex(8),
        saves=newest[1].saves + 1 if newest else 1,
    )


def _check_unused(folder: Path) -> None:
    if folder.name in ("", "..") or TEMPORARY.fullmatch(folder.name):
        raise UsedDirectoryError(f"{folder}: expected the name of a new folder; name one, for example step_1000")
    if os.path.lexists(folder):
        is_complete = os.path.lexists(folder / MANIFEST_NAME)  # else it would not have got it
        found = "a complete checkpoint" if is_complete else "something else of that name"
        raise UsedDirectoryError(
            f"{folder}: expected a new name, found {found}; nothing was written; name another folder, or "
            "remove that one"
        )


def finish(
    unfinished: Unfinished, *, ranks: int, objects: Mapping[str, str], files: Mapping[str, tuple[int, int]], torch: str
) -> Path:
    """Give the folder its name, once all of `files` are seen to be there; return it.

    Raises:
        UsedDirectoryError: somebody has made one of that name meanwhile.
        CheckpointWriteError: the disk refused, or a file is not where this process looks.
    """
    path, folder = unfinished.path, unfinished.folder
    for name, (size, _) in files.items():
        if _size(path / name) != size:
            raise CheckpointWriteError(
                f"{folder}: could not be written: {name} is not to be seen from rank 0; all ranks write into one "
                "folder: name one on a disk that they share"
            )
    manifest = Manifest(
        line=unfinished.line, saves=unfinished.saves, ranks=ranks, torch=torch, objects=objects, files=files
    )
    with refusals_named(folder):
        write_file(path / MANIFEST_NAME, lambda file: file.write(_text(asdict(manifest))))
        sync_directory(path)
        _check_unused(folder)
        try:
            os.rename(path, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            _check_unused(folder)
            raise
        sync_directory(folder.parent)
    return folder


def leave(unfinished: Unfinished) -> None:
    """Let go of a folder; one that was not finished is removed."""
    shutil.rmtree(unfinished.path, ignore_errors=True)
    os.close(unfinished.lock)


def _sweep(parent: Path) -> None:
    with suppress(OSError):
        for name in os.listdir(parent):
            if TEMPORARY.fullmatch(name):
                _remove_stale(parent / name)


def _remove_stale(temporary: Path) -> None:
    with suppress(OSError):  # no folder, or not ours to look at; or one who fills it holds the lock
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(temporary, ignore_errors=True)
        finally:
            os.close(descriptor)


def sync_and_sum(path: Path) -> tuple[int, int]:
    """Make a file's bytes durable; return their number and their CRC32."""
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        return _sum(file)


def _sum(file: Any) -> tuple[int, int]:
    size, crc, buffer = 0, 0, memoryview(bytearray(_BLOCK))
    while length := file.readinto(buffer):
        size, crc = size + length, zlib.crc32(buffer[:length], crc)
    return size, crc


def read_manifest(folder: Path) -> Manifest:
    """Return what a folder says of itself.

    Raises:
        CheckpointNotFoundError: no such folder, or one that cannot be read.
        DamagedCheckpointError: it was never finished, or its manifest is not what was written.
        NewerFormatError: a newer version of this library wrote it.
    """
    path = folder / MANIFEST_NAME
    try:
        names = os.listdir(folder)
        text = path.read_bytes() if MANIFEST_NAME in names else b""
    except (FileNotFoundError, NotADirectoryError):
        what = "a file; name the folder" if os.path.isfile(folder) else "nothing of that name; check the path"
        raise CheckpointNotFoundError(f"{folder}: expected the folder of a sharded checkpoint, found {what}") from None
    except OSError as error:
        raise CheckpointNotFoundError(f"{folder}: it cannot be read: {error.strerror}") from None
    if MANIFEST_NAME not in names:
        found = "one without" if names else "an empty one"
        raise DamagedCheckpointError(
            f"{folder}: expected a folder with {MANIFEST_NAME}, found {found}: its save was never finished, or another "
            f"program wrote it; {_ANOTHER}"
        )
    newer: object = None
    try:
        content = json.loads(text)["content"]
        if type(content["version"]) is int and content["version"] > _VERSION and _text(content) == text:
            newer = content["version"]
        else:
            files = {name: (int(size), int(crc)) for name, (size, crc) in content.pop("files").items()}
            manifest = Manifest(**content, files=files)
            if _text(asdict(manifest)) == text and _is_one(manifest):
                return manifest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    if newer is not None:
        raise NewerFormatError(
            f"{path}: expected version {_VERSION} or older, found {newer}; a newer koemorph-tutorial wrote it: "
            "update this one"
        )
    raise DamagedCheckpointError(f"{path}: its bytes are not those that were written; {_ANOTHER}")


def _is_one(manifest: Manifest) -> bool:
    """Say whether a text that has its sum, which anybody can make, says what a manifest says."""
    numbers = type(manifest.saves) is int and type(manifest.ranks) is int and 0 < manifest.ranks <= len(manifest.files)
    texts = isinstance(manifest.line, str) and isinstance(manifest.objects, dict)
    return numbers and texts and all(os.path.basename(name) == name for name in manifest.files)


def _text(content: Mapping[str, Any]) -> bytes:
    """Return the one text that a manifest can have: any changed byte makes it another one."""
    inside = json.dumps(content, indent=1, sort_keys=True)
    whole = {"content": json.loads(inside), "crc32": zlib.crc32(inside.encode())}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def verify(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Check files of a folder, all bytes of them, against its manifest.

    Raises:
        DamagedCheckpointError: names the first that is missing, cut short or changed.
    """
    for name in names:
        path, (size, crc) = folder / name, manifest.files[name]
        if not os.path.isfile(path):  # opening a pipe would wait for its writer
            raise DamagedCheckpointError(f"{path}: expected {size:,} bytes, found no file of that name; {_ANOTHER}")
        with reading(path), open(path, "rb", buffering=0) as file:
            found = _sum(file)
        if found[0] != size:
            raise DamagedCheckpointError(f"{path}: expected {size:,} bytes, found {found[0]:,}; {_ANOTHER}")
        if found[1] != crc:
            raise DamagedCheckpointError(
                f"{path}: expected the CRC32 {crc:08x}, found {found[1]:08x}: its bytes changed since they were "
                f"written; {_ANOTHER}"
            )


def find_complete(parent: Path) -> list[tuple[Path, Manifest]]:
    """Return the complete folders in `parent`, newest first: all files there, at their sizes; not all bytes read.

    Raises:
        CheckpointNotFoundError: no such folder, or one that cannot be read.
        NewerFormatError: a newer version of this library wrote one of them, and an older one is not what to go on from.
    """
    try:
        names = [name for name in sorted(os.listdir(parent)) if not TEMPORARY.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFoundError(f"{parent}: expected a folder of sharded checkpoints, found none") from None
    except OSError as error:
        raise CheckpointNotFoundError(f"{parent}: it cannot be read: {error.strerror}") from None
    found = []
    for name in names:
        with suppress(CheckpointNotFoundError, DamagedCheckpointError):
            manifest = read_manifest(parent / name)
            if all(_size(parent / name / file) == size for file, (size, _) in manifest.files.items()):
                found.append((parent / name, manifest))
    return sorted(found, key=lambda each: each[1].saves, reverse=True)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
