"""Every wrong answer to the examinations of lesson 10, of which `make test` tries half."""

from __future__ import annotations

import pytest

from tests.test_answers import EXAMINED, EXERCISES, answered


@pytest.mark.parametrize(("number", "name"), EXAMINED)
def test_every_misconception_gets_its_own_sentence(number: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exercise = EXERCISES[number]
    said = answered(number, exercise.misconceptions[name].example, capsys)
    assert f"{number}: not yet\n{exercise.misconceptions[name].says}\n" == said
