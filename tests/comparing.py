"""Bitwise comparison of two checkpoints, for tests."""

from __future__ import annotations

from typing import Any

import torch

# The only things in which a resumed run may differ from one that never stopped.
EXEMPT = {"run", "metadata.timestamp", "metadata.training_time"}


def difference(a: Any, b: Any, path: str = "") -> str:
    """Return the path of the first thing in which `a` and `b` differ bitwise, '' if there is none."""
    if path in EXEMPT:
        return ""
    if type(a) is not type(b):
        return f"{path}: {type(a).__name__} against {type(b).__name__}"
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
        return "" if same else f"{path}: {a} against {b}"
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{path}: keys {list(a)} against {list(b)}"
        return next((found for key in a if (found := difference(a[key], b[key], f"{path}.{key}".strip(".")))), "")
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{path}: {len(a)} items against {len(b)}"
        pairs = enumerate(zip(a, b, strict=True))
        return next((found for i, (x, y) in pairs if (found := difference(x, y, f"{path}[{i}]"))), "")
    return "" if a == b or (a != a and b != b) else f"{path}: {a!r} against {b!r}"


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
