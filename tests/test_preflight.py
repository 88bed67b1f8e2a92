"""Is there room? Lower bounds only, so that a run that would fit is never refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial import CheckpointManager, CheckpointSettings, save_checkpoint
from koemorph_tutorial.preflight import check_room, contents_held, size_of_state
from koemorph_tutorial.records import Best, CheckpointFile, CheckpointWriteError, Position, kind_of
from koemorph_tutorial.retention import plan_retention
from koemorph_tutorial.save_policy import decide


@pytest.mark.parametrize(
    ("settings", "first", "total", "expected"),
    [
        pytest.param({}, 0, 0, 0, id="nothing to do"),
        pytest.param({}, 7, 5, 0, id="all done"),
        pytest.param({}, 0, 1, 1, id="one epoch, one file"),
        pytest.param({"save_freq": 1, "milestones": ()}, 0, 100, 11, id="ten are kept while one is written"),
        pytest.param({"save_freq": 1, "milestones": (), "keep_last_n": None}, 0, 100, 100, id="all are kept"),
        pytest.param({"save_freq": 1, "milestones": (3, 50, 98)}, 0, 100, 13, id="milestones stay as well"),
        pytest.param({"save_freq": 1, "milestones": (3, 50, 98)}, 60, 100, 11, id="those of before are paid"),
        pytest.param({"save_freq": 40, "milestones": ()}, 0, 100, 4, id="fewer than are kept, and the final one"),
        pytest.param({"save_best_only": True}, 0, 100, 1, id="only the final one is sure"),
    ],
)
def test_how_many_contents_a_run_holds(settings: dict[str, Any], first: int, total: int, expected: int) -> None:
    """What is sure to be on the disk at once: the best ones may be among them."""
    assert expected == contents_held(CheckpointSettings(**settings), first, total)


@given(
    save_freq=st.integers(1, 7),
    milestones=st.sets(st.integers(0, 30)),
    keep_last_n=st.none() | st.integers(2, 5),
    keep_best_n=st.integers(0, 3),
    save_best_only=st.booleans(),
    losses=st.lists(st.floats(0, 1), min_size=1, max_size=30),
)
def test_no_run_holds_less_than_was_counted(
    save_freq: int,
    milestones: set[int],
    keep_last_n: int | None,
    keep_best_n: int,
    save_best_only: bool,
    losses: list[float],
) -> None:
    """Played through with the real rules, whatever the losses are: so nobody is refused who would have had room."""
    settings = CheckpointSettings(
        save_freq=save_freq,
        milestones=tuple(milestones),
        keep_last_n=keep_last_n,
        keep_best_n=keep_best_n,
        save_best_only=save_best_only,
    )
    held: dict[str, CheckpointFile] = {}
    peak, best = 0, Best()
    for epoch, loss in enumerate(losses):
        now: dict[str, Any] = {"epoch": epoch, "global_step": epoch, "metrics": {"loss": loss}, "best": best}
        decision = decide(settings, **now)
        if not decision.names and epoch == len(losses) - 1:
            decision = decide(settings, **now, ending=True)
        if not decision.names:
            continue
        here = {file.epoch for file in held.values()}
        peak = max(peak, len(here | {epoch}))
        for name in decision.names:
            held[name] = file_of(name, epoch, loss)
        best = decision.best
        plan = plan_retention(
            list(held.values()),
            keep_last_n=keep_last_n,
            keep_best_n=keep_best_n,
            milestones=settings.milestones,
            best=best,
        )
        for path in plan.removed:
            del held[path.name]
    assert contents_held(settings, 0, len(losses)) <= peak


def file_of(name: str, epoch: int, loss: float) -> CheckpointFile:
    """Return the record of a file."""
    return CheckpointFile(
        path=Path(name),
        epoch=epoch,
        position=Position(epoch=epoch + 1),
        kind=kind_of(name),
        codec=None,
        line="line",
        saves=epoch + 1,
        metrics={"loss": loss},
        size=1,
        inode=epoch,
    )


OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "Adamax": torch.optim.Adamax,
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": torch.optim.RMSprop,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stepped", [False, True])
def test_the_size_is_never_above_that_of_the_file(tmp_path: Path, name: str, stepped: bool) -> None:
    """And for what is known it is near, also before the first step has made the optimizer's state."""
    model = nn.Sequential(nn.Linear(200, 200), nn.BatchNorm1d(200), nn.Linear(200, 200))
    model[2].weight = model[0].weight  # tied: saved once
    model.register_buffer("window", torch.zeros(10_000), persistent=False)
    model[1].weight.requires_grad_(False)
    objects = {"model": model, "optimizer": OPTIMIZERS[name](model.parameters())}

    def step() -> None:
        model(torch.randn(4, 200)).sum().backward()
        objects["optimizer"].step()

    if stepped:
        step()
    size = size_of_state(objects)
    step()
    with CheckpointManager(tmp_path, objects) as checkpoints:
        checkpoints.save({"loss": 1.0}, epoch=0)
    file = (tmp_path / "last_model.pth").stat().st_size
    assert size <= file
    if name != "RMSprop" or stepped:
        assert size > file - 30_000  # random states, and what a zip takes


