"""Newest sound file -> restored objects -> where to go on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from koemorph_tutorial import Best, Position, resume_training, save_checkpoint
from koemorph_tutorial.records import (
    CheckpointNotFoundError,
    DamagedCheckpointError,
    MismatchError,
    NewerFormatError,
    numbered_name,
)
from koemorph_tutorial.state import build


def objects(weight: float = 0.0) -> dict[str, Any]:
    """Return a one-weight model and its optimizer."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}


def save(directory: Path, epoch: int, loss: float = 0.5, name: str | None = None) -> Path:
    """Save a run whose weight is its epoch."""
    checkpoint = build(
        objects(float(epoch)),
        epoch=epoch,
        position=Position(epoch=epoch + 1, batch=0, global_step=10 * epoch),
        metrics={"loss": loss},
        best=Best(value=0.25, epoch=0),
        run={"line": "a", "parent": None, "saves": epoch + 1},
    )
    return save_checkpoint(checkpoint, directory / (name or numbered_name(epoch))).path


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_directory_means_its_newest_sound_file(tmp_path: Path) -> None:
    """Two damaged ones are passed over, each with its reason; the third is taken."""
    for epoch in range(4):
        save(tmp_path, epoch)
    (tmp_path / numbered_name(3)).write_bytes(b"PK\x03\x04")
    middle = tmp_path / numbered_name(2)
    data = middle.read_bytes()
    middle.write_bytes(data.replace(b"PK\x01\x02", b"PK\x01\x03"))
    items = objects()
    resumed = resume_training(tmp_path, items)
    assert resumed.file is not None
    assert 1.0 == items["model"].weight.item()
    assert Position(epoch=2, batch=0, global_step=10) == resumed.position
    assert {numbered_name(3), numbered_name(2)} == {name for name, _ in resumed.passed_over}
    assert "passed over checkpoint_epoch_003.pth: " in "\n".join(resumed.lines())


def test_a_file_asked_for_by_name_is_not_replaced_by_another(tmp_path: Path) -> None:
    """By path a damaged file is refused, even with a sound one beside it."""
    save(tmp_path, 0)
    flip(save(tmp_path, 1))
    with pytest.raises(
        DamagedCheckpointError, match=r"checkpoint_epoch_001\.pth: record '.*' is damaged: expected CRC32"
    ):
        resume_training(tmp_path / numbered_name(1), objects())


def test_nothing_there_and_nothing_sound_are_different_errors(tmp_path: Path) -> None:
    """Neither is a fresh start."""
    with pytest.raises(CheckpointNotFoundError, match="expected checkpoints, found none; check the path"):
        resume_training(tmp_path, objects())
    flip(save(tmp_path, 0))
    with pytest.raises(CheckpointNotFoundError, match=r"found 1 file and none that can be used .*is damaged"):
        resume_training(tmp_path, objects())


def test_a_checkpoint_of_another_model_is_refused_and_no_older_one_is_tried(tmp_path: Path) -> None:
    """The file is sound; it is the model that does not fit. The file is named."""
    save(tmp_path, 0)
    with pytest.raises(
        MismatchError, match=r"checkpoint_epoch_000\.pth: model: 1 of another shape: weight \(expected \(1, 3"
    ):
        resume_training(tmp_path, {"model": nn.Linear(3, 1, bias=False)})


