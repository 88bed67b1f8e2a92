"""ranks: several processes train one model; one writes, each gets its own back, nobody waits for one that is gone."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from koemorph_tutorial import CheckpointManager, ResumableLoader, list_checkpoints, load_checkpoint, validate_checkpoint
from koemorph_tutorial import ranks as ranks_module
from koemorph_tutorial.digests import digest, run_digest
from koemorph_tutorial.ranks import Ranks, Wish, as_of, parts_of
from koemorph_tutorial.records import (
    CheckpointError,
    DirectoryLockedError,
    MismatchError,
    Position,
    RankError,
    RankLost,
    StopTraining,
)
from koemorph_tutorial.rng import capture_rng
from koemorph_tutorial.testing import children, crash_test, saved
from koemorph_tutorial.testing.example import recover

EPOCHS, BATCHES = 3, 8


def together(work: Callable[[int], Any], folder: Path, size: int = 2) -> list[Any]:
    """Return what ``work(rank)`` returns, or ``[class, text]`` of what it raises, in `size` processes of one group.

    One that is killed leaves None.
    """
    store = folder / f"store-{time.monotonic_ns()}"

    def member(rank: int) -> Iterator[Any]:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        random.seed(rank)
        np.random.seed(rank)
        torch.manual_seed(rank)
        try:
            answer = work(rank)
        except (Exception, SystemExit) as error:
            answer = [type(error).__name__, str(error)]
        yield rank, answer

    answers: dict[int, Any] = {}
    try:
        answers.update(children.share(member, size))
    except RuntimeError as error:
        assert "killed from outside" in str(error), error  # noqa: PT017
    return [answers.get(rank) for rank in range(size)]


def make(rank: int, size: int) -> tuple[dict[str, Any], ResumableLoader[Any]]:
    """Return what a run is made of: a model with BatchNorm and dropout, shuffled data, a share of it for each rank."""
    random_states = torch.get_rng_state()
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(4 * BATCHES * 2, 6), torch.randn(4 * BATCHES * 2, 2))
    model: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    torch.set_rng_state(random_states)
    if size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    sampler: Any = DistributedSampler(data, size, rank)
    loader = ResumableLoader(DataLoader(data, 4, sampler=sampler))
    return {"model": model, "optimizer": optimizer, "loader": loader}, loader


Hook = Callable[[int, CheckpointManager], None]


def train(
    rank: int, directory: Path, size: int = 2, *, epochs: int = EPOCHS, at: Hook = lambda step, _: None, **rest: Any
) -> list[str]:
    """Train to the end; return a digest of all that this rank holds at the end of each epoch."""
    objects, loader = make(rank, size)
    model, optimizer = objects["model"], objects["optimizer"]
    held = []
    with CheckpointManager(directory, objects, **{"save_freq": 1, **rest}) as checkpoints:
        for epoch in checkpoints.epochs(epochs):
            loader.sampler.set_epoch(epoch)
            for x, y in loader:
                x = x + 0.1 * torch.randn_like(x) * random.random() * np.random.rand()
                loss = nn.functional.mse_loss(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                at(checkpoints.position.global_step, checkpoints)
                checkpoints.step()
            mean = loss.detach()
            if size > 1:
                distributed.all_reduce(mean)
            checkpoints.save({"loss": float(mean)})
            held.append(digest([parts_of(objects), objects["model"].state_dict(), optimizer.state_dict()]))
    return held


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its import asks torch.jit
def test_an_optimizer_in_parts_is_put_together_and_comes_back(tmp_path: Path) -> None:
    """ZeroRedundancyOptimizer: each rank keeps the moments of a share of the parameters, and nobody has them all."""

    def run(rank: int, directory: Path, kill_at: int = -1) -> list[str]:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        objects, loader = make(rank, 2)
        model = objects["model"]
        sharded: Any = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
        objects["optimizer"] = sharded
        held = []
        with CheckpointManager(directory, objects, save_freq=1) as checkpoints:
            for _ in checkpoints.epochs(EPOCHS):
                for x, y in loader:
                    sharded.zero_grad()
                    nn.functional.mse_loss(model(x), y).backward()
                    sharded.step()
                    checkpoints.step()
                    if checkpoints.position.global_step == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                checkpoints.save({"loss": 1.0})
                moments = sorted(sharded.optim.state_dict()["state"].items())  # in whatever order they came
                held.append(digest([parts_of(objects), model.state_dict(), moments]))
        return held

    straight = together(lambda rank: run(rank, tmp_path / "straight"), tmp_path)
    assert [None, None] == together(lambda rank: run(rank, tmp_path / "run", 10), tmp_path)
    resumed = together(lambda rank: run(rank, tmp_path / "run"), tmp_path)
    assert [held[1:] for held in straight] == resumed
    weights = load_checkpoint(tmp_path / "run" / "last_model.pth")["optimizer_state_dict"]["state"]
    assert all("exp_avg" in each for each in weights.values())
    assert len(weights) == 6


def test_each_rank_goes_on_with_its_own(tmp_path: Path) -> None:
    """A stop of one inside an epoch saves all; resumed, each rank ends with the bits of the run that nobody stopped."""
    straight = together(lambda rank: train(rank, tmp_path / "straight"), tmp_path)

    def stop_rank_1(rank: int) -> list[str]:
        def at(step: int, checkpoints: CheckpointManager) -> None:
            if rank == 1 and step == 11:
                os.kill(os.getpid(), signal.SIGTERM)

        return train(rank, tmp_path / "run", at=at)

    left = together(stop_rank_1, tmp_path)
    assert ["StopTraining", "StopTraining"] == [kind for kind, _ in left]
    assert left[1][1] == "stopped by SIGTERM: saved at epoch 1, batch 4 (global step 12)"
    assert left[0][1] == "stopped by a signal to another rank: saved at epoch 1, batch 4 (global step 12)"
    held = load_checkpoint(tmp_path / "run" / "last_model.pth")
    assert {} == held["ranks"][0]
    assert {"rng_state", "loader_state_dict", "model_state_dict"} >= set(held["ranks"][1])
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert buffers == set(held["ranks"][1]["model_state_dict"]), "of its BatchNorm"
    resumed = together(lambda rank: train(rank, tmp_path / "run"), tmp_path)
    assert straight[0] != straight[1], "each has its own random states"
    assert [ends[-2:] for ends in straight] == resumed


@pytest.mark.parametrize("background", [False, True])
def test_one_writes_and_the_others_know(tmp_path: Path, background: bool) -> None:
    """Rank 1 has the same best and decisions, though it has written nothing: not even a folder where it has none."""

    def work(rank: int) -> list[Any]:
        directory = tmp_path / f"of-{rank}"
        objects, loader = make(rank, 2)
        decisions = []
        with CheckpointManager(directory, objects, save_freq=2, background=background) as checkpoints:
            for epoch in checkpoints.epochs(3):
                for _ in loader:
                    checkpoints.step()
                decisions.append(str(checkpoints.save({"loss": abs(1.5 - epoch) + rank})))
            newest = checkpoints.wait()
            return [decisions, asdict(checkpoints.best), newest is not None, directory.exists()]

    first, other = together(work, tmp_path)
    assert first[:3] == other[:3]
    assert (0.5, 1) == (first[1]["value"], first[1]["epoch"]), "the metrics of rank 0"
    assert (True, False) == (first[3], other[3])
    names = {file.path.name for file in list_checkpoints(tmp_path / "of-0")}
    assert {"best_model.pth", "last_model.pth", "checkpoint_epoch_000.pth", "checkpoint_epoch_002.pth"} == names


def heard(name: str) -> list[str]:
    """Return a list to which every line goes that this logger says."""
    log: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(f"koemorph_tutorial.{name}").addHandler(handler)
    return log


@pytest.mark.parametrize("others", [{"loss": 2.0, "x": 1.0}, {"loss": float("nan")}, {}])
def test_metrics_that_differ_are_said_once(tmp_path: Path, others: dict[str, float]) -> None:
    """Those of rank 0 are used, and one line names one that differs; who has none has not validated, so none is said.

    Nor is a NaN another one than a NaN.
    """
    firsts = {"loss": float("nan"), "x": 1.0} if others.get("loss") != 2 else {"loss": 1.0, "x": 1.0}

    def work(rank: int) -> list[str]:
        log = heard("manager")
        with CheckpointManager(tmp_path / "run", {"model": nn.Linear(1, 1)}) as checkpoints:
            for _ in checkpoints.epochs(3):
                checkpoints.save(others if rank else firsts)
        return [line for line in log if line.startswith("save: ")]

    said = (
        "save: rank 0 has loss 1.0, rank 1 2.0: what rank 0 has is used; average it over the ranks where each "
        "validates its share"
    )
    assert [[said] if others.get("loss") == 2 else [], []] == together(work, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_only_rank_0_can_write(tmp_path: Path) -> None:
    """The directory is closed to rank 1, for reading as well: it trains, and resumes what rank 0 has read."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)

    meeting = Path(tempfile.mkdtemp(prefix="koemorph-ranks-"))  # where everybody may come
    meeting.chmod(0o777)

    def work(rank: int, epochs: int) -> list[str]:
        for file in meeting.iterdir() if rank == 0 else ():
            file.chmod(0o666)
        train(rank, tmp_path / f"before-{epochs}", epochs=1)  # all that is imported on the way is imported now
        if rank:
            os.setgid(65534)
            os.setuid(65534)
            with pytest.raises(PermissionError):
                os.listdir(directory)
        return train(rank, directory, epochs=epochs)

    short = together(lambda rank: work(rank, 2), meeting)
    assert "Error" not in str(short), short
    there = load_checkpoint(directory / "last_model.pth")
    assert ({"epoch": 2, "batch": 0, "global_step": 2 * BATCHES}, 2) == (there["position"], len(there["ranks"]))
    held = together(lambda rank: work(rank, 3), meeting)
    shutil.rmtree(meeting)
    assert [1, 1] == [len(each) for each in held]
    assert "Error" not in str(held), held


