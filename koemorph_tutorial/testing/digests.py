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
    text = "\n".join(f"{path}={leaf}" for path, leaf in leaves(state))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every leaf; of a tensor its kind and a digest of its bytes."""
    if isinstance(value, Mapping):
        yield path, f"dict of {len(value)}"
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        yield path, f"{type(value).__name__} of {len(value)}"
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    elif hasattr(value, "untyped_storage"):
        data = bytes(value.detach().cpu().contiguous().flatten().view(dtype=_bytes()).numpy()) if value.numel() else b""
        yield path, f"{value.dtype} {list(value.shape)} {hashlib.blake2b(data, digest_size=8).hexdigest()}"
    else:
        yield path, f"{type(value).__name__} {value!r}"


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


def _bytes() -> Any:
    import torch

    return torch.uint8
