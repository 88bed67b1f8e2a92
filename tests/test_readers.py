"""A stranger with README.md alone gets ten things done, and sees what it says that will be seen.

The environment is a fresh one without pip that finds this checkout, so nothing is downloaded; `make proof` installs the
package into one as README says.
"""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.readers import ROOT, TASKS, Step, Stranger, agrees, masked, steps

PROGRAM = """#!{python}
import sys
from koemorph_tutorial.__main__ import main
sys.exit(main())
"""


def make_environment(folder: Path) -> Path:
    """Make an environment with this checkout and the packages of this Python, and return its programs."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "checkout.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n", "utf-8")
    program = folder / "bin/koemorph"
    program.write_text(PROGRAM.format(python=folder / "bin/python"), "utf-8")
    program.chmod(0o755)
    return folder / "bin"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "work").mkdir()
    stranger = Stranger(make_environment(folder / "environment"), folder / "work", epochs=13)
    stranger.play()
    return stranger


@pytest.mark.parametrize("task", TASKS)
def test_a_stranger_can(task: str, stranger: Stranger) -> None:
    assert "" == stranger.missing(task)


@pytest.mark.parametrize("number", range(len(steps())), ids=[str(step) for step in steps()])
def test_a_command_says_what_readme_shows(number: int, stranger: Stranger) -> None:
    """Word for word; only figures of another machine, or of another minute, may differ."""
    step = stranger.steps[number]
    assert step.code in (0, 1), step.said
    assert agrees(step.shown, step.said), f"README shows:\n{step.shown}\nit says:\n{step.said}"


def test_there_are_ten_tasks_and_each_has_a_command() -> None:
    assert 10 == len(TASKS)
    assert len(steps()) > 15


# ------------------------------------------------------------------------------------- would a README that lies be seen


@pytest.mark.parametrize(
    ("shown", "said", "agree"),
    [
        ("a b\n", "a  b\n", True),
        ("a b\n", "a\n b\n", True),
        ("a b\n", "ab\n", False),
        ("a b\n", "a c\n", False),
        ("loss 0.5 at epoch 7\n", "loss 0.0625 at epoch 7\n", True),
        ("loss 0.5 at epoch 7\n", "loss 0.5 at epoch 8\n", False),
        ("", "something\n", False),
        ("…\n", "", True),
        ("one\n…\n", "one\ntwo\nthree\n", True),
        ("one\n…\n", "one two\nthree\n", False),
        ("one\n…\nfour\n", "one\ntwo\nthree\n", False),
        ("one …\n", "one two\n", True),
        ("one …\n", "two one\n", False),
        ("remove a.pth, 623 kB: old\n", "remove a.pth, 1 kB: old\n", True),
        ("remove a.pth, 623 kB: old\n", "remove b.pth, 623 kB: old\n", False),
    ],
)
def test_what_is_shown_is_compared_word_by_word(shown: str, said: str, agree: bool) -> None:
    assert agree == agrees(shown, said)


def test_figures_are_masked_and_counts_are_not() -> None:
    assert "expected CRC32 #, found #, epoch 7" == masked("expected CRC32 25e403e2, found 86ea236b, epoch 7")
    assert "line # and # of 8 files" == masked("line debd4747 and 4,982,848 of 8 files")


def test_a_readme_without_a_command_for_a_task_fails_it(tmp_path: Path) -> None:
    stranger = Stranger(Path(sys.executable).parent, tmp_path)
    stranger.steps = [Step("true", "")]
    stranger.play()
    assert stranger.missing("prune").startswith("README has no command for it")


def test_a_command_that_does_not_do_what_was_wanted_fails_its_task(tmp_path: Path) -> None:
    stranger = Stranger(Path(sys.executable).parent, tmp_path)
    stranger.steps = [Step("koemorph validate run/checkpoints/best_model.pth", "")]  # of a run that is not there
    stranger.play()
    assert "AssertionError" in stranger.missing("prove that a file is sound")
