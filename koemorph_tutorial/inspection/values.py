"""What a stranger's file holds as plain values and short phrases: whatever it is, and however much of it there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from koemorph_tutorial.rebuild import kind_text
from koemorph_tutorial.text import printable


def whole(value: Any) -> int | None:
    """Return a number that can count something, None of anything else."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def plain_keys(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is in a dict, each key as text; of anything else nothing."""
    return ((short(key), item) for key, item in value.items()) if isinstance(value, dict) else iter(())


def plain_dict(value: Any) -> dict[str, Any]:
    """Return a dict with text as keys and plain values; of anything else an empty one."""
    return {name: plain(item) for name, item in plain_keys(value)}


def short(value: Any) -> str:
    """Return a value in one short phrase, a container by how much is in it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (dict, list, tuple)):
        return f"{type(value).__name__} of {len(value):,}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length():,} bits"
    return str(value) if isinstance(value, (int, float, type(None))) else kind_text(value)


def plain(value: Any) -> Any:
    """Return a value of a header as plain containers; what is no number or text is named, what is too deep counted."""
    left = [20_000]  # a few bytes can hold a tree of any size: each branch twice the one below

    def walk(value: Any, depth: int) -> Any:
        left[0] -= 1
        if isinstance(value, (dict, list, tuple)) and depth < 10 and left[0] > 0:
            if isinstance(value, dict):
                return {short(key): walk(item, depth + 1) for key, item in value.items()}
            return [walk(item, depth + 1) for item in value]
        exact = isinstance(value, (bool, float, type(None))) or (isinstance(value, int) and value.bit_length() < 200)
        return value if exact else short(value)

    return walk(value, 0)


def value_text(value: Any) -> str:
    """Return a plain value in one short phrase."""
    if isinstance(value, dict):
        return "{" + ", ".join(pairs_text(value)) + "}" if len(value) < 5 else f"a dict of {len(value):,}"
    if isinstance(value, list):
        return "[" + ", ".join(map(value_text, value)) + "]" if len(value) < 13 else f"a list of {len(value):,}"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return printable(f"{value:.6g}" if isinstance(value, float) else str(value), 72)


def pairs_text(values: Mapping[str, Any]) -> list[str]:
    """Return named plain values, each in one short phrase."""
    return [f"{name} {value_text(value)}" for name, value in values.items()]
