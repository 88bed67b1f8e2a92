"""CheckpointManager: the few lines that make somebody's own training loop come back."""

from __future__ import annotations

import logging
import operator
import os
import signal
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, Unpack

from . import recording
from .commit import Commits, Saved
from .cut import remove_cut
from .directory import go_on, is_home, is_used, new_line
from .drift import as_stored, config_in_use, settings_of
from .durable import refusals_named
from .loading import ResumableLoader
from .naming import describe_parameters, unnamed_parameters
from .preflight import check_room, contents_held, size_of_state
from .progress import Progress, fingerprint
from .ranks import Ranks, Wish, as_of, gather_parts, put_together
from .records import (
    LAST_NAME,
    Best,
    CheckpointError,
    CheckpointSettings,
    CheckpointWriteError,
    MismatchError,
    PathLike,
    Position,
    RankError,
    SettingsOverrides,
    StopTraining,
    UsedDirectoryError,
    plain_metrics,
    state_key,
)
from .resume import Found, Resumed, bring_back, find
from .rng import loaders_without_generator
from .save_policy import Decision, decide
from .signals import StopRequest
from .state import Objects, build, check_objects, plain_config
from .storage import list_checkpoints
from .tenancy import Tenancy

logger = logging.getLogger(__name__)


class CheckpointManager:
    """Save a training run when it is due, keep what is worth keeping, and go on where it ended.

    `objects` are named things with ``state_dict`` and ``load_state_dict`` (model, optimizer, scheduler, a
    `ResumableLoader`, your own) or a ``torch.Generator``; `settings`, or its fields as keywords, say when to save and
    what to keep; `config` is stored with every checkpoint; `on_saved` is called once the bytes are durable. With
    ``background=True`` a save copies the state and a thread writes it, one at a time, and calls `on_saved`; what goes
    wrong there is logged at once and raised by the next save, `wait` or `close`; leaving waits for it. The first
    of `signals` that arrives while the run is under way makes the next `step`, `poll` or `save` leave by
    `StopTraining`, after a durable save; a second one leaves at once.

    Under ``torch.distributed`` every rank makes a manager, after ``init_process_group``, and the same calls. Rank 0
    alone writes, by its own metrics; of the others' states what differs from its own is kept, and given back. An error
    of one is an error of all; who has lost another one leaves by `RankLost`.

    Raises:
        TypeError: an object without a state. ValueError: a setting out of range, or one that saves inside an epoch
            without a `ResumableLoader` among the objects, which could not go on exactly.

    >>> import tempfile, torch
    >>> model = torch.nn.Linear(2, 1)
    >>> with CheckpointManager(tempfile.mkdtemp(), {"model": model}, save_freq=5) as checkpoints:
    ...     for epoch in checkpoints.epochs(2):
    ...         print(checkpoints.save({"loss": 1.0 + epoch}))
    best_model.pth, checkpoint_epoch_000.pth, last_model.pth: a new best loss 1 at epoch 0; every 5 epochs
    nothing written: loss 2 is not below 1 (epoch 0), and epoch 1 is not due; next at epoch 5
    """

    def __init__(
        self,
        directory: PathLike,
        objects: Objects,
        settings: CheckpointSettings | None = None,
        *,
        config: Any = None,
        on_saved: Callable[[Saved], None] | None = None,
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1),
        **overrides: Unpack[SettingsOverrides],
    ) -> None:
        check_objects(objects)
        known = [field.name for field in fields(CheckpointSettings)]
        for name in overrides:
            if name not in known:
                raise TypeError(f"CheckpointManager: no setting {name!r}; expected one of {', '.join(known)}")
        self.directory = Path(os.path.abspath(directory))  # whatever os.chdir does later
        self.settings = replace(settings or CheckpointSettings(), **overrides)
        self._objects = dict(objects)
        self._config = plain_config(config)  # what it cannot hold is better known now than after the first epoch
        self._settings = as_stored(settings_of(self._objects))  # what was asked for, whatever the loop makes of it
        self._commits = Commits(self.directory, self.settings, on_saved)
        commits = self._commits
        self._ranks = Ranks(lambda: commits.position)
        loaders = {name: item for name, item in self._objects.items() if isinstance(item, ResumableLoader)}
        self._progress = Progress(self._objects)
        self._stop = StopRequest(signals)
        self._stop_obeyed = False
        self._stop_is_agreed = False  # between several ranks
        weakref.finalize(self, self._stop.stop_listening).atexit = False  # of one that nobody closed
        self._tenancy = Tenancy(self.directory, settle=self._commits.settle, on_leave=self._stop.stop_listening)
        self._recorder = recording.current()
        if self._recorder is not None:
            self._recorded_as = self._recorder.join(self.directory)
            for name, loader in loaders.items():
                loader.watch(partial(self._recorder.handed_out, name))
        for setting in ("every_n_steps", "every_minutes"):
            if getattr(self.settings, setting) is not None and not loaders:
                raise ValueError(
                    f"{setting}: saving inside an epoch needs a ResumableLoader among the objects: without it the run "
                    "would go on with other batches"
                )
        unnamed = unnamed_parameters(describe_parameters(self._objects))
        for line in (*unnamed, *loaders_without_generator(self._objects)) if self._ranks.is_first else ():
            logger.warning(line)
        self._metrics: dict[str, float] = {}
        self._driven = False  # epochs() says which epoch it is
        self._refused: dict[str, float] = {}  # the metrics of an epoch whose save was not made
        self._owed = 0  # batches of the last step of an epoch, which leaves it to save what it might have saved
        self._unfinished = False  # save() was called here, and nothing has finished the run since
        self._warned = self._warned_of_metrics = False
        self._started = time.monotonic()
        self._trained_before = 0.0  # seconds, in the processes before this one
        self._error: Exception | None = None

    @property
    def best(self) -> Best:
        """The best so far that is durable."""
        return self._commits.best

    @property
    def stop_requested(self) -> bool:
        """Whether a signal has asked for a stop: the next `step`, `poll` or `save` that can will leave."""
        return self._stop.received is not None

    @property
    def position(self) -> Position:
        """Where the next batch is."""
        return self._progress.position

    def resume(self, source: PathLike | Literal["auto"] = "auto", *, strict: bool = False) -> Resumed:
        """Fill the objects from a checkpoint and go on from it.

        "auto": the newest sound file of the directory; if there is none, a fresh start. A file of this directory: go on
        from there. Newer and damaged checkpoints are moved to ``abandoned-NNN/``, never removed. A file or directory
        elsewhere: branch, which begins by writing ``last_model.pth`` and the best so far into this directory, which
        must be unused.

        Raises:
            CheckpointError: as `resume_training`; also inside an epoch without the `ResumableLoader` that was saved.
            DirectoryLockedError: another process writes into the directory.
        """
        self._check()
        if self._commits.run is not None:
            raise RuntimeError("resume: this manager has begun already; make a new one to go on from another file")
        self._meet("resume")
        with self._writing():
            resumed = self._resume(source, strict)
        self._stop.listen()
        return resumed

    def _find(self, source: PathLike | Literal["auto"]) -> Found | None:
        if source == "auto" and not is_used(self.directory):
            return None
        found = find(self.directory if source == "auto" else source)
        if not is_home(found, self.directory) and is_used(self.directory):
            raise self._used(f"to branch from {found.file.path}")
        self._check_inside_epoch(found)
        return found

    def _bring_back(self, found: Found, strict: bool) -> Resumed:
        rank = self._ranks.rank
        mine = replace(found, checkpoint=as_of(found.checkpoint, rank, self._objects))
        return bring_back(mine, self._objects, config=self._config, strict=strict, aloud=rank == 0)

    def _resume(self, source: PathLike | Literal["auto"], strict: bool) -> Resumed:
        found = self._ranks.first(lambda: self._find(source))
        if found is None:
            self._begin()
            self._note("begin")
            return Resumed(best=self.best)
        there = found
        resumed = self._ranks.each(lambda: self._bring_back(there, strict))[self._ranks.rank]
        self._config = config_in_use(self._config, resumed.changed)
        for owner, settings in found.checkpoint.get("metadata", {}).get("settings", {}).items():
            self._settings[owner] = {**self._settings.get(owner, {}), **settings}
        self._tenancy.take_over()
        best, notes = resumed.best, list(resumed.notes)
        if (best.monitor, best.mode) != (self.settings.monitor, self.settings.mode):
            notes.append(f"the file's {best} does not count: {self.settings.monitor} is watched now")
            best = self.best

        def proceed() -> tuple[dict[str, Any], Best, list[str]]:
            with refusals_named(self.directory):
                return go_on(there, self.directory, best, self.settings, back=source != "auto")

        run, best, done = self._ranks.first(proceed)
        for note in done if self._ranks.is_first else ():
            logger.warning(note)
        self._commits.begin(run, best, resumed.position)
        self._progress.go_on(resumed.position)
        self._metrics = dict(found.file.metrics)
        self._trained_before = float(found.checkpoint.get("metadata", {}).get("training_time", 0.0))
        self._started = time.monotonic()
        self._note("begin")
        return replace(resumed, best=best, notes=(*notes, *done))

    def epochs(self, total: int, *, resume: bool = True) -> Generator[int, None, None]:
        """Yield the numbers of the epochs from where the run is to `total` - 1.

        Resumes first if nobody did; ``resume=False`` refuses a used directory instead. On resume inside an epoch that
        epoch comes again and the loader goes on at its batch. A body that ends without `save` counts as ``save({})``.
        Once the epochs ran out, or the loop was left after its `save`, the final epoch gets its numbered file.

        Raises:
            UsedDirectoryError: ``resume=False`` where another run's checkpoints lie.
            DirectoryLockedError: another process writes into the directory.
            CheckpointWriteError: there is no room for what the run will hold.
        """
        self._check()
        total = operator.index(total)
        if total < 0:
            raise ValueError(f"epochs: expected a whole number from 0, found {total}")
        self._meet("epochs", epoch=total)
        if self._commits.run is None and resume:
            self.resume()
        self._begin_run()
        self._check_room(contents_held(self.settings, self.position.epoch, total))
        self._driven = True
        self._stop.listen()
        if self.position.epoch >= total and self._ranks.is_first:
            logger.warning("nothing left to do: %d of %d epochs are done", self.position.epoch, total)
        return self._epochs(total)

    def _epochs(self, total: int) -> Generator[int, None, None]:
        progress = self._progress
        finished, ended_before, mark = False, progress.ended, None
        try:
            while progress.position.epoch < total:
                self._check()
                ended_before, progress.ended = progress.ended, False
                mark = fingerprint(self._objects)
                yield progress.position.epoch
                if not progress.ended:
                    self.save(self._refused)
            finished = True
        finally:
            left = not finished and not self._tenancy.left and self._unfinished
            if left and not progress.ended and mark == fingerprint(self._objects):
                progress.ended = ended_before  # zip() and the like ask for one epoch more than they hand out
            # Of several ranks only this one may have left the loop, which `close` knows.
            if not self._tenancy.left and (finished or (self._unfinished and not self._ranks.many)):
                try:
                    self._finish()
                except Exception as error:
                    if finished:
                        raise
                    self._error = error  # in a generator that is being dropped it would only be printed
            self._stop.stop_listening()
        if self._meet(
            "the end of the epochs"
        ):  # while the last of it was written: what comes next is to be stopped too
            raise self._stopped("all epochs are done and saved")

    def step(self, metrics: Mapping[str, float] | None = None) -> None:
        """Count a batch; call it after ``optimizer.step()``. Inside an epoch it saves when a setting says so.

        With a `ResumableLoader` among the objects the loader's own count is taken, so gradients may be accumulated over
        several batches between two calls. Without one, and after the last batch of an epoch, a stop waits for `save`.

        Raises:
            RuntimeError: after `save` in the same epoch. StopTraining: a stop was asked for, and ``last_model.pth`` is
                saved.
        """
        self._check()
        if self._driven and self._progress.ended:
            raise RuntimeError("step: this epoch has ended with save; call step before it")
        steps = self._progress.count_batch()
        if not self._driven or not self._progress.loaders or self._progress.no_batch_is_left:
            self._owed = steps if self._driven and self._progress.loaders else 0
            self._stop_for_recorder()
            return  # none is left: a loop that comes back there would have none of what its batches give it
        self._inside(plain_metrics(metrics or {}), steps)

    def poll(self) -> None:
        """Let a stop come between: call it now and then in validation, before anything else changes what is saved.

        It saves that only validation is left, with the random states as they were when the training batches ran out, so
        that validation is done again from its beginning, after no batch at all: whatever the loop uses of its batches
        then must be among the objects. While training batches are left, without a `ResumableLoader`, and where several
        ranks train, one of which may validate alone, it does nothing: `step` and `save` see to that.

        Raises:
            StopTraining: a stop was asked for, and ``last_model.pth`` is saved.
        """
        self._check()
        alone = self.stop_requested and self._driven and not self._ranks.many
        if alone and not self._progress.ended and self._progress.at_end is not None:
            self._inside({}, steps=0, parts=self._progress.at_end)

    def _inside(self, metrics: dict[str, float], steps: int, parts: Mapping[str, Any] | None = None) -> None:
        """Save inside an epoch if a setting, a stop or a certificate wants it, and leave if it was a stop."""
        epoch = self.position.epoch
        asked: dict[str, Any] = {"steps": steps, "inside_epoch": True, "stopping": False}
        ending = self._recorder is not None and self._recorder.is_stop(self.position)
        due = self._ranks.many and self._ranks.is_first and self._may_write(epoch, metrics, asked)
        wish = self._meet("step", (Wish.END if ending else Wish.NOTHING) | (Wish.SAVE if due else Wish.NOTHING))
        asked["stopping"] = bool(wish & (Wish.STOP | Wish.END))
        decision = None
        if wish or not self._ranks.many:

            def decide_on_it() -> Decision:
                self._wait_for_the_one_before(epoch, metrics, **asked)
                return self._decide(epoch, metrics, **asked)

            decision = self._ranks.first(decide_on_it)
            self._carry_out(decision, epoch, metrics, parts)
        if self._recorder is not None:
            self._metrics = metrics
            if decision is not None and decision.names:
                self._note("inside", saved=True, rng=(parts or {}).get("rng_state"))
            self._recorder.at(self.position)
        self._stop_for_recorder()
        if self._must_stop and decision is not None and decision.names:
            self._leave(f"saved at {self.position}")

    def save(
        self, metrics: Mapping[str, float], *, epoch: int | None = None, global_step: int | None = None
    ) -> Decision:
        """Say that the epoch has ended with `metrics`, scheduler and early stopping included; write what is due.

        Gradients are no part of a checkpoint: a loop that carries some over an epoch's end does not resume exactly.
        `epoch` and `global_step` are for loops that `epochs` does not drive. Values become plain floats.

        Raises:
            RuntimeError: a second `save` in one epoch. UsedDirectoryError: another run's checkpoints lie here and
                nobody resumed. CheckpointWriteError: the disk refused; what was there is as it was. In the background
                it is of the save before, and this one is not made; in a loop over `epochs` it can be called again.
                StopTraining: a stop was asked for, and the end of this epoch is saved.
        """
        self._check()
        if self._driven and (epoch is not None or global_step is not None):
            raise TypeError("save: epochs() counts epoch and global_step; leave them out")
        if self._driven and self._progress.ended:
            raise RuntimeError("save: this epoch was saved already; one epoch ends once")
        metrics = plain_metrics(metrics)
        number = self.position.epoch if epoch is None else epoch
        self._meet("save", epoch=number)
        metrics = self._of_first(metrics)
        try:
            asked = {"owed": self._owed, "stopping": self._must_stop}
            self._ranks.first(lambda: self._wait_for_the_one_before(number, metrics, **asked))
        except BaseException:
            self._unfinished = False  # what the objects hold now is of no epoch that is being saved
            self._refused = metrics
            if not self._driven:  # a loop that only takes note of it counts on
                self._progress.end_epoch(epoch, global_step)
            raise
        self._refused = {}
        begins = self._commits.run is None
        self._begin_run()
        self._metrics = dict(metrics)
        self._warn_of_missing_monitor()
        ended = self._progress.end_epoch(epoch, global_step)
        self._unfinished = True
        if begins:
            self._check_room(1)
        asked = {"owed": self._owed, "stopping": self._must_stop}
        decision = self._ranks.first(lambda: self._decide(ended, self._metrics, **asked))
        self._owed = 0
        self._carry_out(decision, ended, self._metrics)
        self._note("end", saved=bool(decision.names))
        self._stop_for_recorder()
        if self._must_stop and LAST_NAME in decision.names:
            self._leave(f"saved the end of epoch {ended}")
        return decision

    def wait(self) -> Saved | None:
        """Wait until no save is under way; return the newest one of this process, None before the first.

        Raises:
            CheckpointWriteError: what went wrong with a save in the background, unless it was raised already.
        """
        if self._commits.is_saving or self._ranks.is_calling:  # it is `on_saved` that asks
            return self._commits.saved
        self._meet("wait")

        def settle() -> tuple[bool, Saved | None]:
            self._commits.settle()
            return self._commits.has_failed, self._commits.saved

        has_failed, saved = self._ranks.first(settle)
        if has_failed and not self._driven:
            self._unfinished = False  # what is trained from here on is of no epoch that has ended
        self._ranks.first(self._commits.raise_failure)
        self._follow()
        return saved

    def _check(self) -> None:
        self._tenancy.check()
        if not self._ranks.many:
            self._tenancy.check_hold()
        if self._commits.is_saving:
            raise RuntimeError("on_saved: a save is ending, and the manager takes no other call from there but wait()")
        if self._stop_obeyed:  # somebody has caught it: what lies there is sound, and nothing is put over it
            raise self._stopped("nothing is saved after that")

    def _leave(self, what: str) -> NoReturn:
        """Leave by `StopTraining`, once what was saved is durable; else raise why it is not."""

        def check() -> None:
            self._commits.settle()
            if not self._commits.is_newest(self.position):
                self._commits.raise_failure()
                raise CheckpointWriteError(
                    f"{self.directory}: a stop was asked for, and the state of now could not be saved, as the log "
                    "says; what was saved before is there"
                )

        self._ranks.first(check)
        raise self._stopped(what)

    def _stopped(self, what: str) -> StopTraining:
        self._unfinished = False  # the run goes on one day, so it has no final epoch yet
        self._stop_obeyed = True
        return StopTraining(
            f"stopped by {self._stop.received.name if self._stop.received else 'a signal to another rank'}: {what}"
        )

    def close(self) -> None:
        """End the run: an epoch that `save` ended and that has no file yet gets its numbered one.

        Raises:
            Exception: what went wrong when the loop was left, or with a save in the background, if anything did.
        """
        self._close(clean=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        apart = isinstance(error, RuntimeError) and not isinstance(error, RankError)
        others = self._ranks.look() if error is not None and (apart or self._is_to_finish(clean=False)) else "here"
        try:
            self._close(clean=error is None, finish=others == "here")
        except Exception as failure:
            if error is None:
                raise
            if str(failure) != str(error):  # a full disk is said once
                logger.error("%s", failure)  # the exception that is under way must not be hidden by it
        if apart and others == "gone":  # a collective of the training's own has said so, in many lines
            raise self._ranks.lost() from None

    def _is_to_finish(self, *, clean: bool) -> bool:
        return self._error is None and self._unfinished and self._progress.ended and (self._driven or clean)

    def _close(self, *, clean: bool, finish: bool = True) -> None:
        if self._tenancy.left:
            return
        try:
            if finish and self._is_to_finish(clean=clean):
                self._finish()
        finally:
            self._tenancy.leave()
        self._commits.release()
        if self._error is not None:
            raise self._error
        self._commits.raise_failure()
        if clean and self._meet("close") and not self._stop_obeyed:  # what comes after the run is to be stopped as well
            raise self._stopped("the loop is over, and its last epoch saved")

    def _finish(self) -> None:
        """Give the epoch that ended last its numbered file, if it ended and has none."""
        if not self._progress.ended or self._commits.run is None or self.position.epoch == 0:
            return
        self._ranks.meet("the end of the epochs", self.position)
        ended = self.position.epoch - 1

        def decide_on_it() -> Decision | None:
            self._tenancy.check_hold()
            self._commits.settle()
            self._unfinished = False
            if self._commits.has_failed and not self._driven:  # and nobody knows what the objects hold by now
                self._commits.raise_failure()
            decision = self._decide(ended, self._metrics, files=list_checkpoints(self.directory), ending=True)
            if decision.names and decision.best == self.best and self._commits.is_newest(self.position):
                self._commits.name_newest(decision.names[0])  # the bytes are there and lack only the name
            elif decision.names:
                return decision
            else:
                self._commits.finish()
            return None

        decision = self._ranks.first(decide_on_it)
        self._unfinished = False
        if decision is not None:
            self._carry_out(decision, ended, self._metrics)

        def settle() -> None:
            self._commits.settle()
            self._commits.raise_failure()

        self._ranks.first(settle)
        self._follow()

    def _wait_for_the_one_before(self, epoch: int, metrics: dict[str, float], **circumstances: Any) -> None:
        """Wait for a save in the background if what comes now may write, and raise what went wrong with it.

        Before anything of the next save is done: a run that ends here goes on from what is durable, and what was not
        saved is trained again. A stop is no time to give up: it tries once more, and what went wrong is in the log. A
        step that writes nothing raises nothing.
        """
        writes = self._may_write(epoch, metrics, circumstances)
        if writes:
            self._commits.settle()
        if not circumstances["stopping"] and (writes or not circumstances.get("inside_epoch")):
            self._commits.raise_failure()

    def _decide(self, epoch: int, metrics: Mapping[str, float], **circumstances: Any) -> Decision:
        decision = self._decide_by(self._commits.possible_bests[-1], epoch, metrics, circumstances)
        if decision.names and len(self._commits.possible_bests) > 1:  # what is written goes by what is durable
            self._commits.settle()
            decision = self._decide_by(self.best, epoch, metrics, circumstances)
        return decision

    def _decide_by(
        self, best: Best, epoch: int, metrics: Mapping[str, float], circumstances: Mapping[str, Any]
    ) -> Decision:
        return decide(
            self.settings,
            epoch=epoch,
            global_step=self.position.global_step,
            metrics=metrics,
            best=best,
            seconds_since_save=self._commits.seconds_since_save,
            **circumstances,
        )

    def _carry_out(
        self,
        decision: Decision,
        epoch: int,
        metrics: Mapping[str, float],
        parts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what was decided on; `parts` of the checkpoint are as they were before, not as they are now."""
        if not decision.names:
            return
        ranks = {}
        if self._ranks.many:
            ranks["ranks"] = gather_parts(self._ranks, self._objects)
        else:
            put_together(self._objects)

        def write() -> None:
            checkpoint = build(
                self._objects,
                epoch=epoch,
                position=self.position,
                metrics=metrics,
                best=decision.best,
                run=self._commits.next_run(),
                config=self._config,
                training_time=self._trained_before + time.monotonic() - self._started,
            )
            checkpoint["metadata"]["settings"] = self._settings
            checkpoint |= parts or ranks
            self._commits.submit(decision, checkpoint, self.position, held=self._tenancy)

        self._ranks.first(write)
        self._follow()

    def _note(self, moment: recording.Moment, **details: Any) -> None:
        if self._recorder is not None:
            record = {"metrics": self._metrics, "best": asdict(self._commits.possible_bests[-1])}
            self._recorder.note(self.position, moment, self._objects, record, run=self._recorded_as, **details)

    def _stop_for_recorder(self) -> None:
        if self._recorder is not None:
            if self._recorder.is_stop(self.position):
                self._commits.settle()  # what is to be certified is the save, not the moment at which it is durable
            self._recorder.stop_at(self.position)

    def _warn_of_missing_monitor(self) -> None:
        if self._metrics and self.settings.monitor not in self._metrics and not self._warned and self._ranks.is_first:
            self._warned = True  # once: the next epochs will hold the same metrics
            logger.warning(
                "monitor: expected one of the metrics %s, found %r: no epoch can be the best",
                ", ".join(self._metrics),
                self.settings.monitor,
            )

    def _begin_run(self) -> None:
        if self._commits.run is not None:
            return

        def check() -> None:
            if is_used(self.directory):
                raise self._used("for a fresh start")

        with self._writing():
            self._ranks.first(check)
            self._begin()
        self._stop.listen()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Have the directory while a run begins, on the rank that writes, and keep it if it did begin."""
        with ExitStack() as stack:
            self._ranks.first(lambda: stack.enter_context(self._tenancy.begin()))
            yield

    def _begin(self) -> None:
        def clear() -> dict[str, Any]:
            with refusals_named(self.directory):
                remove_cut(self.directory)  # of a run whose files somebody has moved away
            return new_line()

        line = self._ranks.first(clear)
        self._tenancy.take_over()
        self._commits.begin(line)

    def _check_room(self, contents: int) -> None:
        self._ranks.first(lambda: check_room(self.directory, contents, size_of_state(self._objects)))

    def _meet(self, call: str, wish: Wish = Wish.NOTHING, *, epoch: int | None = None) -> Wish:
        """Meet the other ranks, of which each may have been asked for a stop."""
        place = self.position if epoch is None else replace(self.position, epoch=epoch)
        wish |= Wish.STOP if self.stop_requested else Wish.NOTHING
        lost: CheckpointError | None = None
        if self._ranks.many:  # one alone has looked at it, in `_check`
            try:
                self._tenancy.check_hold()
            except CheckpointError as error:
                lost, wish = error, wish | Wish.FAIL
        wish = self._ranks.meet(call, place, wish)
        if wish & Wish.FAIL:
            self._ranks.first(lambda: _raise(lost))
        self._stop_is_agreed = bool(wish & Wish.STOP)
        return wish

    @property
    def _must_stop(self) -> bool:
        return self._stop_is_agreed if self._ranks.many else self.stop_requested

    def _of_first(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return rank 0's metrics: one epoch has one loss."""
        given = self._ranks.exchange(metrics)
        first = given[0]
        # One that gives none has not validated. As texts: no NaN is equal to another.
        apart = (
            (rank, name)
            for rank, each in enumerate(given)
            for name in each
            if repr(each[name]) != repr(first.get(name))
        )
        rank, name = next(apart, (0, ""))
        if rank and self._ranks.is_first and not self._warned_of_metrics:
            self._warned_of_metrics = True
            logger.warning(
                "save: rank 0 has %s %s, rank %d %s: what rank 0 has is used; average it over the ranks where each "
                "validates its share",
                name,
                first.get(name, "not at all"),
                rank,
                given[rank][name],
            )
        return first

    def _follow(self) -> None:
        """Have every rank know what is on the disk."""
        durable = self._ranks.first(lambda: self._commits.durable)
        if not self._ranks.is_first:
            self._commits.follow(durable)

    def _may_write(self, epoch: int, metrics: dict[str, float], asked: Mapping[str, Any]) -> bool:
        bests = self._commits.possible_bests
        return any(self._decide_by(best, epoch, metrics, asked).names for best in bests)

    def _used(self, what_for: str) -> UsedDirectoryError:
        return UsedDirectoryError(
            f"{self.directory}: expected an unused directory {what_for}, found the checkpoints of another run; resume "
            "that run, or name a new directory"
        )

    def _check_inside_epoch(self, found: Found) -> None:
        position = found.file.position
        ranks = int(found.checkpoint.get("metadata", {}).get("ranks", 1))
        if position.batch and ranks != self._ranks.size:
            raise MismatchError(
                f"{found.file.path}: it was saved inside {position}, with ranks {ranks}, here {self._ranks.size}: no "
                f"rank would get the rest of its batches; start {ranks} processes, or resume from the end of an epoch"
            )
        if position.batch and not any(state_key(name) in found.checkpoint for name in self._progress.loaders):
            raise MismatchError(
                f"{found.file.path}: it was saved inside {position}; to go on there hand over the ResumableLoader "
                "under the name it was saved with, or resume from the end of an epoch"
            )


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
