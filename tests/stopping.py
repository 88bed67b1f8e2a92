"""A training that sends itself SIGTERM at a chosen moment: between two lines of its loop, or at a call of a save."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.training.tracking import RunningMean

Moment = tuple[str, str, int]  # phase, what is about to happen, for the how many-th time
CALLS = ("write", "fsync", "replace", "link", "unlink")  # of the module os


class Moments:
    """Count the moments of a training; send SIGTERM to it at one of them."""

    def __init__(self, stop: Moment | None = None) -> None:
        self.stop = stop
        self.seen: list[Moment] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, phase: str, what: str) -> None:
        self._counts[phase, what] += 1
        moment = phase, what, self._counts[phase, what]
        self.seen.append(moment)
        if moment == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def watching_saves(self) -> Iterator[None]:
        """Count the calls to the disk, half of which lie between two others of the same save."""
        originals = {name: getattr(os, name) for name in CALLS}

        def watched(name: str) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                self("saving", name)
                return originals[name](*arguments, **more)

            return call

        for name in CALLS:
            setattr(os, name, watched(name))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)


def train(folder: Path, moment: Moments, epochs: int = 4) -> None:
    """Train as somebody would who has never heard of stops: code after the inner loop, no except clause."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    data = TensorDataset(torch.linspace(-1, 1, 72).reshape(24, 3).sin())
    loader, mean = ResumableLoader(DataLoader(data, 4, shuffle=True)), RunningMean()
    validation = DataLoader(data, 4, shuffle=True)  # draws from the global generator, and so does what follows it
    objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader, "mean": mean}
    with CheckpointManager(folder, objects, save_freq=2, keep_last_n=2, milestones=()) as checkpoints:
        for _ in checkpoints.epochs(epochs):
            model.train()
            for (batch,) in loader:
                moment("training", "forward")
                loss = (model(batch * random.gauss(1, 0.1)) - batch.sum(1, keepdim=True)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                moment("training", "optimizer.step")
                optimizer.step()
                mean.add(loss.item(), count=len(batch))
                moment("training", "step")
                checkpoints.step()
            model.eval()
            losses = []
            for (batch,) in validation:
                moment("validation", "forward")
                with torch.no_grad():
                    noisy = batch + 0.1 * torch.randn_like(batch) + float(np.random.normal())
                    losses.append(model(noisy).square().mean())
                moment("validation", "poll")
                checkpoints.poll()
            metrics = {"loss": torch.stack(losses).mean(), "train_loss": mean.take()}
            moment("validation", "scheduler")
            scheduler.step(metrics["loss"])
            with moment.watching_saves():
                checkpoints.save(metrics)
            moment("training", "next epoch")
    (folder / "after.txt").write_text(f"{epochs} epochs")
