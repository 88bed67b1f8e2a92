"""Where a run is: counted by its loader, or one a call."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial import Position, ResumableLoader
from koemorph_tutorial.progress import Progress, fingerprint


def loader(samples: int) -> ResumableLoader[tuple[torch.Tensor, ...]]:
    """Return a loader of so many batches of one sample."""
    return ResumableLoader(DataLoader(TensorDataset(torch.zeros(samples))))


def test_without_a_loader_a_call_is_a_batch() -> None:
    """Epoch, batch and global step go on from where the run is."""
    progress = Progress({})
    assert [1, 1, 1] == [progress.count_batch() for _ in range(3)]
    assert Position(epoch=0, batch=3, global_step=3) == progress.position
    assert 0 == progress.end_epoch()
    progress.count_batch()
    assert Position(epoch=1, batch=1, global_step=4) == progress.position


def test_with_a_loader_its_batches_count() -> None:
    """Called every second batch, with gradients accumulated in between."""
    read = loader(4)
    progress = Progress({"loader": read})
    counted = [progress.count_batch() for number, _ in enumerate(read) if number % 2]
    assert [2, 2] == counted
    assert (0, Position(epoch=1, batch=0, global_step=4)) == (progress.end_epoch(), progress.position)


def test_an_epoch_without_any_call_is_counted_at_its_end() -> None:
    """A loop that does not call step."""
    read = loader(4)
    progress = Progress({"loader": read})
    assert 4 == len(list(read))
    progress.end_epoch()
    assert 4 == progress.position.global_step


def test_a_loop_may_count_for_itself() -> None:
    """Its own numbers are taken as they are."""
    progress = Progress({})
    assert 7 == progress.end_epoch(epoch=7, global_step=700)
    assert Position(epoch=8, batch=0, global_step=700) == progress.position
    progress.count_batch()
    assert 701 == progress.position.global_step


def test_the_longest_of_those_that_are_read_counts() -> None:
    """One for validation is not read in training; a short one is cycled beside the long one."""
    short, long, validation = loader(2), loader(5), loader(9)
    progress = Progress({"validation": validation, "short": short, "long": long})
    cycled = iter(short)
    for _ in long:
        if next(cycled, None) is None:
            cycled = iter(short)
            next(cycled)
        progress.count_batch()
    assert 5 == progress.position.batch


def test_it_goes_on_from_a_saved_position() -> None:
    """Inside an epoch or between two."""
    progress = Progress({})
    progress.go_on(Position(epoch=2, batch=3, global_step=13))
    assert not progress.ended
    progress.count_batch()
    assert Position(epoch=2, batch=4, global_step=14) == progress.position
    progress.go_on(Position(epoch=3, batch=0, global_step=15))
    assert progress.ended


def test_each_epoch_counts_the_loader_that_it_reads() -> None:
    """A curriculum: one set of data first, another later; a validation before the first step does not count."""
    first, second, validation = loader(2), loader(3), loader(9)
    progress = Progress({"first": first, "second": second, "validation": validation})
    for read in (first, first, second):
        list(validation)
        for _ in read:
            progress.count_batch()
        progress.end_epoch()
    assert Position(epoch=3, batch=0, global_step=2 + 2 + 3) == progress.position


def test_it_is_known_that_no_batch_is_left() -> None:
    """At the last batch, and in the step after the loop, of gradients accumulated over its last batches."""
    read = loader(3)
    progress = Progress({"loader": read})
    found = []
    for _ in read:
        progress.count_batch()
        found.append(progress.no_batch_is_left)
    assert [False, False, True, True] == [*found, progress.no_batch_is_left]


def moved() -> dict[str, Any]:
    """Return objects of every kind that a training moves."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "loader": loader(3),
        "generator": torch.Generator(),
    }


@pytest.mark.parametrize(
    "move",
    [
        lambda items: items["optimizer"].step(),
        lambda items: items["model"](torch.ones(3, 2)),
        lambda items: items["scheduler"].step(),
        lambda items: next(iter(items["loader"])),
        lambda items: torch.rand(1, generator=items["generator"]),
        lambda items: torch.rand(1),
        lambda items: random.random(),
        lambda items: np.random.rand(),
        lambda items: nn.init.zeros_(items["model"][0].weight),
    ],
)
def test_whatever_a_training_moves_shows_in_the_fingerprint(move: Callable[[dict[str, Any]], object]) -> None:
    """Weights, buffers, counters, orders, random states; fused optimizers, which move no version, by their steps."""
    items = moved()
    before = fingerprint(items)
    assert before == fingerprint(items)
    move(items)
    assert before != fingerprint(items)


@pytest.mark.parametrize(("again", "words"), [(False, "expected a new batch"), (True, "began again inside the epoch")])
def test_a_count_that_does_not_grow_is_refused(again: bool, words: str) -> None:
    """A save there would lie where nobody can go on."""
    read = loader(3)
    progress = Progress({"loader": read})
    for _ in read:
        progress.count_batch()
    if again:
        next(iter(read))
    with pytest.raises(RuntimeError, match=words):
        progress.count_batch()


def test_an_object_of_somebodys_is_not_asked_for_its_state() -> None:
    """It may be a replay buffer of gigabytes, or draw random numbers."""

    class Restless:
        def state_dict(self) -> dict[str, Any]:
            raise AssertionError("asked")

        def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    before = torch.get_rng_state()
    assert fingerprint({"restless": Restless()}) == fingerprint({"restless": Restless()})
    assert before.equal(torch.get_rng_state())
