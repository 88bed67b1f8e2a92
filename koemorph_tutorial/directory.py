"""One directory, one line of runs: is it used, what lies beyond a roll-back, do the names say what the files hold."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import archive
from .durable import link, sync_directory
from .records import (
    BEST_NAME,
    LAST_NAME,
    Best,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    CheckpointSettings,
    DamagedCheckpointError,
    MismatchError,
    UnsupportedCheckpointError,
    kind_of,
    numbered_name,
)
from .resume import Found
from .storage import PathLike, describe, list_checkpoints, load_checkpoint, save_checkpoint


def is_used(directory: PathLike) -> bool:
    """Say whether checkpoints lie in `directory`, sound or not; one that does not exist is unused.

    Raises:
        CheckpointNotFoundError: it cannot be read, so nobody knows.
    """
    try:
        return any(kind_of(name) != "other" for name in os.listdir(directory))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{directory}: expected a directory for checkpoints, found: {error.strerror}; name another one"
        ) from None


def new_line(parent: str | None = None, saves: int = 0) -> dict[str, Any]:
    """Return the record of a new line of runs: a name that nobody else has, what it went on from, its saves so far."""
    # Not from random: that would move the run's own numbers.
    return {"line": secrets.token_hex(8), "parent": parent, "saves": saves}


def is_home(found: Found, directory: Path) -> bool:
    """Say whether a found file lies in `directory` itself."""
    return found.file.path.parent.resolve() == directory.resolve()


def go_on(
    found: Found, directory: Path, best: Best, settings: CheckpointSettings, *, back: bool
) -> tuple[dict[str, Any], Best, list[str]]:
    """Make `directory` the one in which the run of `found` goes on, from just there.

    At home, what is damaged and, going `back`, what is newer is moved aside. Elsewhere a new line branches off, which
    begins with a ``last_model.pth`` of its own. Return the run's record, the best whose bytes are in place, what to
    say.
    """
    before = found.checkpoint.get("run") or {}
    if is_home(found, directory):
        lines = {file.line for file in list_checkpoints(directory)} - {None}
        if lines and found.file.line is not None and found.file.line not in lines:
            raise MismatchError(
                f"{found.file.path}: it belongs to another line of runs than what lies beside it; branch from it into "
                "a directory of its own"
            )
        notes = abandon(found, directory, newer=back)
        saves = max([found.file.saves, *(file.saves for file in found.listing)])
        run = new_line(found.file.path.name, saves)
        run["line"] = before.get("line") or run["line"]
        origin = before.get("parent")
    else:
        notes, origin = [], os.path.abspath(found.file.path)
        run = new_line(origin, saves=1)
        metrics = dict(found.file.metrics)  # plain: the recipe's may be numpy's
        save_checkpoint({**found.checkpoint, "metrics": metrics, "run": run}, directory / LAST_NAME)
    best, mended = mend_names(directory, found, best, run, settings, origin)
    return run, best, notes + mended


def abandon(found: Found, directory: Path, *, newer: bool) -> list[str]:
    """Move what must not be taken for part of the run to ``abandoned-NNN/``; return what to say about it.

    These are the damaged files that were passed over and, if `newer`, whatever was saved after `found`. Nothing is
    removed.
    """
    listing = list_checkpoints(directory)
    later = [file.path.name for file in listing if newer and file.saves > found.file.saves]
    ignored = [*found.passed_over, *listing.ignored]
    for file in listing:  # a damaged best would else stay the best for ever
        if file.kind == "best" and file.inode != found.file.inode and _is_sound(file) is False:
            ignored.append((file.path.name, DamagedCheckpointError(f"{file.path}: is damaged")))
            later = [name for name in later if name != file.path.name]
    damaged = list(dict.fromkeys(name for name, error in ignored if isinstance(error, DamagedCheckpointError)))
    if not later and not damaged:
        return []
    aside = _new_aside(directory)
    for name in (*damaged, *later):
        os.rename(directory / name, aside / name)
    sync_directory(aside)
    sync_directory(directory)
    what = [f"{len(names)} {kind}" for kind, names in (("damaged", damaged), ("newer", later)) if names]
    return [f"{' and '.join(what)} checkpoints were moved to {aside.name}/, none was removed"]


def _new_aside(directory: Path) -> Path:
    taken = [int(name[10:]) for name in os.listdir(directory) if re.fullmatch(r"abandoned-\d{3,}", name, re.ASCII)]
    aside = directory / f"abandoned-{max(taken, default=0) + 1:03d}"
    aside.mkdir()
    return aside


def mend_names(
    directory: Path,
    found: Found,
    best: Best,
    run: Mapping[str, Any],
    settings: CheckpointSettings,
    origin: str | None,
) -> tuple[Best, list[str]]:
    """Make the names in `directory` say what `found` was resumed with, as if no kill had come between two of them.

    Return the best whose bytes are in place as ``best_model.pth``, and what to say. A branch brings the best of the run
    along that it went on from, whose file was `origin`. Where the bytes of the best are gone (rolled back, damaged),
    the best sound file that remains takes its place.
    """
    home = is_home(found, directory)
    here = found.file.path if home else directory / LAST_NAME
    here_are = {file.path.name: file for file in list_checkpoints(directory)}
    notes, names = [], []
    if LAST_NAME not in here_are or here_are[LAST_NAME].inode != here.stat().st_ino:
        names.append(LAST_NAME)
    numbered = numbered_name(found.file.epoch)
    if home and _is_end(found.file) and settings.is_due(found.file.epoch) and numbered not in here_are:
        names.append(numbered)
    for name in names:
        link(here, directory / name)

    in_place = here_are.get(BEST_NAME)
    if best.value is None or not (in_place and _is_end(in_place, best.epoch)):
        past = [file for file in here_are.values() if file.saves <= found.file.saves or not home]
        holder, remaining = _best_that_remains([found.file, *past, *_before(origin)], best, found)
        stays = holder is not None and in_place is not None and holder.path.samefile(in_place.path)
        if not stays and (directory / BEST_NAME).exists():  # the best by another measure, or another run's
            aside = _new_aside(directory)
            os.rename(directory / BEST_NAME, aside / BEST_NAME)
            sync_directory(aside)
            names.append(BEST_NAME)
            notes.append(f"what was {BEST_NAME} does not count any more and was moved to {aside.name}/")
        if holder is None and best.value is not None:
            notes.append("no file with the best is left; the next finite value is the best")
        elif holder is not None and not stays:
            if holder is found.file:
                link(here, directory / BEST_NAME)
            elif holder.path.parent.samefile(directory):
                link(holder.path, directory / BEST_NAME)
            else:  # stamped as older than anything of this line
                content = {**load_checkpoint(holder.path), "metrics": dict(holder.metrics)}
                stamp = {**run, "parent": str(holder.path), "saves": 0}
                save_checkpoint({**content, "run": stamp}, directory / BEST_NAME)
            names.append(BEST_NAME)
            gone = "" if best.value in (None, remaining.value) else f"; what was better, {best}, is in no sound file"
            notes.append(f"{BEST_NAME} was put back, from {holder.path.name}: {remaining}{gone}")
        best = remaining
    if names:
        sync_directory(directory)
    return best, notes


def _before(origin: str | None) -> list[CheckpointFile]:
    """Return what the run that a branch went on from had saved until then; nothing if it is gone."""
    if origin is None or not Path(origin).is_absolute():  # went on in its own directory
        return []
    folder = Path(origin).parent
    # What was moved aside went on from what lies one floor up.
    folders = [folder, folder.parent] if folder.name.startswith("abandoned-") else [folder]
    try:
        saves = describe(origin).saves
        return [file for each in folders for file in list_checkpoints(each) if file.saves <= saves]
    except CheckpointError:
        return []


def _is_end(file: CheckpointFile, epoch: int | None = None) -> bool:
    """Say whether a file holds the end of an epoch, of that one if given."""
    return file.position.epoch == file.epoch + 1 and file.position.batch == 0 and epoch in (None, file.epoch)


def _best_that_remains(files: Iterable[CheckpointFile], best: Best, found: Found) -> tuple[CheckpointFile | None, Best]:
    """Return the sound file that holds `best`, else the best sound one with what it is the best of."""
    ends = [file for file in files if _is_end(file)]
    for file in ends:
        if file.epoch == best.epoch and (file is found.file or _is_sound(file)):
            return file, best
    while True:
        holder, record = None, Best(monitor=best.monitor, mode=best.mode)
        for file in sorted(ends, key=lambda file: file.epoch):
            better = record.improved_by(file.metrics, file.epoch)
            if better is not None:
                holder, record = file, better
        if holder is None or holder is found.file or _is_sound(holder):
            return holder, record
        ends.remove(holder)


def _is_sound(file: CheckpointFile) -> bool | None:
    """Say whether every byte is as it was written; None where the file holds no checksums and nobody can tell."""
    try:
        with archive.open_file(file.path) as opened:
            archive.verify(opened, file.path)
    except UnsupportedCheckpointError:
        return None
    except CheckpointError:
        return False
    return True
