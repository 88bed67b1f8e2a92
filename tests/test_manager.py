"""The table "when something is written", row by row, and a run that comes back: bitwise, in the same process."""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from koemorph_tutorial import CheckpointManager, ResumableLoader, list_checkpoints, load_checkpoint
from koemorph_tutorial.records import (
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    DamagedCheckpointError,
    MismatchError,
    UnsavableStateError,
    UsedDirectoryError,
)
from tests import disks
from tests.comparing import difference
from tests.underload import saves_under_load


def make_objects(seed: int = 0, *, resumable: bool = True) -> dict[str, Any]:
    """Return a small run with dropout, a shuffled loader and a scheduler, all from `seed`."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(9))
    loader: Any = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=3, shuffle=True)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
        "loader": ResumableLoader(loader) if resumable else loader,
    }


def train_epoch(objects: dict[str, Any], checkpoints: CheckpointManager | None = None, stop_after: int = 99) -> None:
    """Train one epoch that draws from every generator; stop after so many batches, by an exception."""
    for number, (x, y) in enumerate(objects["loader"]):
        noise = random.gauss(0, 0.01) + float(np.random.normal()) * 0.01
        loss = nn.functional.mse_loss(objects["model"](x + noise), y)
        objects["optimizer"].zero_grad()
        loss.backward()
        objects["optimizer"].step()
        if checkpoints is not None:
            checkpoints.step()
        if number + 1 == stop_after:
            raise KeyboardInterrupt
    objects["scheduler"].step()


def manage(directory: Path, objects: dict[str, Any], **settings: Any) -> CheckpointManager:
    """Return a manager of those `objects` that have a state."""
    return CheckpointManager(
        directory, {name: item for name, item in objects.items() if not isinstance(item, DataLoader)}, **settings
    )


def run(directory: Path, total: int, losses: dict[int, float] | None = None, **settings: Any) -> dict[str, Any]:
    """Train to `total` epochs with given validation losses (epoch -> loss; 1.0 elsewhere)."""
    objects = make_objects()
    with manage(directory, objects, **settings) as checkpoints:
        for epoch in checkpoints.epochs(total):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": (losses or {}).get(epoch, 1.0)})
    return objects


def names(directory: Path) -> list[str]:
    """Return the names in a directory, but that of the lock."""
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def epochs_of(directory: Path) -> dict[str, int]:
    """Return which epoch each checkpoint of a directory holds."""
    return {file.path.name: file.epoch for file in list_checkpoints(directory)}


# -- when something is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "losses", "expected"),
    [
        pytest.param(
            {"save_freq": 2, "milestones": ()},
            {},
            {0: "best numbered last", 1: "", 2: "numbered last", 3: "", 4: "numbered last"},
            id="a multiple of save_freq",
        ),
        pytest.param(
            {"save_freq": 100, "milestones": (3,)},
            {},
            {0: "best numbered last", 1: "", 2: "", 3: "numbered last", 4: ""},
            id="a milestone",
        ),
        pytest.param(
            {"save_freq": 2, "milestones": ()},
            {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.9},
            {0: "best numbered last", 1: "best last", 2: "best numbered last", 3: "best last", 4: "numbered last"},
            id="a new best gets no number of its own",
        ),
        pytest.param(
            {"save_freq": 1, "save_best_only": True},
            {2: 0.5},
            {0: "best last", 1: "", 2: "best last", 3: "", 4: ""},
            id="save_best_only turns save_freq and milestones off",
        ),
        pytest.param(
            {"save_freq": 100, "mode": "max", "monitor": "accuracy"},
            {},
            {0: "numbered last", 1: "", 2: "", 3: "", 4: ""},
            id="a metric that is missing is no best",
        ),
        pytest.param(
            {"save_freq": 100},
            {0: float("nan"), 1: float("inf"), 2: 3.0, 3: float("nan"), 4: float("-inf")},
            {0: "numbered last", 1: "", 2: "best last", 3: "", 4: ""},
            id="a value that is not finite is no best",
        ),
    ],
)
def test_the_table_of_what_an_ended_epoch_writes(
    tmp_path: Path, settings: dict[str, Any], losses: dict[int, float], expected: dict[int, str]
) -> None:
    """Each row: which names an ended epoch writes, read off the disk."""
    objects = make_objects()
    found: dict[int, str] = {}
    with manage(tmp_path, objects, **settings) as checkpoints:
        for epoch in checkpoints.epochs(5):
            before = {path.name: path.stat().st_ino for path in tmp_path.glob("*.pth")}
            decision = checkpoints.save({"loss": losses.get(epoch, 1.0)})
            after = {path.name: path.stat().st_ino for path in tmp_path.glob("*.pth")}
            written = [name for name, inode in after.items() if before.get(name) != inode]
            assert sorted(decision.names) == sorted(written)
            kinds = {
                "best": "best_model.pth",
                "numbered": f"checkpoint_epoch_{epoch:03d}.pth",
                "last": "last_model.pth",
            }
            found[epoch] = " ".join(kind for kind, name in kinds.items() if name in written)
    assert expected == found


def test_a_monitor_that_no_metric_has_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A typo there would mean that no best is ever kept."""
    with manage(tmp_path, make_objects(), monitor="val_loss") as checkpoints:
        for _ in checkpoints.epochs(2):
            checkpoints.save({"loss": 1.0, "mae": 2.0})
    said = "monitor: expected one of the metrics loss, mae, found 'val_loss': no epoch can be the best"
    assert [said] == [record.message for record in caplog.records]


def test_the_names_of_one_save_share_their_bytes(tmp_path: Path) -> None:
    """One serialisation, one inode, three names."""
    run(tmp_path, 1)
    assert ["best_model.pth", "checkpoint_epoch_000.pth", "last_model.pth"] == names(tmp_path)
    assert 1 == len({path.stat().st_ino for path in tmp_path.glob("*.pth")})


def test_nothing_written_says_why_and_when_next(tmp_path: Path) -> None:
    """A Decision that writes nothing reads as a sentence."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        said = [str(checkpoints.save({"loss": 1.0})) for _ in checkpoints.epochs(2)]
    assert "nothing written: loss 1 is not below 1 (epoch 0), and epoch 1 is not due; next at epoch 5" == said[1]


@pytest.mark.parametrize(("setting", "value"), [("every_n_steps", 3), ("every_minutes", 1e-9)])
def test_inside_an_epoch_only_last_is_written(tmp_path: Path, setting: str, value: float) -> None:
    """every_n_steps and every_minutes write last_model.pth at the position of the next batch."""
    objects = make_objects()
    with pytest.raises(KeyboardInterrupt), manage(tmp_path, objects, **{setting: value}) as checkpoints:
        for _ in checkpoints.epochs(3):
            train_epoch(objects, checkpoints, stop_after=3)
    assert ["last_model.pth"] == names(tmp_path)
    assert {"epoch": 0, "batch": 3, "global_step": 3} == load_checkpoint(tmp_path / "last_model.pth")["position"]


def test_accumulated_gradients_do_not_miss_every_n_steps(tmp_path: Path) -> None:
    """With a call of step every second batch, every third batch is noticed when it has passed."""
    objects = make_objects()
    saved, decisions = [], []
    told = {"on_saved": lambda _: saved.append(load_checkpoint(tmp_path / "last_model.pth")["global_step"])}
    with manage(tmp_path, objects, every_n_steps=3, save_freq=100, **told) as checkpoints:
        for _ in checkpoints.epochs(3):
            for number, _batch in enumerate(objects["loader"]):
                if number % 2:
                    checkpoints.step()
            decisions.append(checkpoints.save({}))
    assert [4, 6, 10, 12] == saved[:4]
    # After the last batch of an epoch it is left to its save.
    assert ["checkpoint_epoch_000.pth, last_model.pth: every 100 epochs; every 3 steps"] == [str(decisions[0])]
    assert [(), ("last_model.pth",)] == [decision.names for decision in decisions[1:]]
    assert ("every 3 steps",) == decisions[2].reasons


def test_epochs_that_run_out_give_the_final_one_its_number(tmp_path: Path) -> None:
    """The final epoch is neither due nor best, and yet it is not lost."""
    run(tmp_path, 4)
    assert {"best_model.pth": 0, "checkpoint_epoch_000.pth": 0, "checkpoint_epoch_003.pth": 3, "last_model.pth": 3} == (
        epochs_of(tmp_path)
    )


def test_a_final_epoch_that_is_on_the_disk_gets_its_number_by_a_link(tmp_path: Path) -> None:
    """The final epoch was a new best: one more name, not one more write."""
    run(tmp_path, 3, {2: 0.1})
    inodes = {path.name: path.stat().st_ino for path in tmp_path.glob("*.pth")}
    assert inodes["best_model.pth"] == inodes["last_model.pth"] == inodes["checkpoint_epoch_002.pth"]


def test_break_after_save_gives_the_epoch_its_number(tmp_path: Path) -> None:
    """Early stopping leaves the loop by break: that epoch is the final one."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(50):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": 1.0})
            if epoch == 2:
                break
    assert 2 == epochs_of(tmp_path)["checkpoint_epoch_002.pth"] == epochs_of(tmp_path)["last_model.pth"]


def test_an_exception_after_save_gives_the_epoch_its_number(tmp_path: Path) -> None:
    """The loop was left, however, after its save returned."""
    objects = make_objects()
    with pytest.raises(ZeroDivisionError), manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(50):
            checkpoints.save({"loss": 1.0})
            1 / (2 - epoch)
    assert 2 == epochs_of(tmp_path)["checkpoint_epoch_002.pth"]