def test_an_error_of_the_one_that_writes_reaches_all(tmp_path: Path) -> None:
    """Somebody else holds the directory: both ranks raise it, at once, and in the same words."""
    from koemorph_tutorial.lock import hold

    (tmp_path / "run").mkdir()
    held = hold(tmp_path / "run")
    try:
        begin = time.monotonic()
        first, other = together(lambda rank: train(rank, tmp_path / "run"), tmp_path)
    finally:
        held.release()
    assert DirectoryLockedError.__name__ == first[0]
    assert first == other
    assert time.monotonic() - begin < 20


def test_a_full_disk_reaches_all_and_both_can_go_on(tmp_path: Path) -> None:
    """The disk refuses one save: both ranks raise `CheckpointWriteError`, nothing is lost, the next run resumes."""

    def work(rank: int) -> Any:
        import resource

        def at(step: int, checkpoints: CheckpointManager) -> None:
            if step == 12 and rank == 0:  # inside epoch 1: no file may be longer than this from here on
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

        try:
            return train(rank, tmp_path / "run", at=at)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    first, other = together(work, tmp_path)
    assert "CheckpointWriteError" == first[0] == other[0], (first, other)
    assert "File too large" in first[1]
    assert first[1] == other[1]
    assert validate_checkpoint(tmp_path / "run" / "last_model.pth").verdict == "sound"
    straight = together(lambda rank: train(rank, tmp_path / "straight"), tmp_path)
    assert [held[1:] for held in straight] == together(lambda rank: train(rank, tmp_path / "run"), tmp_path)


