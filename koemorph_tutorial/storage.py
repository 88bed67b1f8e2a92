"""One checkpoint <-> names on a disk: durable, verified, and never less than there was before.

Order of a save: temporary file beside the target, one serialisation, fsync with the verification beside it, rename;
every further name is a hard link to the same bytes, put in place by a rename as well; fsync of the directory. A kill or
a full disk at any moment leaves the names as they were or as they will be.

What this does not promise: verification reads what the kernel holds, not the platter, and a disk may lie about fsync.
Names of one save are links to ONE copy of the bytes: what overwrites one of them in place changes all.
"""

from __future__ import annotations

import errno
import os
import pickle
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import archive
from .header import read_header
from .records import (
    FORMAT_VERSION,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    CheckpointWriteError,
    NewerFormatError,
    Position,
    UnsupportedCheckpointError,
    kind_of,
)

if TYPE_CHECKING:
    import torch

PathLike = str | os.PathLike[str]

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_ORDER = {"last": 3, "numbered": 2, "best": 1, "other": 0}


class Listing(tuple[CheckpointFile, ...]):
    """The checkpoints of a directory, newest first; `ignored` says of what else looked like one why it is not in it."""

    ignored: tuple[tuple[str, CheckpointError], ...] = ()


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
    temporary = _temporary(path)
    with _refusals_named(path):
        try:
            _write(checkpoint, temporary)
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C leaves no litter either
            with suppress(OSError):
                os.unlink(temporary)
            raise
        for name in also:
            link(path, path.parent / name)
        sync_directory(path.parent)
    return describe(path)


def load_checkpoint(path: PathLike, *, map_location: str | torch.device = "cpu", verify: bool = True) -> dict[str, Any]:
    """Load a checkpoint after every byte of it was checked; nothing in the file can run.

    `verify=False` skips the checksums, for a file without them that you trust.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError, UnsupportedCheckpointError: one line: which file, what was
            expected, what was found, what to do.
    """
    import torch

    path = Path(path)
    header = read_header(path)
    version = _format_version(path, header.content)
    with archive.open_file(path) as file:
        if verify:
            archive.verify(file, path)
            file.seek(0)
        allowed = _numpy_numbers() if version == 0 else []
        try:
            with torch.serialization.safe_globals(allowed):
                checkpoint: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            what = ", ".join(header.foreign) or str(error).partition("\n")[0]
            raise UnsupportedCheckpointError(
                f"{path}: expected numbers, text and tensors, found {what}; refused, because to open it would be to "
                "run code that the file names"
            ) from None
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, AssertionError) as error:
            raise UnsupportedCheckpointError(f"{path}: torch cannot load it: {str(error).splitlines()[0]}") from error
    return checkpoint


def list_checkpoints(directory: PathLike) -> Listing:
    """List the checkpoints of one run's `directory`, newest first, from their headers, without torch.

    Newest is the one with the most saves in the line of runs, whatever the clock and the file names say. Files of
    another line, damaged headers and names that only look like ours are in ``.ignored``, with the reason.

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
                files.append(describe(directory / name))
            except CheckpointError as error:
                if os.path.lexists(directory / name):  # a file removed meanwhile is no news
                    ignored.append((name, error))
        elif name.startswith("checkpoint_epoch_"):
            ignored.append((name, CheckpointError("not a name that this library writes")))
    files.sort(key=lambda file: (file.saves, _ORDER[file.kind]), reverse=True)
    line = next((file.line for kind in ("last", "numbered", "best") for file in files if file.kind == kind), None)
    ours = [file for file in files if file.line in (line, None)]
    ignored += [
        (file.path.name, CheckpointError(f"belongs to another line of runs ({file.line})"))
        for file in files
        if file not in ours
    ]
    listing = Listing(ours)
    listing.ignored = tuple(ignored)
    return listing


def describe(path: PathLike) -> CheckpointFile:
    """Return what the header of one checkpoint says, without loading its tensors.

    Raises:
        CheckpointError: as `load_checkpoint`, for what the header shows.
    """
    path = Path(path)
    content = read_header(path).content
    version = _format_version(path, content)
    epoch, step = _whole(content.get("epoch")), _whole(content.get("global_step"))
    place = content.get("position")
    if version == 0 or not isinstance(place, dict):  # the recipe saves when an epoch has ended
        place = {"epoch": epoch + 1, "batch": 0, "global_step": step}
    run = content.get("run") if isinstance(content.get("run"), dict) else {}
    metrics = content.get("metrics") if isinstance(content.get("metrics"), dict) else {}
    status = os.stat(path)
    return CheckpointFile(
        path=path,
        epoch=epoch,
        position=Position(**{name: _whole(place.get(name)) for name in ("epoch", "batch", "global_step")}),
        kind=kind_of(path.name),
        codec=None,
        line=run.get("line") if isinstance(run.get("line"), str) else None,
        saves=_whole(run.get("saves", epoch + 1)),
        metrics={str(k): float(v) for k, v in metrics.items() if isinstance(v, (int, float))},
        size=status.st_size,
        inode=status.st_ino,
    )


def prepare_directory(directory: PathLike) -> None:
    """Make `directory` where absent and ask whether it can be written: better now than after the first epoch.

    Raises:
        CheckpointWriteError: it cannot be made or written.
    """
    directory = Path(directory)
    with _refusals_named(directory):
        if not directory.is_dir():
            directory.mkdir(parents=True)
            sync_directory(directory.parent)
        if not os.access(directory, os.W_OK | os.X_OK):  # a read-only file system says no to root as well
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def link(source: Path, target: Path) -> None:
    """Give `source` the further name `target` in one step, by hard link, or as a copy where there are no links."""
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(source, "rb") as old, open(temporary, "xb") as new:
                shutil.copyfileobj(old, new, 1 << 20)
                new.flush()
                os.fsync(new.fileno())
        os.replace(temporary, target)
    finally:
        # Where target is the same file already, the rename does nothing and leaves the temporary name.
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable; some file systems know no such thing (EINVAL), which is no error."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _write(checkpoint: Mapping[str, Any], temporary: Path) -> None:
    import torch
    from torch.utils.serialization import config

    # Through a file object of Python's: torch's own writer hides the errno of a full disk.
    with open(temporary, "xb+") as file:
        with config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]  # added when it is imported
            torch.save(checkpoint, file)
        file.flush()
        with ThreadPoolExecutor(1) as beside:
            synced = beside.submit(os.fsync, file.fileno())
            archive.verify(file, temporary)
            synced.result()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    """Turn what the disk says, however deep in the chain, into one line that names `path`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        words = cause.strerror or str(cause)
        refusal = CheckpointWriteError(f"{path}: could not be written: {words}; nothing that was there before is lost")
        refusal.errno = cause.errno
        raise refusal from error


def _format_version(path: Path, content: Any) -> int:
    if not isinstance(content, dict):
        raise UnsupportedCheckpointError(
            f"{path}: expected a dict with the states of a run, found a {type(content).__name__.strip('_')}"
        )
    version = content.get("format_version", 0)
    if type(version) is not int or not 0 <= version <= FORMAT_VERSION:
        raise NewerFormatError(
            f"{path}: expected format_version {FORMAT_VERSION} or older, found {version!r}; it was written by a newer "
            "koemorph-tutorial: update this one"
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
