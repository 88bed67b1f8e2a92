"""One directory, one line of runs: is it used, what lies beyond a roll-back, do the names say what the files hold."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import archive
from .cut import Cut, read_cut, remove_cut, write_cut
from .durable import move_aside, sync_directory
from .forms import put_in_place
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
    NewerFormatError,
    PathLike,
    UnsupportedCheckpointError,
    kind_of,
    numbered_name,
    split_codec,
)
from .resume import Found
from .storage import (
    describe,
    describe_all,
    is_sound,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


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

    At home, what is damaged and, going `back`, what is newer is moved aside, and a roll-back that was interrupted is
    brought to its end. Elsewhere a new line branches off, which begins with a ``last_model.pth`` of its own. Return the
    run's record, the best whose bytes are in place, what to say.
    """
    before = found.checkpoint.get("run") or {}
    home = is_home(found, directory)
    if home:
        cut = _cut_back(found, directory) if back else read_cut(directory)
        notes = abandon(found, directory, cut)
        saves = max([found.file.saves, *(file.saves for file in found.listing)])
        # What is written from now on is never one of the saves that the mark hides.
        run = new_line(found.file.path.name, max(saves, cut.until if cut else 0))
        run["line"] = before.get("line") or run["line"]
        run["keep"] = before.get("keep")
        origin = before.get("parent")
    else:
        notes, origin = [], os.path.abspath(found.file.path)
        run = new_line(origin, saves=1)
        metrics = dict(found.file.metrics)  # plain: the recipe's may be numpy's
        save_checkpoint({**found.checkpoint, "metrics": metrics, "run": run}, directory / LAST_NAME)
    best, mended = mend_names(directory, found, best, run, settings, origin)
    if home:
        remove_cut(directory)
    return run, best, notes + mended


def _cut_back(found: Found, directory: Path) -> Cut | None:
    """Mark, durably, that the run goes on from `found`; None if nothing newer is there.

    What is newer is moved at once and not after the first new save: that one would take the name ``last_model.pth``
    from a save that may have no other. Until all of it is moved the mark says that it does not count.
    """
    listing = list_checkpoints(directory)
    for _, error in listing.ignored:
        if isinstance(error, NewerFormatError):  # as a resume of the newest: nobody here knows what it holds
            raise error
    lines = {file.line for file in listing} - {None}
    damaged = {name for name, error in listing.ignored if isinstance(error, DamagedCheckpointError)}
    if lines and found.file.line not in lines and (found.file.line is not None or found.file.path.name in damaged):
        raise MismatchError(
            f"{found.file.path}: it belongs to another line of runs than what lies beside it; branch from it into a "
            "directory of its own"
        )
    before = read_cut(directory)  # of an earlier roll-back that was interrupted: this one takes its place
    line = next(iter(lines), None) or (before and before.line) or found.file.line
    saves = [file.saves for file in describe_all(directory)[0] if file.line in (line, None)]
    until = max(saves + ([before.until] if before else []))
    if until <= found.file.saves:
        remove_cut(directory)
        return None
    cut = Cut(line=line, after=found.file.saves, until=until)
    write_cut(directory, cut)
    return cut