def test_problems_are_seen_without_any_logging_set_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The good news is INFO, what a person should know is WARNING."""
    save(tmp_path, 0)
    with caplog.at_level(logging.INFO):
        resume_training(tmp_path, {**objects(), "ema": nn.Linear(1, 1)})
    said = "ema: not in the file, left as it is, so it begins from its start; set it by hand if it should not"
    assert [("INFO", "resumed from"), ("WARNING", said)] == [
        (record.levelname, record.message[: 12 if record.levelname == "INFO" else None]) for record in caplog.records
    ]


def test_names_on_one_side_only_say_what_that_means_and_what_to_do(tmp_path: Path) -> None:
    """A scheduler that the file does not have, one that only the file has, and one that has another name there."""
    items = objects()
    lines = resume_training(save(tmp_path, 0), {**items, "scheduler": StepLR(items["optimizer"], 1)}).lines()
    said = "scheduler: not in the file, left as it is, so it begins from its start; set it by hand if it should not"
    assert said in lines

    lines = resume_training(tmp_path, {"model": items["model"]}).lines()
    assert (
        "optimizer: in the file, but nothing was handed over to take it: the run goes on without, and the next save "
        "drops it; hand it over by this name to keep it"
    ) in lines

    lines = resume_training(tmp_path, {"model": items["model"], "opt": items["optimizer"]}).lines()
    assert "opt: not in the file, left as it is, so it begins from its start; was it called optimizer?" in lines


def test_what_was_asked_for_otherwise_is_shown_as_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The optimizer's lr is the file's, though the config asks for another; the epochs are as asked for."""
    checkpoint = build(
        objects(),
        epoch=0,
        position=Position(epoch=1),
        metrics={},
        best=Best(),
        run={"line": "a", "parent": None, "saves": 1},
        config={"training": {"lr": 0.1, "epochs": 16}},
    )
    save_checkpoint(checkpoint, tmp_path / "last_model.pth")
    items = slow()
    resumed = resume_training(tmp_path, items, config={"training": {"lr": 0.001, "epochs": 20}})
    assert [
        "setting          in the file  asked for  used",
        "optimizer.lr     0.1          0.001      the file's, with the state",
        "training.epochs  16           20         what was asked for",
        "training.lr      0.1          0.001      the file's, with the state",
    ] == resumed.lines()[1:]
    assert 0.1 == items["optimizer"].param_groups[0]["lr"]
    assert resumed.lines()[1:] == [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert ["optimizer.lr"] == [change.name for change in resume_training(tmp_path, slow()).changed]
    assert () == resume_training(tmp_path, objects()).changed


def slow() -> dict[str, Any]:
    model = nn.Linear(1, 1, bias=False)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.001)}


def test_a_run_that_had_diverged_is_resumed_and_says_so(tmp_path: Path) -> None:
    """A loss that is not finite does not make the file unsound."""
    save(tmp_path, 0, loss=float("nan"))
    resumed = resume_training(tmp_path, objects())
    assert ("loss was nan when this file was saved: it is sound, but the run had diverged",) == resumed.notes


def test_strict_refuses_drift(tmp_path: Path) -> None:
    """Another count of threads means other bits: a line by default, an error under strict."""
    save(tmp_path, 0)
    torch.set_num_threads(2)
    try:
        (line,) = resume_training(tmp_path, objects()).drift
        assert "saved with threads 1, here 2; torch.set_num_threads(1) goes on exactly" == line
        with pytest.raises(MismatchError, match="not bitwise from here: saved with threads 1, here 2"):
            resume_training(tmp_path, objects(), strict=True)
    finally:
        torch.set_num_threads(1)


def recipe_checkpoint(epoch: int, **more: Any) -> dict[str, Any]:
    """Return what the original recipe saves: six keys, numpy numbers among them."""
    items = objects(float(epoch))
    return {
        "epoch": epoch,
        "global_step": 10 * epoch,
        "model_state_dict": items["model"].state_dict(),
        "optimizer_state_dict": items["optimizer"].state_dict(),
        "metrics": {"loss": np.float64(0.5)},
        "config": {"model": {}},
        **more,
    }


def test_the_recipes_own_format_resumes_and_says_what_it_could_not_restore(tmp_path: Path) -> None:
    """Version 0: the saved epoch is not repeated; random states, best and the like start anew, and are said."""
    torch.save(recipe_checkpoint(7), tmp_path / "last_model.pth")
    items = {**objects(), "scheduler": torch.optim.lr_scheduler.StepLR(objects()["optimizer"], 1)}
    resumed = resume_training(tmp_path / "last_model.pth", items)
    assert 7.0 == items["model"].weight.item()
    assert Position(epoch=8, batch=0, global_step=70) == resumed.position
    assert ("scheduler",) == resumed.missing
    assert ("the file holds no random states",) == resumed.drift
    said = "written in the recipe's format (version 0): it holds no random states, no record of a best and no place"
    assert resumed.notes[0].startswith(said)
    assert resumed.best.value is None


def test_the_recipes_optimizer_is_checked_by_shape(tmp_path: Path) -> None:
    """It stores no names; momentum of another shape is still refused."""
    wide = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1, momentum=0.9)
    wide(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.save(recipe_checkpoint(1, optimizer_state_dict=optimizer.state_dict()), tmp_path / "last_model.pth")
    with pytest.raises(
        MismatchError, match=r"optimizer: group 0: 1 of another shape: .*expected \(1, 1\), found \(1, 4\)"
    ):
        resume_training(tmp_path / "last_model.pth", objects())


def test_a_newer_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """format_version 99 comes from a newer library than this one."""
    torch.save({"format_version": 99, "epoch": 1}, tmp_path / "last_model.pth")
    save(tmp_path, 0)
    for source in (tmp_path / "last_model.pth", tmp_path):  # an older file beside it is no way round
        with pytest.raises(NewerFormatError, match="expected format_version 1 or older, found 99"):
            resume_training(source, objects())
