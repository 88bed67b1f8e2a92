"""What stands in the place of each function and class that a checkpoint's pickle names: plain, inert values.

Of what ``torch.load(weights_only=True)`` rebuilds, plain containers, numbers and `TensorStub`; of everything else an
`Opaque`, and the name is kept.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pickle import UnpicklingError
from typing import Any

from .stubs import StorageStub, TensorStub, item_bytes
from .text import printable
from .unpickling import Attributes, Name, Opaque

SCRIPTED = "__torch__."  # so begin the classes of TorchScript: their code is in the archive, and torch alone runs it


class Rebuild:
    """Puts something inert in the place of each call that a pickle asks for.

    `size` is the length of the pickle, in bytes: it may not ask for more. `scripted`: it is one of TorchScript.
    """

    def __init__(self, size: int, *, scripted: bool = False) -> None:
        self.left = size  # a text of the file is encoded once, not again and again
        self.scripted = scripted

    def __call__(self, name: str, arguments: Any, only_made: bool = False) -> Any:
        """Return what stands for the result of calling `name`, or of making one without calling its ``__init__``."""
        if type(arguments) is not tuple or len(arguments) > 16:
            return Opaque(name, [arguments])
        if only_made and arguments and is_known(name, scripted=self.scripted):
            raise UnpicklingError(f"it makes a {name} in a way that torch.save does not")
        if self.scripted and name.startswith(SCRIPTED):
            return Attributes()
        if name in ("collections.Counter", "builtins.set") and arguments:
            return self._copied(name, arguments[0])
        make = _REBUILD.get(name) or _NUMPY_SCALAR.get(name) or (_SCRIPT.get(name) if self.scripted else None)
        if make is not None:
            return make(*arguments)
        if name == _WITH_ATTRIBUTES and len(arguments) > 2 and isinstance(arguments[0], Name):
            if len(arguments) > 3 and not _is_harmless_state(arguments[3]):
                raise UnpicklingError("it changes a tensor after it was made")
            return self(arguments[0].name, arguments[2])
        if name == _ENCODE and arguments and type(arguments[0]) is str:
            if arguments[1:] not in ((), ("latin1",)):
                raise UnpicklingError("bytes written as another text than torch.save makes of them")
            self.left -= len(arguments[0])
            if self.left < 0:
                raise UnpicklingError("it asks for more bytes than it holds")
            return arguments[0].encode("latin-1")
        if _MEMORY.fullmatch(name):  # of a size that it gives, whatever is in the file
            raise UnpicklingError(f"it asks {name} for memory")
        return Opaque(name, [arguments])

    def _copied(self, name: str, items: Any) -> Any:
        """Return a set in an order that is the same in every process, or the counts of a Counter."""
        if not isinstance(items, (list, dict)):
            raise UnpicklingError(f"no content of a {name}")
        self.left -= len(items)
        if self.left < 0:
            raise UnpicklingError("it asks for more than it holds")
        if isinstance(items, dict):
            return dict(items)
        plain = all(type(item) in (str, int, float, bool, bytes, type(None)) for item in items)
        return (
            sorted(items, key=lambda item: (type(item).__name__, item)) if plain and None not in items else list(items)
        )


def _is_harmless_state(state: Any) -> bool:
    """Say whether attributes of a tensor are such: torch would set its ``data`` as well."""
    return isinstance(state, dict) and all(type(key) is str and key not in _OF_TENSORS for key in state)


def is_known(name: str, *, scripted: bool = False) -> bool:
    """Say whether torch rebuilds what `name` names without running code of the file's choice."""
    if scripted and (name.startswith(SCRIPTED) or name in _SCRIPT):
        return True
    return name in _REBUILD or name in (_ENCODE, _WITH_ATTRIBUTES) or _HARMLESS.fullmatch(name) is not None


def is_numpy_number(name: str) -> bool:
    """Say whether a name is one that a number of numpy is stored with: not known to torch, and no harm."""
    return name in _NUMPY_SCALAR


def kind_text(value: Any) -> str:
    """Say what a value of a header is, for a message."""
    if isinstance(value, (Name, Opaque)):
        name = printable(value.name, 80)
        known = is_known(value.name)
        return f"a {name}" if known else f"the pickled {name}, which runs code of its own when it is loaded"
    if isinstance(value, (TensorStub, StorageStub)):
        return "a tensor" if isinstance(value, TensorStub) else "a storage"
    return "nothing" if value is None else f"a {type(value).__name__}"


def storage(pid: Any) -> Any:
    """Read a persistent id of torch: ``("storage", class, key, device, elements)``, or a class of the old format."""
    if pid[0] == "module" and isinstance(pid[1], Name):  # with its source code behind it
        return pid[1]
    _, kind, key, _, elements, *view = pid
    if not (isinstance(kind, Name) and type(key) is str and type(elements) is int and 0 <= elements < 2**63):
        raise UnpicklingError("no description of a storage")
    if any(part is not None for part in view):
        raise UnpicklingError("a storage within another one, as only torch 0.3 wrote it")
    name = kind.name.rpartition(".")[2]
    plain = name.removesuffix("Storage").lower()  # as TorchScript calls the newer ones: Float8_e5m2Storage
    return StorageStub(key, _STORAGE_DTYPES.get(name) or (plain if item_bytes(plain) else name), elements)


