"""A training that sends itself SIGTERM at a chosen moment: between two lines of its loop, or at a call of a save."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
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


def train(folder: Path, moment: Moments, epochs: int = 4, shape: str = "") -> None:
    """Train as somebody would who has never heard of stops: code after the inner loop, no except clause.

    Shapes: "accumulated" steps after every fourth of six batches and drops the rest; "validated" has the loader of the
    validation among its objects, twice as long and iterated twice, and a generator that validation draws from.
    """
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    data = TensorDataset(torch.linspace(-1, 1, 72).reshape(24, 3).sin())
    loader, mean = ResumableLoader(DataLoader(data, 4, shuffle=True)), RunningMean()
    validation: Any = DataLoader(data, 4, shuffle=True)  # draws from the global generator, and so does what follows it
    objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader, "mean": mean}
    generator = None  # of validation's noise: the global one
    if shape == "validated":
        validation = ResumableLoader(DataLoader(data, 2, shuffle=True))
        generator = torch.Generator().manual_seed(5)
        objects = {"validation": validation, "generator": generator, **objects}
    with CheckpointManager(folder, objects, save_freq=2, keep_last_n=2, milestones=()) as checkpoints:
        for _ in checkpoints.epochs(epochs):
            model.train()
            for number, (batch,) in enumerate(loader, checkpoints.position.batch):
                moment("training", "forward")
                loss = (model(batch * random.gauss(1, 0.1)) - batch.sum(1, keepdim=True)).square().mean()
                loss.backward()
                mean.add(loss.item(), count=len(batch))
                if shape != "accumulated" or number % 4 == 3:
                    moment("training", "optimizer.step")
                    optimizer.step()
                    optimizer.zero_grad()
                    moment("training", "step")
                    checkpoints.step()
            optimizer.zero_grad()
            model.eval()
            losses = []
            for (batch,) in chain(validation, validation if shape == "validated" else ()):
                moment("validation", "forward")
                with torch.no_grad():
                    noisy = batch + torch.randn(batch.shape, generator=generator) + 0.1 * float(np.random.normal())
                    noisy += 0.1 * torch.randn_like(batch)
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
