"""Where in a checkpoint the weights are, and what they are called there: ours, and what other programs write.

Works on what ``torch.load`` gives and on a header without numbers alike: a tensor is whatever has a shape and a dtype.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .records import MismatchError, state_key
from .text import printable
from .unpickling import Attributes

# Under which keys a model's weights stand, the likeliest first.
_MODEL = ("model_state_dict", "state_dict", "model", "module", "net", "network", "weights", "params")
_EMA = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema")
_DEEPEST = 64  # objects within objects of TorchScript, checkpoints within checkpoints
_ASSIGN = "assign_to_params_buffers"  # by it torch would put the file's tensors in the place of the model's
_MOST_TEXT = 1 << 26  # characters: a hundred thousand names of a hundred are 10 million


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A state dict within a checkpoint: its tensors by name; `where` is its key, "" if it is the whole file.

    `others` are values of it that are no tensors, as an extra state is. `metadata` is what each module keeps beside its
    tensors, by the names of the modules: the version of its layout; None where the file does not say.
    """

    where: str
    tensors: Mapping[str, Any]
    others: Mapping[str, Any]
    metadata: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(kw_only=True)
class _Known:
    """What was found out about the containers of one content, by their ids: one may have any number of names in it.

    `states` are state dicts or not, `holders` have tensors or dicts in them or not; `left` are characters that the
    names of a TorchScript archive may still take: an object has as many names as there are ways to it.
    """

    states: dict[int, bool] = field(default_factory=dict)
    holders: dict[int, bool] = field(default_factory=dict)
    left: int = _MOST_TEXT


def find_weights(content: Any, which: str = "model", *, path: Any = "the file") -> Weights:
    """Return the weights in a checkpoint: those of the "model", of the "ema", or of an object of another name.

    `path` is for the message.

    Raises:
        MismatchError: there are none; names the state dicts that there are.
    """
    for weights in _candidates(content, which, set(), _Known()):
        return weights
    names = [weights.where.removesuffix("_state_dict") for weights in find_states(content)]
    there = ", ".join(printable(name, 40) for name in names[:12]) or "no state dict with numbers in it"
    raise MismatchError(f"{path}: expected the weights of {which!r}, found {there}; name the ones to take by weights=")


def find_states(content: Any) -> Iterator[Weights]:
    """Yield every state dict of a checkpoint that may be a network's: it has tensors of real numbers by name.

    One that is there under two names has the first.
    """
    return _states(content, _Known())


def _states(content: Any, known: _Known) -> Iterator[Weights]:
    if isinstance(content, Mapping) and not isinstance(content, Attributes):
        seen = set()
        for key, value in content.items():
            if isinstance(key, str) and id(value) not in seen:
                seen.add(id(value))
                weights = _as_weights(value, key, known)
                if weights is not None:
                    yield weights


def _candidates(content: Any, which: str, seen: set[int], known: _Known) -> Iterator[Weights]:
    if id(content) in seen or len(seen) >= _DEEPEST:  # a dict may hold itself, or others many times over
        return
    seen.add(id(content))
    if isinstance(content, Mapping) and not isinstance(content, Attributes):
        for key in dict.fromkeys((state_key(which), *{"model": _MODEL, "ema": _EMA}.get(which, ()), which)):
            value = content.get(key)
            weights = _as_weights(value, key, known)
            if weights is not None:
                yield weights
            elif isinstance(value, Mapping):  # a whole checkpoint under that key
                for inner in _candidates(value, "model", seen, known):
                    yield replace(inner, where=f"{key}.{inner.where}")
    if which == "model":
        whole = _as_weights(content, "", known)
        states = list(_states(content, known))
        if whole is not None and not states:
            yield whole
        elif len(states) == 1:  # whatever it is called
            yield states[0]


def _as_weights(value: Any, where: str, known: _Known) -> Weights | None:
    """Return a value as weights if it looks like a network's state dict."""
    if not known.states.get(id(value), True):
        return None
    known.states[id(value)] = False
    if isinstance(value, Attributes):
        items = dict(_attributes(value, known))
    elif isinstance(value, Mapping) and "param_groups" not in value and all(isinstance(name, str) for name in value):
        items = dict(value)
    else:
        return None
    tensors = {name: item for name, item in items.items() if _is_tensor(item)}
    others = {name: item for name, item in items.items() if name not in tensors}
    real = any("float" in str(item.dtype) or "complex" in str(item.dtype) for item in tensors.values())
    if not real or len(others) > len(tensors) or any(_has_tensors(item, known) for item in others.values()):
        return None
    known.states[id(value)] = True
    return Weights(where=where, tensors=tensors, others=others, metadata=_metadata(value))


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _has_tensors(value: Any, known: _Known) -> bool:
    if not isinstance(value, Mapping):
        return False
    if id(value) not in known.holders:
        below = value.values()
        known.holders[id(value)] = any(_is_tensor(item) or isinstance(item, Mapping) for item in below)
    return known.holders[id(value)]


def _metadata(value: Any) -> dict[str, dict[str, Any]] | None:
    """Return what the modules of a state dict keep beside it: of a header `metadata`, of torch ``_metadata``.

    Modules are handed it, so of a file only whole numbers and None are taken, as versions are.
    """
    found = getattr(value, "metadata", getattr(value, "_metadata", None))
    if not isinstance(found, Mapping):
        return None
    known: dict[int, dict[str, Any]] = {}
    return {
        name: _versions(each, known) for name, each in found.items() if type(name) is str and isinstance(each, Mapping)
    }


def _versions(entry: Mapping[Any, Any], known: dict[int, dict[str, Any]], depth: int = 0) -> dict[str, Any]:
    """Return the versions of one module; a spectral norm has a dict of them in it. `known` are those done."""
    if id(entry) not in known:
        plain = known[id(entry)] = {}  # it may hold itself
        for key, item in entry.items():
            if key == _ASSIGN:
                continue
            if type(key) is str and (item is None or type(item) is int):
                plain[key] = item
            elif type(key) is str and isinstance(item, Mapping) and not depth:
                plain[key] = _versions(item, known, depth + 1)
    return known[id(entry)]


def _attributes(value: Attributes, known: _Known, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors of an object of TorchScript, and of those in it, by the names that a state dict gives them."""
    for key, item in value.items():
        name = f"{above}{key}"
        known.left -= len(name) + 1
        if known.left < 0:
            return
        if isinstance(item, Attributes) and name.count(".") < _DEEPEST:
            yield from _attributes(item, known, f"{name}.")
        elif _is_tensor(item):
            yield name, item


def prefix_of(names: Iterable[str], wanted: Collection[str]) -> str:
    """Return what to take off `names` so that the most of `wanted` are among them: "", or whole parts up to a dot.

    >>> prefix_of(["module.net.weight", "module.net.bias", "module.step"], {"weight", "bias"})
    'module.net.'
    """
    hits = {"": 0}
    for name in names:
        parts = name.split(".")
        for count in range(min(len(parts), 8)):
            prefix = "".join(f"{part}." for part in parts[:count])
            if name[len(prefix) :] in wanted:
                hits[prefix] = hits.get(prefix, 0) + 1
    return max(hits, key=lambda prefix: (hits[prefix], -len(prefix)))
