"""One directory, one line of runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import CheckpointManager, CheckpointSettings, compress_checkpoint, save_checkpoint
from koemorph_tutorial.compressed_files import compress_older
from koemorph_tutorial.cut import Cut
from koemorph_tutorial.directory import abandon, go_on, is_used, mend_names, new_line
from koemorph_tutorial.durable import refusals_named
from koemorph_tutorial.forms import put_in_place
from koemorph_tutorial.records import (
    Best,
    CheckpointNotFoundError,
    CheckpointWriteError,
    Codec,
    MismatchError,
    numbered_name,
)
from koemorph_tutorial.resume import find
from koemorph_tutorial.storage import list_checkpoints


def save(directory: Path, name: str, epoch: int, *also: str, loss: float = 0.5, saves: int | None = None) -> Path:
    """Save a checkpoint of `epoch` that holds nothing but its bookkeeping."""
    directory.mkdir(exist_ok=True)
    content: dict[str, Any] = {
        "format_version": 1,
        "run": {"line": directory.name, "parent": None, "saves": epoch + 1 if saves is None else saves},
        "epoch": epoch,
        "position": {"epoch": epoch + 1, "batch": 0, "global_step": epoch + 1},
        "model_state_dict": {"weight": torch.full((4,), float(epoch))},
        "metrics": {"loss": loss},
    }
    return save_checkpoint(content, directory / name, also=also).path


def damage(path: Path, epoch: int) -> None:
    """Change the weights in a file, as a disk that lies would."""
    weights = torch.full((4,), float(epoch)).numpy().tobytes()
    data = path.read_bytes()
    assert weights in data
    path.write_bytes(data.replace(weights, bytes(range(16))))


def epochs(directory: Path) -> dict[str, int]:
    """Return which epoch each name of a directory holds."""
    return {file.path.name: file.epoch for file in list_checkpoints(directory)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("best_model.pth", True),
        ("checkpoint_epoch_003.pth", True),
        ("notes.txt", False),
        ("checkpoint_epoch_3.pth", False),
    ],
)
def test_a_directory_is_used_if_a_name_of_ours_is_in_it(tmp_path: Path, name: str, expected: bool) -> None:
    """Sound or not: what cannot be read may be somebody's only copy."""
    assert not is_used(tmp_path / "missing")
    (tmp_path / name).write_bytes(b"")
    assert expected is is_used(tmp_path)


def test_a_line_of_runs_has_a_name_of_its_own() -> None:
    """Random, but not from the generators that belong to the run."""
    torch.manual_seed(0)
    before = torch.get_rng_state().tolist()
    assert new_line()["line"] != new_line()["line"]
    assert before == torch.get_rng_state().tolist()
    assert {"parent": "x.pth", "saves": 3} == {key: new_line("x.pth", 3)[key] for key in ("parent", "saves")}


def test_nobody_knows_whether_a_file_is_used(tmp_path: Path) -> None:
    """A directory that is a file is an error, not an unused directory."""
    (tmp_path / "checkpoints").write_text("x")
    with pytest.raises(CheckpointNotFoundError, match="expected a directory for checkpoints, found: Not a directory"):
        is_used(tmp_path / "checkpoints")


def move_newer(directory: Path, epoch: int) -> list[str]:
    """Move what was saved after `epoch` aside, as a roll-back does."""
    cut = Cut(line=directory.name, after=epoch + 1, until=99)
    return abandon(find(directory / numbered_name(epoch)), directory, cut)


def test_newer_files_are_moved_aside_each_time_into_a_new_place(tmp_path: Path) -> None:
    """Nothing is removed; two roll-backs do not mix."""
    for epoch in range(4):
        save(tmp_path, numbered_name(epoch), epoch)
    assert ["1 newer checkpoints were moved to abandoned-001/, none was removed"] == move_newer(tmp_path, 2)
    assert ["2 newer checkpoints were moved to abandoned-002/, none was removed"] == move_newer(tmp_path, 0)
    assert {numbered_name(0): 0} == epochs(tmp_path)
    assert {numbered_name(1): 1, numbered_name(2): 2} == epochs(tmp_path / "abandoned-002")
    assert [] == move_newer(tmp_path, 0)


