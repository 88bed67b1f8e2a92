"""The files of torch.distributed.checkpoint: each rank writes what it has and reads what it wants, of tensors alone.

What else that format can hold it reads back by running it, so here it holds nothing else, and what a folder's metadata
may name is little.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict_loader import load

from .archive import reading
from .records import DamagedCheckpointError, UnsupportedCheckpointError
from .text import printable

METADATA_NAME = ".metadata"


class _Storage(FileSystemWriter):
    """Leaves out where a folder was written: by then it has another name, and is perhaps elsewhere."""

    def storage_meta(self) -> None:
        return None


class Writer:
    """Writes one rank's part of `tensors`, which lie in dicts, into `folder`, in the steps of torch's own save.

    Every rank calls `plan`; one of them calls `share` with the plans of all, and `finish` with what all have written.
    Each step can fail on one rank alone, so it is for the caller to have all know before the next.
    """

    def __init__(self, tensors: dict[str, Any], folder: Path, *, first: bool) -> None:
        # Not to sync: torch does it before its own buffers are flushed, so the end of each file would be left out.
        self._storage = _Storage(folder, sync_files=False)
        self._planner = DefaultSavePlanner()
        self._planner.set_up_planner(tensors, None, first)
        self._storage.set_up_storage_writer(first)

    def plan(self) -> SavePlan:
        """Return what this rank has."""
        return self._storage.prepare_local_plan(self._planner.create_local_plan())

    def share(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return what each rank is to write, so that of what several have one writes it."""
        plans, self._everything = self._planner.create_global_plan(plans)
        return self._storage.prepare_global_plan(plans)

    def write(self, plan: SavePlan) -> list[Any]:
        """Write this rank's part; return what lies where."""
        return self._storage.write_data(self._planner.finish_plan(plan), self._planner).value()

    def finish(self, written: list[list[Any]]) -> None:
        """Write the file that says what lies where, from what each rank has written."""
        self._storage.finish(self._everything, written)


def files_of(written: list[Any]) -> set[str]:
    """Return the names of the files that a rank has written."""
    return {result.storage_data.relative_path for result in written}


class _Unpickler(pickle.Unpickler):
    """Knows the nouns of torch.distributed.checkpoint and of tensors, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if module == described.__name__ and name in _NOUNS:
            return getattr(described, name)
        if (module, name) == (_StorageInfo.__module__, _StorageInfo.__name__):
            return _StorageInfo
        if (module, name) == ("torch.serialization", "_get_layout"):
            return torch.serialization._get_layout
        kind = getattr(torch, name, None) if module == "torch" else None
        if kind is torch.Size or isinstance(kind, torch.dtype):
            return kind
        raise pickle.UnpicklingError(f"it names {module}.{name}")


_NOUNS = {
    *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex"),
    *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
}


class Reader(FileSystemReader):
    """Reads a folder as torch.distributed.checkpoint does, but runs nothing that its metadata names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> described.Metadata:
        """Return what lies where.

        Raises:
            DamagedCheckpointError, UnsupportedCheckpointError: it cannot be read; it names something else.
        """
        path = Path(self.path) / METADATA_NAME
        with reading(path), open(path, "rb") as file:
            found = _unpickle(file, path)
        found.storage_meta = described.StorageMeta(load_id=self.load_id)
        return found


def _unpickle(file: IO[bytes], path: Path) -> described.Metadata:
    try:
        found = _Unpickler(file).load()
        for entry in found.state_dict_metadata.values():
            if type(entry) is not described.TensorStorageMetadata:
                raise TypeError("other things than tensors, which torch would run to read them")
            torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")  # is it a size, and a dtype?
        if all(type(info) is _StorageInfo for info in found.storage_data.values()):
            return cast(described.Metadata, found)
        why = "files of another kind"
    except Exception as error:  # a pickle can make its reader fail in any way
        why = printable(str(error))
    raise UnsupportedCheckpointError(f"{path}: expected what torch.distributed.checkpoint says of tensors, found {why}")


def read(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill `tensors`, by their names, from a folder: of one that ranks share each reads the part that it holds.

    Raises:
        DamagedCheckpointError: torch could not.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is (disabled|unavailable|uninitialized)", UserWarning)
        try:
            load(dict(tensors), storage_reader=Reader(folder), no_dist=True)  # no rank waits for another here
        except CheckpointException as error:  # which no `except Exception` would see
            cause = next(iter(error.failures.values()))[0]
            if not isinstance(cause, Exception):  # somebody stopped the program
                raise cause from None
            why = printable(next(iter(str(cause).splitlines()), "") or type(cause).__name__)
            raise DamagedCheckpointError(f"{folder}: torch could not read it: {why}") from cause
