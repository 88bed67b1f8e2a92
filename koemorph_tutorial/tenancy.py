"""Who has a directory: one manager of one process, from the beginning of its run until it leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from .durable import prepare_directory, remove_directories, sweep
from .lock import LOCK_NAME, Hold, hold

_TENANTS: WeakValueDictionary[str, Tenancy] = WeakValueDictionary()  # by directory; one writes at a time


class Tenancy:
    """The right to write into `directory`; `on_leave` is called when it ends, be it that a newer one took it over.

    `settle` waits until nothing is being written: before it ends, and before a newer one looks at what is there.
    """

    def __init__(self, directory: Path, *, settle: Callable[[], None], on_leave: Callable[[], None]) -> None:
        self.directory = directory
        self.left = False
        self._settle, self._on_leave = settle, on_leave
        self._hold: Hold | None = None  # once the run has begun

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Be the only process that writes here while a run begins, and keep it so if it did begin.

        Raises:
            DirectoryLockedError: another process has it.
        """
        older = _TENANTS.get(os.path.realpath(self.directory))
        if older is not None:
            older._settle()
        made = prepare_directory(self.directory)
        mine = None
        try:
            mine = hold(self.directory)
            sweep(self.directory)
            yield
        except BaseException:
            with suppress(OSError):
                if mine is not None and made and os.listdir(self.directory) == [LOCK_NAME]:  # nothing was begun
                    os.unlink(self.directory / LOCK_NAME)
            remove_directories(made)
            if mine is not None:
                mine.release()
            raise
        self._hold = mine

    def take_over(self) -> None:
        """End the tenancy of an older manager of this process here: a notebook's cell that was run twice."""
        key = os.path.realpath(self.directory)
        older = _TENANTS.get(key)
        if older is not None and older is not self:
            older.leave()
        _TENANTS[key] = self

    def check(self) -> None:
        """Check that we have not left the directory.

        Raises:
            RuntimeError: we have.
        """
        if self.left:
            raise RuntimeError("this CheckpointManager is closed, or a newer one took its directory over; use that one")

    def check_hold(self) -> None:
        """Check that the directory is still ours.

        Raises:
            DirectoryLockedError: the lock was lost.
        """
        if self._hold is not None:
            self._hold.check()

    def leave(self) -> None:
        """Let the next one in."""
        self._settle()  # first: who interrupts this has left nothing yet, and can ask again
        self.left = True
        self._on_leave()
        if self._hold is not None:
            self._hold.release()
