"""The nouns that travel between the rooms: files, positions, the best value, settings, errors.

Nothing here knows torch or touches a disk, so every decision made of these records can be tested as a table.
"""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypedDict

PathLike = str | os.PathLike[str]

FORMAT_VERSION = 1
BEST_NAME = "best_model.pth"
LAST_NAME = "last_model.pth"
TRY_OLDER = "use an older checkpoint of the run"  # what to do about a damaged one

# What format version 1 has, beside a state per object.
FORMAT_TYPES: Mapping[str, type] = {
    "run": dict,
    "epoch": int,
    "global_step": int,
    "position": dict,
    "metrics": dict,
    "best": dict,
    "rng_state": dict,
    "config": dict,
    "metadata": dict,
    "optimizer_parameters": dict,
    "ranks": list,  # only of a training by several processes
}
OPTIONAL_KEYS = ("optimizer_parameters", "ranks")

Codec = Literal["gzip", "zstd", "shuffle-zstd"]
SUFFIXES: Mapping[Codec, str] = {"gzip": ".pth.gz", "zstd": ".pth.zst", "shuffle-zstd": ".shuffle.pth"}  # for ".pth"

_NUMBERED = re.compile(r"checkpoint_epoch_([0-9]{3,})\.pth")
_ONE_IS_TOO_FEW = "all names of the newest save share one copy of its bytes, so one more file is the only second copy"


class CheckpointError(Exception):
    """Anything that went wrong with a checkpoint; each kind is also the builtin error that it is."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint where one was asked for."""


class DamagedCheckpointError(CheckpointError, ValueError):
    """The bytes are not those that were written, or no checkpoint at all."""


class UnsupportedCheckpointError(CheckpointError, ValueError):
    """The file is whole, but this library cannot or must not read it."""


class NewerFormatError(UnsupportedCheckpointError):
    """A newer version of this library wrote the file."""


class MismatchError(CheckpointError, ValueError):
    """The state in the file does not fit the objects it should fill."""


class UnsavableStateError(CheckpointError, TypeError):
    """An object's state holds something that ``torch.load(weights_only=True)`` could not read back."""


class UsedDirectoryError(CheckpointError, FileExistsError):
    """A fresh start was asked for where another run's checkpoints lie."""


class DirectoryLockedError(CheckpointError, BlockingIOError):
    """Another process writes in the directory."""


class CheckpointWriteError(CheckpointError, OSError):
    """The disk refused; ``errno`` says why."""


class RankError(CheckpointError, RuntimeError):
    """Another of the processes that train together has failed, or is not at the same place."""


class ExportError(CheckpointError, ValueError):
    """The model, as it is, cannot leave PyTorch in that format."""


class MissingPackageError(CheckpointError, ImportError):
    """A package that only an export needs is not installed."""


def numbered_name(epoch: int) -> str:
    """Return the file name of a numbered checkpoint.

    >>> numbered_name(25), numbered_name(1200)
    ('checkpoint_epoch_025.pth', 'checkpoint_epoch_1200.pth')
    """
    return f"checkpoint_epoch_{epoch:03d}.pth"


def split_codec(name: str) -> tuple[str, Codec | None]:
    """Return the name of the plain file, and by which codec `name` says to be compressed; None for a plain one.

    >>> split_codec("checkpoint_epoch_025.shuffle.pth"), split_codec("last_model.pth")
    (('checkpoint_epoch_025.pth', 'shuffle-zstd'), ('last_model.pth', None))
    """
    for codec, suffix in SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix) + ".pth", codec
    return name, None


def numbered_epoch(name: str) -> int | None:
    """Return the epoch in a numbered checkpoint's name; None for a name that this library would not write.

    >>> numbered_epoch("checkpoint_epoch_025.pth"), numbered_epoch("checkpoint_epoch_0025.pth"), numbered_epoch("x.pth")
    (25, None, None)
    >>> numbered_epoch("checkpoint_epoch_025.pth.gz")
    25
    """
    name = split_codec(name)[0]
    match = _NUMBERED.fullmatch(name)
    # A name must be exactly what we would write, so that one epoch never has two.
    return int(match[1]) if match and name == numbered_name(int(match[1])) else None


