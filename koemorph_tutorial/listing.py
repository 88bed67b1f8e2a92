"""The checkpoints of a directory, newest first, from their headers alone; and what a header says of one file.

Compressed files are listed like plain ones, by what is in them and not by their names.
"""

from __future__ import annotations

import os
import reprlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .cut import CUT_NAME, read_cut
from .header import Header, read_header
from .rebuild import kind_text
from .records import (
    FORMAT_VERSION,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    Codec,
    DamagedCheckpointError,
    NewerFormatError,
    PathLike,
    Position,
    UnsupportedCheckpointError,
    kind_of,
    numbered_name,
    split_codec,
)
from .unpacked import identity_of

KIND_ORDER = {"last": 3, "numbered": 2, "best": 1, "other": 0}  # of names that one save has


class Listing(tuple[CheckpointFile, ...]):
    """The checkpoints of a directory, newest first; `ignored` says of what else looked like one why it is not in it.

    `spare` are those of the ignored that are only another form, compressed, of a numbered file in it: they count where
    that one turns out to be damaged.
    """

    ignored: tuple[tuple[str, CheckpointError], ...] = ()
    spare: tuple[CheckpointFile, ...] = ()


def list_checkpoints(directory: PathLike) -> Listing:
    """List the checkpoints of one run's `directory`, newest first, from their headers, without torch.

    Newest is the one with the most saves in the line of runs, whatever the clock and the file names say. Files of
    another line, damaged headers, links to elsewhere, what is being rolled back and names that only look like ours are
    in ``.ignored``, with the reason; so is a compressed file beside a plain one of its epoch.

    Raises:
        CheckpointNotFoundError: no such directory, or one that cannot be read.
        DamagedCheckpointError: the mark of an interrupted roll-back that cannot be read.

    >>> import tempfile
    >>> from koemorph_tutorial import save_checkpoint
    >>> folder = Path(tempfile.mkdtemp())
    >>> for epoch in (9, 10):
    ...     _ = save_checkpoint({"epoch": epoch}, folder / numbered_name(epoch))
    >>> [file.epoch for file in list_checkpoints(folder)]
    [10, 9]
    """
    files, ignored = describe_all(directory)
    cut = read_cut(Path(directory))
    hidden = {file.path for file in files if cut is not None and cut.hides(file)}
    visible = [file for file in files if file.path not in hidden]
    line = cut.line if cut is not None and cut.line else _line_of(visible)
    first = min((file.saves for file in files if file.line == line and file.saves), default=sys.maxsize)
    goes_on = next((file.path.name for file in visible if file.line in (line, None)), "what is left")
    rolled_back = CheckpointError(f"rolled back: newer than {goes_on}, where the run goes on, as {CUT_NAME} says")
    ours = []
    for file in files:
        name = file.path.name
        if file.path in hidden:
            ignored.append((name, rolled_back))
        elif file.line not in (line, None):
            ignored.append((name, CheckpointError(f"belongs to another line of runs ({file.line})")))
        elif line is not None and file.line is None and _is_overwritten(file, first):
            ignored.append((name, _overwritten(file)))
        else:
            ours.append(file)
    counts: dict[str, CheckpointFile] = {}  # of the forms of an epoch the plain one, else the first by its name
    for file in sorted(ours, key=lambda file: (file.codec is not None, file.path.name)):
        counts.setdefault(_plain_name(file), file)
    listing = Listing(file for file in ours if counts[_plain_name(file)] is file)
    listing.spare = tuple(file for file in ours if counts[_plain_name(file)] is not file)
    for file in listing.spare:
        other = counts[_plain_name(file)]
        why = "a plain file wins" if other.codec is None else "one of an epoch is enough"
        ignored.append((file.path.name, CheckpointError(f"{other.path.name} lies beside it, and {why}")))
    listing.ignored = tuple(ignored)
    return listing


def _line_of(files: Sequence[CheckpointFile]) -> str | None:
    """Return the line of most contents, among equals that of the newest names.

    So a file that somebody has copied here cannot take the directory over. Files without a line are the oldest of it:
    see `_is_overwritten`.
    """
    newest = [file for kind in ("last", "numbered", "best") for file in files if file.kind == kind and file.line]
    contents = Counter(line for line, _ in {(file.line, file.inode) for file in newest})
    return max(newest, key=lambda file: contents[file.line]).line if newest else None


def _plain_name(file: CheckpointFile) -> str:
    return split_codec(file.path.name)[0]


def describe_all(directory: PathLike) -> tuple[list[CheckpointFile], list[tuple[str, CheckpointError]]]:
    """Describe every file in `directory` that has a name of ours, newest first, whatever line it belongs to.

    Return as well what cannot be described, with the reason.

    Raises:
        CheckpointNotFoundError: no such directory, or one that cannot be read.
    """
    directory = Path(directory)
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{directory}: expected a directory of checkpoints, found: {error.strerror}; check the path"
        ) from None
    files: list[CheckpointFile] = []
    ignored: list[tuple[str, CheckpointError]] = []
    for name in names:
        if kind_of(name) != "other":
            try:
                _check_link(directory, name)
                files.append(describe(directory / name))
            except CheckpointError as error:
                if os.path.lexists(directory / name):  # a file removed meanwhile is no news
                    ignored.append((name, error))
        elif name.startswith("checkpoint_epoch_"):
            ignored.append((name, CheckpointError("not a name that this library writes")))
    files.sort(key=lambda file: (file.saves, KIND_ORDER[file.kind]), reverse=True)
    return files, ignored


