"""Does a training that was stopped and resumed do, bit by bit, what it would have done without the stop?

The training runs once straight. Then, for each stop, it runs in an empty folder until there and is killed, with a real
SIGKILL; a fresh process resumes and trains to the end. What a `recording.Recorder` wrote down meanwhile is compared:
right after the resume, at the end of each epoch from there on, and every batch that was handed out. The first thing
that differs is named; nothing that differs, and the resume is certified.

The training must be the same each time it is run: seed it. What is compared holds for this machine, this count of
threads and these versions; the receipt names them.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from koemorph_tutorial import recording
from koemorph_tutorial.recording import Recorder
from koemorph_tutorial.records import Position

from . import children
from .children import Ended

Loop = Callable[[Path, Recorder], None]


class CertificateError(ValueError):
    """A training that cannot be certified or refused: it fails without any stop, or nothing of it was recorded."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first thing that was not the same: `leaf` of `component`, and `when`; a component is an object, say."""

    component: str
    leaf: str
    position: Position
    when: str
    expected: str
    found: str

    def __str__(self) -> str:
        what = f"{self.component}.{self.leaf}" if self.leaf else self.component
        return f"{self.when}: {what}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """What came of one stop: where the fresh process went on, how many moments were compared, what differed first."""

    stop: Position
    killed: bool = False
    resumed_at: Position | None = None
    moments: int = 0
    batches: int = 0
    difference: Difference | None = None
    error: str = ""

    @property
    def certified(self) -> bool:
        """Whether the run was killed and resumed, and nothing differs."""
        return self.killed and self.resumed_at is not None and self.difference is None and not self.error

    def __str__(self) -> str:
        start = f"killed at {_where(self.stop)}"
        if self.resumed_at is not None:
            start += f", resumed at {_where(self.resumed_at)}"
        if self.certified:
            return f"{start}: {self.moments} moments and {self.batches} batches compared, bitwise equal"
        return f"{start}: " + (f"differs {self.difference}" if self.difference else self.error)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Whether a training resumes bitwise, stop by stop; `problem` says why nothing can be said about it."""

    trials: tuple[Resumption, ...]
    problem: str = ""
    components: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def certified(self) -> bool:
        """Whether all stops were survived without a difference."""
        return not self.problem and bool(self.trials) and all(trial.certified for trial in self.trials)

    @property
    def first_difference(self) -> Difference | None:
        """What differs first, of the first stop after which anything does."""
        return next((trial.difference for trial in self.trials if trial.difference), None)

    def __str__(self) -> str:
        if self.certified:
            return (
                f"certified: after each of {len(self.trials)} stops the resumed run is bitwise the one without a stop"
            )
        why = self.problem or str(next(trial for trial in self.trials if not trial.certified))
        return f"not certified: {why}"

    def lines(self) -> list[str]:
        """Return everything that a person should read."""
        lines = [str(self)]
        if len(self.trials) > 1 or self.certified:
            lines += [f"  {trial}" for trial in self.trials]
        if self.components:
            lines.append(f"compared: {', '.join(self.components)}")
        lines.append(", ".join(f"{name} {value}" for name, value in self.environment.items()))
        return lines

    def to_json(self) -> str:
        """Return the receipt as one JSON object."""
        first = self.first_difference
        return json.dumps(
            {
                "certified": self.certified,
                "problem": self.problem,
                "first_difference": asdict(first) if first else None,
                "stops": [{"certified": trial.certified, **asdict(trial)} for trial in self.trials],
                "components": self.components,
                "environment": dict(self.environment),
            }
        )


