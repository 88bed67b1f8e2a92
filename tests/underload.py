"""Saves in the background while the training goes on changing everything that they hold."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from koemorph_tutorial import CheckpointManager, load_checkpoint
from koemorph_tutorial.rng import capture_rng
from koemorph_tutorial.testing import digest


def saves_under_load(directory: Path, *, saves: int, width: int) -> int:
    """Save so many times; return how many files hold bitwise what was there at the call, while it was changed since."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Dropout(0.1), nn.Linear(width, width))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        random.gauss(0, 1), np.random.normal()
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.999

    def state() -> str:
        return digest([model.state_dict(), optimizer.state_dict(), capture_rng()])

    def stored() -> str:
        checkpoint = load_checkpoint(directory / "last_model.pth")
        return digest([checkpoint[key] for key in ("model_state_dict", "optimizer_state_dict", "rng_state")])

    durable: list[Any] = []
    objects = {"model": model, "optimizer": optimizer}
    right = 0
    settings: dict[str, Any] = {"save_freq": 1, "keep_last_n": 2, "background": True}
    with CheckpointManager(directory, objects, on_saved=durable.append, **settings) as checkpoints:
        step()
        for number in range(saves):
            before = state()
            checkpoints.save({"loss": 1.0})
            while len(durable) <= number:
                step()
            assert before != state()
            right += before == stored()
    return right