def test_damaged_files_are_moved_aside_and_others_are_not(tmp_path: Path) -> None:
    """A torn header, damaged weights: both would be counted or taken for the run's own. What is foreign stays."""
    for epoch in range(4):
        save(tmp_path, numbered_name(epoch), epoch)
    (tmp_path / numbered_name(3)).write_bytes(b"torn")
    damage(tmp_path / numbered_name(2), 2)
    (tmp_path / "checkpoint_epoch_abc.pth").write_text("not ours")
    said = abandon(find(tmp_path), tmp_path, None)
    assert ["2 damaged checkpoints were moved to abandoned-001/, none was removed"] == said
    assert {numbered_name(2), numbered_name(3)} == {path.name for path in (tmp_path / "abandoned-001").iterdir()}
    assert (tmp_path / "checkpoint_epoch_abc.pth").exists()
    assert {numbered_name(0): 0, numbered_name(1): 1} == epochs(tmp_path)


def mend(directory: Path, source: Path, best: Best, origin: str | None = None) -> tuple[Best, list[str]]:
    """Mend the names of `directory` as a resume from `source` does."""
    return mend_names(directory, find(source), best, {"line": directory.name}, CheckpointSettings(), origin)


def test_names_that_say_the_truth_are_left_alone(tmp_path: Path) -> None:
    """Nothing is written where nothing is wrong."""
    save(tmp_path, "best_model.pth", 5, numbered_name(5), "last_model.pth")
    before = {path.name: path.stat().st_ctime_ns for path in tmp_path.iterdir()}
    best = Best(value=0.5, epoch=5)
    assert (best, []) == mend(tmp_path, tmp_path, best)
    assert before == {path.name: path.stat().st_ctime_ns for path in tmp_path.iterdir()}


def test_a_best_that_is_gone_is_replaced_by_the_best_that_remains(tmp_path: Path) -> None:
    """The record says epoch 2, whose bytes are nowhere: the best of what is sound takes the name and the record."""
    save(tmp_path, numbered_name(0), 0, loss=0.4)
    save(tmp_path, numbered_name(1), 1, loss=0.3)
    save(tmp_path, "last_model.pth", 5, numbered_name(5), loss=0.9)
    damage(tmp_path / numbered_name(1), 1)  # so the second best is taken
    best, notes = mend(tmp_path, tmp_path, Best(value=0.1, epoch=2))
    assert Best(value=0.4, epoch=0) == best
    (said,) = notes
    assert said.startswith("best_model.pth was put back, from checkpoint_epoch_000.pth: best loss 0.4 at epoch 0; ")
    assert said.endswith("what was better, best loss 0.1 at epoch 2, is in no sound file")
    assert 0 == epochs(tmp_path)["best_model.pth"]


def test_a_best_of_the_future_is_not_taken(tmp_path: Path) -> None:
    """A file saved after the one that is resumed belongs to what is being left."""
    save(tmp_path, numbered_name(0), 0, loss=0.4)
    save(tmp_path, numbered_name(3), 3, loss=0.1)
    best, _ = mend(tmp_path, tmp_path / numbered_name(0), Best(value=0.2, epoch=9))
    assert Best(value=0.4, epoch=0) == best


def test_without_any_value_left_the_best_begins_anew(tmp_path: Path) -> None:
    """Files without the metric, or with NaN: none of them is the best."""
    save(tmp_path, "last_model.pth", 5, numbered_name(5), loss=float("nan"))
    best, notes = mend(tmp_path, tmp_path, Best(value=0.1, epoch=2))
    assert Best() == best
    assert ["no file with the best is left; the next finite value is the best"] == notes


def test_a_branch_finds_its_best_where_it_came_from(tmp_path: Path) -> None:
    """The parent's best of before the branch, not that of after it."""
    parent = tmp_path / "parent"
    save(parent, numbered_name(1), 1, loss=0.2)
    origin = save(parent, numbered_name(3), 3, loss=0.5)
    save(parent, "best_model.pth", 4, "last_model.pth", loss=0.1)
    branch = tmp_path / "branch"
    save(branch, "last_model.pth", 3, loss=0.5, saves=1)
    best, _ = mend(branch, origin, Best(value=0.2, epoch=1), str(origin))
    assert Best(value=0.2, epoch=1) == best
    assert {"best_model.pth": 1, "last_model.pth": 3} == epochs(branch)
    assert "last_model.pth" == list_checkpoints(branch)[0].path.name


