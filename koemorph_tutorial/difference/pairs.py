"""Two object trees side by side: what stands at the same place in both, and what in one of them only.

A tree may be nested without end, hold itself, or be a few bytes that unfold to millions of branches: each pair of
containers is looked at once, without recursion, and at most a few times as often as there are things in the two files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from koemorph_tutorial.inspection.values import plain
from koemorph_tutorial.rebuild import kind_text
from koemorph_tutorial.stubs import StorageStub, TensorStub
from koemorph_tutorial.text import printable
from koemorph_tutorial.unpickling import Name, Opaque

Steps = tuple[Any, ...]  # keys of dicts, `At` for places in lists

_DEEPEST = 24  # what lies deeper has the path of what it lies in
_LONGEST = 64  # items of a list that are shown
_CONTAINERS = (dict, list, tuple, Opaque)


class At(int):
    """A place in a list; a whole number that is no `At` is a key."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A difference of two trees outside of the numbers of tensors: `a` and `b` are the values of the trees."""

    steps: Steps
    what: str
    a: Any = None
    b: Any = None


@dataclass(kw_only=True)
class Pairs:
    """What two trees have at the same places: the tensors, the differences, and how many values are equal."""

    tensors: list[tuple[Steps, TensorStub, TensorStub]] = field(default_factory=list)
    differences: list[Found] = field(default_factory=list)
    equal_values: int = 0


def pair_up(a: Any, b: Any, into: Pairs, steps: Steps = ()) -> None:
    """Walk two trees at once, and put what they hold `into` the pairs, with the path `steps` before each.

    The order of the keys of a dict is no difference; the types of two values are: 1 is not 1.0, and not True.
    """
    left = 4 * (_weight(a) + _weight(b)) + 1000
    seen: set[tuple[int, int]] = set()
    stack: list[tuple[Steps, Any, Any]] = [(steps, a, b)]
    while stack:
        at, x, y = stack.pop()
        x, y = (_as_tensor(value) if isinstance(value, StorageStub) else value for value in (x, y))
        if isinstance(x, TensorStub) and isinstance(y, TensorStub):
            into.tensors.append((at, x, y))
        elif isinstance(x, _CONTAINERS) and (type(x) is type(y) or (isinstance(x, dict) and isinstance(y, dict))):
            if (id(x), id(y)) in seen:
                continue
            seen.add((id(x), id(y)))
            left -= 1 + _length(x) + _length(y)
            if left < 0:
                into.differences.append(Found(steps=at, what="not compared", a=x, b=y))
                return
            stack += reversed(list(_children(at, x, y, into)))
        elif _same(x, y):
            into.equal_values += 1
        else:
            into.differences.append(Found(steps=at, what="value", a=x, b=y))


def _children(at: Steps, x: Any, y: Any, into: Pairs) -> Iterator[tuple[Steps, Any, Any]]:
    """Yield what lies at the same places below; what is on one side only is a difference."""
    if isinstance(x, (list, tuple)) and _is_flat(x) and _is_flat(y):  # settings, as betas and milestones are
        if len(x) == len(y) and all(map(_same, x, y)):
            into.equal_values += 1
        else:
            into.differences.append(Found(steps=at, what="order" if _reordered(x, y) else "value", a=x, b=y))
        return
    if isinstance(x, Opaque):
        if x.name != y.name:
            into.differences.append(Found(steps=at, what="value", a=x, b=y))
            return
        x, y = x.content, y.content
    mine, theirs = _items(x), _items(y)
    for key, (step, value) in mine.items():
        if key in theirs:
            if isinstance(step, Opaque):  # two that stand at one place may yet be two keys
                yield _down(at, step), step, theirs[key][0]
            yield _down(at, step), value, theirs[key][1]
        else:
            into.differences.append(Found(steps=_down(at, step), what="only in A", a=value))
    for key, (step, value) in theirs.items():
        if key not in mine:
            into.differences.append(Found(steps=_down(at, step), what="only in B", b=value))


def _items(value: Any) -> dict[Any, tuple[Any, Any]]:
    """Return what is in a container, by what tells its places apart: 1 and True are two keys."""
    if not isinstance(value, dict):
        return {number: (At(number), item) for number, item in enumerate(value)}
    items: dict[Any, tuple[Any, Any]] = {}
    for key, item in value.items():
        same: Any = (type(key), key)
        if isinstance(key, Opaque) or key != key:  # NaN is not itself
            same = (type(key), len(items))
        items[same] = (key, item)
    return items


def _down(at: Steps, step: Any) -> Steps:
    return at if len(at) >= _DEEPEST else (*at, step)


