"""Where a run is while it runs: the next batch, the loader that counts, whether the epoch has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakMethod

import torch
from torch import nn

from .loading import ResumableLoader
from .records import Position, state_key
from .rng import capture_rng
from .state import state_of


class Progress:
    """Count batches and epochs; with `loaders` among the objects the count is theirs, without any it is one a call.

    `position` is that of the next batch; `ended` says that the epoch before it has ended and none has begun since.
    """

    def __init__(self, objects: Mapping[str, object]) -> None:
        self.loaders = {name: item for name, item in objects.items() if isinstance(item, ResumableLoader)}
        self._generators = {name: item for name, item in objects.items() if isinstance(item, torch.Generator)}
        self.position = Position()
        self.ended = False
        self._epoch_start = 0  # the global step at which the epoch under way began
        self._counted: ResumableLoader[Any] | None = None  # in this epoch
        self._usual: ResumableLoader[Any] | None = None  # in the epoch before
        self.at_end: dict[str, Any] | None = None  # parts of a checkpoint, once only validation is left
        ran_out = WeakMethod(self._ran_out)  # a cycle would keep persistent workers alive until it is collected
        for loader in self.loaders.values():
            loader.on_run_out = lambda: (method := ran_out()) and method()

    def go_on(self, position: Position) -> None:
        """Begin at a position that was saved."""
        self.position = position
        self.ended = position.batch == 0
        self._epoch_start = position.global_step - position.batch
        if position.batch and self.loaders:  # the furthest counts; of two, a shorter one may have begun again
            self._count_by(max(self.loaders.values(), key=lambda loader: (loader.batches, loader.length)))

    def count_batch(self) -> int:
        """Count what was read since the last call and return how many batches that were.

        Raises:
            RuntimeError: none, or the loader began again: a save here could not go on exactly.
        """
        self.ended = False
        before = self.position
        self._move_to(self._batches_read() if self.loaders else before.batch + 1)
        return self.position.global_step - before.global_step

    def end_epoch(self, epoch: int | None = None, global_step: int | None = None) -> int:
        """End the epoch and return its number; both numbers are for a loop that counts for itself."""
        if self.position.batch == 0 and self.loaders:
            read = [self._usual] if self._usual is not None else self.loaders.values()
            self._move_to(max(loader.batches for loader in read))  # a loop that does not call step
        ended = self.position.epoch if epoch is None else epoch
        self._epoch_start = self.position.global_step if global_step is None else global_step
        for loader in self.loaders.values():
            loader.end_epoch()
            loader.counts = False
        self.position = Position(epoch=ended + 1, batch=0, global_step=self._epoch_start)
        self.ended, self.at_end = True, None
        self._usual, self._counted = self._usual if self._counted is None else self._counted, None
        return ended

    def _ran_out(self) -> None:
        """Take what validation moves, as it is when the training batches ran out: a stop in it begins it anew."""
        self.at_end = {
            "rng_state": capture_rng(),
            **{state_key(name): state_of(item) for name, item in (self.loaders | self._generators).items()},
        }

    @property
    def no_batch_is_left(self) -> bool:
        """Whether the counted loader has handed out its last batch, as far as it knows: the epoch is about to end."""
        counted = self._counted
        return counted is not None and (counted.is_over or counted.batches >= counted.length)

    def _batches_read(self) -> int:
        if self._counted is None:  # of those that are being read the longest: shorter ones are cycled beside it
            self._count_by(
                max(self.loaders.values(), key=lambda loader: (loader.batches > 0, not loader.is_over, loader.length))
            )
        assert self._counted is not None
        batches = self._counted.batches
        if batches == self.position.batch:
            raise RuntimeError(
                "step: expected a new batch of the ResumableLoader since the last step, found none; iterate the "
                "ResumableLoader itself, one in each epoch, and call step once a batch, after the last optimizer's step"
            )
        if batches < self.position.batch:
            raise RuntimeError("step: the ResumableLoader began again inside the epoch; one pass over it is one epoch")
        return batches

    def _count_by(self, counted: ResumableLoader[Any]) -> None:
        self._counted = counted
        for loader in self.loaders.values():
            loader.counts = loader is counted

    def _move_to(self, batch: int) -> None:
        self.position = Position(epoch=self.position.epoch, batch=batch, global_step=self._epoch_start + batch)


def fingerprint(objects: Mapping[str, object]) -> list[Any]:
    """Return what every training moves: versions of tensors, counters, orders, random states.

    Two equal ones mean that nothing was trained in between. No tensor is copied, and an object that is not torch's is
    not asked: to take its state may cost much, or move a random state.
    """
    marks: list[Any] = [_marks(capture_rng())]
    for item in objects.values():
        if isinstance(item, nn.Module):
            marks.append([(id(tensor), _version(tensor)) for tensor in (*item.parameters(), *item.buffers())])
        elif isinstance(item, torch.optim.Optimizer):
            groups = [{key: value for key, value in group.items() if key != "params"} for group in item.param_groups]
            marks.append([_marks(groups), _marks(list(item.state.values()))])
        elif isinstance(item, torch.Generator):
            marks.append(_marks(item.get_state()))
        elif isinstance(item, (torch.optim.lr_scheduler.LRScheduler, ResumableLoader)):
            marks.append(_marks(item.state_dict()))
    return marks


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # one that cannot be trained has none


def _marks(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.device.type == "cpu" and value.dtype in (torch.uint8, torch.int64) and value.numel() < 1 << 16:
            return value.numpy().tobytes()  # a random state
        return value.item() if value.numel() == 1 else (value.data_ptr(), _version(value))
    if isinstance(value, Mapping):
        return [(key, _marks(item)) for key, item in value.items()]
    return [_marks(item) for item in value] if isinstance(value, list | tuple) else value
