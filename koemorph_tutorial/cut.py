"""The mark of a roll-back that is under way: which saves of a directory do not count any more.

A roll-back moves many files, one after the other. The mark is put in place before the first and removed after the last,
so a kill in between leaves a directory that says where the run goes on, not one whose newest file is anybody's guess.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .durable import sync_directory, write_file
from .records import CheckpointFile, DamagedCheckpointError

CUT_NAME = ".cut"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Saves of `line` (and of no line) after number `after`, up to number `until`, are rolled back."""

    line: str | None
    after: int
    until: int

    def hides(self, file: CheckpointFile) -> bool:
        """Say whether a file is one of those that are rolled back."""
        return file.line in (self.line, None) and self.after < file.saves <= self.until


def read_cut(directory: Path) -> Cut | None:
    """Return the mark in `directory`, None if no roll-back is under way.

    Raises:
        DamagedCheckpointError: it is there and cannot be read.
    """
    path = directory / CUT_NAME
    try:
        mark = json.loads(path.read_bytes()[:10_000])
        if isinstance(mark, dict) and set(mark) == {"line", "after", "until"}:
            numbers = all(type(mark[name]) is int for name in ("after", "until"))
            if numbers and 0 <= mark["after"] <= mark["until"] and isinstance(mark["line"], str | None):
                return Cut(**mark)
        why = "something else"
    except (FileNotFoundError, NotADirectoryError):  # of a directory that is none, the listing says so
        return None
    except OSError as error:
        why = f"what cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        why = "something else"
    raise DamagedCheckpointError(
        f"{path}: expected the mark of a roll-back that was interrupted, found {why}; no checkpoint is lost: remove "
        "it, and resume from the file that the run should go on from"
    )


def write_cut(directory: Path, cut: Cut) -> None:
    """Put the mark in place, durably."""
    text = json.dumps(asdict(cut)).encode()
    write_file(directory / CUT_NAME, lambda file: file.write(text))
    sync_directory(directory)


def remove_cut(directory: Path) -> None:
    """Remove the mark, if there is one, durably."""
    try:
        os.unlink(directory / CUT_NAME)
    except FileNotFoundError:
        return
    sync_directory(directory)