def test_what_does_not_fit_one_rank_fits_none(tmp_path: Path) -> None:
    """Rank 1 has another model: it raises what does not fit, rank 0 that rank 1 could not, and nothing went on."""
    together(lambda rank: train(rank, tmp_path / "run", epochs=1), tmp_path)

    def work(rank: int) -> Any:
        objects = {"model": nn.Linear(2 + rank, 1)} if rank else make(rank, 1)[0]
        with CheckpointManager(tmp_path / "run", objects) as checkpoints:
            checkpoints.resume()

    first, other = together(work, tmp_path)
    assert ("RankError", "MismatchError") == (first[0], other[0])
    assert first[1].startswith("rank 1: ")
    assert "\n" not in first[1]


DISAGREEMENTS: dict[str, tuple[Callable[[CheckpointManager, int], Any], str]] = {
    "about the epoch": (
        lambda checkpoints, rank: checkpoints.save({"loss": 1}, epoch=3 + rank),
        "rank 0 is in save at epoch 3, batch 0 (global step 0), rank 1 in save at epoch 4, batch 0 (global step 0)",
    ),
    "about the call": (
        lambda checkpoints, rank: checkpoints.save({"loss": 1}) if rank else checkpoints.wait(),
        "rank 0 is in wait at epoch 0, batch 0 (global step 0), rank 1 in save at epoch 0, batch 0 (global step 0)",
    ),
    "about how many epochs": (
        lambda checkpoints, rank: list(checkpoints.epochs(3 + rank)),
        "rank 0 is in epochs at epoch 3, batch 0 (global step 0), rank 1 in epochs at epoch 4",
    ),
}


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_ranks_that_disagree_are_told_at_once(tmp_path: Path, name: str) -> None:
    """One line on each says who is where; nothing is saved by that call."""
    call, expected = DISAGREEMENTS[name]

    def work(rank: int) -> Any:
        checkpoints = CheckpointManager(tmp_path / "run", {"model": nn.Linear(1, 1)})
        return call(checkpoints, rank)

    first, other = together(work, tmp_path)
    assert first == other
    assert first[0] == "RankError"
    assert first[1].startswith(f"the ranks are not at the same place: {expected}")
    assert not list((tmp_path / "run").glob("*.pth")) if (tmp_path / "run").exists() else True


