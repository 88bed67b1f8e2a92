"""The examination of a training loop: four ordeals, each in a folder of its own, and what came of them.

``examine(train)`` calls ``train(folder)`` in processes forked from this one: once undisturbed, and twice for each
ordeal, which begins in the middle of epoch 4. The loop trains a `Run`, whose proctor counts the batches. All is done
for real: the signals are signals, the disk is full (see `small_disk`), the bit is flipped in the file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from koemorph_tutorial.testing import CertificateError, certify, children
from koemorph_tutorial.text import printable

from . import flips, small_disk
from .proctor import BATCHES, EPOCHS, PARTS, Loop, Run, Strike, newest, sit

if TYPE_CHECKING:
    from koemorph_tutorial.testing import Certificate, Recorder

__all__ = ["BATCHES", "EPOCHS", "ORDEALS", "PARTS", "TOTAL", "WATCHING", "Examination", "Ordeal", "Outcome", "Run"]
__all__ += ["certified", "examine", "graduate", "rounds"]

TOTAL = EPOCHS * BATCHES
EPOCH, BATCH = 4, 5  # where the ordeals begin: in this epoch, after so many of its batches
_PLACE = EPOCH * BATCHES + BATCH
_PATIENCE = 30.0  # seconds, for each process


@dataclass(frozen=True, kw_only=True)
class Ordeal:
    """What happens to the first process, and to its file before the second one begins; how many batches it may cost."""

    name: str
    strike: Strike
    flips_a_bit: bool = False
    may_cost: int = 0


_KILL = Strike(deed="kill", number=_PLACE)
ORDEALS = (
    Ordeal(name="kill -9", strike=_KILL, may_cost=BATCHES),
    Ordeal(name="SIGTERM", strike=Strike(deed="term", number=_PLACE)),
    # Whoever saves in the background hears of it one epoch later.
    Ordeal(name="full disk", strike=Strike(deed="fill", number=_PLACE), may_cost=2 * BATCHES),
    Ordeal(name="flipped bit", strike=_KILL, flips_a_bit=True, may_cost=2 * BATCHES),
)
WATCHING = Ordeal(  # while it validates: the second of four parts in epoch 4
    name="SIGTERM in the validation", strike=Strike(deed="term", number=EPOCH * PARTS + 2, kind="part")
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an ordeal.

    `batches` are those that the first process trained, and the second; `wrong_bits` of `bits` are those in which the
    networks differ in the end from those of the undisturbed run, None where nothing can be compared; `ended` and
    `error` say how the two processes ended, "" is as they should.
    """

    ordeal: Ordeal
    batches: tuple[int, int]
    wrong_bits: int | None
    bits: int
    ended: str
    error: str
    same_metrics: bool
    left: tuple[str, ...] = ()

    @property
    def again(self) -> int:
        """How many batches were trained a second time; below 0, how many never were."""
        return sum(self.batches) - TOTAL

    @property
    def is_equal(self) -> bool:
        """Whether the networks are, to the last bit, those of the run that nothing happened to."""
        return self.wrong_bits == 0 and not self.error

    @property
    def survived(self) -> bool:
        """Whether all is equal in the end, and no more work was lost than could not be helped."""
        return self.is_equal and self.same_metrics and 0 <= self.again <= self.ordeal.may_cost

    def __str__(self) -> str:
        verdict = "survived" if self.survived else "not survived"
        return f"{self.ordeal.name:12} {self.cost:20} {self.network:17} {verdict}"

    @property
    def cost(self) -> str:
        """What it cost, in words."""
        if self.error:
            return "it could not go on"
        number = abs(self.again)
        return f"{number} batch{'' if number == 1 else 'es'} {'again' if self.again >= 0 else 'never'}"

    @property
    def network(self) -> str:
        """Which network came of it, in words."""
        return "the same network" if self.is_equal else "no network" if self.error else "another network"


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What came of all ordeals; `problem` says why there was none. `seen` is what the undisturbed run did, in order."""

    name: str
    outcomes: tuple[Outcome, ...] = ()
    problem: str = ""
    seen: tuple[Mapping[str, Any], ...] = ()
    files: tuple[str, ...] = ()  # that the undisturbed run left
    metrics: Mapping[str, float] = field(default_factory=dict)  # in its newest file
    certificate: Certificate | None = None
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)  # the networks of the survivors, all equal

    @property
    def survived(self) -> int:
        """How many ordeals were survived."""
        return sum(outcome.survived for outcome in self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether all were, and the certificate, if there is one, says that nothing else differs either."""
        all_of_them = bool(self.outcomes) and self.survived == len(self.outcomes)
        return all_of_them and (self.certificate is None or self.certificate.certified)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name}: {self.problem}"
        return "\n".join((f"{self.name}: survived {self.survived} of {len(self.outcomes)}", *map(str, self.outcomes)))


