"""What the names of a run's files say, for a plan that asks nothing else of those that go.

To read ten thousand headers takes seconds, to read ten thousand names hundredths of one. Epochs are in the names, so
the newest are known from them, as long as the run is what it seems to be: one line, saved in the order of its names.
Names cannot prove that. So the headers of all that stays are read, and where they contradict the names, or anything
lies there that only headers can judge, there is no survey and everything is listed. And each file that goes is looked
into right before it goes: `Survey.objection`.

The run is that of ``last_model.pth``. A listing asks which line has the most contents; should another one have, which
only the headers in between could tell, its files are not touched either.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from .cut import CUT_NAME
from .records import BEST_NAME, LAST_NAME, CheckpointError, CheckpointFile, Position, numbered_epoch, split_codec
from .storage import describe
from .text import printable


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A run seen from its names: `kept` is what stays, by its headers, newest first; `going` the other epochs.

    `before`: a file goes only if it was saved before this save of the run. `unknown` are names that look like ours.
    """

    folder: Path
    kept: tuple[CheckpointFile, ...]
    going: tuple[tuple[int, os.DirEntry[str]], ...]
    before: int
    unknown: tuple[str, ...]

    def records(self) -> list[tuple[CheckpointFile, int]]:
        """Return a record of each file that goes, and how many bytes that frees; asks the disk for both sizes.

        What only its header says is empty: line, saves, metrics. A file that has vanished since has no bytes.
        """
        names = Counter(entry.inode() for _, entry in self.going)
        left, files = names.copy(), []
        for epoch, entry in self.going:
            size, links, inode = 0, 0, entry.inode()
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                size, links = status.st_size, status.st_nlink
            file = CheckpointFile(
                path=self.folder / entry.name,
                epoch=epoch,
                position=Position(epoch=epoch + 1),
                kind="numbered",
                codec=split_codec(entry.name)[1],
                line=None,
                saves=0,
                metrics={},
                size=size,
                inode=inode,
            )
            left[inode] -= 1
            others = links - names[inode]  # of what stays, or in another folder
            files.append((file, size if others == left[inode] == 0 else 0))
        return files

    def objection(self, file: CheckpointFile) -> str:
        """Return what the header of a file says against its removal; "" if it is what its name says."""
        try:
            header = describe(file.path)
        except CheckpointError as error:
            return f"nobody knows what it is ({printable(str(error).removeprefix(f'{file.path}: '), 200)})"
        if header.line != self.kept[0].line:
            return f"it belongs to {f'another line of runs ({header.line})' if header.line else 'no line of runs'}"
        if header.epoch != file.epoch or header.saves >= self.before:
            return f"it is newer than its name says (epoch {header.epoch}, save {header.saves} of the run)"
        return ""


def survey(folder: Path, stays: Callable[[Sequence[int]], set[int]]) -> Survey | None:
    """Look at the names in `folder`; `stays` is told the epochs, newest first, and says which of them stay.

    None where names do not tell enough: nothing goes, or there is no ``last_model.pth``, a link, a roll-back that was
    interrupted, an epoch of two names, a header that contradicts its name or its neighbours, or two lines of runs.
    """
    entries: dict[int, os.DirEntry[str]] = {}
    unknown = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                name = entry.name
                if entry.is_symlink() or name == CUT_NAME:
                    return None
                epoch = numbered_epoch(name)
                if epoch is None:
                    if name.startswith("checkpoint_epoch_"):
                        unknown.append(name)
                elif epoch in entries or not entry.is_file(follow_symlinks=False):
                    return None
                else:
                    entries[epoch] = entry
    except OSError:  # who lists it is told what the disk says
        return None
    epochs = sorted(entries, reverse=True)
    staying = stays(epochs)
    going = [epoch for epoch in epochs if epoch not in staying]
    if not going:
        return None
    try:
        last = describe(folder / LAST_NAME)
        best = [describe(folder / BEST_NAME)] if os.path.lexists(folder / BEST_NAME) else []
        # The newest and the oldest of those that go are asked as well: a run that went on from others' files, or beside
        # some, shows there.
        asked = {
            epoch: describe(folder / entries[epoch].name)
            for epoch in epochs
            if epoch in staying or epoch in (going[0], going[-1])
        }
    except CheckpointError:
        return None
    if any(file.epoch != epoch for epoch, file in asked.items()) or not _in_order(last, best, list(asked.values())):
        return None
    kept = [last, *(file for epoch, file in asked.items() if epoch in staying), *best]
    kept.sort(key=lambda file: file.saves, reverse=True)
    return Survey(
        folder=folder,
        kept=tuple(kept),
        going=tuple((epoch, entries[epoch]) for epoch in going),
        before=min(asked[epoch].saves for epoch in epochs if epoch > going[0]),
        unknown=tuple(sorted(unknown)),
    )


def _in_order(last: CheckpointFile, best: list[CheckpointFile], numbered: list[CheckpointFile]) -> bool:
    """Say whether files, newest first by name, are of one line, saved in that order, and none of them after `last`."""
    newest = numbered[0]
    return (
        {file.line for file in (last, *best, *numbered)} == {last.line}
        and all(newer.saves > older.saves for newer, older in pairwise(numbered))
        and all(last.saves >= file.saves for file in (newest, *best))
        and last.epoch >= newest.epoch
    )
