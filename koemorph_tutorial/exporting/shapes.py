"""Which inputs to try a model on: the example in other sizes of its free dimensions, and with other values.

An export that holds only what one example showed is found by the first input that differs from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Inputs: TypeAlias = tuple[Tensor, ...]
Place: TypeAlias = tuple[int, int]  # which input, which of its dimensions


@dataclass(frozen=True)
class Trial:
    """Inputs to try, and what is in them; `given` where the caller chose them."""

    label: str
    inputs: Inputs
    given: bool = False


def grouped(places: Mapping[Place, str]) -> dict[str, list[Place]]:
    """Return the places of each free dimension by its name.

    >>> grouped({(0, 0): "batch", (1, 0): "batch"})
    {'batch': [(0, 0), (1, 0)]}
    """
    groups: dict[str, list[Place]] = {}
    for place, name in places.items():
        groups.setdefault(name, []).append(place)
    return groups


def resized(inputs: Inputs, places: Sequence[Place], size: int) -> Inputs:
    """Return the inputs with `size` in each of the places: their own values, over and over.

    >>> resized((torch.arange(3),), [(0, 0)], 5)[0].tolist()
    [0, 1, 2, 0, 1]
    """
    tensors = list(inputs)
    for which, dimension in places:
        tensor = tensors[which]
        index = torch.arange(size) % tensor.shape[dimension]
        tensors[which] = tensor.index_select(dimension, index)
    return tuple(tensors)


def smallest(inputs: Inputs, places: Sequence[Place], takes: Callable[[Inputs], bool]) -> int:
    """Return the smallest size of some dimensions that a model takes, from 1, found by halving."""
    which, dimension = places[0]
    least, enough = 1, inputs[which].shape[dimension]
    while least < enough:
        middle = (least + enough) // 2 if least > 1 else 1
        if takes(resized(inputs, places, middle)):
            enough = middle
        else:
            least = middle + 1
    return enough


def trials(inputs: Inputs, free: Mapping[str, Sequence[Place]], least: Mapping[str, int]) -> Iterator[Trial]:
    """Yield the example, then each free dimension at its smallest and one above the example, then other values."""
    yield Trial("the example", inputs, given=True)
    for name, places in free.items():
        which, dimension = places[0]
        for size in dict.fromkeys((least[name], inputs[which].shape[dimension] + 1)):
            if size != inputs[which].shape[dimension]:
                yield Trial(f"the example, {name} {size}", resized(inputs, places, size))
    if sum(inputs[places[0][0]].shape[places[0][1]] != least[name] for name, places in free.items()) > 1:
        small = inputs
        for name, places in free.items():
            small = resized(small, places, least[name])
        yield Trial("the example, all at their smallest", small)
    for label, change in (("turned around", _turned), ("with noise", _noisy), ("negated", _negated)):
        changed = tuple(change(tensor) for tensor in inputs)
        if any(not torch.equal(a, b) for a, b in zip(changed, inputs, strict=True)):
            yield Trial(f"the example {label}", changed)


def _turned(tensor: Tensor) -> Tensor:
    return tensor.flip(tuple(range(tensor.dim())))


def _noisy(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    spread = float(tensor.double().std(correction=0)) or 1.0
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (tensor.double() + spread * noise).to(tensor.dtype)


def _negated(tensor: Tensor) -> Tensor:
    return -tensor if tensor.is_floating_point() else tensor
