"""A DataLoader that goes on at batch k, with the same batches in the same order as if it had never stopped."""

from __future__ import annotations

import copy
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .rng import capture_rng, restore_rng
from .workers import Ticket, TicketDataset, WorkerStart, outlive_stops, starting

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Their order depends on their own generator alone, so it can be drawn again at any time.
_KNOWN = (BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)

_UNSAID = 1.0  # seconds that nobody minds


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
        order = _own_copy(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler)
        samplers = _chain(order)
        self._drawn_from = any(hasattr(sampler, "generator") for sampler in samplers)
        self._generator = _own_generator(loader, samplers)
        self._seeds = torch.Generator()  # the workers' seeds are drawn from a copy: they must not move the order
        self._iterable = isinstance(loader.dataset, IterableDataset)
        self._known = all(type(sampler) in _KNOWN for sampler in samplers)
        self._order = _Skipping(order, apart=not self._known)
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
        seed = _draw(self._seeds)
        if not self._drawn_from:  # no sampler moves it, so every epoch would give its workers the same seeds
            _draw(self._generator)
        batches: Iterator[T]
        if self._iterable:
            batches = _read_up_to(skip, _apart(_Started(self._loader), seed))
        else:
            self._order.skip, self._order.seed = skip, seed
            batches = iter(_Started(self._loader))
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


class _Started:
    """A DataLoader whose workers outlive a stop."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        with starting(self._loader):
            batches = iter(self._loader)
        outlive_stops(batches)
        return batches


class _Skipping:
    """A sampler that draws the order again from its start and leaves out what was done."""

    def __init__(self, sampler: Iterable[Any], *, apart: bool) -> None:
        self.sampler = sampler
        self.skip = 0
        self.seed = 0  # of the epoch
        self.by_ticket = False  # for workers
        self._apart = apart  # it may draw from the global generators

    def __iter__(self) -> Iterator[Any]:
        for number, index in enumerate(self._rest(), self.skip):
            yield Ticket(self.seed, number, index) if self.by_ticket else index

    def _rest(self) -> Iterator[Any]:
        sampler = self.sampler
        if self._apart:
            return islice(_apart(sampler, self.seed), self.skip, None)
        if type(sampler) is BatchSampler:  # samples are skipped faster than batches of them are made
            samples = islice(iter(sampler.sampler), self.skip * sampler.batch_size, None)
            return iter(BatchSampler(samples, sampler.batch_size, sampler.drop_last))
        return islice(iter(sampler), self.skip, None)

    def __len__(self) -> int:
        if not isinstance(self.sampler, Sized):
            raise TypeError(f"{type(self.sampler).__name__} has no length")
        return len(self.sampler)


def _epoch(length: int | None, batch_size: int | None) -> str:
    """Say what an epoch is.

    >>> _epoch(40, 8), _epoch(40, None), _epoch(None, 8)
    ('40 batches of 8', '40 batches', 'an unknown number of batches of 8')
    """
    batches = "an unknown number of batches" if length is None else f"{length} batches"
    return batches if batch_size is None else f"{batches} of {batch_size}"


def _read_up_to(skip: int, batches: Iterator[T]) -> Iterator[T]:
    """Yield what comes after the first `skip` batches; where reading those takes over a second, say so.

    Raises:
        RuntimeError: there are fewer: it is other data, and an epoch without a batch would look like a whole one.
    """
    begin, said, done = time.monotonic(), False, 0
    for done, _ in enumerate(islice(batches, skip), 1):
        seconds = time.monotonic() - begin
        if seconds > _UNSAID and not said and done < skip:
            said = True  # at once, not only when all is read: that may be an hour
            logger.warning(
                "ResumableLoader: an IterableDataset has no order to skip in: read %s of %s batches in %.1f s, "
                "about %.0f s more until it goes on",
                f"{done:,}",
                f"{skip:,}",
                seconds,
                seconds / done * (skip - done),
            )
    if done < skip:
        raise RuntimeError(
            f"ResumableLoader: stopped after batch {skip:,} of an IterableDataset, here it ends after {done:,}; use "
            "the same data, or go on from the end of an epoch"
        )
    if time.monotonic() - begin > _UNSAID:
        logger.warning(
            "ResumableLoader: read %s batches in %.1f s to go on: an IterableDataset has no order to skip in",
            f"{skip:,}",
            time.monotonic() - begin,
        )
    yield from batches


def _apart(items: Iterable[T], seed: int) -> Iterator[T]:
    """Yield `items` with the global generators seeded for them alone: their draws and those of the loop never mix."""
    iterator: Iterator[T] | None = None
    inside: dict[str, Any] = {}
    while True:
        outside = capture_rng()
        try:
            if iterator is None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                torch.default_generator.manual_seed(seed)
                iterator = iter(items)
            else:
                restore_rng(inside)
            item = next(iterator)
        except StopIteration:
            return
        finally:
            inside = capture_rng()
            restore_rng(outside)
        yield item


def _draw(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator))


def _chain(sampler: Any) -> list[Any]:
    """Return a sampler and those that it draws from."""
    chain = []
    while sampler is not None and sampler not in chain:
        chain.append(sampler)
        sampler = getattr(sampler, "sampler", None)
    return chain


def _own_generator(loader: DataLoader[Any], samplers: list[Any]) -> torch.Generator:
    drawing = [sampler for sampler in samplers if hasattr(sampler, "generator")]
    own = [sampler.generator for sampler in drawing if sampler.generator is not None]
    if len({id(each) for each in own}) > 1 or not all(isinstance(each, torch.Generator) for each in own):
        found = ", ".join(f"{type(each).__module__}.{type(each).__qualname__}" for each in own)
        raise TypeError(f"ResumableLoader: expected samplers that draw from one torch.Generator, found {found}")
    generator = torch.Generator()
    given = own[0] if own else loader.generator
    # Seeded by a draw: two loaders that share a generator, or have none, must not get the same order.
    generator.manual_seed(_draw(given))
    for sampler in drawing:
        sampler.generator = generator
    return generator


def _own_copy(sampler: Any) -> Any:
    """Copy the samplers that get another generator: whoever else draws from them must not move it."""
    if type(sampler) not in _KNOWN:
        return sampler
    sampler = copy.copy(sampler)
    if isinstance(getattr(sampler, "sampler", None), Iterable):
        sampler.sampler = _own_copy(sampler.sampler)
    return sampler
