"""A loader goes on at batch k with the batches that would have come, and moves no random number of anybody else."""

from __future__ import annotations

import io
import itertools
import logging
import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from koemorph_tutorial import skipping
from koemorph_tutorial.loading import ResumableLoader
from koemorph_tutorial.plain import check_plain
from koemorph_tutorial.rng import capture_rng, restore_rng
from tests.comparing import difference

pytestmark = [
    # Python 3.12 and later warn of every fork of a process with threads, and loader workers are forked.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # Two workers are not too many for these tests, whatever the machine.
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]


@pytest.fixture(autouse=True)
def own_generators() -> Iterator[None]:
    """Put the global generators back after a test."""
    before = capture_rng()
    yield
    restore_rng(before)


class Numbers(Dataset[torch.Tensor]):
    """The numbers below `count`; remembers which were asked for."""

    def __init__(self, count: int = 12) -> None:
        self.count, self.asked = count, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> torch.Tensor:
        self.asked.append(at)
        return torch.tensor(at)


class Augmented(Numbers):
    """Numbers with noise that is drawn where the sample is loaded."""

    def __getitem__(self, at: int) -> torch.Tensor:
        return torch.tensor([at, torch.rand(()).item(), random.random()])


class AtOnce:
    """A batch sampler of somebody else's that shuffles with the global generators when an epoch begins."""

    def __init__(self, batches: int = 6) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        order = random.sample(range(12), 12)
        for at in range(self.batches):
            yield order[2 * at : 2 * at + 2]


class BatchByBatch(AtOnce):
    """One that draws each batch when it is asked for it, from all three generators."""

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.batches):
            yield [random.randrange(12), int(np.random.randint(12)), int(torch.randint(12, ()))]


class Endless(BatchByBatch):
    """One without a length."""

    __len__ = None  # type: ignore[assignment]


class Shuffled(IterableDataset[torch.Tensor]):
    """A stream shuffled by the global generator when an epoch begins."""

    def __init__(self, count: int = 12) -> None:
        self.count = count

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from map(torch.tensor, random.sample(range(self.count), self.count))


class Buffered(IterableDataset[torch.Tensor]):
    """A stream shuffled through a buffer: random numbers are drawn all along."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        buffer: list[torch.Tensor] = []
        for at in range(12):
            buffer.append(torch.tensor(at))
            if len(buffer) > 4:
                yield buffer.pop(int(torch.randint(len(buffer), ())))
        yield from buffer


class Shared(Shuffled):
    """A stream of which each worker reads its part, shuffled on its own."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        mine = range(self.count) if worker is None else range(worker.id, self.count, worker.num_workers)
        yield from map(torch.tensor, random.sample(mine, len(mine)))