def test_a_rank_with_fewer_batches_is_told(tmp_path: Path) -> None:
    """One more batch on rank 0: it is in `step` while rank 1 is in `save`, and both know."""

    def work(rank: int) -> Any:
        loader = ResumableLoader(DataLoader(TensorDataset(torch.zeros(8 - 2 * rank, 1)), 2))
        objects = {"model": nn.Linear(1, 1), "loader": loader}
        with CheckpointManager(tmp_path / "run", objects) as checkpoints:
            for _ in checkpoints.epochs(1):
                for _ in loader:
                    checkpoints.step()
                checkpoints.save({"loss": 1})

    first, other = together(work, tmp_path)
    assert "RankError" == first[0] == other[0]
    assert "rank 0 is in step at epoch 0, batch 3 (global step 3), rank 1 in save" in first[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_who_has_lost_another_leaves_with_one_line(tmp_path: Path, victim: int) -> None:
    """One is killed inside an epoch, after a save: the other ends soon, by one line; the run goes on, bit for bit."""

    def kill(rank: int) -> list[str]:
        def at(step: int, checkpoints: CheckpointManager) -> None:
            if rank == victim and step == 12:
                os.kill(os.getpid(), signal.SIGKILL)

        return train(rank, tmp_path / "run", at=at, every_n_steps=2)

    begin = time.monotonic()
    ended = together(kill, tmp_path)
    assert ended[victim] is None
    assert ended[1 - victim] == [
        "RankLost",
        f"rank {1 - victim} leaves: another one of the 2 has ended; start all of them again to go on at epoch 1, "
        "batch 4 (global step 12)",
    ]
    assert time.monotonic() - begin < 30
    straight = together(lambda rank: train(rank, tmp_path / "straight", every_n_steps=2), tmp_path)
    assert [held[1:] for held in straight] == together(lambda rank: train(rank, tmp_path / "run"), tmp_path)


def test_an_exception_of_one_ends_the_other(tmp_path: Path) -> None:
    """Rank 1 raises in the loop and leaves; rank 0, which waits for it in `backward`, leaves by one line."""

    def work(rank: int) -> Any:
        def at(step: int, checkpoints: CheckpointManager) -> None:
            if rank == 1 and step == 10:
                raise ValueError("of the loop's own")

        try:
            return train(rank, tmp_path / "run", at=at)
        except ValueError:
            os._exit(1)

    first, other = together(work, tmp_path)
    assert other is None
    assert first[0] == "RankLost"


LEAVING: dict[str, tuple[type[BaseException], int]] = {
    "between a save and the next step": (ValueError, 0),
    "by Ctrl-C there": (KeyboardInterrupt, 0),
    "by what a lost rank raises as well": (RuntimeError, 10),
}


@pytest.mark.parametrize("name", LEAVING)
def test_who_leaves_alone_by_an_error_waits_for_nobody(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other ranks are in `backward` and do not come to finish the run with it: it leaves by its own error, soon."""
    monkeypatch.setattr(ranks_module, "_PATIENCE", 1.0)
    kind, place = LEAVING[name]

    def work(rank: int) -> Any:
        objects, loader = make(rank, 2)
        begin = time.monotonic()
        try:
            with CheckpointManager(tmp_path / "run", objects, save_freq=5) as checkpoints:
                for epoch in checkpoints.epochs(EPOCHS):
                    for x, y in loader:
                        nn.functional.mse_loss(objects["model"](x), y).backward()
                        checkpoints.step()
                        if rank == 1 and place == checkpoints.position.global_step:
                            begin = time.monotonic()
                            raise kind
                    checkpoints.save({"loss": 1.0 - epoch / 10})
                    if rank == 1 and epoch == 1:
                        begin = time.monotonic()
                        raise kind
        except kind:
            return ["its own", time.monotonic() - begin < 8]

    first, other = together(work, tmp_path)
    assert ["its own", True] == other
    assert first[0] == "RankLost"


def test_where_all_leave_by_an_error_the_last_epoch_gets_its_file(tmp_path: Path) -> None:
    """Both raise after a save: they are all here, so it is finished as where one trains alone."""

    def work(rank: int) -> Any:
        with CheckpointManager(tmp_path / "run", {"model": nn.Linear(1, 1)}, save_freq=5) as checkpoints:
            for epoch in checkpoints.epochs(3):
                checkpoints.save({"loss": 1.0})
                if epoch == 1:
                    raise ValueError("of the loop's own")

    assert [["ValueError", "of the loop's own"]] * 2 == together(work, tmp_path)
    assert (tmp_path / "run" / "checkpoint_epoch_001.pth").exists()


class Stubborn:
    """An object whose state cannot be had on rank 1, or cannot be sent from there."""

    def __init__(self, rank: int, kind: str) -> None:
        self.rank, self.kind = rank, kind

    def state_dict(self) -> dict[str, Any]:
        """Return the state, or not."""
        if self.rank and self.kind == "raises":
            raise KeyError("mine")
        return {"state": (lambda: 1) if self.rank else 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


@pytest.mark.parametrize("kind", ["raises", "cannot be sent"])
def test_a_state_that_one_rank_cannot_give_is_said_on_all(tmp_path: Path, kind: str) -> None:
    """Rank 1 raises its own error, rank 0 one that names rank 1; it does not take the other for ended."""

    def work(rank: int) -> Any:
        objects = {"model": nn.Linear(1, 1), "own": Stubborn(rank, kind)}
        with CheckpointManager(tmp_path / "run", objects, save_freq=1) as checkpoints:
            for _ in checkpoints.epochs(1):
                checkpoints.save({"loss": 1})

    first, other = together(work, tmp_path)
    assert "RankError" == first[0]
    assert first[1] == f"rank 1: {other[1]}"
    assert ("KeyError" if kind == "raises" else "AttributeError") == other[0]
    assert not list((tmp_path / "run").glob("*.pth"))


def test_what_is_called_on_a_save_may_wait(tmp_path: Path) -> None:
    """`wait` in `on_saved`, which rank 0 alone is called with, returns at once; any other call says that it may not."""

    def work(rank: int) -> Any:
        def ask(done: object) -> None:
            told.append(checkpoints.wait() is done)
            with pytest.raises(RuntimeError, match="on_saved: the other ranks wait for it, and take no resume"):
                checkpoints._meet("resume")

        told: list[bool] = []
        with CheckpointManager(tmp_path / "run", {"model": nn.Linear(1, 1)}, save_freq=1, on_saved=ask) as checkpoints:
            for epoch in checkpoints.epochs(2):
                checkpoints.save({"loss": 1.0 - epoch / 10})
        return told

    assert [[True, True], []] == together(work, tmp_path)


def test_a_long_wait_is_said_once_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 is late for two saves: rank 1 says once that it waits in `save`, and its signals are heard meanwhile."""
    monkeypatch.setattr(ranks_module, "_LONG", 0.5)

    def work(rank: int) -> Any:
        log, rang = heard("ranks"), []
        signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic()))
        with CheckpointManager(tmp_path / "run", {"model": nn.Linear(1, 1)}) as checkpoints:
            for _ in checkpoints.epochs(2):
                if rank:
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                else:
                    time.sleep(2.5)
                checkpoints.save({"loss": 1})
                late = time.monotonic() - rang[-1] if rank else 0
        return [log, late > 1]

    first, other = together(work, tmp_path)
    assert [] == first[0]
    said = "rank 1 has waited 0.5 s for another rank in save: every rank makes the same calls"
    assert [[said], True] == other


