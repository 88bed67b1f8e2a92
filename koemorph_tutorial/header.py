"""What a checkpoint holds, without torch and without its tensors.

The object tree of a checkpoint is a pickle. It is read here as data: what the pickle names is never called, and inert
stand-ins take the place of whatever is no plain container, so nothing in a stranger's file can run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Literal

from .archive import Place, kind_of_file, open_file, parts_of, read_beginning, reading
from .legacy import read_legacy
from .rebuild import Rebuild, is_known, storage
from .records import TRY_OLDER, Codec, DamagedCheckpointError, UnsupportedCheckpointError
from .safetensors_file import read_safetensors
from .stubs import find_tensors
from .text import printable
from .unpickling import unpickle

Kind = Literal["torch", "torchscript", "legacy", "safetensors"]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The object tree of a checkpoint with `TensorStub` for tensors, and the foreign names that it holds.

    `kind` is the format: "torch", the zip of ``torch.save``; "torchscript", whose objects are dicts of their attributes
    here; "legacy", of ``torch.save`` before 1.6; "safetensors", a dict of tensors beside `metadata`. `foreign` are the
    functions and classes outside of what ``torch.load(weights_only=True)`` rebuilds. `places` say where the bytes of
    each storage lie in the file, by its key; `size` is that of the whole, in bytes; `checksums`: there are any;
    `code`, the size and the checksum of each record of TorchScript's code and constants. Of a compressed file, `codec`
    says by what and `packed` how many bytes it takes on the disk; all else is as of the file that is in it.
    """

    kind: Kind
    content: Any
    foreign: tuple[str, ...]
    places: Mapping[str, Place]
    checksums: bool
    size: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    codec: Codec | None = None
    packed: int = 0

    @property
    def stored(self) -> dict[str, int]:
        """The bytes of each storage in the file, by its key."""
        return {key: place.size for key, place in self.places.items()}


def read_header(path: Path, *, whole: bool = True) -> Header:
    """Read the object tree of a checkpoint without loading its tensors; nothing in the file can run.

    ``whole=False`` unpacks no more of a compressed file than the tree: it is as of a file without any storages, whose
    `size` nobody knows.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: as `open_file`; also a damaged ``data.pkl``.
    """
    beginning = None if whole else read_beginning(path)
    if beginning is not None:
        content, names = _read_tree(path, beginning[0])
        foreign = _foreign(names)
        return Header(kind="torch", content=content, foreign=foreign, places={}, checksums=True, codec=beginning[1])
    with open_file(path) as file:
        return header_of(file, path)


def header_of(file: BinaryIO, path: Path) -> Header:
    """Return what `read_header` does, of an open file; `path` is only for messages."""
    with reading(path):
        kind = kind_of_file(file, path)
        size = file.seek(0, os.SEEK_END)
        codec, packed = getattr(file, "codec", None), getattr(file, "packed", size)
        if kind != "zip":
            read = _read_safetensors if kind == "safetensors" else _read_legacy
            return replace(read(file, path), size=size, codec=codec, packed=packed)
        parts = parts_of(file, path)
    scripted = parts.constants is not None
    content, names = _read_tree(path, parts.pickle, parts.constants)
    return Header(
        kind="torchscript" if scripted else "torch",
        content=content,
        foreign=_foreign(names, scripted=scripted),
        places=parts.places,
        size=size,
        checksums=parts.checksums,
        code=parts.code,
        codec=codec,
        packed=packed,
    )


def _read_safetensors(file: BinaryIO, path: Path) -> Header:
    try:
        tensors, places, metadata = read_safetensors(file)
    except UnsupportedCheckpointError as error:
        raise UnsupportedCheckpointError(f"{path}: expected known tensors, found {printable(str(error))}") from None
    except ValueError as error:
        raise _unreadable(path, "a safetensors file", error) from None
    return Header(kind="safetensors", content=tensors, foreign=(), places=places, checksums=False, metadata=metadata)


def _read_legacy(file: BinaryIO, path: Path) -> Header:
    try:
        content, names, places = read_legacy(file)
    except OSError:
        raise
    except Exception as error:  # a pickle is a program: a broken one can fail in any way
        raise _unreadable(path, "a file as torch.save wrote it before 1.6", error) from None
    return Header(kind="legacy", content=content, foreign=_foreign(names), places=places, checksums=False)


def _read_tree(path: Path, pickle: bytes, constants: bytes | None = None) -> tuple[Any, frozenset[str]]:
    """Return the object tree of a pickle, and the names in it; `constants` are those of an archive of TorchScript."""
    scripted = constants is not None
    try:
        content, names, _ = unpickle(pickle, Rebuild(len(pickle), scripted=scripted), storage)
        if constants is not None:  # they are no part of what it holds, but may name as much
            _, more, _ = unpickle(constants, Rebuild(len(constants), scripted=True), storage)
            names |= more
    except Exception as error:  # as of a legacy file
        raise _unreadable(path, "a header as torch.save writes it", error) from None
    return content, names


def find_misplaced(header: Header) -> Iterator[tuple[str, str]]:
    """Yield the name of each tensor whose bytes are not where the header says, and why."""
    stored, dtypes = header.stored, {}  # type: dict[str, int], dict[str, str]
    for keys, stub in find_tensors(header.content):
        first = dtypes.setdefault(stub.storage.key, stub.storage.dtype)
        why = stub.misplaced(stored.get(stub.storage.key))
        if not why and first != stub.storage.dtype:  # torch would take the first for both
            why = f"found a storage of {printable(first, 40)} that is one of {printable(stub.storage.dtype, 40)} here"
        if why:
            yield ".".join(printable(str(key), 60) for key in keys) or "the tensor", why


def _foreign(names: frozenset[str], *, scripted: bool = False) -> tuple[str, ...]:
    return tuple(sorted(printable(name, 80) for name in names if not is_known(name, scripted=scripted)))


def _unreadable(path: Path, expected: str, error: Exception) -> DamagedCheckpointError:
    own = isinstance(error, UnpicklingError) or type(error) is ValueError
    why = str(error) if own else type(error).__name__
    return DamagedCheckpointError(
        f"{path}: expected {expected}, found one that cannot be read ({printable(why)}); {TRY_OLDER}"
    )
