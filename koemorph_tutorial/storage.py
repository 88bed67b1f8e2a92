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

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from . import archive
from .durable import link, refusals_named, sync_directory, write_file
from .header import find_misplaced, header_of
from .listing import (
    KIND_ORDER,
    Listing,
    check_kind,
    describe,
    describe_all,
    describe_content,
    format_version,
    list_checkpoints,
)
from .rebuild import kind_text
from .records import (
    FORMAT_TYPES,
    TRY_OLDER,
    CheckpointError,
    CheckpointFile,
    DamagedCheckpointError,
    PathLike,
    UnsupportedCheckpointError,
)
from .text import printable

if TYPE_CHECKING:
    import torch

__all__ = [
    "KIND_ORDER",
    "Listing",
    "describe",
    "describe_all",
    "describe_content",
    "is_sound",
    "list_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
    "serialise",
]


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
    with archive.open_file(path) as file, archive.reading(path):
        header = check_kind(header_of(file, path), path)  # of this file, whatever a save puts in its place meanwhile
        version = format_version(path, header.content)
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


def _numpy_numbers() -> list[Any]:
    """Return what a numpy number in a file of the recipe is rebuilt with; such numbers run nothing."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = {type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")}
    return [*((scalar, name) for name in names), np.dtype, *kinds]
