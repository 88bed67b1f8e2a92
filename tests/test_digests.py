"""Two states have one digest exactly when they are equal to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koemorph_tutorial.digests import UNKNOWN, digest, file_content, leaves

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain, plain)
def test_equal_states_and_no_others_have_one_digest(one: Any, other: Any) -> None:
    assert (repr(one) == repr(other)) <= (digest(one) == digest(other))
    if digest(one) == digest(other):
        assert one == other


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, -0.0]),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([1.0, torch.finfo().tiny]),
        [1.0, 0.0],
    ],
)
def test_a_tensor_is_its_kind_its_shape_and_every_bit(other: Any) -> None:
    assert digest({"a": torch.tensor([1.0, 0.0])}) == digest({"a": torch.tensor([1.0, 0.0])})
    assert digest({"a": torch.tensor([1.0, 0.0])}) != digest({"a": other})


def test_tensors_of_every_kind_have_one() -> None:
    kinds = (torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)
    states: list[Any] = [torch.ones(3, dtype=kind) for kind in kinds]
    states += [torch.ones(2, 3).t(), torch.tensor(1.0), torch.zeros(0), torch.nn.Parameter(torch.ones(1))]
    assert len(states) == len({digest(state) for state in states})


def test_a_leaf_has_the_path_by_which_it_is_reached() -> None:
    paths = [path for path, _ in leaves({"a": [1, {"b": 2}], 3: None})]
    assert paths == ["", "a", "a[0]", "a[1]", "a[1].b", "[3]"]


def test_a_file_that_torch_cannot_load_is_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert file_content(tmp_path / "a").keys() == {""}
    assert file_content(tmp_path / "a") != file_content(tmp_path / "b")


def test_names_and_clocks_of_our_own_format_do_not_count(tmp_path: Path) -> None:
    for name, moment in (("a", 1.0), ("b", 2.0)):
        content = {"format_version": 1, "run": {"line": name}, "epoch": 3}
        torch.save({**content, "metadata": {"timestamp": moment, "python": "3"}}, tmp_path / name)
    assert file_content(tmp_path / "a") == file_content(tmp_path / "b")
    assert "metadata.python" in file_content(tmp_path / "a")


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Silent:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return "Silent()"


@dataclass
class Held:
    inner: Any


def linear(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Linear(2, 2)


LONG = torch.arange(5000.0)
PAIRS: dict[str, tuple[Any, Any]] = {
    "a dataclass": (Held(LONG), Held(LONG + 1)),
    "a deque": (deque([LONG]), deque([LONG + 1])),
    "slots": (Slotted(1), Slotted(2)),
    "an object whose text says nothing": (Silent(LONG), Silent(LONG + 1)),
    "keys of two kinds": ({1: 1}, {"1": 1}),
    "a long array": (np.arange(5000.0), np.r_[np.arange(4999.0), 0.0]),
    "an array of objects": (np.array([LONG, 1], dtype=object), np.array([LONG + 1, 1], dtype=object)),
    "a module": (linear(0), linear(1)),
    "a generator of numpy": (np.random.default_rng(0), np.random.default_rng(1)),
    "a generator of torch": (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
    "a sparse tensor": (LONG.to_sparse(), (LONG + 1).to_sparse()),
    "huge numbers": (10**5000, 10**5000 + 1),
    "zeros": (0.0, -0.0),
    "a set": ({1, 2}, {1, 3}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_not_the_same_has_another_one(name: str) -> None:
    one, other = PAIRS[name]
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


def test_no_address_and_no_order_of_a_set_is_in_it() -> None:
    code = (
        "import functools; from koemorph_tutorial.digests import digest\n"
        "print(digest([frozenset([frozenset('ab'), frozenset('cd')]), lambda: 0, functools.partial(print), object()]))"
    )
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 == len({run(env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2", "3")})


def test_what_cannot_be_seen_says_so_and_nothing_is_raised() -> None:
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    assert UNKNOWN in dict(leaves(object()))[""]
    assert any(UNKNOWN in text for _, text in leaves(round_and_round))
    huge = torch.sparse_coo_tensor([[0], [1]], [1.0], (10**6, 10**6), check_invariants=True)
    for odd in (torch.nn.LazyLinear(2), torch.ones(2, device="meta"), huge):
        assert "" != digest(odd)
