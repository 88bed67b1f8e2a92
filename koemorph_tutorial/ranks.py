"""Several processes that train one model, as torchrun starts them: one writes, all agree, and no error stays alone.

What is agreed on travels through a group of its own on gloo, whatever the training talks through. Every exchange
begins with a few numbers of each rank: what it was called for, where it is, what it wants, how many bytes it has to
say. So two ranks that are not at the same place learn it at once, where a collective would wait or mix things up.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import IntFlag
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from .digests import digest
from .loading import ResumableLoader
from .naming import plain_name, unwrap
from .provenance import world_size
from .records import Position, RankError, RankLost, state_key
from .rng import capture_rng, prepare_rng
from .state import Objects, state_of

T = TypeVar("T")

_CALLS = ("resume", "epochs", "step", "save", "wait", "the end of the epochs", "close", "save_sharded", "load_sharded")
_PATIENCE = timedelta(seconds=5)  # for one that may be gone


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
        self._group = distributed.new_group(backend="gloo") if self.size > 1 else None
        self._call, self._place = 0, Position()

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
            RankError: one of them came to another call, or is at another place.
        """
        self._call, self._place = _CALLS.index(call), place
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
        answer: tuple[bool, Any]
        try:
            answer = (True, function())
        except Exception as error:
            own, answer = error, (False, _sendable(error))
        answers = self._collect(Wish.NOTHING, pickle.dumps(answer))[1]
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

    def is_one_lost(self) -> bool:
        """Say whether another rank has ended; where one is only somewhere else, this takes some seconds."""
        if not self.many:
            return False
        try:
            distributed.monitored_barrier(self._group, timeout=_PATIENCE)
        except RuntimeError as error:
            return _is_gone(error)
        return False

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
        place = [self._place.epoch, self._place.batch, self._place.global_step]
        own = torch.tensor([self._call, *place, wish, len(sent or b"")], dtype=torch.int64, device="cpu")
        heads = [torch.empty_like(own) for _ in range(self.size)]
        self._talk(lambda: distributed.all_gather(heads, own, group=self._group))
        numbers = [head.tolist() for head in heads]
        if any(head[:4] != numbers[0][:4] for head in numbers):
            raise RankError(_disagreement(numbers))
        said = [self._broadcast(rank, sent, head[5]) if head[5] else None for rank, head in enumerate(numbers)]
        wishes = Wish.NOTHING
        for head in numbers:
            wishes |= Wish(head[4])
        return wishes, said

    def _talk(self, collective: Callable[[], object]) -> None:
        try:
            collective()
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
        self._talk(lambda: distributed.broadcast(data, group=self._group, group_src=rank))
        return pickle.loads(data.numpy().tobytes())  # from a process of this same training


def _place(head: list[int]) -> str:
    return f"{_CALLS[head[0]]} at {Position(epoch=head[1], batch=head[2], global_step=head[3])}"


def _disagreement(heads: list[list[int]]) -> str:
    other = next(rank for rank, head in enumerate(heads) if head[:4] != heads[0][:4])
    return (
        f"the ranks are not at the same place: rank 0 is in {_place(heads[0])}, rank {other} in "
        f"{_place(heads[other])}; every rank makes the same calls, over as many batches; nothing was saved by this call"
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
    random_states = capture_rng()
    parts: dict[str, Any] = {"rng_state": random_states}
    for name, item in objects.items():
        if isinstance(item, torch.optim.Optimizer):
            continue
        state = state_of(item)
        if isinstance(item, nn.Module):
            trained = {plain_name(each) for each, _ in unwrap(item).named_parameters(remove_duplicate=False)}
            state = {key: value for key, value in state.items() if key not in trained}
        parts[state_key(name)] = state
    prepare_rng(random_states)()  # a state_dict may draw random numbers
    return parts


def gather_parts(ranks: Ranks, objects: Objects) -> list[dict[str, Any]]:
    """Return of each rank what differs from rank 0's; of that one nothing."""
    parts = parts_of(objects)
    digests = {key: digest(part) for key, part in parts.items()}
    firsts = ranks.exchange(digests)[0]
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