def test_only_torch_itself_is_asked_and_nothing_is_moved() -> None:
    """No random number is drawn, no state dict is made, and what says for itself how it is saved is not guessed at."""

    class Own(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("asked")

    class Moving:
        def state_dict(self) -> dict[str, Any]:
            torch.rand(1)
            raise AssertionError("asked")

    class Foreign(torch.optim.AdamW):
        pass

    lazy = nn.LazyLinear(3)
    model = nn.Linear(2, 2, bias=False)
    objects: dict[str, object] = {"own": nn.Sequential(Own(3, 3)), "moving": Moving(), "lazy": lazy, "model": model}
    objects |= {"foreign": Foreign(model.parameters()), "optimizer": torch.optim.AdamW(lazy.parameters())}
    before = torch.get_rng_state().tolist()
    assert 16 == size_of_state(objects)
    assert before == torch.get_rng_state().tolist()


def disk_with(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every disk have so many bytes free."""
    real = os.statvfs

    def statvfs(path: Any) -> os.statvfs_result:
        found = [*list(real(path)), 0]
        found[1], found[4] = 1, free  # f_frsize, f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_too_little_room_is_said_before_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where, how many, how large, what was found, what to do; nothing but the lock is in the folder."""
    model = nn.Linear(100, 100, bias=False)
    objects = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    disk_with(1_000_000, monkeypatch)
    with CheckpointManager(tmp_path, objects, save_freq=1, milestones=()) as checkpoints:
        with pytest.raises(CheckpointWriteError) as refused:
            checkpoints.epochs(100)
        line = "expected room for 11 checkpoints of about 120,000 bytes, found 1,000,000 bytes free; "
        assert f"{tmp_path}: {line}free some, or lower keep_last_n" == str(refused.value)
        assert errno.ENOSPC == refused.value.errno
    assert [".lock"] == os.listdir(tmp_path)
    disk_with(1_320_000, monkeypatch)
    with CheckpointManager(tmp_path, objects, save_freq=1, milestones=()) as checkpoints:
        checkpoints.epochs(100)
    disk_with(100_000, monkeypatch)
    with (
        CheckpointManager(tmp_path, objects) as checkpoints,
        pytest.raises(CheckpointWriteError, match="expected room for 1 checkpoint of about 120,000 bytes"),
    ):
        checkpoints.save({"loss": 1.0}, epoch=0)


def test_what_lies_there_is_paid_for_and_the_next_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that share their bytes are one content; the first save needs its room beside them."""
    content = {"weight": torch.zeros(10_000)}
    file = save_checkpoint(content, tmp_path / "checkpoint_epoch_000.pth", also=["last_model.pth"])
    disk_with(2 * file.size - 1, monkeypatch)
    with pytest.raises(CheckpointWriteError, match=f"room for 3 checkpoints of about {file.size:,} bytes"):
        check_room(tmp_path, 3, file.size)
    disk_with(2 * file.size, monkeypatch)
    check_room(tmp_path, 3, file.size)
    disk_with(file.size - 1, monkeypatch)
    check_room(tmp_path, 0, file.size)
    with pytest.raises(CheckpointWriteError):
        check_room(tmp_path, 1, file.size)


def test_a_disk_that_says_nothing_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems count no blocks, others do not answer."""
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result([0] * 11))
    check_room(tmp_path, 5, 1000)

    def refuse(_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "statvfs", refuse)
    check_room(tmp_path, 5, 1000)


def test_a_total_that_nobody_means_to_reach_is_counted_at_once() -> None:
    assert 16 == contents_held(CheckpointSettings(save_freq=5), 0, 10**12)
    assert 10**12 // 5 + 1 == contents_held(CheckpointSettings(save_freq=5, keep_last_n=None), 0, 10**12)


def test_a_model_that_chooses_what_it_saves_is_not_counted() -> None:
    """As adapters do: the state dict of the object alone is replaced."""
    model = nn.Linear(100, 100)
    model.state_dict = dict  # type: ignore[assignment, method-assign]
    assert 0 == size_of_state({"model": model})