Make = Callable[[int], DataLoader[Any]]
MAKES: dict[str, Make] = {
    "shuffled": lambda workers: DataLoader(Numbers(), batch_size=2, shuffle=True, num_workers=workers),
    "with its own generator": lambda workers: DataLoader(
        Numbers(), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(5), num_workers=workers
    ),
    "last batch dropped": lambda workers: DataLoader(
        Numbers(11), batch_size=2, shuffle=True, drop_last=True, num_workers=workers
    ),
    "last batch short": lambda workers: DataLoader(Numbers(11), batch_size=2, shuffle=True, num_workers=workers),
    "its sampler with its own generator": lambda workers: DataLoader(
        Numbers(11),
        batch_sampler=BatchSampler(
            RandomSampler(range(11), generator=torch.Generator().manual_seed(6)), 2, drop_last=True
        ),
        num_workers=workers,
    ),
    "sequential": lambda workers: DataLoader(Numbers(), batch_size=2, num_workers=workers),
    "weighted": lambda workers: DataLoader(
        Numbers(), batch_size=2, sampler=WeightedRandomSampler([1.0, 2.0, 3.0] * 4, 12), num_workers=workers
    ),
    "subset": lambda workers: DataLoader(
        Numbers(), batch_size=2, sampler=SubsetRandomSampler(range(3, 12)), num_workers=workers
    ),
    "with replacement": lambda workers: DataLoader(
        Numbers(),
        batch_size=12,
        sampler=RandomSampler(range(12), replacement=True, num_samples=70),
        num_workers=workers,
    ),
    "batch sampler": lambda workers: DataLoader(
        Numbers(), batch_sampler=BatchSampler(RandomSampler(range(12)), 2, drop_last=False), num_workers=workers
    ),
    "no batches": lambda workers: DataLoader(Numbers(6), batch_size=None, shuffle=True, num_workers=workers),
    "no batches, in order": lambda workers: DataLoader(Numbers(6), batch_size=None, num_workers=workers),
    "a sampler that draws at once": lambda workers: DataLoader(Numbers(), batch_sampler=AtOnce(), num_workers=workers),
    "a sampler that draws batch by batch": lambda workers: DataLoader(
        Numbers(), batch_sampler=BatchByBatch(), num_workers=workers
    ),
    "a sampler without a length": lambda workers: DataLoader(Numbers(), batch_sampler=Endless(), num_workers=workers),
    "a stream": lambda workers: DataLoader(Shuffled(), batch_size=2, num_workers=workers),
    "a stream through a buffer": lambda workers: DataLoader(Buffered(), batch_size=2, num_workers=workers),
    "a stream without batches": lambda workers: DataLoader(Shuffled(6), batch_size=None, num_workers=workers),
    "a stream shared by workers": lambda workers: DataLoader(Shared(20), batch_size=2, num_workers=workers),
}
Trail = list[tuple[int, Any, list[float]]]


def through_a_file(state: Any) -> Any:
    check_plain(state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def seed_all() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


def train(
    loader: ResumableLoader[Any],
    *,
    stop: tuple[int, int] | None = None,
    state: dict[str, Any] | None = None,
    leave_at: int | None = None,
    epochs: int = 2,
) -> tuple[Trail, Any]:
    """Go through the epochs like a training that draws from every generator; return what came, and a state at `stop`.

    `stop` is an epoch and how many of its batches are done; `leave_at` is the batch at which every epoch is left.
    """
    trail: Trail = []
    first = 0
    if state is not None:
        first = state["epoch"]
        loader.load_state_dict(state["loader"])
        restore_rng(state["rng"])

    def now(epoch: int) -> Any:
        return through_a_file({"loader": loader.state_dict(), "rng": capture_rng(), "epoch": epoch})

    for epoch in range(first, epochs):
        if stop == (epoch, 0):
            return trail, now(epoch)
        for batch in loader:
            trail.append((epoch, batch.tolist(), [random.random(), float(np.random.normal()), float(torch.rand(()))]))
            if stop == (epoch, loader.batches):
                return trail, now(epoch)
            if leave_at == loader.batches:
                break
        loader.end_epoch()
    return trail, None


def start(name: str, workers: int = 0, **changes: Any) -> ResumableLoader[Any]:
    seed_all()
    return ResumableLoader(MAKES[name](workers, **changes))


def differing(name: str, stops: list[tuple[int, int]], workers: int = 0, leave_at: int | None = None) -> list[Any]:
    """Return the stops after which a training does not go on as the one that never stopped."""
    whole, _ = train(start(name, workers), leave_at=leave_at)
    different = []
    for stop in stops:
        before, state = train(start(name, workers), stop=stop, leave_at=leave_at)
        assert state is not None
        fresh = start(name, workers)
        torch.manual_seed(77)  # what the process drew before it resumed does not matter
        after, _ = train(fresh, state=state, leave_at=leave_at)
        different += [] if whole == before + after else [stop]
    return different


# ------------------------------------------------------------------------------------- the batches that would have come


@pytest.mark.parametrize("name", MAKES)
def test_after_a_stop_at_any_batch_the_same_batches_and_random_numbers_come(name: str) -> None:
    """At every batch of two epochs, the first and the last included, and between epochs."""
    per_epoch = len(train(start(name))[0]) // 2
    assert per_epoch >= 5
    assert [] == differing(name, [(epoch, done) for epoch in (0, 1) for done in range(per_epoch + 1)])


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("shuffled", [(0, 1), (1, 5)]),
        ("its sampler with its own generator", [(0, 5)]),  # after its last batch
        ("last batch dropped", [(1, 0)]),
        ("sequential", [(0, 4)]),
        ("weighted", [(1, 3)]),
        ("subset", [(0, 4)]),
        ("with replacement", [(1, 1)]),
        ("a sampler that draws batch by batch", [(0, 1), (1, 5)]),
        ("a stream through a buffer", [(0, 1), (1, 5)]),
        ("a stream shared by workers", [(0, 3), (1, 0), (1, 10)]),
    ],
)
def test_after_a_stop_the_same_batches_come_from_two_workers(name: str, stops: list[tuple[int, int]]) -> None:
    """Though the workers were ahead of the batch that was stopped at."""
    assert [] == differing(name, stops, workers=2)


