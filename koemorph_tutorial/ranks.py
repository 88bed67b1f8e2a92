"""Several processes that train one model, as torchrun starts them: one writes, all agree, and no error stays alone.

What is agreed on travels through a group of its own on gloo, whatever the training talks through. Every exchange
begins with a few numbers of each rank: what it was called for, where it is, what it wants, how many bytes it has to
say. So two ranks that are not at the same place learn it at once, where a collective would wait or mix things up.
"""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import IntFlag
from typing import Any, Literal, TypeVar

import torch
from torch import distributed, nn

from .digests import digest
from .loading import ResumableLoader
from .naming import plain_name, unwrap
from .provenance import world_size
from .records import Position, RankError, RankLost, state_key
from .rng import kept_rng
from .state import Objects, lies_in_parts, state_of
from .text import count

logger = logging.getLogger(__name__)
T = TypeVar("T")

_CALLS = ("resume", "epochs", "step", "save", "wait", "the end of the epochs", "close", "save_sharded", "load_sharded")
_PATIENCE = 5.0  # seconds, for one that may be gone
_GLANCE = timedelta(seconds=1)  # after so long Python has its turn, for Ctrl-C and the like, and the wait goes on
_LONG = 60.0  # seconds of waiting after which it is said, once for each call


class Wish(IntFlag):
    """What a rank wants when all meet: any one's wish is everybody's."""

    NOTHING = 0
    STOP = 1  # a signal asked for it
    SAVE = 2
    END = 4  # of the process, right after a save: for a certificate
    FAIL = 8  # it has no right to write any more


