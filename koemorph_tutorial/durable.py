"""A file that is there at once and for good, or not at all.

Order of a write: temporary file beside the target, fsync (with a check of what was written beside it), rename. A kill
or a full disk at any moment leaves the name as it was or as it will be. The name itself is durable once its directory
was synced, which a caller does after its last name: `sync_directory`.

A kill can leave the temporary file. It holds a lock on itself while somebody writes it, so `sweep` knows which are
stale.

What this does not promise: a disk may lie about fsync.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from .records import CheckpointError, CheckpointWriteError

# ENOTSUP and EOPNOTSUPP differ on macOS.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_BLOCK = 1 << 18  # what a core's cache holds
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.tmp", re.DOTALL)


def write_file(
    path: Path, write: Callable[[BinaryIO], object], *, check: Callable[[BinaryIO], object] | None = None
) -> None:
    """Put what `write` writes in place as `path`, in one step; `check` reads it back first, while the disk syncs it.

    Whatever goes wrong, Ctrl-C included, `path` is as it was and no temporary file is left.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "config.yaml"
    >>> write_file(path, lambda file: print(file.write(b"seed: 1")))
    7
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('seed: 1', 1)
    """
    while not _write_file(path, write, check):  # a sweep took the temporary before it could be marked as busy
        pass


def _write_file(path: Path, write: Callable[[BinaryIO], object], check: Callable[[BinaryIO], object] | None) -> bool:
    temporary = temporary_of(path)
    try:
        with open(temporary, "xb+") as file:
            _mark_busy(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink == 0:
                return False
            write(file)
            file.flush()
            with ThreadPoolExecutor(1) as beside:
                try:
                    sync = beside.submit(os.fsync, file.fileno()).result
                except RuntimeError:  # the interpreter is at its end and starts no thread any more
                    sync = partial(os.fsync, file.fileno())
                if check is not None:
                    check(file)
                sync()
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return True


def link(source: Path, target: Path) -> None:
    """Give `source` the further name `target` in one step, by hard link, or as a copy where there are no links."""
    temporary = temporary_of(target)
    with open(source, "rb") as file:
        _mark_busy(file, fcntl.LOCK_SH)  # the temporary is a second name of it, so it is busy as well
        try:
            os.link(os.path.realpath(source), temporary)  # of the file, where source is a symbolic link
            os.replace(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS or os.path.lexists(temporary):
                raise
            write_copy(file, target)
        finally:
            # Where target is the same file already, the rename does nothing and leaves the temporary name.
            with suppress(OSError):
                os.unlink(temporary)


def write_copy(source: BinaryIO, target: Path) -> None:
    """Write what an open file holds to `target`, in one step and compared with it before.

    Raises:
        OSError: the disk refused, or gave back other bytes; what was there before is as it was.
    """

    def write(copy: BinaryIO) -> None:
        source.seek(0)
        shutil.copyfileobj(source, copy, 1 << 20)

    def check(copy: BinaryIO) -> None:
        if not same_bytes(source, copy):
            raise OSError(errno.EIO, "the copy is not what was copied")

    write_file(target, write, check=check)


def same_bytes(a: BinaryIO, b: BinaryIO) -> bool:
    """Say whether two open files hold the same bytes, from their beginnings to their ends."""
    for each in (a, b):
        each.seek(0)
    while block := a.read(_BLOCK):
        if block != b.read(len(block)):
            return False
    return not b.read(1)


def _mark_busy(file: BinaryIO, kind: int) -> None:
    with suppress(OSError):  # held by a sweep that is looking at it, or a file system without locks
        fcntl.flock(file, kind | fcntl.LOCK_NB)


def sweep(directory: Path) -> None:
    """Remove the temporary files in `directory` that a kill has left; what somebody is writing stays.

    Others' ``.tmp`` files are not touched. A temporary that is a second name of a checkpoint takes none of its bytes
    away. What cannot be opened, locked or removed is left. Call it under the directory's lock.
    """
    with suppress(OSError):  # whoever needs the listing is told why there is none
        for name in os.listdir(directory):
            if TEMPORARY.fullmatch(name):
                _remove_stale(directory / name)


def _remove_stale(temporary: Path) -> None:
    with suppress(OSError):
        # Not to wait for the writer of a named pipe, nor to follow a link.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(temporary)
        finally:
            os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable; some file systems know no such thing (EINVAL), which is no error."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def move_aside(directory: Path, *names: str) -> Path:
    """Move what is called `names` in `directory`, durably, to an ``abandoned-NNN/`` of its own; return that place."""
    taken = [int(name[10:]) for name in os.listdir(directory) if re.fullmatch(r"abandoned-\d{3,}", name, re.ASCII)]
    aside = directory / f"abandoned-{max(taken, default=0):03d}"
    if not aside.is_dir() or os.listdir(aside):  # an empty one is what a kill has left
        aside = directory / f"abandoned-{max(taken, default=0) + 1:03d}"
        aside.mkdir()
    sync_directory(directory)  # the place is there for good before the first one goes
    for name in names:
        os.rename(directory / name, aside / name)
    sync_directory(aside)
    sync_directory(directory)
    return aside


def prepare_directory(directory: Path) -> list[Path]:
    """Make `directory` where absent, durably, and ask whether it can be written: better now than after an epoch.

    Return the folders that were made, the outermost first.

    Raises:
        CheckpointWriteError: it cannot be made or written; then no new folder is left.
    """
    made: list[Path] = []
    with refusals_named(directory):
        try:
            for folder in reversed([directory, *directory.parents]):
                if _make(folder):
                    made.append(folder)
                    with suppress(PermissionError):  # a parent may be writable and not readable
                        sync_directory(folder.parent)
            if not os.access(directory, os.W_OK | os.X_OK):  # a read-only file system says no to root as well
                code = errno.EROFS if os.statvfs(directory).f_flag & os.ST_RDONLY else errno.EACCES
                raise OSError(code, os.strerror(code))
        except BaseException:
            remove_directories(made)
            raise
    return made


def _make(folder: Path) -> bool:
    if os.path.isdir(folder):
        return False
    try:
        os.mkdir(folder)
    except FileExistsError:
        if os.path.isdir(folder):  # another process was faster
            return False
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    return True


def remove_directories(made: list[Path]) -> None:
    """Remove folders that `prepare_directory` made, as far as they are empty."""
    with suppress(OSError):
        for folder in reversed(made):
            os.rmdir(folder)


@contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Turn what the disk says, however deep in the chain, into one line that names `path`."""
    handled = sys.exception()  # what the caller is dealing with already is no cause
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and cause is not handled and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is handled or not isinstance(cause, OSError):
            raise
        words = cause.strerror or str(cause)
        hint = "free some space" if cause.errno in _FULL else "name a place that can be written"
        refusal = CheckpointWriteError(
            f"{path}: could not be written: {words}; nothing that was there before is lost; {hint}"
        )
        refusal.errno = cause.errno
        raise refusal from error


def temporary_of(target: Path) -> Path:
    """Return a new name beside `target`, of the kind that `sweep` takes for a temporary one."""
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