def test_a_group_that_is_gone_too_early_is_named(tmp_path: Path) -> None:
    """destroy_process_group inside the run: one line says where it belongs; an error of the loop's own comes first."""

    def work(rank: int, own: bool) -> Any:
        with CheckpointManager(tmp_path / f"run-{own}", {"model": nn.Linear(1, 1)}, save_freq=5) as checkpoints:
            for epoch in checkpoints.epochs(2):
                checkpoints.save({"loss": 1})
                if epoch == 1:
                    distributed.destroy_process_group()
                    if own:
                        raise RuntimeError("of the loop's own")

    for kind, words in together(lambda rank: work(rank, False), tmp_path):
        assert kind == "RuntimeError"
        assert words.endswith(
            "2 ranks, and 1 are here now; make it after init_process_group, and leave it before destroy_process_group"
        )
    assert [["RuntimeError", "of the loop's own"]] * 2 == together(lambda rank: work(rank, True), tmp_path)


def test_an_error_of_all_stays_what_it_is(tmp_path: Path) -> None:
    """Both ranks raise the same RuntimeError: nobody is lost, and the error is not hidden by a line about ranks."""

    def work(rank: int) -> Any:
        def at(step: int, checkpoints: CheckpointManager) -> None:
            if step == 10:
                raise RuntimeError("shapes that do not fit")

        return train(rank, tmp_path / "run", at=at)

    assert [["RuntimeError", "shapes that do not fit"]] * 2 == together(work, tmp_path)