class Ranks:
    """The processes of one training; where there is one alone, nothing is sent and nobody is waited for.

    `saved` says where the run was saved last. Every rank makes this at the same time, and makes the same calls.

    >>> alone = Ranks()
    >>> alone.size, alone.exchange("here"), alone.first(lambda: 1)
    (1, ['here'], 1)
    """

    def __init__(self, saved: Callable[[], Position] = Position) -> None:
        self._saved = saved
        self.size = world_size()
        self.rank = distributed.get_rank() if self.size > 1 else 0
        self._call, self._place, self._turn = 0, Position(), 0
        self._said: set[str] = set()
        self.is_calling = False  # a function of this rank's own, while the others wait for what it returns
        with self._patience("CheckpointManager(...)"):
            self._group = distributed.new_group(backend="gloo") if self.size > 1 else None

    @property
    def many(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def meet(self, call: str, place: Position, wish: Wish = Wish.NOTHING) -> Wish:
        """Wait until every rank has come to `call` at `place`; return what any of them wishes.

        Raises:
            RankError: one of them came to another call, or is at another place. RuntimeError: there are more or fewer
                of them now; or this comes from a function that the others wait for.
        """
        self._check_size()
        if self.is_calling:
            raise RuntimeError(f"on_saved: the other ranks wait for it, and take no {call} from there")
        self._call, self._place, self._turn = _CALLS.index(call), place, 0
        if not self.many:
            return wish
        return self._collect(wish, None)[0]

    def exchange(self, value: T) -> list[T]:
        """Return what each rank has given, in their order."""
        return self.each(lambda: value)

    def each(self, function: Callable[[], T]) -> list[T]:
        """Call `function` on every rank; return what each has returned, in their order.

        Raises:
            RankError: another rank's call has failed; where this one's own has, what it raised.
        """
        if not self.many:
            return [function()]
        own: BaseException | None = None
        try:
            with self._calling():
                sent = pickle.dumps((True, function()))
        except Exception as error:
            own, sent = error, pickle.dumps((False, _sendable(error)))
        answers = self._collect(Wish.NOTHING, sent)[1]
        if own is not None:
            raise own
        for rank, (succeeded, value) in enumerate(answers):
            if not succeeded:
                raise RankError(f"rank {rank}: {value}") from value
        return [value for _, value in answers]

    def first(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0 alone; return what it returned, or raise what it raised, on every rank."""
        if not self.many:
            return function()
        own: BaseException | None = None
        sent = None
        if self.is_first:
            try:
                with self._calling():
                    result = function()
                sent = pickle.dumps((True, result))
            except Exception as error:
                own, sent = error, pickle.dumps((False, _sendable(error)))
        succeeded, value = self._collect(Wish.NOTHING, sent)[1][0]
        if own is not None:
            raise own
        if not succeeded:
            raise value
        return result if self.is_first else value

    def look(self) -> Literal["here", "gone", "elsewhere"]:
        """Say whether all the others ask this as well, or one has ended, or none of both comes out in some seconds.

        Whoever asks is about to leave: after "elsewhere" nothing more can be agreed on.
        """
        if not self.many:
            return "here"
        others = [rank for rank in range(self.size) if rank != self.rank]
        sent, got = torch.zeros(1, device="cpu"), torch.zeros(self.size, 1, device="cpu")
        deadline = time.monotonic() + _PATIENCE
        try:
            self._check_size()
            # Not monitored_barrier, in which all but rank 0 wait for half an hour, whatever they are told.
            works = [distributed.irecv(got[rank], group=self._group, group_src=rank) for rank in others]
            works += [distributed.isend(sent, group=self._group, group_dst=rank) for rank in others]
            for work in works:
                if work is not None:
                    work.wait(timedelta(seconds=max(deadline - time.monotonic(), 0.001)))
        except RuntimeError as error:
            return "gone" if _is_gone(error) else "elsewhere"
        return "here"

    def lost(self) -> RankLost:
        """Return how a rank leaves when another one has ended."""
        saved = self._saved()
        where = "nothing was saved yet" if saved == Position() else f"start all of them again to go on at {saved}"
        return RankLost(f"rank {self.rank} leaves: another one of the {self.size} has ended; {where}")

    def _collect(self, wish: Wish, sent: bytes | None) -> tuple[Wish, list[Any]]:
        """Exchange a wish, and what whoever has something to say has pickled.

        Raises:
            RankError: not all are at the same place, or one did not come in time. RankLost: one of them has ended.
        """
        self._check_size()
        self._turn += 1  # of what this call exchanges: who has left it by an error is not at the same place
        place = [self._place.epoch, self._place.batch, self._place.global_step, self._turn]
        own = torch.tensor([self._call, *place, wish, len(sent or b"")], dtype=torch.int64, device="cpu")
        heads = [torch.empty_like(own) for _ in range(self.size)]
        self._talk(lambda: distributed.all_gather(heads, own, group=self._group, async_op=True))
        numbers = [head.tolist() for head in heads]
        if any(head[:_WHERE] != numbers[0][:_WHERE] for head in numbers):
            raise RankError(_disagreement(numbers))
        said = [self._broadcast(rank, sent, head[-1]) if head[-1] else None for rank, head in enumerate(numbers)]
        wishes = Wish.NOTHING
        for head in numbers:
            wishes |= Wish(head[-2])
        return wishes, said

    def _check_size(self) -> None:
        if world_size() != self.size:
            raise RuntimeError(
                f"CheckpointManager: it was made for {count(self.size, 'rank')}, and {world_size()} are here now; "
                "make it after init_process_group, and leave it before destroy_process_group"
            )

    @contextmanager
    def _calling(self) -> Iterator[None]:
        self.is_calling = True
        try:
            yield
        finally:
            self.is_calling = False

    def _say_that_it_waits(self, where: str) -> None:
        if where not in self._said:
            self._said.add(where)
            logger.warning(
                "rank %d has waited %g s for another rank in %s: every rank makes the same calls",
                self.rank,
                _LONG,
                where,
            )

    @contextmanager
    def _patience(self, where: str) -> Iterator[None]:
        """Say it where this takes long."""
        timer = threading.Timer(_LONG, self._say_that_it_waits, [where])
        timer.daemon = True
        if self.many:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _talk(self, collective: Callable[[], Any]) -> None:
        begun = time.monotonic()
        try:
            work, done = collective(), False
            while not done:
                try:
                    work.wait(_GLANCE)
                    done = True
                except RuntimeError:
                    if work.is_completed():  # by now, or by an error
                        work.wait()
                        done = True
                    elif time.monotonic() - begun >= _LONG:
                        self._say_that_it_waits(_CALLS[self._call])
        except RuntimeError as error:
            if _is_gone(error):
                raise self.lost() from None
            where = f"{_CALLS[self._call]} at {self._place}"
            why = str(error).splitlines()[0]
            raise RankError(f"rank {self.rank} has waited in vain for the others in {where}: {why}") from error

    def _broadcast(self, rank: int, sent: bytes | None, size: int) -> Any:
        data = torch.empty(size, dtype=torch.uint8, device="cpu")
        if rank == self.rank and sent is not None:
            data = torch.frombuffer(bytearray(sent), dtype=torch.uint8)
        self._talk(lambda: distributed.broadcast(data, group=self._group, group_src=rank, async_op=True))
        return pickle.loads(data.numpy().tobytes())  # from a process of this same training


_WHERE = 5  # so many numbers of a head say where a rank is


def _place(head: list[int]) -> str:
    return f"{_CALLS[head[0]]} at {Position(epoch=head[1], batch=head[2], global_step=head[3])}"


def _disagreement(heads: list[list[int]]) -> str:
    other = next(rank for rank, head in enumerate(heads) if head[:_WHERE] != heads[0][:_WHERE])
    here, there = _place(heads[0]), _place(heads[other])
    if here == there:
        there += ", and one of them was interrupted there"
    return (
        f"the ranks are not at the same place: rank 0 is in {here}, rank {other} in {there}; every rank makes the same "
        "calls, over as many batches; nothing was saved by this call"
    )


def _is_gone(error: BaseException) -> bool:
    return any(words in str(error) for words in ("closed by peer", "reset by peer", "Broken pipe", "peer closed"))


def _sendable(error: Exception) -> Exception:
    """Return an error as another process can read it."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class asks for
        again = None
    same = type(again) is type(error) and str(again) == str(error)
    return error if same else RankError(f"{type(error).__name__}: {error}")


def parts_of(objects: Objects) -> dict[str, Any]:
    """Return what may be another one on each rank: all but parameters and the states of optimizers, and random states.

    Of a module these are its buffers: BatchNorm counts what its own rank has seen.
    """
    with kept_rng() as random_states:
        parts: dict[str, Any] = {"rng_state": random_states}
        for name, item in objects.items():
            if isinstance(item, torch.optim.Optimizer):
                continue
            state = state_of(item)
            if isinstance(item, nn.Module):
                trained = {plain_name(each) for each, _ in unwrap(item).named_parameters(remove_duplicate=False)}
                state = {key: value for key, value in state.items() if key not in trained}
            parts[state_key(name)] = state
    return parts


def put_together(objects: Objects) -> None:
    """Put what lies in parts on the ranks together on rank 0, a ZeroRedundancyOptimizer; all of them call it."""
    in_parts: list[Any] = [item for item in objects.values() if lies_in_parts(item)]
    for item in in_parts:
        item.consolidate_state_dict(0)


def gather_parts(ranks: Ranks, objects: Objects) -> list[dict[str, Any]]:
    """Return of each rank what differs from rank 0's; of that one nothing.

    What lies in parts is put together first.

    Raises:
        Exception: on all, what the state of an object of one raised.
    """
    parts: dict[str, Any] = {}

    def digests_of() -> dict[str, str]:
        put_together(objects)
        parts.update(parts_of(objects))
        return {key: digest(part) for key, part in parts.items()}

    every = ranks.each(digests_of)
    firsts, digests = every[0], every[ranks.rank]
    return ranks.exchange({key: part for key, part in parts.items() if digests[key] != firsts.get(key)})


def as_of(checkpoint: Mapping[str, Any], rank: int, objects: Objects) -> dict[str, Any]:
    """Return a checkpoint as it is for `rank`.

    One that was saved without that rank has nothing of its own for it: random states, loaders and generators stay as
    they are there, or two ranks would draw the same numbers.

    >>> saved = {"epoch": 3, "rng_state": {"python": 0}, "ranks": [{}, {"rng_state": {"python": 1}}]}
    >>> [as_of(saved, rank, {})["rng_state"] for rank in range(3)]
    [{'python': 0}, {'python': 1}, {}]
    """
    saved = checkpoint.get("ranks") or [{}]
    mine = {key: value for key, value in checkpoint.items() if key != "ranks"}
    if rank >= len(saved):
        own = {
            state_key(name) for name, item in objects.items() if isinstance(item, (ResumableLoader, torch.Generator))
        }
        return {key: value for key, value in mine.items() if key not in own} | {"rng_state": {}}
    modules = {state_key(name) for name, item in objects.items() if isinstance(item, nn.Module)}
    for key, part in saved[rank].items():
        if key in modules and isinstance(mine.get(key), dict):
            whole = copy.copy(mine[key])  # which keeps the versions of the layers
            whole.update(part)
            mine[key] = whole
        else:
            mine[key] = part
    return mine
