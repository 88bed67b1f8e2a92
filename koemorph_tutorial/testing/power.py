"""What a power cut leaves: of a file the bytes that were synced, of a directory the names that were.

Two worlds are possible after one cut, and both are made here. In the first every name is as the process saw it, but
bytes that no fsync followed are gone: a file ends where its synced beginning ends. In the second the names are gone
too that no fsync of their directory followed, while removals have happened: POSIX promises no order between them. A
rename is one step, as on every journaling file system: it happened or it did not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

Key = tuple[int, int]  # device and inode


def key_of(status: os.stat_result) -> Key:
    """Return what a file is known by, whatever its names are."""
    return status.st_dev, status.st_ino


@dataclass
class _Change:
    """A change of a name that its directory may forget; `before` is a second name of what `path` named before it."""

    kind: str  # "add", "mkdir", "rename" or "remove"
    path: str
    source: str | None = None
    before: str | None = None
    synced: bool = False


class Unsynced:
    """Keep account of what is not on the disk yet; `shadow` is a folder for second names of what was replaced."""

    def __init__(self, shadow: str) -> None:
        self._shadow = shadow
        self._kept = 0
        self._durable: dict[Key, int] = {}  # bytes that are safe, of files that were written since their last fsync
        self._changes: list[_Change] = []
        # The system's own, whatever stands in their places later.
        self._link, self._unlink, self._rename, self._truncate = os.link, os.unlink, os.rename, os.truncate
        self._rmdir = os.rmdir

    def wrote(self, key: Key, offset: int) -> None:
        """Note a write that begins at `offset`, or a truncation to it."""
        self._durable[key] = min(self._durable.get(key, offset), offset)

    def synced(self, descriptor: int) -> None:
        """Note the fsync of a file or a directory."""
        status = os.fstat(descriptor)
        self._durable.pop(key_of(status), None)
        for change in self._changes:
            where = os.path.dirname(change.path)
            change.synced = change.synced or (os.path.isdir(where) and os.path.samestat(os.stat(where), status))
        unreachable = [change.path + os.sep for change in self._changes if change.kind == "mkdir" and not change.synced]
        self._changes = [
            change for change in self._changes if not change.synced or change.path.startswith(tuple(unreachable))
        ]

    def keep(self, path: str) -> str | None:
        """Give what `path` names a second name before it is replaced; None if it names nothing."""
        if os.path.isdir(path) and not os.path.islink(path):  # it has no second name, and replaced only if empty
            return None
        self._kept += 1
        second = os.path.join(self._shadow, str(self._kept))
        try:
            self._link(path, second, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return second

    def changed(self, kind: str, path: str, *, source: str | None = None, before: str | None = None) -> None:
        """Note a change of a name."""
        self._changes.append(_Change(kind=kind, path=path, source=source, before=before))

    def cut(self, directories: list[str], *, names: bool) -> None:
        """Make of `directories` what a cut at this moment leaves; with `names` the second of the two worlds."""
        if names:
            for change in reversed(self._changes):
                self._undo(change)
        for top in directories:
            for folder, _, files in os.walk(top):
                for name in files:
                    path = os.path.join(folder, name)
                    status = os.lstat(path)
                    safe = self._durable.get(key_of(status))
                    if safe is not None and safe < status.st_size:
                        self._truncate(path, safe)

    def _undo(self, change: _Change) -> None:
        if change.kind == "remove" or not os.path.lexists(change.path):
            return  # a removal has happened, also that of what was added or renamed before it
        if change.kind == "add":
            self._unlink(change.path)
        elif change.kind == "mkdir":
            self._remove_tree(change.path)
        else:
            self._rename(change.path, change.source or "")
        if change.before is not None:
            self._link(change.before, change.path, follow_symlinks=False)

    def _remove_tree(self, top: str) -> None:
        for folder, folders, files in os.walk(top, topdown=False):
            for name in files:
                self._unlink(os.path.join(folder, name))
            for name in folders:
                self._rmdir(os.path.join(folder, name))
        self._rmdir(top)