def is_for_inference(content: object) -> bool:
    """Say whether a checkpoint's content says of itself that what a training needs was left out of it."""
    metadata = content.get("metadata") if isinstance(content, Mapping) else None
    return isinstance(metadata, Mapping) and metadata.get("for_inference") is True


def state_key(name: str) -> str:
    """Return the checkpoint key under which the state of the object called `name` is stored.

    >>> state_key("optimizer")
    'optimizer_state_dict'
    """
    return f"{name}_state_dict"


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the NEXT batch is: after epoch 25 has ended, ``Position(epoch=26, batch=0, …)``.

    `global_step` counts the batches seen so far over all epochs.

    >>> print(Position(epoch=3, batch=7, global_step=127))
    epoch 3, batch 7 (global step 127)
    """

    epoch: int = 0
    batch: int = 0
    global_step: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 0:
                raise ValueError(f"Position.{field.name}: expected a whole number from 0, found {value!r}")

    def __str__(self) -> str:
        return f"epoch {self.epoch}, batch {self.batch} (global step {self.global_step})"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best finite value of `monitor` so far; `value` and `epoch` are None until there is one.

    The only place that compares: NaN, infinity and a missing metric never win, a tie keeps the earlier epoch.

    >>> best = Best(monitor="loss", mode="min", value=0.5, epoch=2)
    >>> print(best.improved_by({"loss": 0.4}, epoch=3))
    best loss 0.4 at epoch 3
    >>> print(best.improved_by({"loss": float("nan")}, epoch=3))
    None
    """

    monitor: str = "loss"
    mode: str = "min"
    value: float | None = None
    epoch: int | None = None

    def improved_by(self, metrics: Mapping[str, float], epoch: int) -> Best | None:
        """Return the new best if `metrics` holds a better value, else None."""
        value = metrics.get(self.monitor)
        if value is None or not math.isfinite(value):
            return None
        if self.value is not None and not (value < self.value if self.mode == "min" else value > self.value):
            return None
        return Best(monitor=self.monitor, mode=self.mode, value=float(value), epoch=epoch)

    def __str__(self) -> str:
        if self.value is None:
            return f"no best {self.monitor} yet"
        return f"best {self.monitor} {self.value:.6g} at epoch {self.epoch}"


Kind = Literal["numbered", "best", "last", "other"]
_NAMED: Mapping[str, Kind] = {BEST_NAME: "best", LAST_NAME: "last"}


def kind_of(name: str) -> Kind:
    """Return what a file name says; "other" for a name that this library would not write.

    >>> kind_of("last_model.pth"), kind_of("checkpoint_epoch_005.pth"), kind_of("checkpoint_epoch_1e3.pth")
    ('last', 'numbered', 'other')
    """
    if name in _NAMED:
        return _NAMED[name]
    return "other" if numbered_epoch(name) is None else "numbered"


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """What a directory listing knows of one checkpoint, read from its header without torch.

    `line` names the line of runs it belongs to (None for the recipe's format), `saves` how many saves were made
    before and with it, `position` is that of the next batch; `codec` by which it is compressed, None for a plain file;
    `size` in bytes; names with one `inode` share their bytes.

    >>> rest = {"kind": "other", "codec": None, "line": None, "saves": 0, "metrics": {}, "inode": 0}
    >>> print(CheckpointFile(path=Path("run/best.pth"), epoch=3, position=Position(epoch=4), size=4096, **rest))
    best.pth: epoch 3, 4,096 bytes
    """

    path: Path
    epoch: int
    position: Position
    kind: Kind
    codec: Codec | None
    line: str | None
    saves: int
    metrics: Mapping[str, float]
    size: int
    inode: int

    def __str__(self) -> str:
        inside = "" if self.position.batch == 0 else f", inside at batch {self.position.batch}"
        return f"{self.path.name}: epoch {self.epoch}{inside}, {self.size:,} bytes"


class SettingsOverrides(TypedDict, total=False):
    """The fields of `CheckpointSettings` as keyword arguments."""

    save_freq: int
    milestones: tuple[int, ...]
    save_best_only: bool
    keep_last_n: int | None
    keep_best_n: int
    monitor: str
    mode: str
    every_n_steps: int | None
    every_minutes: float | None
    background: bool


