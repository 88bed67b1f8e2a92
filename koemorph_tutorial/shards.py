"""A checkpoint in two parts: the tensors that many ranks hold together, and all the rest, which one file takes.

The tensors are the parameters and what an optimizer keeps for each number of them. They are put in, and taken up, laid
out over the ranks as the live ones are.

Optimizer states are named after their parameters by `state.build` and find them again by `state.restore`. The way of
torch's own ``get_optimizer_state_dict`` is not taken: it takes a step of an optimizer that has taken none, so that a
save before the first batch would change the run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from .distcp import METADATA_NAME, Reader
from .naming import describe_parameters, plain_name, unwrap
from .records import DamagedCheckpointError, MismatchError, UnsupportedCheckpointError, state_key
from .state import Objects, state_of
from .storage import load_checkpoint
from .text import listed

Where = tuple[Any, ...]  # the keys on the way to a tensor in a checkpoint
SHARED = "shared_tensors"  # the key under which the first rank's file says where they belong


def rank_name(rank: int) -> str:
    """Return the name of a rank's own file.

    >>> rank_name(1)
    'rank_00001.pth'
    """
    return f"rank_{rank:05d}.pth"


def split(checkpoint: Mapping[str, Any], objects: Objects) -> tuple[dict[str, Any], dict[Where, torch.Tensor]]:
    """Return a checkpoint with None for each tensor that the ranks hold together, and those tensors.

    >>> rest, tensors = split({"model_state_dict": nn.Linear(2, 1).state_dict()}, {"model": nn.Linear(2, 1)})
    >>> dict(rest["model_state_dict"]), list(tensors)
    ({'weight': None, 'bias': None}, [('model_state_dict', 'weight'), ('model_state_dict', 'bias')])
    """
    tensors: dict[Where, torch.Tensor] = {}
    rest = dict(checkpoint)
    for name, item in objects.items():
        key = state_key(name)
        if key in rest:
            rest[key] = _without(rest[key], (key,), _shared_by(item), tensors)
    return rest, tensors


def _shared_by(item: object) -> Callable[[Where], bool]:
    """Return whether a plain tensor of an object is the same on all ranks; a buffer of a module need not be."""
    if isinstance(item, nn.Module):
        names = {plain_name(name) for name, _ in unwrap(item).named_parameters(remove_duplicate=False)}
        return lambda where: where[1] in names
    return lambda where: isinstance(item, torch.optim.Optimizer)


def _without(value: Any, where: Where, shared: Callable[[Where], bool], tensors: dict[Where, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        rest = copy.copy(value)  # which keeps the versions of the layers
        rest.update((key, _without(item, (*where, key), shared, tensors)) for key, item in value.items())
        return rest
    plain = type(value) in (torch.Tensor, nn.Parameter) and value.layout == torch.strided and not value.is_quantized
    if isinstance(value, DTensor) or (plain and value.ndim and not value.is_meta and shared(where)):
        tensors[where] = value.detach()
        return None
    return value


def put_back(checkpoint: Mapping[str, Any], where: Where, tensor: torch.Tensor) -> None:
    """Put a tensor where it was taken from, if anything was taken from there."""
    holder = _at(checkpoint, where[:-1])
    if isinstance(holder, dict) and where[-1] in holder:
        holder[where[-1]] = tensor


def nested(tensors: Mapping[Where, torch.Tensor]) -> dict[str, Any]:
    """Return tensors alone, in dicts as those are that they were taken from."""
    alone: dict[str, Any] = {}
    for (*above, last), tensor in tensors.items():
        holder = alone
        for key in above:
            holder = holder.setdefault(key, {})
        holder[last] = tensor
    return alone


def names_of(tensors: Collection[Where]) -> dict[str, Where]:
    """Return where each tensor belongs, by the name that torch.distributed.checkpoint gives it.

    >>> names_of([("model_state_dict", "0.weight"), ("optimizer_state_dict", "state", 0, "exp_avg")])
    {'model_state_dict.0.weight': ('model_state_dict', '0.weight'), \
'optimizer_state_dict.state.0.exp_avg': ('optimizer_state_dict', 'state', 0, 'exp_avg')}
    """
    return {".".join(map(str, where)): where for where in tensors}


def open_rest(
    folder: Path, files: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, Any], dict[str, Where], Mapping[str, Any]]:
    """Return what the first rank's file holds, where each shared tensor belongs in it, and size and dtype of each.

    `files` are the names that were verified, with their sizes in bytes and sums.

    Raises:
        DamagedCheckpointError: the files do not belong together.
        UnsupportedCheckpointError: they are not what `save_sharded` writes.
    """
    path = folder / rank_name(0)
    checkpoint = load_checkpoint(path)
    shared = checkpoint.pop(SHARED, None)
    if not isinstance(shared, list) or not all(
        isinstance(where, tuple) and len(where) > 1 and isinstance(_at(checkpoint, where[:-1]), dict)
        for where in shared
    ):
        raise UnsupportedCheckpointError(f"{path}: expected a list of where tensors belong, found none that it can be")
    names = names_of(shared)
    everything = Reader(folder).read_metadata()
    found: Mapping[str, Any] = everything.state_dict_metadata
    most = sum(size for size, _ in files.values())
    lacking = [name for name in names if name not in found or _bytes(found[name]) > most]
    lacking += sorted({info.relative_path for info in everything.storage_data.values()} - set(files))
    if lacking:
        raise DamagedCheckpointError(
            f"{folder / METADATA_NAME}: expected what the other files say, found it {listed('apart', lacking)}"
        )
    return checkpoint, names, found


def _bytes(entry: Any) -> int:
    size: int = math.prod(entry.size) * entry.properties.dtype.itemsize
    return size


def make_room(
    found: Mapping[str, Any], names: Mapping[str, Where], checkpoint: Mapping[str, Any], objects: Objects
) -> dict[str, torch.Tensor]:
    """Return an empty tensor for each that `objects` will take, laid out over the ranks as theirs is.

    `found` are the sizes and dtypes in the folder, `names` where each belongs in `checkpoint`. One that does not fit,
    or that the object has not, is on the meta device: it is not to be read, and `state.restore` says what it is.

    Raises:
        MismatchError: an optimizer's state in parts of another shape than its parameter, which no rank could know.
    """
    room = {}
    wanted = {state_key(name): name for name in objects}
    live = {key: state_of(objects[name]) for key, name in wanted.items()}  # first: it puts parameters back in parts
    owners = {
        name: _parameters_of(item, name, checkpoint.get("optimizer_parameters", {}).get(name), objects)
        for name, item in objects.items()
        if isinstance(item, torch.optim.Optimizer)
    }
    for name, where in names.items():
        if where[0] not in wanted:
            continue
        owner, entry = wanted[where[0]], found[name]
        item, inside = objects[owner], ".".join(map(str, where[1:]))
        like: Any
        if isinstance(item, torch.optim.Optimizer) and where[1] == "state":
            parameter, shape = owners[owner].get(where[2], (None, None))
            like = None if parameter is None else _at(item.state.get(parameter), where[3:])
            if _shape(like) != entry.size:
                like = parameter
            if shape is not None and shape != list(entry.size) and like is parameter:  # as some keep sums of rows
                if isinstance(parameter, DTensor):
                    raise MismatchError(
                        f"{owner}: {inside} is in parts, and in others than its parameter: let the optimizer take a "
                        "step before you load, so that it has its own"
                    )
                like = torch.empty(entry.size)
        else:
            like = _at(live[where[0]], where[1:])
            if _shape(like) != entry.size and not isinstance(item, nn.Module):
                raise MismatchError(
                    f"{owner}: expected {inside} {tuple(entry.size)}, as in the folder, found "
                    f"{'none' if _shape(like) is None else tuple(like.shape)} in it; hand over what was saved"
                )
        room[name] = (
            torch.empty_like(like.detach(), dtype=entry.properties.dtype)
            if _shape(like) == entry.size
            else torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        )
    return room


def _parameters_of(
    item: torch.optim.Optimizer, owner: str, there: list[list[dict[str, Any]]] | None, objects: Objects
) -> dict[int, tuple[torch.Tensor, list[int] | None]]:
    """Return the parameter here for each number in a saved state, by name where all have names; and its shape there."""
    parameters = [parameter for group in item.param_groups for parameter in group["params"]]
    names = [entry["name"] for group in describe_parameters(objects)[owner] for entry in group]
    saved = [entry for group in there or () for entry in group]
    if None in names or None in {entry["name"] for entry in saved}:
        return {number: (p, entry["shape"]) for number, (p, entry) in enumerate(zip(parameters, saved, strict=False))}
    here = dict(zip(names, parameters, strict=True))
    return {number: (here[e["name"]], e["shape"]) for number, e in enumerate(saved) if e["name"] in here}


def _at(state: Any, where: Where) -> Any:
    for key in where:
        state = state.get(key) if isinstance(state, Mapping) else None
    return state


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, torch.Tensor) else None
