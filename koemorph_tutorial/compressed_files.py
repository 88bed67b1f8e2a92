"""Fewer bytes on the disk: a checkpoint <-> its compressed form, and never less than there was before.

The source is verified, packed into a temporary file, read back, unpacked and compared with the source, renamed, and its
directory synced: only then, and only where asked for, the source goes. A kill at any moment leaves the source, or the
source and its other form, or the other form alone; where it leaves both, the next call ends what it began.

Where names of a run are concerned, or something is replaced, the directory is locked: a training that writes there is
not disturbed.
"""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import archive, compression
from .durable import refusals_named, sweep, sync_directory, write_copy
from .forms import identity_of, is_there_already, remove_source, write_packed
from .lock import hold
from .records import (
    BEST_NAME,
    LAST_NAME,
    SUFFIXES,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    CheckpointWriteError,
    Codec,
    MismatchError,
    PathLike,
    UnsupportedCheckpointError,
    kind_of,
    split_codec,
)
from .storage import list_checkpoints, load_checkpoint, serialise
from .text import size

logger = logging.getLogger(__name__)

_ENDINGS: Mapping[Codec, str] = {"gzip": ".gz", "zstd": ".zst", "shuffle-zstd": ".shuffle"}  # behind any name


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """One file that `compress_older` came to: `output` has taken its place, or it stays (None), and `why`.

    `before` and `after` are the bytes that it takes on the disk.
    """

    source: Path
    output: Path | None
    before: int
    after: int
    why: str = ""

    def __str__(self) -> str:
        if self.output is None:
            return f"{self.source.name} stays: {self.why}"
        share = f"{self.after / self.before:.0%}" if self.before else "all"
        return f"{self.output.name} for {self.source.name}: {size(self.after)} of {size(self.before)} ({share})"


def compress_checkpoint(
    path: PathLike,
    *,
    codec: Codec = "shuffle-zstd",
    for_inference: bool = False,
    bf16: bool = False,
    output: PathLike | None = None,
    replace: bool = False,
) -> Path:
    """Write a compressed form of a checkpoint file, durably, and return its path.

    It gives the file back byte for byte, and can be loaded, resumed, inspected as it is. By default it lies beside the
    file: ``x.pth.gz`` (gunzip unpacks it), ``x.pth.zst`` (unzstd) or ``x.shuffle.pth``, the smallest. `for_inference`
    takes the weights and what describes them and leaves the optimizer out, `bf16` also rounds the weights to bfloat16:
    then it is another checkpoint (``x.inference.…``), from which no training goes on. `replace` removes the file once
    its compressed form is durable.

    Raises:
        ValueError: a codec that is not known; `bf16` without `for_inference`; `replace` with it, which would lose the
            optimizer.
        CheckpointError: no file, a damaged one, one without checksums, one that is compressed already; an `output`
            that exists and is another file, or whose name says something else; `replace` of a name that a run needs.
        DirectoryLockedError: another process writes there.
        CheckpointWriteError: the disk refused; what was there is as it was.

    >>> import tempfile
    >>> from koemorph_tutorial import save_checkpoint
    >>> file = save_checkpoint({"epoch": 3, "model_state_dict": {}}, Path(tempfile.mkdtemp()) / "run.pth")
    >>> small = compress_checkpoint(file.path, codec="gzip")
    >>> small.name, load_checkpoint(small)["epoch"]
    ('run.pth.gz', 3)
    """
    source = Path(path)
    compression.check_codec(codec)
    if bf16 and not for_inference:
        raise ValueError(
            "bf16: expected it with for_inference alone: it rounds the weights, and no run goes on from it"
        )
    if replace and for_inference:
        raise ValueError("replace: expected no for_inference with it: the optimizer would be lost with the file")
    _check_plain(source)
    if output is not None:
        target = Path(output)
    else:
        plain = f"{source.stem}.inference{source.suffix}" if for_inference else source.name
        target = source.with_name(_packed_name(plain, codec))
    _check_target(source, target, codec, for_inference=for_inference)
    _check_replace(source, replace)
    with _locked(source, target, replace=replace):
        _compress(source, target, codec, for_inference=for_inference, bf16=bf16, replace=replace)
    return target


