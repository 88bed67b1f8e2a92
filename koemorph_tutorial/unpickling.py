"""A pickle read as data: plain containers are built, and nothing that it names is imported or called.

Python's own unpickler is not safe even when every name in the file is replaced by something harmless: five bytes make
it reserve gigabytes (a memo takes 16 bytes for each index up to the one it is given), and a deep tuple as a key ends
the process (it is hashed by recursion in C).
This machine knows the opcodes that ``torch.save`` writes, costs memory in proportion to the bytes it is given, and
hashes nothing that is nested. The opcodes: ``pickletools.dis``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names, as ``module.name``."""

    name: str


@dataclass(eq=False, repr=False)  # it may hold itself
class Opaque:
    """What a named function or class would have made; `content` is what it was given."""

    name: str
    content: list[Any]

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Attributes(dict[str, Any]):
    """The attributes of an object that the pickle makes, for a caller who wants them as a dict."""


_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_NUMBERS = {
    ord("M"): struct.Struct("<H"),
    ord("J"): struct.Struct("<i"),
    ord("G"): struct.Struct(">d"),
}
_UTF8, _ASCII, _BYTES, _LONG = range(4)
_ONE, _FOUR, _EIGHT = (struct.Struct(layout) for layout in ("<B", "<I", "<Q"))
_STRINGS = {  # opcode: what it holds, how its length is written
    0x8C: (_UTF8, _ONE),
    0x8D: (_UTF8, _EIGHT),
    ord("U"): (_ASCII, _ONE),
    ord("T"): (_ASCII, _FOUR),
    ord("C"): (_BYTES, _ONE),
    ord("B"): (_BYTES, _FOUR),
    0x8E: (_BYTES, _EIGHT),
    0x96: (_BYTES, _EIGHT),
    0x8A: (_LONG, _ONE),
}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_ATOMS = (str, int, float, bool, type(None), bytes)
_LONGEST_NAME = 1000  # characters
_MOST_CONTAINERS = 1_000_000  # a hundred thousand tensors; each takes some hundred bytes, and one byte of the file
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocol 2 writes its names


