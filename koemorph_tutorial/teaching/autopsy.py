"""Five damaged files made of one good one, each in a way of its own, for somebody to find out which is which.

The names say nothing. `CAUSES` says what there is to be found, and one thing more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from koemorph_tutorial.header import read_header

from .flips import draw, first_byte, flip

BLOCK = 4096  # bytes: what a disk writes, and loses, at once

FLIPPED, CUT, LOST, DIVERGED = "a flipped bit", "cut short", "a lost block", "a diverged run"
UNCHECKED, PARTIAL = "no checksums", "a part is missing"
CAUSES = (FLIPPED, CUT, LOST, DIVERGED, UNCHECKED, PARTIAL)

PATIENTS: Mapping[str, str] = {
    "A.pth": DIVERGED,
    "B.pth": LOST,
    "C.pth": UNCHECKED,
    "D.pth": FLIPPED,
    "E.pth": CUT,
}


def lay_out(path: str | Path, folder: str | Path) -> None:
    """Put five damaged copies of a checkpoint into a folder, which is made."""
    Path(folder).mkdir(exist_ok=True)
    for name, cause in PATIENTS.items():
        patient = Path(folder, name)
        patient.unlink(missing_ok=True)
        shutil.copyfile(path, patient)
        _HARM[cause](patient)


def _flip_sign(path: Path) -> None:
    flip(path, draw(path, seed=4), 31)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def _lose_block(path: Path) -> None:
    """Fill the first whole block of the largest tensor of the model with zeros, as a disk does that lost it."""
    header = read_header(path)
    largest = max(header.content["model_state_dict"].values(), key=lambda stub: stub.numbers)
    start = first_byte(path, header.places[largest.storage.key].record)
    with open(path, "r+b") as file:
        file.seek(-(-start // BLOCK) * BLOCK)
        file.write(bytes(BLOCK))


def _diverge(path: Path) -> None:
    """Save what a run saves after a step with a gradient that is no number."""
    import torch

    checkpoint = torch.load(path)
    for weight in checkpoint["model_state_dict"].values():
        weight.fill_(float("nan"))
    checkpoint["metrics"] = {name: float("nan") for name in checkpoint["metrics"]}
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
    FLIPPED: _flip_sign,
    CUT: _cut,
    LOST: _lose_block,
    DIVERGED: _diverge,
    UNCHECKED: _save_unchecked,
}