def certify(
    loop: Loop,
    *,
    stops: Sequence[Position] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    timeout: float = 120.0,
) -> Certificate:
    """Certify a training: `loop` trains in the folder that it is given, to the end, and goes on from what lies there.

    A `CheckpointManager` in it records by itself; with another way of saving `loop` calls ``recorder.record(position,
    **objects)`` after each epoch's save, and right after a restore. `stops` are positions at which it is killed; a
    manager with a `ResumableLoader` saves there first where that is inside an epoch. None: the end of an epoch, and one
    inside where that can be. Each process is forked from this one, with one thread of torch, the resumed ones with
    other random states; `timeout` in seconds holds for each. `workdir` keeps what they wrote.

    Raises:
        CertificateError: the training fails by itself, or nothing of it was recorded.

    >>> import torch
    >>> from koemorph_tutorial import CheckpointManager
    >>> def loop(folder, recorder):
    ...     torch.manual_seed(0)
    ...     model = torch.nn.Linear(2, 1)
    ...     optimizer = torch.optim.AdamW(model.parameters())
    ...     objects = {"model": model, "optimizer": optimizer}
    ...     with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
    ...         for epoch in checkpoints.epochs(3):
    ...             loss = model(torch.randn(4, 2)).square().mean()
    ...             loss.backward()
    ...             optimizer.step()
    ...             optimizer.zero_grad()
    ...             checkpoints.save({"loss": loss})
    >>> print(certify(loop, stops=[Position(epoch=2)]))
    certified: after each of 1 stops the resumed run is bitwise the one without a stop
    """

    def run(folder: Path, trail: Path, stop: Position | None, fresh: bool) -> Ended:
        def work() -> None:
            if fresh:
                _disturb()
            loop(folder / "run", recording.begin(trail, stop))

        return children.run(work, folder, timeout=timeout)

    return _certify(run, stops, workdir, timeout)


def certify_script(
    command: Sequence[str],
    *,
    resume: Sequence[str] | None = None,
    stops: Sequence[Position] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
) -> Certificate:
    """Certify a program: `command` trains with a `CheckpointManager` in the folder that it is started in.

    `resume` is the command that goes on, if it is another one. Each process is a new one; the managers in it record
    since the environment variable ``KOEMORPH_RECORD`` tells them to. Else as `certify`.

    Raises:
        CertificateError: as `certify`.
    """

    def run(folder: Path, trail: Path, stop: Position | None, fresh: bool) -> Ended:
        environment = {**os.environ, recording.TRAIL: str(trail)}
        environment.pop(recording.STOP, None)
        if stop is not None:
            environment[recording.STOP] = f"{stop.epoch},{stop.batch}"
        return _run(list(resume if fresh and resume else command), folder, environment, timeout)

    return _certify(run, stops, workdir, timeout)


Run = Callable[[Path, Path, Position | None, bool], Ended]


def _certify(
    run: Run, stops: Sequence[Position] | None, workdir: str | os.PathLike[str] | None, timeout: float
) -> Certificate:
    if stops is not None and not stops:
        raise CertificateError("stops: expected at least one position, found none")
    with tempfile.TemporaryDirectory(prefix="koemorph-certify-", ignore_cleanup_errors=True) as temporary:
        folder = Path(workdir or temporary).absolute()
        straight = _in_folder(run, folder / "straight", "straight", None, False)
        if straight.error or straight.killed or straight.timed_out:
            raise CertificateError(f"the training fails without any stop: {_why(straight, timeout)}")
        reference = _Trail(folder / "straight" / "straight.jsonl")
        idle = reference.idle()
        reference.leave_out(idle)
        if not reference.moments:
            raise CertificateError(
                "nothing was recorded: expected a CheckpointManager that saves, or calls of recorder.record"
            )
        chosen = list(stops) if stops is not None else _choose(reference)
        workers = min(children.cores(), len(chosen))

        def work(number: int) -> Iterator[list[Any]]:
            for index in range(number, len(chosen), workers):
                place = folder / f"stop-{index}"
                stopped = _in_folder(run, place, "stopped", chosen[index], False)
                resumed = _in_folder(run, place, "resumed", None, True) if stopped.killed else Ended()
                yield [index, _ended(stopped, timeout), _ended(resumed, timeout), stopped.killed]

        trials: dict[int, Resumption] = {}
        problem = ""
        for index, stopped, resumed, killed in children.share(work, workers):
            place = folder / f"stop-{index}"
            trials[index] = Resumption(stop=chosen[index], killed=killed, error=stopped or resumed)
            if not killed:
                reason = stopped or "the training ended before that"
                trials[index] = Resumption(stop=chosen[index], error=f"this stop was never reached: {reason}")
                continue
            before, after = _Trail(place / "stopped.jsonl"), _Trail(place / "resumed.jsonl")
            before.leave_out(idle)
            after.leave_out(idle)
            apart = reference.compare(before, _undisturbed).difference
            if apart is not None:
                problem = (
                    f"two runs that nobody has stopped yet differ {apart}; seed random, numpy and torch, and keep "
                    "clocks out of what is saved"
                )
            trials[index] = _compared(trials[index], reference, before, after)
        return Certificate(
            trials=tuple(trials[index] for index in range(len(chosen))),
            problem=problem,
            components=reference.components,
            environment=reference.environment,
        )


