"""The random generators of a process come back to the bit, cached normal numbers included, or not at all."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from koemorph_tutorial.loading import ResumableLoader
from koemorph_tutorial.plain import check_plain
from koemorph_tutorial.records import MismatchError
from koemorph_tutorial.rng import capture_rng, kept_rng, loaders_without_generator, prepare_rng, restore_rng

DRAWS: dict[str, Callable[[], Any]] = {
    "python random": random.random,
    "python gauss": lambda: random.gauss(0, 1),
    "python shuffle": lambda: random.sample(range(100), 5),
    "numpy random": lambda: float(np.random.random()),
    "numpy normal": lambda: float(np.random.normal()),
    "numpy integers": lambda: int(np.random.randint(1 << 30)),
    "torch rand": lambda: float(torch.rand(())),
    "torch randn": lambda: float(torch.randn(())),
    "torch permutation": lambda: torch.randperm(9).tolist(),
}


@pytest.fixture(autouse=True)
def own_generators() -> Iterator[None]:
    """Seed everything before a test and put all back after it, numpy's kind of generator included."""
    kind, before = np.random.get_bit_generator(), capture_rng()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    yield
    np.random.set_bit_generator(kind)
    restore_rng(before)


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def draw_all() -> list[Any]:
    return [draw() for draw in DRAWS.values()]


# ------------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_what_is_drawn_next_is_drawn_again(name: str, before: int) -> None:
    """After an odd count of normal numbers as well, where the second of a pair lies cached."""
    draw = DRAWS[name]
    for _ in range(before):
        draw()
    state = through_a_file(capture_rng())
    expected = [draw() for _ in range(5)]
    draw_all()
    restore_rng(state)
    assert expected == [draw() for _ in range(5)]


def test_all_generators_come_back_together() -> None:
    """Each kind of draw, interleaved."""
    draw_all()
    state = through_a_file(capture_rng())
    expected = [draw_all() for _ in range(3)]
    restore_rng(state)
    assert expected == [draw_all() for _ in range(3)]


def test_the_cached_normal_numbers_are_in_the_state() -> None:
    """One draw leaves the second of its pair behind, in python and in numpy."""
    empty = capture_rng()
    random.gauss(0, 1)
    np.random.normal()
    full = capture_rng()
    assert (None, 0) == (empty["python"]["gauss_next"], empty["numpy"]["has_gauss"])
    assert (float, 1) == (type(full["python"]["gauss_next"]), full["numpy"]["has_gauss"])


def test_a_state_is_plain_and_asking_for_it_moves_nothing() -> None:
    """Tensors and numbers only; asked twice it is the same."""
    state = capture_rng()
    check_plain(state)
    expected = draw_all()
    restore_rng(state)
    capture_rng()
    assert expected == draw_all()
    assert ["python", "numpy", "torch", "cuda"] == list(state)


def test_a_state_does_not_move_with_its_generator() -> None:
    """What was captured is a copy: it can be applied again and again."""
    state = capture_rng()
    expected = draw_all()
    for _ in range(2):
        restore_rng(state)
        assert expected == draw_all()


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64])
def test_another_kind_of_numpy_generator_comes_back_too(kind: Any) -> None:
    """numpy lets the global generator be replaced; their states hold numbers of 64 and 128 bits."""
    np.random.set_bit_generator(kind(5))
    np.random.normal()
    np.random.randint(9, dtype=np.int32)  # leaves half of a 64-bit number behind
    state = through_a_file(capture_rng())
    expected = draw_all()
    restore_rng(state)
    assert expected == draw_all()


# ------------------------------------------------------------------------------------------------------------- in parts


@pytest.mark.parametrize("part", ["python", "numpy", "torch"])
def test_a_generator_without_a_state_is_left_alone(part: str) -> None:
    """Only what is in the state is put back."""
    state = {name: value for name, value in capture_rng().items() if name != part}
    draw_all()
    moved = capture_rng()
    restore_rng(state)
    now = through_a_file(capture_rng())
    assert str(moved[part]) == str(now[part])
    others = [name for name in ("python", "numpy", "torch") if name != part]
    assert [str(state[name]) for name in others] == [str(now[name]) for name in others]


def test_an_empty_state_changes_nothing() -> None:
    """A file of the recipe holds none."""
    before = str(capture_rng())
    restore_rng({})
    assert before == str(capture_rng())


def test_nothing_is_applied_before_it_is_asked_for() -> None:
    """To prepare is to check; the function that comes back applies."""
    state = capture_rng()
    expected = draw_all()
    moved = str(capture_rng())
    apply = prepare_rng(state)
    assert moved == str(capture_rng())
    apply()
    assert expected == draw_all()


def test_what_draws_meanwhile_moves_nothing_even_if_it_fails() -> None:
    """The generators are put back whatever happens, and the state is the one from before."""
    own = str(capture_rng())
    with pytest.raises(ZeroDivisionError), kept_rng() as state:
        before = str(state)
        draw_all()
        raise ZeroDivisionError
    assert own == before == str(capture_rng())


