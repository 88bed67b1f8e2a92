"""Is there room? The size of one save times what retention will hold, against what is free, before training.

Both numbers are lower bounds, so a run that would fit is not refused, if it trains what it says: all its epochs, and
every parameter that wants a gradient. One that passes can still fill its disk later; that loses nothing that was saved.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .records import CheckpointSettings, CheckpointWriteError
from .storage import list_checkpoints
from .text import count

_TWO_VALUES = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)


def contents_held(settings: CheckpointSettings, first: int, total: int) -> int:
    """Return how many different contents the epochs from `first` to `total` - 1 put on the disk at once, at the least.

    These are the due epochs and the final one, as far as they are kept, and the one that is being written, which is
    there before anything is removed. The best ones and the last may be names of these same contents, so they are not
    counted; nor is what is saved inside an epoch.

    >>> contents_held(CheckpointSettings(save_freq=5, milestones=(0,), keep_last_n=2), 0, 100)
    4
    """
    if first >= total:
        return 0
    # Those before the final one, by arithmetic: a total may be a huge number that nobody means to reach.
    every = (
        range(0)
        if settings.save_best_only
        else range(-(-first // settings.save_freq) * settings.save_freq, total - 1, settings.save_freq)
    )
    milestones = {m for m in settings.milestones if first <= m < total - 1 and settings.is_due(m)}
    others = {m for m in milestones if m not in every}
    if settings.keep_last_n is None:
        return len(every) + len(others) + 1
    newest = sorted({*every[-settings.keep_last_n :], *others})[-settings.keep_last_n :]
    return len({*newest, *milestones}) + 1


def size_of_state(objects: Mapping[str, object]) -> int:
    """Return how many bytes of tensors a save of `objects` holds, at the least; no tensor is copied.

    Only what torch itself says how it is saved is counted: modules, and torch's own optimizers, for which a state that
    the first step will make is foreseen. To ask other objects may cost much, or move a random state.

    >>> size_of_state({"model": nn.Linear(10, 10, bias=False)})
    400
    """
    sizes: dict[int, int] = {}  # by storage: tensors that share one are saved once
    foreseen = 0
    for item in objects.values():
        if isinstance(item, nn.Module):
            _count(sizes, _tensors(item))
        elif isinstance(item, torch.optim.Optimizer) and type(item).__module__.startswith("torch.optim."):
            _count(sizes, (value for state in item.state.values() for value in state.values()))
            foreseen += 0 if item.state else _foreseen(item)
    return sum(sizes.values()) + foreseen


def check_room(directory: Path, contents: int, size: int) -> None:
    """Refuse a run that needs room for `contents` checkpoints of `size` bytes where there is less.

    What lies in `directory` already counts as paid, all of it, though retention may keep some.

    Raises:
        CheckpointWriteError: with ENOSPC.
    """
    try:
        disk = os.statvfs(directory)
    except OSError:
        return  # nobody knows
    free = disk.f_bavail * disk.f_frsize
    there = sum({file.inode: file.size for file in list_checkpoints(directory)}.values())
    # The first save is written beside what is there.
    needed = max(contents * size - there, min(contents, 1) * size)
    if disk.f_blocks and free < needed:  # some file systems count no blocks
        refusal = CheckpointWriteError(
            f"{directory}: expected room for {count(contents, 'checkpoint')} of about {size:,} bytes, found {free:,} "
            "bytes free; free some, or lower keep_last_n"
        )
        refusal.errno = errno.ENOSPC
        raise refusal


def _tensors(module: nn.Module) -> Iterable[object]:
    """Return what the state dict of a module holds, without making one; nothing if it is not torch's own."""
    parts = list(module.modules())
    for part in parts:
        if "state_dict" in vars(part):  # replaced on this object alone
            return []
        own = (type(part).state_dict, type(part)._save_to_state_dict)
        if own != (nn.Module.state_dict, nn.Module._save_to_state_dict) or part._state_dict_hooks:
            return []
    tensors: list[object] = []
    for part in parts:
        tensors += part._parameters.values()
        tensors += [each for name, each in part._buffers.items() if name not in part._non_persistent_buffers_set]
    return tensors


def _count(sizes: dict[int, int], values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, torch.Tensor) and not is_lazy(value):
            with suppress(RuntimeError):  # sparse, or made of several: whoever saves it knows
                storage = value.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()


def _foreseen(optimizer: torch.optim.Optimizer) -> int:
    size = 0
    for group in optimizer.param_groups:
        values = 2 if type(optimizer) in _TWO_VALUES else int(bool(group.get("momentum")))
        trained = [each for each in group["params"] if each.requires_grad and not is_lazy(each)]
        size += values * sum(each.numel() * each.element_size() for each in trained)
    return size
