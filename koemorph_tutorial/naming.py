"""What a parameter is called, whatever wraps its module; and optimizer state that finds its parameter by that name.

An optimizer's state dict counts its parameters 0, 1, 2 …: built from the same parameters in another order, it loads
without a word and every parameter goes on with a stranger's momentum. So a checkpoint stores the name and the shape of
each, taken from the modules saved beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .text import count, listed

# State of one number per parameter element, in torch's own optimizers: its shape must be the parameter's.
_ELEMENTWISE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum")


@dataclass(frozen=True, kw_only=True)
class Match:
    """How to fill an object from a saved state, and what does not fit.

    `permuted`: its parameters stood in another order; `drift`: why it will not be bitwise as it was; `sure`: everything
    was checked, so that filling cannot fail.
    """

    fill: Callable[[], object] = lambda: None
    problems: Sequence[str] = ()
    permuted: bool = False
    drift: Sequence[str] = ()
    sure: bool = True


def unwrap(item: Any) -> Any:
    """Take DistributedDataParallel, DataParallel and torch.compile off an object."""
    while True:
        if isinstance(item, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            item = item.module
        elif isinstance(item, nn.Module) and isinstance(_own_modules(item).get("_orig_mod"), nn.Module):
            item = item._orig_mod
        else:
            return item


def _own_modules(item: nn.Module) -> dict[str, Any]:
    """Return what a module holds itself, whatever it forwards to; of one of TorchScript, nothing."""
    modules = vars(item).get("_modules")
    return modules if isinstance(modules, dict) else {}


def plain_name(name: str) -> str:
    """Return a parameter's name without what torch.compile put into it.

    >>> plain_name("encoder._orig_mod.weight")
    'encoder.weight'
    """
    return name.replace("_orig_mod.", "")


def plain_versions(metadata: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what a state dict says of its modules, by the names that they have without `prefix` and without wrappers.

    It is the ``_metadata`` beside its tensors, by which a module knows whether they are laid out as it lays them out.

    >>> plain_versions({"": {}, "module": {"version": 1}, "module.conv._orig_mod": {"version": 2}}, "module.")
    {'': {'version': 1}, 'conv': {'version': 2}}
    """
    full = {plain_name(f"{name}.").lstrip("."): entry for name, entry in metadata.items()}
    return {n[len(prefix) :].removesuffix("."): entry for n, entry in full.items() if n.startswith(prefix)}


def versions_for(module: nn.Module, versions: Mapping[str, Any]) -> dict[str, Any]:
    """Return `plain_versions` by the names that the modules of `module` have, wrappers within it included."""
    return {
        name: versions[plain]
        for name, _ in module.named_modules(remove_duplicate=False)
        if (plain := plain_name(f"{name}.").removesuffix(".")) in versions
    }


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
            [{"name": names.get(id(p)), "shape": None if is_lazy(p) else list(p.shape)} for p in group["params"]]
            for group in item.param_groups
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


def match_module(item: nn.Module, saved: Mapping[str, Any]) -> Match:
    """Match a saved state to a module by the names of its tensors, whatever wraps either of them."""
    module = unwrap(item)
    state = module.state_dict()
    own_names = {plain_name(name): name for name in state}
    live = {plain_name(name): value for name, value in state.items()}
    there = {plain_name(name): value for name, value in saved.items()}
    prefix = "module."
    if not all(name.startswith(prefix) for name in there) or any(name.startswith(prefix) for name in live):
        prefix = ""
    there = {name.removeprefix(prefix): value for name, value in there.items()}
    both = [(name, value, there[name]) for name, value in live.items() if name in there and not is_lazy(value)]
    lists = (
        listed("not in the file", [name + _shape(value) for name, value in live.items() if name not in there]),
        listed("only in the file", [name + _shape(value) for name, value in there.items() if name not in live]),
        listed(
            "of another shape",
            [
                f"{name} (expected{_shape(a)}, found{_shape(b) or ' no tensor'})"
                for name, a, b in both
                if _shape(a) != _shape(b)
            ],
        ),
    )
    problem = "; ".join(text for text in lists if text)
    if problem:
        problem += "; this is the checkpoint of another model: build the model that it was saved from"
    tensors = [(name, a, b) for name, a, b in both if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)]
    cast = [f"{name} ({b.dtype} in the file, {a.dtype} here)" for name, a, b in tensors if a.dtype != b.dtype]
    filled = OrderedDict((own_names.get(name, name), value) for name, value in there.items())
    if hasattr(saved, "_metadata"):
        filled._metadata = versions_for(module, plain_versions(saved._metadata, prefix))  # type: ignore[attr-defined]
    return Match(
        fill=lambda: module.load_state_dict(filled),
        problems=[problem] if problem else [],
        drift=[listed("cast to another dtype", cast)] if cast else [],
        sure=all(isinstance(value, torch.Tensor) for value in there.values()),  # else its set_extra_state may refuse
    )


def _shape(value: Any) -> str:
    return f" {tuple(value.shape)}" if isinstance(value, torch.Tensor) and not is_lazy(value) else ""