SAMPLERS: dict[str, Callable[[int], Any]] = {
    "sequential": lambda count: SequentialSampler(range(count)),
    "shuffled": lambda count: RandomSampler(range(count)),
    "with its own generator": lambda count: RandomSampler(range(count), generator=torch.Generator().manual_seed(6)),
    "with replacement": lambda count: RandomSampler(range(count), replacement=True, num_samples=count),
    "weighted": lambda count: WeightedRandomSampler([1.0 + at % 3 for at in range(count)], count),
    "subset": lambda count: SubsetRandomSampler(range(count)),
}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLERS)),
    count=st.integers(1, 40),
    size=st.integers(1, 8),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_going_on_is_as_if_there_had_been_no_stop(
    name: str, count: int, size: int, drop_last: bool, seed: int, data: st.DataObject
) -> None:
    """Whatever the epoch and the stop: the batches, those of the next epoch, where every generator is at the end."""

    def fresh() -> ResumableLoader[Any]:
        seed_all()
        torch.manual_seed(seed)
        return ResumableLoader(DataLoader(Augmented(count), size, sampler=SAMPLERS[name](count), drop_last=drop_last))

    batches = count // size if drop_last else math.ceil(count / size)
    stop = data.draw(st.tuples(st.integers(0, 1), st.integers(0, batches)))
    whole, _ = train(fresh())
    at_the_end = capture_rng()
    assert 2 * batches == len(whole)
    before, state = train(fresh(), stop=stop)
    random.seed(7)  # what the process drew before it resumed does not matter
    after, _ = train(fresh(), state=state)
    assert whole == before + after
    assert "" == difference(at_the_end, capture_rng())


@pytest.mark.parametrize("name", ["shuffled", "with replacement", "a sampler that draws batch by batch", "a stream"])
def test_epochs_that_are_left_early_go_on_the_same_too(name: str) -> None:
    """Every epoch is left by break after its third batch, and `end_epoch` says that it is over."""
    assert 6 == len(train(start(name), leave_at=3)[0])
    assert [] == differing(name, [(epoch, done) for epoch in (0, 1) for done in range(3)], leave_at=3)


@pytest.mark.parametrize("stop", [(1, 0), (1, 3)])
def test_workers_that_persist_hand_out_the_same_batches(stop: tuple[int, int]) -> None:
    """Kept from epoch to epoch before the stop, new after it; at the epoch's end and inside it."""

    def persistent() -> ResumableLoader[Any]:
        seed_all()
        return ResumableLoader(
            DataLoader(Numbers(), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True)
        )

    whole, _ = train(persistent(), epochs=3)
    before, state = train(persistent(), stop=stop)
    after, _ = train(persistent(), state=state, epochs=3)
    assert whole == before + after


