"""The tensors of a checkpoint as a tree that adds up: every number and every byte of every branch, from the header."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from koemorph_tutorial.header import Header
from koemorph_tutorial.stubs import find_tensors, item_bytes
from koemorph_tutorial.text import printable

_DEEPEST = 24  # what lies deeper is counted there

Path = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A branch of the tree; `tensors`, `numbers` and `bytes` are the sums of those of its `children`.

    Bytes are what the file stores: tensors that share a storage, as tied weights do, have their bytes where the first
    of them stands, and a tensor that was there before has no numbers of its own. A leaf has a `dtype`, a `shape` and,
    where its bytes are not simply its numbers, a `note`.
    """

    name: str
    tensors: int
    numbers: int
    bytes: int
    children: tuple[Node, ...] = ()
    dtype: str = ""
    shape: tuple[int, ...] = ()
    note: str = ""

    def leaves(self, above: str = "") -> Iterator[tuple[str, Node]]:
        """Yield every tensor below with its full name."""
        for child in self.children:
            name = f"{above}.{child.name}" if above else child.name
            if child.children:
                yield from child.leaves(name)
            else:
                yield name, child

    def to_plain(self) -> dict[str, Any]:
        """Return the tree as containers for JSON."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in ("name", "tensors", "numbers", "bytes")}
        if self.children:
            return {**plain, "children": [child.to_plain() for child in self.children]}
        if self.dtype:
            plain |= {"dtype": self.dtype, "shape": list(self.shape)}
        return {**plain, "note": self.note} if self.note else plain


def grow_tree(header: Header) -> Node:
    """Return the tree of all tensors in a header; names are split at dots, as those of modules are."""
    found = [(_names(keys), stub) for keys, stub in find_tensors(header.content)]
    sizes, covered = header.stored, {}  # type: dict[str, int], dict[str, int]
    views = {(stub.storage.key, stub.offset, stub.shape) for _, stub in found}
    for key, _, shape in views:
        covered[key] = covered.get(key, 0) + prod(shape)
    owners: dict[str, Path] = {}
    seen = set()
    leaves = []
    for path, stub in found:
        storage = stub.storage
        view = (storage.key, stub.offset, stub.shape)
        stored, item = sizes.get(storage.key, 0), item_bytes(stub.dtype)
        owner = owners.setdefault(storage.key, path)
        used = covered[storage.key] * item
        note = ""
        if owner is not path:
            note = f"shares its bytes with {printable('.'.join(owner))}"
        elif stub.numbers and stored < storage.bytes:
            note = "its bytes are not in the file"
        elif 0 < used < stored:
            note = f"uses {used:,} of the {stored:,} bytes stored"
        leaves.append(
            (
                path,
                Node(
                    name=path[-1] if path else "tensor",
                    tensors=1,
                    numbers=0 if view in seen else stub.numbers,
                    bytes=stored if owner is path else 0,
                    dtype=stub.dtype,
                    shape=stub.shape,
                    note=note,
                ),
            )
        )
        seen.add(view)
    return _branch("all tensors", leaves, 0)


def _branch(name: str, leaves: list[tuple[Path, Node]], depth: int) -> Node:
    children: list[Node] = []
    below: dict[str, list[tuple[Path, Node]]] = {}
    for path, leaf in leaves:
        if len(path) <= depth:  # a tensor with the name of a branch
            children.append(leaf)
        else:
            below.setdefault(path[depth], []).append((path, leaf))
    for step, group in below.items():
        alone = len(group) == 1 and len(group[0][0]) == depth + 1
        children.append(group[0][1] if alone else _branch(step, group, depth + 1))
    return Node(
        name=name,
        tensors=sum(child.tensors for child in children),
        numbers=sum(child.numbers for child in children),
        bytes=sum(child.bytes for child in children),
        children=tuple(children),
    )


def _names(keys: Iterable[Any]) -> Path:
    path: Path = ()
    for key in keys:
        path = _step_down(path, key)
    return path


def _step_down(path: Path, key: Any) -> Path:
    if len(path) >= _DEEPEST:
        return path
    steps = key.split(".", _DEEPEST - len(path) - 1) if type(key) is str else [_key_text(key)]
    return (*path, *steps)


def _key_text(key: Any) -> str:
    return str(key) if type(key) in (bool, type(None), float) or (type(key) is int and key.bit_length() < 64) else "?"
