"""Lesson 10: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

import pytest

from koemorph_tutorial.teaching import examination
from koemorph_tutorial.teaching.exercises.manager import LOOP, OBJECTS, WATCHED

from .test_answers import said_to

# ------------------------------------------------------------------------------------------------ 10.3


def objects(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"def objects_of(run, loader):\n    {body}\n"


FIVE = '{"model": run.model, "average": run.average, "optimizer": run.optimizer, "scheduler": run.scheduler'


@pytest.mark.parametrize(
    "lines",
    [
        (f"return {FIVE}, 'loader': loader}}",),
        (
            "names = ('model', 'average', 'optimizer', 'scheduler')",
            "found = {n: getattr(run, n) for n in names}",
            "return found | {'batches': loader}",
        ),
        (f"return dict({FIVE}}}, loader=loader)",),
        ("return dict(net=run.model, ema=run.average, opt=run.optimizer, lr=run.scheduler, data=loader)",),
    ],
)
def test_every_right_dict_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "10.3: passed" in said_to("10.3", objects(*lines), capsys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{FIVE}, 'loader': loader}}", "`objects_of` returned None: is `return` missing?"),
        ("return [run.model, run.optimizer]", "expected a dict, names and parts, found list"),
        ("return {'seed': torch.Generator()}", "none of the five parts is in it"),
        ("return {'seed': 3}", "the manager refuses it: "),
        ("return {'model': run.model, 'lr': 0.01}", "the manager refuses it: "),
        (f"return {FIVE}, 'loader': run.loader}}", "`run.loader` is a plain DataLoader"),
        ("return {'model': run.model}", "The network came back to the last bit, and its average did not"),
    ],
)
def test_what_is_said_of_other_dicts_is_true(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = said_to("10.3", objects(line), capsys)
    assert said.startswith("10.3: not yet\n")
    assert words in said


# ------------------------------------------------------------------------------------------------ 10.4


def loop(*changes: tuple[str, str]) -> str:
    """Return the solution with some of it replaced."""
    source = LOOP.solution
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


def test_the_solution_is_the_graduate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_graduate", None)
    assert "10.4: passed" in said_to("10.4", loop(), capsys)
    graduate = examination.graduate()
    assert graduate is not None
    assert ("train", True, 4) == (graduate.name, graduate.passed, graduate.survived)
    assert "average.n_averaged" in graduate.state


@pytest.mark.parametrize(
    "changes",
    [
        (("save_freq=1)", "save_freq=1, keep_last_n=3, background=True)"),),
        (('"average"', '"ema"'), ("loss = run.validate(run.average)", "loss = 1.0")),
        (("save_freq=1)", "every_n_steps=3)"),),
    ],
)
def test_other_right_loops_pass(changes: tuple[tuple[str, str], ...], capsys: pytest.CaptureFixture[str]) -> None:
    """In the background, with another name and no validation, with saves inside the epoch."""
    assert "10.4: passed" in said_to("10.4", loop(*changes), capsys)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            (("with CheckpointManager", "raise ValueError('no data')\n    with CheckpointManager"),),
            "it fails though nothing happens to it: ValueError: no data",
        ),
        ((("examination.EPOCHS", "3"),), "it trains 30 batches of its run, expected 60"),
        (
            (
                ("for epoch in checkpoints", "torch.manual_seed(1)\n        for epoch in checkpoints"),
                ("from koemorph_tutorial import", "import torch\nfrom koemorph_tutorial import"),
            ),
            "10.4: passed",  # seeded after the manager was made, before it brings the random numbers back
        ),
        (
            (("run.step(batch)", "run.step(batch)\n                run.step(batch)"),),
            "it trains 120 batches of its run, expected 60 (counted by `run.step`)",
        ),
    ],
)
def test_what_is_said_of_other_loops_is_true(
    changes: tuple[tuple[str, str], ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said_to("10.4", loop(*changes), capsys)


def test_a_counter_in_a_variable_is_found_out_and_the_ordeal_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """What a loop counts for itself begins anew in the second process: here a learning rate that falls by it."""
    source = loop(
        ("    with CheckpointManager", "    seen = 0\n    with CheckpointManager"),
        (
            "run.step(batch)",
            "seen += 1\n                run.optimizer.param_groups[0]['lr'] = 0.01 / (1 + seen)\n"
            "                run.step(batch)",
        ),
    )
    said = said_to("10.4", source, capsys)
    assert said.startswith("10.4: not yet\nkill -9 (no warning came): it ended with another network, and trained ")


def test_an_error_in_the_second_process_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    source = loop(
        (
            "    with CheckpointManager",
            "    if list(folder.iterdir()): raise OSError('in use')\n    with CheckpointManager",
        )
    )
    said = said_to("10.4", source, capsys)
    assert "kill -9 (no warning came): it could not be started again: OSError: in use" in said


# ------------------------------------------------------------------------------------------------ 10.5


def test_a_part_of_ones_own_is_as_good_as_the_running_mean(capsys: pytest.CaptureFixture[str]) -> None:
    own = (
        "class RunningMean:\n"
        "    def __init__(self): self.all = []\n"
        "    def add(self, value, count): self.all.append(value)\n"
        "    def take(self): found, self.all = mean(self.all), []; return found\n"
        "    def state_dict(self): return {'all': list(self.all)}\n"
        "    def load_state_dict(self, state): self.all = list(state['all'])\n"
    )
    source = WATCHED.solution.replace("from koemorph_tutorial.training.tracking import RunningMean\n", own)
    assert "10.5: passed" in said_to("10.5", source, capsys)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("checkpoints.poll()", "checkpoints.step()", "it fails though nothing happens to it: RuntimeError: step: "),
        ("examination.EPOCHS", "2", "it trains 20 batches of its run, expected 60"),
        (
            "checkpoints.poll()",
            "if checkpoints.stop_requested: raise SystemExit(3)",
            "Warned in the validation it was killed, and the whole epoch was trained again",
        ),
    ],
)
def test_what_is_said_of_other_validations_is_true(
    old: str, new: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_to("10.5", WATCHED.solution.replace(old, new), capsys)
    assert said.startswith("10.5: not yet\n")
    assert words in said


def test_the_exercises_build_on_each_other() -> None:
    """What 10.3 asks for is handed over in 10.4, under the same names."""
    for name in ("model", "average", "optimizer", "scheduler"):
        assert f'"{name}": run.{name}' in OBJECTS.solution
        assert f'"{name}": run.{name}' in LOOP.solution