def test_noise_drawn_in_workers_is_the_same_from_the_start_of_an_epoch() -> None:
    """The seeds of the workers are part of the epoch's start."""

    def augmented() -> ResumableLoader[Any]:
        seed_all()
        return ResumableLoader(DataLoader(Augmented(), batch_size=3, num_workers=2))

    whole, _ = train(augmented())
    before, state = train(augmented(), stop=(1, 0))
    assert whole == before + train(augmented(), state=state)[0]


def test_noise_drawn_where_samples_are_loaded_goes_on_without_workers() -> None:
    """It comes from the global generators, which are put back after the loader's batches were skipped."""

    def augmented() -> ResumableLoader[Any]:
        seed_all()
        return ResumableLoader(DataLoader(Augmented(), batch_size=3, shuffle=True))

    whole, _ = train(augmented())
    for stop in [(0, 1), (1, 3)]:
        before, state = train(augmented(), stop=stop)
        assert whole == before + train(augmented(), state=state)[0]


@pytest.mark.parametrize("name", ["shuffled", "a sampler that draws at once", "a stream", "a stream through a buffer"])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_epoch_has_an_order_of_its_own(name: str, workers: int) -> None:
    """What is repeated after a stop is not repeated from epoch to epoch."""
    loader = start(name, workers)
    epochs = [[batch.tolist() for batch in loader] for _ in range(3)]
    assert 3 == len({str(epoch) for epoch in epochs})


def test_every_epoch_gives_its_workers_seeds_of_its_own() -> None:
    """Also where no sampler draws anything: else the noise of all epochs would be one."""
    seed_all()
    loader = ResumableLoader(DataLoader(Augmented(), batch_size=3, num_workers=1))
    epochs = [[batch.tolist() for batch in loader] for _ in range(3)]
    assert 3 == len({str(epoch) for epoch in epochs})


def test_the_order_follows_the_seed_of_torch() -> None:
    """The same seed, the same order; another seed, another one; a generator of the caller's is the one that is used."""

    def order(seed: int, generator: torch.Generator | None = None) -> list[int]:
        torch.manual_seed(seed)
        loader = ResumableLoader(DataLoader(Numbers(), batch_size=None, shuffle=True, generator=generator))
        return [int(at) for at in loader]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1, torch.Generator().manual_seed(9)) == order(2, torch.Generator().manual_seed(9))
    assert sorted(order(1)) == list(range(12))


def test_every_sample_comes_once_an_epoch_though_it_was_stopped() -> None:
    """None is repeated and none is lost."""
    before, state = train(start("shuffled"), stop=(0, 2), epochs=1)
    after, _ = train(start("shuffled"), state=state, epochs=1)
    assert list(range(12)) == sorted(at for _, batch, _ in before + after for at in batch)


# -------------------------------------------------------------------------------------------------- what is not touched


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("done", [0, 2])
def test_no_global_generator_moves_while_batches_come(name: str, done: int) -> None:
    """Fresh or resumed: a validation between two epochs changes nothing for the training."""
    _, state = train(start(name), stop=(0, done))
    loader = start(name)
    loader.load_state_dict(state["loader"])
    before = str(capture_rng())
    for _ in loader:
        assert before == str(capture_rng())
    assert before == str(capture_rng())


def test_no_global_generator_moves_with_workers() -> None:
    """Neither when they are started nor when they hand out."""
    loader = start("a sampler that draws batch by batch", 2)
    before = str(capture_rng())
    assert 6 == len(list(loader))
    assert before == str(capture_rng())


def test_what_else_is_iterated_meanwhile_does_not_matter() -> None:
    """Another loader over the same data, in the middle of an epoch."""
    plain = [batch.tolist() for batch in start("shuffled")]
    loader = start("shuffled")
    other = ResumableLoader(MAKES["shuffled"](0))
    mixed = []
    for batch in loader:
        mixed.append(batch.tolist())
        list(other)
        torch.rand(3)
    assert plain == mixed


