"""The reader's own copies of the lessons in ``outputs/my-notebooks``, and JupyterLab opened on the first of them.

A copy is pristine when it is made: no outputs, which would give away what is to be predicted. From then on it is the
reader's: nothing here writes to it again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from koemorph_tutorial.durable import refusals_named, write_file

from .places import MY_NOTEBOOKS, NOTEBOOKS, PROJECT_VARIABLE, LabError, choose, lessons_in

_OWN = "koemorph_tutorial"  # our key in the metadata of a copy


def launch(root: Path) -> None:
    """Make the working copies, say what was made, and become JupyterLab opened on the first lesson.

    Raises:
        LabError: JupyterLab is not installed, or there are no lessons. CheckpointWriteError: the disk refused.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise LabError("JupyterLab is not installed: pip install 'koemorph-tutorial[lab]'")
    print(*make_copies(root), sep="\n", flush=True)
    first = lessons_in(root / NOTEBOOKS, ".ipynb")[0]
    options = [
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{(MY_NOTEBOOKS / first.name).as_posix()}",
    ]
    if os.geteuid() == 0:  # it does not start for root otherwise
        options.append("--allow-root")
    # -P: a file of the current folder named like one of Python's own modules is not mistaken for it.
    command = [sys.executable, "-P", "-m", "jupyterlab", *options]
    os.execve(sys.executable, command, {**os.environ, PROJECT_VARIABLE: str(root)})


def make_copies(root: Path) -> list[str]:
    """Copy each lesson that has no working copy yet, and return what to say, line by line. No copy is overwritten.

    Raises:
        LabError: there are no lessons. CheckpointWriteError: the disk refused.
    """
    new, kept, notes = [], [], []
    for lesson in lessons_in(root / NOTEBOOKS, ".ipynb"):
        content = pristine(lesson)
        copy = root / MY_NOTEBOOKS / lesson.name
        if _copied(content, copy):
            new.append(lesson.stem)
        elif (note := _compare(copy, content)) is None:
            kept.append(lesson.stem)
        else:
            reset = f"`koemorph lab --reset {lesson.stem[:2]}` brings the new one and moves yours aside"
            notes.append(f"{MY_NOTEBOOKS / lesson.name}: {note}: {reset}")
    said = (("new", new), ("kept as you left it", kept))
    return [f"{MY_NOTEBOOKS}: {what}: {', '.join(names)}" for what, names in said if names] + notes


def reset_copy(root: Path, number: str) -> list[str]:
    """Copy the lesson of that `number`, "1" or "01", anew; the old copy is moved aside. Returns what to say.

    Raises:
        LabError: there is no such lesson. CheckpointWriteError: the disk refused.
    """
    lesson = choose(lessons_in(root / NOTEBOOKS, ".ipynb"), number)
    content = pristine(lesson)
    copy = root / MY_NOTEBOOKS / lesson.name
    with _written_beside(copy, content) as fresh:  # a full disk says so before anything is moved
        aside = _move_aside(copy) if os.path.lexists(copy) else None
        try:
            is_in_place = _rename_to_free(fresh, copy)
        except BaseException:
            if aside is not None:
                _rename_to_free(copy.with_name(aside), copy)
            raise
        if not is_in_place:
            raise LabError(f"{copy}: somebody else made it at this moment; yours is {aside or 'not touched'}")
    moved = [f"{MY_NOTEBOOKS / aside}: your copy as it was"] if aside else []
    return [*moved, f"{MY_NOTEBOOKS / copy.name}: the lesson as it comes"]


def pristine(lesson: Path) -> dict[str, Any]:
    """Return a lesson as its reader begins it."""
    try:
        notebook: dict[str, Any] = json.loads(lesson.read_text("utf-8"))
        digest = hashlib.sha256(json.dumps([_source(cell) for cell in notebook["cells"]]).encode()).hexdigest()
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
            else:  # a copy lies one folder deeper; the other lessons lie beside it here and there
                cell["source"] = _source(cell)[1].replace("](../", "](../../")
        notebook["metadata"].pop("jupytext", None)  # a copy has no .py half
        notebook["metadata"][_OWN] = {"lesson": lesson.stem, "digest": digest}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LabError(f"{lesson}: this is no notebook, so there is nothing to copy: {error!r}") from error
    return notebook


def _source(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["cell_type"], "".join(cell["source"])


def _compare(copy: Path, lesson: dict[str, Any]) -> str | None:
    """Say what the reader of a copy should know; None if it is a copy of the lesson as it is today."""
    try:
        own = json.loads(copy.read_text("utf-8"))["metadata"].get(_OWN)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "kept, but it cannot be read as a notebook"
    if own is None or own == lesson["metadata"][_OWN]:
        return None
    return "kept as you left it, but the lesson has changed since"


def _copied(notebook: dict[str, Any], copy: Path) -> bool:
    """Put a copy in place where nothing is, at once and whole; say whether there was nothing."""
    if os.path.lexists(copy):
        return False
    with _written_beside(copy, notebook) as fresh:
        return _rename_to_free(fresh, copy)


@contextmanager
def _written_beside(copy: Path, notebook: dict[str, Any]) -> Iterator[Path]:
    """Yield a file of another name that holds what `copy` is to hold; whatever the disk refuses is one line."""
    data = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"
    fresh = copy.with_name(f".{copy.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with refusals_named(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_file(fresh, lambda file: file.write(data))
            yield fresh
        finally:
            fresh.unlink(missing_ok=True)


def _move_aside(copy: Path) -> str:
    """Give a copy the first free name beside it and return that name."""
    free = (copy.with_name(f"{copy.stem}-earlier-{count}.ipynb") for count in itertools.count(1))
    return next(aside.name for aside in free if _rename_to_free(copy, aside))


def _rename_to_free(source: Path, target: Path) -> bool:
    """Rename where nothing has that name; say whether that was so. Of several that try at once one does it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError:  # no hard links here: make the name first, then fill it
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            return False
        try:
            source.replace(target)
        except BaseException:
            if os.path.lexists(source):  # a Ctrl-C can come when it has just been renamed
                target.unlink()
            raise
    else:
        source.unlink()
    return True
