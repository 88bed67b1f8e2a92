"""Live objects <-> one plain dict, the checkpoint; nothing here touches a disk except to ask git for the commit.

`build` asks every object for its ``state_dict()`` and adds what no object knows: where the run is, the random
generators, the best so far, the config, where it all came from. `restore` goes the other way, all or nothing.
"""

from __future__ import annotations

import copy as copying
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.data import DataLoader

from .kinds import kind_of_object, match_class
from .naming import (
    Match,
    describe_parameters,
    match_module,
    match_optimizer,
    plain_name,
    plain_versions,
    unnamed_parameters,
    unwrap,
)
from .plain import check_plain
from .provenance import collect_metadata, device_of, find_drift
from .records import FORMAT_VERSION, Best, MismatchError, Position, UnsavableStateError, state_key
from .rng import kept_rng, loaders_without_generator, prepare_rng
from .signals import undisturbed

Objects = Mapping[str, object]


@runtime_checkable
class Stateful(Protocol):
    """Anything with a state that can be taken and given back: modules, optimizers, schedulers, loaders, your own."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a dict of plain values and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take back what `state_dict` returned."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What `restore` did beyond filling every object.

    `missing`: objects handed over that are not in the file, left as they are; `unexpected`: states in the file that
    nobody asked for; `permuted`: optimizers whose parameters stood in another order; `drift`: why the run is not
    bitwise the same from here.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    permuted: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()


def check_objects(objects: Objects) -> None:
    """Check that every object has a state.

    Raises:
        TypeError: names the first that has none.
    """
    if not objects:
        raise TypeError("objects: expected at least one, for example {'model': model, 'optimizer': optimizer}")
    for name, item in objects.items():
        if not isinstance(name, str):
            raise TypeError(f"objects: expected names, found the key {name!r}")
        if isinstance(item, type) or not isinstance(item, (Stateful, torch.Generator)):
            raise TypeError(
                f"objects[{name!r}]: expected something with state_dict and load_state_dict, or a torch.Generator, "
                f"found {'the class ' + item.__name__ if isinstance(item, type) else type(item).__name__}"
                + ("; hand over ResumableLoader(loader), and iterate that" if isinstance(item, DataLoader) else "")
            )


def build(
    objects: Objects,
    *,
    epoch: int,
    position: Position,
    metrics: Mapping[str, float],
    best: Best,
    run: Mapping[str, Any],
    config: Any = None,
    training_time: float = 0.0,
    copy: bool = False,
) -> dict[str, Any]:
    """Return the checkpoint of `objects`: one dict in format version 1.

    `epoch` is the epoch that ended or that the save is inside of, `position` that of the next batch, `run` the line of
    runs with its count of saves, `training_time` in seconds. Tensors alias live memory unless `copy` is True.

    >>> model = nn.Linear(2, 1)
    >>> checkpoint = build({"model": model}, epoch=0, position=Position(epoch=1), metrics={}, best=Best(), run={})
    >>> restore(checkpoint, {"model": nn.Linear(2, 1)}).missing
    ()
    """
    check_objects(objects)
    modules = {name: unwrap(item) for name, item in objects.items() if isinstance(item, nn.Module)}
    with kept_rng() as random_states:
        checkpoint = {
            "format_version": FORMAT_VERSION,
            "run": dict(run),
            "epoch": epoch,
            "global_step": position.global_step,
            "position": asdict(position),
            **{state_key(name): state_of(item) for name, item in objects.items()},
            "optimizer_parameters": describe_parameters(objects),
            "metrics": dict(metrics),
            "best": asdict(best),
            "rng_state": random_states,
            "config": plain_config(config),
            "metadata": {
                **collect_metadata(modules, training_time),
                "objects": {name: kind_of_object(unwrap(item)) for name, item in objects.items()},
            },
        }
    return copying.deepcopy(checkpoint) if copy else checkpoint


def restore(checkpoint: Mapping[str, Any], objects: Objects, *, strict: bool = False) -> Restored:
    """Fill `objects` and the random generators from `checkpoint`, all or nothing.

    Everything that can be checked is checked before the first object is filled; what only the object itself can check
    (a scheduler, an object of yours) is filled first and put back if any of them refuses. The generators come last.
    A Ctrl-C waits until all are filled.

    Raises:
        MismatchError: what does not fit, with names and shapes; or, under `strict`, why the run would not go on
            bitwise the same.
    """
    check_objects(objects)
    missing = tuple(name for name in objects if state_key(name) not in checkpoint)
    known = {state_key(name) for name in objects}
    unexpected = tuple(
        key.removesuffix("_state_dict") for key in checkpoint if key.endswith("_state_dict") and key not in known
    )
    modules = {name: item for name, item in objects.items() if isinstance(item, nn.Module)}
    if (modules and modules.keys() <= set(missing)) or len(missing) == len(objects):
        found = ", ".join(unexpected) or "no state at all"
        raise MismatchError(f"expected the state of {', '.join(modules or missing)}, found {found}")

    drift = [*find_drift(checkpoint, device_of(modules))]
    drift += unnamed_parameters(checkpoint.get("optimizer_parameters", {}))
    drift += loaders_without_generator(objects)
    matches: dict[str, Match] = {}
    problems: list[str] = []
    # Modules first: where the model is another one, what its optimizer says is no news.
    for name, item in sorted(objects.items(), key=lambda pair: not isinstance(pair[1], nn.Module)):
        saved = checkpoint.get(state_key(name))
        if name in missing or (problems and isinstance(item, torch.optim.Optimizer)):
            continue
        if not isinstance(saved, Mapping):
            problems.append(f"{state_key(name)}: expected a dict, found {type(saved).__name__}")
            continue
        match = matches[name] = _match(name, saved, checkpoint, objects)
        problems += [f"{name}: {problem}" for problem in match.problems]
        drift += [f"{name}: {why}" for why in match.drift]
    if problems:
        raise MismatchError("; ".join(problems))
    if strict and drift:
        raise MismatchError("not bitwise from here: " + "; ".join(drift))
    apply_rng = prepare_rng(checkpoint.get("rng_state", {}))
    with undisturbed():
        _fill_or_put_back({name: match for name, match in matches.items() if not match.sure}, objects)
        for match in matches.values():
            if match.sure:
                match.fill()
        apply_rng()
    permuted = tuple(name for name, match in matches.items() if match.permuted)
    return Restored(missing=missing, unexpected=unexpected, permuted=permuted, drift=tuple(drift))


def _match(name: str, saved: Mapping[str, Any], checkpoint: Mapping[str, Any], objects: Objects) -> Match:
    """Match the saved state of the object called `name` to it, as far as anybody but the object itself can."""
    item: Any = objects[name]
    if isinstance(item, nn.Module):
        return match_module(item, saved)
    why = ""
    if isinstance(item, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)):
        kinds = checkpoint.get("metadata", {}).get("objects", {})
        problem, why = match_class(item, kinds.get(name), saved)
        if problem:
            return Match(problems=[problem])
    if isinstance(item, torch.optim.Optimizer):
        described = checkpoint.get("optimizer_parameters", {}).get(name)
        match = match_optimizer(name, item, saved, described, objects)
    else:
        # A ResumableLoader, or what else knows more than its state, has such a method.
        drift = item.drift_from(saved) if hasattr(type(item), "drift_from") else ()
        match = Match(fill=partial(_load_into, item, dict(saved)), drift=drift, sure=False)
    return replace(match, drift=[why, *match.drift]) if why else match


def state_of(item: Any) -> dict[str, Any]:
    """Return an object's state as a checkpoint holds it: of a module without its wrappers."""
    state = _own_state(item)
    if isinstance(item, nn.Module) and any(name != plain_name(name) for name in state):
        plain = OrderedDict((plain_name(name), value) for name, value in state.items())
        if hasattr(state, "_metadata"):
            plain._metadata = plain_versions(state._metadata)  # type: ignore[attr-defined]
        return plain
    return state