def unpickle(
    data: bytes, call: Callable[[str, Any, bool], Any], persistent: Callable[[Any], Any], at: int = 0
) -> tuple[Any, frozenset[str], int]:
    """Return the object that `data` describes from byte `at` on, the names of all functions and classes in it, its end.

    `call` is asked what to put in place of a call: it gets the name, the arguments as the file has them, and whether
    the class is only to be made, without its ``__init__``; where it returns `Attributes`, these are filled with those
    of the object, and what has a ``build`` method is handed its state. `persistent` is handed each persistent id: of
    torch, the description of a storage.

    Raises:
        Exception: no such pickle. A pickle is a program, and a broken one can fail in many ways.
    """
    names: dict[str, Name] = {}
    stack, outer, memo = [], [], {}  # type: list[Any], list[list[Any]], dict[int, Any]
    containers = _MOST_CONTAINERS
    left = len(data)  # attributes that may be copied: one set can be given to object after object
    while True:
        opcode = data[at]
        at += 1
        if containers < 0 or len(memo) > 2 * _MOST_CONTAINERS:
            raise UnpicklingError(f"it holds more than {_MOST_CONTAINERS:,} lists, dicts and tuples")
        # In the order of their frequency: a header of four hundred tensors has twelve thousand.
        if opcode == 0x72:  # LONG_BINPUT
            memo[int.from_bytes(data[at : at + 4], "little")] = stack[-1]
            at += 4
        elif opcode == 0x71:  # BINPUT
            memo[data[at]] = stack[-1]
            at += 1
        elif opcode == 0x68:  # BINGET
            stack.append(memo[data[at]])
            at += 1
        elif opcode == 0x4B:  # BININT1
            stack.append(data[at])
            at += 1
        elif opcode == 0x58:  # BINUNICODE
            begin = at + 4
            at = begin + int.from_bytes(data[at:begin], "little")
            if at > len(data):
                raise UnpicklingError("it ends inside a text")
            stack.append(data[begin:at].decode("utf-8", "surrogatepass"))
        elif opcode in _NUMBERS:
            layout = _NUMBERS[opcode]
            stack.append(layout.unpack_from(data, at)[0])
            at += layout.size
        elif opcode == 0x28:  # MARK
            outer.append(stack)
            stack = []
            containers -= 1
        elif opcode == 0x74:  # TUPLE
            whole, stack = tuple(stack), outer.pop()
            stack.append(whole)
        elif opcode == 0x52 or opcode == 0x81:  # REDUCE, NEWOBJ
            arguments = stack.pop()
            callee = stack[-1]
            named = type(callee) is Name
            stack[-1] = call(callee.name, arguments, opcode == 0x81) if named else Opaque("", [callee, arguments])
        elif opcode in _STRINGS:
            kind, length = _STRINGS[opcode]
            begin = at + length.size
            at = begin + length.unpack_from(data, at)[0]
            if at > len(data):
                raise UnpicklingError("it ends inside a text")
            stack.append(_decoded(kind, data[begin:at]))
        elif opcode == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            if len(stack) < count:
                raise IndexError
            containers -= 1
            stack[-count:] = [tuple(stack[-count:])]
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == 0x51:  # BINPERSID
            stack[-1] = persistent(stack[-1])
        elif opcode == 0x6A:  # LONG_BINGET
            stack.append(memo[int.from_bytes(data[at : at + 4], "little")])
            at += 4
        elif opcode == 0x7D:  # EMPTY_DICT
            stack.append({})
            containers -= 1
        elif opcode == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif opcode == 0x75:  # SETITEMS
            items, stack = stack, outer.pop()
            _set_items(stack[-1], items)
        elif opcode == 0x5D or opcode == 0x8F:  # EMPTY_LIST, EMPTY_SET
            stack.append([])
            containers -= 1
        elif opcode == 0x61:  # APPEND
            item = stack.pop()
            _extend(stack[-1], [item])
        elif opcode == 0x65 or opcode == 0x90:  # APPENDS, ADDITEMS
            items, stack = stack, outer.pop()
            _extend(stack[-1], items)
        elif opcode == 0x62:  # BUILD: the attributes of an object; those of a dict are not of interest
            state, target = stack.pop(), stack[-1]
            if isinstance(target, Opaque):
                target.content.append(state)
            elif type(target) is Attributes:
                state = state if isinstance(state, dict) else {"state": state}
                left -= len(state)
                if left < 0:
                    raise UnpicklingError("it asks for more attributes than it holds")
                target.update(state)
            elif hasattr(target, "build"):
                target.build(state)
            elif type(target) is not dict:
                raise UnpicklingError(f"it changes a {type(target).__name__} after it was made")
        elif opcode == 0x63:  # GLOBAL
            middle = data.index(b"\n", at)
            end = data.index(b"\n", middle + 1)
            stack.append(_named(names, data[at:middle].decode(), data[middle + 1 : end].decode()))
            at = end + 1
        elif opcode == 0x93:  # STACK_GLOBAL
            name, module = stack.pop(), stack.pop()
            stack.append(_named(names, module, name))
        elif opcode == 0x92:  # NEWOBJ_EX
            words, arguments = stack.pop(), stack.pop()
            stack[-1] = Opaque(stack[-1].name if type(stack[-1]) is Name else "", [arguments, words])
        elif opcode == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        elif opcode == 0x80 or opcode == 0x95:  # PROTO, FRAME: the length of a frame is of no use here
            at += 1 if opcode == 0x80 else 8
        elif opcode == 0x2E:  # STOP
            return stack.pop(), frozenset(names), at
        else:
            raise UnpicklingError(f"byte {opcode:#04x} at {at - 1} is no instruction that torch.save writes")


def _named(names: dict[str, Name], module: str, name: str) -> Name:
    if type(module) is not str or type(name) is not str or len(module) + len(name) > _LONGEST_NAME:
        raise UnpicklingError("a name that is no text, or a whole page of it")
    full = f"{_PYTHON_2.get(module, module)}.{name}"
    return names.setdefault(full, Name(full))


def _decoded(kind: int, raw: bytes) -> str | bytes | int:
    if kind == _BYTES:
        return raw
    if kind == _LONG:
        return int.from_bytes(raw, "little", signed=True)
    return raw.decode("utf-8", "surrogatepass") if kind == _UTF8 else raw.decode("ascii")


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        _extend(target, items)
        return
    for key, value in zip(items[::2], items[1::2], strict=True):
        plain = all(map(_is_plain, key)) if type(key) is tuple and len(key) <= 8 else _is_plain(key)
        target[key if plain else _stand_in(key)] = value


def _is_plain(key: Any) -> bool:
    """Say whether a key is hashed at once, and few others have its hash: a pickle can ask for it again and again."""
    if type(key) is float:  # so many parts of a whole number have hashes of their own
        return abs(key) < 1e6 and (key * 1024).is_integer()
    return type(key) is Name or (type(key) in _ATOMS and not (type(key) is int and key.bit_length() > 60))


def _stand_in(key: Any) -> Any:
    """Return what takes the place of a key that is not hashed: its text, which others with its hash do not have."""
    if type(key) is float or (type(key) is int and key.bit_length() < 2100):
        return Name(f"the number {key!r}")
    return Opaque("", [key])


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, (list, Opaque)):
        raise UnpicklingError(f"it fills a {type(target).__name__} as if it were a list")
    (target.content if isinstance(target, Opaque) else target).extend(items)