def decompress_checkpoint(path: PathLike, *, output: PathLike | None = None, replace: bool = False) -> Path:
    """Write the checkpoint that is in a compressed file, durably and byte for byte, and return its path.

    By default it lies beside the file under its plain name. `replace` removes the compressed file once the plain one is
    durable.

    Raises:
        CheckpointError: no file, one that is not compressed, a damaged one; an `output` that exists and is another
            file, or whose name says that it is compressed; a name that does not say what the plain one is.
        DirectoryLockedError, CheckpointWriteError: as `compress_checkpoint`.

    >>> import tempfile
    >>> from koemorph_tutorial import save_checkpoint
    >>> file = save_checkpoint({"epoch": 3, "model_state_dict": {}}, Path(tempfile.mkdtemp()) / "run.pth")
    >>> small = compress_checkpoint(file.path, replace=True)
    >>> decompress_checkpoint(small) == file.path
    True
    """
    source = Path(path)
    codec = archive.codec_of_file(source)
    if codec is None:
        raise UnsupportedCheckpointError(
            f"{source}: expected a compressed checkpoint, found one that is not compressed; it can be used as it is"
        )
    target = Path(output) if output is not None else source.with_name(_plain_name(source, codec))
    _check_replace(source, replace)
    said = split_codec(target.name)[1]
    if said is not None:
        raise CheckpointError(
            f"{target}: expected a name for a plain file, found one that says {said}; name another output"
        )
    with _locked(source, target, replace=replace):
        before = identity_of(source)
        with archive.open_file(source) as file:
            try:
                archive.verify(file, source)
            except UnsupportedCheckpointError:  # without checksums of its own; those of the compressed file hold
                archive.kind_of_file(file, source)
            if not is_there_already(target, file, None):
                with refusals_named(target):
                    write_copy(file, target)
                    sync_directory(target.parent)
        if replace:
            remove_source(source, target, before)
    return target


def save_compressed_checkpoint(checkpoint: Mapping[str, Any], path: PathLike, *, codec: Codec = "gzip") -> Path:
    """Write `checkpoint` compressed, durably, and return the path: ``{path}.gz``, ``{path}.zst`` or ``x.shuffle.pth``.

    What was there under that name is replaced at once. It takes the room of the checkpoint in memory once more.

    Raises:
        ValueError: a codec that is not known.
        UnsavableStateError, CheckpointWriteError: as `save_checkpoint`.
        DirectoryLockedError: another process writes there, and the name is one of a run.

    >>> import tempfile
    >>> save_compressed_checkpoint({"epoch": 3}, Path(tempfile.mkdtemp()) / "run.pth").name
    'run.pth.gz'
    """
    from .plain import check_plain

    compression.check_codec(codec)
    check_plain(checkpoint)
    path = Path(path)
    target = path.with_name(_packed_name(path.name, codec))
    with _locked(target, target, replace=False), io.BytesIO() as plain:
        serialise(checkpoint, plain)
        archive.verify(plain, target)
        write_packed(plain, target, codec)
    return target


def compress_older(
    directory: PathLike,
    keep: int,
    *,
    codec: Codec = "shuffle-zstd",
    on_file: Callable[[Compressed], None] | None = None,
) -> list[Compressed]:
    """Put compressed forms in the place of a run's numbered checkpoints, all but the newest `keep`; oldest first.

    `directory` is the run's folder, or its folder of checkpoints. What ``best_model.pth`` and ``last_model.pth`` are
    further names of stays as it is: their bytes would be there twice. So does a damaged file, and whatever is no
    numbered checkpoint of the run. `on_file` is told of each file when it is done.

    Raises:
        ValueError: `keep` below 0, or a codec that is not known.
        CheckpointNotFoundError: no such directory, or no checkpoint in it.
        DirectoryLockedError: another process writes there.
        CheckpointWriteError: the disk refused; what was done until then is done, and nothing is lost.
    """
    if type(keep) is not int or keep < 0:
        raise ValueError(f"keep: expected how many of the newest stay plain, a whole number from 0, found {keep!r}")
    compression.check_codec(codec)
    folder = Path(directory)
    if os.path.isdir(folder / "checkpoints"):
        folder = folder / "checkpoints"
    if not list_checkpoints(folder):  # before a lock is put where no run is
        raise CheckpointNotFoundError(f"{folder}: expected the checkpoints of a run, found none; check the path")
    done = []
    with hold(folder):
        sweep(folder)
        listing = list_checkpoints(folder)
        numbered = [file for file in listing if file.kind == "numbered"]
        in_use = _in_use(folder)
        for file in reversed(numbered[keep:]):
            if file.codec is None:
                done.append(_compress_one(file, codec, in_use))
                if on_file is not None:
                    on_file(done[-1])
    return done


def _compress_one(file: CheckpointFile, codec: Codec, in_use: Mapping[int, str]) -> Compressed:
    target = file.path.with_name(_packed_name(file.path.name, codec))
    if file.inode in in_use:
        why = f"{in_use[file.inode]} is a further name of its bytes"
    elif split_codec(file.path.name)[1] is not None:
        why = "its name says that it is compressed, and it is not"
    elif file.path.is_symlink():
        why = "it is a symbolic link"
    else:
        try:
            _compress(file.path, target, codec, replace=True)
            return Compressed(source=file.path, output=target, before=file.size, after=os.stat(target).st_size)
        except CheckpointError as error:  # damaged, or gone meanwhile: said, and not fatal
            if isinstance(error, CheckpointWriteError) and error.errno != errno.EEXIST:
                raise
            why = str(error).removeprefix(f"{file.path}: ")
    logger.info("%s stays: %s", file.path, why)
    return Compressed(source=file.path, output=None, before=file.size, after=file.size, why=why)


