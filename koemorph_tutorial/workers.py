"""What runs in the worker processes of a DataLoader: random numbers that belong to a batch, and a longer life.

A worker's random state is gone with the worker, and which of them fetches a batch depends on where the epoch was begun.
So a batch is given its own random numbers: those of its epoch and its number, whoever fetches it.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch

# How long a worker survives a stop signal, sent to it with all others of a job: the batch that is under way in the main
# process needs its workers until it is saved. They end with the main process, whatever this says.
OUTLIVE = 60.0  # seconds
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

    def __getitem__(self, ticket: Ticket) -> Any:
        _seed(ticket)
        return self._dataset[ticket.index]

    def __getitems__(self, ticket: Ticket) -> Any:
        _seed(ticket)
        at_once = getattr(self._dataset, "__getitems__", None)
        return at_once(ticket.index) if at_once else [self._dataset[index] for index in ticket.index]


def _seed(ticket: Ticket) -> None:
    one, other, third = np.random.SeedSequence([ticket.seed, ticket.number]).generate_state(3, np.uint64)
    random.seed(int(one))
    np.random.seed(int(other) % 2**32)
    torch.default_generator.manual_seed(int(third) % 2**63)


@dataclass(frozen=True)
class WorkerStart:
    """A worker_init_fn that makes the worker outlive a stop, and then calls the one that was given."""

    given: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        """Begin in the worker number `worker`."""
        for number in _STOPS:
            signal.signal(number, _outlive)
        if self.given is not None:
            self.given(worker)


def _outlive(number: int, frame: FrameType | None) -> None:
    for each in (*_STOPS, signal.SIGALRM):
        signal.signal(each, signal.SIG_DFL)  # the next one is meant
    signal.setitimer(signal.ITIMER_REAL, OUTLIVE)
