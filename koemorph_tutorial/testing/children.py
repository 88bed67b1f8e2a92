"""Processes forked from this warm one: nothing is imported again, and nothing that happens in them happens here."""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended: with `result`, with `error` (a line), by a signal, or not in time."""

    result: Any = None
    error: str | None = None
    killed: bool = False
    timed_out: bool = False

    def why(self, timeout: float) -> str:
        """Say why a child that had `timeout` seconds did not do its work; "" if it did."""
        return f"it did not end within {timeout:g} s" if self.timed_out else self.error or ""


def run(work: Callable[[], Any], folder: Path, *, timeout: float) -> Ended:
    """Call `work` in a forked child and return how it ended; its result must be JSON.

    What it prints goes to ``said.txt`` in `folder`. It leads a process group of its own, all of which ends with it.
    """
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed
            stream.flush()
    child = _fork()
    if child == 0:
        _work(work, folder, answer)
    status = None
    try:
        status = _wait(child, timeout)
    finally:
        if status is None:  # too late, or somebody interrupts us, before it leads its group maybe
            with suppress(ProcessLookupError, ChildProcessError):  # it has ended this very moment
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        with suppress(ProcessLookupError, PermissionError):  # nobody is left of it
            os.killpg(child, signal.SIGKILL)
    if status is None:
        return Ended(timed_out=True)
    if os.WIFSIGNALED(status):
        return Ended(killed=True, error=f"killed by {signal.Signals(os.WTERMSIG(status)).name}")
    try:
        return Ended(**json.loads(answer.read_text()))
    except (FileNotFoundError, ValueError):
        return Ended(error=f"ended with exit code {os.waitstatus_to_exitcode(status)} and without a word")


def imported(work: Callable[[], Any]) -> list[str]:
    """Call `work` and return what of the installed packages it has imported."""
    before = set(sys.modules)
    work()
    # Of what is installed only: by its name alone a module beside a script may be another one elsewhere.
    return [
        name
        for name in sorted(set(sys.modules) - before)
        if "site-packages" in str(getattr(sys.modules[name], "__file__", ""))
    ]


def import_all(names: Sequence[str]) -> None:
    """Import what a child has imported: here once, and not in each of the others again."""
    for name in names:
        with suppress(Exception, SystemExit):
            importlib.import_module(name)


class KilledError(RuntimeError):
    """A child that shared the work was killed by somebody else."""


def cores() -> int:
    """Return how many processes can work at a time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(work: Callable[[int], Iterator[Any]], workers: int) -> Iterator[Any]:
    """Yield what ``work(0)`` to ``work(workers - 1)`` yield, each in a child of its own, as it comes: short JSON.

    Raises:
        RuntimeError: a child has raised, or was killed (`KilledError`).
    """
    reading, writing = os.pipe()
    children = []
    try:
        for number in range(workers):
            child = _fork()
            if child == 0:
                os.close(reading)  # so that a write fails once the parent is gone
                _report(work(number), writing)
            children.append(child)
        os.close(writing)
        with open(reading, encoding="utf-8") as lines:
            for line in lines:
                kind, value = json.loads(line)
                if kind == "raised":
                    raise RuntimeError(value)
                yield value
        while children:
            if os.waitpid(children.pop(), 0)[1] != 0:
                raise KilledError("a process of the test was killed from outside: is the memory full?")
    finally:
        for child in children:
            os.kill(child, signal.SIGINT)  # one that has ended is still there to be waited for
        for child in children:
            os.waitpid(child, 0)


_not_for_children: list[int] = []  # a descriptor that a process left behind by a training must not hold open


def _report(values: Iterator[Any], writing: int) -> NoReturn:
    _not_for_children.append(writing)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # its parent ends it so, and may itself ignore Ctrl-C
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)
        for value in values:
            os.write(writing, (json.dumps(["value", value]) + "\n").encode())  # short, so never mixed with another's
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    except BaseException as error:
        text = "".join(traceback.format_exception(error))[-2000:]
        os.write(writing, (json.dumps(["raised", text]) + "\n").encode())
    finally:
        os._exit(0)


_INTERRUPT = (signal.SIGINT,)


def _fork() -> int:
    """Fork; the child cannot be interrupted until it says so, or it would go on with what its parent was doing."""
    state = random.getstate()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads; ours only wait
            child = os.fork()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        random.setstate(state)  # Python has given it another one: then no two trainings would be the same
        gc.freeze()  # a collection would touch, and so copy, all memory that is shared with the parent
    return child


def _work(work: Callable[[], Any], folder: Path, answer: Path) -> NoReturn:
    write, leave = answer.open, os._exit  # before anybody puts something else in their place
    try:
        os.setsid()
        for descriptor in _not_for_children:
            os.close(descriptor)
        _not_for_children.clear()  # a child of this one has none of them to close
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(1)  # a pool of threads does not survive a fork
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)
            ended: dict[str, Any] = {"result": work()}
        except SystemExit as error:
            ended = {"error": None if error.code in (None, 0) else f"exit code {error.code}"}
        except BaseException as error:
            traceback.print_exc()
            ended = {"error": "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")}
        sys.stdout.flush()
        with write("w") as file:
            json.dump(ended, file)
    finally:
        leave(0)


def _wait(child: int, timeout: float) -> int | None:
    """Return the status with which a child has ended, None if it has not in time."""
    limit = time.monotonic() + timeout
    pause = 0.0005
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > limit:
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.003)
