"""What was asked for at a resume against what the file says, and which of the two is used.

An optimizer built with ``lr=0.001`` is given the file's 0.1 with its state, and nothing is said. So the settings of
every object are taken before it is filled and once more after: what is not the same is what the file has overruled.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import starmap, takewhile
from typing import Any, Literal

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .text import cut, pad, printable, width

_COLUMNS, _LEAST = 100, 16  # of a table; of a value in it
_USED = {"file": "the file's, with the state", "asked": "what was asked for"}
# Where a scheduler is, not how it is set; or what follows from another setting.
_NO_SETTINGS = {"last_epoch", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i"}
_NO_SETTINGS |= {"mode_worse", "default_min_lr"}
_PRIVATE = ("_milestones", "_schedule_phases")  # settings under private names
_NOT_ASKED = ("params", "param_names", "initial_lr")  # of a group
_MOVED = ""  # the owner of settings that a scheduler moves: they make no row
_OF_SCALERS = ("growth_factor", "backoff_factor", "growth_interval")
_ALSO_CALLED = {"learning_rate": "lr"}  # in a config


class Absent(Enum):
    """Stands for the value of a setting on the side that has no such setting."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return self.value


ABSENT = Absent.ABSENT


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that is not as it was: ``optimizer.lr``, ``scheduler.T_max``, ``training.epochs`` of the config.

    A setting that one side does not have is `ABSENT` there; `wins` says which of the two is used.
    """

    name: str
    in_file: object
    asked: object
    wins: Literal["file", "asked"]

    def __str__(self) -> str:
        used = _USED[self.wins]
        return printable(f"{self.name}: {self.in_file!r} in the file, {self.asked!r} asked for; used: {used}")


Settings = dict[tuple[str, str], list[Any]]


def settings_of(objects: Mapping[str, object]) -> Settings:
    """Return what optimizers, schedulers and scalers are set to: by object and setting a value for each group.

    >>> import torch
    >>> settings_of({"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)})["optimizer", "lr"]
    [0.1]
    """
    settings: Settings = {}
    for name, item in objects.items():
        if isinstance(item, Optimizer):
            moved = _moved_by_schedulers(item, objects)
            keys = dict.fromkeys(key for group in item.param_groups for key in group if key not in _NOT_ASKED)
            for key in keys:
                # A scheduler moves lr and, but for one, keeps beside it what it was to begin with.
                first = "initial_lr" if key == "lr" else key
                values = [_plain(group.get(first, group.get(key, ABSENT))) for group in item.param_groups]
                settings.setdefault((_MOVED if key in moved else name, key), []).extend(values)
        elif isinstance(item, LRScheduler):
            settings |= _of_scheduler(name, item)
        elif isinstance(item, GradScaler):
            state = item.state_dict()
            settings |= {(name, key): [state[key]] for key in _OF_SCALERS if key in state}
    return settings


def _moved_by_schedulers(optimizer: Optimizer, objects: Mapping[str, object]) -> set[str]:
    """Return the settings whose value now says nothing of what was asked for."""
    moved: set[str] = set()
    for item in objects.values():
        if isinstance(item, LRScheduler) and getattr(item, "optimizer", None) is optimizer:
            moved |= {"momentum", "betas"} if getattr(item, "cycle_momentum", False) else set()
            if isinstance(item, ReduceLROnPlateau) and not any("initial_lr" in each for each in optimizer.param_groups):
                moved.add("lr")
    return moved


def _of_scheduler(name: str, scheduler: LRScheduler) -> Settings:
    state, kind = scheduler.state_dict(), type(scheduler)
    keys = {key for key in state if not key.startswith("_") or key in _PRIVATE} - _NO_SETTINGS
    if not kind.__module__.startswith("torch."):  # what else somebody's own class keeps may be a counter
        made_with = {name for parent in kind.__mro__ for name in _parameters(parent)}
        keys &= {*made_with, "base_lrs"}
    settings: Settings = {(name, key.lstrip("_")): [_plain(state[key])] for key in state if key in keys}
    for number, inner in enumerate(getattr(scheduler, "_schedulers", ())):  # of SequentialLR, ChainedScheduler
        settings |= _of_scheduler(f"{name}.{number}", inner)
    return settings


def _parameters(kind: type) -> Iterable[str]:
    return inspect.signature(vars(kind)["__init__"]).parameters if "__init__" in vars(kind) else ()


Stored = dict[str, dict[str, list[Any]]]


def as_stored(settings: Settings) -> Stored:
    """Return settings as a checkpoint holds them: by object, then by name; what is no plain value is left out."""
    stored: Stored = {}
    for (owner, key), values in settings.items():
        with suppress(TypeError, ValueError):
            json.dumps(values)
            stored.setdefault(owner, {})[key] = values
    return stored


def asked_anew(settings: Settings, stored: Mapping[str, Any] | None) -> Settings:
    """Return those of `settings` that are not what was asked for when the run began, as `stored` with it.

    A loop that sets its own learning rate has another one in the file than it asked for; that is no change.
    """
    then = stored or {}
    return {
        (owner, key): values
        for (owner, key), values in settings.items()
        if key not in then.get(owner, {}) or not _same(then[owner][key], values)
    }


def find_changes(
    before: Settings, after: Settings, asked: Mapping[str, Any] | None = None, stored: Mapping[str, Any] | None = None
) -> tuple[Change, ...]:
    """Return what is not as it was, given `settings_of` the objects before and after they were filled.

    `asked` is the config of now and `stored` that in the file; where either has none they are not compared. What was
    asked for is used, unless an object's setting of the same name and the same two values shows that the file's is.
    """
    rows: list[Change] = []
    overruled: list[tuple[str, Any, Any]] = []  # setting, in the file (ABSENT: nobody knows), asked
    for (owner, key), asked_values in sorted(before.items(), key=lambda item: item[0][1] == "base_lrs"):
        values = after.get((owner, key), [])
        pairs = list(zip(asked_values, values, strict=True)) if len(values) == len(asked_values) else []
        other = [number for number, pair in enumerate(pairs) if ABSENT not in pair and not _same(*map(_set, pair))]
        if owner == _MOVED:
            overruled += [(key, ABSENT, pairs[number][0]) for number in other]
            continue
        if not other or (key == "base_lrs" and _said(pairs[0], overruled)):
            continue
        overruled += [(key, *pairs[number][::-1]) for number in other]
        alike = len(other) == len(pairs) and all(_same(pairs[0], pair) for pair in pairs)
        for number in other[:1] if alike else other:
            name = f"{owner}.{key}" if alike else f"{owner}.{key} (group {number})"
            rows.append(Change(name=name, in_file=pairs[number][1], asked=pairs[number][0], wins="file"))
    names = {row.name for row in rows}  # a config may call its lr as we call the optimizer's
    of_config = _of_configs(asked, stored, overruled)
    return *rows, *(row for row in of_config if row.wins == "asked" or row.name not in names)


def _set(value: Any) -> Any:
    return False if value is None else value  # an option that an older torch did not know yet


def _said(pair: tuple[Any, Any], overruled: list[tuple[str, Any, Any]]) -> bool:
    """Whether the rows of the optimizers say already in what a scheduler's base_lrs differ."""
    rates = [("lr", *each) for each in zip(pair[1], pair[0], strict=False) if not _same(*each)]
    return len(pair[0]) == len(pair[1]) and all(any(_same(rate, each) for each in overruled) for rate in rates)


def _of_configs(
    asked: Mapping[str, Any] | None, stored: Mapping[str, Any] | None, overruled: list[tuple[str, Any, Any]]
) -> Iterator[Change]:
    if not asked or not isinstance(stored, Mapping) or not stored:
        return
    here, there = dict(_flat(asked)), dict(_flat(stored))
    for name in sorted(here | there):
        pair = there.get(name, ABSENT), here.get(name, ABSENT)
        if _same(*pair):
            continue
        leaf = name.rpartition(".")[2]
        key = _ALSO_CALLED.get(leaf, leaf)
        lost = ABSENT not in pair and any(
            _same((key, *pair), (of, pair[0] if was is ABSENT else was, is_)) for of, was, is_ in overruled
        )
        yield Change(name=name, in_file=pair[0], asked=pair[1], wins="file" if lost else "asked")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def config_in_use(config: Mapping[str, Any], changed: Sequence[Change]) -> dict[str, Any]:
    """Return the config as it is used: with the file's value wherever the file's is.

    >>> row = Change(name="training.lr", in_file=0.1, asked=0.001, wins="file")
    >>> config_in_use({"training": {"lr": 0.001, "epochs": 3}}, [row])
    {'training': {'lr': 0.1, 'epochs': 3}}
    """

    def used(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            name: used(value, f"{prefix}{name}.") if isinstance(value, Mapping) else win(f"{prefix}{name}", value)
            for name, value in settings.items()
        }

    def win(name: str, value: Any) -> Any:
        rows = [row for row in changed if (row.name, row.wins) == (name, "file") and _same(row.asked, value)]
        return rows[0].in_file if rows else value

    return used(config, "")


def _plain(value: Any) -> Any:
    """Return a copy in which tensors are numbers: what is compared later must not move meanwhile."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Counter):  # the milestones of MultiStepLR
        return sorted(value.elements())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):  # a file or a config has one for the other
        return len(a) == len(b) and all(starmap(_same, zip(a, b, strict=True)))
    return bool(a == b or (a != a and b != b))


def table(changed: Sequence[Change]) -> list[str]:
    """Return lines that show each change: the setting, both values, and which is used; none without a change."""
    if not changed:
        return []
    names = [cut(printable(row.name), 36) for row in changed]
    used = [_USED[row.wins] for row in changed]
    room = max((_COLUMNS - max(map(width, names)) - max(map(width, used)) - 6) // 2, _LEAST)
    values = [_shown(repr(row.in_file), repr(row.asked), room) for row in changed]
    rows = [(name, *pair, use) for name, pair, use in zip(names, values, used, strict=True)]
    rows.insert(0, ("setting", "in the file", "asked for", "used"))
    columns = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(pad, row, columns)).rstrip() for row in rows]


def _shown(a: str, b: str, room: int) -> tuple[str, str]:
    """Cut two values to `room` columns; where they begin alike, from where they differ on."""
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    if max(width(a), width(b)) > room and alike > room // 2:
        a, b = (f"…{text[alike - 4 :]}" for text in (a, b))
    return cut(printable(a), room), cut(printable(b), room)
