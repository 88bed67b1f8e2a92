"""Where in a checkpoint the weights are, and what they are called there: ours, and what other programs write.

Works on what ``torch.load`` gives and on a header without numbers alike: a tensor is whatever has a shape and a dtype.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .records import MismatchError, state_key
from .text import printable
from .unpickling import Attributes

# Under which keys a model's weights stand, the likeliest first.
_MODEL = ("model_state_dict", "state_dict", "model", "module", "net", "network", "weights", "params")
_EMA = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema")
_DEEPEST = 64  # objects within objects of TorchScript, checkpoints within checkpoints
_MOST_TEXT = 1 << 26  # characters: a hundred thousand names of a hundred are 10 million


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A state dict within a checkpoint: its tensors by name; `where` is its key, "" if it is the whole file.

    `others` are values of it that are no tensors, as an extra state is.
    """

    where: str
    tensors: Mapping[str, Any]
    others: Mapping[str, Any]


def find_weights(content: Any, which: str = "model", *, path: Any = "the file") -> Weights:
    """Return the weights in a checkpoint: those of the "model", of the "ema", or of an object of another name.

    `path` is for the message.

    Raises:
        MismatchError: there are none; names the state dicts that there are.
    """
    for weights in _candidates(content, which):
        return weights
    names = [weights.where.removesuffix("_state_dict") for weights in find_states(content)]
    there = ", ".join(printable(name, 40) for name in names[:12]) or "no state dict with numbers in it"
    raise MismatchError(f"{path}: expected the weights of {which!r}, found {there}; name the ones to take by weights=")


def find_states(content: Any) -> Iterator[Weights]:
    """Yield every state dict of a checkpoint that may be a network's: it has tensors of real numbers by name.

    One that is there under two names has the first.
    """
    if isinstance(content, Mapping) and not isinstance(content, Attributes):
        seen = set()
        for key, value in content.items():
            if isinstance(key, str) and id(value) not in seen:
                seen.add(id(value))
                weights = _as_weights(value, key)
                if weights is not None:
                    yield weights


def _candidates(content: Any, which: str, seen: set[int] | None = None) -> Iterator[Weights]:
    seen = set() if seen is None else seen  # a dict may hold itself, or others many times over
    if id(content) in seen or len(seen) >= _DEEPEST:
        return
    seen.add(id(content))
    if isinstance(content, Mapping) and not isinstance(content, Attributes):
        for key in dict.fromkeys((state_key(which), *{"model": _MODEL, "ema": _EMA}.get(which, ()), which)):
            value = content.get(key)
            weights = _as_weights(value, key)
            if weights is not None:
                yield weights
            elif isinstance(value, Mapping):  # a whole checkpoint under that key
                for inner in _candidates(value, "model", seen):
                    yield Weights(where=f"{key}.{inner.where}", tensors=inner.tensors, others=inner.others)
    if which == "model":
        whole = _as_weights(content, "")
        states = list(find_states(content))
        if whole is not None and not states:
            yield whole
        elif len(states) == 1:  # whatever it is called
            yield states[0]


def _as_weights(value: Any, where: str) -> Weights | None:
    """Return a value as weights if it looks like a network's state dict."""
    if isinstance(value, Attributes):
        items = dict(_attributes(value))
    elif isinstance(value, Mapping) and all(isinstance(name, str) for name in value) and "param_groups" not in value:
        items = dict(value)
    else:
        return None
    tensors = {name: item for name, item in items.items() if _is_tensor(item)}
    others = {name: item for name, item in items.items() if name not in tensors}
    real = any("float" in str(item.dtype) or "complex" in str(item.dtype) for item in tensors.values())
    once = {id(item): item for item in others.values()}
    state = real and len(others) <= len(tensors) and not any(map(_has_tensors, once.values()))
    return Weights(where=where, tensors=tensors, others=others) if state else None


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(_is_tensor(item) or isinstance(item, Mapping) for item in value.values())


def _attributes(value: Attributes, above: str = "", left: list[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of an object of TorchScript, and of those in it, by the names that a state dict gives them.

    An object has as many names as there are ways to it, so `left` bounds their characters.
    """
    left = [_MOST_TEXT] if left is None else left
    for key, item in value.items():
        name = f"{above}{key}"
        left[0] -= len(name) + 1
        if left[0] < 0:
            return
        if isinstance(item, Attributes) and name.count(".") < _DEEPEST:
            yield from _attributes(item, f"{name}.", left)
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
