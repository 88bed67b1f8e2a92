"""Lesson 10: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

from typing import Any

import pytest

from koemorph_tutorial.teaching import diploma, examination
from koemorph_tutorial.teaching.cells import changed
from koemorph_tutorial.teaching.exercises.manager import LOOP, OBJECTS, WATCHED

from .test_answers import refused, said_to

pytestmark = pytest.mark.usefixtures("small_batches")

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
        # Of several that are missing one is named, and what is said of it is true without the others as well.
        ("return {'model': run.model}", "It came back and went another way: AdamW had lost its memory"),
        ("return {'model': run.model, 'o': run.optimizer}", "Stopped after 3 of 10 batches it began the epoch again"),
        ("return {'model': run.model, 'o': run.optimizer, 'l': loader}", "This epoch was right."),
        (
            f"import torch\n    return {FIVE}, 'loader': loader, 'rng': {{'torch': torch.get_rng_state()}}}}",
            "Among them is a state of this moment.",
        ),
    ],
)
def test_what_is_said_of_other_dicts_is_true(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused("10.3", objects(line), words, capsys)


# ------------------------------------------------------------------------------------------------ 10.4


def loop(*changes: tuple[str, str]) -> str:
    """Return the solution with some of it replaced."""
    return changed(LOOP.solution, *changes)


Changes = tuple[tuple[str, str], ...]

BY_HAND = """\
import hashlib
import io
import os
import signal

import torch

from koemorph_tutorial import ResumableLoader
from koemorph_tutorial.rng import capture_rng, restore_rng
from koemorph_tutorial.teaching import examination


