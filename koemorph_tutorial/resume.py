"""Newest sound file -> restored objects -> where to go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .drift import Change, asked_anew, find_changes, settings_of, table
from .records import (
    FORMAT_TYPES,
    TRY_OLDER,
    Best,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    MismatchError,
    NewerFormatError,
    PathLike,
    Position,
    UnsupportedCheckpointError,
    is_for_inference,
    split_codec,
)
from .state import Objects, Restored, plain_config, restore
from .storage import Listing, describe, list_checkpoints, load_checkpoint
from .text import count, listed, printable
from .weights import find_states

logger = logging.getLogger(__name__)

_UNUSABLE = (CheckpointNotFoundError, DamagedCheckpointError, UnsupportedCheckpointError)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sound checkpoint file, its content, the newer files passed over and why, and what lies beside it."""

    file: CheckpointFile
    checkpoint: dict[str, Any]
    passed_over: tuple[tuple[str, CheckpointError], ...] = ()
    listing: Listing = Listing()


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What was resumed from, and where to go on. A fresh start has no `file`.

    `passed_over` pairs a newer file with the reason; `missing`, `unexpected`, `permuted` and `drift` are those of
    `Restored`; `changed` is what was asked for otherwise than the file says, and which of the two is used; `notes` are
    further things done or found, one sentence each.
    """

    file: CheckpointFile | None = None
    position: Position = Position()
    best: Best = Best()
    passed_over: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    permuted: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    changed: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return everything that a person should read, the good news first."""
        lines = [f"passed over {name}: {why}" for name, why in self.passed_over]
        other = " or ".join(self.unexpected)
        cure = f"was it called {other}?" if other else "set it by hand if it should not"
        lines += [
            f"{name}: not in the file, left as it is, so it begins from its start; {cure}" for name in self.missing
        ]
        lines += [
            f"{name}: in the file, but nothing was handed over to take it: the run goes on without, and the next save "
            "drops it; hand it over by this name to keep it"
            for name in self.unexpected
        ]
        lines += [
            f"{name}: its parameters stand in another order; each got its own state by name" for name in self.permuted
        ]
        lines += [f"not bitwise from here: {why}" for why in self.drift]
        return [str(self), *lines, *table(self.changed), *self.notes]

    def __str__(self) -> str:
        if self.file is None:
            return "a fresh start: no checkpoint yet"
        return f"resumed from {self.file.path.name}: goes on at {self.position}; {self.best}"


def resume_training(
    source: PathLike, objects: Objects, *, config: Mapping[str, Any] | None = None, strict: bool = False
) -> Resumed:
    """Fill `objects` from a checkpoint: a file, or the newest sound one of a directory.

    Everything is checked before anything is filled. What the objects, and `config`, say otherwise than the file is in
    `Resumed.changed`. Under `strict`, an error and not a line says why the run would not go on bitwise the same
    (another torch, another count of threads, …).

    Raises:
        CheckpointNotFoundError: nothing there, or files but none sound.
        DamagedCheckpointError, UnsupportedCheckpointError: of a file asked for by name.
        MismatchError: the checkpoint of other objects.

    >>> import tempfile
    >>> from koemorph_tutorial.state import build
    >>> from koemorph_tutorial.storage import save_checkpoint
    >>> model, end = torch.nn.Linear(2, 1), Position(epoch=4, global_step=40)
    >>> checkpoint = build({"model": model}, epoch=3, position=end, metrics={}, best=Best(), run={})
    >>> file = save_checkpoint(checkpoint, Path(tempfile.mkdtemp()) / "last_model.pth")
    >>> print(resume_training(file.path.parent, {"model": torch.nn.Linear(2, 1)}))
    resumed from last_model.pth: goes on at epoch 4, batch 0 (global step 40); no best loss yet
    """
    return bring_back(find(source), objects, config=config, strict=strict)