def _check_link(directory: Path, name: str) -> None:
    path = directory / name
    if path.is_symlink() and os.path.dirname(target := os.path.realpath(path)) != os.path.realpath(directory):
        where = "which is no file of this run" if os.path.exists(target) else "where nothing is"
        raise UnsupportedCheckpointError(
            f"{path}: expected a checkpoint file (.pth), found a symbolic link to {target}, {where}; the next save of "
            "that name takes its place and does not touch what it leads to"
        )


def _is_overwritten(file: CheckpointFile, first: int) -> bool:
    """Say whether a file without a line was put over a save of the line that lies beside it.

    A run that goes on from the recipe's files counts its saves on from theirs, so they are older than all of its own
    (`first` is the count of its oldest). What says to be newer, or has another epoch than its name, was written since,
    by a ``torch.save`` that knew nothing of the run: in place, so that all names of one save have changed at once.
    """
    return file.saves >= first or (file.kind == "numbered" and _plain_name(file) != numbered_name(file.epoch))


def _overwritten(file: CheckpointFile) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"{file.path}: expected a save of the run that lies beside it, found one of no run (epoch {file.epoch}): "
        "something else has written over it, so it is not used"
    )


def describe(path: PathLike) -> CheckpointFile:
    """Return what the header of one checkpoint says, without loading its tensors.

    Raises:
        CheckpointError: as `load_checkpoint`, for what the header shows.
    """
    path = Path(path)
    before = _identity(path)
    known = _DESCRIBED.get(before)
    if known is None:
        header = check_kind(read_header(path, whole=False), path)
        known = describe_content(path, header.content, size=before[2], inode=before[1], codec=header.codec)
        if any(before) and before == _identity(path):  # else true of what was read, not of what is there now
            _DESCRIBED[before] = known
            if len(_DESCRIBED) > _MOST_DESCRIBED:
                del _DESCRIBED[next(iter(_DESCRIBED))]
    return replace(known, path=path, kind=kind_of(path.name))


# What headers said, by file: names of one save share it, and a run of a thousand files is not read anew at every save.
# Only a listing trusts it; loading reads and verifies every byte.
_DESCRIBED: dict[tuple[int, int, int, int, int], CheckpointFile] = {}
_MOST_DESCRIBED = 1 << 14  # more than a directory has: one that has more is read anew at every listing


def _identity(path: Path) -> tuple[int, int, int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0, 0, 0)  # nobody's: opening it says what is wrong
    # The last because a copy may have the time and the size of another file, and its number once that one is gone.
    return *identity_of(status), status.st_ctime_ns


def check_kind(header: Header, path: Path) -> Header:
    """Return the header, if it is one that a training can go on from.

    Raises:
        UnsupportedCheckpointError: of a file of another format.
    """
    if header.kind != "torch":
        raise UnsupportedCheckpointError(f"{path}: expected the zip format of torch.save, found {_OTHER[header.kind]}")
    return header


_OTHER = {
    "legacy": (
        "the one that torch.save wrote before 1.6, which holds no checksums; load_weights takes the weights out of it, "
        "torch.load and torch.save make a new file of it"
    ),
    "safetensors": "a safetensors file, which holds weights and nothing to go on from; load_weights takes them",
    "torchscript": "an archive of TorchScript, which holds a model and nothing to go on from; load_weights takes its "
    "weights",
}


def describe_content(path: Path, content: Any, *, size: int, inode: int, codec: Codec | None = None) -> CheckpointFile:
    """Return the record of a file whose header was read already.

    Raises:
        UnsupportedCheckpointError: no dict, or a newer format.
    """
    version = format_version(path, content)
    epoch, step = _whole(content.get("epoch")), _whole(content.get("global_step"))
    place = content.get("position")
    if version == 0 or not isinstance(place, dict):  # the recipe saves when an epoch has ended
        place = {"epoch": epoch + 1, "batch": 0, "global_step": step}
    run = content.get("run") if isinstance(content.get("run"), dict) else {}
    metrics = content.get("metrics") if isinstance(content.get("metrics"), dict) else {}
    return CheckpointFile(
        path=path,
        epoch=epoch,
        position=Position(**{name: _whole(place.get(name)) for name in ("epoch", "batch", "global_step")}),
        kind=kind_of(path.name),
        codec=codec,
        line=run.get("line") if isinstance(run.get("line"), str) else None,
        saves=_whole(run.get("saves", epoch + 1)),
        metrics={k: float(v) for k, v in metrics.items() if type(k) is str and (isinstance(v, float) or _is_small(v))},
        size=size,
        inode=inode,
    )


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() < 1000  # what float can hold


def format_version(path: Path, content: Any) -> int:
    """Return the version of the format of a header's content, 0 for the recipe's own.

    Raises:
        UnsupportedCheckpointError: no dict. NewerFormatError: of a newer version of this library.
    """
    if not isinstance(content, dict):
        raise UnsupportedCheckpointError(
            f"{path}: expected a dict with the states of a run, found {kind_text(content)}; save a dict of "
            "state dicts instead"
        )
    version = content.get("format_version", 0)
    if type(version) is not int or not 0 <= version <= FORMAT_VERSION:
        raise NewerFormatError(
            f"{path}: expected format_version {FORMAT_VERSION} or older, found {reprlib.repr(version)}; it was written "
            "by a newer koemorph-tutorial: update this one"
        )
    return version


def _whole(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
