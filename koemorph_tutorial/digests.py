"""A state as text: every leaf of nested containers by its path, and one digest of it all."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

_OF_C = (int, float, complex, str, bytes, bool, type(None), type, type(...))
_MOST = 60  # containers in containers: deeper is one that holds itself
UNKNOWN = "not compared"  # in the text of a leaf that says nothing about its content


def digest(state: Any) -> str:
    """Return 16 hexadecimal digits that are equal for two states that are equal to the last bit.

    >>> import torch
    >>> digest({"weight": torch.zeros(2)}) == digest({"weight": torch.zeros(2)})
    True
    >>> digest({"weight": torch.zeros(2)}) == digest({"weight": -torch.zeros(2)})
    False
    """
    return _hash("\n".join(f"{path}={leaf}" for path, leaf in leaves(state)).encode())


def leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield path and text of every leaf; of a tensor or an array its kind and a digest of its bytes.

    The text is the same in every process: no address and no order of a set is in it. Of an object that is no container
    its attributes are taken; where nothing of it can be seen, the text says that it is not compared.
    """
    inside = _inside(value) if depth < _MOST else None
    if inside is None:
        yield path, _text(value) if depth < _MOST else f"{type(value).__name__} ({UNKNOWN}: too deep)"
        return
    head, items = inside
    yield path, head
    for key, item in items:
        name = key if isinstance(key, str) else f"[{key!r}]"
        between = "." if path and not name.startswith("[") else ""
        yield from leaves(item, f"{path}{between}{name}", depth + 1)


def _inside(value: Any) -> tuple[str, Iterable[tuple[Any, Any]]] | None:
    """Return what a container is, and its items by their keys; None for a leaf."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"dict of {len(value)}", value.items()
    if isinstance(value, list | tuple | deque):
        return f"{kind} of {len(value)}", enumerate(value)
    if isinstance(value, (*_OF_C, set, frozenset)) or hasattr(value, "dtype") or callable(value):
        state_dict = getattr(value, "state_dict", None)  # of a module, which can be called
        if isinstance(value, type) or not callable(state_dict):
            return None
        return kind, state_dict().items()
    if is_dataclass(value):
        return kind, [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    attributes = dict(getattr(value, "__dict__", {}))
    for parent in type(value).__mro__:
        slots = vars(parent).get("__slots__", ())
        names = [slots] if isinstance(slots, str) else slots
        attributes |= {name: getattr(value, name) for name in names if hasattr(value, name)}
    return (kind, attributes.items()) if attributes else None


def _text(value: Any) -> str:
    kind = type(value).__name__
    try:
        if hasattr(value, "untyped_storage") or hasattr(value, "layout"):
            return _tensor(value)
        if isinstance(value, set | frozenset):
            return f"{kind} of {len(value)}: {_hash(repr(sorted(map(digest, value))).encode())}"
        if hasattr(value, "__array_interface__"):
            held = digest(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
            return f"{value.dtype} {list(value.shape)} {_hash(held)}"
        if hasattr(value, "bit_generator"):  # of numpy
            return f"{kind} {digest(value.bit_generator.state)}"
        if hasattr(value, "initial_seed"):  # of torch
            return f"{kind} {digest(value.get_state())}"
        if not isinstance(value, _OF_C) and callable(value):
            return f"{kind} {getattr(value, '__qualname__', '')}"
        if isinstance(value, int):
            return f"{kind} {value}" if value.bit_length() < 200 else f"{kind} {_hash(hex(value).encode())}"
        text = re.sub(r"\b0x[0-9a-fA-F]+\b", "0x…", repr(value)) if not isinstance(value, _OF_C) else repr(value)
    except Exception:  # whatever a stranger's object makes of a question
        return f"{kind} ({UNKNOWN})"
    if re.fullmatch(r"<[\w.]+ object at 0x…>", text):
        return f"{kind} ({UNKNOWN})"
    return f"{kind} {text if len(text) <= 80 else f'of {len(text)}: {_hash(text.encode())}'}"


def _tensor(value: Any) -> str:
    import torch

    if torch.nn.parameter.is_lazy(value):
        return f"{value.dtype} of no shape yet"
    head = f"{value.dtype} nested" if value.is_nested else f"{value.dtype} {list(value.shape)}"
    if value.device.type == "meta":
        return head
    value = value.detach()
    if value.is_nested:
        return f"{head} {digest(list(value.unbind()))}"
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return f"{head} sparse {digest([value.indices(), value.values()])}"
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        return f"{head} sparse {digest([value.crow_indices(), value.col_indices(), value.values()])}"
    if value.layout in (torch.sparse_csc, torch.sparse_bsc):
        return f"{head} sparse {digest([value.ccol_indices(), value.row_indices(), value.values()])}"
    if value.is_quantized:
        return f"{head} {digest([value.int_repr(), repr(value.qscheme()), value.dequantize()])}"
    value = value.cpu().resolve_conj().resolve_neg().contiguous()
    return f"{head} {_hash(bytes(value.flatten().view(dtype=torch.uint8).numpy()) if value.numel() else b'')}"


def run_digest(checkpoint: Mapping[str, Any]) -> str:
    """Return the digest of a checkpoint of ours but for what two equal runs differ in: their names and the clock."""
    return digest(comparable(checkpoint))


def comparable(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of ours without ``run``, ``metadata.timestamp`` and ``metadata.training_time``."""
    content = {key: value for key, value in checkpoint.items() if key != "run"}
    metadata = content.get("metadata")
    if isinstance(metadata, Mapping):
        clock = ("timestamp", "training_time")
        content["metadata"] = {key: value for key, value in metadata.items() if key not in clock}
    return content


def file_content(path: Path) -> dict[str, str]:
    """Return the leaves of what a file holds: of a checkpoint that torch can load safely its values, else its bytes."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever torch says of a file that is not one of its own
        return {"": file_digest(path)}
    ours = isinstance(loaded, Mapping) and "format_version" in loaded
    return dict(leaves(comparable(loaded) if ours else loaded))


def file_digest(path: Path) -> str:
    """Return a digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