def find(source: PathLike) -> Found:
    """Load the checkpoint file `source`, or of a directory its newest sound one; damaged newer ones are passed over.

    Raises:
        CheckpointError: as `resume_training`; also a file in the directory that a newer version of this library wrote.
    """
    source = Path(source)
    if not source.is_dir():
        return Found(file=describe(source), checkpoint=load_checkpoint(source))
    listing = list_checkpoints(source)
    unusable: list[tuple[str, CheckpointError]] = []
    for name, error in listing.ignored:
        if isinstance(error, NewerFormatError):  # going on from an older file would write over what it saved
            raise error
        if isinstance(error, _UNUSABLE):
            unusable.append((name, error))
    seen: dict[int, CheckpointError] = {}  # by inode: one look at the bytes serves all their names
    # Behind a file stands what else there is of its epoch, which nobody looks at while that one is sound.
    spare: dict[str, list[CheckpointFile]] = {}
    for other in listing.spare:
        spare.setdefault(split_codec(other.path.name)[0], []).append(other)
    for file in (each for first in listing for each in (first, *spare.get(split_codec(first.path.name)[0], ()))):
        if file.inode not in seen:
            try:
                checkpoint = load_checkpoint(file.path)
            except CheckpointError as error:
                unusable.append((file.path.name, error))
                seen[file.inode] = type(error)(f"it has the same bytes as {file.path.name}")
            else:
                return Found(file=file, checkpoint=checkpoint, passed_over=tuple(unusable), listing=listing)
        else:
            unusable.append((file.path.name, seen[file.inode]))
    unusable = unusable or list(listing.ignored)
    if not unusable:
        raise CheckpointNotFoundError(f"{source}: expected checkpoints, found none; check the path")
    raise CheckpointNotFoundError(
        f"{source}: expected a sound checkpoint, found {count(len(unusable), 'file')} and none that can be used "
        f"({unusable[0][1]}); move them away to start afresh"
    )


def bring_back(
    found: Found,
    objects: Objects,
    *,
    config: Mapping[str, Any] | None = None,
    strict: bool = False,
    aloud: bool = True,
) -> Resumed:
    """Fill `objects` from what `find` found; `aloud`: what a person should know is logged.

    Raises:
        MismatchError: what does not fit, or, under `strict`, what drifted.
    """
    asked, checkpoint = plain_config(config), _ours(found.checkpoint)
    if is_for_inference(checkpoint):
        raise MismatchError(
            f"{found.file.path}: expected a checkpoint to go on from, found one made for inference, without optimizer "
            "and random states; use another file of the run, or load_weights for a fresh start with its weights"
        )
    best = _best_of(checkpoint)
    try:
        before = asked_anew(settings_of(objects), checkpoint.get("metadata", {}).get("settings"))
        restored: Restored = restore(checkpoint, objects, strict=strict)
    except CheckpointError as error:
        raise type(error)(f"{found.file.path}: {error}") from None
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise MismatchError(
            f"{found.file.path}: expected the states that were handed over, found others ({type(error).__name__}: "
            f"{printable(str(error))}); {TRY_OLDER}"
        ) from error
    resumed = Resumed(
        file=found.file,
        position=found.file.position,
        best=best,
        passed_over=tuple((name, str(error)) for name, error in found.passed_over),
        **vars(restored),
        changed=find_changes(before, settings_of(objects), asked, checkpoint.get("config")),
        notes=_notes(found.file, checkpoint, best),
    )
    logger.info("%s", resumed)
    for line in resumed.lines()[1:] if aloud else ():  # what a person should know is seen without any set-up of logging
        logger.warning(line)
    return resumed


def _best_of(checkpoint: dict[str, Any]) -> Best:
    best = checkpoint.get("best")
    return Best(**{name: best.get(name) for name in ("monitor", "mode", "value", "epoch")}) if best else Best()


def _ours(checkpoint: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a resume looks at: of somebody else's format, a value that is no such thing has only its name."""
    return {
        key: value
        for key, value in checkpoint.items()
        if isinstance(key, str) and isinstance(value, FORMAT_TYPES.get(key, object))
    }


def _notes(file: CheckpointFile, checkpoint: Mapping[str, Any], best: Best) -> tuple[str, ...]:
    notes = []
    if "format_version" not in checkpoint:
        notes.append(
            "written in the recipe's format (version 0): it holds no random states, no record of a best and no place "
            "inside an epoch; its epoch is taken as ended"
        )
    value = file.metrics.get(best.monitor, 0.0)
    if value != value or value in (float("inf"), float("-inf")):
        notes.append(f"{best.monitor} was {value} when this file was saved: it is sound, but the run had diverged")
    nan = [
        f"{weights.where}.{name}"
        for weights in find_states(checkpoint)
        for name, tensor in weights.tensors.items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and bool(tensor.isnan().any())
    ]
    if nan:
        notes.append(f"{listed('with NaN in it', nan)}: the run had diverged; go back to an older file to go on")
    return tuple(notes)