def alone(directory: Path, **rest: Any) -> CheckpointManager:
    """Return a manager of one process for the run of `make`."""
    return CheckpointManager(directory, make(0, 1)[0], **rest)


def test_the_file_of_two_in_one_process(tmp_path: Path) -> None:
    """From the end of an epoch it goes on, and says what is not exact; inside an epoch it is refused, in one line."""
    run = tmp_path / "run"
    together(lambda rank: train(rank, run, epochs=2), tmp_path)
    with alone(run) as checkpoints:
        resumed = checkpoints.resume()
    assert Position(epoch=2, global_step=2 * BATCHES) == resumed.position
    assert any("saved with ranks 2, here 1; each rank sees other batches now" in line for line in resumed.drift)
    with alone(run) as checkpoints, pytest.raises(MismatchError, match="not bitwise from here: saved with ranks 2"):
        checkpoints.resume(strict=True)

    def stop(rank: int) -> Any:
        return train(rank, run, at=lambda step, _: os.kill(os.getpid(), signal.SIGTERM) if step == 20 else None)

    assert "StopTraining" == together(stop, tmp_path)[0][0]
    expected = r"saved inside epoch 2, batch 5 \(global step 21\), with ranks 2, here 1: .* start 2 processes, or"
    with alone(run) as checkpoints, pytest.raises(MismatchError, match=expected):
        checkpoints.resume()
    with alone(run) as checkpoints:
        assert 2 == checkpoints.resume(run / "checkpoint_epoch_001.pth").position.epoch


def test_the_file_of_one_in_two_processes(tmp_path: Path) -> None:
    """Rank 0 takes its random states; rank 1 keeps its own, or both would draw the same; it is said."""
    run = tmp_path / "run"
    train(0, run, size=1, epochs=1)

    def work(rank: int) -> Any:
        objects, _ = make(rank, 2)
        before = digest(capture_rng())
        with CheckpointManager(run, objects) as checkpoints:
            resumed = checkpoints.resume()
            weights = digest(list(objects["model"].module.state_dict().values()))
            return [digest(capture_rng()) == before, weights, list(resumed.drift), resumed.position.epoch]

    first, other = together(work, tmp_path)
    assert (False, True) == (first[0], other[0])
    assert first[1] == other[1] == digest(list(load_checkpoint(run / "last_model.pth")["model_state_dict"].values()))
    assert any("saved with ranks 1, here 2" in line for line in first[2])


def test_more_and_fewer_ranks_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    """Saved by two, gone on with by three, and by two again: the weights are everybody's."""
    run = tmp_path / "run"
    together(lambda rank: train(rank, run, epochs=1), tmp_path)
    held = together(lambda rank: train(rank, run, size=3, epochs=2), tmp_path, size=3)
    assert [1, 1, 1] == [len(each) for each in held]
    assert 3 == len(load_checkpoint(run / "last_model.pth")["ranks"])
    assert [1, 1] == [len(each) for each in together(lambda rank: train(rank, run, epochs=3), tmp_path)]


