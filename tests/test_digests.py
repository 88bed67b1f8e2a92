"""Two states have one digest exactly when they are equal to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koemorph_tutorial.digests import digest, file_content, leaves

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
    assert paths == ["", "a", "a[0]", "a[1]", "a[1].b", "3"]


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
