"""A state as text: every leaf of nested containers by its path, and one digest of it all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def digest(state: Any) -> str:
    """Return 16 hexadecimal digits that are equal for two states that are equal to the last bit.

    >>> import torch
    >>> digest({"weight": torch.zeros(2)}) == digest({"weight": torch.zeros(2)})
    True
    >>> digest({"weight": torch.zeros(2)}) == digest({"weight": -torch.zeros(2)})
    False
    """
    return _hash("\n".join(f"{path}={leaf}" for path, leaf in leaves(state)).encode())


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every leaf; of a tensor or an array its kind and a digest of its bytes."""
    if isinstance(value, Mapping):
        yield path, f"dict of {len(value)}"
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        yield path, f"{type(value).__name__} of {len(value)}"
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    elif isinstance(value, set | frozenset):  # in an order that is the same in every process
        yield path, f"{type(value).__name__} of {len(value)}: {_hash(repr(sorted(map(repr, value))).encode())}"
    elif hasattr(value, "untyped_storage"):
        yield path, f"{value.dtype} {list(value.shape)} {_hash(_tensor_bytes(value))}"
    elif hasattr(value, "__array_interface__") and value.dtype.hasobject:
        yield from leaves(value.tolist(), path)
    elif hasattr(value, "__array_interface__"):
        yield path, f"{value.dtype} {list(value.shape)} {_hash(value.tobytes())}"
    elif _is_anonymous(value):  # its text is an address, which says nothing
        yield path, type(value).__qualname__
        yield from leaves(getattr(value, "__dict__", {}), path)
    else:
        text = repr(value)
        yield path, f"{type(value).__name__} {text if len(text) <= 80 else f'of {len(text)}: {_hash(text.encode())}'}"


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


def _is_anonymous(value: object) -> bool:
    return type(value).__repr__ is object.__repr__


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _tensor_bytes(value: Any) -> bytes:
    import torch

    value = value.detach()
    if value.device.type == "meta" or value.numel() == 0:
        return b""
    if value.layout != torch.strided:
        value = value.to_dense()
    if value.is_quantized:
        value = value.int_repr()
    return bytes(value.cpu().resolve_conj().resolve_neg().contiguous().flatten().view(dtype=torch.uint8).numpy())
