"""The example's own loop: it learns, it reports, and it comes back bitwise, inside an epoch too."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from koemorph_tutorial.records import CheckpointSettings, CheckpointWriteError, UsedDirectoryError
from koemorph_tutorial.resume import Resumed
from koemorph_tutorial.storage import list_checkpoints, load_checkpoint
from koemorph_tutorial.training.config import Config, ConfigError, load_config, to_plain
from koemorph_tutorial.training.tracking import EarlyStopping, RunningMean
from koemorph_tutorial.training.trainer import (
    EpochReport,
    KoeMorphTrainer,
    evaluate_model,
    seed_everything,
)
from tests.comparing import difference

SMALL = [
    "data.seconds=3.0",
    "data.train_windows=40",
    "data.validation_windows=8",
    "data.test_windows=4",
    "training.epochs=3",
    "model.width=16",
    "model.hidden=16",
]


class PowerCutError(Exception):
    """What stands for one in these tests."""


def small(*overrides: str) -> Config:
    """Return settings with which three epochs of five batches take a moment."""
    return load_config([*SMALL, *overrides])


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Return the bytes and the time of each file below `folder`; the lock says who was there last."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def stop_at_batch(trainer: KoeMorphTrainer, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trainer fall out of its loop after so many batches of all epochs, before they are counted."""
    add, seen = trainer.train_loss.add, iter(range(1, 1000))

    def add_until(value: float, *, count: int) -> None:
        add(value, count=count)
        if next(seen) == batch:
            raise PowerCutError

    monkeypatch.setattr(trainer.train_loss, "add", add_until)


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EpochReport]]:
    """Train once with the defaults."""
    reports: list[EpochReport] = []
    run_dir = tmp_path_factory.mktemp("run")
    KoeMorphTrainer(Config(), run_dir).train(on_epoch=reports.append)
    return run_dir, reports


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small run that never stopped."""
    run_dir = tmp_path_factory.mktemp("whole")
    KoeMorphTrainer(small(), run_dir).train()
    return run_dir


# ----------------------------------------------------------------------------------------------- what the example shows


def test_the_default_run_learns_and_its_best_epoch_is_not_its_last(
    default_run: tuple[Path, list[EpochReport]],
) -> None:
    """So best_model.pth and last_model.pth are worth telling apart; the default seed was chosen for it."""
    run_dir, reports = default_run
    losses = [report.metrics["loss"] for report in reports]
    assert list(range(16)) == [report.epoch for report in reports]
    assert min(losses) <= 0.55 * losses[0]
    assert losses[-1] >= 1.05 * min(losses)
    best, last = (run_dir / "checkpoints" / name for name in ("best_model.pth", "last_model.pth"))
    assert best.stat().st_ino != last.stat().st_ino
    assert min(losses) == load_checkpoint(best)["metrics"]["loss"]


def test_the_default_run_learns_what_a_face_does(default_run: tuple[Path, list[EpochReport]]) -> None:
    """Far better on an unheard voice than the best face that never moves."""
    run_dir, _ = default_run
    trainer = KoeMorphTrainer(Config(), run_dir)
    trainer.model.load_state_dict(load_checkpoint(run_dir / "checkpoints/best_model.pth")["model_state_dict"])
    faces = trainer.windows("test").tensors[1]
    still = (faces - faces.mean(0)).square().mean().item()
    assert trainer.evaluate("test")["loss"] < 0.5 * still


def test_a_run_lies_in_its_folder_as_it_should(default_run: tuple[Path, list[EpochReport]]) -> None:
    """config.yaml beside the checkpoints, no draft left, and what is in the files is what was used."""
    run_dir, _ = default_run
    assert ["checkpoints", "config.yaml"] == sorted(os.listdir(run_dir))
    assert Config() == load_config([], base=yaml.safe_load((run_dir / "config.yaml").read_text("utf-8")))
    numbered = [file.epoch for file in list_checkpoints(run_dir / "checkpoints") if file.kind == "numbered"]
    assert [15, 10, 5, 0] == numbered
    checkpoint = load_checkpoint(run_dir / "checkpoints/last_model.pth")
    assert to_plain(Config()) == checkpoint["config"]
    assert {"loss", "mae", "train_loss"} == set(checkpoint["metrics"])
    names = {"model", "optimizer", "scheduler", "early_stopping", "train_loss", "loader"}
    assert {f"{name}_state_dict" for name in names} <= set(checkpoint)


# --------------------------------------------------------------------------------------------------- the same run again


def test_two_runs_with_one_seed_are_bitwise_equal_whatever_was_drawn_before(tmp_path: Path, small_run: Path) -> None:
    """Between making a trainer and training, others may draw; another seed is another run."""
    trainer = KoeMorphTrainer(small(), tmp_path / "a")
    random.random()
    np.random.rand()
    torch.rand(3)
    trainer.train()
    last = load_checkpoint(small_run / "checkpoints/last_model.pth")
    assert "" == difference(last, load_checkpoint(tmp_path / "a/checkpoints/last_model.pth"))
    KoeMorphTrainer(small("seed=8"), tmp_path / "b").train()
    other = load_checkpoint(tmp_path / "b/checkpoints/last_model.pth")
    assert difference(last["model_state_dict"], other["model_state_dict"]) != ""


def test_evaluating_between_epochs_changes_nothing(tmp_path: Path, small_run: Path) -> None:
    """It draws no random number and leaves dropout on."""
    trainer = KoeMorphTrainer(small(), tmp_path)
    measured: list[dict[str, float]] = []
    trainer.train(on_epoch=lambda report: measured.append(trainer.evaluate("test")))
    assert 3 == len(measured)
    last = load_checkpoint(small_run / "checkpoints/last_model.pth")
    assert "" == difference(last, load_checkpoint(tmp_path / "checkpoints/last_model.pth"))


@pytest.mark.parametrize(("batch", "step"), [(1, 0), (4, 2), (5, 4), (6, 5), (9, 8), (13, 12), (15, 14)])
def test_a_run_that_stopped_at_any_batch_ends_as_if_it_never_had(
    tmp_path: Path, small_run: Path, batch: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last save inside an epoch: weights, optimizer, random numbers and the mean of the training loss."""
    config = small("training.checkpoint.every_n_steps=2")
    stopped = KoeMorphTrainer(config, tmp_path)
    stop_at_batch(stopped, batch, monkeypatch)
    with pytest.raises(PowerCutError):
        stopped.train()

    seed_everything(12345)  # as a new process would be
    resumed: list[Resumed] = []
    result = KoeMorphTrainer(config, tmp_path).train("auto", on_resumed=resumed.append)
    assert [result.resumed] == resumed
    assert step == resumed[0].position.global_step
    whole, back = (load_checkpoint(run / "checkpoints/last_model.pth") for run in (small_run, tmp_path))
    back["config"]["training"]["checkpoint"]["every_n_steps"] = None
    assert "" == difference(whole, back)