@pytest.mark.parametrize(
    ("name", "samples"),
    [("shuffled", 4), ("weighted", 4), ("batch sampler", 4), ("no batches", 2), ("a sampler that draws at once", 4)],
)
def test_what_was_done_is_not_loaded_again(name: str, samples: int) -> None:
    """Skipping asks the sampler and never the data: only the samples of the last two batches are loaded."""
    _, state = train(start(name), stop=(0, 4))
    wrapped = MAKES[name](0)
    loader = ResumableLoader(wrapped)
    loader.load_state_dict(state["loader"])
    rest = [at for batch in loader for at in batch.reshape(-1).tolist()]
    assert samples == len(rest)
    assert rest == wrapped.dataset.asked


# ------------------------------------------------------------------------------------ what it costs to skip in a stream


class Slow(IterableDataset[torch.Tensor]):
    """A stream that takes its time, by a clock of its own."""

    def __init__(self, count: int, clock: Clock, seconds: float = 0.0) -> None:
        self.count, self.clock, self.seconds = count, clock, seconds

    def __iter__(self) -> Iterator[torch.Tensor]:
        for at in range(self.count):
            self.clock.now += self.seconds
            yield torch.tensor(at)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that skipping looks at."""
    clock = Clock()
    monkeypatch.setattr(skipping, "time", clock)
    return clock


def gone_on(dataset: IterableDataset[torch.Tensor], done: int) -> ResumableLoader[torch.Tensor]:
    """Return a loader of single samples that goes on after so many."""
    loader = ResumableLoader(DataLoader(dataset, batch_size=None))
    loader.load_state_dict({**loader.state_dict(), "batches": done})
    return loader


def test_a_long_skip_in_a_stream_says_what_it_costs(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """After its first second how long it may take, and at the end how long it took."""
    loader = gone_on(Slow(2000, clock, 1 / 64), 1200)
    assert [1200, 1201] == [int(at) for at in itertools.islice(loader, 2)]
    assert [
        "ResumableLoader: an IterableDataset has no order to skip in: read 65 of 1,200 batches in 1.0 s, about 18 s "
        "more until it goes on",
        "ResumableLoader: read 1,200 batches in 18.8 s to go on: an IterableDataset has no order to skip in",
    ] == caplog.messages
    assert {logging.WARNING} == {record.levelno for record in caplog.records}


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 0), (8 / 64, 0), (9 / 64, 1), (10 / 64, 2), (5.0, 2)])
def test_a_short_skip_is_nobodys_news(
    clock: Clock, caplog: pytest.LogCaptureFixture, seconds: float, lines: int
) -> None:
    """Up to a second nothing; no forecast when all is read; and nothing of an epoch that is read from its start."""
    loader = gone_on(Slow(12, clock, seconds), 8)
    assert 4 == len(list(loader))
    assert lines == len(caplog.messages)
    assert 12 == len(list(loader))
    assert lines == len(caplog.messages)


def test_a_skip_that_the_sampler_makes_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Where there is an order, nothing is read to go on."""
    _, state = train(start("shuffled"), stop=(0, 4))
    loader = start("shuffled")
    loader.load_state_dict(state["loader"])
    assert 2 == len(list(loader))
    assert [] == caplog.messages


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_ends_before_its_batch_is_refused(clock: Clock, workers: int) -> None:
    """Of other data; without a word the epoch would end at once, like a whole one. At its very end it may go on."""
    message = (
        "ResumableLoader: stopped after batch 1,200 of an IterableDataset, here it ends after 8; use the same data, or "
        "go on from the end of an epoch"
    )
    loader = ResumableLoader(DataLoader(Shared(16), batch_size=2, num_workers=workers))
    loader.load_state_dict({**loader.state_dict(), "batches": 1200})
    with pytest.raises(RuntimeError, match=rf"^{re.escape(message)}$"):
        next(iter(loader))
    assert [] == list(gone_on(Slow(8, clock), 8))


