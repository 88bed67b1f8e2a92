"""A signal asks a training to stop: it is noted, and the training leaves at the next place where nothing is torn."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

# Who stops a whole job signals the process and its group, so one request can arrive twice in a moment.
TOGETHER = 0.2  # seconds


class StopRequest:
    """Listen for `signals`: the first is noted in `received`, a second one leaves at once, as if nobody listened.

    A handler that was there before is called as well (but for Python's own of Ctrl-C, which would raise in the middle
    of something), and is put back at the end. Only the main thread can listen; anywhere else nothing is done.
    """

    _noted = 0.0  # when somebody here has last been asked for the first time

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self.signals = tuple(signals)
        self.received: signal.Signals | None = None
        self._earlier: dict[int, Any] = {}
        self._process = 0  # the one that listens, not its children

    def listen(self) -> None:
        """Begin to listen."""
        if self._listens or not self.signals:
            return
        if threading.current_thread() is not threading.main_thread():
            logger.info("no signal is listened for: Python handles them on the main thread, and this is another one")
            return
        self._process = os.getpid()
        for number in self.signals:
            self._earlier[number] = signal.signal(number, self._handle)

    def stop_listening(self) -> None:
        """Put the earlier handlers back, unless somebody has put another one over ours."""
        if not self._listens:
            return
        self._process = 0
        if threading.current_thread() is not threading.main_thread():
            return  # nobody can put them back from here; ours passes everything on from now
        for number in self._earlier:
            if signal.getsignal(number) == self._handle:
                earlier = self._earlier_of(number)
                # None: a handler that was not Python's, which nobody can put back from here.
                signal.signal(number, signal.SIG_DFL if earlier is None else earlier)

    @property
    def _listens(self) -> bool:
        return self._process == os.getpid()

    def _earlier_of(self, number: int) -> Any:
        """Return the handler before ours, without those of ours that do not listen any more.

        They would pass a signal on to what ends the process, while we have yet to save: of a process that this one was
        forked from, of a manager that nobody closed.
        """
        earlier: Any = self._earlier.get(number)
        while isinstance(other := getattr(earlier, "__self__", None), StopRequest) and not other._listens:
            earlier = other._earlier.get(number)
        return earlier

    def _handle(self, number: int, frame: FrameType | None) -> None:
        earlier = self._earlier_of(number)
        if not self._listens:  # a forked child, or we only stand between two others
            _pass_on(earlier, number, frame)
            return
        if self.received is not None:
            if time.monotonic() - StopRequest._noted >= TOGETHER:
                _pass_on(signal.SIG_DFL, number, frame)
            return
        self._note(number)
        # Those that listen below us note it too. It may be the second for one that nobody closed, which would end the
        # process; but for us, who have yet to save, it is the first.
        while isinstance(older := getattr(earlier, "__self__", None), StopRequest):
            older._note(number)
            earlier = older._earlier_of(number)
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)

    def _note(self, number: int) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            StopRequest._noted = time.monotonic()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let a Ctrl-C wait until all is done: half a state looks like a whole one. A second one does not wait."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()  # the only one that is interrupted
    if not main or before in (None, signal.SIG_IGN):  # None: a handler that is not Python's
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _pass_on(
    handler: Callable[[int, FrameType | None], Any] | int | None, number: int, frame: FrameType | None
) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
