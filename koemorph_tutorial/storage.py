"""One checkpoint <-> names on a disk: verified, and never less than there was before.

A save is one serialisation into one file, verified before it gets its name; every further name is a hard link to the
same bytes. A load checks every byte before anything is built of it. A listing reads headers alone. Compressed files are
listed and loaded like plain ones, by what is in them and not by their names.

What this does not promise: verification reads what the kernel holds, not the platter, and a disk may lie about having
written. Names of one save are links to ONE copy of the bytes: what overwrites one of them in place changes all. A kill
can leave a temporary file, and some of the names of a save without the others; a resume puts both right. To save takes
no lock: two processes that write one directory must agree (`CheckpointManager` sees to it).
"""

from __future__ import annotations

import os
import pickle
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from . import archive
from .cut import CUT_NAME, read_cut
from .durable import link, refusals_named, sync_directory, write_file
from .header import Header, find_misplaced, read_header
from .rebuild import kind_text
from .records import (
    FORMAT_TYPES,
    FORMAT_VERSION,
    TRY_OLDER,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    Codec,
    DamagedCheckpointError,
    NewerFormatError,
    Position,
    UnsupportedCheckpointError,
    kind_of,
    numbered_name,
    split_codec,
)
from .text import printable

if TYPE_CHECKING:
    import torch

PathLike = str | os.PathLike[str]

_ORDER = {"last": 3, "numbered": 2, "best": 1, "other": 0}


class Listing(tuple[CheckpointFile, ...]):
    """The checkpoints of a directory, newest first; `ignored` says of what else looked like one why it is not in it.

    `spare` are those of the ignored that are only another form, compressed, of a numbered file in it: they count where
    that one turns out to be damaged.
    """

    ignored: tuple[tuple[str, CheckpointError], ...] = ()
    spare: tuple[CheckpointFile, ...] = ()


def save_checkpoint(checkpoint: Mapping[str, Any], path: PathLike, *, also: Sequence[str] = ()) -> CheckpointFile:
    """Write `checkpoint` durably to `path`, and to each name in `also` in the same folder as a link to the same bytes.

    The names are put in place in this order, each at once: a reader sees the old file or the new one. Where the file
    system knows no hard links a name is a copy.

    Raises:
        UnsavableStateError: the path of the first value that ``torch.load(weights_only=True)`` could not read back.
        CheckpointWriteError: the disk refused, with its ``errno``; what was there before is as it was.

    >>> import tempfile
    >>> file = save_checkpoint({"epoch": 3, "loss": 0.5}, Path(tempfile.mkdtemp()) / "run.pth")
    >>> load_checkpoint(file.path)
    {'epoch': 3, 'loss': 0.5}
    """
    from .plain import check_plain

    path = Path(path)
    check_plain(checkpoint)
    with refusals_named(path):
        write_file(path, lambda file: serialise(checkpoint, file), check=lambda file: archive.verify(file, path))
    for name in also:
        with refusals_named(path.parent / name):
            link(path, path.parent / name)
    with refusals_named(path.parent):
        sync_directory(path.parent)
    return describe(path)


def load_checkpoint(path: PathLike, *, map_location: str | torch.device = "cpu", verify: bool = True) -> dict[str, Any]:
    """Load a checkpoint after every byte of it was checked; nothing in the file can run.

    `verify=False` skips the checksums, for a file without them that you trust.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError, UnsupportedCheckpointError: one line: which file, what was
            expected, what was found, what to do.

    >>> import tempfile
    >>> file = save_checkpoint({"epoch": 3}, Path(tempfile.mkdtemp()) / "run.pth")
    >>> _ = file.path.write_bytes(file.path.read_bytes()[:-1])
    >>> load_checkpoint(file.path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    koemorph_tutorial.records.DamagedCheckpointError: ...
    """
    import torch

    path = Path(path)
    with archive.open_file(path) as file, archive.reading(path):  # held open, so that it is unpacked once
        header = _read_header(path)
        version = _format_version(path, header.content)
        for name, why in find_misplaced(header):  # torch would read memory that is not the file's
            raise DamagedCheckpointError(f"{path}: {name}: expected the bytes of a tensor, {why}; {TRY_OLDER}")
        if verify:
            archive.verify(file, path)
            file.seek(0)
        allowed = _numpy_numbers() if version == 0 else []
        try:
            with torch.serialization.safe_globals(allowed):
                checkpoint: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            if not header.foreign:  # a tensor of a kind that torch itself does not rebuild safely
                raise UnsupportedCheckpointError(f"{path}: torch refuses it: {_cause(error)}") from None
            raise UnsupportedCheckpointError(
                f"{path}: expected numbers, text and tensors, found {', '.join(header.foreign)}; refused, because to "
                "open it would be to run code that the file names"
            ) from None
        except Exception as error:  # a file can make torch fail in any way
            raise UnsupportedCheckpointError(f"{path}: torch cannot load it: {_cause(error)}") from error
    for key, kind in FORMAT_TYPES.items() if version else ():
        if key in checkpoint and not isinstance(checkpoint[key], kind):
            raise UnsupportedCheckpointError(
                f"{path}: {key}: expected a {kind.__name__}, found {kind_text(checkpoint[key])}; it was not saved by "
                f"this library; {TRY_OLDER}"
            )
    return checkpoint


