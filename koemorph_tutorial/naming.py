"""What a parameter is called, whatever wraps its module; and optimizer state that finds its parameter by that name.

An optimizer's state dict counts its parameters 0, 1, 2 …: built from the same parameters in another order, it loads
without a word and every parameter goes on with a stranger's momentum. So a checkpoint stores the name and the shape of
each, taken from the modules saved beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# State of one number per parameter element, in torch's own optimizers: its shape must be the parameter's.
_ELEMENTWISE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum")


@dataclass(frozen=True, kw_only=True)
class OptimizerMatch:
    """How to fill an optimizer, whether its parameters were put in another order, and what does not fit."""

    fill: Callable[[], object]
    permuted: bool
    problems: list[str]


def unwrap(item: Any) -> Any:
    """Take DistributedDataParallel, DataParallel and torch.compile off an object."""
    while True:
        if isinstance(item, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            item = item.module
        elif isinstance(item, nn.Module) and isinstance(vars(item).get("_modules", {}).get("_orig_mod"), nn.Module):
            item = item._orig_mod
        else:
            return item


def plain_name(name: str) -> str:
    """Return a parameter's name without what torch.compile put into it.

    >>> plain_name("encoder._orig_mod.weight")
    'encoder.weight'
    """
    return name.replace("_orig_mod.", "")


def describe_parameters(objects: Mapping[str, object]) -> dict[str, list[list[dict[str, Any]]]]:
    """Return per optimizer and group the name and shape of every parameter.

    A name is that of the object and the parameter's own (``model.encoder.weight``), None for a parameter of no module
    among the objects.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> describe_parameters({"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)})
    {'optimizer': [[{'name': 'model.weight', 'shape': [1, 2]}]]}
    """
    names = _names(objects)
    return {
        name: [
            [{"name": names.get(id(p)), "shape": list(p.shape)} for p in group["params"]] for group in item.param_groups
        ]
        for name, item in objects.items()
        if isinstance(item, torch.optim.Optimizer)
    }


def _names(objects: Mapping[str, object]) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, item in objects.items():
        if isinstance(item, nn.Module):
            for inner, parameter in unwrap(item).named_parameters():
                names.setdefault(id(parameter), f"{name}.{plain_name(inner)}")
    return names


def match_optimizer(
    name: str,
    optimizer: torch.optim.Optimizer,
    saved: Mapping[str, Any],
    described: list[list[dict[str, Any]]] | None,
    objects: Mapping[str, object],
) -> OptimizerMatch:
    """Match a saved state to `optimizer`, group by group, by name where there are names, else by order and shape.

    `described` is what `describe_parameters` stored; None for a file of the recipe, which stores none.
    """
    live = describe_parameters({**objects, name: optimizer})[name]
    groups = [dict(group) for group in saved.get("param_groups", [])]
    if len(groups) != len(live) or (described is not None and len(described) != len(groups)):
        problem = f"expected {len(live)} parameter groups, found {len(groups)} in the file; group them as they were"
        return OptimizerMatch(fill=lambda: None, permuted=False, problems=[problem])
    problems, permuted = [], False
    for number, (group, here) in enumerate(zip(groups, live, strict=True)):
        ids = list(group.get("params", []))
        there = described[number] if described else [_guess(saved, key) for key in ids]
        if len(here) != len(ids) or len(there) != len(ids):
            problems.append(f"group {number}: expected {len(here)} parameters, found {len(ids)} in the file")
            continue
        order, found = _order(here, there)
        problems += [f"group {number}: {text}" for text in found]
        if not found and order != list(range(len(ids))):
            permuted = True
            group["params"] = [ids[i] for i in order]
            if "param_names" in group:  # of an optimizer that was built from named parameters
                group["param_names"] = [group["param_names"][i] for i in order]
    filled = {**saved, "param_groups": groups}
    return OptimizerMatch(fill=lambda: optimizer.load_state_dict(filled), permuted=permuted, problems=problems)


def _guess(saved: Mapping[str, Any], key: Any) -> dict[str, Any]:
    state = saved.get("state", {}).get(key, {})
    shapes = [list(state[part].shape) for part in _ELEMENTWISE if isinstance(state.get(part), torch.Tensor)]
    return {"name": None, "shape": shapes[0] if shapes else None}


def _order(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> tuple[list[int], list[str]]:
    """Return for each live parameter its place in the file, and what does not fit."""
    places = {entry["name"]: place for place, entry in enumerate(there)}
    named = len(places) == len(there) and None not in places and all(entry["name"] for entry in here)
    if named:
        missing = [entry["name"] for entry in here if entry["name"] not in places]
        if missing:
            known = {entry["name"] for entry in here}
            others = [entry["name"] for entry in there if entry["name"] not in known]
            return [], [f"not in the file: {', '.join(missing[:5])}; there instead: {', '.join(others[:5])}"]
    order = [places[entry["name"]] if named else place for place, entry in enumerate(here)]
    wrong = [
        f"{entry['name'] or f'parameter {place}'} (expected {tuple(entry['shape'])}, found {tuple(there[at]['shape'])})"
        for place, (entry, at) in enumerate(zip(here, order, strict=True))
        if there[at]["shape"] is not None and list(there[at]["shape"]) != entry["shape"]
    ]
    return order, [f"of another shape: {', '.join(wrong[:5])}"] if wrong else []
