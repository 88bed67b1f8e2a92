"""Tensors as a header knows them: their shapes and where their numbers lie, without the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from .text import printable
from .unpickling import Opaque

Keys = tuple[Any, ...]


@dataclass(frozen=True)
class StorageStub:
    """Where the numbers of tensors lie: `key` names the bytes in the file; several tensors may share one."""

    key: str
    dtype: str
    elements: int

    @property
    def bytes(self) -> int:
        """How many bytes it should have."""
        return self.elements * item_bytes(self.dtype)


@dataclass(frozen=True)
class TensorStub:
    """A tensor as the header knows it: its shape and dtype, without its numbers.

    `storage` is the one its numbers lie in, from element `offset` on, `stride` elements apart along each axis. `lazily`
    is what torch does to them when they are read: "conj", "neg", both or nothing.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: StorageStub = field(default=StorageStub("", "", 0), compare=False)
    offset: int = field(default=0, compare=False)
    stride: tuple[int, ...] = field(default=(), compare=False)
    lazily: tuple[str, ...] = field(default=(), compare=False)

    @property
    def numbers(self) -> int:
        """How many numbers the tensor has."""
        return prod(self.shape)

    @property
    def end(self) -> int:
        """Behind which element of its storage its last number lies; 0 for a tensor without numbers."""
        if not self.numbers:
            return 0
        return self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)) + 1

    def misplaced(self, stored: int | None) -> str:
        """Return what is wrong with where it says to lie in its storage of `stored` bytes; "" if nothing is.

        torch believes what it says: where that is more than the file holds, it reads memory that is not the file's.
        """
        needed, name = self.end * item_bytes(self.dtype), repr(printable(self.storage.key, 40))
        if stored is None:
            return f"found no record {name}"
        if self.storage.bytes != stored and item_bytes(self.storage.dtype):  # of a dtype not known: who can tell
            return f"found {stored:,} bytes in record {name} where it says {self.storage.bytes:,}"
        return f"found one that ends at byte {needed:,} of {stored:,}" if needed > stored else ""


def item_bytes(dtype: str) -> int:
    """Return how many bytes one number takes; 0 for a dtype that is not known.

    >>> item_bytes("bfloat16"), item_bytes("bool"), item_bytes("float8_e4m3fn"), item_bytes("dream")
    (2, 1, 1, 0)
    """
    return _BYTES.get(dtype, 0)


# A table, not the digits in a name: the name is the file's choice.
_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8", "bits8", "bits1x8", "bits2x4", "bits4x2", "float4_e2m1fn_x2"), 1),
    **dict.fromkeys((f"float8_{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")), 1),
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16", "bits16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32", "complex32", "QInt32Storage"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


def find_tensors(content: Any) -> Iterator[tuple[Keys, TensorStub]]:
    """Yield every tensor in a header's content with its keys; a container that is there twice is walked once.

    A bare storage counts as a tensor of one axis.
    """
    stack: list[tuple[Keys, Any]] = [((), content)]
    seen: set[int] = set()
    while stack:
        keys, value = stack.pop()
        if isinstance(value, StorageStub):
            yield keys, TensorStub((value.elements,), value.dtype, value, 0, (1,))
        elif isinstance(value, TensorStub):
            yield keys, value
        elif id(value) not in seen:
            seen.add(id(value))
            below = [((*keys, key) if len(keys) < _DEEPEST else keys, item) for key, item in _items(value)]
            stack += reversed(below)


_DEEPEST = 64  # keys: deeper a tensor has the name of what it lies in


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif isinstance(value, Opaque):
        items = enumerate(value.content)
    return ((key, item) for key, item in items if isinstance(item, _WITH_TENSORS))


_WITH_TENSORS = (dict, list, tuple, Opaque, TensorStub, StorageStub)