# ------------------------------------------------------------------------------------------------------------ the state


def test_the_state_says_how_many_batches_are_done() -> None:
    """None before the first, one more with each, none again when the epoch is over."""
    loader = start("shuffled")
    assert (0, 6, 6) == (loader.state_dict()["batches"], loader.state_dict()["length"], len(loader))
    counts = [(loader.batches, loader.state_dict()["batches"]) for _ in loader]
    assert [(at, at) for at in range(1, 7)] == counts
    assert 0 == loader.state_dict()["batches"]


def test_a_state_does_not_move_with_its_loader() -> None:
    """It is a copy, so it can be restored again and again; also into the loader that it is from."""
    loader = start("shuffled")
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    expected = [batch.tolist() for batch in batches]
    for _ in range(2):
        loader.load_state_dict(state)
        assert 1 == loader.batches == loader.state_dict()["batches"]
        assert expected == [batch.tolist() for batch in loader]


def test_a_stopped_epoch_can_be_stopped_again() -> None:
    """Stop, go on, stop, go on: the count goes through."""
    whole, _ = train(start("shuffled"))
    first, state = train(start("shuffled"), stop=(1, 2))
    second, state = train(start("shuffled"), state=state, stop=(1, 4))
    third, _ = train(start("shuffled"), state=state)
    assert whole == first + second + third
    assert 2 == len(third)


def test_a_state_of_the_last_batch_has_nothing_left_but_the_next_epoch() -> None:
    """Stopped between the last batch and the end of the loop."""
    _, state = train(start("shuffled"), stop=(0, 6))
    loader = start("shuffled")
    loader.load_state_dict(state["loader"])
    assert [] == list(loader)
    assert 6 == len(list(loader))


def test_to_leave_an_epoch_and_say_so_is_to_be_between_epochs() -> None:
    """After `end_epoch` the state is that of the next epoch's start, and its batches are all there."""
    loader = start("shuffled")
    for _ in loader:
        if loader.batches == 2:
            break
    assert 2 == loader.state_dict()["batches"]
    loader.end_epoch()
    assert (0, 0) == (loader.batches, loader.state_dict()["batches"])
    state = loader.state_dict()
    expected = [batch.tolist() for batch in loader]
    assert 6 == len(expected)
    loader.load_state_dict(state)
    assert expected == [batch.tolist() for batch in loader]


def test_a_resume_that_is_not_used_can_be_ended() -> None:
    """`end_epoch` after `load_state_dict` begins the next epoch instead of going on."""
    _, state = train(start("shuffled"), stop=(0, 2))
    loader = start("shuffled")
    loader.load_state_dict(state["loader"])
    loader.end_epoch()
    assert 6 == len(list(loader))


@pytest.mark.parametrize(("count", "batch_size", "here"), [(12, 3, 4), (10, 2, 5), (14, 2, 7)])
def test_inside_an_epoch_of_another_length_it_does_not_go_on(count: int, batch_size: int, here: int) -> None:
    """Other data or another batch size: refused in one line, and the loader stays as it was."""
    _, state = train(start("shuffled"), stop=(0, 2))
    loader = ResumableLoader(DataLoader(Numbers(count), batch_size=batch_size, shuffle=True))
    before = str(loader.state_dict())
    message = (
        f"stopped inside an epoch of 6 batches of 2, here an epoch has {here} batches of {batch_size}; use the same "
        "data and batch size, or go on from the end of an epoch"
    )
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        loader.load_state_dict(state["loader"])
    assert before == str(loader.state_dict())


def test_another_batch_size_is_noticed_where_by_chance_an_epoch_has_as_many_batches() -> None:
    """11 samples in sixes are two batches, and so are they in tens."""
    loader = ResumableLoader(DataLoader(Numbers(11), batch_size=6))
    next(iter(loader))
    message = "stopped inside an epoch of 2 batches of 6, here an epoch has 2 batches of 10; use the same data"
    with pytest.raises(ValueError, match=message):
        ResumableLoader(DataLoader(Numbers(11), batch_size=10)).load_state_dict(loader.state_dict())


