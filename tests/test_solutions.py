"""The solved set for teachers: every answer in place, every check passed, and nobody's progress touched.

One lesson is really run here; `make proof` runs them all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from koemorph_tutorial.teaching import solutions
from koemorph_tutorial.teaching.lessons import LESSONS, Choice, Exercise, lesson
from koemorph_tutorial.teaching.places import LabError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ("01",)


def name(number: str) -> str:
    return f"{number}_{LESSONS[number]}.ipynb"


def source_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def assert_solved(number: str, folder: Path) -> None:
    """Solve a lesson in a project of its own, and look at everything that a teacher relies on."""
    root = folder / "a project"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "koemorph-tutorial"\n')
    shutil.copy(ROOT / "notebooks" / name(number), root / "notebooks")
    before = (root / "notebooks" / name(number)).read_bytes()
    environment = {**os.environ, "KOEMORPH_PROJECT": str(root)}  # as in a terminal of JupyterLab
    command = [sys.executable, "-m", "koemorph_tutorial.teaching.solutions", number]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert 0 == ran.returncode, ran.stderr
    questions = lesson(number).questions
    assert ran.stdout.startswith(f"outputs/solutions/{name(number)}: {len(questions)} answers, all passed, ")
    assert [name(number)] == os.listdir(root / "outputs/solutions")
    assert ["solutions"] == os.listdir(root / "outputs")  # no progress: these are nobody's answers
    assert before == (root / "notebooks" / name(number)).read_bytes()

    written = root / "outputs/solutions" / name(number)
    code = source_of(written)
    assert "None)" not in "".join(line for line in code.splitlines() if line.startswith(("check(", "predict(")))
    notebook = json.loads(written.read_text("utf-8"))
    shown = "\n".join(
        "".join(output.get("data", {}).get("text/plain", ""))
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
    )
    for question, asked in questions.items():
        if isinstance(asked, Exercise):
            assert asked.solution.rstrip() in code
            assert f"{question}: passed\n{asked.why}" in shown
        elif question == lesson(number).prediction:
            assert f"{question}: as you predicted. {asked.right})" in shown
        else:
            assert f"{question}: {'right' if asked.right else 'noted'}" in shown
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert "jupytext" not in notebook["metadata"]  # JupyterLab would write a .py beside it


@pytest.mark.parametrize("number", SAMPLE)
def test_a_solved_lesson_runs_and_every_question_says_that_it_passed(number: str, tmp_path: Path) -> None:
    assert_solved(number, tmp_path)


@pytest.mark.parametrize("number", LESSONS)
def test_every_question_of_every_lesson_gets_its_answer(number: str) -> None:
    """Without running it: as many stubs as there are questions are replaced, and what is left is the lesson's own."""
    notebook = ROOT / "notebooks" / name(number)
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    solved = "\n".join(solutions.solve("".join(c["source"])) for c in cells if c["cell_type"] == "code")
    for question, asked in lesson(number).questions.items():
        if isinstance(asked, Choice):
            letter = asked.right or list(asked.options)[-1]
            assert 1 == solved.count(f'("{question}", "{letter}")')
        else:
            assert 1 == solved.count(f'{asked.solution.rstrip()}\n\n\ncheck("{question}", {asked.answer})')
    own = [line for line in source_of(notebook).splitlines() if line.startswith("reveal(")]
    assert all(line in solved.splitlines() for line in own)


def test_an_answer_that_is_not_accepted_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_wrong(source: str) -> str:
        return source.replace('check("01.3", checkpoint_of)', 'check("01.3", 3)') if "01.3" in source else solve(source)

    solve = solutions.solve
    monkeypatch.setattr(solutions, "solve", one_wrong)
    with pytest.raises(LabError, match=r"01_state\.ipynb: 01\.3 is solved, and says: not yet"):
        list(solutions.write_solutions(tmp_path, [ROOT / "notebooks/01_state.ipynb"]))
    assert [] == list(tmp_path.iterdir())


def test_a_cell_that_is_no_exercise_any_more_is_named() -> None:
    with pytest.raises(LabError, match=r"01\.4: expected a stub, two empty lines and check"):
        solutions.solve('def photo_of(model):\n    return None\n\ncheck("01.4", photo_of)')


@pytest.mark.parametrize(("number", "line"), [("77", "there is no lesson 77"), ("x", "there is no lesson x")])
def test_a_lesson_that_is_not_there_gets_one_line(number: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == solutions.main([number])
    assert capsys.readouterr().err.startswith(f"make solutions: {line}; there are 01 state, ")
