"""Where the project and its lessons are. No torch, no Jupyter: the command line asks here first."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from koemorph_tutorial.records import CheckpointError

NOTEBOOKS = Path("notebooks")
MY_NOTEBOOKS = Path("outputs/my-notebooks")
SOLUTIONS = Path("outputs/solutions")
PROJECT_VARIABLE = "KOEMORPH_PROJECT"  # handed to JupyterLab and its kernels: outputs/ may be a link to elsewhere

_LESSON = re.compile(r"\d\d_[a-z][a-z_]*")


class LabError(CheckpointError):
    """The lessons cannot be opened or built as asked; one line says why."""


def find_root(start: Path) -> Path | None:
    """Return the project's folder that `start` is in; None where it is in none."""
    for folder in (start, *start.parents):
        try:
            project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
            if project["project"]["name"] == "koemorph-tutorial":
                return folder
        except (OSError, ValueError, LookupError, TypeError):  # absent, unreadable, or of something else
            continue
    return None


def project_of_kernel() -> Path | None:
    """Return the project that a lesson is part of, by who started its kernel, else by the current folder."""
    if PROJECT_VARIABLE in os.environ:
        return Path(os.environ[PROJECT_VARIABLE])
    with suppress(FileNotFoundError):  # the current folder was removed
        return find_root(Path.cwd())
    return None


def project_root() -> Path:
    """Return the project's folder: the one that the current folder is in, else the one that this file is in.

    Raises:
        LabError: there is none, as where only the wheel was installed.
    """
    with suppress(FileNotFoundError):  # the current folder was removed
        root = find_root(Path.cwd())
        if root is not None:
            return root
    root = find_root(Path(__file__).resolve().parent)
    if root is None:
        raise LabError(
            "the lessons are not here: they are in the project's repository, not in the installed package; "
            "clone it and run this command in its folder"
        )
    return root


def lessons_in(folder: Path, suffix: str) -> list[Path]:
    """Return the lessons in `folder`, NN_name with `suffix`, in their order.

    Raises:
        LabError: there is none.
    """
    found = sorted(path for path in folder.glob(f"*{suffix}") if _LESSON.fullmatch(path.stem))
    if not found:
        raise LabError(f"{folder}: no lesson is here")
    return found


def choose(lessons: Sequence[Path], number: str) -> Path:
    """Return the lesson called by its `number`, "1" or "01".

    Raises:
        LabError: there is no such lesson; it names those that there are.

    >>> choose([Path("01_state.py"), Path("02_storage.py")], "2").name
    '02_storage.py'
    >>> choose([Path("01_state.py"), Path("02_storage.py")], "11")
    Traceback (most recent call last):
        ...
    koemorph_tutorial.teaching.places.LabError: there is no lesson 11; there are 01 state, 02 storage
    """
    for lesson in lessons:
        if lesson.stem.startswith(f"{number.zfill(2)}_"):
            return lesson
    there_are = ", ".join(lesson.stem.replace("_", " ") for lesson in lessons)
    raise LabError(f"there is no lesson {number}; there {'is' if len(lessons) == 1 else 'are'} {there_are}")
