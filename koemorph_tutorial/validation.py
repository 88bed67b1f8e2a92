"""Is a checkpoint file sound? Every byte against its checksum, every tensor in its place, every weight a number.

Works on any file of ``torch.save``, ours or not, on TorchScript and safetensors; of a compressed one on what is in it.
Nothing in a file can run; torch is not needed. There are four verdicts, because two would lie: a file without checksums
is neither sound nor damaged, and one whose bytes are as they were written may still lack what it takes to go on.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from .archive import kind_of_file, open_bytes, open_file, reading
from .completeness import find_lacking, find_not_finite, find_notes, find_unknown, say_what_was_checked
from .findings import Finding, Report, finding_of
from .header import Header, find_misplaced, read_header
from .records import (
    SUFFIXES,
    TRY_OLDER,
    CheckpointError,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    PathLike,
    UnsupportedCheckpointError,
    split_codec,
)
from .stubs import find_tensors
from .text import printable
from .zip_records import find_damaged, has_checksums, read_records

_ENDINGS = (".pth", ".pt", ".ckpt", ".pth.tar", ".bin", ".safetensors", *SUFFIXES.values())
_MOST = 20  # findings of one kind
_FRESH = 60.0  # seconds: a file changed since then may be one that is being written


def validate_checkpoint(path: PathLike) -> Report:
    """Say whether a checkpoint file is sound, damaged, incomplete, or whether that cannot be told.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: nothing there, not to be read, a directory, a pipe: no file
            that could be any of these.

    >>> import tempfile
    >>> from koemorph_tutorial import save_checkpoint
    >>> file = save_checkpoint({"epoch": 3, "model_state_dict": {}}, Path(tempfile.mkdtemp()) / "run.pth")
    >>> report = validate_checkpoint(file.path)
    >>> report.verdict, [finding.where for finding in report.findings]
    ('incomplete', ['config', 'model_state_dict'])
    """
    path = Path(path)
    before = _identity(path)
    report = _validate(path)
    if _identity(path) != before:
        changed = Finding(
            where="",
            expected="a file that nobody writes to",
            found="one that changed while it was read",
            todo="ask again when its writer is done",
        )
        return Report(path=str(path), verdict="cannot tell", findings=(changed,))
    return report


def checkpoints_in(path: Path) -> list[Path]:
    """Return the files of a folder, or of the ``checkpoints/`` in it, that look like checkpoints; of a file itself.

    Of several names of the same bytes the numbered one.

    Raises:
        CheckpointNotFoundError: a folder that cannot be read, or one without any.
    """
    if not os.path.isdir(path):
        return [path]
    folder = path / "checkpoints" if os.path.isdir(path / "checkpoints") else path
    try:
        found = [folder / name for name in os.listdir(folder) if name.endswith(_ENDINGS)]
    except OSError as error:
        raise CheckpointNotFoundError(f"{folder}: expected a folder of checkpoints, but {error.strerror}") from None
    if not found:
        raise CheckpointNotFoundError(f"{folder}: expected checkpoints in it, found none; name a file")
    found.sort(key=lambda file: (not file.name.startswith("checkpoint_"), file.name), reverse=True)
    once = {os.stat(file).st_ino if file.is_file() else str(file): file for file in found}  # the last one stays
    return sorted(once.values())


def _identity(path: Path) -> tuple[int, ...]:
    with suppress(OSError, ValueError):  # what is the matter open_file says better
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    with open_bytes(path) as file:  # it is there now
        status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _validate(path: Path) -> Report:
    try:
        with open_file(path):  # held open, so that it is unpacked once
            damage, checked = _damage(path)
            if damage:
                return Report(path=str(path), verdict="damaged", findings=tuple(_named(damage, path)))
            header = read_header(path)
            notes = (*_find_form(path, header), *find_notes(header))
            misplaced = [
                Finding(where=name, expected="the bytes of a tensor", found=why.removeprefix("found "), todo=TRY_OLDER)
                for name, why in islice(find_misplaced(header), _MOST)
            ]
            if misplaced:
                return Report(path=str(path), verdict="damaged", findings=tuple(misplaced), notes=notes)
            lacking = (*find_lacking(header), *find_not_finite(path, header))
    except UnsupportedCheckpointError as error:
        return Report(path=str(path), verdict="cannot tell", findings=(finding_of(error, path),))
    except DamagedCheckpointError as error:
        return Report(path=str(path), verdict="damaged", findings=(_perhaps_unfinished(finding_of(error, path), path),))
    unknown = tuple(find_unknown(header))
    return Report(
        path=str(path),
        verdict="incomplete" if lacking else "cannot tell" if unknown else "sound",
        findings=lacking or unknown,
        notes=notes,
        checked=say_what_was_checked(header, checked),
    )


def _find_form(path: Path, header: Header) -> Iterator[str]:
    """Yield by what a file is compressed, and whether its name says otherwise: others may go by that."""
    said = split_codec(path.name)[1]
    if header.codec is not None:
        other = "" if said == header.codec else f"; its name says {said or 'nothing of it'}"
        yield f"compressed by {header.codec}: {header.packed:,} bytes on the disk, {header.size:,} unpacked{other}"
    elif said is not None:
        yield f"its name says that it is compressed by {said}, and it is not compressed"


def _damage(path: Path) -> tuple[list[DamagedCheckpointError], int]:
    """Return an error per damaged record, and how many records were checked."""
    with open_file(path) as file, reading(path):
        if kind_of_file(file, path) != "zip":
            return [], 0
        records = read_records(file, path)
        if not has_checksums(records):
            return [], 0
        return list(find_damaged(file, path, records)), len(records)


def _named(damage: list[DamagedCheckpointError], path: Path) -> Iterator[Finding]:
    """Yield a finding per damaged record, with the tensors whose numbers it holds."""
    names: dict[str, list[str]] = {}
    with suppress(CheckpointError):  # the damage may be in the header
        for keys, stub in find_tensors(read_header(path).content):
            names.setdefault(stub.storage.key, []).append(".".join(printable(str(key), 60) for key in keys))
    for error in damage:
        finding = finding_of(error, path)
        held = names.get(finding.where.rpartition("/data/")[2].strip("'"), [])
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        yield replace(finding, where=finding.where + (f" ({held[0]}{more})" if held else ""))


def _perhaps_unfinished(finding: Finding, path: Path) -> Finding:
    """Say of a file that ends too early, and was written to just now, that its writer may be at work."""
    with suppress(OSError):
        if "cut short" in finding.found and 0 <= time.time() - path.stat().st_mtime < _FRESH:
            todo = f"it was written to within the last minute: ask again when its writer is done; else {finding.todo}"
            return replace(finding, todo=todo)
    return finding
