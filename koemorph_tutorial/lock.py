"""One writer per directory: a lock that the kernel takes away when its process dies, however it dies.

The lock is flock on the file ``.lock`` in the directory. Its text says who writes, for a message only; nobody trusts
it. Readers never lock.

What this does not promise: a file system without flock has no lock (a warning says so), and a network may lose one.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary, finalize

from .durable import refusals_named
from .records import DirectoryLockedError

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"

_WAIT = 10.0  # seconds for a dead holder: what it started may hold the lock a little longer
_GRACE = 0.5  # seconds for a living one: the kernel needs a moment to take a killed process apart
_EXITING = 0x4  # PF_EXITING of the kernel
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # the last two differ on macOS
_TEXT = re.compile(r"pid ([0-9]{1,9}) on ([\w.:-]{1,255}) since ([\w.:+-]{1,40})\n?", re.ASCII)


class _Lock:
    """A lock that this process holds, shared by all who hold the directory; gone with the last of them."""

    def __init__(self, descriptor: int | None) -> None:
        self.pid = os.getpid()
        self._descriptor = descriptor
        self._close = finalize(self, os.close, descriptor) if descriptor is not None else None

    def is_in_place(self, path: Path) -> bool:
        """Say whether the file that is locked is still the one of that name."""
        return self._descriptor is None or self.is_at(path)

    def is_at(self, path: Path) -> bool:
        """Say whether `path` is the file that is locked."""
        return self._descriptor is not None and _is_same(self._descriptor, path)

    def forget(self) -> None:
        """Close the descriptor in a forked child, which would keep the lock alive, and leave the parent's lock be."""
        if self._close is not None:
            self._close()


_LOCKS: WeakValueDictionary[str, _Lock] = WeakValueDictionary()  # by the real path of the directory
_taking = threading.RLock()  # two threads of this process are one writer


def _forget_all() -> None:
    global _taking
    _taking = threading.RLock()  # another thread of the parent may have had it
    for lock in list(_LOCKS.values()):
        lock.forget()
    _LOCKS.clear()


os.register_at_fork(after_in_child=_forget_all)


class Hold:
    """The right of this process to write in a directory, until `release`, the end of a ``with``, or collection."""

    def __init__(self, lock: _Lock, directory: Path) -> None:
        self._lock: _Lock | None = lock
        self._directory = directory

    def check(self) -> None:
        """Refuse to go on where the right to write was lost.

        Raises:
            RuntimeError: this process was forked since; the lock belongs to the parent.
            DirectoryLockedError: the directory, or its lock, was removed or replaced by somebody.
        """
        if self._lock is not None and self._lock.pid != os.getpid():
            raise RuntimeError(
                f"process {os.getpid()} was forked from process {self._lock.pid}, which writes in this directory; save "
                "there, or name another directory here"
            )
        if self._lock is not None and not self._lock.is_in_place(self._directory / LOCK_NAME):
            raise DirectoryLockedError(
                f"{self._directory}: expected {LOCK_NAME} as this run has made it, found it removed or replaced: "
                "another run may write here now; name another directory"
            )

    def release(self) -> None:
        """Let go; others of this process that hold the directory keep it."""
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def hold(directory: Path) -> Hold:
    """Become the only process that writes in `directory`; within one process it can be held more than once.

    A holder that is dead, or unknown, is waited for, at most 10 seconds: what it started may live a little longer.

    Raises:
        DirectoryLockedError: another process writes there; says which one, and since when.
        CheckpointWriteError: the file ``.lock`` cannot be written.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> with hold(directory):
    ...     print(*os.listdir(directory))
    .lock
    """
    key, path = os.path.realpath(directory), directory / LOCK_NAME
    with refusals_named(path), _taking:
        ours = (lock for lock in list(_LOCKS.values()) if lock.is_at(path))
        lock = _LOCKS.get(key) or next(ours, None)  # the directory may have been renamed
        if lock is None or not lock.is_in_place(path):
            lock = _LOCKS[key] = _acquire(directory)
    return Hold(lock, directory)


def _acquire(directory: Path) -> _Lock:
    path = directory / LOCK_NAME
    while True:
        descriptor = _open(path)
        try:
            is_locked = _wait(descriptor, directory)
            if is_locked and _is_same(descriptor, path):
                _sign(descriptor)
                return _Lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not is_locked:
            logger.warning("%s: this file system knows no locks; make sure that nobody else writes here", directory)
            return _Lock(None)
        # A start that was refused has removed its new folders meanwhile: once more.


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if os.path.islink(path):  # what it leads to is somebody else's
            raise OSError(error.errno, "a symbolic link is in the place of the lock") from None
        raise


def _wait(descriptor: int, directory: Path) -> bool:
    """Lock; False where the file system knows no locks."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who, alive = _holder(descriptor)
            if time.monotonic() - began > (_GRACE if alive else _WAIT):
                raise DirectoryLockedError(
                    f"{directory}: expected to be the only one who writes here, found {who}; wait until it is done, or "
                    "end it, or name another directory"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
        else:
            return True


def _holder(descriptor: int) -> tuple[str, bool]:
    """Return who holds the lock, as far as its text says, and whether it is alive."""
    text = ""
    with suppress(OSError):
        text = os.pread(descriptor, 1000, 0).decode("ascii", "replace")
    match = _TEXT.fullmatch(text)
    if match is None:
        return "another process, which has not said which", False
    return f"process {match[1]} on {match[2]}, since {match[3]}", match[2] != _host() or _is_alive(int(match[1]))


def _is_alive(pid: int) -> bool:
    with suppress(OSError, IndexError, ValueError):  # a process that is being taken apart still answers; Linux says so
        state, *_, flags = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:7]
        if state in "ZX" or int(flags) & _EXITING:
            return False
    try:
        os.kill(pid, 0)  # asks only; 0 would be all of our own group, which is alive
    except OSError as error:  # or somebody else's, who may not be asked
        return not isinstance(error, ProcessLookupError)
    return True


def _sign(descriptor: int) -> None:
    with suppress(OSError):  # a full disk: the lock holds without its text
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {_host()} since {since}\n".encode(), 0)


def _host() -> str:
    return re.sub(r"[^\w.:-]", "_", os.uname().nodename, flags=re.ASCII)[:255] or "here"


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False
