"""What a person asks of a run's folder: which checkpoints are there, under which names, and what is none and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from koemorph_tutorial.records import (
    SUFFIXES,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    Codec,
    PathLike,
    Position,
)
from koemorph_tutorial.storage import list_checkpoints
from koemorph_tutorial.text import count, json_text, printable

_ENDINGS = (".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True, kw_only=True)
class Content:
    """One content of a directory, under all its names: those of one save share their bytes.

    `size` is what it takes on the disk; `codec` by which it is compressed, None for a plain file.
    """

    names: tuple[str, ...]
    epoch: int
    position: Position
    metrics: Mapping[str, float]
    size: int
    codec: Codec | None
    saves: int
    last: bool
    best: bool


@dataclass(frozen=True, kw_only=True)
class DirectorySummary:
    """The checkpoints of one run, newest first, and of what else looks like one why it is none (`ignored`).

    `size` is what they take on the disk: bytes that have several names count once.
    """

    directory: str
    contents: tuple[Content, ...]
    ignored: tuple[tuple[str, str], ...]
    size: int

    def to_json(self) -> str:
        """Return one JSON object; a number that is not finite is null there."""
        ignored = [{"name": name, "why": why} for name, why in self.ignored]
        return json_text({**asdict(self), "ignored": ignored})

    def __str__(self) -> str:
        names = sum(len(content.names) for content in self.contents)
        found = f"{count(len(self.contents), 'checkpoint')} under {count(names, 'name')}"
        return f"{self.directory}: {found}, {self.size:,} bytes on the disk"


def inspect_directory(directory: PathLike) -> DirectorySummary:
    """Say which checkpoints a run has: `directory` is the run's folder, or its folder of checkpoints.

    Raises:
        CheckpointNotFoundError: it cannot be read, or holds no checkpoint that can.
    """
    folder = Path(directory)
    if os.path.isdir(folder / "checkpoints"):
        folder = folder / "checkpoints"
    listing = list_checkpoints(folder)
    ignored = tuple((printable(name), _reason(folder / name, error)) for name, error in listing.ignored)
    if not listing:
        why = f"none that can be used ({ignored[0][0]}: {ignored[0][1]})" if ignored else _others(folder)
        raise CheckpointNotFoundError(f"{folder}: expected checkpoints, found {why}")
    by_inode: dict[int, list[CheckpointFile]] = {}
    for file in listing:
        by_inode.setdefault(file.inode, []).append(file)
    contents = tuple(
        Content(
            names=tuple(file.path.name for file in files),
            epoch=files[0].epoch,
            position=files[0].position,
            metrics={printable(name): value for name, value in files[0].metrics.items()},
            size=files[0].size,
            codec=files[0].codec,
            saves=files[0].saves,
            last=any(file.kind == "last" for file in files),
            best=any(file.kind == "best" for file in files),
        )
        for files in by_inode.values()
    )
    size = sum(content.size for content in contents)
    return DirectorySummary(directory=str(folder), contents=contents, ignored=ignored, size=size)


def _reason(path: Path, error: CheckpointError) -> str:
    return printable(str(error).removeprefix(f"{path}: "), 300)


def _others(folder: Path) -> str:
    named = sorted(name for name in os.listdir(folder) if name.endswith((*_ENDINGS, *SUFFIXES.values())))
    if not named:
        return "none; check the path"
    return f"none by the names of this library; name one file, for example {folder / printable(named[0])}"