def match_optimizer(
    name: str,
    optimizer: torch.optim.Optimizer,
    saved: Mapping[str, Any],
    described: list[list[dict[str, Any]]] | None,
    objects: Mapping[str, object],
) -> Match:
    """Match a saved state to `optimizer`, group by group, by name where there are names, else by order and shape.

    `described` is what `describe_parameters` stored; None for a file of the recipe, which stores none.
    """
    state = saved.get("state", {})
    if not isinstance(state, Mapping):
        return Match(problems=[f"its state: expected a dict, found {type(state).__name__}"])
    live = describe_parameters({**objects, name: optimizer})[name]
    groups = [dict(group) for group in saved.get("param_groups", [])]
    if len(groups) != len(live) or (described is not None and len(described) != len(groups)):
        problem = f"expected {len(live)} parameter groups, found {len(groups)} in the file; group them as they were"
        return Match(problems=[problem])
    problems, permuted = [], False
    # A parameter that moved to another group is not followed there: the settings it was trained with stayed behind.
    elsewhere = {entry["name"]: number for number, group in enumerate(described or ()) for entry in group}
    for number, (group, here) in enumerate(zip(groups, live, strict=True)):
        ids = list(group.get("params", []))
        there = described[number] if described else [_guess(saved, key) for key in ids]
        if len(there) != len(ids):
            problems.append(f"group {number}: its state has {len(ids)} parameters, its description {len(there)}")
            continue
        order, found = _order(here, there, elsewhere)
        problems += [f"group {number}: {text}" for text in found]
        if not found and order != list(range(len(ids))):
            permuted = True
            group["params"] = [ids[i] for i in order]
            if "param_names" in group:  # of an optimizer that was built from named parameters
                group["param_names"] = [group["param_names"][i] for i in order]
    if permuted and isinstance(optimizer, torch.optim.LBFGS):
        problems.append("LBFGS keeps one history for all parameters: hand them over in the order in which it was saved")
    # A dict of its own: ZeroRedundancyOptimizer clears in it what is another rank's.
    filled = {**saved, "state": dict(state), "param_groups": groups}
    ours = type(optimizer).__module__.startswith("torch.optim")  # another's load_state_dict may refuse
    return Match(fill=lambda: _fill(optimizer, filled), permuted=permuted, problems=problems, sure=ours)


def _fill(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    optimizer.load_state_dict(state)
    # torch casts what is stored per parameter to the parameter's dtype, single numbers (NAdam's mu_product) as well.
    for saved, live in zip(state["param_groups"], optimizer.param_groups, strict=True):
        for key, parameter in zip(saved["params"], live["params"], strict=True):
            for name, value in (state["state"].get(key) or {}).items():
                now = optimizer.state.get(parameter, {}).get(name)
                single = isinstance(value, torch.Tensor) and value.ndim == 0 and name not in _ELEMENTWISE
                if single and isinstance(now, torch.Tensor) and now.dtype != value.dtype:
                    optimizer.state[parameter][name] = value.to(now.device)


def unnamed_parameters(described: Mapping[str, list[list[dict[str, Any]]]]) -> list[str]:
    """Return a line per optimizer that trains parameters of no module among the objects: nobody saves them.

    >>> loose = nn.Parameter(torch.zeros(1))
    >>> unnamed_parameters(describe_parameters({"optimizer": torch.optim.SGD([loose])}))
    ['optimizer trains 1 parameter that no object holds, so it is in no file; hand over the module it belongs to']
    """
    loose = {
        name: sum(entry["name"] is None for group in groups for entry in group) for name, groups in described.items()
    }
    return [
        f"{name} trains {count(number, 'parameter')} that no object holds, so {'it is' if number == 1 else 'they are'} "
        f"in no file; hand over the module {'it belongs' if number == 1 else 'they belong'} to"
        for name, number in loose.items()
        if number
    ]


def _guess(saved: Mapping[str, Any], key: Any) -> dict[str, Any]:
    state = saved.get("state", {}).get(key, {})
    shapes = [list(state[part].shape) for part in _ELEMENTWISE if isinstance(state.get(part), torch.Tensor)]
    return {"name": None, "shape": shapes[0] if shapes else None}


def _order(
    here: list[dict[str, Any]], there: list[dict[str, Any]], elsewhere: Mapping[str | None, int]
) -> tuple[list[int], list[str]]:
    """Return for each live parameter its place in the file, and what does not fit."""
    places = {entry["name"]: place for place, entry in enumerate(there)}
    named = len(places) == len(there) and None not in places and all(entry["name"] for entry in here)
    if named:
        mine = {entry["name"] for entry in here}
        lacking = [name + _shaped(entry) for entry in here if (name := entry["name"]) not in elsewhere]
        moved = [f"{name} of its group {elsewhere[name]}" for name in mine & set(elsewhere) if name not in places]
        left = [name + _shaped(entry) for entry in there if (name := entry["name"]) not in mine]
        found = [
            listed("not in the file", lacking),
            listed("in another group of the file", sorted(moved)),
            listed("only in this group of the file", left),
        ]
        if any(found):
            return [], ["; ".join([*filter(None, found), "give it the parameters it was saved with, grouped as then"])]
    elif len(here) != len(there):
        return [], [f"expected {len(here)} parameters, found {len(there)} in the file"]
    order = [places[entry["name"]] if named else place for place, entry in enumerate(here)]
    wrong = [
        f"{entry['name'] or f'parameter {place}'} (expected{_shaped(entry)}, found{_shaped(there[at])})"
        for place, (entry, at) in enumerate(zip(here, order, strict=True))
        if None not in (entry["shape"], there[at]["shape"]) and list(there[at]["shape"]) != entry["shape"]
    ]
    return order, [listed("of another shape", wrong)] if wrong else []


def _shaped(entry: Mapping[str, Any]) -> str:
    return "" if entry["shape"] is None else f" {tuple(entry['shape'])}"