def _tensor(stored: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> TensorStub:
    whole = type(stored) is StorageStub and type(shape) is type(stride) is tuple and len(shape) == len(stride) <= 64
    if not whole or not all(type(size) is int and 0 <= size < 2**63 for size in (offset, *shape, *stride)):
        raise UnpicklingError("no description of a tensor")
    marks = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    return TensorStub(shape, stored.dtype, stored, offset, stride, _lazily(marks))


def _tensor_v3(stored: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any) -> Any:
    return replace(_tensor(stored, offset, shape, stride, grad, hooks, *rest), dtype=dtype.name.rpartition(".")[2])


def _lazily(marks: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(mark for mark in ("conj", "neg") if mark in marks)  # torch does not look at what they are set to


def _parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Any:
    if state and not _is_harmless_state(state):
        raise UnpicklingError("it changes a tensor after it was made")
    return data


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or len(kind) > 20 or type(index) not in (int, type(None)):
        raise UnpicklingError("no device")
    return kind if index is None else f"{kind}:{index:d}"


def _bytearray(data: Any = b"", *_: Any) -> Any:
    if type(data) is int:  # so many zeros: five bytes that ask for gigabytes
        raise UnpicklingError("it asks for more bytes than it holds")
    return data


@dataclass
class _NumpyDtype:
    code: Any

    def build(self, state: Any) -> None:
        """Take the order of the bytes: numbers of another one than ours are not read."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|", "="):
            self.code = None


class StateDict(dict[Any, Any]):
    """An OrderedDict; `metadata` is what a module keeps beside its state, the versions of its layers."""

    metadata: Any = None

    def build(self, state: Any) -> None:
        """Take the attributes: of interest is one."""
        if isinstance(state, dict) and "_metadata" in state:
            self.metadata = state["_metadata"]


def _ordered(*items: Any) -> dict[Any, Any]:
    if items:
        raise UnpicklingError("an OrderedDict as Python 2 wrote it")
    return StateDict()


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    """Rebuild the value of a numpy number, as the recipe's metrics hold it."""
    code = dtype.code if isinstance(dtype, _NumpyDtype) else None
    layout = _NUMPY_LAYOUTS.get(code) if type(code) is str else None
    return struct.unpack(layout, data)[0] if layout else Opaque("numpy._core.multiarray.scalar", [code, data])


_NUMPY_LAYOUTS = {"f8": "<d", "f4": "<f", "f2": "<e", "b1": "<?"}
_NUMPY_LAYOUTS |= {"i8": "<q", "i4": "<l", "i2": "<h", "i1": "<b", "u8": "<Q", "u4": "<L", "u2": "<H", "u1": "<B"}
_OF_TENSORS = {"data", "grad", "requires_grad", "_backward_hooks", "names", "real", "imag"}

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
    "ComplexHalfStorage": "complex32",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

# Arguments are handed through, never copied: a few bytes can ask for the copy of a large one again and again.
_REBUILD: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": dict,
    "builtins.set": list,
    "builtins.complex": lambda real=0.0, imag=0.0: (real, imag),
    "builtins.bytearray": _bytearray,
    "torch.Size": lambda sizes=(): sizes,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_qtensor": lambda *arguments: Opaque(
        "torch._utils._rebuild_qtensor", [_tensor(*arguments[:4]), *arguments[4:]]
    ),
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
_NUMPY_SCALAR: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": lambda code, *_: _NumpyDtype(code),
}
_SCRIPT: dict[str, Callable[..., Any]] = {
    f"torch.jit._pickle.{name}": lambda value, *_: value
    for name in ("restore_type_tag", "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
}
_ENCODE = "_codecs.encode"  # how protocol 2 holds bytes
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_MEMORY = re.compile(r"torch\.(\w*Tensor|\w*Storage|storage\.\w*Storage)")
# Names that torch reads as well: dtypes, storages, layouts, and rarer tensors, which stay stand-ins here.
_HARMLESS = re.compile(
    r"torch\.(\w*Storage|\w*Tensor|bool|(bfloat|bits|complex|float|q?u?int)\d\w*|per_\w+_affine\w*)"
    r"|torch\.storage\.UntypedStorage|torch\.serialization\._get_layout|torch\.nn\.parameter\.Parameter"
    r"|torch\._utils\._rebuild_(parameter(_with_state)?|qtensor|tensor(_v2|_v3)?|sparse_tensor|nested_tensor"
    r"|meta_tensor_no_storage|wrapper_subclass|device_tensor_from_(numpy|cpu_tensor))"
)
