"""The trainings that ``koemorph crash-test`` tries when it is given none: a tiny network, and every kind of save."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial.digests import run_digest
from koemorph_tutorial.loading import ResumableLoader
from koemorph_tutorial.manager import CheckpointManager
from koemorph_tutorial.records import CheckpointSettings
from koemorph_tutorial.resume import find
from koemorph_tutorial.storage import load_checkpoint

from .bench import saved

_LOSSES = (0.9, 0.5, 0.7, 0.6, 0.4, 0.8)  # epochs 0, 1 and 4 are the best so far
_SETTINGS = CheckpointSettings(save_freq=1, keep_last_n=2, keep_best_n=0, milestones=())


def train(directory: Path, epochs: int = 4, source: str | Path = "auto", *, background: bool = False) -> None:
    """Train `epochs` epochs, each of which is saved under its number, and go on where what lies there ends."""

    def say_saved(_: object = None) -> None:
        saved(run_digest(load_checkpoint(directory / "last_model.pth")))

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = TensorDataset(torch.linspace(-1, 1, 24).reshape(8, 3))
    loader = ResumableLoader(DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(0)))
    objects = {"model": model, "optimizer": optimizer, "loader": loader}
    settings = replace(_SETTINGS, background=background)
    with CheckpointManager(directory, objects, settings, on_saved=say_saved) as checkpoints:
        resumed = checkpoints.resume(source)
        if source != "auto" and resumed.file is not None:
            say_saved()
        for epoch in checkpoints.epochs(epochs):
            for (batch,) in loader:
                loss = model(batch).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                checkpoints.step()
            checkpoints.save({"loss": _LOSSES[epoch]})


def train_in_background(directory: Path) -> None:
    """Train four epochs, each saved by a thread while the next one trains."""
    train(directory, background=True)


def train_and_go_back(directory: Path) -> None:
    """Train four epochs, go back to the third, and train on to six; started again it goes on where it is."""
    if any(directory.glob("*.pth")):
        train(directory, epochs=6)
    else:
        train(directory)
        train(directory, epochs=6, source=directory / "checkpoint_epoch_002.pth")


def recover(directory: Path) -> str | None:
    """Return the digest of the newest sound checkpoint, None where none was ever saved."""
    if not any(directory.glob("*.pth")):
        return None
    return run_digest(find(directory).checkpoint)
