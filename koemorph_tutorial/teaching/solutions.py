"""The solved set for teachers: each lesson with its answers in place, run from top to bottom, in ``outputs/solutions``.

``make solutions``, or ``python -m koemorph_tutorial.teaching.solutions 01 03`` for some of them. Nothing is written by
hand here: an answer is the one that the exercise's module declares, and it is set in where the lesson asks for it.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from koemorph_tutorial.records import CheckpointError

from .copies import pristine
from .lessons import Choice, LessonError, lesson, question
from .notebooks import execute, put, settle
from .places import NOTEBOOKS, SOLUTIONS, LabError, choose, lessons_in, project_root

_PASSED = ("passed", "right", "as you predicted", "noted")  # how a question says that it is content


def solve(source: str) -> str:
    """Return a lesson's cell with the answers of all the questions that it asks.

    A choice gets its letter, the last one where only the reader knows; an exercise's stub becomes its solution.

    Raises:
        LabError: an exercise has no stub above its check.

    >>> print(solve('check("02.1", None)  # "a", "b" or "c"'))
    check("02.1", "b")  # "a", "b" or "c"
    """
    for number, function in _asked(source):
        asked = question(number)
        if isinstance(asked, Choice):
            letter = asked.right or list(asked.options)[-1]
            source = re.sub(rf'\b{function}\("{number}", None\)', f'{function}("{number}", "{letter}")', source)
        else:
            stub, between, call = source.partition("\n\n\ncheck(")
            if not between:
                raise LabError(f"{number}: expected a stub, two empty lines and check(…), found:\n{stub}")
            source = f"{asked.solution.rstrip()}\n\n\ncheck({call}"
    return source


def _asked(source: str) -> list[tuple[str, str]]:
    """Return the numbers that a cell asks for an answer to, and by which function."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        (call.args[0].value, call.func.id)
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in ("check", "predict")
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    ]


def solved(path: Path) -> Any:
    """Return the notebook of a lesson with every answer in it, executed in a fresh kernel that keeps no progress.

    Raises:
        LabError: a cell failed, or a question is not content with its answer; it names both.
    """
    from nbformat import from_dict

    notebook = from_dict(pristine(path))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = solve("".join(cell.source))
    with tempfile.TemporaryDirectory() as elsewhere:
        execute(notebook, path, folder=Path(elsewhere))
    settle(notebook, path.stem[:2])
    del notebook.metadata["jupytext"]  # it has no .py half
    said = dict(_said(notebook))
    for number in lesson(path.stem[:2]).questions:
        if said.get(number, "") not in _PASSED:
            raise LabError(f"{path}: {number} is solved, and says: {said.get(number) or 'nothing'}")
    return notebook


def _said(notebook: Any) -> Iterator[tuple[str, str]]:
    """Yield what the questions say first, in the order in which they are answered: "01.3", "passed"."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = output.get("data", {}).get("text/plain", "")
            yield from re.findall(r"^(\d\d\.\d): ([^.\n]+)", "".join(text), re.MULTILINE)


def write_solutions(root: Path, lessons: Sequence[Path]) -> Iterator[str]:
    """Solve lessons and write them into ``outputs/solutions`` of the project at `root`; yield what to say of each.

    Raises:
        LabError: a lesson cannot be solved; nothing of it is written. CheckpointWriteError: the disk refused.
    """
    for path in lessons:
        started = time.monotonic()
        notebook = solved(path)
        target = root / SOLUTIONS / path.name
        put(notebook, target)
        answers = len(lesson(path.stem[:2]).questions)
        yield f"{SOLUTIONS / path.name}: {answers} answers, all passed, {time.monotonic() - started:.1f} s"


def main(numbers: Sequence[str] | None = None) -> int:
    """Write the solved lessons of these numbers, all if none is given. Returns the exit code."""
    try:
        root = project_root()
        lessons = lessons_in(root / NOTEBOOKS, ".ipynb")
        asked = [choose(lessons, number) for number in numbers or ()]
    except CheckpointError as error:
        return _complain(error, 2)
    try:
        for line in write_solutions(root, asked or lessons):
            print(line, flush=True)
    except (CheckpointError, LessonError) as error:
        return _complain(error, 1)
    except ModuleNotFoundError as error:
        return _complain(f"{error.name} is not installed: pip install 'koemorph-tutorial[lab]'", 2)
    return 0


def _complain(what: object, code: int) -> int:
    print(f"make solutions: {what}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