def train(folder):
    run = examination.Run(average=True)
    loader = ResumableLoader(run.loader)
    parts = {"model": run.model, "average": run.average, "optimizer": run.optimizer, "scheduler": run.scheduler}
    parts["loader"] = loader
    warned = []
    signal.signal(signal.SIGTERM, lambda *_: warned.append(True))
    last, before = folder / "last_model.pth", folder / "before.pth"

    def save(epoch):
        buffer = io.BytesIO()
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**state, "epoch": epoch, "rng": capture_rng()}, buffer)
        data = buffer.getvalue()
        new = folder / "new.tmp"
        with open(new, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            before.unlink(missing_ok=True)
            os.link(last, before)
        os.replace(new, last)

    start = 0
    for path in (last, before):
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            state = torch.load(io.BytesIO(data[32:]))
            for name, part in parts.items():
                part.load_state_dict(state[name])
            restore_rng(state["rng"])
            start = state["epoch"]
            break
    for epoch in range(start, examination.EPOCHS):
        for batch in loader:
            run.step(batch)
            run.average.update_parameters(run.model)
            if warned:
                save(epoch)
                raise SystemExit(3)
        loader.end_epoch()
        run.scheduler.step()
        run.validate(run.average)
        save(epoch + 1)
"""


def test_a_right_loop_by_hand_passes_and_is_not_called_certified(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole files, checksums, a file to fall back to, an ear for SIGTERM: who can do that needs no manager."""
    monkeypatch.setattr(examination, "_graduate", None)
    assert "10.4: passed" in said_to("10.4", BY_HAND, capsys)
    graduate = examination.graduate()
    assert graduate is not None
    assert graduate.passed
    assert diploma.draw(graduate)[1].endswith("not one bit differs; without a certificate.")


def test_one_by_hand_without_checksums_does_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    source = BY_HAND.replace("if hashlib.sha256(data[32:]).digest() == data[:32]:", "if data:")
    assert "It saves by hand, and did not get through all four" in said_to("10.4", source, capsys)


OTHERS: list[tuple[Changes, str]] = [  # `make test` tries every third
    ((("save_freq=1)", "save_freq=5)"),), "it cost more batches than it need: not every epoch was saved."),
    (
        (
            ("                checkpoints.step()\n", ""),
            ("run.scheduler.step()", "checkpoints.step()\n            run.scheduler.step()"),
        ),
        "only a call of `checkpoints.step()` after each batch can act on it",
    ),
    (
        (("for batch in loader", "loader = ResumableLoader(run.loader)\n            for batch in loader"),),
        "or from a second `ResumableLoader`",
    ),
    (
        (
            (
                "    with CheckpointManager",
                "    import copy\n    mine = copy.deepcopy(run.average)\n    with CheckpointManager",
            ),
            ("run.average.update_parameters", "mine.update_parameters"),
        ),
        "so its average is that of other networks, or of none",
    ),
    (
        (("with CheckpointManager", "raise ValueError('no data')\n    with CheckpointManager"),),
        "it fails though nothing happens to it: ValueError: no data",
    ),
    (
        (("checkpoints.step()", "run.scheduler.step()\n                checkpoints.step()"),),
        "`run.scheduler.step()` no longer comes once in an epoch",
    ),
    (
        (
            ("average=True", ""),
            ('"average": run.average, ', ""),
            ("                run.average.update_parameters(run.model)\n", ""),
            ("run.validate(run.average)", "run.validate()"),
        ),
        "so its average is that of other networks, or of none",
    ),
    (
        (("run.step(batch)", "run.step(batch)\n                run.step(batch)"),),
        "it trains 120 batches of its run, expected 60 (counted by `run.step`)",
    ),
]


@pytest.mark.parametrize(("changes", "words"), OTHERS[1::5])
def test_what_is_said_of_other_loops_is_true(changes: Changes, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused("10.4", loop(*changes), words, capsys)


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


def test_after_an_ordeal_that_is_not_survived_no_other_comes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one after an undisturbed run that is another run than the one that was asked for."""
    undergone: list[str] = []
    monkeypatch.setattr(examination.children, "cores", lambda: 1)
    judge = examination._judge

    def noted(ordeal: examination.Ordeal, *rest: Any) -> examination.Outcome:
        undergone.append(ordeal.name)
        return judge(ordeal, *rest)

    monkeypatch.setattr(examination, "_judge", noted)
    refused("10.4", loop(('"model": run.model, ', "")), "`run.model` is not among the objects", capsys)
    assert ["kill -9"] == undergone
    refused("10.4", loop(("examination.EPOCHS", "3")), "it trains 30 batches of its run, expected 60", capsys)
    assert ["kill -9"] == undergone


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


VALIDATIONS = [  # `make test` tries every second
    ("checkpoints.poll()", "checkpoints.step()", "it fails though nothing happens to it: RuntimeError: step: "),
    ("examination.EPOCHS", "2", "it trains 20 batches of its run, expected 60"),
    ("run.loss(part)", "0.0", "it validates 0 parts, expected 24 (counted by `run.loss`)"),
    ("train_loss.take()", "run.step(batch)", "it trains 66 batches of its run, expected 60"),
    ("train_loss.take()", "2 * train_loss.take()", "in the last epoch it reports 0."),
    (
        "checkpoints.poll()",
        "if checkpoints.stop_requested: checkpoints.save({'loss': mean(parts)})",
        "SIGTERM in the validation: it ended with another network",
    ),
    (
        "checkpoints.poll()",
        "if checkpoints.stop_requested: raise SystemExit(3)",
        "Warned in the validation it was killed, and the whole epoch was trained again",
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), VALIDATIONS[::4])
def test_what_is_said_of_other_validations_is_true(
    old: str, new: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("10.5", WATCHED.solution.replace(old, new), words, capsys)


def test_the_exercises_build_on_each_other() -> None:
    """What 10.3 asks for is handed over in 10.4, under the same names."""
    for name in ("model", "average", "optimizer", "scheduler"):
        assert f'"{name}": run.{name}' in OBJECTS.solution
        assert f'"{name}": run.{name}' in LOOP.solution
