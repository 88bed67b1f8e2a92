"""Five files made of one good one, each harmed in a way of its own, for somebody to find out which is which.

The names say nothing, and no verdict tells all five apart. `CAUSES` says what there is to be found, and one thing more.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from koemorph_tutorial.header import read_header

from .flips import draw, first_byte, flip

BLOCK = 4096  # bytes: what a disk writes, and loses, at once

FLIPPED, REMEMBERED, LOST = "a bit flipped on the disk", "a bit flipped in memory", "a lost block"
DIVERGED, UNCHECKED, CUT = "a diverged run", "no checksums", "cut short"
CAUSES = (FLIPPED, REMEMBERED, LOST, DIVERGED, UNCHECKED, CUT)

PATIENTS: Mapping[str, str] = {
    "1.pth": DIVERGED,
    "2.pth": LOST,
    "3.pth": UNCHECKED,
    "4.pth": FLIPPED,
    "5.pth": REMEMBERED,
}


def lay_out(path: str | Path, folder: str | Path) -> None:
    """Put five harmed copies of a checkpoint into a folder, which is made."""
    Path(folder).mkdir(exist_ok=True)
    for name, cause in PATIENTS.items():
        patient = Path(folder, name)
        patient.unlink(missing_ok=True)
        shutil.copyfile(path, patient)
        _HARM[cause](patient)


def _flip_on_disk(path: Path) -> None:
    flip(path, draw(path, seed=4), 31)


def _flip_in_memory(path: Path) -> None:
    """Load, turn over the sign of a weight, and save: with a checksum of what is wrong."""
    import torch

    weight, checkpoint = draw(path, seed=5), torch.load(path)
    checkpoint["model_state_dict"][weight.name].view(-1)[weight.index] *= -1
    torch.save(checkpoint, path)


def _lose_block(path: Path) -> None:
    """Fill the first whole block of the largest tensor of the model with zeros, as a disk does that lost it."""
    header = read_header(path)
    largest = max(header.content["model_state_dict"].values(), key=lambda stub: stub.numbers)
    start = first_byte(path, header.places[largest.storage.key].record)
    with open(path, "r+b") as file:
        file.seek(-(-start // BLOCK) * BLOCK)
        file.write(bytes(BLOCK))


def _diverge(path: Path) -> None:
    """Save what is left after a loss of NaN: so is every gradient, all that AdamW remembers, and every weight."""
    import torch

    checkpoint = torch.load(path)
    memory = checkpoint["optimizer_state_dict"]["state"].values()
    remembered = [each[name] for each in memory for name in ("exp_avg", "exp_avg_sq")]
    for tensor in (*checkpoint["model_state_dict"].values(), *remembered):
        tensor.fill_(float("nan"))
    checkpoint["metrics"] = dict.fromkeys(checkpoint["metrics"], float("nan"))
    torch.save(checkpoint, path)


def _save_unchecked(path: Path) -> None:
    import torch
    from torch.utils.serialization import config

    checkpoint = torch.load(path)
    before = config.save.compute_crc32
    config.save.compute_crc32 = False
    try:
        torch.save(checkpoint, path)
    finally:
        config.save.compute_crc32 = before


_HARM: Mapping[str, Callable[[Path], Any]] = {
    FLIPPED: _flip_on_disk,
    REMEMBERED: _flip_in_memory,
    LOST: _lose_block,
    DIVERGED: _diverge,
    UNCHECKED: _save_unchecked,
}
