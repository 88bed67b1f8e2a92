"""Where runs live, and what --resume and --run-dir mean together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import CheckpointManager, save_checkpoint
from koemorph_tutorial.records import CheckpointNotFoundError, UsedDirectoryError, numbered_name
from koemorph_tutorial.training.runs import find_run, new_run_dir, refuse_used


def make_run(folder: Path, epoch: int = 3) -> Path:
    """Make a run's folder with two checkpoints."""
    (folder / "checkpoints").mkdir(parents=True)
    for number in (0, epoch):
        content: dict[str, Any] = {
            "format_version": 1,
            "run": {"line": folder.name, "parent": None, "saves": number + 1},
            "epoch": number,
            "position": {"epoch": number + 1, "batch": 0, "global_step": number + 1},
            "config": {"seed": epoch},
        }
        save_checkpoint(content, folder / "checkpoints" / numbered_name(number))
    return folder


def test_a_new_run_gets_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Date and time; the second run of a second gets a number."""
    first = new_run_dir(tmp_path)
    first.mkdir(parents=True)
    second = new_run_dir(tmp_path)
    assert first != second
    assert not second.exists()
    assert second.parent.parent == tmp_path


def test_auto_is_the_youngest_run_by_its_name(tmp_path: Path) -> None:
    """Not by the clock of the file system, and the tenth run of a second is younger than the second one."""
    for name in ("2026-01-02/10-00-00", "2026-01-02/10-00-00-10", "2026-01-02/10-00-00-2", "2025-12-31/23-59-59"):
        make_run(tmp_path / name)
    (tmp_path / "2026-05-05/00-00-00/checkpoints").mkdir(parents=True)  # killed before its first save
    found = find_run("auto", None, tmp_path)
    assert (tmp_path / "2026-01-02/10-00-00-10", "auto", {"seed": 3}) == (found.run_dir, found.source, found.config)


def test_auto_with_a_folder_is_that_run(tmp_path: Path) -> None:
    """--resume auto --run-dir DIR."""
    make_run(tmp_path / "outputs/2026-01-02/10-00-00")
    run = make_run(tmp_path / "mine", epoch=7)
    found = find_run("auto", run, tmp_path / "outputs")
    assert (run, "auto", {"seed": 7}) == (found.run_dir, found.source, found.config)


def test_no_run_to_go_on_with_is_an_error(tmp_path: Path) -> None:
    """Never a silent fresh start."""
    with pytest.raises(CheckpointNotFoundError, match="expected a run with checkpoints to go on with, found none"):
        find_run("auto", None, tmp_path / "outputs")
    with pytest.raises(CheckpointNotFoundError, match="found none; begin it without --resume"):
        find_run("auto", tmp_path, tmp_path)


@pytest.mark.parametrize("way", ["", "checkpoints", "checkpoints/checkpoint_epoch_000.pth"])
def test_a_path_goes_on_in_its_own_run(tmp_path: Path, way: str) -> None:
    """A run's folder and its checkpoints mean the newest; a file means that file."""
    run = make_run(tmp_path / "run")
    found = find_run(str(run / way), None)
    assert run == found.run_dir
    assert (run / way if way.endswith(".pth") else "auto") == found.source
    assert found == find_run(str(run / way), run)


def test_a_path_and_another_folder_branch(tmp_path: Path) -> None:
    """The newest sound file of a folder, or the file that was named, goes on in the new folder."""
    run, new = make_run(tmp_path / "run"), tmp_path / "new"
    assert (new, run / "checkpoints" / numbered_name(3)) == (
        (found := find_run(str(run), new)).run_dir,
        found.source,
    )
    file = run / "checkpoints" / numbered_name(0)
    assert file == find_run(str(file), new).source


def test_a_file_that_lies_in_no_run_needs_a_folder(tmp_path: Path) -> None:
    """Somebody's lone .pth: where would the next save go?"""
    run = make_run(tmp_path / "run")
    lone = tmp_path / "lone.pth"
    lone.write_bytes((run / "checkpoints" / numbered_name(3)).read_bytes())
    with pytest.raises(CheckpointNotFoundError, match="name a folder for the run that goes on from it by --run-dir"):
        find_run(str(lone), None)
    assert lone == find_run(str(lone), tmp_path / "new").source


def test_a_new_run_in_a_used_folder_is_refused(tmp_path: Path) -> None:
    """Both ways out are named, as a command to copy."""
    run = make_run(tmp_path / "run")
    with pytest.raises(
        UsedDirectoryError, match=f"go on with it by --resume auto --run-dir {run}, or name a new folder"
    ):
        refuse_used(run)
    refuse_used(tmp_path / "new")


def test_a_file_that_vanishes_between_two_looks_is_one_line(tmp_path: Path) -> None:
    """Found without the lock, and gone when the run begins under it: never a traceback, and no new folder."""
    run = make_run(tmp_path / "run")
    found = find_run(str(run / "checkpoints/checkpoint_epoch_000.pth"), tmp_path / "new")
    shutil.rmtree(run)
    with pytest.raises(CheckpointNotFoundError, match=r"checkpoint_epoch_000\.pth: expected .* found nothing of that"):
        CheckpointManager(found.run_dir / "checkpoints", {"model": torch.nn.Linear(1, 1)}).resume(found.source)
    assert [] == list(tmp_path.iterdir())
