"""What is saved here: the state of a training, 200 MB with that of its AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def checkpoint_of_200_mb() -> dict[str, Any]:
    """Return the checkpoint of a language model of 17 M parameters after a step of AdamW, as a training loop would."""
    import torch
    from torch import nn

    from koemorph_tutorial import Position
    from koemorph_tutorial.records import Best
    from koemorph_tutorial.state import build

    layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True)
    model = nn.Sequential(nn.Embedding(3300, 768), nn.TransformerEncoder(layer, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return build(
        {"model": model, "optimizer": optimizer},
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
