"""One run's saves in one directory, one commit after another: write, name, plan, remove.

Only when the bytes are durable do the best, the count of saves and the position on the disk advance, so a failed commit
is as if it had never been asked for.

In the background (`CheckpointSettings.background`) a commit is the same, in a thread of its own, on a copy of the
state: one at a time, the next one waits. What goes wrong there is logged at once, and kept for `raise_failure`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .durable import link, refusals_named, sync_directory
from .plain import check_plain
from .records import LAST_NAME, Best, CheckpointError, CheckpointSettings, Position, UnsavableStateError
from .retention import Plan, carry_out, plan_retention
from .save_policy import Decision
from .snapshot import Snapshot
from .storage import describe, list_checkpoints, save_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What one save wrote, what retention did after it, and how many seconds both took."""

    files: tuple[Path, ...]
    plan: Plan
    seconds: float

    def __str__(self) -> str:
        return f"wrote {', '.join(file.name for file in self.files)} in {self.seconds:.3f} s; {self.plan}"


class _Flight:
    """A commit in a thread of its own. An interrupt at any moment leaves it done, or never begun."""

    def __init__(self, decision: Decision, commit: Callable[[], None], held: object) -> None:
        self.decision = decision
        self.is_over = self.is_called_off = False
        self._work: tuple[Callable[[], None], object] | None = (commit, held)
        self._pool = ThreadPoolExecutor(1, "koemorph-save")  # which the interpreter waits for at its end
        self._process, self._starter, self._thread = os.getpid(), threading.get_ident(), 0
        self._submitted = self._begun = False
        self._turn, self._end = threading.Lock(), threading.Lock()
        self._end.acquire()  # until the thread has done

    def start(self) -> None:
        """Begin.

        Raises:
            RuntimeError: there can be no more threads, as at the end of the interpreter; then it never begins.
        """
        try:
            self._submitted = True
            self._pool.submit(self._run)
        except BaseException:
            self._call_off()
            raise
        finally:
            self._pool.shutdown(wait=False)  # its thread ends when it has done this

    def _run(self) -> None:
        with self._turn:
            self._begun = not self.is_called_off
        try:
            if self._begun and self._work is not None:
                self._thread = threading.get_ident()
                self._work[0]()
        finally:
            self._work = None  # with it goes the copy, and who holds the directory
            self.is_over = True
            self._end.release()

    def _call_off(self) -> None:
        with self._turn:
            self.is_called_off = not self._begun
            self.is_over |= self.is_called_off

    @property
    def is_current(self) -> bool:
        return self._thread == threading.get_ident()

    def wait(self) -> None:
        """Wait for its end; an interrupt of that leaves it as it is. A forked child has no such thread."""
        if os.getpid() != self._process:
            return
        if not self._submitted and self._starter == threading.get_ident():  # it was interrupted before
            self._call_off()
        while not self.is_over:  # an interrupt may leave this lock taken, so nobody waits for it alone
            if self._end.acquire(timeout=0.05):
                self._end.release()
        if not self.is_called_off:
            self._pool.shutdown(wait=True)