def examine(loop: Loop, *, ordeals: Sequence[Ordeal] = ORDEALS, certificate: bool = False) -> Examination:
    """Put a training loop through the `ordeals`; with ``certificate=True`` through `testing.certify` as well.

    The certificate needs a loop that saves by a `CheckpointManager`, and is only asked for once all is survived.

    >>> def forgets(folder):  # and saves nothing
    ...     run = Run()
    ...     for epoch in range(EPOCHS):
    ...         for batch in run.loader:
    ...             run.step(batch)
    >>> print(examine(forgets, ordeals=ORDEALS[:1]))
    forgets: survived 0 of 1
    kill -9      45 batches again     the same network  not survived
    """
    *_, examined = rounds(loop, ordeals=ordeals)
    return certified(examined, loop) if certificate and examined.passed else examined


def rounds(loop: Loop, *, ordeals: Sequence[Ordeal] = ORDEALS) -> Iterator[Examination]:
    """Examine, and yield what is known after each round, in which as much happens at a time as there are cores.

    Whoever only asks what is missing need not wait for the ordeals that come after the first that is not survived.
    """
    name = str(getattr(loop, "__name__", "the loop"))
    Run()  # the windows are cut here once, and not in each process again
    jobs = [None, *ordeals]
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory(prefix="koemorph-examination-", ignore_cleanup_errors=True) as temporary:

        def work(number: int) -> Iterator[list[Any]]:
            index = len(found) + number
            yield [index, _undergo(loop, jobs[index], Path(temporary, str(index)))]

        while len(found) < len(jobs):
            found |= dict(children.share(work, min(children.cores(), len(jobs) - len(found))))
            examined = _judged(name, ordeals, found, Path(temporary))
            yield examined
            if examined.problem:
                return


def _judged(name: str, ordeals: Sequence[Ordeal], found: Mapping[int, Any], folder: Path) -> Examination:
    """Judge what was found of the undisturbed run, number 0, and of the first of the ordeals."""
    straight = found[0]
    if straight["error"] or straight["batches"][1] != TOTAL:
        return Examination(name=name, problem=_problem(straight), seen=tuple(straight["seen"]))
    reference = _load(folder / "0")
    outcomes = tuple(
        _judge(ordeals[index - 1], found[index], straight, reference, _load(folder / str(index)))
        for index in range(1, len(found))
    )
    return Examination(
        name=name,
        outcomes=outcomes,
        seen=tuple(straight["seen"]),
        files=tuple(straight["left"]),
        metrics={key: float.fromhex(value) for key, value in straight["metrics"].get("last_model.pth", {}).items()},
        state=reference if any(outcome.survived for outcome in outcomes) else {},  # to the last bit
    )


_graduate: Examination | None = None


def graduate(examined: Examination | None = None) -> Examination | None:
    """Return the reader's own loop that has passed in this kernel, None before; `examined` is one that just has."""
    global _graduate
    _graduate = examined or _graduate
    return _graduate


def certified(examined: Examination, loop: Loop) -> Examination:
    """Return an examination with what `testing.certify` says of its loop; `problem` says why that is nothing."""

    def recorded(folder: Path, recorder: Recorder) -> None:
        loop(folder)  # its manager records by itself

    try:
        return replace(examined, certificate=certify(recorded))
    except CertificateError as error:
        return replace(examined, problem=f"no certificate: {error}")


def _undergo(loop: Loop, ordeal: Ordeal | None, place: Path) -> dict[str, Any]:
    """Let a loop undergo an ordeal, or nothing, and return what came of it, as JSON."""
    place.mkdir()
    if ordeal is None or ordeal.strike.deed != "fill":
        return _train_twice(loop, ordeal, place)
    # The disk is there for one process and its children, so all that is to be seen there is looked at from inside.
    ended = children.run(lambda: _train_twice(loop, ordeal, place, mounted=True), place, timeout=3 * _PATIENCE)
    if ended.result is None:
        raise RuntimeError(f"{ordeal.name}: {ended.error or 'no end in sight'}")
    result: dict[str, Any] = ended.result
    return result


