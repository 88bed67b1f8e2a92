"""Which tensors of a file fill which tensors of a model, whatever wraps either; decided before any number is read.

A state dict that was saved from inside another module has names with that module's in front. Taken as they are, none
fits, and ``load_state_dict(strict=False)`` fills nothing and says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .filling import oddity
from .naming import plain_name, unwrap
from .rebuild import kind_text
from .records import MismatchError
from .stubs import TensorStub
from .text import listed, printable


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What of a file fills what of a model: `stubs` are the tensors to read, by their names in the model.

    `prefix` is what those names begin with in the file; under each of `others` the names fit as well. `missing` are
    names in the model, `unexpected` in the file, `reshaped` sentences. `beside` are tensors outside of the prefix,
    where all that the model needs is inside: another part of what was saved.
    """

    prefix: str
    stubs: Mapping[str, TensorStub]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    beside: tuple[str, ...]
    others: tuple[str, ...]

    def problems(self) -> list[str]:
        """Return a phrase for each kind of thing that does not fit."""
        alike = " and ".join(repr(printable(prefix, 80)) for prefix in (self.prefix, *self.others)[:5])
        phrases = (
            listed("not in the file", self.missing),
            listed("only in the file", self.unexpected),
            listed("of another shape or kind", self.reshaped),
            f"its names fit under {alike} alike (strict=False takes the first)" if self.others else "",
        )
        return [phrase for phrase in phrases if phrase]


def tensors_to_fill(model: nn.Module) -> dict[str, Any]:
    """Return what a state dict of `model` fills, by names without wrappers.

    Raises:
        TypeError: no module. MismatchError: a tensor that cannot be filled, so that no model is filled in part.

    >>> list(tensors_to_fill(nn.DataParallel(nn.Linear(2, 1))))
    ['weight', 'bias']
    """
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model: expected an nn.Module, found {what}")
    live = {plain_name(name): value for name, value in unwrap(model).state_dict().items()}
    odd = [f"{name} ({what})" for name, value in live.items() if (what := oddity(value))]
    if odd:
        raise MismatchError(
            f"model: expected tensors that can be filled, found {listed('others', odd)}; build it on a real device, "
            "and fill it before it is quantized or sharded"
        )
    return live


def left_out(model: nn.Module) -> set[str]:
    """Return the names of the tensors of `model` that its state dict leaves out: an archive of TorchScript has them."""
    module = unwrap(model)
    loose = {
        f"{above}.{name}".lstrip(".")
        for above, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, torch.Tensor)
    }
    buffers = {name for name, _ in module.named_buffers()} - module.state_dict().keys()
    return {plain_name(name) for name in loose | buffers}


def match_tensors(live: Mapping[str, Any], saved: Mapping[str, Any], ignored: Collection[str] = ()) -> Fit:
    """Match the tensors of a file, `saved`, to those of a model, `live`, by their names but for a prefix.

    The prefix is the one under which most of the model's names are found, then most of their shapes. Names in `ignored`
    are no surprise in the file.

    >>> stubs = {"net.weight": TensorStub((1, 2), "float32"), "net.bias": TensorStub((3,), "float32")}
    >>> fit = match_tensors(nn.Linear(2, 1).state_dict(), stubs)
    >>> fit.prefix, list(fit.stubs), fit.reshaped
    ('net.', ['weight'], ('bias: expected (1,), found (3,)',))
    """
    saved = _renamed(live, saved)
    prefix, *others = _prefixes(live, saved)
    inside = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
    reshaped = {name: why for name in live if name in inside and (why := _misfit(live[name], inside[name]))}
    stubs = {name: inside[name] for name in live if name in inside and name not in reshaped}
    filled = {place_of(live[name]) for name in stubs}
    missing = [name for name, value in live.items() if name not in inside and place_of(value) not in filled]
    # Before torch 0.4.1 a batch norm did not count its batches; torch fills its file without that count as well.
    missing = [name for name in missing if name.rpartition(".")[2] != "num_batches_tracked" or not stubs]
    outside = [name for name in saved if not name.startswith(prefix) and name not in ignored]
    unexpected = [prefix + name for name in inside if name not in live and name not in ignored]
    complete = bool(stubs) and not missing and not reshaped
    return Fit(
        prefix=prefix,
        stubs=stubs,
        missing=tuple(missing),
        unexpected=tuple(unexpected if complete else unexpected + outside),
        reshaped=tuple(f"{name}: {why}" for name, why in reshaped.items()),
        beside=tuple(outside if complete else ()),
        others=tuple(others),
    )


def _renamed(live: Mapping[str, Any], saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the halves of a weight norm from before torch 2.1 (``weight_g``, ``weight_v``) the names of today's."""
    known = [name for name in live if "parametrizations." in name]
    renamed = {}
    for name, value in saved.items() if known else ():
        above, dot, last = name.rpartition(".")
        half = f"parametrizations.{last[:-2]}.original{'gv'.find(last[-1:])}"
        is_old = last.endswith(("_g", "_v")) and any(one.endswith(half) for one in known)
        renamed[above + dot + half if is_old else name] = value
    return renamed or saved


def _prefixes(live: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Return the prefix that fits best, and any others that fit as well; none is better than one."""
    depth = max((name.count(".") for name in live), default=0) + 1
    names: Counter[str] = Counter({"": 0})
    shapes: Counter[str] = Counter()
    for name, value in saved.items():
        parts = name.rsplit(".", depth)
        for first in range(len(parts)):
            inner = ".".join(parts[first:])
            if inner in live:
                prefix = name[: len(name) - len(inner)]
                names[prefix] += 1
                shapes[prefix] += not _misfit(live[inner], value)
    best = max((count, shapes[prefix]) for prefix, count in names.items())
    fitting = [prefix for prefix, count in names.items() if (count, shapes[prefix]) == best]
    return [""] if "" in fitting else fitting


def _misfit(live: Any, saved: Any) -> str:
    """Say why a tensor of a file cannot fill one of a model; "" if it can."""
    if not isinstance(live, torch.Tensor):
        return f"expected what only its module can read, found {kind_text(saved)}; fill it by load_state_dict"
    if not isinstance(saved, TensorStub):
        return f"expected a tensor, found {kind_text(saved)}"
    if not is_lazy(live) and tuple(live.shape) != saved.shape:
        return f"expected {tuple(live.shape)}, found {saved.shape}"
    dtype = getattr(torch, saved.dtype, None)
    if not isinstance(dtype, torch.dtype) or not _can_copy(dtype, live.dtype, live.device):
        return f"expected {dtype_name(live)}, found {saved.dtype}"
    return ""


@cache
def _can_copy(dtype: torch.dtype, into: torch.dtype, device: torch.device) -> bool:
    """Say whether numbers can be copied into a tensor of another dtype: torch may allow the cast and have no code."""
    if not torch.can_cast(dtype, into):
        return False
    try:
        torch.empty(1, dtype=into, device=device).copy_(torch.empty(1, dtype=dtype))
    except RuntimeError:  # NotImplementedError is one
        return False
    return True


def dtype_name(tensor: torch.Tensor) -> str:
    """Return the name of a tensor's dtype as headers write it.

    >>> dtype_name(torch.zeros(1))
    'float32'
    """
    return str(tensor.dtype).removeprefix("torch.")


def place_of(value: Any) -> Any:
    """Return where a tensor's numbers are: equal for two names of one tensor."""
    if not isinstance(value, torch.Tensor) or is_lazy(value) or not value.numel():
        return id(value)
    return value.device, value.data_ptr(), value.shape, value.stride()
