"""Every lesson solved, and run from top to bottom: what tests/test_solutions.py does with two."""

from __future__ import annotations

from pathlib import Path

import pytest

from koemorph_tutorial.teaching.lessons import LESSONS
from tests.test_solutions import assert_solved


@pytest.mark.parametrize("number", LESSONS)
def test_a_solved_lesson_runs_and_every_question_says_that_it_passed(number: str, tmp_path: Path) -> None:
    assert_solved(number, tmp_path)