def _train_twice(loop: Loop, ordeal: Ordeal | None, place: Path, *, mounted: bool = False) -> dict[str, Any]:
    disk = place / "disk"
    disk.mkdir()
    if mounted:
        small_disk.mount(disk)
    run = disk / "run"
    run.mkdir()
    first = children.Ended()
    if ordeal is not None:
        first = _process(loop, run, place / "first", ordeal.strike)
        small_disk.make_room(disk)
        damaged = newest(run)
        if ordeal.flips_a_bit and damaged is not None:
            _flip(damaged)
    second = _process(loop, run, place / "second", None)
    seen = [_events(place / name) for name in ("first", "second")]
    return {
        "batches": [Counter(event["what"] for event in events)["batch"] for events in seen],
        "seen": seen[1],
        "ended": first.error or "",
        "error": second.error or ("it did not come to an end" if second.timed_out else ""),
        "metrics": _metrics(run),
        "left": sorted(path.name for path in run.glob("*")),  # none where the loop has removed it
    }


def _process(loop: Loop, run: Path, place: Path, strike: Strike | None) -> children.Ended:
    """Let a process train in `run`; what it writes elsewhere, by a relative path, is gone with it."""
    place.mkdir()
    work = partial(sit, loop, run, place / "journal", place.parent / "final.pth", strike)
    with tempfile.TemporaryDirectory(prefix="koemorph-examined-", ignore_cleanup_errors=True) as elsewhere:

        def there() -> None:
            os.chdir(elsewhere)
            work()

        return children.run(there, place, timeout=_PATIENCE)


def _flip(path: Path) -> None:
    """Flip bit 30 of a weight that chance has chosen; in a file of another kind a bit in its middle."""
    try:
        flips.flip(path, flips.draw(path, seed=8), bit=30)
    except Exception:  # whatever it is, it is no checkpoint with weights in it
        flips.flip_at(path, path.stat().st_size // 2, 6)


def _events(place: Path) -> list[dict[str, Any]]:
    journal = place / "journal"
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def _metrics(run: Path) -> dict[str, dict[str, str]]:
    """Return the metrics in each checkpoint, where there are any, as text: a NaN is no JSON."""
    found = {}
    for path in sorted(run.glob("*.pth")):
        with suppress(Exception):  # it is torn, or of another form: then there is nothing to compare
            metrics = torch.load(path, weights_only=True)["metrics"]
            found[path.name] = {str(name): float(value).hex() for name, value in metrics.items()}
    return found


def _same_metrics(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Compare the files that both runs left."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _load(place: Path) -> dict[str, torch.Tensor]:
    path = place / "final.pth"
    return torch.load(path, weights_only=True) if path.exists() else {}


def _judge(
    ordeal: Ordeal,
    result: Mapping[str, Any],
    straight: Mapping[str, Any],
    reference: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
) -> Outcome:
    return Outcome(
        ordeal=ordeal,
        batches=(result["batches"][0], result["batches"][1]),
        wrong_bits=_wrong_bits(reference, found),
        bits=sum(8 * value.nbytes for value in reference.values()),
        ended=result["ended"],
        error=result["error"],
        same_metrics=_same_metrics(straight["metrics"], result["metrics"]),
        left=tuple(name for name in result["left"] if name not in straight["left"]),
    )


def _wrong_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> int | None:
    """Count the bits in which two networks differ; None where they are not of one kind.

    >>> _wrong_bits({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([-1.0, 2.0])})
    1
    """
    if one.keys() != other.keys():
        return None
    pairs = [(one[name].numpy().reshape(-1), other[name].numpy().reshape(-1)) for name in one]
    differing = (a.view(np.uint8) ^ b.view(np.uint8) for a, b in pairs)
    return sum(int(np.unpackbits(each).sum()) for each in differing)


def _problem(straight: Mapping[str, Any]) -> str:
    if straight["error"]:
        return f"it fails though nothing happens to it: {printable(straight['error'], 300)}"
    trained = straight["batches"][1]
    return (
        f"it trains {trained} batch{'' if trained == 1 else 'es'} of its run, expected {TOTAL} (counted by `run.step`)"
    )
