"""Where an exported file may lie, and how it gets there with its receipt: whole, read back, and never over a run."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from koemorph_tutorial.durable import refusals_named, sweep, sync_directory, write_file
from koemorph_tutorial.exporting.receipt import Receipt
from koemorph_tutorial.records import CheckpointWriteError, kind_of

FAILED = ".parity-failed"  # in the name of a file whose answers are not those of the model


def new_file(path: str | os.PathLike[str], source: str | os.PathLike[str] | None, *, force: bool) -> Path:
    """Return where an export shall be written, or refuse the place before anything is computed.

    Raises:
        CheckpointWriteError: no such folder, one that cannot be written, a file that is there already (unless `force`),
            the checkpoint itself, or a name that a run uses.
    """
    target = Path(path)
    folder = target.parent
    if not target.name or target.is_dir():
        raise _refusal(target, errno.EISDIR, "expected the name of a file to write, found a folder; add a file name")
    if not folder.is_dir():
        raise _refusal(target, errno.ENOENT, f"expected the folder {folder}, found none; make it, or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refusal(target, errno.EACCES, f"expected a folder that can be written, found {folder}; name another")
    if kind_of(target.name) != "other":
        raise _refusal(target, errno.EEXIST, "expected a name of its own, found one of a run's; name another output")
    failed = failed_path(target)
    written = (target, receipt_path(target), failed, receipt_path(failed))
    if source is not None and any(
        each.exists() and Path(source).exists() and each.samefile(source) for each in written
    ):
        raise _refusal(target, errno.EEXIST, "expected another file than the checkpoint itself; name another output")
    if not force:
        _refuse_existing(target)
        _refuse_existing(receipt_path(target))
    return target


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        why = "expected no file of that name, found one; name another output, or write over it with force"
        raise _refusal(target, errno.EEXIST, why)


def _refusal(path: Path, code: int, why: str) -> CheckpointWriteError:
    error = CheckpointWriteError(f"{path}: {why}")
    error.errno = code
    return error


def failed_path(path: Path) -> Path:
    """Return what an exported file is called whose answers are not those of the model."""
    return path.with_name(f"{path.stem}{FAILED}{path.suffix}")


def receipt_path(path: Path) -> Path:
    """Return where the receipt of an exported file lies.

    >>> receipt_path(Path("best_model.onnx")).name
    'best_model.onnx.receipt.json'
    """
    return path.with_name(path.name + ".receipt.json")


def place(data: bytes, target: Path, receipt: Receipt, reload: Callable[[bytes], object], *, force: bool) -> Receipt:
    """Write an export and its receipt in place, durably; return the receipt with where that is.

    `reload` gets the bytes that were read back from the disk, and raises where they are not what was proved. Where the
    receipt says no the name says so, and what was there before stays. A kill may leave a file without its receipt,
    which is proved by nothing; never one with the receipt of another.

    Raises:
        CheckpointWriteError: the disk refused; nothing that was there before is lost.
    """
    path = target if receipt.ok else failed_path(target)
    receipt = replace(receipt, path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def check(file: BinaryIO) -> None:
        file.seek(0)
        found = file.read()
        if found != data:
            raise OSError(errno.EIO, "what was read back is not what was exported")
        reload(found)
        with suppress(FileNotFoundError):
            receipt_path(path).unlink()  # of the file that is about to go

    with refusals_named(path), _alone(path.parent):
        sweep(path.parent)  # what a kill has left
        if receipt.ok and not force:
            _refuse_existing(path)  # somebody may have been faster
        write_file(path, lambda file: file.write(data), check=check)
        sync_directory(path.parent)
        with refusals_named(receipt_path(path)):
            text = receipt.to_json().encode() + b"\n"
            write_file(receipt_path(path), lambda file: file.write(text))
            sync_directory(path.parent)
    return receipt


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time place its files in a folder; where it knows no locks, all do."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