@pytest.mark.parametrize("left_by", ["exception", "break", "Ctrl-C"])
def test_a_loop_left_inside_an_epoch_writes_nothing(tmp_path: Path, left_by: str) -> None:
    """A torn state is not saved: what was there stays, to the byte."""
    objects = make_objects()
    before: dict[str, tuple[int, float]] = {}

    def look() -> dict[str, tuple[int, float]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime) for path in tmp_path.glob("*.pth")}

    with pytest.raises((RuntimeError, KeyboardInterrupt)), manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(50):
            if epoch == 1:
                before = look()
            train_epoch(objects, checkpoints, stop_after=2 if epoch == 1 and left_by == "Ctrl-C" else 99)
            if epoch == 1 and left_by == "exception":
                raise RuntimeError("boom")
            if epoch == 1 and left_by == "break":
                break
            checkpoints.save({"loss": 1.0})
        raise RuntimeError("left by break")
    assert before == look()
    assert 3 == len(before)


def test_weights_loaded_back_after_the_loop_get_into_no_file(tmp_path: Path) -> None:
    """Code after the loop may do with the model what it likes; the manager closes later."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        for _ in checkpoints.epochs(3):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": 1.0})
            trained = copy.deepcopy(objects["model"].state_dict())
        nn.init.zeros_(objects["model"][0].weight)
    saved = load_checkpoint(tmp_path / "checkpoint_epoch_002.pth")["model_state_dict"]
    assert "" == difference(trained, saved)


def test_weights_loaded_back_after_break_get_into_no_file(tmp_path: Path) -> None:
    """The same with early stopping: the number is written at the break, not at close."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(9):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": 1.0})
            if epoch == 1:
                trained = copy.deepcopy(objects["model"].state_dict())
                break
        nn.init.zeros_(objects["model"][0].weight)
    assert "" == difference(trained, load_checkpoint(tmp_path / "checkpoint_epoch_001.pth")["model_state_dict"])


def test_an_iterator_kept_in_a_variable_is_finished_at_close(tmp_path: Path) -> None:
    """Nobody drops the iterator at the break, so close writes the number."""
    objects = make_objects()
    checkpoints = manage(tmp_path, objects)
    kept = checkpoints.epochs(9)
    for epoch in kept:
        checkpoints.save({"loss": 1.0})
        if epoch == 2:
            break
    assert "checkpoint_epoch_002.pth" not in names(tmp_path)
    checkpoints.close()
    assert 2 == epochs_of(tmp_path)["checkpoint_epoch_002.pth"]


def test_a_body_that_forgets_save_still_ends_its_epoch(tmp_path: Path) -> None:
    """A body that ends without save counts as save({})."""
    objects = make_objects()
    with manage(tmp_path, objects, save_freq=1) as checkpoints:
        for _ in checkpoints.epochs(2):
            train_epoch(objects, checkpoints)
    assert {"checkpoint_epoch_000.pth": 0, "checkpoint_epoch_001.pth": 1, "last_model.pth": 1} == epochs_of(tmp_path)
    assert 8 == load_checkpoint(tmp_path / "last_model.pth")["global_step"]


def test_a_loop_that_epochs_does_not_drive(tmp_path: Path) -> None:
    """save(epoch=…) by hand: a used directory is refused, a clean close writes the unsaved epoch."""
    objects = make_objects(resumable=False)
    with manage(tmp_path, objects, save_freq=2) as checkpoints:
        for epoch in range(4):
            for _ in objects["loader"]:
                checkpoints.step()
            checkpoints.save({"loss": 1.0}, epoch=epoch)
    assert 3 == epochs_of(tmp_path)["checkpoint_epoch_003.pth"]
    assert {"epoch": 4, "batch": 0, "global_step": 16} == load_checkpoint(tmp_path / "last_model.pth")["position"]
    with pytest.raises(UsedDirectoryError, match="resume that run, or name a new directory"):
        manage(tmp_path, make_objects(resumable=False)).save({"loss": 1.0}, epoch=0)


def test_a_loop_by_hand_left_by_an_exception_writes_nothing_more(tmp_path: Path) -> None:
    """Without epochs nobody knows whether the objects still are as they were at save."""
    objects = make_objects(resumable=False)
    with pytest.raises(RuntimeError, match="boom"), manage(tmp_path, objects) as checkpoints:
        for epoch in range(4):
            checkpoints.save({"loss": 1.0}, epoch=epoch)
            if epoch == 2:
                raise RuntimeError("boom")
    assert {"best_model.pth": 0, "checkpoint_epoch_000.pth": 0, "last_model.pth": 0} == epochs_of(tmp_path)


# -- coming back -------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
}
SCHEDULERS = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8),
    "MultiStepLR": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4, 4], gamma=0.5),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=6),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_optimizers_and_schedulers_come_back_bitwise(tmp_path: Path, optimizer: str, scheduler: str) -> None:
    """Six epochs in one go equal three epochs, a new process' worth of new objects, and three more."""

    def train(directory: Path, until: int) -> dict[str, Any]:
        objects = make_objects()
        objects["optimizer"] = OPTIMIZERS[optimizer](objects["model"].parameters())
        objects["scheduler"] = SCHEDULERS[scheduler](objects["optimizer"])
        stepping = objects["scheduler"]
        with manage(directory, objects, save_freq=1) as checkpoints:
            for epoch in checkpoints.epochs(until):
                loss = 0.0
                for x, y in objects["loader"]:
                    error = nn.functional.mse_loss(objects["model"](x), y)
                    objects["optimizer"].zero_grad()
                    error.backward()
                    objects["optimizer"].step()
                    checkpoints.step()
                    loss += error.item()
                stepping.step(loss) if scheduler == "ReduceLROnPlateau" else stepping.step()
                checkpoints.save({"loss": loss + epoch % 2})
        return load_checkpoint(directory / "last_model.pth")

    straight = train(tmp_path / "straight", 6)
    train(tmp_path / "stopped", 3)
    resumed = train(tmp_path / "stopped", 6)
    assert "" == difference(straight, resumed)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_stopped_inside_an_epoch_comes_back_bitwise(tmp_path: Path, stop_after: int) -> None:
    """Saved at every batch, left in the middle of epoch 2, continued with new objects."""
    run(tmp_path / "straight", 4, {1: 0.5}, every_n_steps=1)
    objects = make_objects()
    with pytest.raises(KeyboardInterrupt), manage(tmp_path / "stopped", objects, every_n_steps=1) as checkpoints:
        for epoch in checkpoints.epochs(4):
            train_epoch(objects, checkpoints, stop_after if epoch == 2 else 99)
            checkpoints.save({"loss": {1: 0.5}.get(epoch, 1.0)})
    assert stop_after == load_checkpoint(tmp_path / "stopped/last_model.pth")["position"]["batch"]
    run(tmp_path / "stopped", 4, {1: 0.5}, every_n_steps=1)
    for name in names(tmp_path / "straight"):
        there, here = (load_checkpoint(tmp_path / which / name) for which in ("straight", "stopped"))
        assert "" == difference(there, here), name


def test_a_finished_run_says_so_and_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Resumed after its last epoch: no epoch, no write, one line."""
    run(tmp_path, 3)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.glob("*.pth")}
    caplog.clear()
    run(tmp_path, 3)
    assert before == {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.glob("*.pth")}
    assert "nothing left to do: 3 of 3 epochs are done" in caplog.messages


def test_resume_by_hand_returns_where_to_go_on(tmp_path: Path) -> None:
    """Resumed reads as a sentence and holds position and best."""
    run(tmp_path, 3, {1: 0.25})
    resumed = manage(tmp_path, make_objects()).resume()
    assert "resumed from last_model.pth: goes on at epoch 3, batch 0 (global step 12); best loss 0.25 at epoch 1" == (
        str(resumed)
    )
    assert () == resumed.drift == resumed.missing == resumed.unexpected == resumed.passed_over


def test_a_fresh_start_has_no_file(tmp_path: Path) -> None:
    """Resume on an empty directory begins anew, and says so."""
    resumed = manage(tmp_path / "new", make_objects()).resume()
    assert resumed.file is None
    assert "a fresh start: no checkpoint yet" == str(resumed)


def test_best_is_not_forgotten_on_resume(tmp_path: Path) -> None:
    """The recipe forgets its best and lets a worse model take the name."""
    run(tmp_path, 2, {0: 0.5, 1: 0.9})
    run(tmp_path, 4, {2: 0.7, 3: 0.6})
    assert 0 == epochs_of(tmp_path)["best_model.pth"]
    assert 0.5 == load_checkpoint(tmp_path / "last_model.pth")["best"]["value"]


def test_a_damaged_newest_file_is_passed_over(tmp_path: Path) -> None:
    """Three names of the newest save share the flipped bit; the older generation goes on, and is said."""
    run(tmp_path, 6, {5: 0.5}, save_freq=3, milestones=())
    newest = tmp_path / "last_model.pth"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)  # in place: last, best and checkpoint_epoch_005 are one file
    resumed = manage(tmp_path, make_objects()).resume()
    assert resumed.file is not None
    assert "checkpoint_epoch_003.pth" == resumed.file.path.name
    passed = dict(resumed.passed_over)
    assert {"last_model.pth", "best_model.pth", "checkpoint_epoch_005.pth"} == set(passed)
    assert "is damaged: expected CRC32" in passed["last_model.pth"]
    assert "it has the same bytes as last_model.pth" == passed["best_model.pth"] == passed["checkpoint_epoch_005.pth"]
    assert "3 damaged checkpoints were moved to abandoned-001/, none was removed" in resumed.notes
    assert 3 == epochs_of(tmp_path)["last_model.pth"]
    assert 0 == epochs_of(tmp_path)["best_model.pth"]
    with pytest.raises(
        DamagedCheckpointError, match=r"checkpoint_epoch_005\.pth: record .* is damaged: expected CRC32"
    ):
        manage(tmp_path, make_objects()).resume(tmp_path / "abandoned-001/checkpoint_epoch_005.pth")


def test_files_but_none_sound_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    """Starting from zero over unreadable files is how runs are lost."""
    (tmp_path / "last_model.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointNotFoundError, match="expected a sound checkpoint, found 1 file and none"):
        manage(tmp_path, make_objects()).resume()
    with pytest.raises(CheckpointNotFoundError, match="move them away to start afresh"):
        manage(tmp_path, make_objects()).epochs(3)


def test_going_back_moves_newer_files_aside(tmp_path: Path) -> None:
    """Resume from an older file of the same directory: nothing newer is removed, nothing newer is taken for newest."""
    run(tmp_path, 8, {6: 0.1}, save_freq=2, milestones=())
    straight = {name: load_checkpoint(tmp_path / name) for name in epochs_of(tmp_path)}
    objects = make_objects()
    checkpoints = manage(tmp_path, objects, save_freq=2, milestones=())
    resumed = checkpoints.resume(tmp_path / "checkpoint_epoch_004.pth")
    assert "4 newer checkpoints were moved to abandoned-001/, none was removed" in resumed.notes
    assert ["best_model.pth", "checkpoint_epoch_006.pth", "checkpoint_epoch_007.pth", "last_model.pth"] == names(
        tmp_path / "abandoned-001"
    )
    assert 4 == epochs_of(tmp_path)["last_model.pth"]
    assert 0 == epochs_of(tmp_path)["best_model.pth"] == (checkpoints.best.epoch)
    with checkpoints:
        for epoch in checkpoints.epochs(8):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": 0.1 if epoch == 6 else 1.0})
    for name, before in straight.items():
        assert "" == difference(before, load_checkpoint(tmp_path / name)), name


def test_branching_brings_the_best_along(tmp_path: Path) -> None:
    """A branch starts a line of its own with the parent's best in place, even if nothing better comes."""
    run(tmp_path / "parent", 6, {1: 0.25}, save_freq=2, milestones=())
    objects = make_objects()
    branch = manage(tmp_path / "branch", objects, save_freq=2, milestones=())
    branch.resume(tmp_path / "parent/checkpoint_epoch_004.pth")
    assert {"best_model.pth": 1, "last_model.pth": 4} == epochs_of(tmp_path / "branch")
    with branch:
        for _ in branch.epochs(6):
            train_epoch(objects, branch)
            branch.save({"loss": 1.0})
    assert {"best_model.pth": 1, "checkpoint_epoch_005.pth": 5, "last_model.pth": 5} == epochs_of(tmp_path / "branch")
    there, here = (load_checkpoint(tmp_path / which / "last_model.pth") for which in ("parent", "branch"))
    assert "" == difference(there, here)
    assert there["run"]["line"] != here["run"]["line"]
    best = load_checkpoint(tmp_path / "branch/best_model.pth")["run"]
    assert {"line": here["run"]["line"], "parent": str(tmp_path / "parent/best_model.pth"), "saves": 0} == best