def test_the_groups_must_be_there_before_the_manager(tmp_path: Path) -> None:
    """A manager that was made before init_process_group would have every rank write: refused, with what to do."""
    checkpoints = CheckpointManager(tmp_path / "run", {"model": nn.Linear(1, 1)})

    def work(rank: int) -> Any:
        return checkpoints.save({"loss": 1})

    for kind, words in together(work, tmp_path):
        assert kind == "RuntimeError"
        assert words == (
            "CheckpointManager: it was made for 1 rank, and 2 are here now; make it after init_process_group, and "
            "leave it before destroy_process_group"
        )


def test_who_lost_its_lock_says_so_on_all(tmp_path: Path) -> None:
    """The directory goes away under rank 0: both ranks raise what happened, and nobody thinks the other has ended."""

    def work(rank: int) -> Any:
        run = tmp_path / "run"
        with CheckpointManager(run, {"model": nn.Linear(1, 1)}, save_freq=1) as checkpoints:
            for epoch in checkpoints.epochs(3):
                if epoch == 1 and rank == 0:
                    run.rename(tmp_path / "away")
                checkpoints.save({"loss": 1.0 - epoch / 10})

    first, other = together(work, tmp_path)
    assert DirectoryLockedError.__name__ == first[0]
    assert first == other


def test_all_stay_in_step_when_a_background_save_has_failed(tmp_path: Path) -> None:
    """What went wrong in rank 0's thread is raised on both, by the save after it, and then both can save."""
    import resource

    def work(rank: int) -> Any:
        checkpoints = CheckpointManager(tmp_path / "run", {"model": nn.Linear(1, 1)}, save_freq=1, background=True)
        raised = []
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for epoch in checkpoints.epochs(3):
            most = 100 if epoch == 1 and rank == 0 else resource.RLIM_INFINITY
            try:
                checkpoints.wait() if epoch == 1 else None
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
                checkpoints.save({"loss": 1.0 - epoch / 10})
                checkpoints._commits.settle()
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except CheckpointError as error:
                raised.append([epoch, type(error).__name__])
                checkpoints.save({"loss": 1.0 - epoch / 10})
        checkpoints.close()
        return raised

    first, other = together(work, tmp_path)
    assert [[2, "CheckpointWriteError"]] == first == other
    assert 3 == load_checkpoint(tmp_path / "run" / "last_model.pth")["position"]["epoch"]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.one_of(st.binary(max_size=3000), st.text(), st.none(), st.floats(allow_nan=False)), max_size=20)
)
def test_every_rank_hears_what_every_rank_says(tmp_path: Path, values: list[Any]) -> None:
    """Anything of any size, nothing included, and in the order of the ranks; an error of one is told to all."""

    def work(rank: int) -> Any:
        ranks = Ranks()
        heard = ranks.exchange((rank, values if rank else None))
        told = ranks.first(lambda: len(values))
        wish = ranks.meet("step", Position(epoch=1), Wish.SAVE if rank else Wish.NOTHING)
        return [heard == [(0, None), (1, values), (2, values)], told, int(wish)]

    assert [[True, len(values), 2]] * 3 == together(work, tmp_path, size=3)


def test_an_error_that_cannot_travel_is_told_in_words(tmp_path: Path) -> None:
    """An exception that pickle refuses arrives as a `RankError` with its class and text."""

    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def fail() -> None:
        raise OddError(1, 2)

    first, other = together(lambda rank: Ranks().first(fail), tmp_path)
    assert ["OddError", "1 and 2"] == first
    assert ["RankError", "OddError: 1 and 2"] == other


def test_alone_nothing_is_sent() -> None:
    """Without a group, and in a group of one, there is nobody to wait for."""
    ranks = Ranks()
    assert (1, 0, False, True) == (ranks.size, ranks.rank, ranks.many, ranks.is_first)
    assert ranks.each(lambda: 3) == [3]
    assert ranks.meet("save", Position(), Wish.STOP) == Wish.STOP
    assert "here" == ranks.look()


