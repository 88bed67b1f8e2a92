"""Tensors into a model: as a whole or not at all, whatever its modules do when they are filled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .naming import plain_name, unwrap, versions_for
from .records import MismatchError
from .text import printable


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], versions: Mapping[str, Any] | None = None) -> None:
    """Move `tensors`, which fit, into `model`; whatever stops that, put back what was there.

    `tensors` are taken out of their dict, so that no more than one of them is in memory for a third time. `versions`
    are the file's `plain_versions`: a module that has changed its layout turns an older one into its own.

    Raises:
        MismatchError: a module of its own kind refused; with its words.
    """
    module = unwrap(model)
    own = {plain_name(name): name for name in module.state_dict()}
    named = OrderedDict((own[name], tensors.pop(name)) for name in list(tensors))
    try:
        if _only_copies(module) and named.keys() <= _named_tensors(module).keys():
            _copy(module, named)
        else:
            _load(module, named, versions)
    except Exception as error:  # whatever a module of somebody's own raises
        why = printable(f"{type(error).__name__}: {error}")
        raise MismatchError(f"the model refused its weights, and is as it was: {why}") from error


def _only_copies(module: nn.Module) -> bool:
    """Say whether torch's own code alone would fill a module: then it copies numbers and does nothing else."""
    return type(module).load_state_dict is nn.Module.load_state_dict and not any(
        part._load_state_dict_pre_hooks
        or part._load_state_dict_post_hooks
        or part._state_dict_hooks
        or not type(part)._load_from_state_dict.__module__.startswith("torch.nn.")
        or {"load_state_dict", "_load_from_state_dict"} & vars(part).keys()
        for part in module.modules()
    )


def _named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    parameters, buffers = (named(remove_duplicate=False) for named in (module.named_parameters, module.named_buffers))
    return {**dict(parameters), **dict(buffers)}


def _copy(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    live = _named_tensors(module)
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        try:
            for name in list(tensors):
                before.append((live[name], _apart(live[name])))
                live[name].copy_(tensors.pop(name))
        except BaseException:
            for tensor, numbers in reversed(before):  # of two names of one tensor the first has what was there
                tensor.copy_(numbers)
            raise


def _load(module: nn.Module, tensors: OrderedDict[str, torch.Tensor], versions: Mapping[str, Any] | None) -> None:
    if versions is not None:
        tensors._metadata = versions_for(module, versions)  # type: ignore[attr-defined]
    before = _Before(module)
    try:
        result = module.load_state_dict(tensors, strict=False)
        if unknown := getattr(result, "unexpected_keys", []):
            raise KeyError(f"it does not take {unknown[0]}, which it gives")
    except BaseException:
        before.put_back()
        raise


class _Before:
    """All tensors of a module as they are now: which they are, and their numbers."""

    def __init__(self, module: nn.Module) -> None:
        holders = [vars(part).get(name) for part in module.modules() for name in ("_parameters", "_buffers")]
        self._holders = [(holder, dict(holder)) for holder in holders if isinstance(holder, dict)]
        every = {id(tensor): tensor for tensor in _named_tensors(module).values()}.values()
        self._lazy: list[tuple[Any, type, torch.Tensor]] = [(x, type(x), x.data) for x in every if is_lazy(x)]
        plain = [tensor for tensor in every if not is_lazy(tensor) and not oddity(tensor)]
        self._numbers = [(tensor, _apart(tensor)) for tensor in plain]

    @torch.no_grad()
    def put_back(self) -> None:
        for holder, items in self._holders:
            holder.clear()
            holder.update(items)
        for tensor, kind, data in self._lazy:  # it may have got a shape
            tensor.__class__ = kind
            tensor.data = data
        for tensor, numbers in self._numbers:
            if tensor.shape != numbers.shape:
                tensor.data = numbers.to(tensor.device)
            tensor.copy_(numbers)


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)  # where memory is larger


def oddity(value: Any) -> str:
    """Return why a tensor of a model cannot be filled by a copy of numbers; "" if it can."""
    if not isinstance(value, torch.Tensor) or is_lazy(value):
        return ""
    if value.is_meta:
        return "on the meta device, without memory"
    if value.layout != torch.strided or value.is_quantized:
        return "quantized" if value.is_quantized else "sparse"
    if type(value) not in (torch.Tensor, nn.Parameter):
        return type(value).__name__
    if value.is_inference():
        return "made in inference mode"
    repeats = any(step == 0 and size > 1 for size, step in zip(value.shape, value.stride(), strict=True))
    return "one number in many places" if repeats else ""