def test_states_of_devices_that_are_not_here_are_passed_over() -> None:
    """Another number of CUDA devices is drift, which others report, and no error."""
    count = torch.cuda.device_count() + 1
    state = {**capture_rng(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * count}
    expected = draw_all()
    restore_rng(state)
    assert expected == draw_all()


# -------------------------------------------------------------------------------------------------------- broken states


def changed(part: str, **changes: Any) -> dict[str, Any]:
    state = capture_rng()
    return {**state, part: {**state[part], **changes}}


def numpy_state(key: Any = None, pos: Any = 1) -> dict[str, Any]:
    return {"key": capture_rng()["numpy"]["state"]["key"] if key is None else key, "pos": pos}


BROKEN = [
    ("python", lambda: {**capture_rng(), "python": None}, "'NoneType' object is not subscriptable"),
    ("python", lambda: changed("python", version=9), "state with version 9 passed to Random.setstate() of version 3"),
    ("python", lambda: changed("python", state=torch.arange(624)), "state vector is the wrong size"),
    ("python", lambda: changed("python", state=torch.full((625,), -1)), "can't convert negative value to unsigned int"),
    ("python", lambda: changed("python", state=torch.full((625,), 700)), "invalid state"),
    ("python", lambda: changed("python", state=[1, 2]), "'list' object has no attribute 'tolist'"),
    ("numpy", lambda: {**capture_rng(), "numpy": {}}, "'bit_generator'"),
    ("numpy", lambda: changed("numpy", bit_generator="PCG64"), "expected a MT19937 state, found PCG64"),
    ("numpy", lambda: changed("numpy", state={"pos": 1}), "'key'"),
    (
        "numpy",
        lambda: changed("numpy", state=numpy_state(torch.arange(623))),
        "expected 624 numbers and a place in them",
    ),
    (
        "numpy",
        lambda: changed("numpy", state=numpy_state(torch.arange(625))),
        "expected 624 numbers and a place in them",
    ),
    ("numpy", lambda: changed("numpy", state=numpy_state(pos=-1)), "expected 624 numbers and a place in them"),
    ("numpy", lambda: changed("numpy", state=numpy_state(pos=625)), "expected 624 numbers and a place in them"),
    ("numpy", lambda: changed("numpy", has_gauss="yes"), "an integer is required"),
    ("numpy", lambda: changed("numpy", gauss="low"), "must be real number, not str"),
    ("torch", lambda: {**capture_rng(), "torch": None}, "expected a torch.ByteTensor, but got NoneType"),
    (
        "torch",
        lambda: {**capture_rng(), "torch": torch.get_rng_state()[:-1]},
        "Expected a CPUGeneratorImplState of size",
    ),
    (
        "torch",
        lambda: {**capture_rng(), "torch": torch.get_rng_state().float()},
        "RNG state must be a torch.ByteTensor",
    ),
    ("torch", lambda: {**capture_rng(), "torch": torch.zeros_like(torch.get_rng_state())}, "Invalid mt19937 state"),
]


@pytest.mark.parametrize(("part", "broken", "why"), BROKEN)
def test_a_broken_state_is_refused_and_no_generator_moves(part: str, broken: Callable[[], Any], why: str) -> None:
    """One that cannot be applied refuses all, those that come before it included; the message says which and why."""
    state = broken()
    draw_all()
    before = str(capture_rng())
    start = f"rng_state.{part}: the state in the file cannot be applied ({why}"
    end = "); without it the run would go on with other random numbers"
    with pytest.raises(MismatchError, match=rf"^{re.escape(start)}.*{re.escape(end)}$"):
        restore_rng(state)
    assert before == str(capture_rng())


@pytest.mark.parametrize("broken", [[None], [torch.zeros(16)], 5])
def test_a_broken_state_of_a_gpu_is_refused_as_well(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is filled, though its device alone can say whether a whole one will do."""
    applied: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", applied.append)
    whole = [torch.zeros(16, dtype=torch.uint8)]
    restore_rng({"cuda": whole})
    assert [whole] == applied
    with pytest.raises(MismatchError, match=r"^rng_state\.cuda: the state in the file cannot be applied"):
        prepare_rng({"cuda": broken})


def test_a_state_of_another_kind_of_numpy_generator_is_refused() -> None:
    """The kind that draws here is not replaced behind the caller's back."""
    state = capture_rng()
    np.random.set_bit_generator(np.random.PCG64(5))
    before = str(capture_rng())
    with pytest.raises(MismatchError, match=r"^rng_state\.numpy: .*\(expected a PCG64 state, found MT19937\)"):
        restore_rng(state)
    assert before == str(capture_rng())


# -------------------------------------------------------------------------------------------------------------- loaders


def own() -> torch.Generator:
    return torch.Generator()


class Unknown:
    """A batch sampler of somebody's own, that does not say where its random numbers come from."""

    __len__ = None

    def __iter__(self) -> Any:
        return iter([[0]])


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (lambda: DataLoader(range(4), shuffle=True), True),
        (lambda: DataLoader(range(4), shuffle=True, batch_size=None), True),
        (lambda: DataLoader(range(4), sampler=WeightedRandomSampler([1.0] * 4, 4)), True),
        (lambda: DataLoader(range(4), sampler=SubsetRandomSampler(range(2)), generator=own()), True),
        (lambda: DataLoader(range(4), batch_sampler=BatchSampler(RandomSampler(range(4)), 2, False)), True),
        (lambda: DataLoader(range(4), shuffle=True, generator=own()), False),
        (lambda: DataLoader(range(4), sampler=WeightedRandomSampler([1.0] * 4, 4, generator=own())), False),
        (lambda: DataLoader(range(4)), False),
        (lambda: DataLoader(range(4), batch_sampler=Unknown()), False),
        (lambda: ResumableLoader(DataLoader(range(4), shuffle=True)), False),
    ],
)
def test_a_loader_that_shuffles_by_the_global_generator_is_told(loader: Callable[[], Any], said: bool) -> None:
    """The consequence in one line, and what to do; a ResumableLoader has a generator of its own."""
    line = (
        "loader shuffles by torch's global random numbers: whatever else draws from them changes its batches, and a "
        "resume inside an epoch gets others; give it a generator=torch.Generator() of its own"
    )
    assert [line] * said == loaders_without_generator({"model": nn.Linear(1, 1), "loader": loader()})
