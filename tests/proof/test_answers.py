"""Every answer to the examinations of lesson 10, of which `make test` tries a few: each takes seconds."""

from __future__ import annotations

import pytest

from koemorph_tutorial.teaching import examination
from tests import test_answers_manager as manager
from tests.test_answers import EXAMINED, EXERCISES, answered, refused, said_to

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


def test_what_only_the_certificate_sees_is_told(capsys: Reads) -> None:
    """All four are survived; a part of the loop's own comes back as another one."""
    source = manager.loop(
        ('objects["loader"] = loader', 'objects |= {"loader": loader, "clock": Clock()}'),
        (
            "def train(folder):",
            "class Clock:\n"
            "    def state_dict(self): import time; return {'now': time.time()}\n"
            "    def load_state_dict(self, state): pass\n\n\ndef train(folder):",
        ),
    )
    refused("10.4", source, "The ordeals are survived, the certificate is not given: ", capsys)


@pytest.mark.parametrize(("old", "new", "words"), manager.VALIDATIONS)
def test_what_is_said_of_every_validation_is_true(old: str, new: str, words: str, capsys: Reads) -> None:
    manager.test_what_is_said_of_other_validations_is_true(old, new, words, capsys)
