"""Runs as they are left behind: as records alone, and as small real files on a disk, damaged and foreign ones too."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from koemorph_tutorial.records import CheckpointFile, Position, kind_of, numbered_name, split_codec
from koemorph_tutorial.retention import Plan

from .damage import flipped

BEST, LAST = "best_model.pth", "last_model.pth"
_WEIGHTS = bytes([7]) * 64  # a tensor's bytes, which can be found in the file


def file(
    name: str | Path,
    *,
    epoch: int,
    loss: float | None = None,
    saves: int | None = None,
    inode: int | None = None,
    size: int = 1000,
) -> CheckpointFile:
    """Return the record of a file that need not exist."""
    path = Path("run", name)
    return CheckpointFile(
        path=path,
        epoch=epoch,
        position=Position(epoch=epoch + 1),
        kind=kind_of(path.name),
        codec=split_codec(path.name)[1],
        line="a",
        saves=epoch + 1 if saves is None else saves,
        metrics={} if loss is None else {"loss": loss, "accuracy": loss},
        size=size,
        inode=100 + epoch if inode is None else inode,
    )


def history(*losses: float | None, suffix: str = ".pth", step: int = 1) -> list[CheckpointFile]:
    """Return one numbered file per loss, newest first as a listing has them."""
    epochs = [at * step for at in range(len(losses))]
    names = [numbered_name(epoch).removesuffix(".pth") + suffix for epoch in epochs]
    rows = zip(names, epochs, losses, strict=True)
    return [file(name, epoch=epoch, loss=loss) for name, epoch, loss in rows][::-1]


def whole(*losses: float, best: int) -> list[CheckpointFile]:
    """Return a history with ``last_model.pth`` and ``best_model.pth``, which are names of two of its files."""
    newest = len(losses) - 1
    names = [
        file(LAST, epoch=newest, loss=losses[newest]),
        file(BEST, epoch=best, loss=losses[best]),
    ]
    return [*names, *history(*losses)]


def stay(plan: Plan) -> list[str]:
    """Return the names that stay, sorted."""
    return sorted(item.file.path.name for item in plan.files if item.keep)


def go(plan: Plan) -> list[str]:
    """Return the names that go, newest first."""
    return [path.name for path in plan.removed]


# ------------------------------------------------------------------------------------------------------------ on a disk


@cache
def content(epoch: int, saves: int, loss: float | None = None, line: str | None = "a", damaged: bool = False) -> bytes:
    """Return the bytes of a small checkpoint; a damaged one still has its header."""
    checkpoint = {
        "epoch": epoch,
        "metrics": {} if loss is None else {"loss": loss},
        "model_state_dict": {"weight": torch.full((len(_WEIGHTS),), _WEIGHTS[0], dtype=torch.uint8)},
    }
    if line is not None:
        checkpoint |= {
            "format_version": 1,
            "run": {"line": line, "parent": None, "saves": saves},
            "position": {"epoch": epoch + 1, "batch": 0, "global_step": epoch + 1},
        }
    written = io.BytesIO()
    torch.save(checkpoint, written)
    data = written.getvalue()
    return flipped(data, 8 * data.index(_WEIGHTS) + 77) if damaged else data


def write(
    path: Path,
    *,
    epoch: int,
    saves: int | None = None,
    loss: float | None = None,
    line: str | None = "a",
    damaged: bool = False,
) -> Path:
    """Write a small checkpoint."""
    path.write_bytes(content(epoch, epoch + 1 if saves is None else saves, loss, line, damaged))
    return path


def write_run(folder: Path, losses: Sequence[float | None], *, best: int | None = None, line: str | None = "a") -> Path:
    """Write a run of one epoch per loss; last, and best if given, are links."""
    folder.mkdir(exist_ok=True)
    for epoch, loss in enumerate(losses):
        write(folder / numbered_name(epoch), epoch=epoch, loss=loss, line=line)
    os.link(folder / numbered_name(len(losses) - 1), folder / LAST)
    if best is not None:
        os.link(folder / numbered_name(best), folder / BEST)
    return folder


def on_disk(*folders: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return what lies in folders, but for the lock: inode, size, time and bytes of each name, links followed."""
    found = {}
    for folder in folders:
        for path in folder.iterdir():
            if path.is_file() and path.name != ".lock":
                status = path.stat()
                found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns, path.read_bytes())
    return found


def used(*folders: Path) -> int:
    """Return the bytes that files in folders take, each inode once."""
    return sum({inode: size for inode, size, _, _ in on_disk(*folders).values()}.values())
