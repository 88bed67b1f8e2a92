"""A disk that lets a save wait, is slow or is full, and a gate that holds threads up: what may happen, made to happen.

Both look at what is done in this process by other threads than the one that asks.
"""

from __future__ import annotations

import builtins
import concurrent.futures.thread
import errno
import io
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

HELD, SLOW = 1.0, 0.3  # seconds: for what would wait for ever, and for a write to a slow disk

_open = builtins.open


class _FullError(OSError):
    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))


class SlowDisk:
    """What lies behind `torch.save` and files opened to be written as bytes, while it is entered.

    Held, it begins a write only once `opened` is set; `slow` and `full` count the first writes that take `SLOW` seconds
    or find no space. A write to memory is none.
    """

    def __init__(self, *, held: bool = False, slow: int = 0, full: int = 0) -> None:
        self.reached = threading.Event()  # by a write
        self.opened = threading.Event()
        self.in_front = False  # the one who asks had to wait for it
        self.overlapping = False  # it was written to by two at a time
        self.failed: threading.Thread | None = None  # the last that found no space
        self._held, self._slow, self._full = held, slow, full
        self._asking = threading.current_thread()
        self._writing: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        import torch

        self._save = torch.save
        self._hook, threading.excepthook = threading.excepthook, lambda _: None  # what a thread raises is looked for
        torch.save = self._torch_save  # type: ignore[assignment]
        builtins.open = io.open = self._open_file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        torch.save, threading.excepthook = self._save, self._hook
        builtins.open = io.open = _open

    def settle(self) -> None:
        """Wait until nobody writes any more."""
        while self._writing:
            time.sleep(0.02)
        time.sleep(0.02)  # for the rename, or the closing, that comes after it

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Begin a write, when and if the disk lets it.

        Raises:
            _FullError: it has no space.
        """
        who = threading.current_thread()
        if who in self._writing:  # torch.save has opened a file
            yield
            return
        self.in_front |= who is self._asking
        with self._lock:
            self.overlapping |= bool(self._writing)
            self._writing.append(who)
            self._slow, is_slow = self._slow - 1, self._slow > 0
            self._full, is_full = self._full - 1, self._full > 0
        self.reached.set()
        try:
            if self._held and not self.opened.wait(HELD):
                self.in_front = True
            if is_slow:
                time.sleep(SLOW)
            if is_full:
                self.failed = who
                raise _FullError
            yield
        finally:
            with self._lock:
                self._writing.remove(who)

    def _torch_save(self, state: Any, target: Any, *more: Any, **options: Any) -> None:
        if not isinstance(target, (str, os.PathLike)):  # memory, or a file that was opened
            self._save(state, target, *more, **options)
            return
        try:
            with self.writing():
                self._save(state, target, *more, **options)
        except _FullError:  # as torch says it, whose writer is not Python's
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from None

    def _open_file(self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        if not isinstance(file, (str, os.PathLike)) or "b" not in mode or not {*mode} & {*"wxa+"}:
            return _open(file, mode, buffering, *more, **options)
        opened = _File(self, file, mode)
        return opened if buffering == 0 else (io.BufferedRandom if "+" in mode else io.BufferedWriter)(opened)


class _File(io.FileIO):
    """A file on that disk: its first write is one of those that are counted."""

    def __init__(self, disk: SlowDisk, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._disk = disk
        self._is_new, self._full = True, False

    def write(self, data: Any) -> int:
        if self._is_new:
            self._is_new, self._full = False, True
            with self._disk.writing():
                self._full = False
        if self._full:  # it stays so for whoever flushes once more
            raise _FullError
        return super().write(data)


_WAITING = {module.__file__ for module in (threading, queue, concurrent.futures.thread)}  # who only waits there may


class Gate:
    """Holds up all threads that are started while it is entered, wherever they call something, while it is closed.

    After `HELD` seconds they go on: whoever closed it may wait for one of them.
    """

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._opened.set()
        self._until = 0.0

    def __enter__(self) -> Self:
        threading.setprofile(self._pass)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        threading.setprofile(None)
        self.open()

    def close(self) -> None:
        """Let no other thread through."""
        self._until = time.monotonic() + HELD
        self._opened.clear()

    def open(self) -> None:
        """Let them all through."""
        self._opened.set()

    def _pass(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self._opened.is_set() and frame.f_code.co_filename not in _WAITING:
            self._opened.wait(max(0.0, self._until - time.monotonic()))