def _compared(trial: Resumption, reference: _Trail, before: _Trail, after: _Trail) -> Resumption:
    if not after.moments:
        return Resumption(stop=trial.stop, killed=True, error=trial.error or "the resumed run recorded nothing")
    first = after.moments[0]
    compared = _against(reference, before).compare(after, _resumed)
    difference = compared.difference
    if difference is None and not trial.error and after.last != reference.last:
        difference = Difference(
            component="the run",
            leaf="",
            position=after.last,
            when="at its end",
            expected=_where(reference.last),
            found=_where(after.last),
        )
    return Resumption(
        stop=trial.stop,
        killed=True,
        resumed_at=first.position,
        moments=compared.moments,
        batches=compared.batches,
        difference=difference,
        error="" if difference else trial.error,
    )


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """What a run was made of at a position: per component, per leaf, a text. Or the batch that a loader handed out."""

    name: str  # begin, inside, end; or of a batch its loader and number since the position
    position: Position
    components: Mapping[str, Mapping[str, str]]
    number: int = 0

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What the same moment of another run has as well."""
        kind = self.name if self.number else ""  # the same state at the end of an epoch and after a resume from there
        return kind, self.position.epoch, self.position.batch, self.number


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    difference: Difference | None = None
    moments: int = 0
    batches: int = 0


class _Trail:
    """What one process wrote down, in its order."""

    def __init__(self, path: Path) -> None:
        self.events: list[_Moment] = []
        self.environment: dict[str, Any] = {}
        text = path.read_text() if path.exists() else ""
        for line in text.splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a process that was killed
                self._add(json.loads(line))

    def _add(self, entry: dict[str, Any]) -> None:
        if "environment" in entry:
            self.environment = entry["environment"]
            return
        epoch, batch, global_step = entry["position"]
        position = Position(epoch=epoch, batch=batch, global_step=global_step)
        if "loader" in entry:
            components = {f"data of {entry['loader']}": {"": f"batch {entry['batch']}"}}
            name, number = entry["loader"], entry["count"]
            self.events.append(_Moment(name=name, position=position, components=components, number=number))
        else:
            self.events.append(_Moment(name=entry["moment"], position=position, components=entry["components"]))

    @property
    def moments(self) -> list[_Moment]:
        """All but the batches."""
        return [event for event in self.events if not event.number]

    @property
    def last(self) -> Position:
        """Where it was when it was last recorded."""
        return self.moments[-1].position

    def idle(self) -> set[str]:
        """Return the random generators that nobody has drawn from: how they stand does not matter."""
        names = {name for moment in self.moments for name in moment.components if name.startswith("rng.")}
        return {
            name
            for name in names
            if all(moment.components.get(name) == self.moments[0].components.get(name) for moment in self.moments)
        }

    def leave_out(self, components: set[str]) -> None:
        """Forget what was recorded of `components`."""
        self.events = [
            replace(event, components={name: item for name, item in event.components.items() if name not in components})
            for event in self.events
        ]

    @property
    def components(self) -> tuple[str, ...]:
        """The names of what was compared."""
        return tuple(dict.fromkeys(name for event in self.events for name in event.components))

    def compare(self, found: _Trail, describe: Callable[[_Moment, bool], str]) -> _Comparison:
        """Compare what `found` has in common with this, in its order, up to the first difference."""
        expected = {event.key: event for event in self.events}  # the last of a position: as it was saved
        moments = batches = 0
        for index, event in enumerate(found.events):
            reference = expected.get(event.key)
            if reference is not None:
                different = _first(reference.components, event.components)
            elif event.number and self._watches(event.name):
                different = f"data of {event.name}", "", "no further batch", "one"
            elif event.name == "end":
                different = "the run", "", "never to be here", _where(event.position)
            else:  # one saved there and the other did not, as every_minutes may have it
                continue
            if different is not None:
                component, leaf, wanted, got = different
                when = describe(event, index == 0)
                difference = Difference(
                    component=component, leaf=leaf, position=event.position, when=when, expected=wanted, found=got
                )
                return _Comparison(difference=difference, moments=moments, batches=batches)
            moments, batches = moments + (not event.number), batches + bool(event.number)
        return _Comparison(moments=moments, batches=batches)

    def _watches(self, loader: str) -> bool:
        return any(event.number and event.name == loader for event in self.events)


def _against(reference: _Trail, before: _Trail) -> _Trail:
    """Return what a resumed run should do: what the straight one did, and from its start what was saved."""
    both = _Trail(Path(os.devnull))
    both.events = [*reference.events, *before.moments]
    return both


def _first(
    expected: Mapping[str, Mapping[str, str]], found: Mapping[str, Mapping[str, str]]
) -> tuple[str, str, str, str] | None:
    """Return component, leaf and both texts of the first difference; a container's length is no reason but a result."""
    for component in dict.fromkeys((*expected, *found)):
        one, other = expected.get(component), found.get(component)
        if one is None or other is None:
            return component, "", "it" if one is not None else "nothing", "nothing" if one is not None else "it"
        if one == other:
            continue
        leaves = [leaf for leaf in dict.fromkeys((*one, *other)) if one.get(leaf) != other.get(leaf)]
        leaf = min(leaves, key=lambda leaf: one.get(leaf, "").startswith(("dict of", "list of", "tuple of")))
        return component, leaf, one.get(leaf, "nothing"), other.get(leaf, "nothing")
    return None


