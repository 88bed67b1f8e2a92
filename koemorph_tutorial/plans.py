"""What stays of a run, what goes, and why: as data, for the one who acts, the one who reads and the one who draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

from .records import CheckpointFile
from .text import count, json_text, printable, size


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """One file of a plan: does it stay, and why.

    `frees`: the bytes that nobody holds any more once it is gone. 0 where another name of them stays; of several names
    that all go the last one frees them.
    """

    file: CheckpointFile
    keep: bool
    reasons: tuple[str, ...]
    frees: int = 0

    def __str__(self) -> str:
        return f"{'keep' if self.keep else 'remove'} {self._said()}"

    def line(self) -> str:
        """Return it as a line of a table: keep or remove, the name, how much that frees, why."""
        much = f", {size(self.frees)}" if self.frees else ""
        other = "; frees nothing: the same bytes have another name" if not (self.keep or self.frees) else ""
        return f"{'keep' if self.keep else 'remove':6} {self._said(much)}{other if self.file.size else ''}"

    def _said(self, much: str = "") -> str:
        return f"{printable(self.file.path.name)}{much}: {', '.join(self.reasons)}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What stays and what goes, newest first; `notes` are further things worth knowing, one sentence each.

    Before it is carried out it says what it would do, afterwards what was done.
    """

    files: Sequence[PlannedFile] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def removed(self) -> tuple[Path, ...]:
        """The paths that go."""
        return tuple(item.file.path for item in self.files if not item.keep)

    @property
    def bytes_freed(self) -> int:
        """The bytes that no name holds any more, counted once however many names they had."""
        return sum(item.frees for item in self.files if not item.keep)

    @property
    def bytes_kept(self) -> int:
        """The bytes of what stays, counted once however many names they have."""
        return sum({item.file.inode: item.file.size for item in self.files if item.keep}.values())

    def lines(self) -> list[str]:
        """Return it as a line, and one for each file and note."""
        return [
            str(self),
            *(f"  {item.line()}" for item in self.files),
            *(f"  note: {printable(note, 500)}" for note in self.notes),
        ]

    def to_json(self) -> str:
        """Return one JSON object: the files, the totals, the notes."""
        files = [
            {
                "name": printable(item.file.path.name),
                "keep": item.keep,
                "reasons": list(item.reasons),
                "size": item.file.size,
                "frees": item.frees,
            }
            for item in self.files
        ]
        removed = len(self.removed)
        totals = {
            "kept": len(files) - removed,
            "removed": removed,
            "bytes_kept": self.bytes_kept,
            "bytes_freed": self.bytes_freed,
        }
        return json_text({"files": files, **totals, "notes": list(self.notes)})

    def __str__(self) -> str:
        removed = len(self.removed)
        kept = count(len(self.files) - removed, "file")
        return f"keep {kept}, remove {removed:,}, free {self.bytes_freed:,} bytes"


class Later(Sequence[PlannedFile]):
    """The files of a plan, made when somebody first looks at them: ten thousand take a while, and a plan less."""

    def __init__(self, make: Callable[[], Sequence[PlannedFile]]) -> None:
        self._make = make

    @cached_property
    def _files(self) -> tuple[PlannedFile, ...]:
        return tuple(self._make())

    @overload
    def __getitem__(self, at: int) -> PlannedFile: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[PlannedFile]: ...

    def __getitem__(self, at: int | slice) -> PlannedFile | Sequence[PlannedFile]:
        return self._files[at]

    def __len__(self) -> int:
        return len(self._files)

    def __eq__(self, other: object) -> bool:
        return self._files == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as that of a plan, whose files hold dicts

    def __repr__(self) -> str:
        return repr(self._files)
