"""What a checkpoint holds, without torch and without its tensors.

The object tree of a checkpoint is a pickle. It is read here with an unpickler that builds inert stand-ins instead of
calling what the pickle names, so nothing in a stranger's file can run.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .archive import read_pickle
from .records import DamagedCheckpointError


@dataclass(frozen=True)
class TensorStub:
    """A tensor as the header knows it: its shape and dtype, without its numbers."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Header:
    """The object tree of a checkpoint with `TensorStub` for tensors, and the foreign names that it holds.

    `foreign` are the functions and classes outside of what ``torch.load(weights_only=True)`` rebuilds.
    """

    content: Any
    foreign: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read the object tree of a checkpoint without loading its tensors; nothing in the file can run.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: as `open_file`; also a damaged ``data.pkl``.
    """
    unpickler = _HeaderUnpickler(io.BytesIO(read_pickle(path)))
    try:
        content = unpickler.load()
    except Exception as error:  # a pickle is a program: a broken one can fail in any way
        raise DamagedCheckpointError(f"{path}: its header cannot be read: {type(error).__name__}: {error}") from None
    return Header(content=content, foreign=tuple(sorted(unpickler.foreign)))


class _Dict(dict[Any, Any]):
    """Stands for OrderedDict and Counter; what the pickle sets on it is ignored."""

    def __setstate__(self, state: object) -> None:
        pass


class _Inert:
    """Stands for whatever else a pickle names: takes every call and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


@dataclass(frozen=True)
class _Name:
    """A torch dtype, storage type or the like: only its name matters."""

    name: str

    def __call__(self, *args: object) -> _Name:
        return self


@dataclass
class _NumpyDtype:
    code: str

    def __setstate__(self, state: object) -> None:
        pass


def _tensor(storage: Any, offset: int, shape: Any, *rest: Any) -> TensorStub:
    return TensorStub(tuple(shape), str(storage))


def _tensor_v3(storage: Any, offset: int, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Any:
    return TensorStub(tuple(shape), dtype.name)


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    """Rebuild the value of a numpy number, as the recipe's metrics hold it."""
    layout = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<l", "b1": "<?"}.get(getattr(dtype, "code", ""))
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return struct.unpack(layout, raw)[0] if layout else None


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
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

_REBUILD: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Dict,
    "collections.Counter": _Dict,
    "builtins.set": lambda items=(): list(items),
    "builtins.complex": lambda real=0.0, imag=0.0: (real, imag),
    "builtins.bytearray": lambda data=b"", *_: data if isinstance(data, (bytes, str)) else b"",
    "_codecs.encode": lambda text, *_: text.encode("latin-1") if isinstance(text, str) else b"",
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda rebuild, kind, args, state: rebuild(*args),  # with attributes
}
# Names that torch reads as well: dtypes, storages, layouts, and rarer tensors, which stay stand-ins here.
_HARMLESS = re.compile(
    r"torch\.(\w*Storage|\w*Tensor|bool|(bfloat|bits|complex|float|q?u?int)\d\w*|per_\w+_affine\w*)"
    r"|torch\.storage\.UntypedStorage|torch\.serialization\._get_layout|torch\.nn\.parameter\.Parameter"
)
_NUMPY_SCALAR: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": lambda code, *_: _NumpyDtype(str(code)),
}


class _HeaderUnpickler(pickle.Unpickler):
    """Builds plain containers and stand-ins; never imports, never calls what a file names."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.foreign: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # protocol 2's names
        full = f"{module}.{name}"
        if full in _REBUILD:
            return _REBUILD[full]
        if _HARMLESS.fullmatch(full):
            return _Name(name)
        if not full.startswith("torch._utils._rebuild_"):
            self.foreign.add(full)
        return _NUMPY_SCALAR.get(full) or type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> str:
        kind = getattr(pid[1], "name", "") if isinstance(pid, tuple) and len(pid) > 1 else ""
        return _STORAGE_DTYPES.get(kind, kind)