def test_a_branch_killed_before_the_best_came_along_gets_it_later(tmp_path: Path) -> None:
    """Between the two files of a new branch: the next resume looks where the branch came from."""
    run(tmp_path / "parent", 6, {1: 0.25}, save_freq=2, milestones=())
    manage(tmp_path / "branch", make_objects()).resume(tmp_path / "parent/checkpoint_epoch_004.pth")
    (tmp_path / "branch/best_model.pth").unlink()
    resumed = manage(tmp_path / "branch", make_objects()).resume()
    assert 1 == epochs_of(tmp_path / "branch")["best_model.pth"] == resumed.best.epoch


def test_branching_into_a_used_directory_is_refused(tmp_path: Path) -> None:
    """Two runs do not share a directory."""
    run(tmp_path / "a", 2)
    run(tmp_path / "b", 2)
    with pytest.raises(UsedDirectoryError, match="expected an unused directory to branch from"):
        manage(tmp_path / "b", make_objects()).resume(tmp_path / "a/last_model.pth")


def test_a_fresh_start_in_a_used_directory_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """epochs(resume=False) names both ways out."""
    run(tmp_path, 2)
    before = names(tmp_path)
    with pytest.raises(
        UsedDirectoryError, match="found the checkpoints of another run; resume that run, or name a new"
    ):
        manage(tmp_path, make_objects()).epochs(3, resume=False)
    assert before == names(tmp_path)


@pytest.mark.parametrize("missing", ["best_model.pth", "last_model.pth", "checkpoint_epoch_004.pth"])
def test_resume_puts_a_missing_name_back(tmp_path: Path, missing: str) -> None:
    """A kill between two names of one save: resume completes them, as if it had never come."""
    objects = make_objects()
    with pytest.raises(KeyboardInterrupt), manage(tmp_path, objects, save_freq=2) as checkpoints:
        for epoch in checkpoints.epochs(9):
            train_epoch(objects, checkpoints, 1 if epoch == 5 else 99)
            checkpoints.save({"loss": 0.5 if epoch == 4 else 1.0})
    before = epochs_of(tmp_path)
    (tmp_path / missing).unlink()
    manage(tmp_path, make_objects(), save_freq=2).resume()
    assert before == epochs_of(tmp_path)


def test_inside_an_epoch_the_loader_is_needed(tmp_path: Path) -> None:
    """A place inside an epoch without its loader would be another run: refused before anything is filled."""
    objects = make_objects()
    with pytest.raises(KeyboardInterrupt), manage(tmp_path, objects, every_n_steps=1) as checkpoints:
        for _ in checkpoints.epochs(3):
            train_epoch(objects, checkpoints, stop_after=2)
    fresh = make_objects(seed=5, resumable=False)
    before = copy.deepcopy(fresh["model"].state_dict())
    with pytest.raises(MismatchError, match=r"saved inside epoch 0, batch 2 .* hand over the ResumableLoader"):
        manage(tmp_path, fresh).resume()
    assert "" == difference(before, fresh["model"].state_dict())


# -- other people's loops ------------------------------------------------------------------------------------------


class Stream(IterableDataset[torch.Tensor]):
    """A stream that knows no length and draws from the global generator."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield twelve random samples."""
        for _ in range(12):
            yield torch.randn(3)


def train_stream(directory: Path, total: int, leave_at: tuple[int, int] | None = None) -> None:
    """Train on a stream, perhaps leaving it at an (epoch, batch)."""
    objects = make_objects()
    objects["loader"] = ResumableLoader(DataLoader(Stream(), batch_size=3))
    with manage(directory, objects, every_n_steps=1) as checkpoints:
        for epoch in checkpoints.epochs(total):
            for x in objects["loader"]:
                objects["optimizer"].zero_grad()
                objects["model"](x).square().mean().backward()
                objects["optimizer"].step()
                checkpoints.step()
                if (epoch, checkpoints.position.batch) == leave_at:
                    raise KeyboardInterrupt
            objects["scheduler"].step()
            checkpoints.save({"loss": 1.0})


def test_a_stream_without_a_length_comes_back_bitwise(tmp_path: Path) -> None:
    """An IterableDataset is read up to its batch."""
    train_stream(tmp_path / "straight", 3)
    with pytest.raises(KeyboardInterrupt):
        train_stream(tmp_path / "stopped", 3, leave_at=(1, 2))
    train_stream(tmp_path / "stopped", 3)
    there, here = (load_checkpoint(tmp_path / which / "last_model.pth") for which in ("straight", "stopped"))
    assert "" == difference(there, here)


def shared_generator_run(directory: Path, leave_at: int | None = None) -> None:
    """Train with one generator for two loaders, a validation inside the epoch, and among the objects."""
    objects = make_objects()
    shared = torch.Generator().manual_seed(3)
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(9))
    first, second = (DataLoader(TensorDataset(x), 3, shuffle=True, generator=shared) for _ in range(2))
    objects |= {"loader": ResumableLoader(first), "other": ResumableLoader(second), "generator": shared}
    validation = DataLoader(TensorDataset(x), 4, generator=shared)
    with manage(directory, objects, every_n_steps=1) as checkpoints:
        for _ in checkpoints.epochs(3):
            for (a,), (b,) in zip(objects["loader"], objects["other"], strict=True):
                objects["optimizer"].zero_grad()
                (objects["model"](a) - objects["model"](b)).square().mean().backward()
                objects["optimizer"].step()
                checkpoints.step()
                if checkpoints.position.batch == 2:
                    sum(len(batch) for batch in validation)
                if checkpoints.position.global_step == leave_at:
                    raise KeyboardInterrupt
            objects["scheduler"].step()
            checkpoints.save({"loss": 1.0})


@pytest.mark.parametrize("leave_at", [5, 7])
def test_one_generator_for_everything_comes_back_bitwise(tmp_path: Path, leave_at: int) -> None:
    """PyTorch's own page on reproducibility has one `g` for all loaders."""
    shared_generator_run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        shared_generator_run(tmp_path / "stopped", leave_at)
    shared_generator_run(tmp_path / "stopped")
    there, here = (load_checkpoint(tmp_path / which / "last_model.pth") for which in ("straight", "stopped"))
    assert "" == difference(there, here)


def test_step_without_a_new_batch_is_refused(tmp_path: Path) -> None:
    """After each of two optimizers, or with the raw loader in the loop: the save would lie where nobody can go on."""
    objects = make_objects()
    checkpoints = manage(tmp_path / "twice", objects)
    epochs = checkpoints.epochs(1)
    next(epochs)
    batches = iter(objects["loader"])
    next(batches)
    checkpoints.step()
    with pytest.raises(
        RuntimeError, match=r"expected a new batch .* call step once a batch, after the last optimizer's"
    ):
        checkpoints.step()
    next(iter(objects["loader"]))
    with pytest.raises(RuntimeError, match="expected a new batch"):
        checkpoints.step()
    checkpoints = manage(tmp_path / "raw", make_objects(), every_minutes=1e-9)
    kept = checkpoints.epochs(1)
    next(kept)
    with pytest.raises(RuntimeError, match="iterate the ResumableLoader itself"):
        checkpoints.step()
    assert [] == names(tmp_path / "raw")


def test_a_second_pass_inside_an_epoch_is_refused(tmp_path: Path) -> None:
    """Its place could not be told from that of the first."""
    objects = make_objects()
    checkpoints = manage(tmp_path, objects)
    kept = checkpoints.epochs(1)
    next(kept)
    for _ in objects["loader"]:
        checkpoints.step()
    next(iter(objects["loader"]))
    with pytest.raises(RuntimeError, match="began again inside the epoch; one pass over it is one epoch"):
        checkpoints.step()