def _cause(error: Exception) -> str:
    """Return the line of a long message of torch's that says what is the matter."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return printable(next((line for line in lines if "WeightsUnpickler error" in line), first), 300)


def list_checkpoints(directory: PathLike) -> Listing:
    """List the checkpoints of one run's `directory`, newest first, from their headers, without torch.

    Newest is the one with the most saves in the line of runs, whatever the clock and the file names say. Files of
    another line, damaged headers, links to elsewhere, what is being rolled back and names that only look like ours are
    in ``.ignored``, with the reason; so is a compressed file beside a plain one of its epoch.

    Raises:
        CheckpointNotFoundError: no such directory, or one that cannot be read.
        DamagedCheckpointError: the mark of an interrupted roll-back that cannot be read.

    >>> import tempfile
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
    # The line is the one of most contents, among equals that of the newest names; a file that somebody has copied here
    # must not take the directory over. Files without a line are the oldest of it: see _is_overwritten.
    newest = [f for kind in ("last", "numbered", "best") for f in visible if f.kind == kind and f.line]
    contents = Counter(line for line, _ in {(f.line, f.inode) for f in newest})
    most = max(contents.values(), default=0)
    line = (
        cut.line if cut is not None and cut.line else next((f.line for f in newest if contents[f.line] == most), None)
    )
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
    first_of = _first_forms(ours)
    spare = []
    for file in ours:
        other = first_of.get(_plain_name(file), file)
        if other is not file and file.kind == "numbered":
            why = "a plain file wins" if other.codec is None else "one of an epoch is enough"
            ignored.append((file.path.name, CheckpointError(f"{other.path.name} lies beside it, and {why}")))
            spare.append(file)
    taken = {file.path for file in spare}
    listing = Listing(file for file in ours if file.path not in taken)
    listing.ignored, listing.spare = tuple(ignored), tuple(spare)
    return listing


def _plain_name(file: CheckpointFile) -> str:
    return split_codec(file.path.name)[0]


def _first_forms(files: Sequence[CheckpointFile]) -> dict[str, CheckpointFile]:
    """Return the file that counts for each epoch, by its plain name: the plain one, else the first by its name."""
    first: dict[str, CheckpointFile] = {}
    for file in files:
        if file.kind == "numbered":
            known = first.setdefault(_plain_name(file), file)
            if (file.codec is not None, file.path.name) < (known.codec is not None, known.path.name):
                first[_plain_name(file)] = file
    return first


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
    files.sort(key=lambda file: (file.saves, _ORDER[file.kind]), reverse=True)
    return files, ignored


def is_sound(file: CheckpointFile) -> bool | None:
    """Say whether every byte is as it was written; None where the file holds no checksums and nobody can tell."""
    try:
        with archive.open_file(file.path) as opened:
            archive.verify(opened, file.path)
    except UnsupportedCheckpointError:
        return None
    except CheckpointError:
        return False
    return True


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
        known = _read_description(path, before)
        if _identity(path) == before:  # else it was replaced meanwhile: true of what was read, not of what is there now
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
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_description(path: Path, identity: tuple[int, int, int, int, int]) -> CheckpointFile:
    header = _read_header(path, whole=False)
    return describe_content(path, header.content, size=identity[2], inode=identity[1], codec=header.codec)


def _read_header(path: Path, *, whole: bool = True) -> Header:
    header = read_header(path, whole=whole)
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
    version = _format_version(path, content)
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


def serialise(checkpoint: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a checkpoint to an open file, with checksums whatever torch was told."""
    import torch
    from torch.utils.serialization import config

    # Into a file object of Python's: torch's own writer hides the errno of a full disk.
    with config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]  # added when it is imported
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # how torch's writer leaves when anything else, a Ctrl-C too, comes in between
            if isinstance(error.__context__, BaseException) and not isinstance(error.__context__, Exception):
                raise error.__context__ from None
            raise


def _format_version(path: Path, content: Any) -> int:
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


def _numpy_numbers() -> list[Any]:
    """Return what a numpy number in a file of the recipe is rebuilt with; such numbers run nothing."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = {type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")}
    return [*((scalar, name) for name in names), np.dtype, *kinds]