def _in_use(folder: Path) -> dict[int, str]:
    """Return the names that a run cannot do without, by the inodes of their bytes."""
    return {os.stat(folder / name).st_ino: name for name in (BEST_NAME, LAST_NAME) if os.path.exists(folder / name)}


# ------------------------------------------------------------------------------------------------------ what is refused


def _check_plain(source: Path) -> None:
    codec = archive.codec_of_file(source)
    if codec is not None:
        raise UnsupportedCheckpointError(
            f"{source}: expected a plain checkpoint, found one compressed by {codec} already; decompress it first"
        )


def _check_target(source: Path, target: Path, codec: Codec, *, for_inference: bool) -> None:
    """Refuse a name that others would take for something else."""
    said = split_codec(target.name)[1]
    if said not in (None, codec) or (said is None and kind_of(target.name) != "other"):
        what = f"one that says {said}" if said else "the plain name of a run's checkpoint"
        raise CheckpointError(f"{target}: expected a name for a file of {codec}, found {what}; name another output")
    if for_inference and kind_of(target.name) != "other":
        raise CheckpointError(
            f"{target}: expected a name for weights alone, found one of a run's checkpoints, from which a training "
            "would go on; name another output"
        )
    if os.path.realpath(source) == os.path.realpath(target):
        raise CheckpointError(
            f"{target}: expected an output beside the file, found the file itself; name another output"
        )


def _check_replace(source: Path, replace: bool) -> None:
    if replace and source.name in (BEST_NAME, LAST_NAME):
        raise CheckpointError(
            f"{source}: expected a file that can be replaced, found a name that a run needs as it is; leave replace out"
        )
    if replace and source.is_symlink():
        raise CheckpointError(
            f"{source}: expected a file that can be replaced, found a symbolic link; name the file that it leads to"
        )


@contextmanager
def _locked(source: Path, target: Path, *, replace: bool) -> Iterator[None]:
    """Hold the directories in which a run, or a file that is replaced, is concerned, and sweep what a kill has left."""
    folders = {
        os.path.realpath(path.parent): path.parent
        for path in (source, target)
        if replace or kind_of(path.name) != "other"
    }
    with ExitStack() as stack:
        for _, folder in sorted(folders.items()):  # in one order, or two could wait for each other
            stack.enter_context(hold(folder))
            sweep(folder)
        yield


# --------------------------------------------------------------------------------------------------------- what is done


def _compress(
    source: Path, target: Path, codec: Codec, *, for_inference: bool = False, bf16: bool = False, replace: bool = False
) -> None:
    """Write `source` compressed to `target`, unless that is there already."""
    if for_inference:
        checkpoint = load_checkpoint(source)
        try:
            weights = compression.for_inference(checkpoint, bf16=bf16)
        except ValueError as error:  # there are none, or one that bfloat16 cannot hold
            raise MismatchError(f"{source}: {error}") from None
        with io.BytesIO() as plain:
            serialise(weights, plain)
            if not is_there_already(target, plain, codec):
                write_packed(plain, target, codec)
        return
    before = identity_of(source)
    with archive.open_bytes(source) as file:
        with archive.reading(source):
            archive.verify(file, source)
        if not is_there_already(target, file, codec):
            write_packed(file, target, codec)
    if replace:
        remove_source(source, target, before)


def _plain_name(source: Path, codec: Codec) -> str:
    plain, said = split_codec(source.name)
    ending = _ENDINGS[codec]
    if said is None and source.suffix == ending:
        plain = source.stem
    elif said is None and ending == ".shuffle" and Path(source.stem).suffix == ending:
        plain = Path(source.stem).stem + source.suffix
    if plain == source.name:
        raise CheckpointError(
            f"{source}: expected a name that ends in {SUFFIXES[codec]}, found one that does not say what the plain "
            "file is called; name an output"
        )
    return plain


def _packed_name(name: str, codec: Codec) -> str:
    """Return what a file is called once it is compressed.

    >>> _packed_name("run.pth", "shuffle-zstd"), _packed_name("run.pth", "zstd"), _packed_name("model.pt", "gzip")
    ('run.shuffle.pth', 'run.pth.zst', 'model.pt.gz')
    """
    if split_codec(name)[1] == codec:
        return name
    if codec == "shuffle-zstd":
        return f"{Path(name).stem}.shuffle{Path(name).suffix}"
    return name + _ENDINGS[codec]