def abandon(found: Found, directory: Path, cut: Cut | None) -> list[str]:
    """Move what must not be taken for part of the run to ``abandoned-NNN/``; return what to say about it.

    These are the damaged files that were passed over, what `cut` says is rolled back, and what has a name of ours and
    is of another run or no checkpoint of ours. Nothing is removed.
    """
    listing = list_checkpoints(directory)
    files = describe_all(directory)[0]
    later = [file.path.name for file in files if cut is not None and cut.hides(file)]
    line = found.file.line
    foreign = [
        file.path.name for file in files if line and file.line not in (line, None) and file.path.name not in later
    ]
    # A name of ours with something else in it: the next save of that name would be its end.
    foreign += [
        name
        for name, error in listing.ignored
        if isinstance(error, UnsupportedCheckpointError)
        and kind_of(name) != "other"
        and not (directory / name).is_symlink()
    ]
    ignored = [*found.passed_over, *listing.ignored]
    damaged = [name for name, error in ignored if isinstance(error, DamagedCheckpointError)]
    # A damaged best would else stay the best for ever.
    bests = [file for file in listing if file.kind == "best" and file.inode != found.file.inode]
    damaged = list(dict.fromkeys(damaged + [file.path.name for file in bests if is_sound(file) is False]))
    later = [name for name in later if name not in damaged]
    foreign = [name for name in foreign if name not in damaged]
    moved = {kind: names for kind, names in (("damaged", damaged), ("newer", later), ("foreign", foreign)) if names}
    if not moved:
        return []
    aside = move_aside(directory, *damaged, *later, *foreign)
    what = [f"{len(names)} {kind}" for kind, names in moved.items()]
    return [f"{' and '.join(what)} checkpoints were moved to {aside.name}/, none was removed"]


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
    last = here_are.get(LAST_NAME)
    if last is None or last.inode != here.stat().st_ino:
        names.append(LAST_NAME)
        if last is not None and last.line is None:  # written over by the recipe, or the recipe's own: of another run
            aside = move_aside(directory, LAST_NAME)
            notes.append(f"what was {LAST_NAME} is older (epoch {last.epoch}) and was moved to {aside.name}/")
    numbered = numbered_name(found.file.epoch)
    is_there = any(split_codec(name)[0] == numbered for name in here_are)  # plain or compressed
    if home and _is_end(found.file) and settings.is_due(found.file.epoch) and not is_there:
        names.append(numbered)
    for name in names:
        put_in_place(here, directory / name)
        here = directory / name  # the same bytes; those of a compressed file need be unpacked only once

    in_place = here_are.get(BEST_NAME)
    if in_place is None or not _holds(in_place, best):
        past = [file for file in here_are.values() if file.saves <= found.file.saves or not home]
        holder, remaining = _best_that_remains([found.file, *past, *_before(origin)], best, found)
        stays = holder is not None and in_place is not None and holder.path.samefile(in_place.path)
        if not stays and (directory / BEST_NAME).exists():  # the best by another measure, or another run's
            aside = move_aside(directory, BEST_NAME)
            names.append(BEST_NAME)
            notes.append(f"what was {BEST_NAME} does not count any more and was moved to {aside.name}/")
        if holder is None and best.value is not None:
            notes.append("no file with the best is left; the next finite value is the best")
        elif holder is not None and not stays:
            source = here if holder is found.file else holder.path
            if source.parent.samefile(directory):
                put_in_place(source, directory / BEST_NAME)
            else:  # stamped as older than anything of this line
                content = {**load_checkpoint(source), "metrics": dict(holder.metrics)}
                stamp = {**run, "parent": str(source), "saves": 0}
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
    origins = [Path(origin), *archive.other_forms(Path(origin))]  # it may have been compressed since
    try:
        saves = describe(next(filter(os.path.exists, origins), origin)).saves
        return [file for each in folders for file in list_checkpoints(each) if file.saves <= saves]
    except CheckpointError:
        return []


def _is_end(file: CheckpointFile) -> bool:
    """Say whether a file holds the end of an epoch."""
    return file.position.epoch == file.epoch + 1 and file.position.batch == 0


def _holds(file: CheckpointFile, best: Best) -> bool:
    return _is_end(file) and file.epoch == best.epoch and file.metrics.get(best.monitor) == best.value


def _best_that_remains(files: Iterable[CheckpointFile], best: Best, found: Found) -> tuple[CheckpointFile | None, Best]:
    """Return the sound file that holds `best`, else the best sound one with what it is the best of."""
    ends = [file for file in files if _is_end(file)]
    for file in ends:
        if _holds(file, best) and (file is found.file or is_sound(file)):
            return file, best
    while True:
        holder, record = None, Best(monitor=best.monitor, mode=best.mode)
        for file in sorted(ends, key=lambda file: file.epoch):
            better = record.improved_by(file.metrics, file.epoch)
            if better is not None:
                holder, record = file, better
        if holder is None or holder is found.file or is_sound(holder):
            return holder, record
        ends.remove(holder)
