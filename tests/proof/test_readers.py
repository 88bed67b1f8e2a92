"""The ten tasks of tests/test_readers.py in an environment that the package is really installed in, as README says."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

from tests.readers import ROOT, TASKS, Stranger, agrees, blocks


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder / "environment", symlinks=True, with_pip=True)
    programs = folder / "environment/bin"
    (line,) = [block.strip() for block in blocks("bash") if block.startswith("pip install ")]
    subprocess.run(["sh", "-c", line], cwd=ROOT, env={"PATH": f"{programs}:/usr/bin:/bin"}, check=True)
    where = "import koemorph_tutorial; print(koemorph_tutorial.__file__)"
    (folder / "work").mkdir()
    said = subprocess.run([programs / "python", "-c", where], cwd=folder / "work", capture_output=True, text=True)
    assert Path(said.stdout.strip()).is_relative_to(folder / "environment")  # this checkout has no part in it
    stranger = Stranger(programs, folder / "work")  # a hundred epochs, as the loop stands in README
    stranger.play()
    return stranger


@pytest.mark.parametrize("task", TASKS)
def test_a_stranger_can(task: str, stranger: Stranger) -> None:
    assert "" == stranger.missing(task)


def test_every_command_says_what_readme_shows(stranger: Stranger) -> None:
    assert [] == [step.command for step in stranger.steps if not agrees(step.shown, step.said)]