def test_the_loader_that_is_read_is_the_one_that_counts(tmp_path: Path) -> None:
    """A validation loader stands first among the objects; a short one is cycled beside a long one."""
    objects = make_objects()
    validation = ResumableLoader(DataLoader(TensorDataset(torch.zeros(20, 1))))
    with manage(tmp_path, {"validation": validation, **objects}, every_n_steps=1) as checkpoints:
        for _ in checkpoints.epochs(1):
            for _batch in objects["loader"]:
                checkpoints.step()
            assert 20 == len(list(validation))
            checkpoints.save({"loss": 1.0})
    assert 4 == load_checkpoint(tmp_path / "last_model.pth")["global_step"]


def test_a_loop_that_asks_one_epoch_ahead_loses_nothing(tmp_path: Path) -> None:
    """zip pulls the next epoch before it notices that the other side is empty."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        for _ in zip(checkpoints.epochs(50), range(3), strict=False):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": 1.0})
    assert 2 == epochs_of(tmp_path)["checkpoint_epoch_002.pth"] == epochs_of(tmp_path)["last_model.pth"]


def test_a_parameter_that_nobody_holds_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The optimizer trains it and no file will hold it."""
    manage(tmp_path, {**make_objects(), "alpha": torch.optim.Adam([nn.Parameter(torch.zeros(1))])})
    assert [
        "alpha trains 1 parameter that no object holds, so it is in no file; hand over the module it belongs to"
    ] == (caplog.messages)


def test_a_cell_that_is_run_twice_takes_over(tmp_path: Path) -> None:
    """The older manager writes nothing more, whenever its iterator dies, and says so when it is used."""
    old = make_objects()
    older = manage(tmp_path, old, save_freq=1, milestones=())
    kept = older.epochs(9)
    for epoch in kept:
        older.save({"loss": 2.0 + epoch})
        if epoch == 2:
            break
    new = make_objects()
    newer = manage(tmp_path, new, save_freq=1, milestones=(), keep_last_n=2)
    for epoch in newer.epochs(8):
        train_epoch(new, newer)
        newer.save({"loss": 2.0 + epoch})
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("*.pth")}
    kept.close()
    older.close()
    assert before == {path.name: path.stat().st_ino for path in tmp_path.glob("*.pth")}
    with pytest.raises(RuntimeError, match="or a newer one took its directory over; use that one"):
        older.save({"loss": 1.0})


def test_a_closed_managers_iterator_writes_nothing(tmp_path: Path) -> None:
    """A progress bar that was kept in a variable is collected much later."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        kept = checkpoints.epochs(9)
        for epoch in kept:
            checkpoints.save({"loss": 1.0})
            if epoch == 1:
                break
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")}
    kept.close()
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")}


def test_a_save_that_failed_after_its_first_name_does_not_lose_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full between best and last: the next try, when the loop is left, knows the best as well."""
    objects = make_objects()
    links, real = [0], os.link

    def full(*arguments: Any, **more: Any) -> None:
        links[0] += 1
        if links[0] == 3:
            raise OSError(28, "No space left on device")
        real(*arguments, **more)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(CheckpointWriteError), manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(3):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": 1.0 / (epoch + 1)})
    assert {"best_model.pth": 1, "checkpoint_epoch_000.pth": 0, "checkpoint_epoch_001.pth": 1, "last_model.pth": 1} == (
        epochs_of(tmp_path)
    )
    assert 0.5 == manage(tmp_path, make_objects()).resume().best.value


def test_the_best_of_a_recipes_directory_is_not_written_over(tmp_path: Path) -> None:
    """Version 0 has no record of a best: it is what the files themselves say."""
    items = make_objects()
    for name, epoch, loss in (
        ("checkpoint_epoch_000.pth", 0, 1.0),
        ("best_model.pth", 3, 0.3),
        ("last_model.pth", 5, 0.5),
    ):
        torch.save(
            {
                "epoch": epoch,
                "global_step": epoch,
                "model_state_dict": items["model"].state_dict(),
                "optimizer_state_dict": items["optimizer"].state_dict(),
                "metrics": {"loss": np.float64(loss)},
                "config": {},
            },
            tmp_path / name,
        )
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        for _ in checkpoints.epochs(8):
            checkpoints.save({"loss": 0.9})
    assert 3 == epochs_of(tmp_path)["best_model.pth"]
    branch = manage(tmp_path / "branch", make_objects()).resume(tmp_path / "best_model.pth")
    assert (0.3, 3) == (branch.best.value, branch.best.epoch)


def test_a_monitor_that_changes_at_a_resume_keeps_the_old_best(tmp_path: Path) -> None:
    """Its bytes get a number before another epoch takes the name."""
    objects = make_objects()
    with manage(tmp_path, objects, monitor="accuracy", mode="max") as checkpoints:
        for epoch in checkpoints.epochs(5):
            checkpoints.save({"loss": 5.0 - epoch, "accuracy": 0.9 if epoch == 2 else 0.1})
    resumed = manage(tmp_path, make_objects()).resume()
    assert "what was best_model.pth does not count any more and was moved to abandoned-001/" in resumed.notes
    assert (1.0, 4) == (resumed.best.value, resumed.best.epoch)
    assert (4, 2) == (epochs_of(tmp_path)["best_model.pth"], epochs_of(tmp_path / "abandoned-001")["best_model.pth"])


def test_what_fails_before_its_first_batch_is_no_end_of_an_epoch(tmp_path: Path) -> None:
    """The scheduler steps at the head of the epoch, then the data cannot be read: a torn state."""
    objects = make_objects()
    with pytest.raises(OSError, match="gone"), manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(5):
            if epoch:
                objects["scheduler"].step()
            if epoch == 3:
                raise OSError("gone")
            for x, y in objects["loader"]:
                objects["optimizer"].zero_grad()
                nn.functional.mse_loss(objects["model"](x), y).backward()
                objects["optimizer"].step()
                checkpoints.step()
            checkpoints.save({"loss": 1.0})
    assert {"best_model.pth": 0, "checkpoint_epoch_000.pth": 0, "last_model.pth": 0} == epochs_of(tmp_path)


def accumulate(directory: Path, leave_at: int | None = None) -> None:
    """Train with gradients of three batches, the last one of an epoch alone, saving whenever there was a step."""
    objects = make_objects()
    with manage(directory, objects, every_n_steps=1) as checkpoints:
        for _ in checkpoints.epochs(3):
            for x, y in objects["loader"]:
                nn.functional.mse_loss(objects["model"](x), y).backward()
                if objects["loader"].batches % 3 == 0:
                    objects["optimizer"].step()
                    objects["optimizer"].zero_grad()
                    checkpoints.step()
                    if checkpoints.position.global_step == leave_at:
                        raise KeyboardInterrupt
            objects["optimizer"].step()
            objects["optimizer"].zero_grad()
            checkpoints.step()
            if checkpoints.position.global_step == leave_at:
                raise KeyboardInterrupt
            objects["scheduler"].step()
            checkpoints.save({"loss": 1.0})


