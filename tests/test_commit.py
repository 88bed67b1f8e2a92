"""One commit after another: durable first, removals last, nothing advances on failure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import CheckpointSettings, Position
from koemorph_tutorial.commit import Commits, Saved
from koemorph_tutorial.directory import new_line
from koemorph_tutorial.records import Best, CheckpointWriteError, numbered_name
from koemorph_tutorial.save_policy import Decision


def commit(commits: Commits, epoch: int, *names: str, best: Best | None = None) -> Saved:
    """Commit a small checkpoint under `names`."""
    position = Position(epoch=epoch + 1, batch=0, global_step=epoch + 1)
    decision = Decision(names=names, reasons=("asked for",), best=best or commits.best, next_epoch=None)
    content: dict[str, Any] = {
        "format_version": 1,
        "run": commits.next_run(),
        "epoch": epoch,
        "position": {"epoch": epoch + 1, "batch": 0, "global_step": epoch + 1},
        "model_state_dict": {"weight": torch.zeros(4)},
        "metrics": {"loss": 1.0},
    }
    return commits.commit(decision, content, position)


def test_a_commit_advances_run_best_and_position(tmp_path: Path) -> None:
    """What is on the disk is what the commit says; on_saved hears of it."""
    heard: list[Saved] = []
    commits = Commits(tmp_path, CheckpointSettings(), heard.append)
    commits.begin(new_line())
    best = Best(value=1.0, epoch=0)
    saved = commit(commits, 0, "best_model.pth", numbered_name(0), "last_model.pth", best=best)
    assert [saved] == heard
    assert (tmp_path / "best_model.pth", tmp_path / numbered_name(0), tmp_path / "last_model.pth") == saved.files
    assert (1, best, Position(epoch=1, batch=0, global_step=1)) == (
        (commits.run or {})["saves"],
        commits.best,
        commits.position,
    )
    assert str(saved).startswith("wrote best_model.pth, checkpoint_epoch_000.pth, last_model.pth in ")


def test_a_commit_that_fails_advances_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best and count of saves stay: a value between old and new is still a best later."""
    commits = Commits(tmp_path, CheckpointSettings())
    commits.begin(new_line())
    commit(commits, 0, "last_model.pth")
    before = (commits.run, commits.best, commits.position)

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointWriteError, match="No space left on device"):
        commit(commits, 1, "best_model.pth", "last_model.pth", best=Best(value=0.1, epoch=1))
    assert before == (commits.run, commits.best, commits.position)


def test_files_are_removed_after_the_new_one_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the system calls: rename, links, fsync of the directory, only then unlink of a checkpoint."""
    commits = Commits(tmp_path, CheckpointSettings(keep_last_n=2, keep_best_n=0, milestones=()))
    commits.begin(new_line())
    for epoch in range(3):
        commit(commits, epoch, numbered_name(epoch), "last_model.pth")
    assert ["checkpoint_epoch_001.pth", "checkpoint_epoch_002.pth", "last_model.pth"] == sorted(
        p.name for p in tmp_path.iterdir()
    )
    calls: list[str] = []

    def note(name: str) -> Any:
        call = getattr(os, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            if name != "unlink" or Path(args[0]).name.startswith("checkpoint_epoch_"):  # not a temporary's
                calls.append(name)
            return call(*args, **kwargs)

        return noted

    for name in ("fsync", "replace", "link", "unlink"):
        monkeypatch.setattr(os, name, note(name))
    commit(commits, 3, numbered_name(3), "last_model.pth")
    assert ["fsync", "replace", "link", "replace", "fsync", "unlink"] == calls


def test_the_newest_save_gets_one_more_name_without_a_write(tmp_path: Path) -> None:
    """The final epoch is on the disk already and lacks only its number."""
    commits = Commits(tmp_path, CheckpointSettings())
    commits.begin(new_line())
    commit(commits, 4, "best_model.pth", "last_model.pth")
    commits.name_newest(numbered_name(4))
    assert 1 == len({path.stat().st_ino for path in tmp_path.iterdir()})
    assert 3 == len(list(tmp_path.iterdir()))


def test_a_run_must_have_begun(tmp_path: Path) -> None:
    """Nobody saves into a line that has no name yet."""
    with pytest.raises(RuntimeError, match="no run has begun"):
        Commits(tmp_path, CheckpointSettings()).next_run()
