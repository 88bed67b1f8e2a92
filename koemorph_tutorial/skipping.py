"""The rest of an epoch: its order drawn again from the start, without what was done and without loading it."""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .rng import capture_rng, restore_rng
from .workers import Ticket

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Their order depends on their own generator alone, so it can be drawn again at any time.
_KNOWN = (BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)

_UNSAID = 1.0  # seconds that nobody minds


class Skipping:
    """The sampler of a loader, which draws the order again from its start and leaves out what was done.

    It draws from a `generator` of its own, where it `draws` at all. It skips the first `skip` of the epoch `seed`;
    `by_ticket`: workers are asked by tickets.

    Raises:
        TypeError: samplers that draw from several generators, or from none of torch's.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.sampler = _own_copy(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler)
        samplers = _chain(self.sampler)
        self.generator = _own_generator(loader, samplers)
        self.draws = any(hasattr(sampler, "generator") for sampler in samplers)
        self.skip = self.seed = 0
        self.by_ticket = False
        self._apart = any(type(sampler) not in _KNOWN for sampler in samplers)  # may draw from the global generators

    def __iter__(self) -> Iterator[Any]:
        for number, index in enumerate(self._rest(), self.skip):
            yield Ticket(self.seed, number, index) if self.by_ticket else index

    def _rest(self) -> Iterator[Any]:
        sampler = self.sampler
        if self._apart:
            return islice(drawn_apart(sampler, self.seed), self.skip, None)
        if type(sampler) is BatchSampler:  # samples are skipped faster than batches of them are made
            samples = islice(iter(sampler.sampler), self.skip * sampler.batch_size, None)
            return iter(BatchSampler(samples, sampler.batch_size, sampler.drop_last))
        return islice(iter(sampler), self.skip, None)

    def __len__(self) -> int:
        if not isinstance(self.sampler, Sized):
            raise TypeError(f"{type(self.sampler).__name__} has no length")
        return len(self.sampler)


def read_up_to(skip: int, batches: Iterator[T]) -> Iterator[T]:
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


def drawn_apart(items: Iterable[T], seed: int) -> Iterator[T]:
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


def draw(generator: torch.Generator | None) -> int:
    """Return a whole number of a generator, of torch's global one without any."""
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
    generator.manual_seed(draw(given))
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
