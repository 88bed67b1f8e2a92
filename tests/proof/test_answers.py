"""Every answer to the examinations of lesson 10, of which `make test` tries a few: each takes seconds."""

from __future__ import annotations

import pytest

from koemorph_tutorial.teaching import examination
from tests import test_answers_manager as manager
from tests.test_answers import EXAMINED, EXERCISES, answered, said_to

Reads = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("number", "name"), EXAMINED)
def test_every_misconception_gets_its_own_sentence(number: str, name: str, capsys: Reads) -> None:
    exercise = EXERCISES[number]
    said = answered(number, exercise.misconceptions[name].example, capsys)
    assert f"{number}: not yet\n{exercise.misconceptions[name].says}\n" == said


RIGHT: list[manager.Changes] = [
    (("save_freq=1)", "save_freq=1, keep_last_n=3, background=True)"),),
    (('"average"', '"ema"'), ("run.validate(run.average)", "run.validate(run.average) + run.validate()")),
    (("save_freq=1)", "every_n_steps=3)"),),
    (
        ("for epoch in checkpoints", "torch.manual_seed(1)\n        for epoch in checkpoints"),
        ("from koemorph_tutorial import", "import torch\nfrom koemorph_tutorial import"),
    ),  # seeded after the manager was made, before it brings the random numbers back
]


@pytest.mark.parametrize("changes", RIGHT)
def test_other_right_loops_pass_and_are_the_graduate(
    changes: manager.Changes, capsys: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the background, with another name and a second validation, with saves inside the epoch."""
    monkeypatch.setattr(examination, "_graduate", None)
    assert "10.4: passed" in said_to("10.4", manager.loop(*changes), capsys)
    graduate = examination.graduate()
    assert graduate is not None
    assert ("train", True, 4) == (graduate.name, graduate.passed, graduate.survived)
    assert graduate.certificate is not None
    assert "average.n_averaged" in graduate.state


@pytest.mark.parametrize(("changes", "words"), manager.OTHERS)
def test_what_is_said_of_every_loop_is_true(changes: manager.Changes, words: str, capsys: Reads) -> None:
    manager.test_what_is_said_of_other_loops_is_true(changes, words, capsys)


@pytest.mark.parametrize(("old", "new", "words"), manager.VALIDATIONS)
def test_what_is_said_of_every_validation_is_true(old: str, new: str, words: str, capsys: Reads) -> None:
    manager.test_what_is_said_of_other_validations_is_true(old, new, words, capsys)
