"""What a reader has done so far: ``outputs/progress.json`` in the project's folder.

Only real attempts are written down. Several kernels may do so at once, and none of them fails because of it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.durable import write_file
from koemorph_tutorial.records import UnsupportedCheckpointError
from koemorph_tutorial.text import printable

from .lessons import LESSONS, Choice, Exercise, lesson

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)

VERSION = 1
_file: Path | None = None  # set by a lesson's setup(); without it nothing is kept


def keep_in(root: Path | None) -> None:
    """Keep the progress in the project at `root`; None keeps none."""
    global _file
    _file = progress_file(root) if root else None


def progress_file(root: Path) -> Path:
    """Return where a project keeps the progress."""
    return root / "outputs" / "progress.json"


def record(number: str, *, answer: str | None = None, passed: bool | None = None) -> None:
    """Write down an attempt; what passed stays passed until another answer is given.

    A problem is logged once and stops nobody.
    """
    global _file
    if _file is None:
        return
    try:
        with _alone(_file.parent):
            questions = read(_file)
            entry = questions.setdefault(number, {"attempts": 0, "passed": False})
            if answer not in (None, entry.get("answer")):  # another answer is judged anew
                entry |= {"answer": answer, "attempts": 0, "passed": False}
            if passed is not None:
                entry["attempts"] += 1
                entry["passed"] |= passed
            entry["when"] = datetime.now(UTC).isoformat(timespec="seconds")
            text = json.dumps({"version": VERSION, "questions": questions}, indent=1, sort_keys=True)
            write_file(_file, lambda file: file.write(text.encode()))
    except (OSError, UnsupportedCheckpointError) as error:
        logger.warning("your progress is not kept: %s", error)
        _file = None


def so_far() -> dict[str, dict[str, Any]]:
    """Return what was done in the project of this lesson; nothing outside of one, or if its file cannot be read."""
    with suppress(UnsupportedCheckpointError):
        return read(_file) if _file is not None else {}
    return {}


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Return what was done, by number of the question; nothing was where there is no file.

    Raises:
        UnsupportedCheckpointError: the file cannot be read, or is not what this version writes.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise UnsupportedCheckpointError(f"{file}: expected JSON, found: {found}; move it away to begin anew") from None
    questions = content.get("questions") if isinstance(content, dict) and content.get("version") == VERSION else None
    if not isinstance(questions, dict) or not all(_is_entry(entry) for entry in questions.values()):
        raise UnsupportedCheckpointError(
            f"{file}: expected what version {VERSION} of this file holds, found something else; move it away to begin "
            "anew"
        )
    return questions


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("attempts")) is int and type(entry.get("passed")) is bool


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, which leaves no file, while what is in it is read and written."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: the file is still written at once
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def rows(questions: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return every question of every lesson in order: its number, what it asks, what was done about it."""
    return [
        (number, asked.asks, _state(asked, questions[number]) if number in questions else "-")
        for lesson_number in LESSONS
        for number, asked in lesson(lesson_number).questions.items()
    ]


def _state(asked: Choice | Exercise, entry: dict[str, Any]) -> str:
    attempts, passed, answer = entry["attempts"], entry["passed"], entry.get("answer")
    if isinstance(asked, Exercise):
        return f"{'passed' if passed else 'not yet'}, {attempts} {'try' if attempts == 1 else 'tries'}"
    if asked.right is None or not attempts:  # nothing to be right about, or a prediction before its experiment
        return printable(str(answer))
    return f"{printable(str(answer))}, {'right' if passed else f'it was {asked.right}'}"


def to_table(questions: dict[str, dict[str, Any]]) -> Table:
    """Return the rows as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="your progress", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("question")
    table.add_column("so far", no_wrap=True)
    for number, asks, state in rows(questions):
        table.add_row(number, asks, Text(state))
    return table