def test_a_run_with_more_epochs_goes_on_where_the_shorter_one_ended(tmp_path: Path) -> None:
    """Only the epochs still to do are trained, and config.yaml says what is used now."""
    KoeMorphTrainer(small("training.epochs=2"), tmp_path).train()
    reports: list[EpochReport] = []
    result = KoeMorphTrainer(small("training.epochs=4"), tmp_path).train("auto", on_epoch=reports.append)
    assert ([2, 3], 2, False) == ([report.epoch for report in reports], result.epochs, result.finished_before)
    assert 4 == yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8"))["training"]["epochs"]


@pytest.mark.parametrize("source", ["auto", "checkpoints", "checkpoints/last_model.pth"])
def test_a_run_that_had_finished_says_so_and_changes_nothing(tmp_path: Path, source: str) -> None:
    """Not a byte, not a time stamp, not config.yaml; and no epoch is reported."""
    KoeMorphTrainer(small(), tmp_path).train()
    before = contents(tmp_path)
    reports: list[EpochReport] = []
    trainer = KoeMorphTrainer(small("training.lr=0.001"), tmp_path)
    result = trainer.train(source if source == "auto" else tmp_path / source, on_epoch=reports.append)
    after = contents(tmp_path)
    assert before == after
    assert (True, 0, []) == (result.finished_before, result.epochs, reports)
    assert str(result).startswith("this run had finished already (all epochs are done); nothing was changed; best loss")


