"""The format that ``torch.save`` wrote before 1.6, read as data: pickles one after another, then the bytes of storages.

It holds no checksums, so whether such a file is sound cannot be told beyond its structure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any, BinaryIO

from .archive import Place
from .rebuild import Rebuild, storage
from .stubs import StorageStub
from .unpickling import unpickle

_LONGEST = 1 << 26  # bytes of the pickles: names, numbers and text, no tensors
_PROTOCOL = 1001


def read_legacy(file: BinaryIO) -> tuple[Any, frozenset[str], Mapping[str, Place]]:
    """Return the object tree of an open file, the names in it, and where each storage lies.

    Raises:
        UnpicklingError, or whatever else a broken pickle can raise.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = file.read(_LONGEST)
    storages: dict[str, StorageStub] = {}

    def keep(pid: Any) -> Any:
        stub = storage(pid)
        if isinstance(stub, StorageStub):
            storages[stub.key] = stub
        return stub

    rebuild, names, read, at = Rebuild(len(data)), frozenset[str](), [], 0
    for _ in range(5):  # a magic number, the protocol, the machine, the object, the keys of its storages
        value, found, at = unpickle(data, rebuild, keep, at)
        read.append(value)
        names |= found
    _, protocol, machine, content, keys = read
    if protocol != _PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnpicklingError("written by a machine or a version of torch that is not known")
    places = {}
    for key in keys:
        if type(key) is not str or key not in storages:
            raise UnpicklingError("a storage that nothing describes")
        file.seek(at)
        if int.from_bytes(file.read(8), "little") != storages[key].elements:
            raise UnpicklingError("a storage of another size than the tensors in it say")
        places[key] = Place(offset=at + 8, size=storages[key].bytes)
        at += 8 + storages[key].bytes
        if at > size:
            raise UnpicklingError("it is cut short")
    if at != size:
        raise UnpicklingError(f"{size - at:,} bytes too many")
    return content, names, places
