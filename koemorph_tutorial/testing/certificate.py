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
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from koemorph_tutorial import recording
from koemorph_tutorial.recording import Recorder
from koemorph_tutorial.records import Position

from . import children
from .children import Ended
from .stops import CertificateError, Resumption, choose, judge, of_rank
from .trails import Difference, Trail, against

Loop = Callable[[Path, Recorder], None]


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
            stops = "the stop" if len(self.trials) == 1 else f"each of {len(self.trials)} stops"
            return f"certified: after {stops} the resumed run is bitwise the one without a stop"
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
    manager with a `ResumableLoader` saves there first where that is inside an epoch. None: the end of an epoch, a place
    inside a later one where that can be, and the end of the last but one. Each process is forked from this one, with
    one thread of torch, the resumed ones with other random states: what this process has made before, they share.
    `timeout` in seconds holds for each. `workdir`, an empty folder, keeps what they wrote.

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
    certified: after the stop the resumed run is bitwise the one without a stop
    """

    def run(folder: Path, role: _Role, stop: _Stop | None) -> Ended:
        def work() -> None:
            if role == "resumed":
                _disturb()
            loop(folder / "run", recording.begin(folder / f"{role}.jsonl", folder / "run", stop[0] if stop else None))

        ended = children.run(lambda: children.imported(work), folder, timeout=timeout)
        if role == "straight":
            children.import_all(ended.result or [])
        return ended

    return _certify(run, stops, workdir, timeout, "forked from one process")


def certify_script(
    command: Sequence[str],
    *,
    resume: Sequence[str] | None = None,
    stops: Sequence[Position] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
    processes: int = 1,
) -> Certificate:
    """Certify a program: `command` trains with a `CheckpointManager` in the folder that it is started in.

    `resume` is the command that goes on, if it is another one. Each process is a new one; the managers in it record
    since the environment variable ``KOEMORPH_RECORD`` tells them to. A command that has several `processes` train
    together, as torchrun does, is tried twice at each stop: all of them are killed, and the last of them alone, after
    which the others must end by themselves; each rank is compared with itself. Else as `certify`.

    Raises:
        CertificateError: as `certify`.
    """

    def run(folder: Path, role: _Role, stop: _Stop | None) -> Ended:
        environment = {
            **os.environ,
            recording.TRAIL: str(folder / f"{role}.jsonl"),
            recording.FOLDER: str(folder / "run"),
        }
        environment.pop(recording.STOP, None)
        if stop is not None:
            place, only = stop
            environment[recording.STOP] = f"{place.epoch},{place.batch}" + ("" if only is None else f",{only}")
        return _run(list(resume if role == "resumed" and resume else command), folder, environment, timeout)

    return _certify(run, stops, workdir, timeout, "each a new one", processes)


_Stop = tuple[Position, int | None]  # where, and which rank alone
_Role = Literal["straight", "stopped", "resumed"]
_Run = Callable[[Path, _Role, _Stop | None], Ended]  # a process, in a folder that is its own
_TORCHRUN = re.compile(r"^[WE]\d{4} \S+ \d+ torch/distributed/elastic/.*", re.MULTILINE)  # what it says of its own
# At the very end of a process, after all of its Python, gloo's threads abort it now and then (pytorch #179291).
_GLOO = "exit code 1: terminate called without an active exception"


def _certify(
    run: _Run,
    stops: Sequence[Position] | None,
    workdir: str | os.PathLike[str] | None,
    timeout: float,
    kind: str,
    processes: int = 1,
) -> Certificate:
    if stops is not None and not stops:
        raise CertificateError("stops: expected at least one position, found none")
    with tempfile.TemporaryDirectory(prefix="koemorph-certify-", ignore_cleanup_errors=True) as temporary:
        folder = Path(workdir or temporary).absolute()
        if folder.is_dir() and any(folder.iterdir()):
            raise CertificateError(f"{folder}: expected an empty folder to work in, found files; name another one")
        references = _straight(run, folder / "straight", [set()] * processes, timeout)
        for rank, reference in enumerate(references):
            if not reference.moments:
                raise CertificateError(
                    f"nothing was recorded{_by(rank, processes)}: expected a CheckpointManager that saves, or calls of "
                    "recorder.record"
                )
        idle = [reference.idle() for reference in references]
        references = _trails(folder / "straight", "straight", idle)
        places = list(stops) if stops is not None else choose(references[0])
        chosen: list[_Stop] = [(place, None) for place in places]
        if processes > 1:
            chosen += [(place, processes - 1) for place in places]
        workers = min(max(children.cores() // processes, 1), len(chosen))

        def work(number: int) -> Iterator[list[Any]]:
            for index in range(number, len(chosen), workers):
                place = folder / f"stop-{index}"
                (place / "run").mkdir(parents=True)
                stopped = run(place, "stopped", chosen[index])
                reached = any(trail.was_stopped for trail in _trails(place, "stopped", idle))
                resumed = run(place, "resumed", None) if reached else Ended()
                yield [index, stopped.why(timeout), stopped.timed_out, resumed.why(timeout)]

        trials: dict[int, Resumption] = {}
        problem, compared = "", dict[str, None]()
        for index, stopped, too_long, resumed in children.share(work, workers):
            stop, only = chosen[index]
            before, after = (_trails(folder / f"stop-{index}", role, idle) for role in ("stopped", "resumed"))
            if not any(trail.was_stopped for trail in before):
                why = stopped or "the training ended before that"
                trials[index] = Resumption(stop=stop, only=only, error=f"this stop was never reached: {why}")
                continue
            error = f"the others did not end: {stopped}" if too_long else resumed.replace(_GLOO, "")
            verdicts = []
            for rank, (reference, killed, fresh) in enumerate(zip(references, before, after, strict=True)):
                problem = problem or _not_the_same(reference, killed)
                comparison = against(reference, killed).compare(fresh, resumed=True)
                verdict = judge(stop, reference, killed, fresh, comparison, error)
                verdicts.append(of_rank(verdict, _by(rank, processes)))
                compared |= dict.fromkeys(comparison.components)
            worst = next((verdict for verdict in verdicts if not verdict.certified), verdicts[0])
            moments, batches = sum(each.moments for each in verdicts), sum(each.batches for each in verdicts)
            trials[index] = replace(worst, only=only, moments=moments, batches=batches)
        if not problem and any(trial.difference for trial in trials.values()):  # is it the resume, or are no two alike?
            again = _straight(run, folder / "again", idle, timeout)
            problem = next(filter(None, map(_not_the_same, references, again)), "")
        return Certificate(
            trials=tuple(trials[index] for index in range(len(chosen))),
            problem=problem,
            components=tuple(compared),
            environment={**references[0].environment, "processes": kind},
        )


def _straight(run: _Run, folder: Path, idle: Sequence[set[str]], timeout: float) -> list[Trail]:
    """Train without a stop and return what each rank has written down."""
    (folder / "run").mkdir(parents=True)
    why = run(folder, "straight", None).why(timeout)
    if why and why != _GLOO:  # had that come in the middle, the resumed run would get further
        raise CertificateError(f"the training fails without any stop, in an empty folder: {why}")
    return _trails(folder, "straight", idle)


def _trails(folder: Path, role: str, idle: Sequence[set[str]]) -> list[Trail]:
    """Return what each rank has written down, without the generators that are `idle` in it."""
    trail = folder / f"{role}.jsonl"
    return [Trail(recording.trail_of(trail, rank)).leave_out(names) for rank, names in enumerate(idle)]


def _by(rank: int, processes: int) -> str:
    return f" by rank {rank}" if processes > 1 else ""


def _not_the_same(one: Trail, other: Trail) -> str:
    """Say what two runs that should be the same differ in, "" if in nothing."""
    apart = one.compare(other, resumed=False).difference
    advice = "seed random, numpy and torch, and keep clocks out of it"
    return f"two runs that nobody has stopped differ {apart}; {advice}" if apart else ""


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
    words = _TORCHRUN.split(said.read_text("utf-8", "replace"), maxsplit=1)[0]
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return Ended(error=f"exit code {code}: {lines[-1] if lines else 'it said nothing'}")
