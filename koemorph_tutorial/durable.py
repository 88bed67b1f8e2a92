"""A file that is there at once and for good, or not at all.

Order of a write: temporary file beside the target, fsync (with a check of what was written beside it), rename. A kill
or a full disk at any moment leaves the name as it was or as it will be. The name itself is durable once its directory
was synced, which a caller does after its last name: `sync_directory`.

What this does not promise: a disk may lie about fsync.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .records import CheckpointError, CheckpointWriteError

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    temporary = _temporary(path)
    try:
        with open(temporary, "xb+") as file:
            write(file)
            file.flush()
            with ThreadPoolExecutor(1) as beside:
                synced = beside.submit(os.fsync, file.fileno())
                if check is not None:
                    check(file)
                synced.result()
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def link(source: Path, target: Path) -> None:
    """Give `source` the further name `target` in one step, by hard link, or as a copy where there are no links."""
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(source, "rb") as old, open(temporary, "xb") as new:
                shutil.copyfileobj(old, new, 1 << 20)
                new.flush()
                os.fsync(new.fileno())
        os.replace(temporary, target)
    finally:
        # Where target is the same file already, the rename does nothing and leaves the temporary name.
        with suppress(FileNotFoundError):
            os.unlink(temporary)


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


def prepare_directory(directory: Path) -> None:
    """Make `directory` where absent and ask whether it can be written: better now than after the first epoch.

    Raises:
        CheckpointWriteError: it cannot be made or written.
    """
    with refusals_named(directory):
        if not directory.is_dir():
            directory.mkdir(parents=True)
            sync_directory(directory.parent)
        if not os.access(directory, os.W_OK | os.X_OK):  # a read-only file system says no to root as well
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Turn what the disk says, however deep in the chain, into one line that names `path`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        words = cause.strerror or str(cause)
        hint = "free some space" if cause.errno in _FULL else "name a place that can be written"
        refusal = CheckpointWriteError(
            f"{path}: could not be written: {words}; nothing that was there before is lost; {hint}"
        )
        refusal.errno = cause.errno
        raise refusal from error


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
