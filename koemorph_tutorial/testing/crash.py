"""Kill, or fail, the n-th file operation of a training, for every n, and see what a fresh process makes of it.

A training that nobody disturbs is watched first: each of its file operations is a point. Then, for every point and
every mode, a trial in an empty directory:

1. the training runs until the point, and there it is killed (*kill*), or killed in the middle of the write (*torn*),
   or the operation fails with "No space left on device", as does every one after it (*enospc*), or it alone fails with
   "Input/output error" (*eio*), or the power is cut (*power*, both worlds of `power`);
2. a fresh process resumes and says what it restored;
3. another one trains on to the end, and what is there then is compared with the training that nobody disturbed.

Every process is forked from this one, so a trial takes milliseconds where the training does; there are as many at a
time as there are cores. The training must be the same each time it is run: seed it.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from . import children, large_pages
from .bench import Bench, Recover, Train
from .operations import ALLOCATES, Fault, Operation

Mode = Literal["kill", "torn", "enospc", "eio", "power"]
MODES: tuple[Mode, ...] = ("kill", "torn", "enospc", "eio", "power")
VERDICTS = {
    "OK": "the last finished save or the one under way came back, and the run ended as if nothing had happened",
    "LOST": "there was a save, and nothing came back",
    "WRONG": "it loaded, with other bits than were saved",
    "MISLED": "the resume failed although a good file was there",
    "BLOCKED": "nothing had been saved yet, and the new start failed, or did not end in time",
    "RESTART": "it loaded, then training failed",
    "STALE": "an older save than the last finished one came back",
    "MISLABELLED": "the continued run ended with another best, last or numbered file",
    "LITTER": "temporary files stay behind",
}
LIMITS = (
    "not seen: writes by C, C++ or Rust code, by other processes and through mmap; what happens between two operations "
    "is taken to leave what the first of them left; verification sees what the kernel holds, not the platter"
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one fault at one point; `detail` says what was found where that was not OK."""

    point: Operation
    mode: str
    verdict: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.mode} at {self.point}: {self.verdict}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """All points of a training, the trials that were made at them, and what the kit could not see in this training."""

    points: tuple[Operation, ...]
    trials: tuple[Trial, ...]
    blind_spots: tuple[str, ...]

    @property
    def not_ok(self) -> tuple[Trial, ...]:
        """The trials that left something wrong."""
        return tuple(trial for trial in self.trials if trial.verdict != "OK")

    def __str__(self) -> str:
        tried = len({trial.point.number for trial in self.trials})
        found = f" ({_verdicts(self.not_ok)})" if self.not_ok else ""
        return (
            f"{len(self.points)} points, {tried} of them tried, {len(self.trials)} trials: "
            f"{len(self.not_ok)} not OK{found}"
        )

    def lines(self) -> list[str]:
        """Return everything that a person should read: the figures, what went wrong first, what was not seen."""
        modes = dict.fromkeys(trial.mode for trial in self.trials)
        lines = [str(self)]
        lines += [f"{mode:12} {_verdicts(trial for trial in self.trials if trial.mode == mode)}" for mode in modes]
        shown: Counter[str] = Counter()
        for trial in self.not_ok:
            shown[trial.verdict] += 1
            if shown[trial.verdict] == 1:
                lines.append(f"{trial.verdict}: {VERDICTS[trial.verdict]}; for example:")
            if shown[trial.verdict] <= 3:
                lines.append(f"  {trial}")
        return [*lines, *(f"not seen here: {spot}" for spot in self.blind_spots), LIMITS]

    def to_json(self) -> str:
        """Return one JSON object with every point and every trial."""
        trials = [{**asdict(trial), "point": trial.point.number} for trial in self.trials]
        points = [asdict(point) for point in self.points]
        return json.dumps({"points": points, "trials": trials, "blind_spots": self.blind_spots, "limits": LIMITS})


def _verdicts(trials: Iterable[Trial]) -> str:
    counts = Counter(trial.verdict for trial in trials)
    return ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])


def crash_test(
    train: Train,
    recover: Recover,
    *,
    modes: Sequence[Mode] = MODES,
    max_points: int | None = None,
    timeout: float = 60.0,
    on_trial: Callable[[Trial, int, int], None] | None = None,
) -> Campaign:
    """Fail a training at every file operation and return what was left each time.

    `train` trains in the directory that it is given, to the end, and goes on from what lies there; after each save it
    calls `saved` with a digest (any text) of what was saved. `recover` resumes and returns the digest of what it
    restored, None for a fresh start. `max_points` tries a sample of the points, the same each time. `timeout` is in
    seconds, for one process. `on_trial` is told each trial, its number and how many there will be.

    Raises:
        CrashTestError: the training fails undisturbed, is not the same twice, or no operation was seen.

    >>> from koemorph_tutorial.testing import saved
    >>> def train(directory):
    ...     file = directory / "run.txt"
    ...     if not file.exists():
    ...         file.write_text("epoch 1")
    ...         saved("1")
    >>> def recover(directory):
    ...     file = directory / "run.txt"
    ...     return file.read_text().removeprefix("epoch ") if file.exists() else None
    >>> for trial in crash_test(train, recover, modes=["kill"]).trials:
    ...     print(trial.point, trial.verdict)
    1 open run.txt OK
    2 write of 7 bytes run.txt WRONG
    3 end OK
    """
    if max_points is not None and max_points < 1:
        raise ValueError(f"max_points: expected 1 or more, found {max_points}")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise ValueError(f"modes: expected some of {', '.join(MODES)}, found {unknown[0]!r}")
    with tempfile.TemporaryDirectory(prefix="koemorph-crash-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder, "0"), train, recover, timeout)
        reference = bench.watch()
        points = reference.points
        if max_points is not None and max_points < len(points):
            chosen = random.Random(0).sample(range(len(points)), max_points)
            points = tuple(points[index] for index in sorted(chosen))
        faults = [
            (point, Fault(number=point.number, mode=variant))
            for point in points
            for mode in modes
            for variant in _variants(point, mode)
        ]
        benches = [Bench(Path(folder, str(number)), train, recover, timeout) for number in range(children.cores())]
        trials: dict[int, Trial] = {}

        def work(number: int) -> Iterator[tuple[int, str, str, bool]]:
            for index in range(number, len(faults), len(benches)):
                yield index, *benches[number].trial(faults[index][1], reference)

        missed = 0
        large_pages.put_together()
        for index, verdict, detail, came in children.share(work, len(benches)):
            point, fault = faults[index]
            missed += not came
            trials[index] = Trial(point=point, mode=fault.mode, verdict=verdict, detail=detail)
            if on_trial is not None:
                on_trial(trials[index], len(trials), len(faults))
    spots = [f"{missed} of {len(faults)} faults never came: the training took another way"] if missed else []
    return Campaign(
        points=reference.points,
        trials=tuple(trials[index] for index in range(len(faults))),
        blind_spots=(*reference.blind_spots, *spots),
    )


def _variants(point: Operation, mode: str) -> list[str]:
    """Return the faults that a mode means at a point; some make no sense there."""
    if mode == "power":
        return ["power", "power names"]
    possible = {
        "torn": point.name == "write" and point.size > 1,
        "enospc": point.name in ALLOCATES,
        "eio": point.name != "end",
    }
    return [mode] if possible.get(mode, True) else []
