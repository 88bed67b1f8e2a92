"""Kill, or fail, the n-th file operation of a training, for every n, and see what a fresh process makes of it.

A training that nobody disturbs is watched first: each of its file operations is a point. Then, for every point and
every mode, a trial in an empty directory:

1. the training runs until the point, and there it is killed (*kill*), or killed in the middle of the write (*torn*),
   or the operation fails with "No space left on device", as does every one after it (*enospc*), or it alone fails with
   "Input/output error" (*eio*), or the power is cut (*power*, both worlds of `power`);
2. a fresh process resumes and says what it restored;
3. another one trains on to the end, and what is there then is compared with the training that nobody disturbed.

Every process is forked from this one, so a trial takes milliseconds where the training does; there are as many at a
time as there are cores. The training must be the
same each time it is run: seed it.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from koemorph_tutorial.digests import file_content, file_digest

from . import children
from .children import Ended
from .operations import ALLOCATES, Fault, Operation, Operations

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

Train = Callable[[Path], None]
Recover = Callable[[Path], str | None]

_watching: Operations | None = None  # in a child whose operations are counted


class CrashTestError(ValueError):
    """A training that cannot be tested: it fails by itself, or is not the same each time, or writes nothing here."""


def saved(digest: str) -> None:
    """Say that a save has finished, and a digest of what was saved; without a campaign around it does nothing."""
    if _watching is not None:
        top = _watching.directories[0]
        _watching.saved(str(digest), {name: file_digest(path) for name, path in _files(Path(top)).items()})


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
        verdicts = Counter(trial.verdict for trial in self.not_ok)
        found = ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name])
        tried = len({trial.point.number for trial in self.trials})
        return (
            f"{len(self.points)} points, {tried} of them tried, {len(self.trials)} trials: {len(self.not_ok)} not OK"
            + (f" ({found})" if found else "")
        )

    def lines(self) -> list[str]:
        """Return everything that a person should read: the figures, what went wrong first, what was not seen."""
        lines = [str(self)]
        modes = dict.fromkeys(trial.mode for trial in self.trials)
        for mode in modes:
            verdicts = Counter(trial.verdict for trial in self.trials if trial.mode == mode)
            lines.append(f"{mode:12} " + ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name]))
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
        bench = _Bench(Path(folder, "0"), train, recover, timeout)
        reference = bench.watch()
        points = reference.points
        if max_points is not None and max_points < len(points):
            chosen = random.Random(0).sample(range(len(points)), max_points)
            points = tuple(points[index] for index in sorted(chosen))
        faults = [(point, fault) for point in points for mode in modes for fault in _variants(point, mode)]
        benches = [_Bench(Path(folder, str(number)), train, recover, timeout) for number in range(children.cores())]
        trials: dict[int, Trial] = {}

        def work(number: int) -> Iterator[tuple[int, str, str, bool]]:
            for index in range(number, len(faults), len(benches)):
                trial, came = benches[number].trial(*faults[index], reference)
                yield index, trial.verdict, trial.detail, came

        missed = 0
        for index, verdict, detail, came in children.share(work, len(benches)):
            point, fault = faults[index]
            missed += not came
            trials[index] = Trial(point=point, mode=fault, verdict=verdict, detail=detail)
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


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The training that nobody disturbed: its points, its saves, and what lay there at its end, leaf by leaf."""

    points: tuple[Operation, ...]
    saves: tuple[str, ...]
    files: Mapping[str, Mapping[str, str]]
    temporary: frozenset[str]  # what it leaves in the folder for temporary files anyway
    differing: frozenset[tuple[str, str]]  # of two such trainings: clocks and names
    blind_spots: tuple[str, ...]