@pytest.mark.parametrize("loss", [0.5, float("nan")])
def test_a_best_that_does_not_count_keeps_its_bytes(tmp_path: Path, loss: float) -> None:
    """Another metric is watched now: the old best is moved aside, where no retention looks."""
    save(tmp_path, "best_model.pth", 2, loss=float("nan"))
    save(tmp_path, "last_model.pth", 5, numbered_name(5), loss=loss)
    best, notes = mend(tmp_path, tmp_path, Best())
    assert "what was best_model.pth does not count any more and was moved to abandoned-001/" == notes[0]
    assert {"best_model.pth": 2} == epochs(tmp_path / "abandoned-001")
    assert (Best(value=0.5, epoch=5) if loss == 0.5 else Best()) == best
    assert (5 if loss == 0.5 else None) == epochs(tmp_path).get("best_model.pth")


def test_a_best_without_checksums_is_not_called_damaged(tmp_path: Path) -> None:
    """Nobody can tell, so nobody moves it."""
    from torch.utils.serialization import config

    save(tmp_path, "last_model.pth", 3)
    with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        torch.save(torch.load(tmp_path / "last_model.pth"), tmp_path / "best_model.pth")
    assert [] == abandon(find(tmp_path / "last_model.pth"), tmp_path, None)


def test_a_file_of_another_line_is_no_way_back(tmp_path: Path) -> None:
    """Put into this directory by hand, it would count this line's files as newer or older by chance."""
    save(tmp_path / "ours", "last_model.pth", 3)
    save(tmp_path / "theirs", numbered_name(1), 1).rename(tmp_path / "ours" / numbered_name(1))
    found = find(tmp_path / "ours" / numbered_name(1))
    with pytest.raises(MismatchError, match="belongs to another line of runs than what lies beside it; branch from it"):
        go_on(found, tmp_path / "ours", Best(), CheckpointSettings(), back=True)
    assert {"last_model.pth": 3} == epochs(tmp_path / "ours")


def test_a_branch_from_what_was_moved_aside_finds_the_best_one_floor_up(tmp_path: Path) -> None:
    """abandoned-001 went on from the files of its own run."""
    parent = tmp_path / "parent"
    save(parent, "best_model.pth", 1, loss=0.2)
    (parent / "abandoned-001").mkdir()
    origin = save(parent, numbered_name(3), 3, loss=0.5).rename(parent / "abandoned-001" / numbered_name(3))
    branch = tmp_path / "branch"
    save(branch, "last_model.pth", 3, loss=0.5, saves=1)
    best, _ = mend(branch, origin, Best(value=0.2, epoch=1), str(origin))
    assert (Best(value=0.2, epoch=1), 1) == (best, epochs(branch)["best_model.pth"])


def test_a_damaged_best_is_moved_aside_as_well(tmp_path: Path) -> None:
    """Its header is sound, its weights are not: it would stay the best for ever."""
    save(tmp_path, numbered_name(1), 1)
    damage(save(tmp_path, "best_model.pth", 1), 1)
    save(tmp_path, "last_model.pth", 5)
    assert ["1 damaged checkpoints were moved to abandoned-001/, none was removed"] == abandon(
        find(tmp_path), tmp_path, None
    )
    mend(tmp_path, tmp_path, Best(value=0.5, epoch=1))
    assert (tmp_path / "best_model.pth").samefile(tmp_path / numbered_name(1))


def test_a_place_aside_is_never_used_twice(tmp_path: Path) -> None:
    """Somebody removed abandoned-001 and kept 002."""
    save(tmp_path, numbered_name(0), 0)
    save(tmp_path, numbered_name(1), 1)
    (tmp_path / "abandoned-002").mkdir()
    (tmp_path / "abandoned-002/note.txt").write_text("mine")
    move_newer(tmp_path, 0)
    assert {numbered_name(1): 1} == epochs(tmp_path / "abandoned-003")


