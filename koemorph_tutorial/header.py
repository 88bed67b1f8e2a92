"""What a checkpoint holds, without torch and without its tensors.

The object tree of a checkpoint is a pickle. It is read here as data: what the pickle names is never called, and inert
stand-ins take the place of whatever is no plain container, so nothing in a stranger's file can run.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from .archive import read_parts
from .records import DamagedCheckpointError
from .text import printable
from .unpickling import Name, Opaque, unpickle


@dataclass(frozen=True)
class StorageStub:
    """Where the numbers of tensors lie: `key` names the record ``data/<key>``; several tensors may share one."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True)
class TensorStub:
    """A tensor as the header knows it: its shape and dtype, without its numbers.

    `storage` is the one its numbers lie in, from element `offset` on.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: StorageStub = field(default=StorageStub("", "", 0), compare=False)
    offset: int = field(default=0, compare=False)

    @property
    def numbers(self) -> int:
        """How many numbers the tensor has."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """The object tree of a checkpoint with `TensorStub` for tensors, and the foreign names that it holds.

    `foreign` are the functions and classes outside of what ``torch.load(weights_only=True)`` rebuilds; `stored` are the
    bytes of each storage in the file, by its key, of the `size` bytes of the whole.
    """

    content: Any
    foreign: tuple[str, ...]
    stored: Mapping[str, int]
    size: int


def read_header(path: Path) -> Header:
    """Read the object tree of a checkpoint without loading its tensors; nothing in the file can run.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: as `open_file`; also a damaged ``data.pkl``.
    """
    parts = read_parts(path)
    try:
        content, names = unpickle(parts.pickle, _Rebuild(len(parts.pickle)), _storage)
    except Exception as error:  # a pickle is a program: a broken one can fail in any way
        why = str(error) if isinstance(error, UnpicklingError) else type(error).__name__
        raise DamagedCheckpointError(
            f"{path}: expected a header as torch.save writes it, found one that cannot be read ({printable(why)}); use "
            "an older checkpoint of the run"
        ) from None
    foreign = sorted(printable(name, 80) for name in names if not _is_known(name))
    return Header(content=content, foreign=tuple(foreign), stored=parts.storages, size=parts.size)


def kind_text(value: Any) -> str:
    """Say what a value of a header is, for a message."""
    if isinstance(value, (Name, Opaque)):
        known = _is_known(value.name)
        return f"{'a' if known else 'the pickled'} {printable(value.name, 80)}" + (
            "" if known else ", which runs code of its own when it is loaded"
        )
    if isinstance(value, (TensorStub, StorageStub)):
        return "a tensor" if isinstance(value, TensorStub) else "a storage"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _storage(pid: Any) -> StorageStub:
    """Read a persistent id of torch: ``("storage", class, key, device, elements)``."""
    _, kind, key, _, elements = pid
    if not (isinstance(kind, Name) and type(key) is str and type(elements) is int and elements >= 0):
        raise UnpicklingError("no description of a storage")
    name = kind.name.rpartition(".")[2]
    return StorageStub(key, _STORAGE_DTYPES.get(name, name), elements)


def _tensor(storage: Any, offset: Any, shape: Any, *rest: Any) -> TensorStub:
    if type(storage) is StorageStub and type(offset) is int and type(shape) is tuple and len(shape) <= 64:
        for size in shape:
            if type(size) is not int or not 0 <= size < 2**63:
                break
        else:
            if 0 <= offset < 2**63:
                return TensorStub(shape, storage.dtype, storage, offset)
    raise UnpicklingError("no description of a tensor")


def _tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Any:
    stub = _tensor(storage, offset, shape)
    return TensorStub(stub.shape, dtype.name.rpartition(".")[2], stub.storage, offset)


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or len(kind) > 20 or type(index) not in (int, type(None)):
        raise UnpicklingError("no device")
    return kind if index is None else f"{kind}:{index:d}"


@dataclass(frozen=True)
class _NumpyDtype:
    code: Any


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    """Rebuild the value of a numpy number, as the recipe's metrics hold it."""
    code = dtype.code if isinstance(dtype, _NumpyDtype) else None
    layout = _NUMPY_LAYOUTS.get(code) if type(code) is str else None
    return struct.unpack(layout, data)[0] if layout else None


_NUMPY_LAYOUTS = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<l", "b1": "<?"}

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "UntypedStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

# Arguments are handed through, never copied: a few bytes can ask for the copy of a large one again and again.
_REBUILD: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda *items: Opaque("collections.OrderedDict", [items]) if items else {},
    "collections.Counter": lambda counts=None: counts or {},
    "builtins.set": lambda items=(): items or [],
    "builtins.complex": lambda real=0.0, imag=0.0: (real, imag),
    "builtins.bytearray": lambda data=b"", *_: data,
    "torch.Size": lambda sizes=(): sizes,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
}
_NUMPY_SCALAR: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": lambda code, *_: _NumpyDtype(code),
}
_ENCODE = "_codecs.encode"  # how protocol 2 holds bytes
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
# Names that torch reads as well: dtypes, storages, layouts, and rarer tensors, which stay stand-ins here.
_HARMLESS = re.compile(
    r"torch\.(\w*Storage|\w*Tensor|bool|(bfloat|bits|complex|float|q?u?int)\d\w*|per_\w+_affine\w*)"
    r"|torch\.storage\.UntypedStorage|torch\.serialization\._get_layout|torch\.nn\.parameter\.Parameter"
    r"|torch\._utils\._rebuild_\w+"
)


def _is_known(name: str) -> bool:
    return name in _REBUILD or name in (_ENCODE, _WITH_ATTRIBUTES) or _HARMLESS.fullmatch(name) is not None


class _Rebuild:
    """Puts something inert in the place of each call that a pickle asks for."""

    def __init__(self, size: int) -> None:
        self.left = size  # a text of the file is encoded once, not again and again

    def __call__(self, name: str, arguments: Any) -> Any:
        if type(arguments) is not tuple or len(arguments) > 16:
            return Opaque(name, [arguments])
        make = _REBUILD.get(name) or _NUMPY_SCALAR.get(name)
        if make is not None:
            return make(*arguments)
        if name == _WITH_ATTRIBUTES and len(arguments) > 2 and isinstance(arguments[0], Name):
            return self(arguments[0].name, arguments[2])
        if name == _ENCODE and arguments and type(arguments[0]) is str:
            self.left -= len(arguments[0])
            if self.left < 0:
                raise UnpicklingError("it asks for more bytes than it holds")
            return arguments[0].encode("latin-1")
        return Opaque(name, [arguments])
