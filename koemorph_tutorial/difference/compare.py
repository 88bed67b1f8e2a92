"""What differs between two checkpoints, of whatever program and kind, without torch; nothing in a file can run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from koemorph_tutorial.archive import open_file
from koemorph_tutorial.durable import same_bytes
from koemorph_tutorial.header import Header, read_header
from koemorph_tutorial.records import MismatchError, PathLike
from koemorph_tutorial.stubs import TensorStub
from koemorph_tutorial.text import printable
from koemorph_tutorial.unpacked import Unpacked
from koemorph_tutorial.unpickling import Attributes
from koemorph_tutorial.weights import Weights, find_weights, prefix_of

from .arrays import Change
from .pairs import Found, Pairs, Steps, name_states, pair_up, path_text, told
from .rows import WEIGHTS, Difference, Row, Sections
from .sentence import tell
from .sides import Side, compare_tensors, geometry

_DEEPEST = 64  # objects within objects of TorchScript


def diff_checkpoints(a: PathLike, b: PathLike) -> Difference:
    """Say what differs between two checkpoint files, ours or another program's; what matters stands first.

    Tensors are compared by their names, bit by bit, one pair in memory at a time; an optimizer's state by the names of
    its parameters where both files have them. Weights are found wherever a file keeps them, so that a training's
    checkpoint can be compared with the weights alone. What is compared is checked against its checksum; a damaged
    tensor is compared as it is, and a row says which, and that it is damaged: a damaged file is one that people look
    into. Only files whose bytes are all the same, or that are one file, are not checked: they are identical, sound or
    not.

    Raises:
        CheckpointError: no such file, no checkpoint, or a damaged header: one line.

    >>> import tempfile
    >>> from koemorph_tutorial import save_checkpoint
    >>> folder = Path(tempfile.mkdtemp())
    >>> for epoch in (3, 4):
    ...     _ = save_checkpoint({"epoch": epoch, "model_state_dict": {}}, folder / f"{epoch}.pth")
    >>> print(diff_checkpoints(folder / "3.pth", folder / "4.pth"))
    B is 1 epoch further
    """
    paths = Path(a), Path(b)
    with open_file(paths[0]), open_file(paths[1]):  # held open, so that what is compressed is unpacked once
        return _diff(paths)


def _diff(paths: tuple[Path, Path]) -> Difference:
    headers = read_header(paths[0]), read_header(paths[1])
    same = _same_bytes(*paths, *headers)
    trees = name_states(headers[0].content, headers[1].content)
    sections = Sections(*trees)
    pairs, rows = Pairs(), []  # type: Pairs, list[Row]
    _pair_weights(trees, pairs, rows)
    if headers[0].kind == headers[1].kind == "safetensors":
        pair_up(headers[0].metadata, headers[1].metadata, pairs, ("__metadata__",))
    rows += [_row(found, sections) for found in pairs.differences]
    if headers[0].kind == headers[1].kind == "torchscript":
        rows += _code_rows(headers[0].code, headers[1].code)
    counts: dict[str, tuple[int, int]] = {}
    with ExitStack() as stack:
        sides = [Side(path, header, stack) for path, header in zip(paths, headers, strict=True)]
        found: list[tuple[int, Row]] = []
        for number, kind, row in _compare(pairs.tensors, sides, sections, same=bool(same)):
            both, equal = counts.get(kind, (0, 0))
            counts[kind] = both + 1, equal + (row is None)
            if row is not None:
                found.append((number, row))
        rows += [row for _, row in sorted(found, key=lambda pair: pair[0])]
        rows = _match_renamed(rows, pairs.differences, sides)
        rows += [row for side, name in zip(sides, "AB", strict=True) for row in side.damage_rows(name)]
    rows = [] if same else rows
    rows.sort(key=Row.order)
    kinds = headers[0].kind, headers[1].kind
    return Difference(
        a=str(paths[0]),
        b=str(paths[1]),
        kinds=kinds,
        same=same,
        rows=tuple(rows),
        tensors=counts,
        values=pairs.equal_values,
        sentence=tell(paths, (headers[0].content, headers[1].content), kinds, same, rows, counts, pairs.equal_values),
    )


def _same_bytes(path_a: Path, path_b: Path, a: Header, b: Header) -> str:
    """Say how two files are the same without a look at what is in them, if they are: "" where they are not."""
    with open_file(path_a) as file_a, open_file(path_b) as file_b:
        if _is_same_file(file_a, file_b):
            return "the same file"
        if a.size != b.size or a.places != b.places:  # the checksums are there: most that differ end here
            return ""
        if not same_bytes(file_a, file_b):
            return ""
        forms = [f"{side} is compressed by {each.codec}" for side, each in (("A", a), ("B", b)) if each.codec]
        return "the same bytes" + (f" once unpacked ({', '.join(forms)})" if forms else "")


def _is_same_file(a: Any, b: Any) -> bool:
    if isinstance(a, Unpacked) or isinstance(b, Unpacked):
        return isinstance(a, Unpacked) and a.is_same(b)
    return os.path.sameopenfile(a.fileno(), b.fileno())


def _pair_weights(trees: tuple[Any, Any], pairs: Pairs, rows: list[Row]) -> None:
    """Pair up two trees; weights that stand in another place, or under a prefix, by their names."""
    mine, theirs = map(_find, trees)
    if mine is None or theirs is None:
        pair_up(*trees, pairs)
        return
    before, after = _prefix(mine, theirs), _prefix(theirs, mine)
    scripted = [isinstance(tree, Attributes) for tree in trees]
    if mine.where == theirs.where and before == after and scripted[0] == scripted[1]:
        pair_up(*trees, pairs)
        return
    for what, one, other in (("where", mine.where, theirs.where), ("prefix", before, after)):
        if one != other:
            rows.append(Row(section="model", where=WEIGHTS, what=what, a=printable(one), b=printable(other)))
    pair_up(_named(mine, before), _named(theirs, after), pairs, (WEIGHTS,))
    rests = [_without(tree, each, each.where) for tree, each in zip(trees, (mine, theirs), strict=True)]
    if scripted[0] != scripted[1]:  # what its modules have beside their tensors
        rests = [{"attributes": rest} if own and rest else rest for own, rest in zip(scripted, rests, strict=True)]
    pair_up(rests[0], rests[1], pairs)


def _find(tree: Any) -> Weights | None:
    try:
        return find_weights(tree)
    except MismatchError:
        return None


def _prefix(own: Weights, other: Weights) -> str:
    """Return what most names have before those of the other file: "module." of DataParallel, "model." of Lightning."""
    prefix = prefix_of(own.tensors, other.tensors)
    most = 2 * sum(name.startswith(prefix) for name in own.tensors) > len(own.tensors)
    return prefix if most and len(_named(own, prefix)) == len(own.tensors) else ""


def _named(weights: Weights, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): stub for name, stub in weights.tensors.items()}


def _without(tree: Any, weights: Weights, where: str) -> Any:
    """Return a tree without the tensors of these weights."""
    if not where:
        return _dropped(tree, {id(stub) for stub in weights.tensors.values()}, {})
    rest = {}
    for key, value in tree.items():
        if key == where:
            if weights.others:
                rest[key] = weights.others
        elif type(key) is str and where.startswith(f"{key}."):
            inner = _without(value, weights, where.removeprefix(f"{key}."))
            if inner:
                rest[key] = inner
        else:
            rest[key] = value
    return rest


def _dropped(tree: Any, stubs: set[int], known: dict[int, Any], depth: int = 0) -> Any:
    """Return a state dict without its tensors, of TorchScript also those of the objects in it, each walked once."""
    rest = known.setdefault(id(tree), {})
    for key, value in tree.items():
        inner = value
        if isinstance(value, Attributes) and depth < _DEEPEST:
            inner = known[id(value)] if id(value) in known else _dropped(value, stubs, known, depth + 1)
        if id(value) not in stubs and (inner or inner is value):
            rest[key] = inner
    return rest


def _code_rows(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Row]:
    """Yield a row for each record of code or constants that differs: what a model does, and what is frozen into it."""
    for name in {**a, **b}:
        if a.get(name) != b.get(name):
            yield Row(section="model", where=printable(name), what="code", a=a.get(name), b=b.get(name))


def _row(found: Found, sections: Sections) -> Row:
    value = found.b if found.what == "only in B" or isinstance(found.b, TensorStub) else found.a
    section = sections.of(found.steps, value)
    if section == "weights":
        section = "model"
    return Row(
        section=section,
        where=path_text(found.steps) or "the whole",
        what=found.what,
        a=None if found.what == "only in B" else told(found.a),
        b=None if found.what == "only in A" else told(found.b),
        tensor=isinstance(value, TensorStub),
        steps=found.steps,
    )


Compared = tuple[int, str, Row | None]


def _compare(
    tensors: list[tuple[Steps, TensorStub, TensorStub]], sides: list[Side], sections: Sections, *, same: bool
) -> Iterator[Compared]:
    """Yield each pair of tensors with the row that says how they differ, None where they are bitwise equal.

    Pairs come in the order in which the first file has them, so that a storage that many share is read once.
    """
    places = [{key: place.offset for key, place in side.places.items()} for side in sides]

    def place(number: int) -> tuple[int, int]:
        _, mine, theirs = tensors[number]
        return places[0].get(mine.storage.key, -1), places[1].get(theirs.storage.key, -1)

    known: dict[tuple[Any, ...], Change | str | None] = {}
    for number in sorted(range(len(tensors)), key=place):
        steps, mine, theirs = tensors[number]
        row = Row(
            section=sections.of(steps, mine),
            where=path_text(steps) or "the whole",
            what="numbers",
            tensor=True,
            steps=steps,
        )
        kind = f"optimizer {path_text(steps[-1:])}" if row.section == "optimizer" else row.section
        if mine.shape != theirs.shape:
            yield number, kind, _of_another(row, "shape", list(mine.shape), list(theirs.shape))
            continue
        key = (*geometry(mine), *geometry(theirs))
        if key not in known:
            known[key] = None if same else compare_tensors(mine, theirs, sides, row.where)
        change = known[key]
        if isinstance(change, str):
            yield number, kind, replace(row, what="not compared", a=change, b=change)
        elif mine.dtype != theirs.dtype:
            yield number, kind, replace(_of_another(row, "dtype", mine.dtype, theirs.dtype), change=change)
        elif change is not None and change.numbers == 1:
            yield number, kind, replace(row, change=change, a=change.before, b=change.after)
        else:
            yield number, kind, None if change is None else replace(row, change=change)


def _of_another(row: Row, what: str, a: Any, b: Any) -> Row:
    return replace(row, what=what, a=a, b=b, section="model" if row.section == "weights" else row.section)


def _match_renamed(rows: list[Row], differences: list[Found], sides: list[Side]) -> list[Row]:
    """Return the rows with one for each pair of tensors that have the same bits under two names."""
    alone: dict[str, tuple[str, TensorStub]] = {}
    for found in differences:
        value = found.a if found.what == "only in A" else found.b
        if found.what.startswith("only in ") and isinstance(value, TensorStub):
            alone[path_text(found.steps)] = found.what[-1], value
    kinds = [{(stub.dtype, stub.shape) for side, stub in alone.values() if side == name} for name in "AB"]
    by_content: dict[tuple[Any, ...], tuple[list[str], list[str]]] = {}
    for where, (name, stub) in alone.items():
        if (stub.dtype, stub.shape) in kinds[0] & kinds[1] and 1 < stub.numbers <= stub.storage.elements:
            side = sides[name == "B"]
            array = side.read(stub, where) if side.takes(stub) else None
            if array is not None and (array != array.flat[0]).any():  # all ones are in every model
                bits = blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
                by_content.setdefault((stub.dtype, stub.shape, bits), ([], []))[name == "B"].append(where)
    pairs = dict(pair for mine, theirs in by_content.values() for pair in zip(mine, theirs, strict=False))
    lone = {row.where: row for row in rows if row.tensor and row.what.startswith("only in ")}
    taken = {*pairs, *pairs.values()}
    rows = [row for row in rows if row is not lone.get(row.where) or row.where not in taken]
    return rows + [replace(lone[a], what="renamed", a=lone[a].name, b=lone[b].name) for a, b in pairs.items()]