def test_between_epochs_the_length_may_change() -> None:
    """More data from the next epoch on is nobody's mistake; it is not bitwise the same, and that is said."""
    _, state = train(start("shuffled"), stop=(1, 0))
    loader = ResumableLoader(DataLoader(Numbers(20), batch_size=4, shuffle=True))
    line = "an epoch had 6 batches of 2, here 5 batches of 4; use the same data and batch size to go on exactly"
    assert [line] == loader.drift_from(state["loader"])
    loader.load_state_dict(state["loader"])
    assert 5 == len(list(loader))


@pytest.mark.parametrize("name", MAKES)
def test_the_same_loader_has_not_drifted(name: str) -> None:
    """Whatever its sampler, with a length or without; and a state of before the batch size was in it still loads."""
    state = start(name).state_dict()
    older = {key: value for key, value in state.items() if key != "batch_size"}
    for each in (state, older):
        assert [] == start(name).drift_from(each)
        start(name).load_state_dict(each)
        start(name).load_state_dict({**each, "batches": 1})


@pytest.mark.parametrize(
    ("name", "size"),
    [("shuffled", 2), ("a stream", 2), ("no batches", None), ("a sampler that draws at once", None)],
)
def test_the_state_says_how_many_samples_make_a_batch(name: str, size: int | None) -> None:
    """None where a batch sampler of somebody's own decides, or there are no batches."""
    assert size == start(name).state_dict()["batch_size"]


# -------------------------------------------------------------------------------------------------- what can be wrapped


@pytest.mark.parametrize(("thing", "found"), [([1, 2], "list"), (Numbers(), "Numbers"), (None, "NoneType")])
def test_only_a_data_loader_can_be_wrapped(thing: Any, found: str) -> None:
    """Said when it is made, not an epoch later."""
    with pytest.raises(TypeError, match=rf"^ResumableLoader: expected a DataLoader, found {found}$"):
        ResumableLoader(thing)


class Drawing(SequentialSampler):
    """A sampler with a generator of its own."""

    def __init__(self, generator: Any) -> None:
        super().__init__(range(4))
        self.generator = generator


class Choosing(BatchSampler):
    """A batch sampler with a generator of its own."""

    def __init__(self, sampler: Any, generator: Any) -> None:
        super().__init__(sampler, 2, drop_last=False)
        self.generator = generator


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: Choosing(Drawing(None), np.random.default_rng(1)), "numpy.random._generator.Generator"),
        (lambda: Choosing(Drawing(random.Random(1)), None), "random.Random"),
        (
            lambda: Choosing(Drawing(torch.Generator()), torch.Generator()),
            "torch._C.Generator, torch._C.Generator",
        ),
    ],
)
def test_samplers_whose_generators_cannot_be_saved_are_refused(make: Callable[[], Any], found: str) -> None:
    """One torch.Generator is what the state holds: another kind, or a second one, would not come back."""
    message = f"ResumableLoader: expected samplers that draw from one torch.Generator, found {found}"
    with pytest.raises(TypeError, match=rf"^{re.escape(message)}$"):
        ResumableLoader(DataLoader(Numbers(4), batch_sampler=make()))


def test_a_given_generator_is_drawn_from_once_and_left_alone() -> None:
    """Shared by two loaders, saved as an object of its own, drawn from by a validation: the order does not notice."""
    shared = torch.Generator().manual_seed(4)
    loader = ResumableLoader(DataLoader(Numbers(4), batch_sampler=Choosing(Drawing(shared), shared)))
    other = ResumableLoader(DataLoader(Numbers(4), shuffle=True, generator=shared))
    before = shared.get_state()
    state = loader.state_dict()["generator_state"]
    list(other)
    assert before.equal(shared.get_state())
    assert state.equal(loader.state_dict()["generator_state"])
    assert not state.equal(before)


