"""A run on a disk as the recipe saves it, and copies of its folder as people make them: whose times say nothing."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from koemorph_tutorial.records import BEST_NAME, LAST_NAME, numbered_epoch, numbered_name
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel


def recipe_run(folder: str | Path, losses: Sequence[float], *, resumed: int) -> None:
    """Save a run as the recipe does, an hour an epoch: each epoch under its number and as the last, some as the best.

    The files are real, the weights untrained. After epoch `resumed` it was stopped; the recipe trains that one again,
    and has forgotten its best.
    """
    folder, model, best = Path(folder), SimplifiedKoeMorphModel(), math.inf
    folder.mkdir()
    for epoch, loss in enumerate(losses):
        best = math.inf if epoch == resumed else best
        names = [numbered_name(epoch), LAST_NAME, *([BEST_NAME] if loss < best else [])]
        best = min(best, loss)
        checkpoint = {"epoch": epoch, "metrics": {"loss": loss}, "model_state_dict": model.state_dict()}
        for name in names:
            torch.save(checkpoint, folder / name)
            os.utime(folder / name, (1.7e9 + 3600 * epoch,) * 2)


def epochs(folder: str | Path) -> list[int]:
    """Return the epochs of the numbered files in a folder, in the order of their times, the oldest first."""
    times = {numbered_epoch(file.name): file.stat().st_mtime for file in Path(folder).iterdir()}
    return sorted((epoch for epoch in times if epoch is not None), key=lambda epoch: times[epoch])


def copy(source: str | Path, target: str | Path, *, seed: int) -> None:
    """Copy the files of a folder in an order that chance draws, ten seconds each; a copy has the time when it was made.

    That is what ``cp -r`` does, but for the order, which depends on the disk.
    """
    target = Path(target)
    target.mkdir()
    for place, name in enumerate(order(os.listdir(source), seed=seed)):
        made = 1.8e9 + 3600 * seed + 10 * place  # each copying has an hour of its own
        os.utime(shutil.copyfile(Path(source, name), target / name), (made, made))


def order(names: Sequence[str], *, seed: int) -> list[str]:
    """Return the names in an order that chance draws, the same on every machine.

    >>> order(["a", "b", "c"], seed=6)
    ['c', 'a', 'b']
    """
    chance = random.Random(seed)
    return sorted(sorted(names), key=lambda name: chance.random())
