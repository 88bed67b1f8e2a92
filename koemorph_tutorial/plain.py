"""What ``torch.load(weights_only=True)`` reads back without added safe globals, and whatever else finds its way in."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .records import UnsavableStateError


def check_plain(value: Any, path: str = "") -> None:
    """Check that ``torch.load(weights_only=True)`` will read `value` back without added safe globals.

    Raises:
        UnsavableStateError: the path of the first value of another type, and that type.

    >>> check_plain({"scheduler_state_dict": {"fn": [print]}})
    Traceback (most recent call last):
        ...
    koemorph_tutorial.records.UnsavableStateError: scheduler_state_dict.fn[0]: expected numbers, text, tensors and \
containers of them, found builtin_function_or_method; nothing was saved. Leave it out of the object's state_dict
    """
    for where, what in _unreadable(value, path, set()):
        if what.startswith("numpy."):
            hint = "Turn it into a plain number"
        elif where.startswith("config"):
            hint = "Turn it into text or a number"
        elif what.endswith(".DTensor"):
            hint = "Each rank holds a part of it: save it by koemorph_tutorial.sharded.save_sharded"
        else:
            hint = "Leave it out of the object's state_dict"
        raise UnsavableStateError(
            f"{where or 'checkpoint'}: expected numbers, text, tensors and containers of them, found {what}; nothing "
            f"was saved. {hint}"
        )


_LEAVES = (type(None), bool, float, complex, str, torch.Size, torch.dtype, torch.device)


def _unreadable(value: Any, path: str, inside: set[int]) -> Iterator[tuple[str, str]]:
    kind = type(value)
    if kind in _LEAVES or (kind is int and value.bit_length() < 255 * 8):
        return
    if (kind is bytes and value) or kind is bytearray:  # an empty bytes is pickled as a call of its class
        return
    if id(value) in inside:
        yield path, "a container that holds itself"
        return
    inside = inside | {id(value)}
    before = f"{path}." if path else ""
    if kind in (list, tuple, set):
        for number, item in enumerate(value):
            yield from _unreadable(item, f"{path}[{number}]", inside)
    elif kind in (dict, OrderedDict, Counter, torch.Tensor, nn.Parameter):
        mapping = value if isinstance(value, dict) else {}
        for key in mapping:
            if type(key) not in (str, int, float, bool, tuple, type(None)):
                yield f"{before}{key!r}", f"the key of type {_type_name(type(key))}"
            elif type(key) in (int, tuple):
                yield from _unreadable(key, f"{before}<key>", inside)
        for key, item in (*mapping.items(), *getattr(value, "__dict__", {}).items()):
            yield from _unreadable(item, f"{before}{key}", inside)
    elif kind is int:
        yield path, f"a number of {value.bit_length()} bits"
    else:
        yield path, "empty bytes" if kind is bytes else _type_name(kind)


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
