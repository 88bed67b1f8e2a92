"""Tensors without their numbers: where they end, whether that is in the file, and that all of them are found."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial.stubs import StorageStub, TensorStub, find_tensors, item_bytes
from koemorph_tutorial.unpickling import Attributes, Opaque

SIZES = st.lists(st.integers(0, 4), max_size=4)


def test_every_dtype_that_torch_saves_has_its_size() -> None:
    """Unknown are parts of a byte, which torch.save refuses, and the quantized ones, whose storages are known."""
    dtypes = [value for value in vars(torch).values() if isinstance(value, torch.dtype)]
    wrong = {str(dtype)[6:] for dtype in dtypes if item_bytes(str(dtype)[6:]) != dtype.itemsize}
    assert wrong == {name for name in wrong if re.fullmatch(r"u?int[1-7]|qu?int\d.*", name) and not item_bytes(name)}
    quantized = ("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage", "QInt32Storage")
    assert [1, 1, 1, 1, 4] == [item_bytes(name) for name in quantized]


@settings(deadline=None)
@given(SIZES, st.data())
def test_a_tensor_ends_behind_its_last_number(shape: list[int], data: st.DataObject) -> None:
    """For any shape, step and beginning, it ends where the farthest of its numbers lies."""
    stride = data.draw(st.lists(st.integers(0, 5), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(0, 7))
    stub = TensorStub(tuple(shape), "int16", StorageStub("0", "int16", 100), offset, tuple(stride))
    whole = torch.arange(500)
    view = whole.as_strided(shape, stride, offset)
    assert view.numel() == stub.numbers
    assert (int(view.max()) + 1 if view.numel() else 0) == stub.end
    assert ("" if stub.end <= 100 else f"found one that ends at byte {2 * stub.end:,} of 200") == stub.misplaced(200)


@pytest.mark.parametrize(
    ("stub", "stored", "why"),
    [
        (TensorStub((2,), "float32", StorageStub("7", "float32", 2), 0, (1,)), 8, ""),
        (TensorStub((2,), "float32", StorageStub("7", "float32", 2), 0, (1,)), None, "found no record '7'"),
        (TensorStub((0,), "float32", StorageStub("7", "float32", 0), 0, (1,)), None, "found no record '7'"),
        (
            TensorStub((2,), "float32", StorageStub("7", "float32", 2), 0, (1,)),
            4,
            "found 4 bytes in record '7' where it says 8",
        ),
        (
            TensorStub((2,), "float32", StorageStub("7", "float32", 2), 0, (1,)),
            1200,
            "found 1,200 bytes in record '7' where it says 8",
        ),
        (
            TensorStub((2,), "float32", StorageStub("7", "float32", 2), 1, (1,)),
            8,
            "found one that ends at byte 12 of 8",
        ),
        (  # eight bytes each, in a storage of single bytes
            TensorStub((2,), "uint64", StorageStub("7", "uint8", 15), 0, (1,)),
            15,
            "found one that ends at byte 16 of 15",
        ),
        (
            TensorStub((2**62,), "float64", StorageStub("7", "float64", 2**62), 2**62, (2**62,)),
            2**65,
            f"found one that ends at byte {8 * (2**62 + (2**62 - 1) * 2**62 + 1):,} of {2**65:,}",
        ),
        (TensorStub((2,), "dream", StorageStub("7", "dream", 2), 0, (1,)), 8, ""),  # who can tell
        (TensorStub((2,), "int8", StorageStub("\n", "int8", 2), 0, (1,)), None, r"found no record '\\n'"),
    ],
)
def test_what_is_misplaced_is_said(stub: TensorStub, stored: int | None, why: str) -> None:
    """Without a record, of another size than it says, or beyond its end."""
    assert why == stub.misplaced(stored)


# ------------------------------------------------------------------------------------------------------- all of them

A, B, C = (TensorStub((n,), "int8", StorageStub(str(n), "int8", n), 0, (1,)) for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (A, {(): A}),
        ({"a": A, "b": [B, (C,)], 3: {"c": A}}, {("a",): A, ("b", 0): B, ("b", 1, 0): C, (3, "c"): A}),
        (Opaque("os.system", [(A, {"x": B})]), {(0, 0): A, (0, 1, "x"): B}),
        (Attributes(a=A, inner=Attributes(b=B)), {("a",): A, ("inner", "b"): B}),
        (StorageStub("7", "int16", 4), {(): TensorStub((4,), "int16")}),
        ({"none": None, "text": "x", "number": 3}, {}),
        (None, {}),
    ],
)
def test_every_tensor_is_found_with_its_keys(content: Any, found: dict[Any, TensorStub]) -> None:
    """In dicts, lists, tuples, attributes, and in what a stand-in was given; in their order."""
    assert list(found.items()) == list(find_tensors(content))


TREES = st.recursive(
    st.one_of(st.none(), st.integers(), st.sampled_from([A, B, C])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner),
        st.lists(inner, max_size=3).map(lambda items: Opaque("", items)),
    ),
    max_leaves=20,
)


def by_recursion(content: Any) -> list[TensorStub]:
    if isinstance(content, TensorStub):
        return [content]
    items = content.content if isinstance(content, Opaque) else content
    items = items.values() if isinstance(items, dict) else items
    return [stub for item in items or () for stub in by_recursion(item)] if not isinstance(items, int) else []


@given(TREES)
def test_none_is_forgotten_and_none_is_found_twice(content: Any) -> None:
    """As a walk by recursion finds them."""
    assert by_recursion(content) == [stub for _, stub in find_tensors(content)]


def test_a_container_that_is_there_twice_is_walked_once() -> None:
    """Also one that holds itself, and three times three times three … of one."""
    shared = {"a": A}
    assert [("x", "a")] == [keys for keys, _ in find_tensors({"x": shared, "y": shared})]
    round_and_round: dict[str, Any] = {"a": A}
    round_and_round["self"] = round_and_round
    assert [("a",)] == [keys for keys, _ in find_tensors(round_and_round)]
    laughs: Any = [A]
    for _ in range(500):
        laughs = [laughs, laughs, laughs]
    begin = time.process_time()
    assert 1 == len(list(find_tensors(laughs)))
    assert time.process_time() - begin < 5


def test_a_tensor_that_lies_deep_has_a_name_all_the_same() -> None:
    """That of what it lies in, 64 keys down; and no recursion."""
    deep: Any = [A, {"leaf": B}]
    for _ in range(100_000):
        deep = [deep]
    assert [((0,) * 64, A), ((0,) * 64, B)] == list(find_tensors(deep))