def _whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When to save and what to keep. A value out of range is a ValueError that names the field.

    `save_freq` and `milestones` count epochs from 0; `keep_last_n` and `keep_best_n` count numbered files
    (`keep_last_n=None` keeps all); `every_n_steps` counts batches, `every_minutes` minutes, both inside an epoch.
    `background`: a save copies the state and returns; a thread writes it.

    >>> CheckpointSettings(save_freq=2).is_due(4)
    True
    >>> CheckpointSettings(keep_last_n=1)
    Traceback (most recent call last):
        ...
    ValueError: keep_last_n: expected 2 or more, or null to keep all, found 1; all names of the newest save share one \
copy of its bytes, so one more file is the only second copy
    """

    save_freq: int = 5
    milestones: tuple[int, ...] = (10, 25, 50, 100, 200)
    save_best_only: bool = False
    keep_last_n: int | None = 10
    keep_best_n: int = 1
    monitor: str = "loss"
    mode: str = "min"
    every_n_steps: int | None = None
    every_minutes: float | None = None
    background: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.milestones, list):  # as YAML and checkpoints hold them
            object.__setattr__(self, "milestones", tuple(self.milestones))
        for name, expected, holds in self._rules():
            if not holds:
                why = f"; {_ONE_IS_TOO_FEW}" if name == "keep_last_n" and self.keep_last_n == 1 else ""
                raise ValueError(f"{name}: expected {expected}, found {getattr(self, name)!r}{why}")

    def _rules(self) -> Iterator[tuple[str, str, bool]]:
        minutes = self.every_minutes
        yield "save_freq", "a whole number of epochs from 1", _whole(self.save_freq, 1)
        milestones_hold = isinstance(self.milestones, tuple) and all(_whole(m, 0) for m in self.milestones)
        yield "milestones", "whole epoch numbers from 0", milestones_hold
        yield "save_best_only", "true or false", isinstance(self.save_best_only, bool)
        yield "keep_last_n", "2 or more, or null to keep all", self.keep_last_n is None or _whole(self.keep_last_n, 2)
        yield "keep_best_n", "a whole number from 0", _whole(self.keep_best_n, 0)
        yield "monitor", "the name of a metric", isinstance(self.monitor, str) and self.monitor.strip() != ""
        yield "mode", "'min' or 'max'", self.mode in ("min", "max")
        steps_hold = self.every_n_steps is None or _whole(self.every_n_steps, 1)
        yield "every_n_steps", "a whole number of batches from 1, or null", steps_hold
        is_time = isinstance(minutes, numbers.Real) and not isinstance(minutes, bool)
        minutes_hold = minutes is None or (is_time and math.isfinite(minutes) and minutes > 0)
        yield "every_minutes", "a time above 0, or null", minutes_hold
        yield "background", "true or false", isinstance(self.background, bool)

    def is_due(self, epoch: int) -> bool:
        """Say whether the end of `epoch` is a time to save, whatever the metrics are."""
        return not self.save_best_only and (epoch % self.save_freq == 0 or epoch in self.milestones)

    def next_due(self, epoch: int) -> int | None:
        """Return the first due epoch after `epoch`; None when only a new best is saved."""
        if self.save_best_only:
            return None
        return min([(epoch // self.save_freq + 1) * self.save_freq, *(m for m in self.milestones if m > epoch)])


class StopTraining(SystemExit):
    """Leave the training loop after a durable save; a process that lets it through exits with code 3.

    >>> stop = StopTraining("stopped by SIGTERM: saved at epoch 3, batch 7 (global step 127)")
    >>> print(stop.code, stop)
    3 stopped by SIGTERM: saved at epoch 3, batch 7 (global step 127)
    """

    def __init__(self, message: str) -> None:
        super().__init__(3)
        self.message = message

    def __str__(self) -> str:
        return self.message


class RankLost(SystemExit):
    """Leave because another of the processes that train together has ended; the exit code is 1, the text says it."""


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return `metrics` as plain floats; a TypeError names the one that is no number.

    >>> plain_metrics({"loss": 1})
    {'loss': 1.0}
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics: expected numbers by name, as {{'loss': 0.5}}, found {type(metrics).__name__}")
    plain = {}
    for name, value in metrics.items():
        try:
            if isinstance(value, str):  # float would read it, but a metric that is text is a mistake
                raise TypeError
            plain[str(name)] = float(value.detach() if hasattr(value, "detach") else value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise TypeError(f"metrics[{name!r}]: expected one number, found {type(value).__name__}") from None
    return plain
