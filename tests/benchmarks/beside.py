"""How long a training loop stands still for a save in the background, beside one that it waits for.

The same state of 200 MB, the same machine, in turns; each save in the background is waited for before the next turn,
outside of the time. What it costs after the call, because the writing shares cores and memory with the training, is in
the last row: a stretch of training with one save in it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peers
import torch
from measuring import Row, in_turns
from torch import nn

from koemorph_tutorial import CheckpointManager

STEPS = 30


def objects_of_200_mb() -> dict[str, Any]:
    """Return a network of 16.7 million parameters and its AdamW after a step."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(16)))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    train(model, optimizer)
    return {"model": model, "optimizer": optimizer}


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 1024)).square().mean().backward()
    optimizer.step()


class Managed:
    """Saves by a CheckpointManager, in the background or not."""

    def __init__(self, objects: dict[str, Any], folder: Path, *, background: bool) -> None:
        settings: dict[str, Any] = {"save_freq": 1, "keep_last_n": 2, "background": background}
        self._manager = CheckpointManager(folder, objects, **settings)

    def save(self, turn: int) -> object:
        return self._manager.save({"loss": 1.0})

    def wait(self) -> object:
        return self._manager.wait()

    def close(self) -> None:
        self._manager.close()


Saver = tuple[Callable[[int], object], Callable[[], object], Callable[[], object]]


def in_the_background() -> Iterable[Row]:
    """Time the calls that save; then a stretch of training with one in it."""
    torch.set_num_threads(1)
    objects = objects_of_200_mb()
    with tempfile.TemporaryDirectory() as root:
        blocking = Managed(objects, Path(root, "blocking"), background=False)
        background = Managed(objects, Path(root, "background"), background=True)
        savers: dict[str, Saver] = {
            "blocking": (blocking.save, lambda: None, blocking.close),
            "background": (background.save, background.wait, background.close),
        }
        if not peers.missing():
            savers |= {name: make(objects, Path(root, name)) for name, make in peers.IN_BACKGROUND.items()}

        def all_quiet(name: str, turn: int) -> None:
            for _, wait, _ in savers.values():
                wait()
            os.sync()

        seconds = in_turns({name: saver[0] for name, saver in savers.items()}, rounds=9, warm_up=2, before=all_quiet)
        yield Row(
            name="stall of a save in the background / one waited for, 200 MB",
            measured=seconds["background"],
            reference=seconds["blocking"],
            bound=0.25,
        )
        for name in list(savers)[2:]:
            yield Row(
                name=f"  stall of {name} / our save, waited for", measured=seconds[name], reference=seconds["blocking"]
            )

        def stretch(save: Callable[[int], object]) -> Callable[[int], object]:
            def run(turn: int) -> None:
                save(turn)
                for _ in range(STEPS):
                    train(objects["model"], objects["optimizer"])

            return run

        calls = {"none": stretch(lambda _: None), **{name: stretch(savers[name][0]) for name in list(savers)[:2]}}
        seconds = in_turns(calls, rounds=5, before=all_quiet)
        for _, wait, close in savers.values():
            wait()
            close()
    yield Row(
        name=f"  {STEPS} steps and a save, background / waited for",
        measured=seconds["background"],
        reference=seconds["blocking"],
    )
    yield Row(
        name=f"  {STEPS} steps and a save in the background / none",
        measured=seconds["background"],
        reference=seconds["none"],
    )