class _Bench:
    """The place where trials are made, one at a time."""

    def __init__(self, folder: Path, train: Train, recover: Recover, timeout: float) -> None:
        self._folder = folder
        self._train, self._recover, self._timeout = train, recover, timeout
        self._later: frozenset[tuple[str, str]] | None = None
        self._run, self._temporary, self._trail = folder / "run", folder / "tmp", folder / "trail"

    def watch(self) -> _Reference:
        """Run the training undisturbed: once to learn what it imports, and twice to know what it does."""
        self._clear()
        modules = self._undisturbed(self._learned).result
        _import(modules or [])
        self._clear()
        spots = list(self._undisturbed(partial(self._watched, None)).result or [])
        trail, files, temporary = self._read_trail(), _contents(self._run), frozenset(os.listdir(self._temporary))
        self._clear()
        self._undisturbed(partial(self._watched, None))
        again, other_files = self._read_trail(), _contents(self._run)

        points = tuple(Operation(**entry) for entry in trail if "number" in entry)
        saves, other_saves = ([entry["saved"] for entry in run if "saved" in entry] for run in (trail, again))
        if len(points) == 1:  # the end alone
            raise CrashTestError(
                "no file operation was seen in the directory of the training: does it write there, and by Python?"
            )
        if not saves:
            raise CrashTestError("the training never called saved(digest): call it after each save")
        if saves != other_saves:
            raise CrashTestError(
                "the training is not the same each time it is run: seed random, numpy and torch, and keep clocks out "
                "of the digest"
            )
        if any("routed" in entry for entry in trail):
            spots.append("torch.save writes to a path in C++: it was given a Python file, and writes in other sizes")
        if [entry["name"] for entry in again if "number" in entry] != [point.name for point in points]:
            spots.append("two undisturbed trainings differ in their operations, so a fault may come at a neighbour")
        return _Reference(
            points=points,
            saves=tuple(saves),
            files=files,
            temporary=temporary,
            differing=frozenset(_differing(files, other_files)),
            blind_spots=tuple(spots),
        )

    def trial(self, point: Operation, mode: str, reference: _Reference) -> tuple[Trial, bool]:
        """Make one trial; say as well whether its fault came."""
        self._clear()
        ended = self._child(partial(self._watched, Fault(number=point.number, mode=mode)))
        trail = self._read_trail()
        came = any("fault" in entry for entry in trail)
        if ended.timed_out:
            verdict, detail = "BLOCKED", f"the training neither failed nor went on within {self._timeout:g} s"
        else:
            verdict, detail = self._what_came_back(trail, reference) or self._what_went_on(reference) or ("OK", "")
        detail = textwrap.shorten(detail, 160, placeholder=" …")
        return Trial(point=point, mode=mode, verdict=verdict, detail=detail), came

    def _what_came_back(self, trail: list[dict[str, Any]], reference: _Reference) -> tuple[str, str] | None:
        done = [entry["saved"] for entry in trail if "saved" in entry]
        before = _contents_by_bytes(self._run)
        ended = self._child(lambda: self._recover(self._run))
        if ended.timed_out:
            return "BLOCKED", f"the resume did not end within {self._timeout:g} s"
        if ended.error or ended.killed:
            if not done:
                return "BLOCKED", f"before the first save: {ended.error}"
            good = {digest for entry in trail if "saved" in entry for digest in entry["files"].values()}
            return ("MISLED" if good & before else "LOST"), ended.error or ""
        expected = {done[-1] if done else None, *reference.saves[len(done) : len(done) + 1]}
        if ended.result in expected:
            return None
        if ended.result is None:
            return "LOST", f"a fresh start after {len(done)} saves"
        if ended.result in done:
            return "STALE", f"save {done.index(ended.result)} came back, {len(done) - 1} had finished"
        return "WRONG", "what was restored was never saved"

    def _what_went_on(self, reference: _Reference) -> tuple[str, str] | None:
        ended = self._child(lambda: self._train(self._run))
        if ended.error or ended.timed_out or ended.killed:
            return "RESTART", self._why(ended)
        found = _contents(self._run)
        suffixes = {Path(name).suffix for name in reference.files}
        for name in sorted(reference.files.keys() - found.keys()):
            return "MISLABELLED", f"{name} is missing at the end"
        left = sorted(set(os.listdir(self._temporary)) - reference.temporary)
        for name, leaf in self._other_than(reference, found):
            was, now = reference.files[name].get(leaf), found[name].get(leaf)
            return "MISLABELLED", f"{name}: {leaf or 'its bytes'}: expected {was}, found {now}"
        for name in sorted(found.keys() - reference.files.keys()):
            litter = Path(name).name.startswith(".") or Path(name).suffix not in suffixes
            return ("LITTER" if litter else "MISLABELLED"), f"{name} is left"
        left = [name for name in left if not name.startswith("pymp-")]  # of the workers of a killed DataLoader
        return ("LITTER", f"{left[0]} is left in the folder for temporary files") if left else None

    def _other_than(self, reference: _Reference, found: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
        """Return what differs from the training that nobody disturbed, but not between two of those.

        Before the first difference counts, a further one is run, here and now: some differ only in another place, or
        after a second of the clock.
        """
        differing = set(_differing(reference.files, found)) - reference.differing
        if differing and self._later is None:
            self._clear()
            self._child(partial(self._watched, None))
            self._later = frozenset(_differing(reference.files, _contents(self._run)))
        return sorted(differing - (self._later or frozenset()))

    def _learned(self) -> list[str]:
        before = set(sys.modules)
        self._watched(None)
        # Of what is installed only: by its name alone a module beside the script may be another one here.
        return [
            name
            for name in sorted(set(sys.modules) - before)
            if "site-packages" in str(getattr(sys.modules[name], "__file__", ""))
        ]

    def _undisturbed(self, work: Callable[[], list[str]]) -> Ended:
        ended = self._child(work)
        if ended.error or ended.timed_out or ended.killed:
            raise CrashTestError(f"the training fails without any crash: {self._why(ended)}")
        return ended

    def _watched(self, fault: Fault | None) -> list[str]:
        global _watching
        shadow = self._folder / "shadow"
        _watching = Operations([str(self._run), str(self._temporary)], str(self._trail), str(shadow), fault)
        _watching.install()
        try:
            self._train(self._run)
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
        _watching.end()
        return _watching.unseen()

    def _child(self, work: Callable[[], Any]) -> Ended:
        def in_place() -> Any:
            os.environ["TMPDIR"] = str(self._temporary)
            tempfile.tempdir = str(self._temporary)
            return work()

        return children.run(in_place, self._folder, timeout=self._timeout)

    def _clear(self) -> None:
        for path in (self._run, self._temporary, self._folder / "shadow"):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        self._trail.unlink(missing_ok=True)

    def _read_trail(self) -> list[dict[str, Any]]:
        text = self._trail.read_text() if self._trail.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def _why(self, ended: Ended) -> str:
        return f"it did not end within {self._timeout:g} s" if ended.timed_out else ended.error or ""


def _import(modules: list[str]) -> None:
    """Import what the training imported as it went: here once, and not in each of its processes again."""
    for name in modules:
        with suppress(Exception, SystemExit):
            importlib.import_module(name)
    provenance = sys.modules.get("koemorph_tutorial.provenance")
    if provenance is not None:  # asked once: a file that somebody edits meanwhile is no difference between two runs
        provenance.git_commit(Path.cwd())


def _files(top: Path) -> dict[str, Path]:
    """Return all files below `top` by their relative names; what a roll-back moved aside is no name of a run."""
    found = {}
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith("abandoned-")]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                found[str(path.relative_to(top))] = path
    return found


def _contents(top: Path) -> dict[str, dict[str, str]]:
    return {name: file_content(path) for name, path in _files(top).items()}


def _contents_by_bytes(top: Path) -> set[str]:
    return {file_digest(path) for path in _files(top).values()}


def _differing(one: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return file and path of every leaf that is not the same in both."""
    return [
        (name, leaf)
        for name in sorted(one.keys() & other.keys())
        for leaf in dict.fromkeys((*one[name], *other[name]))
        if one[name].get(leaf) != other[name].get(leaf)
    ]