def test_what_is_inside_an_epoch_gets_no_number(tmp_path: Path) -> None:
    """Also at its batch 0, where a position says the same as that of an epoch that begins."""
    path = save(tmp_path, "last_model.pth", 0)
    content: dict[str, Any] = torch.load(path)
    content["position"] = {"epoch": 0, "batch": 0, "global_step": 0}
    save_checkpoint(content, path)
    mend(tmp_path, tmp_path, Best())
    assert ["last_model.pth"] == [each.name for each in tmp_path.iterdir()]


# -- where the only bytes of a save are compressed ---------------------------------------------------------------------

CODECS: tuple[Codec, ...] = ("gzip", "zstd", "shuffle-zstd")


def is_plain(path: Path) -> bool:
    """Say whether any program can read a file: torch does, and knows nothing of us."""
    return bool(torch.load(path, weights_only=True))


@pytest.mark.parametrize("codec", CODECS)
def test_a_best_that_is_compressed_becomes_a_plain_best_model(tmp_path: Path, codec: Codec) -> None:
    """Unpacked, never linked: the run and its reader need a file that is what its name says."""
    small = compress_checkpoint(save(tmp_path, numbered_name(1), 1, loss=0.2), codec=codec, replace=True)
    save(tmp_path, "last_model.pth", 5, numbered_name(5), loss=0.9)
    best, notes = mend(tmp_path, tmp_path, Best(value=0.2, epoch=1))
    assert (Best(value=0.2, epoch=1), f"best_model.pth was put back, from {small.name}: {best}") == (best, notes[0])
    assert is_plain(tmp_path / "best_model.pth")
    assert {"best_model.pth": 1, small.name: 1, "last_model.pth": 5, numbered_name(5): 5} == epochs(tmp_path)
    before = {path.name: path.stat().st_ctime_ns for path in tmp_path.iterdir()}
    assert (best, []) == mend(tmp_path, tmp_path, best)
    assert before == {path.name: path.stat().st_ctime_ns for path in tmp_path.iterdir()}


@pytest.mark.parametrize("codec", CODECS)
def test_a_run_goes_back_to_a_compressed_file(tmp_path: Path, codec: Codec) -> None:
    """It stays as it is; last_model.pth is what is in it, and what is newer is moved aside by the names that it has."""
    for epoch in range(4):
        save(tmp_path, numbered_name(epoch), epoch, *(["last_model.pth"] if epoch == 3 else []), loss=0.5 - epoch / 10)
    small = [compress_checkpoint(tmp_path / numbered_name(epoch), codec=codec, replace=True) for epoch in (1, 2)]
    found = find(small[0])
    go_on(found, tmp_path, Best(value=0.4, epoch=1), CheckpointSettings(save_freq=1), back=True)
    assert {numbered_name(0): 0, small[0].name: 1, "last_model.pth": 1, "best_model.pth": 1} == epochs(tmp_path)
    assert is_plain(tmp_path / "last_model.pth")
    assert (tmp_path / "best_model.pth").samefile(tmp_path / "last_model.pth")
    assert {numbered_name(3): 3, small[1].name: 2, "last_model.pth": 3} == epochs(tmp_path / "abandoned-001")
    assert ["last_model.pth"] == [file.path.name for file in list_checkpoints(tmp_path) if file.kind == "last"]


def test_a_compressed_file_of_an_epoch_is_its_numbered_file(tmp_path: Path) -> None:
    """Resumed from last_model.pth: the epoch is due, and is there."""
    save(tmp_path, "last_model.pth", 5)
    compress_checkpoint(save(tmp_path, numbered_name(5), 5), replace=True)
    mend(tmp_path, tmp_path, Best())
    assert numbered_name(5) not in epochs(tmp_path)


@pytest.mark.parametrize("codec", CODECS)
def test_a_branch_from_a_compressed_file(tmp_path: Path, codec: Codec) -> None:
    """It begins with a plain file of its own, and finds the best of its parent where that is compressed as well."""
    parent, branch = tmp_path / "parent", tmp_path / "branch"
    branch.mkdir()
    for epoch, loss in ((1, 0.2), (3, 0.5)):
        compress_checkpoint(save(parent, numbered_name(epoch), epoch, loss=loss), codec=codec, replace=True)
    found = find(next(parent.glob("checkpoint_epoch_003*")))
    run, best, _ = go_on(found, branch, Best(value=0.2, epoch=1), CheckpointSettings(), back=True)
    assert (Best(value=0.2, epoch=1), str(found.file.path)) == (best, run["parent"])
    assert {"last_model.pth": 3, "best_model.pth": 1} == epochs(branch)
    assert is_plain(branch / "last_model.pth")
    assert is_plain(branch / "best_model.pth")


