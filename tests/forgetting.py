"""A training of everything a run is made of, and ways to lose one part of it, at the save or at the restore."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial import CheckpointManager, CheckpointSettings, ResumableLoader, manager, resume, skipping
from koemorph_tutorial.commit import Commits
from koemorph_tutorial.state import build
from koemorph_tutorial.testing import Recorder
from koemorph_tutorial.training.tracking import EarlyStopping

Checkpoint = dict[str, Any]


class Average:
    """An exponential moving average of a module's weights, as many write it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.shadow = copy.deepcopy(module)

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        for mean, now in zip(self.shadow.parameters(), module.parameters(), strict=True):
            mean.lerp_(now, 0.1)

    def state_dict(self) -> dict[str, Any]:
        return self.shadow.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow.load_state_dict(state)


def train(
    folder: Path, recorder: Recorder | None = None, *, workers: int = 0, epochs: int = 5, background: bool = False
) -> None:
    """Train to the end, and go on where what lies in `folder` ends. Each batch draws from all three generators."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    data = TensorDataset(torch.linspace(-1, 1, 60).reshape(20, 3).sin())
    loader = ResumableLoader(DataLoader(data, 4, shuffle=True, num_workers=workers))
    stopping, average = EarlyStopping(9, CheckpointSettings()), Average(model)
    objects = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "early_stopping": stopping,
        "ema": average,
        "loader": loader,
    }
    with CheckpointManager(folder, objects, save_freq=2, background=background) as checkpoints:
        for epoch in checkpoints.epochs(epochs):
            for (batch,) in loader:
                batch = batch * random.gauss(1, 0.1) + float(np.random.normal()) * 0.1
                loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                average.update(model)
                checkpoints.step()
            with torch.no_grad():
                metrics = {"loss": (average.shadow.eval()(data.tensors[0])).square().mean() + epoch % 2}
            scheduler.step()
            stopping.update(metrics, epoch)
            checkpoints.save(metrics)


def _without(*path: str) -> Callable[[Checkpoint, Checkpoint], None]:
    def lose(checkpoint: Checkpoint, initial: Checkpoint) -> None:
        *parents, name = path
        for parent in parents:
            checkpoint[parent] = dict(checkpoint[parent])
            checkpoint = checkpoint[parent]
        checkpoint.pop(name, None)

    return lose


def _as_at_the_beginning(*path: str) -> Callable[[Checkpoint, Checkpoint], None]:
    def lose(checkpoint: Checkpoint, initial: Checkpoint) -> None:
        *parents, name = path
        for parent in parents:
            checkpoint[parent] = dict(checkpoint[parent])
            checkpoint, initial = checkpoint[parent], initial[parent]
        checkpoint[name] = initial[name]

    return lose


# What is lost, by the component and the leaf that a certificate must name for it (a leaf may go on after that).
LOSSES: Mapping[tuple[str, str], Callable[[Checkpoint, Checkpoint], None]] = {
    ("model", "0.weight"): _as_at_the_beginning("model_state_dict"),
    ("optimizer", "state"): _as_at_the_beginning("optimizer_state_dict"),
    ("scheduler", "last_epoch"): _without("scheduler_state_dict"),
    ("rng.python", "state"): _without("rng_state", "python"),
    ("rng.numpy", "state"): _without("rng_state", "numpy"),
    ("rng.torch", ""): _without("rng_state", "torch"),
    ("loader", "generator_state"): _as_at_the_beginning("loader_state_dict", "generator_state"),
    ("loader", "batches"): _as_at_the_beginning("loader_state_dict", "batches"),
    ("best", "value"): _without("best"),
    ("early_stopping", "count"): _without("early_stopping_state_dict"),
    ("ema", "0.weight"): _without("ema_state_dict"),
}


def lose_at_save(what: tuple[str, str]) -> None:
    """Have this process save without that part."""
    first: list[Checkpoint] = []

    def forgetful(objects: Any, **details: Any) -> Checkpoint:
        checkpoint = build(objects, **details)
        LOSSES[what](checkpoint, first[0])
        return checkpoint

    _remember_the_beginning(first)
    manager.build = forgetful


def lose_at_restore(what: tuple[str, str]) -> None:
    """Have this process leave that part as it is when it resumes."""
    restore, first = resume.restore, list[Checkpoint]()

    def forgetful(checkpoint: Checkpoint, objects: Any, **details: Any) -> Any:
        checkpoint = dict(checkpoint)
        LOSSES[what](checkpoint, first[0])
        return restore(checkpoint, objects, **details)

    _remember_the_beginning(first)
    resume.restore = forgetful


def forget_the_best() -> None:
    """Have this process's managers begin without the best of what they resume."""
    begin = Commits.begin

    def forgetful(self: Commits, run: Any, best: Any = None, position: Any = None) -> None:
        begin(self, run, None, position)

    Commits.begin = forgetful


def _remember_the_beginning(first: list[Checkpoint]) -> None:
    """Take the state of a manager's objects when it is made."""
    make = CheckpointManager.__init__

    def and_remember(self: CheckpointManager, directory: Any, objects: Any, *rest: Any, **more: Any) -> None:
        make(self, directory, objects, *rest, **more)
        if not first:
            at = manager.Position()
            first.append(
                build(objects, epoch=0, position=at, metrics={}, best=manager.Best(), run={"saves": 0}, copy=True)
            )

    CheckpointManager.__init__ = and_remember


def share_the_global_generator() -> None:
    """Have this process's ResumableLoaders draw from torch's global generator, as if they had none of their own."""

    def the_global_one(loader: Any, samplers: list[Any]) -> torch.Generator:
        for sampler in samplers:
            if hasattr(sampler, "generator"):
                sampler.generator = torch.default_generator
        return torch.default_generator

    skipping._own_generator = the_global_one
