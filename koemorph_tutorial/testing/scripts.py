"""A script of yours as a training that can be crash-tested.

Either it defines ``train(directory)`` and ``recover(directory)``, as `crash_test` takes them; it is then run once, and
the two functions are called in each trial. Or it is any script that saves by a `CheckpointManager`, as it is: each
trial runs it in an empty folder, as ``python script.py`` would, and every commit of the manager counts as a save.
"""

from __future__ import annotations

import ast
import contextlib
import os
import runpy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from koemorph_tutorial.commit import Commits
from koemorph_tutorial.digests import run_digest
from koemorph_tutorial.records import kind_of
from koemorph_tutorial.resume import find

from .bench import CrashTestError, Recover, Train, files_in, saved


def load_script(script: Path) -> tuple[Train, Recover]:
    """Return the training and the recovery of a script.

    Raises:
        CrashTestError: it cannot be read or run, or defines one of the two functions and not the other.
    """
    try:
        tree = ast.parse(script.read_bytes(), str(script))
    except (OSError, SyntaxError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else f"it is not Python: {error}"
        raise CrashTestError(f"expected a Python script, found: {what}") from None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} & {"train", "recover"}
    if len(defined) == 2:
        with _beside(script):
            try:
                names = runpy.run_path(str(script), run_name="crash_test")
            except (Exception, SystemExit) as error:
                raise CrashTestError(f"it cannot be run: {type(error).__name__}: {error}") from error
        return _beside(script)(names["train"]), _beside(script)(names["recover"])
    if defined == {"recover"}:
        raise CrashTestError("expected train(directory) beside recover(directory), found none")
    path = str(script.resolve())
    return lambda directory: _run(path, directory), _newest


def _run(script: str, directory: Path) -> None:
    """Run the script as a program in `directory`; what its managers commit counts as saved."""
    commit = Commits.commit

    def and_say_so(self: Commits, decision: Any, checkpoint: Any, position: Any, **rest: Any) -> Any:
        done = commit(self, decision, checkpoint, position, **rest)
        saved(run_digest(checkpoint))
        return done

    Commits.commit = and_say_so  # type: ignore[method-assign]  # in a process that ends with this run
    os.chdir(directory)
    with _beside(Path(script)):
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            for thread in threading.enumerate():  # for which a program waits at its end
                if thread.name.startswith("koemorph-save"):
                    thread.join()


def _newest(directory: Path) -> str | None:
    folders = sorted({str(path.parent) for path in files_in(directory).values() if kind_of(path.name) != "other"})
    if len(folders) > 1:
        raise CrashTestError(f"expected the checkpoints of one run, found those of {len(folders)}: {folders}")
    return run_digest(find(folders[0]).checkpoint) if folders else None


@contextlib.contextmanager
def _beside(script: Path) -> Iterator[None]:
    """Let the script import what lies beside it, and see no arguments but its name, as a program does."""
    path, arguments = sys.path[:], sys.argv
    sys.path.insert(0, str(script.resolve().parent))
    sys.argv = [str(script)]
    try:
        yield
    finally:
        sys.path[:], sys.argv = path, arguments