@pytest.mark.parametrize("leave_at", [3, 4, 7, 8])
def test_a_step_after_the_last_batch_writes_nothing_that_cannot_go_on(tmp_path: Path, leave_at: int) -> None:
    """Left within the epoch or behind its last batch: the run goes on from the step before, bitwise."""
    accumulate(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        accumulate(tmp_path / "stopped", leave_at)
    accumulate(tmp_path / "stopped")
    there, here = (load_checkpoint(tmp_path / which / "last_model.pth") for which in ("straight", "stopped"))
    assert "" == difference(there, here)


def test_a_manager_that_is_refused_leaves_the_other_one_alone(tmp_path: Path) -> None:
    """A model that does not fit, a fresh start that may not be: the run that is under way goes on."""
    objects = make_objects()
    with manage(tmp_path, objects, save_freq=1) as checkpoints:
        for _ in checkpoints.epochs(3):
            checkpoints.save({"loss": 1.0})
            with pytest.raises(MismatchError):
                CheckpointManager(tmp_path, {"model": nn.Linear(5, 5)}).resume()
            with pytest.raises(UsedDirectoryError):
                manage(tmp_path, make_objects()).epochs(3, resume=False)
    assert 2 == epochs_of(tmp_path)["last_model.pth"]


def test_a_finished_run_of_the_recipe_is_not_written_over(tmp_path: Path) -> None:
    """Only the model is handed over: a new file would lack the optimizer's state."""
    items = make_objects()
    state = {
        "epoch": 2,
        "global_step": 12,
        "model_state_dict": items["model"].state_dict(),
        "optimizer_state_dict": items["optimizer"].state_dict(),
        "metrics": {"loss": 0.5},
        "config": {},
    }
    torch.save(state, tmp_path / "last_model.pth")
    before = (tmp_path / "last_model.pth").read_bytes()
    with CheckpointManager(tmp_path, {"model": make_objects()["model"]}) as checkpoints:
        assert [] == list(checkpoints.epochs(3))
    assert before == (tmp_path / "last_model.pth").read_bytes()


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # resumed behind the last batch
@pytest.mark.parametrize("stop", [6, 12])
def test_a_zip_that_ends_with_the_shorter_loader_comes_back_bitwise(tmp_path: Path, stop: int) -> None:
    """Stopped after the last pair: nobody starts the longer loader again, and its order still moves on."""

    def train(directory: Path, leave: bool) -> None:
        objects = make_objects()
        other = torch.arange(20.0).reshape(10, 2)
        objects["short"] = ResumableLoader(DataLoader(TensorDataset(other[:6]), 1, shuffle=True))
        objects["loader"] = ResumableLoader(DataLoader(TensorDataset(other), 1, shuffle=True))
        with manage(directory, objects, every_n_steps=1) as checkpoints:
            for _ in checkpoints.epochs(3):
                for (a,), (b,) in zip(objects["short"], objects["loader"], strict=False):
                    objects["optimizer"].zero_grad()
                    objects["model"](torch.cat([a, b[:, :1]], 1)).sum().backward()
                    objects["optimizer"].step()
                    checkpoints.step()
                    if leave and checkpoints.position.global_step == stop:
                        raise KeyboardInterrupt
                objects["scheduler"].step()
                checkpoints.save({"loss": 1.0})

    train(tmp_path / "straight", leave=False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", leave=True)
    train(tmp_path / "stopped", leave=False)
    there, here = (load_checkpoint(tmp_path / which / "last_model.pth") for which in ("straight", "stopped"))
    assert "" == difference(there, here)


@pytest.mark.parametrize("config", [5, "abc", [1, 2]])
def test_a_config_that_is_none_is_refused_by_name(tmp_path: Path, config: Any) -> None:
    """One line when the manager is made."""
    with pytest.raises(UnsavableStateError, match="config: expected a mapping, a dataclass or a Namespace, found "):
        CheckpointManager(tmp_path, make_objects(), config=config)


def test_a_last_model_that_was_removed_is_written_anew_at_the_end(tmp_path: Path) -> None:
    """Somebody tidied up while the training ran."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(3):
            train_epoch(objects, checkpoints)
            checkpoints.save({"loss": 1.0 / (epoch + 1)})
            (tmp_path / "last_model.pth").unlink()
    assert 2 == epochs_of(tmp_path)["last_model.pth"] == epochs_of(tmp_path)["checkpoint_epoch_002.pth"]


def test_a_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.chdir during the training does not split the run over two folders."""
    (tmp_path / "elsewhere/run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    objects = make_objects()
    with manage(Path("run"), objects, save_freq=1) as checkpoints:
        for _ in checkpoints.epochs(2):
            checkpoints.save({"loss": 1.0})
            monkeypatch.chdir(tmp_path / "elsewhere")
    assert 1 == epochs_of(tmp_path / "run")["last_model.pth"]
    assert [] == names(tmp_path / "elsewhere/run")


# -- one writer, and what others have done to the directory ---------------------------------------------------------


def is_free(directory: Path) -> bool:
    """Say whether nobody holds a directory."""
    with open(directory / ".lock", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("end", ["close", "with", "exception", "taken over"])
def test_the_directory_is_held_from_the_start_to_the_end_of_the_run(tmp_path: Path, end: str) -> None:
    """Making a manager holds nothing; whatever ends it lets go, and the process can begin anew."""
    checkpoints = manage(tmp_path, make_objects())
    assert [] == os.listdir(tmp_path)
    checkpoints.epochs(3)
    assert not is_free(tmp_path)
    if end == "close":
        checkpoints.close()
    elif end == "taken over":
        newer = manage(tmp_path, make_objects())
        newer.resume()
        assert not is_free(tmp_path)
        newer.close()
    else:
        with contextlib.suppress(ZeroDivisionError), checkpoints:
            assert end == "with" or 1 / 0
    assert is_free(tmp_path)


def test_a_start_that_is_refused_leaves_no_new_folder(tmp_path: Path) -> None:
    """No such source, a source that does not fit, a place inside an epoch: nothing is left behind, nothing is held."""
    run(tmp_path / "run", 2)
    wrong = {"model": nn.Linear(5, 5)}
    for objects, source in ((wrong, "run"), (make_objects(), "nothing"), (wrong, "run/last_model.pth")):
        with pytest.raises(CheckpointError):
            manage(tmp_path / "new/place", objects).resume(tmp_path / source)
    assert ["run"] == os.listdir(tmp_path)
    with pytest.raises(MismatchError):
        manage(tmp_path / "run", wrong).resume()
    assert is_free(tmp_path / "run")
    manage(tmp_path / "new/place", make_objects()).resume(tmp_path / "run")
    assert {"last_model.pth": 1, "best_model.pth": 0} == epochs_of(tmp_path / "new/place")


def test_what_a_kill_has_left_is_swept_at_the_start(tmp_path: Path) -> None:
    """A temporary of ours; somebody else's stays."""
    run(tmp_path, 2)
    before = names(tmp_path)
    (tmp_path / ".last_model.pth.77-0123abcd.tmp").write_bytes(b"torn")
    (tmp_path / "mine.tmp").touch()
    list_checkpoints(tmp_path)
    assert (tmp_path / ".last_model.pth.77-0123abcd.tmp").exists()
    manage(tmp_path, make_objects()).resume()
    assert sorted([*before, "mine.tmp"]) == names(tmp_path)


@pytest.mark.parametrize("kind", ["dangling", "foreign", "within"])
def test_a_symbolic_link_named_last_model(tmp_path: Path, kind: str) -> None:
    """What leads elsewhere is said and an older file is used; a save puts a real file in its place, and what the link
    leads to is never written."""
    here = tmp_path / "run"
    run(here, 6, save_freq=2, milestones=())
    elsewhere = tmp_path / "elsewhere.pth"
    last = here / "last_model.pth"
    if kind != "within":
        (here / "checkpoint_epoch_005.pth").unlink()  # the final one, another name of the same bytes
    last.unlink()
    if kind == "foreign":
        run(tmp_path / "other", 9)
        (tmp_path / "other/last_model.pth").rename(elsewhere)
    last.symlink_to("checkpoint_epoch_005.pth" if kind == "within" else elsewhere)
    target = here / "checkpoint_epoch_005.pth" if kind == "within" else elsewhere
    before = target.read_bytes() if target.exists() else None
    objects = make_objects()
    with manage(here, objects, save_freq=2, milestones=()) as checkpoints:
        resumed = checkpoints.resume()
        assert resumed.file is not None
        said = dict(resumed.passed_over).get("last_model.pth", "")
        if kind == "within":
            assert ("last_model.pth", "") == (resumed.file.path.name, said)
        else:
            assert "checkpoint_epoch_004.pth" == resumed.file.path.name
            where = "where nothing is" if kind == "dangling" else "which is no file of this run"
            assert f"found a symbolic link to {elsewhere}, {where}; the next save of that name takes its place" in said
        for _ in checkpoints.epochs(resumed.position.epoch + 1):
            checkpoints.save({"loss": 0.1})
    assert not last.is_symlink()
    assert resumed.position.epoch == epochs_of(here)["last_model.pth"]
    assert before == (target.read_bytes() if target.exists() else None)


def recipe_save(path: Path, epoch: int) -> None:
    """Save as the recipe does: in place, and without a word about runs."""
    model = make_objects()["model"]
    torch.save({"epoch": epoch, "global_step": 9, "model_state_dict": model.state_dict(), "metrics": {}}, path)


@pytest.mark.parametrize(("epoch", "torn"), [(3, False), (50, False), (0, False), (50, True)])
def test_the_recipes_save_over_ours_is_noticed_and_an_older_generation_goes_on(
    tmp_path: Path, epoch: int, torn: bool
) -> None:
    """In place, so last, best and the numbered file of that save have all changed. They are moved aside, not lost."""
    run(tmp_path, 4, {3: 0.5}, save_freq=1)
    last = tmp_path / "last_model.pth"
    recipe_save(last, epoch)
    if torn:
        os.truncate(last, 700)
    overwritten = last.read_bytes()
    resumed = manage(tmp_path, make_objects(), save_freq=1).resume()
    assert resumed.file is not None
    assert ("checkpoint_epoch_002.pth", 3) == (resumed.file.path.name, resumed.position.epoch)
    said = dict(resumed.passed_over)
    if torn:
        assert {"last_model.pth", "best_model.pth", "checkpoint_epoch_003.pth"} == set(said)
    elif epoch > 0:
        assert f"found one of no run (epoch {epoch}): something else has written over it" in said["last_model.pth"]
    assert {0, 1, 2} == set(epochs_of(tmp_path).values())
    assert 2 == epochs_of(tmp_path)["last_model.pth"]
    aside = [path for path in tmp_path.glob("abandoned-*/*") if path.name == "last_model.pth"]
    assert [overwritten] == [path.read_bytes() for path in aside]
    assert "last_model.pth" in "".join(resumed.notes) or "damaged checkpoints were moved" in "".join(resumed.notes)


def test_the_recipes_file_is_no_way_back_into_a_run(tmp_path: Path) -> None:
    """Asked for by its path: it is of no run, and here one lies."""
    run(tmp_path, 4, save_freq=1)
    recipe_save(tmp_path / "last_model.pth", 50)
    with pytest.raises(MismatchError, match="it belongs to another line of runs than what lies beside it; branch from"):
        manage(tmp_path, make_objects()).resume(tmp_path / "last_model.pth")


def test_a_kill_in_the_first_save_after_the_recipes_files(tmp_path: Path) -> None:
    """Best and number are ours, last is still the recipe's: ours goes on, and the recipe's is kept."""
    recipe_save(tmp_path / "last_model.pth", 7)
    recipe = (tmp_path / "last_model.pth").read_bytes()
    with manage(tmp_path, make_objects(), save_freq=1) as checkpoints:
        checkpoints.resume()
        checkpoints.save({"loss": 0.5}, epoch=8)
    (tmp_path / "last_model.pth").unlink()
    (tmp_path / "last_model.pth").write_bytes(recipe)
    resumed = manage(tmp_path, make_objects(), save_freq=1).resume()
    assert 9 == resumed.position.epoch
    assert 8 == epochs_of(tmp_path)["last_model.pth"]
    assert recipe == (tmp_path / "abandoned-001/last_model.pth").read_bytes()
    assert "what was last_model.pth is older (epoch 7) and was moved to abandoned-001/" in resumed.notes


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_the_wrong_order_of_calls_is_said(tmp_path: Path) -> None:
    """A second save, a step after save, a call after close: each is a RuntimeError of one line."""
    objects = make_objects()
    with manage(tmp_path, objects) as checkpoints:
        for _ in checkpoints.epochs(1):
            checkpoints.save({"loss": 1.0})
            with pytest.raises(RuntimeError, match="this epoch was saved already"):
                checkpoints.save({"loss": 1.0})
            with pytest.raises(RuntimeError, match="call step before it"):
                checkpoints.step()
            with pytest.raises(RuntimeError, match="has begun already"):
                checkpoints.resume()
    with pytest.raises(RuntimeError, match="is closed"):
        checkpoints.save({"loss": 1.0})
    with pytest.raises(TypeError, match="epochs\\(\\) counts epoch and global_step"):
        second = manage(tmp_path / "2", make_objects())
        for _ in second.epochs(1):
            second.save({}, epoch=3)


def test_what_cannot_be_read_back_is_refused_with_its_path(tmp_path: Path) -> None:
    """A scheduler with a function inside: nothing is written, the path inside the checkpoint is named."""
    objects = make_objects()

    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"fn": [print]}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    objects["scheduler"] = Odd()
    checkpoints = manage(tmp_path, objects)
    with pytest.raises(UnsavableStateError, match=r"scheduler_state_dict\.fn\[0\]: expected numbers, text, tensors"):
        checkpoints.save({"loss": 1.0})
    assert [] == names(tmp_path)
    assert checkpoints.best.value is None


def test_settings_and_objects_are_checked_when_the_manager_is_made(tmp_path: Path) -> None:
    """Fail before the training, not an hour in."""
    with pytest.raises(ValueError, match="keep_last_n: expected 2 or more"):
        manage(tmp_path, make_objects(), keep_last_n=1)
    with pytest.raises(TypeError, match="no setting 'keep_n'; expected one of save_freq, milestones"):
        manage(tmp_path, make_objects(), keep_n=3)
    with pytest.raises(TypeError, match=r"objects\['fn'\]: expected something with state_dict and load_state_dict"):
        CheckpointManager(tmp_path, {"fn": print})
    with pytest.raises(ValueError, match="every_n_steps: saving inside an epoch needs a ResumableLoader"):
        manage(tmp_path, make_objects(resumable=False), every_n_steps=5)
    with pytest.raises(UnsavableStateError, match=r"config\.out: .* found pathlib\.\w*PosixPath; .* Turn it into text"):
        CheckpointManager(tmp_path, make_objects(), config={"out": tmp_path})
    with pytest.raises(TypeError, match=r"metrics\['loss'\]: expected one number, found list"):
        manage(tmp_path, make_objects()).save({"loss": [1.0]})  # type: ignore[dict-item]
    assert [] == names(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    """A path below a regular file: one line with the words of the disk."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="Not a directory"):
        manage(tmp_path / "file/run", make_objects()).epochs(3)
    with pytest.raises(CheckpointError, match="Not a directory"):
        manage(tmp_path / "file", make_objects()).epochs(3)


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC at fsync: the error carries its errno, the files are as before, no temporary is left, best stays."""
    import errno

    run(tmp_path, 2)
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("*.pth")}
    checkpoints = manage(tmp_path, make_objects(), save_freq=1)
    checkpoints.resume()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointWriteError, match="could not be written: No space left on device") as caught:
        checkpoints.save({"loss": 0.1})
    assert errno.ENOSPC == caught.value.errno
    assert before == {path.name: path.stat().st_ino for path in tmp_path.glob("*.pth")}
    assert 1.0 == checkpoints.best.value


def test_what_goes_wrong_when_the_loop_is_left_is_raised_at_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error inside a generator that is being dropped would only be printed."""
    objects = make_objects()

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(CheckpointWriteError, match="Input/output error"), manage(tmp_path, objects) as checkpoints:
        for epoch in checkpoints.epochs(9):
            checkpoints.save({"loss": 1.0})
            if epoch == 2:
                monkeypatch.setattr(os, "fsync", broken)
                break


# ------------------------------------------------------------------------------------- what somebody else did in there


def of_model(directory: Path, **settings: Any) -> CheckpointManager:
    return CheckpointManager(directory, {"model": nn.PReLU(2)}, save_freq=1, **settings)


def train_to(directory: Path, total: int, **settings: Any) -> None:
    with of_model(directory, **settings) as checkpoints:
        for epoch in checkpoints.epochs(total):
            checkpoints.save({"loss": 1.0 / (1 + epoch)})


def test_a_last_model_of_another_run_does_not_take_the_directory_over(tmp_path: Path) -> None:
    """Copied by mistake. The run goes on with its own files, and the stranger is moved aside, not written over."""
    train_to(tmp_path / "a", 8)
    train_to(tmp_path / "b", 3)
    ours = {file.name for file in (tmp_path / "a").glob("checkpoint_*")}
    stranger = (tmp_path / "b/last_model.pth").read_bytes()
    (tmp_path / "a/last_model.pth").unlink()
    (tmp_path / "a/last_model.pth").write_bytes(stranger)
    with of_model(tmp_path / "a") as checkpoints:
        resumed = checkpoints.resume()
        assert resumed.file is not None
        assert (7, "numbered") == (resumed.file.epoch, resumed.file.kind)
        assert any("1 foreign checkpoints were moved to abandoned-001/" in note for note in resumed.notes)
    assert ours == {file.name for file in (tmp_path / "a").glob("checkpoint_*")}
    assert stranger == (tmp_path / "a/abandoned-001/last_model.pth").read_bytes()
    assert 7 == list_checkpoints(tmp_path / "a")[0].epoch


def test_a_roll_back_does_not_touch_what_a_newer_library_wrote(tmp_path: Path) -> None:
    train_to(tmp_path, 4)
    newer = {**load_checkpoint(tmp_path / "last_model.pth"), "format_version": 2}
    torch.save(newer, tmp_path / "fresh")
    (tmp_path / "fresh").rename(tmp_path / "last_model.pth")
    before = (tmp_path / "last_model.pth").read_bytes()
    with of_model(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="expected format_version 1 or older"):
        checkpoints.resume(tmp_path / "checkpoint_epoch_001.pth")
    assert before == (tmp_path / "last_model.pth").read_bytes()
    assert not (tmp_path / ".cut").exists()


@pytest.mark.parametrize("lost", ["directory", "lock"])
def test_a_run_whose_directory_was_taken_away_writes_into_nobody_s(tmp_path: Path, lost: str) -> None:
    place = tmp_path / "run"
    with contextlib.suppress(CheckpointError), of_model(place) as checkpoints:
        epochs = checkpoints.epochs(3)
        next(epochs)
        checkpoints.save({"loss": 1.0})
        (place.rename if lost == "directory" else lambda _: (place / ".lock").unlink())(tmp_path / "away")
        place.mkdir(exist_ok=True)  # by another run, perhaps
        before = {path.name: path.stat().st_ino for path in place.iterdir()}
        next(epochs)
    assert before == {path.name: path.stat().st_ino for path in place.iterdir()}


def test_a_finished_run_is_cleaned_up_by_its_own_settings_alone(tmp_path: Path) -> None:
    """A kill before the last removal is put right; a call with other settings removes nothing."""
    train_to(tmp_path, 9, keep_last_n=None)
    before = sorted(os.listdir(tmp_path))
    train_to(tmp_path, 9, keep_last_n=2)
    assert before == sorted(os.listdir(tmp_path))
    train_to(tmp_path, 10, keep_last_n=2)
    assert {"checkpoint_epoch_008.pth", "checkpoint_epoch_009.pth"} == {p.name for p in tmp_path.glob("checkpoint_*")}


def test_a_best_with_the_right_epoch_and_another_loss_is_not_the_best(tmp_path: Path) -> None:
    """The recipe's torch.save over it, in a run of the same length."""
    with of_model(tmp_path, keep_last_n=2, keep_best_n=0, milestones=()) as checkpoints:
        for epoch in checkpoints.epochs(6):
            checkpoints.save({"loss": [0.5, 0.1, 0.7, 0.6, 0.8, 0.9][epoch]})
    model = nn.PReLU(2)
    torch.save(
        {"epoch": 1, "model_state_dict": model.state_dict(), "metrics": {"loss": 7.0}}, tmp_path / "best_model.pth"
    )
    with of_model(tmp_path, keep_last_n=2, keep_best_n=0, milestones=()) as checkpoints:
        resumed = checkpoints.resume()
    assert resumed.best.value != 0.1
    assert load_checkpoint(tmp_path / "best_model.pth")["metrics"]["loss"] == resumed.best.value


def test_a_file_that_cannot_be_removed_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlink = os.unlink

    def refuse(path: Any, **keywords: Any) -> None:
        if "checkpoint_epoch_001.pth" == Path(path).name:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, **keywords)

    monkeypatch.setattr(os, "unlink", refuse)
    train_to(tmp_path, 5, keep_last_n=2, keep_best_n=0, milestones=())
    names = {path.name for path in tmp_path.glob("checkpoint_*")}
    assert {f"checkpoint_epoch_00{epoch}.pth" for epoch in (1, 3, 4)} == names
    assert "checkpoint_epoch_001.pth: could not be removed: Operation not permitted" in caplog.text


def test_a_save_at_the_end_of_the_interpreter_is_a_save(tmp_path: Path) -> None:
    """No thread can be started there any more."""
    code = """
import atexit, sys, torch
from koemorph_tutorial import CheckpointManager
checkpoints = CheckpointManager(sys.argv[1], {"model": torch.nn.PReLU(2)}, save_freq=5)
atexit.register(checkpoints.close)
epochs = checkpoints.epochs(9)
for _ in range(2):
    next(epochs)
    checkpoints.save({"loss": 1.0})
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "checkpoint_epoch_001.pth").exists()


def test_an_error_that_the_caller_is_dealing_with_is_no_refusal_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch, "save", fails)
    try:
        (tmp_path / "nothing").read_text()
    except FileNotFoundError:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            of_model(tmp_path / "run").save({"loss": 1.0})


# -- in the background -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def refusing_disk(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> Iterator[None]:
    """Have every fsync fail inside the block."""

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        yield


@contextlib.contextmanager
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have the fsync of a file wait until the event that is handed out is set, or for the end of the block."""
    go_on, sync = threading.Event(), os.fsync

    def wait(descriptor: int) -> None:
        go_on.wait(60)
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", wait)
        try:
            yield go_on
        finally:
            go_on.set()


def test_a_run_saved_in_the_background_leaves_the_same_files(tmp_path: Path) -> None:
    losses = {0: 0.9, 1: 0.5, 2: 0.7, 3: 0.4, 4: 0.6}
    settings: dict[str, Any] = {"save_freq": 2, "keep_last_n": 2, "milestones": ()}
    run(tmp_path / "at once", 6, losses, **settings)
    run(tmp_path / "beside", 6, losses, background=True, **settings)
    assert names(tmp_path / "at once") == names(tmp_path / "beside")
    for name in names(tmp_path / "at once"):
        one, other = (load_checkpoint(tmp_path / folder / name) for folder in ("at once", "beside"))
        assert "" == difference({**one, "run": {}}, {**other, "run": {}})


def test_a_save_in_the_background_returns_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best and what `wait` returns advance only when it is; `on_saved` comes after that."""
    heard: list[Any] = []
    checkpoints = manage(tmp_path, make_objects(), save_freq=1, background=True, on_saved=heard.append)
    with slow_disk(monkeypatch) as go_on:
        decision = checkpoints.save({"loss": 0.5})
        assert "best_model.pth" in decision.names
        assert None is checkpoints.best.value
        assert not (tmp_path / "best_model.pth").exists()
        assert [] == heard
        go_on.set()
        saved = checkpoints.wait()
    assert 0.5 == checkpoints.best.value
    assert [saved] == heard
    assert {"best_model.pth", "checkpoint_epoch_000.pth", "last_model.pth"} == {path.name for path in saved.files}
    checkpoints.close()


def test_one_save_is_in_flight_and_the_next_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = manage(tmp_path, make_objects(), save_freq=1, background=True)
    with slow_disk(monkeypatch) as go_on:
        checkpoints.save({"loss": 0.5})
        second = threading.Thread(target=checkpoints.save, args=({"loss": 0.4},))
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert 1 == sum(thread.name.startswith("koemorph-save") for thread in threading.enumerate())
        go_on.set()
        second.join()
    checkpoints.close()
    assert [1, 0] == [file.epoch for file in list_checkpoints(tmp_path) if file.kind == "numbered"]


def test_an_epoch_with_nothing_to_write_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = manage(tmp_path, make_objects(), save_freq=100, milestones=(), background=True)
    with slow_disk(monkeypatch) as go_on:
        checkpoints.save({"loss": 0.9})
        go_on.set()
        checkpoints.wait()
        go_on.clear()
        checkpoints.save({"loss": 0.5})
        assert () == checkpoints.save({"loss": 0.95}).names  # no best, whether the first one succeeds or not
        assert not go_on.is_set()
    checkpoints.close()


def test_what_fails_in_the_background_is_told_at_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And at once in the log. The next one is not made: a loop by hand counts on, and nothing is lost."""
    objects = make_objects()
    checkpoints = manage(tmp_path, objects, save_freq=1, background=True)
    checkpoints.save({"loss": 0.9})
    before = checkpoints.wait()
    with refusing_disk(monkeypatch):
        checkpoints.save({"loss": 0.5})
        checkpoints._commits.settle()
    assert "a save in the background failed" in caplog.text
    assert {path.name for path in before.files} <= set(names(tmp_path))
    assert 0.9 == checkpoints.best.value
    with pytest.raises(CheckpointWriteError, match="could not be written: No space left on device") as caught:
        checkpoints.save({"loss": 0.7})
    assert errno.ENOSPC == caught.value.errno
    assert "checkpoint_epoch_002.pth" not in names(tmp_path)
    checkpoints.save({"loss": 0.6})  # told once
    checkpoints.close()
    assert (0.6, 3) == (checkpoints.best.value, checkpoints.best.epoch)  # between old and new: the best there is
    best = load_checkpoint(tmp_path / "best_model.pth")
    assert (3, 0.6, 2) == (best["epoch"], best["best"]["value"], best["run"]["saves"])


@pytest.mark.parametrize("way", ["wait", "close"])
def test_what_fails_in_the_background_is_told_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    checkpoints = manage(tmp_path, make_objects(), save_freq=1, background=True)
    checkpoints.save({"loss": 0.9})
    checkpoints.wait()
    with refusing_disk(monkeypatch):
        checkpoints.save({"loss": 0.5})
        with pytest.raises(CheckpointWriteError, match="No space left on device"):
            getattr(checkpoints, way)()
    if way == "wait":
        checkpoints.save({"loss": 0.7})
        checkpoints.close()
        assert 0.7 == load_checkpoint(tmp_path / "best_model.pth")["best"]["value"]
    assert 0 in {file.epoch for file in list_checkpoints(tmp_path)}


def test_a_value_between_the_durable_best_and_one_that_failed_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the failure is not known yet when it comes: what it depends on is waited for."""
    checkpoints = manage(tmp_path, make_objects(), save_freq=100, milestones=(), background=True)
    checkpoints.save({"loss": 0.9})
    checkpoints.wait()
    with refusing_disk(monkeypatch):
        checkpoints.save({"loss": 0.5})
        with pytest.raises(CheckpointWriteError):
            checkpoints.save({"loss": 0.7})
    assert "best_model.pth" in checkpoints.save({"loss": 0.6}).names
    checkpoints.close()
    assert (0.6, 3) == (checkpoints.best.value, checkpoints.best.epoch)


def test_a_loop_over_epochs_may_try_a_save_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there is room: the epoch has not ended, and gets its own number."""
    objects = make_objects()
    with manage(tmp_path, objects, save_freq=1, background=True) as checkpoints:
        for epoch in checkpoints.epochs(4):
            train_epoch(objects, checkpoints)
            if epoch == 2:
                with pytest.raises(CheckpointWriteError, match="No space left on device"):
                    checkpoints.save({"loss": 0.7})
            checkpoints.wait()
            with refusing_disk(monkeypatch) if epoch == 1 else contextlib.nullcontext():
                checkpoints.save({"loss": {0: 0.9, 1: 0.5}.get(epoch, 0.7)})
                checkpoints._commits.settle()
    assert [3, 2, 0] == [file.epoch for file in list_checkpoints(tmp_path) if file.kind == "numbered"]
    assert (0.7, 2) == (checkpoints.best.value, checkpoints.best.epoch)


def test_a_loop_that_a_failure_ends_goes_on_where_it_was_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 1 failed, so epoch 2 is not put over it: the resumed run does both again and finds the same best."""
    losses = {0: 0.9, 1: 0.5, 2: 0.7}
    objects = make_objects()
    with (
        pytest.raises(CheckpointWriteError),
        manage(tmp_path, objects, save_freq=1, background=True) as checkpoints,
    ):
        for epoch in checkpoints.epochs(3):
            train_epoch(objects, checkpoints)
            with refusing_disk(monkeypatch) if epoch == 1 else contextlib.nullcontext():
                checkpoints.save({"loss": losses[epoch]})
                checkpoints._commits.settle()
    assert [0] == sorted({file.epoch for file in list_checkpoints(tmp_path)})
    again = run(tmp_path, 3, losses, save_freq=1, background=True)
    assert 0.5 == load_checkpoint(tmp_path / "best_model.pth")["best"]["value"]
    undisturbed = run(tmp_path / "undisturbed", 3, losses, save_freq=1)
    assert "" == difference(again["model"].state_dict(), undisturbed["model"].state_dict())


def test_a_final_save_that_failed_in_the_background_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = make_objects()
    with pytest.raises(CheckpointWriteError), manage(tmp_path, objects, save_freq=1, background=True) as checkpoints:
        for _ in checkpoints.epochs(2):
            train_epoch(objects, checkpoints)
            with refusing_disk(monkeypatch) if checkpoints.position.epoch == 1 else contextlib.nullcontext():
                checkpoints.save({"loss": 1.0})
                checkpoints._commits.settle()
    assert "" == difference(
        load_checkpoint(tmp_path / "last_model.pth")["model_state_dict"], objects["model"].state_dict()
    )
    assert "checkpoint_epoch_001.pth" in names(tmp_path)


def test_a_disk_that_really_fills_during_saves_in_the_background(tmp_path: Path) -> None:
    """One line with the disk's own words at the next call; all that was durable is sound, no temporary is left."""
    for folder, what, arguments, refused in (
        ("kept", "filled_in_background", (48, 200, 1024), 3),
        ("bytes", "full_in_background", ("KiB", 0, 44), 2),
        ("names", "full_in_background", ("names", 0, 1), 2),
    ):
        (tmp_path / folder).mkdir()
        outcomes = disks.seen_by_a_child(what, tmp_path / folder, *arguments)
        assert refused == disks.assert_full_disks_lost_nothing(outcomes)


def test_a_stop_waits_for_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """StopTraining means that the state is durable, in the background as well."""
    objects = make_objects()
    with slow_disk(monkeypatch) as go_on, manage(tmp_path, objects, background=True) as checkpoints:
        threading.Timer(0.3, go_on.set).start()
        with pytest.raises(SystemExit) as stopped:
            for _ in checkpoints.epochs(3):
                os.kill(os.getpid(), signal.SIGTERM)
                train_epoch(objects, checkpoints)
        assert go_on.is_set()
        assert 3 == stopped.value.code
        assert 1 == load_checkpoint(tmp_path / "last_model.pth")["position"]["batch"]


def test_a_stop_that_cannot_be_saved_is_no_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3 would say that the run can go on from here."""
    objects = make_objects()
    with (
        pytest.raises(CheckpointWriteError),
        refusing_disk(monkeypatch),
        manage(tmp_path, objects, background=True) as checkpoints,
    ):
        for _ in checkpoints.epochs(3):
            os.kill(os.getpid(), signal.SIGTERM)
            train_epoch(objects, checkpoints)


def test_the_interpreter_waits_for_a_save_that_nobody_waits_for(tmp_path: Path) -> None:
    """A script that ends without close(): the thread is no daemon."""
    script = f"""
import torch
from koemorph_tutorial import CheckpointManager
checkpoints = CheckpointManager({str(tmp_path)!r}, {{"model": torch.nn.Linear(500, 500)}}, background=True)
checkpoints.save({{"loss": 1.0}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert 0 == load_checkpoint(tmp_path / "last_model.pth")["epoch"]


def test_a_newer_manager_waits_for_what_the_older_one_is_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that is run twice resumes from the save that was in flight, not from the one before it."""
    with slow_disk(monkeypatch) as go_on:
        older = manage(tmp_path, make_objects(), save_freq=1, background=True)
        older.save({"loss": 0.5})
        threading.Timer(0.3, go_on.set).start()
        newer = manage(tmp_path, make_objects(), save_freq=1, background=True)
        resumed = newer.resume()
    assert (1, 0.5) == (resumed.position.epoch, resumed.best.value)
    newer.close()


def test_the_lock_is_held_until_the_save_is_done_though_the_manager_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slow_disk(monkeypatch) as go_on:
        checkpoints = manage(tmp_path, make_objects(), save_freq=1, background=True)
        checkpoints.save({"loss": 0.5})
        del checkpoints
        gc.collect()
        with open(tmp_path / ".lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        go_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("koemorph-save"):
                thread.join()
    gc.collect()
    with open(tmp_path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_on_saved_may_ask_the_manager(tmp_path: Path) -> None:
    """It runs in the saving thread: to wait there for that thread would be to wait for ever."""
    heard: list[Any] = []
    checkpoints = manage(
        tmp_path, make_objects(), background=True, on_saved=lambda saved: heard.append((checkpoints.wait(), saved))
    )
    checkpoints.save({"loss": 0.5})
    checkpoints.close()
    assert [(saved, saved) for _, saved in heard] == heard
    assert 1 == len(heard)


def test_what_cannot_be_read_back_is_refused_at_the_call_in_the_background_too(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"fn": print}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    checkpoints = CheckpointManager(tmp_path, {"odd": Odd()}, background=True)
    with pytest.raises(UnsavableStateError, match="odd_state_dict"):
        checkpoints.save({"loss": 1.0})
    assert [] == names(tmp_path)


def test_every_minutes_counts_from_when_the_state_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a save is in flight the next step does not find it overdue, and wait for it."""
    objects = make_objects()
    checkpoints = manage(tmp_path, objects, every_minutes=10, background=True)
    with slow_disk(monkeypatch) as go_on:
        checkpoints.save({"loss": 0.5})
        checkpoints._commits._saved_at -= 1
        assert 1 <= checkpoints._commits.seconds_since_save < 60
        go_on.set()
        checkpoints.wait()
        assert checkpoints._commits.seconds_since_save < 60
    checkpoints.close()


@pytest.mark.parametrize("call", ["save", "step", "resume"])
def test_on_saved_cannot_ask_for_another_save(tmp_path: Path, call: str) -> None:
    """It is told at the next one, as whatever on_saved raises."""
    calls = {"save": ({"loss": 0.1},), "step": (), "resume": ()}
    checkpoints = manage(
        tmp_path, make_objects(), background=True, on_saved=lambda _: getattr(checkpoints, call)(*calls[call])
    )
    checkpoints.save({"loss": 0.5})
    with pytest.raises(RuntimeError, match="on_saved: a save is ending"):
        checkpoints.wait()
    checkpoints.close()


def test_a_save_at_exit_is_made_at_once_where_nobody_would_wait_for_its_thread(tmp_path: Path) -> None:
    script = f"""
import atexit, torch
from koemorph_tutorial import CheckpointManager
checkpoints = CheckpointManager({str(tmp_path)!r}, {{"model": torch.nn.Linear(500, 500)}}, background=True)
atexit.register(checkpoints.save, {{"loss": 1.0}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert 0 == load_checkpoint(tmp_path / "last_model.pth")["epoch"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one may come in a callback of Python's
def test_ctrl_c_at_any_moment_of_a_save_leaves_each_file_with_its_own_state(tmp_path: Path) -> None:
    """As in a notebook, where the next cell goes on: the memory of a save in flight is not written over."""
    chance = random.Random(0)
    model = nn.Linear(400, 1000, bias=False)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for number in range(40):
            directory = tmp_path / str(number)
            checkpoints = CheckpointManager(directory, {"model": model}, background=True, save_freq=1, signals=())
            for value in (1.0, 2.0, 3.0):
                nn.init.constant_(model.weight, value)
                with contextlib.suppress(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.005 * chance.random() if value == 2 else 0)
                    checkpoints.save({"loss": 1.0, "value": value})
                    time.sleep(0.006 if value == 2 else 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
            checkpoints.close()
            for file in list_checkpoints(directory):
                held = load_checkpoint(file.path)
                assert {held["metrics"]["value"]} == set(held["model_state_dict"]["weight"].unique().tolist())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def saves_while_others_wait(directory: Path, saves: int) -> None:
    """Save while three threads do nothing but wait for a save, and look at every file."""
    model, over = nn.Linear(100, 100, bias=False), threading.Event()
    checkpoints = CheckpointManager(directory, {"model": model}, background=True, save_freq=1, keep_last_n=None)

    def watch() -> None:
        while not over.is_set():
            checkpoints.wait()

    watchers = [threading.Thread(target=watch) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    for epoch in range(saves):
        nn.init.constant_(model.weight, float(epoch))
        checkpoints.save({"loss": 1.0})
    over.set()
    for watcher in watchers:
        watcher.join()
    checkpoints.close()
    files = [file for file in list_checkpoints(directory) if file.kind == "numbered"]
    assert [*range(saves)][::-1] == [file.epoch for file in files]
    for file in files:
        assert [file.epoch] == load_checkpoint(file.path)["model_state_dict"]["weight"].unique().tolist()


def test_waiting_in_other_threads_forgets_no_save(tmp_path: Path) -> None:
    """One that shows progress, say: each save is made, one at a time, and each file is its own.

    `make proof` does a hundred of them.
    """
    saves_while_others_wait(tmp_path, 6)


def test_a_stop_whose_failure_somebody_else_was_told_is_no_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else exit code 3 would say that the run can go on from here."""
    objects = make_objects()
    with (
        pytest.raises(CheckpointWriteError, match="a stop was asked for, and the state of now could not be saved"),
        refusing_disk(monkeypatch),
        manage(tmp_path, objects, background=True) as checkpoints,
    ):
        monkeypatch.setattr(checkpoints._commits, "raise_failure", lambda: None)
        for _ in checkpoints.epochs(3):
            os.kill(os.getpid(), signal.SIGTERM)
            train_epoch(objects, checkpoints)


def test_a_child_forked_while_a_save_is_in_flight_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread is the parent's."""
    with slow_disk(monkeypatch) as go_on:
        checkpoints = manage(tmp_path, make_objects(), save_freq=1, background=True)
        checkpoints.save({"loss": 0.5})
        child = os.fork()
        if child == 0:
            checkpoints._commits.settle()
            os._exit(7)
        ended = time.monotonic() + 20
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < ended:
            time.sleep(0.01)
        if done[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        go_on.set()
    checkpoints.close()
    assert 7 == os.waitstatus_to_exitcode(done[1])


def test_a_loop_by_hand_left_after_a_failure_stamps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the objects hold when the loop is left is half of the next epoch, and not the end of one."""
    objects = make_objects()
    checkpoints = manage(tmp_path, objects, save_freq=1, background=True)
    checkpoints.save({"loss": 0.9})
    checkpoints.wait()
    with refusing_disk(monkeypatch):
        checkpoints.save({"loss": 0.5})
        checkpoints._commits.settle()
    nn.init.constant_(objects["model"][0].weight, 7)
    with pytest.raises(CheckpointWriteError):
        checkpoints.close()
    assert {0} == {file.epoch for file in list_checkpoints(tmp_path)}


def test_the_metrics_of_a_save_that_was_refused_are_those_of_its_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop over epochs that only takes note of it: the epoch ends with what it said."""
    objects = make_objects()
    with manage(tmp_path, objects, save_freq=1, background=True) as checkpoints:
        for epoch in checkpoints.epochs(4):
            with refusing_disk(monkeypatch) if epoch == 1 else contextlib.nullcontext():
                with contextlib.suppress(CheckpointWriteError):
                    checkpoints.save({"loss": {0: 0.9, 1: 0.5, 2: 0.7}.get(epoch, 0.8)})
                checkpoints._commits.settle()
    assert (0.7, 2) == (checkpoints.best.value, checkpoints.best.epoch)


def test_a_leaving_that_is_interrupted_can_be_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = manage(tmp_path, make_objects(), save_freq=1, background=True)
    with slow_disk(monkeypatch) as go_on:
        checkpoints.save({"loss": 0.5})
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints._tenancy, "_settle", lambda: signal.raise_signal(signal.SIGINT))
            before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests may ignore it
            try:
                with pytest.raises(KeyboardInterrupt):
                    checkpoints._tenancy.leave()
            finally:
                signal.signal(signal.SIGINT, before)
        assert not checkpoints._tenancy.left
        go_on.set()
        checkpoints.close()
    with open(tmp_path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_manager_that_is_dropped_after_its_save_gives_all_back_at_once(tmp_path: Path) -> None:
    """Without the collector: there is no cycle."""
    gc.collect()
    gc.disable()
    try:
        checkpoints = manage(tmp_path, make_objects(), save_freq=1, background=True)
        checkpoints.save({"loss": 0.5})
        checkpoints._commits._in_flight.wait()
        commits = weakref.ref(checkpoints._commits)
        del checkpoints
        assert None is commits()
    finally:
        gc.enable()


def test_a_hundred_saves_while_everything_changes_hold_what_was_there_at_the_call(tmp_path: Path) -> None:
    """Fused AdamW, the buffers of BatchNorm, the random states: none of which a version counter sees.

    `make proof` does two hundred of a larger network under load.
    """
    assert 100 == saves_under_load(tmp_path, saves=100, width=64)
