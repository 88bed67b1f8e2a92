"""Carry out a plan: one last look at each file, and it goes; what cannot go is said and stops nothing.

What this does not promise: bytes count as freed when their last name goes; a program that still has the file open keeps
them until it closes it. Links from other folders are nobody's here to see: a hard link keeps the bytes, a symbolic one
leads nowhere afterwards.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from .plans import Plan, PlannedFile
from .records import CheckpointFile, kind_of
from .storage import is_sound

logger = logging.getLogger(__name__)


def carry_out(plan: Plan, *, look: Callable[[CheckpointFile], str] | None = None, dry_run: bool = False) -> Plan:
    """Remove what `plan` says and return what was done; what is gone already, or cannot go, is said and not fatal.

    Right before it goes a file must still be the one that was planned, and `look`, if given, may say why it has to
    stay. A file to which a symbolic link beside it leads stays. `dry_run` does all but the removal.

    Raises:
        ValueError: the plan keeps nothing of a run, or removes what is no numbered file; then nothing was removed.
    """
    _check(plan)
    folders = {item.file.path.parent for item in plan.files if not item.keep}
    led_to = {folder: set(_led_to(folder)) for folder in folders}
    stands = any(_is_there(item.file) for item in plan.files if item.keep and _is_of_run(item.file))
    gone: Counter[int] = Counter()  # names of one file that a dry run has only counted

    def remove(item: PlannedFile) -> PlannedFile:
        path, why = item.file.path, ""
        try:
            status = os.lstat(path)
            if not stands:
                why = "none of the files that the plan keeps is there any more"
            elif not _is_there(item.file):
                why = "it has changed since"
            elif path.name in led_to[path.parent]:
                why = "a symbolic link leads to it"
            elif look is not None:
                why = look(item.file)
            if why:
                return replace(item, keep=True, reasons=(*item.reasons, f"stays: {why}"), frees=0)
            if not dry_run:
                os.unlink(path)
        except FileNotFoundError:
            return replace(item, reasons=(*item.reasons, "was gone already"), frees=0)
        except OSError as error:  # what is new is durable; a file too many is no reason to stop a training
            why = f"could not be removed: {error.strerror}"
            logger.warning("%s: %s", path, why)
            return replace(item, keep=True, reasons=(*item.reasons, why), frees=0)
        last = stat.S_ISREG(status.st_mode) and status.st_nlink - gone[status.st_ino] == 1
        gone[status.st_ino] += dry_run
        return replace(item, frees=status.st_size if last else 0)

    return replace(plan, files=tuple(item if item.keep else remove(item) for item in plan.files))


def _check(plan: Plan) -> None:
    """Refuse a plan that `plan_retention` would not have made."""
    kept = {item.file.path for item in plan.files if item.keep and _is_of_run(item.file)}
    for file in (item.file for item in plan.files if not item.keep):
        kinds = {file.kind, kind_of(file.path.name)} - {"numbered"}
        if kinds:
            why = f"removes only numbered files, found one that removes a file of the kind {min(kinds)}"
        elif file.path in kept:
            why = "decides once about each file, found one that keeps and removes this one"
        elif not kept:
            why = "keeps a file of the run, found one that keeps none"
        else:
            continue
        raise ValueError(f"{file.path}: expected a plan that {why}; nothing was removed; make one with plan_retention")


def _is_of_run(file: CheckpointFile) -> bool:
    return "other" not in (file.kind, kind_of(file.path.name))


def _is_there(file: CheckpointFile) -> bool:
    try:
        status = os.stat(file.path)
    except OSError:
        return False
    return (status.st_ino, status.st_size) == (file.inode, file.size)


def _led_to(folder: Path) -> Iterable[str]:
    """Yield the names in `folder` to which its symbolic links lead, at once and in the end."""
    with suppress(OSError), os.scandir(folder) as entries:  # who removes is told what the disk says
        for link in (entry.path for entry in entries if entry.is_symlink()):
            for path in (os.path.join(folder, os.readlink(link)), os.path.realpath(link)):
                if os.path.realpath(os.path.dirname(path)) == os.path.realpath(folder):
                    yield os.path.basename(path)


def spare_newest_sound(plan: Plan) -> Plan:
    """Have the newest sound file stay as well, where what the plan keeps is damaged, and say what is.

    Where no file is sound none goes: perhaps it is the disk that cannot be read. Those without checksums may be sound.
    """
    if not plan.removed:
        return plan
    chosen: PlannedFile | None = None
    why, damaged, asked = "the newest that may be sound", [], set[int]()
    for item in plan.files:
        if item.file.inode in asked:
            continue
        asked.add(item.file.inode)
        sound = is_sound(item.file)
        if sound is False:
            damaged.append(f"{item.file.path.name} is damaged")
        elif sound:
            chosen, why = item, "the newest sound file"
            break
        else:
            chosen = chosen or item
    held = {item.file.inode for item in plan.files if item.keep}
    if chosen is None:
        why, spared = "stays: no file here is sound", {item.file.inode for item in plan.files}
    else:
        spared = {chosen.file.inode} - held

    def spare(item: PlannedFile) -> PlannedFile:
        if item.keep or item.file.inode not in spared:
            return item
        return replace(item, keep=True, reasons=(*item.reasons, why), frees=0)

    return replace(plan, files=tuple(map(spare, plan.files)), notes=(*plan.notes, *damaged))