def test_a_branch_finds_its_parent_though_that_was_compressed_since(tmp_path: Path) -> None:
    """The record of a branch names the file that it went on from as it was called then."""
    parent, branch = tmp_path / "parent", tmp_path / "branch"
    save(parent, numbered_name(1), 1, loss=0.2)
    origin = save(parent, numbered_name(3), 3, loss=0.5)
    for path in (origin, parent / numbered_name(1)):
        compress_checkpoint(path, replace=True)
    save(branch, "last_model.pth", 3, loss=0.5, saves=1)
    best, _ = mend(branch, branch, Best(value=0.2, epoch=1), str(origin))
    assert (Best(value=0.2, epoch=1), 1) == (best, epochs(branch)["best_model.pth"])


def test_a_damaged_plain_file_goes_aside_and_its_compressed_form_takes_over(tmp_path: Path) -> None:
    """All names of the newest save are damaged at once, for they share their bytes; the copy is none of them."""
    save(tmp_path, numbered_name(2), 2)
    path = save(tmp_path, "last_model.pth", 3, numbered_name(3), "best_model.pth", loss=0.1)
    small = compress_checkpoint(tmp_path / numbered_name(3))
    damage(path, 3)
    found = find(tmp_path)
    assert small == found.file.path
    _, best, _ = go_on(found, tmp_path, Best(value=0.1, epoch=3), CheckpointSettings(), back=False)
    assert Best(value=0.1, epoch=3) == best
    assert {numbered_name(2): 2, small.name: 3, "last_model.pth": 3, "best_model.pth": 3} == epochs(tmp_path)
    assert {numbered_name(3), "last_model.pth", "best_model.pth"} == set(os.listdir(tmp_path / "abandoned-001"))
    assert is_plain(tmp_path / "last_model.pth")


def test_a_disk_that_refuses_an_unpacked_name_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written like any other file: whole, or not at all; in the disk's own words."""
    small = compress_checkpoint(save(tmp_path, numbered_name(1), 1), replace=True)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointWriteError, match="could not be written: No space left"), refusals_named(tmp_path):
        put_in_place(small, tmp_path / "last_model.pth")
    assert {small.name: 1} == epochs(tmp_path)
    assert {small.name, ".lock"} == set(os.listdir(tmp_path))


@pytest.mark.parametrize("codec", CODECS)
def test_a_training_goes_on_from_compressed_files_alone(tmp_path: Path, codec: Codec) -> None:
    """All that a run has is compressed, best and last are gone; it resumes where it was, and saves what is due."""
    model = torch.nn.Linear(2, 1)
    settings = CheckpointSettings(save_freq=1)
    with CheckpointManager(tmp_path, {"model": model}, settings) as checkpoints:
        for epoch in checkpoints.epochs(3):
            torch.nn.init.constant_(model.weight, epoch)
            checkpoints.save({"loss": (0.3, 0.1, 0.2)[epoch]})
    for name in ("best_model.pth", "last_model.pth"):
        (tmp_path / name).unlink()
    compress_older(tmp_path, 0, codec=codec)
    again = torch.nn.Linear(2, 1)
    with CheckpointManager(tmp_path, {"model": again}, settings) as checkpoints:
        resumed = checkpoints.resume()
        assert (3, Best(value=0.1, epoch=1)) == (resumed.position.epoch, resumed.best)
        assert [2.0, 2.0] == again.weight.flatten().tolist()
        for _ in checkpoints.epochs(5):
            checkpoints.save({"loss": 0.5})
    listing = list_checkpoints(tmp_path)
    assert () == listing.ignored
    assert {4: None, 3: None, 2: codec, 1: codec, 0: codec} == {
        f.epoch: f.codec for f in listing if f.kind == "numbered"
    }
    assert {"best": 1, "last": 4} == {file.kind: file.epoch for file in listing if file.kind != "numbered"}