def test_two_loaders_do_not_get_the_same_order() -> None:
    """Unpaired data would become paired, epoch after epoch."""
    torch.manual_seed(0)
    first, second = (ResumableLoader(DataLoader(Numbers(100), batch_size=100, shuffle=True)) for _ in range(2))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    shared = torch.Generator().manual_seed(0)
    loaders = [ResumableLoader(DataLoader(Numbers(100), 100, shuffle=True, generator=shared)) for _ in range(2)]
    assert next(iter(loaders[0])).tolist() != next(iter(loaders[1])).tolist()


def test_an_iterator_kept_beyond_its_epoch_is_refused() -> None:
    """Its place could not be saved: said at the next batch, not found out after a resume."""
    loader = ResumableLoader(DataLoader(Numbers(4)))
    kept = iter(loader)
    next(kept)
    loader.end_epoch()
    with pytest.raises(RuntimeError, match=r"this iteration ended with its epoch, .* call iter\(loader\) anew in each"):
        next(kept)
    peeked = iter(loader)
    next(peeked)
    assert 4 == len(list(loader))
    with pytest.raises(RuntimeError, match="or another one began since"):
        next(peeked)


def test_wrapping_a_wrapper_wraps_what_is_in_it() -> None:
    """A cell `loader = ResumableLoader(loader)` that is run twice; and what a DataLoader has is there."""
    loader = ResumableLoader(DataLoader(Numbers(4), batch_size=2))
    again = ResumableLoader(loader)
    assert [[0, 1], [2, 3]] == [batch.tolist() for batch in again]
    assert (4, 2) == (len(again.dataset), again.batch_size)
    with pytest.raises(AttributeError):
        again.nothing  # noqa: B018


def test_workers_that_lived_before_the_wrapping_do_not_matter() -> None:
    """Persistent workers keep the order that they were started with: the wrapper starts its own."""
    raw = DataLoader(Numbers(6), batch_size=2, num_workers=1, persistent_workers=True)
    next(iter(raw))
    loader = ResumableLoader(raw)
    loader.load_state_dict({**loader.state_dict(), "batches": 2})
    assert [[4, 5]] == [batch.tolist() for batch in loader]


def test_the_length_is_that_of_the_loader() -> None:
    """In batches; what has none says so, and its state holds none."""
    assert [6, 5, 6, 6] == [
        len(start(name)) for name in ("shuffled", "last batch dropped", "no batches", "batch sampler")
    ]
    for name in ("a stream", "a sampler without a length"):
        with pytest.raises(TypeError):
            len(start(name))
        assert start(name).state_dict()["length"] is None


def test_a_stream_in_persistent_workers_begins_anew_each_epoch() -> None:
    """Workers that live on would go on with their old random states: a resumed run could not follow."""
    from torch.utils.data import IterableDataset

    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            yield from torch.rand(6)

    def loader() -> ResumableLoader[torch.Tensor]:
        torch.manual_seed(0)
        return ResumableLoader(DataLoader(Stream(), batch_size=2, num_workers=1, persistent_workers=True))

    straight = loader()
    first = [batch.tolist() for batch in straight]
    state = straight.state_dict()
    second = [batch.tolist() for batch in straight]
    resumed = loader()
    resumed.load_state_dict(state)
    assert second == [batch.tolist() for batch in resumed]
    assert first != second


def test_a_samplers_other_users_are_left_alone() -> None:
    """Two wrappers of one loader, or the loader itself read in between: each follows its own order."""
    raw = DataLoader(Numbers(8), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(0))
    loader = ResumableLoader(raw)
    state = loader.state_dict()
    expected = [batch.tolist() for batch in loader]
    loader.load_state_dict(state)
    other, found = ResumableLoader(raw), []
    for batch in loader:
        found.append(batch.tolist())
        list(raw)
        list(other)
    assert expected == found
