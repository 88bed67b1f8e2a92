"""What runs in the worker processes of a DataLoader: random numbers that belong to a batch, and a longer life.

A worker's random state is gone with the worker, and which of them fetches a batch depends on where the epoch was begun.
So a batch is given its own random numbers: those of its epoch and its number, whoever fetches it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

# Who stops a whole job signals its workers as well. The batch that is under way in the main process needs them until it
# is saved; they notice when that process has ended, and end with it.
_STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass(frozen=True)
class Ticket:
    """What a worker is asked for in place of an index, or of a batch of them: number `number` of the epoch `seed`."""

    seed: int
    number: int
    index: Any


class TicketDataset:
    """A map-style dataset asked by tickets; in all else the dataset that it stands for."""

    def __init__(self, dataset: Any) -> None:
        vars(self)["_dataset"] = dataset

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_dataset" not in vars(self):  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:  # by a worker_init_fn, say
        setattr(self._dataset, name, value)

    def __len__(self) -> int:
        return len(self._dataset)

    def __delattr__(self, name: str) -> None:
        delattr(self._dataset, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._dataset)

    def __getitem__(self, ticket: Any) -> Any:
        if not isinstance(ticket, Ticket):  # asked by a worker_init_fn or a collate_fn
            return self._dataset[ticket]
        _seed(ticket)
        return self._dataset[ticket.index]

    def __getitems__(self, ticket: Any) -> Any:
        indices = ticket
        if isinstance(ticket, Ticket):
            _seed(ticket)
            indices = ticket.index
        at_once = getattr(self._dataset, "__getitems__", None)
        return at_once(indices) if at_once else [self._dataset[index] for index in indices]


def _seed(ticket: Ticket) -> None:
    one, other, third = np.random.SeedSequence([ticket.seed, ticket.number]).generate_state(3, np.uint64)
    random.seed(int(one))
    np.random.seed(int(other) % 2**32)
    torch.default_generator.manual_seed(int(third) % 2**63)


@dataclass(frozen=True)
class WorkerStart:
    """A worker_init_fn that makes the worker outlive stops, and then calls the one that was given."""

    given: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        """Begin in the worker number `worker`."""
        for number in _STOPS:
            signal.signal(number, partial(_ignore, os.getpid()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        if self.given is not None:
            self.given(worker)


def _ignore(worker: int, number: int, frame: FrameType | None) -> None:
    """Do nothing in this worker; SIG_IGN would be inherited by the programs that a dataset starts."""
    if os.getpid() != worker:  # a process that it has forked
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


@contextmanager
def starting(loader: DataLoader[Any]) -> Iterator[None]:
    """Have no stop signal reach the workers that are started meanwhile before they can ignore it; it waits."""
    if not loader.num_workers:
        yield
        return
    how = (loader.multiprocessing_context or multiprocessing).get_start_method()
    if how != "fork":
        resource_tracker.ensure_running()  # it is started once, and unblocks signals when it is
    if how == "forkserver":
        forkserver.ensure_running()  # what it forks later, for anybody, would be deaf as well
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_stops(batches: object) -> None:
    """Have the workers of a DataLoader's iterator ended by SIGKILL where they would be by SIGTERM: they ignore that."""
    for worker in getattr(batches, "_workers", ()):
        process = getattr(worker, "_popen", None)
        if process is not None:
            process.terminate = process.kill
