"""The numbers of a header's tensors, without torch: arrays read from the file after their checksums were checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .archive import open_file, read_place, reading, seek_place
from .header import Header
from .records import TRY_OLDER, DamagedCheckpointError, UnsupportedCheckpointError
from .stubs import TensorStub, item_bytes
from .text import printable
from .zip_records import cut_short

Array = npt.NDArray[Any]

_BLOCK = 1 << 18  # numbers looked at at a time

# As numpy knows them; what it does not know comes as whole numbers of the same size.
_KNOWN = {name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128", "bool")}
_KNOWN |= {name: np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")}


class TensorReader:
    """Reads tensors of one file, one storage at a time.

    >>> import tempfile
    >>> from koemorph_tutorial import save_checkpoint
    >>> from koemorph_tutorial.header import read_header
    >>> path = Path(tempfile.mkdtemp()) / "run.pth"
    >>> _ = save_checkpoint({"weight": __import__("torch").arange(3)}, path)
    >>> with TensorReader(path, header := read_header(path)) as reader:
    ...     reader.read(header.content["weight"])
    array([0, 1, 2])
    """

    def __init__(self, path: Path, header: Header, *, check: bool = True) -> None:
        self._path, self._places = path, header.places
        if not check:  # every byte of the file was checked a moment ago
            self._places = {key: replace(place, crc=None) for key, place in header.places.items()}
        self._file = open_file(path)
        self._last: tuple[str, bytearray] = "", bytearray()  # tensors of one storage often come one after another

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, stub: TensorStub) -> Array:
        """Return a tensor as an array of its shape, bit by bit as torch reads it.

        It has numpy's dtype of the same name, where there is none whole numbers of the same size: `as_numbers` makes
        real ones of them. An axis of equal numbers (stride 0) is a view of one; nothing else shares memory with what
        is read later.

        Raises:
            DamagedCheckpointError: its bytes are not those that were written, or not in the file.
            UnsupportedCheckpointError: of a dtype that is not known.
        """
        if prod(max(length, 1) for length in stub.shape) * self._dtype(stub).itemsize >= 1 << 63:
            raise UnsupportedCheckpointError(f"{self._path}: a tensor of more numbers than numpy can count")
        if not stub.numbers:
            return np.empty(stub.shape, self._dtype(stub))
        numbers = self.flat(stub, dense=False)
        for done in stub.lazily:
            if stub.dtype not in _KNOWN:
                raise UnsupportedCheckpointError(f"{self._path}: a tensor of the dtype {stub.dtype!r} marked as {done}")
            numbers = np.conj(numbers) if done == "conj" else np.negative(numbers)
        # The step along an axis of one number leads nowhere, and may be any.
        steps = zip(stub.shape, stub.stride, strict=True)
        strides = [step * numbers.itemsize if length > 1 else 0 for length, step in steps]
        return np.lib.stride_tricks.as_strided(numbers, stub.shape, strides, writeable=False)

    def flat(self, stub: TensorStub, *, dense: bool = True) -> Array:
        """Return the numbers of a tensor in one axis, in any order.

        Raises as `read`. Never more numbers than its storage has: of a tensor that says to have more, as an expanded
        one does, all between its first and its last. `dense=False` asks for those anyway.
        """
        dtype = self._dtype(stub)
        self._check(stub)
        data, length = self.storage(stub.storage.key), stub.end - stub.offset if stub.numbers else 0
        if dense and stub.numbers < length:
            return self.read(stub).reshape(-1)
        return np.frombuffer(data, dtype, length, stub.offset * dtype.itemsize if length else 0)

    def blocks(self, stub: TensorStub) -> Iterator[Array]:
        """Yield all numbers of the storage of a tensor, some at a time, unchecked.

        Raises as `read`.
        """
        dtype = self._dtype(stub)
        self._check(stub)
        place = self._places[stub.storage.key]
        with reading(self._path):
            seek_place(self._file, self._path, place)
            left = place.size // dtype.itemsize
            while left:
                block = np.empty(min(left, _BLOCK), dtype)
                if self._file.readinto(block.data.cast("B")) != block.nbytes:  # type: ignore[attr-defined]  # not in BinaryIO
                    raise cut_short(self._path)
                yield block
                left -= block.size

    def _check(self, stub: TensorStub) -> None:
        place = self._places.get(stub.storage.key)
        why = stub.misplaced(None if place is None else place.size)
        if why:
            raise DamagedCheckpointError(f"{self._path}: expected the bytes of a tensor, {why}; {TRY_OLDER}")

    def _dtype(self, stub: TensorStub) -> np.dtype[Any]:
        size = item_bytes(stub.dtype)
        if not size:
            raise UnsupportedCheckpointError(f"{self._path}: a tensor of the dtype {printable(stub.dtype, 40)!r}")
        return _KNOWN.get(stub.dtype) or np.dtype(f"u{size}")

    def storage(self, key: str) -> bytearray:
        """Return the bytes of a whole storage.

        Raises:
            DamagedCheckpointError: not those that were written.
        """
        if self._last[0] != key or not self._last[1]:
            self._last = "", bytearray()  # one at a time in memory
            with reading(self._path):
                self._last = key, read_place(self._file, self._path, self._places[key])
        return self._last[1]


def as_numbers(array: Array, dtype: str) -> Array:
    """Return real numbers for what `read` gave for a tensor of that dtype: float32 for the kinds that numpy lacks.

    >>> as_numbers(np.array([0x3F80], np.uint16), "bfloat16")
    array([1.], dtype=float32)
    """
    if dtype == "float16":
        return array.astype(np.float32)
    if dtype in _KNOWN:
        return array
    if dtype == "bfloat16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype == "complex32":  # two of float16
        halves = np.ascontiguousarray(array).view(np.float16).astype(np.float32)
        return halves.view(np.complex64).reshape(array.shape)
    if dtype.startswith("float8"):
        import torch

        table = torch.arange(256, dtype=torch.uint8, device="cpu").view(getattr(torch, dtype)).float().numpy()
        return np.asarray(table[array])
    return array


def count_not_finite(blocks: Iterable[Array], dtype: str) -> tuple[int, int, int]:
    """Return how many numbers of a tensor are NaN, and how many infinite; the third is 0 if all others are 0.

    `blocks` are its numbers as `TensorReader` gives them.
    """
    nan = infinite = rest = 0
    for block in blocks:
        values = as_numbers(block, dtype)
        finite = np.isfinite(values)
        if finite.all():  # as nearly all are
            rest += int(values.any())
            continue
        bad = np.isnan(values)
        nan += int(bad.sum())
        infinite += int((~finite & ~bad).sum())
        rest += int(np.count_nonzero(values[finite]))
    return nan, infinite, rest
