"""What is saved here: the state of a training, 200 MB with that of its AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def objects_of_200_mb() -> dict[str, Any]:
    """Return a language model of 17 M parameters and its AdamW after a step."""
    from torch import nn

    layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True)
    return after_a_step(nn.Sequential(nn.Embedding(3300, 768), nn.TransformerEncoder(layer, 2)))


def after_a_step(model: Any) -> dict[str, Any]:
    """Return a model and its AdamW, whose moments are there after a step."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def checkpoint_of_200_mb() -> dict[str, Any]:
    """Return their checkpoint, as a training loop would make it."""
    from koemorph_tutorial import Position
    from koemorph_tutorial.records import Best
    from koemorph_tutorial.state import build

    return build(
        objects_of_200_mb(),
        epoch=0,
        position=Position(epoch=1, global_step=1),
        metrics={"loss": 0.5},
        best=Best(),
        run={"line": "benchmark", "parent": None, "saves": 1},
    )


def file_of_200_mb(folder: Path) -> Path:
    """Save that checkpoint in `folder`."""
    from koemorph_tutorial import save_checkpoint

    return save_checkpoint(checkpoint_of_200_mb(), folder / "last_model.pth").path