def _resumed(event: _Moment, is_first: bool) -> str:
    if event.name == "begin":
        return f"right after the resume at {_where(event.position)}"
    return ("in the first record after the resume, " if is_first else "") + _undisturbed(event, is_first)


def _undisturbed(event: _Moment, is_first: bool) -> str:
    place = event.position
    if event.number:
        return f"in batch {event.number} after {_where(place)}"
    if event.name == "begin":
        return "at the beginning"
    return f"at {_where(place)}" if place.batch else f"at the end of epoch {place.epoch - 1}"


def _where(place: Position) -> str:
    return f"epoch {place.epoch}, batch {place.batch}"


def _choose(reference: _Trail) -> list[Position]:
    """Choose where to stop: at the end of an epoch, and inside another one where the run can go on there."""
    ends = [event.position for event in reference.moments if event.position.batch == 0 and event.position.epoch > 0]
    if not ends:
        raise CertificateError("no epoch of the training ended, so there is no place to stop")
    stops = [ends[max(len(ends) // 3 - 1, 0)]]
    first = ends[max(2 * len(ends) // 3 - 1, 0)]
    inside = [
        event.position
        for event in reference.events
        if event.name in reference.components and event.position.epoch == first.epoch and event.position.batch
    ]
    if inside and len(ends) > 1:
        places = sorted({place.batch: place for place in inside}.items())
        stops.append(places[(len(places) - 1) // 2][1])
    return stops


def _in_folder(run: Run, folder: Path, name: str, stop: Position | None, fresh: bool) -> Ended:
    (folder / "run").mkdir(parents=True, exist_ok=True)
    return run(folder, folder / f"{name}.jsonl", stop, fresh)


def _disturb() -> None:
    """Begin with other random states than the process before, as a new process would."""
    import numpy as np
    import torch

    random.seed("another process")
    np.random.seed(0x5EED)
    torch.manual_seed(0x5EED)


def _run(command: list[str], folder: Path, environment: Mapping[str, str], timeout: float) -> Ended:
    """Run a command in ``folder/run``, in a session of its own that ends with it."""
    said = folder / "said.txt"
    with open(said, "wb") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder / "run",
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Ended(error=f"{shlex.join(command)}: cannot be started: {error.strerror}")
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return Ended(timed_out=True)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == -signal.SIGKILL:
        return Ended(killed=True, error="killed by SIGKILL")
    if code == 0:
        return Ended()
    lines = [line.strip() for line in said.read_text("utf-8", "replace").splitlines() if line.strip()]
    return Ended(error=f"exit code {code}: {lines[-1] if lines else 'it said nothing'}")


def _ended(ended: Ended, timeout: float) -> str:
    return "" if ended.killed else _why(ended, timeout)


def _why(ended: Ended, timeout: float) -> str:
    return f"it did not end within {timeout:g} s" if ended.timed_out else ended.error or ""
