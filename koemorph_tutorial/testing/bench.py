"""The place where a training is failed and brought back: watched undisturbed first, then once for each fault."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koemorph_tutorial.digests import file_content, file_digest

from . import children
from .children import Ended
from .operations import Fault, Operation, Operations

Train = Callable[[Path], None]
Recover = Callable[[Path], str | None]

_watching: Operations | None = None  # in a child whose operations are counted


class CrashTestError(ValueError):
    """A training that cannot be tested: it fails by itself, or is not the same each time, or writes nothing here."""


def saved(digest: str) -> None:
    """Say that a save has finished, and a digest of what was saved; without a campaign around it does nothing."""
    if _watching is not None:
        top = _watching.directories[0]
        _watching.saved(str(digest), {name: file_digest(path) for name, path in files_in(Path(top)).items()})


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The training that nobody disturbed: its points, its saves, and what lay there at its end, leaf by leaf."""

    points: tuple[Operation, ...]
    saves: tuple[str, ...]
    files: Mapping[str, Mapping[str, str]]
    temporary: frozenset[str]  # what it leaves in the folder for temporary files anyway
    differing: frozenset[tuple[str, str]]  # of two such trainings: clocks and names
    blind_spots: tuple[str, ...]


class Bench:
    """The place where trials are made, one at a time."""

    def __init__(self, folder: Path, train: Train, recover: Recover, timeout: float) -> None:
        self._folder = folder
        self._train, self._recover, self._timeout = train, recover, timeout
        self._later: frozenset[tuple[str, str]] | None = None
        self._run, self._temporary, self._trail = folder / "run", folder / "tmp", folder / "trail"

    def watch(self) -> Reference:
        """Run the training undisturbed: once to learn what it imports, and twice to know what it does."""
        self._clear()
        children.import_all(self._undisturbed(lambda: children.imported(self._watched)))
        _ask_git()
        self._clear()
        spots = self._undisturbed(self._watched)
        trail, files, temporary = self._read_trail(), _contents(self._run), frozenset(os.listdir(self._temporary))
        self._clear()
        self._undisturbed(self._watched)
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
        return Reference(
            points=points,
            saves=tuple(saves),
            files=files,
            temporary=temporary,
            differing=frozenset(_differing(files, other_files)),
            blind_spots=tuple(spots),
        )

    def trial(self, fault: Fault, reference: Reference) -> tuple[str, str, bool]:
        """Make one trial; return its verdict, what was found, and whether the fault came."""
        self._clear()
        ended = self._child(lambda: self._watched(fault))
        trail = self._read_trail()
        came = any("fault" in entry for entry in trail)
        if ended.timed_out:
            verdict, detail = "BLOCKED", f"the training neither failed nor went on within {self._timeout:g} s"
        else:
            verdict, detail = self._what_came_back(trail, reference) or self._what_went_on(reference) or ("OK", "")
        return verdict, textwrap.shorten(detail, 160, placeholder=" …"), came

    def _what_came_back(self, trail: list[dict[str, Any]], reference: Reference) -> tuple[str, str] | None:
        done = [entry["saved"] for entry in trail if "saved" in entry]
        before = {file_digest(path) for path in files_in(self._run).values()}
        ended = self._child(lambda: self._recover(self._run))
        if ended.timed_out:
            return "BLOCKED", f"the resume did not end within {self._timeout:g} s"
        if ended.error:
            if not done:
                return "BLOCKED", f"before the first save: {ended.error}"
            good = {digest for entry in trail if "saved" in entry for digest in entry["files"].values()}
            return ("MISLED" if good & before else "LOST"), ended.error
        expected = {done[-1] if done else None, *reference.saves[len(done) : len(done) + 1]}
        if ended.result in expected:
            return None
        if ended.result is None:
            return "LOST", f"a fresh start after {len(done)} saves"
        if ended.result in done:
            return "STALE", f"save {done.index(ended.result)} came back, {len(done) - 1} had finished"
        return "WRONG", "what was restored was never saved"

    def _what_went_on(self, reference: Reference) -> tuple[str, str] | None:
        ended = self._child(lambda: self._train(self._run))
        if why := ended.why(self._timeout):
            return "RESTART", why
        left = set(os.listdir(self._temporary)) - reference.temporary
        found = _contents(self._run)
        if missing := sorted(reference.files.keys() - found.keys()):
            return "MISLABELLED", f"{missing[0]} is missing at the end"
        if other := self._other_than(reference, found):
            name, leaf = other[0]
            was, now = reference.files[name].get(leaf), found[name].get(leaf)
            return "MISLABELLED", f"{name}: {leaf or 'its bytes'}: expected {was}, found {now}"
        if more := sorted(found.keys() - reference.files.keys()):
            known = {Path(name).suffix for name in reference.files}
            litter = Path(more[0]).name.startswith(".") or Path(more[0]).suffix not in known
            return ("LITTER" if litter else "MISLABELLED"), f"{more[0]} is left"
        left = {name for name in left if not name.startswith("pymp-")}  # of the workers of a killed DataLoader
        return ("LITTER", f"{min(left)} is left in the folder for temporary files") if left else None

    def _other_than(self, reference: Reference, found: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
        """Return what differs from the training that nobody disturbed, but not between two of those.

        Before the first difference counts, a further one is run, here and now: some differ only in another place, or
        after a second of the clock.
        """
        differing = set(_differing(reference.files, found)) - reference.differing
        if differing and self._later is None:
            self._clear()
            self._child(self._watched)
            self._later = frozenset(_differing(reference.files, _contents(self._run)))
        return sorted(differing - (self._later or frozenset()))

    def _undisturbed(self, work: Callable[[], list[str]]) -> list[str]:
        ended = self._child(work)
        if why := ended.why(self._timeout):
            raise CrashTestError(f"the training fails without any crash: {why}")
        return list(ended.result)

    def _watched(self, fault: Fault | None = None) -> list[str]:
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


def _ask_git() -> None:
    """Ask once: a file that somebody edits meanwhile is no difference between two runs."""
    provenance = sys.modules.get("koemorph_tutorial.provenance")
    if provenance is not None:
        provenance.git_commit(Path.cwd())


def files_in(top: Path) -> dict[str, Path]:
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
    return {name: file_content(path) for name, path in files_in(top).items()}


def _differing(one: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return file and path of every leaf that is not the same in both."""
    return [
        (name, leaf)
        for name in sorted(one.keys() & other.keys())
        for leaf in dict.fromkeys((*one[name], *other[name]))
        if one[name].get(leaf) != other[name].get(leaf)
    ]