@pytest.mark.parametrize("early", [False, True])
def test_a_kill_before_the_final_epoch_had_its_number_is_made_good(tmp_path: Path, early: bool) -> None:
    """Its bytes are there as last_model.pth; a resume gives them the name, and changes nothing else."""
    config = small(*(["training.patience=1", "training.checkpoint.mode=max"] if early else []))
    KoeMorphTrainer(config, tmp_path).train()
    last = tmp_path / "checkpoints/last_model.pth"
    final = last.with_name(f"checkpoint_epoch_{1 if early else 2:03d}.pth")
    assert final.samefile(last)
    final.unlink()
    assert KoeMorphTrainer(config, tmp_path).train("auto").finished_before
    assert "" == difference(load_checkpoint(last), load_checkpoint(final))


def test_a_config_that_cannot_be_written_stops_the_run_before_its_first_epoch(tmp_path: Path) -> None:
    """With the path and the reason, as for a checkpoint."""
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(CheckpointWriteError, match=r"config\.yaml: could not be written: Is a directory; nothing"):
        KoeMorphTrainer(small(), tmp_path).train()


def test_a_used_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A fresh start there would mix two runs."""
    KoeMorphTrainer(small(), tmp_path).train()
    config = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(UsedDirectoryError):
        KoeMorphTrainer(small("training.lr=0.001"), tmp_path).train()
    assert config == (tmp_path / "config.yaml").read_bytes()


def test_what_a_kill_has_left_beside_the_config_is_swept(tmp_path: Path) -> None:
    """Under the lock of the checkpoints, also where the run had finished."""
    for resume in (None, "auto"):
        (tmp_path / ".config.yaml.77-0123abcd.tmp").write_text("torn")
        KoeMorphTrainer(small("training.epochs=1"), tmp_path).train(resume)
        assert ["checkpoints", "config.yaml"] == sorted(os.listdir(tmp_path))


def test_making_a_trainer_writes_nothing(tmp_path: Path) -> None:
    """So that a folder can be looked at, and a model measured, without leaving a trace."""
    trainer = KoeMorphTrainer(small(), tmp_path / "run")
    trainer.evaluate("test")
    assert [] == list(tmp_path.iterdir())
    assert "40 windows of aki, validated on yuki and sora, 3 epochs" in trainer.describe()


# ------------------------------------------------------------------------------------------------------- early stopping


def test_early_stopping_ends_the_run_and_its_count_is_in_every_file(tmp_path: Path) -> None:
    """With the mode turned round a falling loss never gets better; resumed, the run had finished."""
    config = small(
        "training.epochs=9", "training.patience=2", "training.checkpoint.mode=max", "training.checkpoint.save_freq=1"
    )
    result = KoeMorphTrainer(config, tmp_path).train()
    assert (3, True) == (result.epochs, result.stopped_early)
    assert "trained 3 epochs in" in str(result)
    files = [load_checkpoint(tmp_path / f"checkpoints/checkpoint_epoch_00{epoch}.pth") for epoch in range(3)]
    assert [0, 1, 2] == [file["early_stopping_state_dict"]["count"] for file in files]
    again = KoeMorphTrainer(config, tmp_path).train("auto")
    assert (0, True, True) == (again.epochs, again.finished_before, again.stopped_early)
    assert "this run had finished already (stopped early)" in str(again)
    patient = load_config(["training.patience=3"], base=to_plain(config))
    assert 1 == KoeMorphTrainer(patient, tmp_path).train("auto").epochs


@pytest.mark.parametrize(
    ("losses", "patience", "count", "stop"),
    [
        ([0.5, 0.4, 0.3], 1, 0, False),
        ([0.5, 0.5], 1, 1, True),
        ([0.5, 0.6, 0.4, 0.7], 2, 1, False),
        ([0.5, float("nan"), float("inf")], 2, 2, True),
        ([float("nan"), 0.5], 2, 0, False),
        ([0.1] * 50, None, 49, False),
    ],
)
def test_patience_counts_epochs_since_the_last_better_one(
    losses: list[float], patience: int | None, count: int, stop: bool
) -> None:
    """A tie and a loss that is no number are not better; without patience nothing stops."""
    stopping = EarlyStopping(patience, CheckpointSettings())
    for epoch, loss in enumerate(losses):
        stopping.update({"loss": loss}, epoch)
    assert (count, stop) == (stopping.count, stopping.should_stop)
    back = EarlyStopping(patience, CheckpointSettings())
    back.load_state_dict(stopping.state_dict())
    assert (stopping.count, stopping.best) == (back.count, back.best)


def test_a_count_for_another_metric_is_left() -> None:
    """Two epochs without a better loss say nothing about the mean absolute error."""
    stopping = EarlyStopping(2, CheckpointSettings(monitor="mae"))
    stopping.load_state_dict({"count": 2, "monitor": "loss", "mode": "min", "value": 0.1, "epoch": 3})
    assert (0, None) == (stopping.count, stopping.best.value)


# --------------------------------------------------------------------------------------------------------- small things


@given(values=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 8)), min_size=1, max_size=10), cut=st.integers(0, 10))
def test_a_mean_that_is_saved_halfway_is_the_same_mean(values: list[tuple[float, int]], cut: int) -> None:
    """Bitwise: the sum is what is stored, not the mean so far."""
    whole, first, second = RunningMean(), RunningMean(), RunningMean()
    for value, count in values:
        whole.add(value, count=count)
    for value, count in values[:cut]:
        first.add(value, count=count)
    second.load_state_dict(first.state_dict())
    for value, count in values[cut:]:
        second.add(value, count=count)
    assert whole.take() == second.take()
    assert {"total": 0.0, "count": 0} == whole.state_dict()


def test_evaluation_is_the_same_in_any_batches_and_keeps_the_mode() -> None:
    """The mean runs over windows, not over batches of unequal size."""
    trainer = KoeMorphTrainer(small(), "never-written")
    trainer.model.train()
    measured = [evaluate_model(trainer.model, trainer.windows("validation"), batch_size=size) for size in (1, 3, 64)]
    assert trainer.model.training
    for name in ("loss", "mae"):
        assert [measured[0][name]] * 3 == pytest.approx([each[name] for each in measured], rel=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    """Before any data are made."""
    line = "training.device: expected a device that is here, found 'cuda:1' and 0 CUDA devices; use auto or cpu"
    with pytest.raises(ConfigError) as refused:
        KoeMorphTrainer(small("training.device=cuda:1"), "never-written")
    assert line == str(refused.value)


def test_reports_and_results_read_as_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trainer itself prints nothing; the numbers in a report are those in the file."""
    reports: list[EpochReport] = []
    result = KoeMorphTrainer(small("training.epochs=1"), tmp_path).train(on_epoch=reports.append)
    assert ("", "") == tuple(capsys.readouterr())
    (report,) = reports
    stored: dict[str, Any] = load_checkpoint(tmp_path / "checkpoints/last_model.pth")["metrics"]
    assert stored == report.metrics
    assert str(report).startswith("[1/1] epoch 0: loss 0.")
    assert "best_model.pth, checkpoint_epoch_000.pth, last_model.pth: a new best loss" in str(report)
    assert str(result).startswith("trained 1 epoch in ")