class Commits:
    """The durable side of a run: `run` (line, parent, saves), `best` and `position` are those on the disk.

    `saved` is the newest save of this process, None before the first.
    """

    def __init__(
        self, directory: Path, settings: CheckpointSettings, on_saved: Callable[[Saved], None] | None = None
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.best = Best(monitor=settings.monitor, mode=settings.mode)
        self.position = Position()
        self.run: dict[str, Any] | None = None  # None until it is known whether the run is fresh or resumed
        self._newest: tuple[object, ...] | None = None  # what ``last_model.pth`` was when it was last put in place
        self._on_saved = on_saved
        self._saved_at = time.monotonic()
        self.saved: Saved | None = None
        self._snapshot = Snapshot()
        self._in_flight: _Flight | None = None
        self._coming: list[Best] = []  # of the process that writes, where this one does not
        self._turn = threading.Lock()
        self._failure: BaseException | None = None  # of a save in the background, until somebody is told

    @property
    def seconds_since_save(self) -> float:
        """The age of the newest save in seconds, from the beginning of this process's run before the first."""
        return time.monotonic() - self._saved_at

    @property
    def possible_bests(self) -> tuple[Best, ...]:
        """The best on the disk, and the one that it will be if the save in flight succeeds."""
        flight = self._in_flight
        return (self.best, *self._coming) if flight is None else (self.best, flight.decision.best)

    def begin(self, run: Mapping[str, Any], best: Best | None = None, position: Position | None = None) -> None:
        """Begin with what is on the disk: nothing, or what was resumed."""
        self.run = dict(run)
        self.best = best or self.best
        self.position = position or self.position
        self._newest = self._last_model()
        self._saved_at = time.monotonic()

    @property
    def durable(self) -> tuple[dict[str, Any] | None, Position, tuple[Best, ...]]:
        """The run and the position that are on the disk, and the best, before that in flight."""
        return self.run, self.position, self.possible_bests

    def follow(self, durable: tuple[dict[str, Any] | None, Position, tuple[Best, ...]]) -> None:
        """Take over what is on the disk, or will be, from the process that writes."""
        self.run, self.position, (self.best, *self._coming) = durable

    def next_run(self) -> dict[str, Any]:
        """Return the run's record as the next checkpoint holds it."""
        if self.run is None:
            raise RuntimeError("no run has begun")
        return {**self.run, "saves": self.run["saves"] + 1, "keep": self._keep}

    def submit(
        self, decision: Decision, checkpoint: Mapping[str, Any], position: Position, *, held: object = None
    ) -> None:
        """Commit, or in the background copy `checkpoint` and return while a thread commits the copy.

        `held` lives as long as that thread, be it that nobody else keeps it: the right to write here.

        Raises:
            CheckpointError: as `commit`; in the background only for a value that cannot be saved, others later.
        """
        if not self.settings.background:
            self.commit(decision, checkpoint, position)
            return
        self.settle()
        check_plain(checkpoint)
        try:
            frozen = self._snapshot.take(checkpoint)
        except RuntimeError as error:
            raise UnsavableStateError(
                f"a state that torch cannot copy ({error}), so it cannot be saved in the background; turn that off"
            ) from error
        before = self._saved_at
        taken_at = self._saved_at = time.monotonic()  # so old is the state, whenever it is durable

        def commit() -> None:
            try:
                self.commit(decision, frozen, position, taken_at=taken_at)
            except BaseException as error:
                self._failure = error
                if self.run == frozen["run"]:
                    logger.error("on_saved failed, after a save in the background: %r", error)
                else:
                    self._saved_at = before
                    logger.error("a save in the background failed: %s", str(error) or repr(error))

        flight = _Flight(decision, commit, held)
        try:
            self._in_flight = flight
            flight.start()
        except BaseException as error:
            if flight.is_called_off:
                self._in_flight, self._saved_at = None, before
            if not isinstance(error, RuntimeError):
                raise
            self.commit(decision, frozen, position)

    @property
    def is_saving(self) -> bool:
        """Whether it is the saving thread that asks."""
        flight = self._in_flight
        return flight is not None and flight.is_current

    def settle(self) -> None:
        """Wait until no save is in flight; whether it succeeded, `raise_failure` says."""
        flight = self._in_flight
        if flight is not None and not flight.is_current:
            flight.wait()
            with self._turn:  # two threads may wait, and a third begin the next one
                if self._in_flight is flight:
                    self._in_flight = None

    def release(self) -> None:
        """Give the memory of the copy back."""
        self._snapshot = Snapshot()

    @property
    def has_failed(self) -> bool:
        """Whether a save in the background has failed of which nobody was told yet."""
        return self._failure is not None

    def raise_failure(self) -> None:
        """Raise, once, what went wrong with a save in the background, as far as it is known."""
        if self._in_flight is not None and self._in_flight.is_over:
            self.settle()
        with self._turn:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def commit(
        self,
        decision: Decision,
        checkpoint: Mapping[str, Any],
        position: Position,
        *,
        taken_at: float | None = None,
    ) -> Saved:
        """Write `checkpoint` under the names of `decision`, then remove what need not be kept.

        `taken_at`, of the monotonic clock, is when the state was taken; by default it is as it was until now.

        Raises:
            CheckpointError: as `save_checkpoint`; then nothing has advanced.
        """
        started = time.monotonic()
        first, *others = decision.names
        save_checkpoint(checkpoint, self.directory / first, also=others)
        self.run, self.best, self.position = dict(checkpoint["run"]), decision.best, position
        self._newest = self._last_model()
        self._saved_at = time.monotonic() if taken_at is None else taken_at
        saved = Saved(
            files=tuple(self.directory / name for name in decision.names),
            plan=self.retain(),
            seconds=time.monotonic() - started,
        )
        logger.info("%s", saved)
        self.saved = saved
        if self._on_saved is not None:
            self._on_saved(saved)
        return saved

    def is_newest(self, position: Position) -> bool:
        """Say whether ``last_model.pth`` is what this run saved at `position`, and still is."""
        return position == self.position and self._newest is not None and self._newest == self._last_model()

    def _last_model(self) -> tuple[object, ...] | None:
        try:
            file = describe(self.directory / LAST_NAME)
        except CheckpointError:
            return None
        return file.line, file.saves, file.position, file.inode

    def name_newest(self, name: str) -> None:
        """Give the bytes of ``last_model.pth`` one more name."""
        with refusals_named(self.directory / name):
            link(self.directory / LAST_NAME, self.directory / name)
            sync_directory(self.directory)
        logger.info("named the newest save %s; %s", name, self.retain())

    def finish(self) -> None:
        """Remove what the newest save would have removed, had no kill come first; by its settings, or not at all.

        Other settings than those may keep less, and nobody has saved anything by them yet.
        """
        if self.run is not None and self.run.get("keep") == self._keep:
            self.retain()

    @property
    def _keep(self) -> str:
        """What retention goes by, as a text that a checkpoint can hold."""
        settings = self.settings
        return f"last {settings.keep_last_n}, best {settings.keep_best_n}, milestones {sorted(settings.milestones)}"

    def retain(self) -> Plan:
        """Remove the numbered files that need not be kept; the newest is durable before this is called."""
        plan = plan_retention(
            list_checkpoints(self.directory),
            keep_last_n=self.settings.keep_last_n,
            keep_best_n=self.settings.keep_best_n,
            milestones=self.settings.milestones,
            best=self.best,
        )
        return carry_out(plan)
