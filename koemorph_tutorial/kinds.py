"""Of which class an object is, and whether a state that another class saved can fill it.

torch fills an SGD from an Adam's state without a word, and the run goes on with another optimizer's settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# How an optimizer computes, not what: one version of torch has more of these than another.
_MANNERS = {"params", "foreach", "fused", "maximize", "capturable", "differentiable", "decoupled_weight_decay"}


def kind_of_object(item: object) -> str:
    """Return the full name of an object's class.

    >>> kind_of_object(torch.optim.AdamW([torch.zeros(1)]))
    'torch.optim.adamw.AdamW'
    """
    return f"{type(item).__module__}.{type(item).__qualname__}"


def match_class(item: Optimizer | LRScheduler, kind: str | None, saved: Mapping[str, Any]) -> tuple[str, str]:
    """Return why the state of a `kind` cannot fill `item`, and why, if it can, it may not go on the same; "" if not.

    `kind` is the class's full name, None for a file that does not say: then the settings of the groups tell an SGD
    from an Adam. Two different classes of torch's never fit. Somebody's own class fits that class of torch's which it
    is made from, or another whose groups have the same settings.
    """
    here = type(item)
    if kind == kind_of_object(item):
        return "", ""
    then = (kind or "").rpartition(".")[2]
    base = next(parent for parent in here.__mro__ if parent.__module__.startswith("torch.optim"))
    if kind and kind.startswith("torch.optim") and base not in (Optimizer, LRScheduler):
        fits = then == base.__name__
    else:
        fits, found = _fits(item, saved, older=kind is None)
        then = then or found
    if not fits:
        what = f"that of {then}" if then else "that of another class"
        kinds = "optimizer" if isinstance(item, Optimizer) else "scheduler"
        return (
            f"expected the state of {here.__name__}, found {what}; build the {kinds} that the run was saved with, or "
            "hand this one over under another name to start it afresh"
        ), ""
    return "", f"saved by {then}, here it is {here.__name__}" if kind and then != here.__name__ else ""


def _fits(item: Optimizer | LRScheduler, saved: Mapping[str, Any], *, older: bool) -> tuple[bool, str]:
    """Compare what a saved state is made of with what `item` would save; the second value names the class if it can.

    A scheduler's state of an `older` torch may have a key more or less.
    """
    if isinstance(item, LRScheduler):
        mine, files = ({key for key in state if not key.startswith("_")} for state in (item.state_dict(), saved))
        return mine == files or (older and not (mine - files and files - mine)), ""
    groups = saved.get("param_groups")
    if not isinstance(groups, list) or not groups or not isinstance(groups[0], Mapping) or not item.param_groups:
        return True, ""  # whatever that is, it is said elsewhere
    (here, ours), (there, theirs) = _looks_like(item.param_groups[0]), _looks_like(groups[0])
    return here == there and not (ours and theirs and ours.isdisjoint(theirs)), " or ".join(sorted(theirs))


def _looks_like(group: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Return the settings of a group that torch's optimizers have, and the names of those that have just these."""
    known = _hyperparameters()
    keys = set(group) & set().union(*known.values())
    classes = {name for name, own in known.items() if own == keys}
    if "decoupled_weight_decay" in group and {"Adam", "AdamW"} <= classes:  # all that tells one from the other
        classes.discard("Adam" if group["decoupled_weight_decay"] else "AdamW")
    return keys, classes


@cache
def _hyperparameters() -> dict[str, set[str]]:
    return {
        name: set(inspect.signature(kind).parameters) - _MANNERS
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
