"""A DataLoader that goes on at batch k, with the same batches in the same order as if it had never stopped."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from .skipping import Skipping, draw, drawn_apart, read_up_to
from .workers import TicketDataset, WorkerStart, outlive_stops, starting

T = TypeVar("T")


class ResumableLoader(Generic[T]):
    """Wrap a DataLoader so that its place in the epoch is a state: iterate it, save it, restore it.

    The order of the samples gets a generator of its own, seeded by one draw from the sampler's or the loader's, or from
    torch's global one where they have none: nothing else moves it. The state is that generator's at the START of the
    epoch and the count of batches done; going on draws the same order again and skips without loading. An
    IterableDataset, which has no order to skip in, is read up to the batch, and the log says how long that took. What
    draws from the global generators, as a sampler of yours or an IterableDataset may, gets others in their place while
    it draws; a sampler with random numbers of another kind inside cannot be followed. One iteration belongs to one
    epoch.

    What a dataset draws inside a worker process belongs to its epoch and its batch, whichever worker fetches it. Such a
    worker outlives stop signals, since the main process needs it until it has saved; it ends with that process.

    >>> loader = ResumableLoader(DataLoader(range(6), batch_size=2, shuffle=True))
    >>> batches = iter(loader)
    >>> first, state = next(batches), loader.state_dict()
    >>> rest = list(batches)
    >>> loader.load_state_dict(state)
    >>> [bool((a == b).all()) for a, b in zip(loader, rest)]
    [True, True]
    """

    _original: DataLoader[T]

    def __init__(self, loader: DataLoader[T] | ResumableLoader[T]) -> None:
        # A notebook's cell that was run twice wraps the wrapper.
        original: DataLoader[T] = loader._original if isinstance(loader, ResumableLoader) else loader
        if not isinstance(original, DataLoader):
            raise TypeError(f"ResumableLoader: expected a DataLoader, found {type(original).__name__}")
        self._original, loader = original, original
        self._order = Skipping(loader)
        self._generator = self._order.generator
        self._seeds = torch.Generator()  # the workers' seeds are drawn from a copy: they must not move the order
        self._iterable = isinstance(loader.dataset, IterableDataset)
        # A DataLoader refuses another sampler once it is made, so a copy of it gets one.
        self._loader: DataLoader[T] = copy.copy(loader)
        self._loader.generator = self._seeds
        self._loader._iterator = None  # persistent workers of the original know nothing of the order below
        if self._iterable:
            vars(self._loader)["persistent_workers"] = False  # they would go on from where the last epoch left a stream
        else:
            vars(self._loader)["batch_sampler" if loader.batch_sampler is not None else "sampler"] = self._order
        if loader.num_workers:
            self._loader.in_order = True  # a count of batches says nothing where they come in any order
            self._loader.worker_init_fn = WorkerStart(loader.worker_init_fn)
            if not self._iterable:
                vars(self._loader)["dataset"] = TicketDataset(loader.dataset)
                self._order.by_ticket = True
        self._batches = 0
        self._start: torch.Tensor | None = None  # the generator's state when the epoch that is under way began
        self._resumed = False
        self._running: object = None  # the iteration that belongs to this epoch
        self._over = False  # it was left or ran out
        self.counts: bool | None = None  # set by who counts the batches of a run: is it this loader's that count?
        self.on_run_out: Callable[[], None] | None = None  # called when the batches of a counted epoch ran out
        self._on_batch: Callable[[T], None] | None = None
        self._after: torch.Tensor | None = None  # of a resumed epoch: the generator once its order was drawn

    def __getattr__(self, name: str) -> Any:
        """Answer for what a DataLoader has: `dataset`, `batch_size`, `sampler`, …."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._original, name)

    @property
    def batches(self) -> int:
        """The batches of this epoch handed out so far, those before a resume included."""
        return self._batches

    @property
    def is_over(self) -> bool:
        """Whether the iteration of this epoch was left or ran out."""
        return self._over

    @property
    def length(self) -> float:
        """The batches of a whole epoch; infinite where nobody knows."""
        known = self._length()
        return math.inf if known is None else known

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[T]:
        skip = self._batches if self._resumed else 0
        if self._start is None or not self._resumed:
            self._start = self._generator.get_state()
        self._batches, self._resumed, self._over, self._after = skip, False, False, None
        self._seeds.set_state(self._start)
        seed = draw(self._seeds)
        if not self._order.draws:  # no sampler moves it, so every epoch would give its workers the same seeds
            draw(self._generator)
        batches: Iterator[T]
        if self._iterable:
            batches = read_up_to(skip, drawn_apart(_started(self._loader), seed))
        else:
            self._order.skip, self._order.seed = skip, seed
            batches = _started(self._loader)
        self._running = running = object()
        try:
            for batch in batches:
                if self._running is not running:
                    raise RuntimeError(
                        "ResumableLoader: this iteration ended with its epoch, or another one began since; its place "
                        "could not be saved, so call iter(loader) anew in each epoch"
                    )
                self._batches += 1
                if self._on_batch is not None:
                    self._on_batch(batch)
                yield batch
            if self._running is running and self.counts:
                if self.on_run_out is not None:  # the epoch is not over yet: whoever counts says when
                    self.on_run_out()
            elif self._running is running:
                self._start = None
        finally:
            if self._running is running:
                self._over = True

    def watch(self, on_batch: Callable[[T], None]) -> None:
        """Have `on_batch` called with each batch before it is handed out."""
        self._on_batch = on_batch
        vars(self._loader)["watched_above"] = True

    def end_epoch(self) -> None:
        """Say that the epoch has ended, though perhaps not all of its batches were asked for."""
        if self._resumed and self._after is not None:  # resumed after its last batch, and nobody asked for more
            self._generator.set_state(self._after)
        self._start, self._batches, self._after = None, 0, None
        self._running, self._resumed, self._over = None, False, False

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is: at the start of an epoch, or inside one with the batches done."""
        # A validation that was left early is over; a training epoch that was left is still to be ended.
        inside = self._start is not None and not (self._over and self.counts is False)
        return {
            "generator_state": self._start if inside else self._generator.get_state(),
            "batches": self._batches if inside else 0,
            "length": self._length(),
            "batch_size": self._batch_size(),
            "after": self._after if self._resumed and self._after is not None else self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken; the next iteration goes on there.

        Raises:
            ValueError: inside an epoch that had another number of batches, or batches of another size.
        """
        there, here = self._epochs(state_dict)
        if state_dict["batches"] and there != here:
            raise ValueError(
                f"stopped inside an epoch of {there}, here an epoch has {here}; use the same data and batch size, or "
                "go on from the end of an epoch"
            )
        self._generator.set_state(state_dict["generator_state"])
        self._batches = state_dict["batches"]
        self._resumed = self._batches > 0
        self._start = state_dict["generator_state"] if self._resumed else None
        self._after, self._over = state_dict.get("after"), False

    def drift_from(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Return a line if the epochs after `state_dict` will not be as they would have been; inside one it is refused.

        Any object may have such a method: a resume asks it before it fills the object.
        """
        there, here = self._epochs(state_dict)
        if there == here or state_dict.get("batches"):
            return []
        return [f"an epoch had {there}, here {here}; use the same data and batch size to go on exactly"]

    def _epochs(self, state_dict: Mapping[str, Any]) -> tuple[str, str]:
        """Return what an epoch was where `state_dict` was taken, and what it is here."""
        length, batch_size = self._length(), self._batch_size()
        there = _epoch(state_dict.get("length"), state_dict.get("batch_size", batch_size))
        return there, _epoch(length, batch_size)

    def _batch_size(self) -> int | None:
        """Return how many samples make a batch; None where a batch sampler of somebody's own decides."""
        loader = self._original
        size = loader.batch_size if loader.batch_sampler is None else getattr(loader.batch_sampler, "batch_size", None)
        return size if isinstance(size, int) else None

    def _length(self) -> int | None:
        try:
            return len(self._loader)
        except TypeError:  # an IterableDataset or a sampler that does not know
            return None


def _started(loader: DataLoader[T]) -> Iterator[T]:
    """Yield the batches of a DataLoader whose workers, started when the first one is asked for, outlive a stop."""
    with starting(loader):
        batches = iter(loader)
    outlive_stops(batches)
    yield from batches


def _epoch(length: int | None, batch_size: int | None) -> str:
    """Say what an epoch is.

    >>> _epoch(40, 8), _epoch(40, None), _epoch(None, 8)
    ('40 batches of 8', '40 batches', 'an unknown number of batches of 8')
    """
    batches = "an unknown number of batches" if length is None else f"{length} batches"
    return batches if batch_size is None else f"{batches} of {batch_size}"