def test_of_a_module_only_the_buffers_of_a_rank_replace_those_of_the_file() -> None:
    """The weights stay, in their order, with the versions of the layers; a rank nobody has saved keeps its own."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    loader = ResumableLoader(DataLoader(TensorDataset(torch.zeros(4, 1))))
    there = {"model_state_dict": model.state_dict(), "loader_state_dict": {"batches": 1}, "rng_state": {"torch": 0}}
    there["ranks"] = [{}, {"model_state_dict": {"1.running_mean": torch.ones(2)}, "rng_state": {"torch": 1}}]
    objects = {"model": model, "loader": loader}
    mine = as_of(there, 1, objects)
    assert list(mine["model_state_dict"]) == list(model.state_dict())
    assert mine["model_state_dict"]["1.running_mean"].equal(torch.ones(2))
    assert mine["model_state_dict"]._metadata == model.state_dict()._metadata
    assert there["model_state_dict"]["1.running_mean"].equal(torch.zeros(2)), "the file's is as it was"
    assert ({"torch": 1}, {"batches": 1}) == (mine["rng_state"], mine["loader_state_dict"])
    other = as_of(there, 2, objects)
    assert other["rng_state"] == {}
    assert "loader_state_dict" not in other


def fork_two(work: Callable[[int], object]) -> None:
    """Call ``work(rank)`` in two processes of one group; this one is rank 0, and the other must end when it does."""
    with socket.create_server(("127.0.0.1", 0)) as free:  # no file: what is left in the folder for those is counted
        meeting = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    other = os.fork()
    rank = 0 if other else 1
    try:
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        random.seed(rank)
        np.random.seed(rank)
        torch.manual_seed(rank)
        work(rank)
    finally:
        if rank:
            os._exit(0)
        limit = time.monotonic() + 20
        while os.waitpid(other, os.WNOHANG)[0] == 0:
            assert time.monotonic() < limit, "rank 1 did not end after rank 0"
            time.sleep(0.002)


def train_by_two(directory: Path) -> None:
    """Train two epochs by two processes; each save of rank 0 is told to the crash kit."""

    def say(_: object) -> None:
        saved(run_digest(load_checkpoint(directory / "last_model.pth")))

    fork_two(lambda rank: train(rank, directory, epochs=2, on_saved=say))


def test_rank_0_killed_at_any_operation_loses_nothing() -> None:
    """The crash kit on a training by two: a sample of the points; all of them are in tests/proof/test_ranks.py."""
    campaign = crash_test(train_by_two, recover, modes=["kill", "enospc"], max_points=3)
    assert campaign.not_ok == ()
    assert len(campaign.trials) >= 6


def test_a_rank_that_is_killed_under_torchrun(tmp_path: Path) -> None:
    """SIGKILL to rank 1 of a real torchrun: rank 0 says one line, all is over soon, and the next start ends it."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, timeout=90, check=False
        )

    begin = time.monotonic()
    killed = run(KILL="1")
    assert time.monotonic() - begin < 60
    assert killed.returncode == 1
    own = [line for line in killed.stderr.splitlines() if "leaves: another one" in line]
    assert own == [
        "rank 0 leaves: another one of the 2 has ended; start all of them again to go on at epoch 1, batch 0 "
        "(global step 4)"
    ], killed.stderr
    before = re.split(r"(?m)^[WE]\d{4} ", killed.stderr)[0]
    assert "Traceback" not in before, before
    ended = run()
    assert ended.returncode == 0, ended.stderr
    assert "epoch 1\nepoch 2\n" == ended.stdout


SCRIPT = """
import os, signal
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from koemorph_tutorial import CheckpointManager, ResumableLoader

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
optimizer = torch.optim.AdamW(model.parameters())
data = TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
sampler = DistributedSampler(data)
loader = ResumableLoader(DataLoader(data, 4, sampler=sampler))
objects = {"model": model, "optimizer": optimizer, "loader": loader}
with CheckpointManager("run", objects, save_freq=1) as checkpoints:
    for epoch in checkpoints.epochs(3):
        sampler.set_epoch(epoch)
        if rank == 0:
            print("epoch", epoch, flush=True)
        for x, y in loader:
            if rank == 1 and epoch == 1 and "KILL" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            checkpoints.step()
        checkpoints.save({"loss": 1 / (epoch + 1)})
os._exit(0)  # gloo's own threads abort a process now and then while Python ends
"""


def test_rank_lost_is_an_exit_with_its_reason() -> None:
    """A process that lets it through prints the line and ends with exit code 1, as the interpreter does with a text."""
    code = "from koemorph_tutorial.records import RankLost; raise RankLost('rank 0 leaves')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (1, "rank 0 leaves\n") == (ended.returncode, ended.stderr)
    assert issubclass(RankError, CheckpointError)
    assert not issubclass(RankLost, Exception)
    assert issubclass(StopTraining, SystemExit)
    assert replace(Position(), epoch=1).epoch == 1