def _weight(value: Any) -> int:
    """Return how many things are in a tree, each container counted once."""
    total, stack, seen = 1, [value], {id(value)}
    while stack:
        for item in _below(stack.pop()):
            total += 1
            if isinstance(item, _CONTAINERS) and id(item) not in seen:
                seen.add(id(item))
                stack.append(item)
    return total


def _below(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value.content if isinstance(value, Opaque) else value if isinstance(value, (list, tuple)) else ()


def _length(value: Any) -> int:
    return len(value.content if isinstance(value, Opaque) else value)


def _is_flat(value: Any) -> bool:
    return not any(isinstance(item, (*_CONTAINERS, TensorStub, StorageStub)) for item in value)


def _reordered(x: Any, y: Any) -> bool:
    texts = all(type(item) is str for item in (*x, *y))
    return texts and len(x) == len(y) and sorted(x) == sorted(y)


def _same(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    if type(x) is float:  # as bits: 0.0 is not -0.0, and one NaN is the other
        return struct.pack("<d", x) == struct.pack("<d", y) or (x != x and y != y)
    return bool(x == y)


def _as_tensor(storage: StorageStub) -> TensorStub:
    return TensorStub((storage.elements,), storage.dtype, storage, 0, (1,))


def told(value: Any) -> Any:
    """Return a value of a tree as a short plain one: a number, text, or a list of them."""
    if isinstance(value, TensorStub):
        return f"{printable(value.dtype, 20)} {list(value.shape)}"
    if isinstance(value, StorageStub):
        return told(_as_tensor(value))
    if isinstance(value, (Name, Opaque)):
        return kind_text(value)
    if isinstance(value, dict):
        return f"a dict of {len(value):,}"
    if isinstance(value, (list, tuple)):
        few = len(value) <= _LONGEST and _is_flat(value)
        return [plain(item) for item in value] if few else f"a {type(value).__name__} of {len(value):,}"
    return plain(value)


def path_text(steps: Steps) -> str:
    """Return a path as people write it.

    >>> path_text(("optimizer_state_dict", "param_groups", At(0), "lr"))
    'optimizer_state_dict.param_groups[0].lr'
    """
    text = ""
    for step in steps:
        name = f"[{int(step)}]" if type(step) is At else step_text(step)
        text += name if not text or type(step) is At else f".{name}"
    return text


def step_text(step: Any) -> str:
    """Return one key as text."""
    if isinstance(step, (Name, Opaque)):
        return printable(step.name, 120) or "a key"
    return (printable(step, 120) or "''") if type(step) is str else str(told(step))


def name_states(content: Any, other: Any) -> tuple[Any, Any]:
    """Return both trees with the states of their optimizers by the names of the parameters, where both files have them.

    An optimizer counts its parameters; in another order the same numbers mean others. Nothing is lost: the names in
    their order take the place of the numbers 0, 1, 2 …
    """
    if not isinstance(content, dict) or not isinstance(other, dict):
        return content, other
    trees = [dict(content), dict(other)]
    names = [tree.get("optimizer_parameters") for tree in trees]
    if not isinstance(names[0], dict) or not isinstance(names[1], dict):
        return content, other
    for name in [key for key in names[0] if type(key) is str and key in names[1]]:
        key = f"{name}_state_dict"
        named = [_named(trees[0].get(key), names[0][name]), _named(trees[1].get(key), names[1][name])]
        if all(each is not None for each in named):
            for tree, each in zip(trees, named, strict=True):
                assert each is not None
                tree[key], described = each
                tree["optimizer_parameters"] = {**tree["optimizer_parameters"], name: described}
    return trees[0], trees[1]


def _named(optimizer: Any, groups: Any) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Return an optimizer's state by names, and what else is known of the parameters by names; None where it is not."""
    if not isinstance(optimizer, dict) or not isinstance(groups, list):
        return None
    own, states = optimizer.get("param_groups"), optimizer.get("state")
    if not isinstance(own, list) or not isinstance(states, dict) or len(own) != len(groups):
        return None
    names: list[str] = []
    new_groups, described = [], []
    for group, entries in zip(own, groups, strict=True):
        if not isinstance(group, dict) or not isinstance(entries, list):
            return None
        if group.get("params") != list(range(len(names), len(names) + len(entries))):
            return None
        here = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
        names += [name for name in here if type(name) is str]
        new_groups.append({**group, "params": here})
        described.append({n: {**e, "name": None} for n, e in zip(here, entries, strict=True) if type(n) is str})
    whole = len(set(names)) == len(names) == sum(len(group["params"]) for group in new_groups)
    if not whole or not all(type(key) is int and 0 <= key < len(names) for key in states):
        return None
    by_name = {names[key]: state for key, state in states.items()}
    return {**optimizer, "param_groups": new_groups, "state": by_name}, described