def lies_in_parts(item: Any) -> bool:
    """Say whether each rank has a part of this optimizer's state: a ZeroRedundancyOptimizer."""
    return isinstance(item, torch.optim.Optimizer) and hasattr(item, "consolidate_state_dict")


def _own_state(item: Any) -> dict[str, Any]:
    return {"generator_state": item.get_state()} if isinstance(item, torch.Generator) else unwrap(item).state_dict()


def _load_into(item: Any, state: dict[str, Any]) -> None:
    if isinstance(item, torch.Generator):
        item.set_state(state["generator_state"])
    else:
        unwrap(item).load_state_dict(state)


def _fill_or_put_back(matches: Mapping[str, Match], objects: Objects) -> None:
    before: dict[str, dict[str, Any]] = {}
    for name in matches:
        with suppress(Exception):  # it has no state yet: a ZeroRedundancyOptimizer whose parts were never put together
            before[name] = copying.deepcopy(_own_state(objects[name]))
    begun: list[str] = []
    for name in sorted(matches, key=lambda name: name not in before):  # which nobody can put back comes last
        try:
            begun.append(name)
            matches[name].fill()
        except BaseException as error:  # whatever an object of the caller's raises
            for filled in begun:  # the one that did not end comes last
                with suppress(Exception):  # the one that refused may refuse this as well
                    _load_into(objects[filled], before[filled])
            if not isinstance(error, Exception):
                raise
            raise MismatchError(f"{name}: refused its state: {type(error).__name__}: {error}") from error


def plain_config(config: Any) -> dict[str, Any]:
    """Return a config as plain containers: a mapping, a dataclass, an argparse.Namespace or a DictConfig of OmegaConf.

    Raises:
        UnsavableStateError: the path of the first value that is no number, text or container of them.

    >>> from argparse import Namespace
    >>> plain_config(Namespace(lr=0.1))
    {'lr': 0.1}
    """
    omegaconf = sys.modules.get("omegaconf")
    plain: Any = config
    if config is None:
        plain = {}
    elif omegaconf is not None and omegaconf.OmegaConf.is_config(config):
        try:
            plain = omegaconf.OmegaConf.to_container(config, resolve=True)
        except Exception as error:  # an interpolation that leads nowhere
            raise UnsavableStateError(f"config: {str(error).splitlines()[0]}; nothing was saved") from None
    elif _is_instance(config):
        plain = {field.name: getattr(config, field.name) for field in fields(config)}
    elif isinstance(config, Mapping):
        plain = dict(config)
    elif hasattr(config, "__dict__") and not isinstance(config, type):
        plain = vars(config)
    if not isinstance(plain, dict):
        raise UnsavableStateError(
            f"config: expected a mapping, a dataclass or a Namespace, found {type(config).__name__}; nothing was saved"
        )
    plain = {key: asdict(each) if _is_instance(each) else each for key, each in plain.items()}
    check_plain(plain, "config")
    return copying.deepcopy(plain)


def _is_instance(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)
