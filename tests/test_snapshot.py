"""A snapshot is bitwise what the state was, whatever happens to the state, and takes no more memory the second time."""

from __future__ import annotations

import copy
import io
from collections import Counter, OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial.snapshot import Snapshot


def as_bytes(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def odd_state() -> dict[str, Any]:
    """Return tensors of every kind that a checkpoint may hold, several of which share memory."""
    base = torch.randn(10, 10)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    noted = torch.zeros(2)
    noted.note = "of somebody's"  # type: ignore[attr-defined]
    return {
        "base": base,
        "a view": base[2:5].t(),
        "every second": base[::2, 1:3],
        "no axis": torch.tensor(3.0),
        "empty": torch.empty(0, 3),
        "expanded": torch.ones(1).expand(5),
        "parameter": nn.Parameter(torch.randn(3)),
        "frozen": nn.Parameter(torch.randn(3), requires_grad=False),
        "of a graph": nn.Parameter(torch.randn(3)) * 2,
        "whole": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "half": torch.randn(3).bfloat16(),
        "conjugate": torch.view_as_complex(torch.randn(3, 2)).conj(),
        "negative": torch.view_as_complex(torch.randn(3, 2)).conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "with a note": noted,
        "two parameters of one memory": [nn.Parameter(base[0]), nn.Parameter(base[1])],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "milestones": Counter([3, 3, 5]),
        "nested": [1, (2, base), {"deep": [base[0]]}],
        "text": "声",
        "nothing": None,
    }


def test_a_file_of_the_copy_is_byte_for_byte_the_file_of_the_state() -> None:
    state = odd_state()
    assert as_bytes(state) == as_bytes(Snapshot().take(state))


def test_nothing_of_the_copy_moves_with_the_state() -> None:
    """Tensors in place, dicts, lists and counters: all that training changes."""
    state = odd_state()
    before = as_bytes(state)
    taken = Snapshot().take(state)
    with torch.no_grad():
        for value in (state["base"], state["parameter"], state["model"]["0.weight"], state["model"]["1.running_mean"]):
            value.fill_(7)
        for moments in state["optimizer"]["state"].values():
            moments["exp_avg"].data.mul_(3)
            moments["new"] = 1
    state["optimizer"]["param_groups"][0]["lr"] = 9.0
    state["milestones"][3] += 1
    state["nested"].append("more")
    state["model"]._metadata[""]["version"] = 99
    assert before == as_bytes(taken)
    assert before != as_bytes(state)


def test_the_state_is_left_alone() -> None:
    state = odd_state()
    before, grad = as_bytes(state), state["of a graph"].grad_fn
    random_state = torch.get_rng_state()
    Snapshot().take(state)
    assert before == as_bytes(state)
    assert grad is state["of a graph"].grad_fn
    assert torch.equal(random_state, torch.get_rng_state())


def test_the_memory_is_used_again_and_what_does_not_fit_is_given_back() -> None:
    def places(taken: dict[str, Any]) -> set[int]:
        return {tensor.untyped_storage().data_ptr() for tensor in taken.values()}

    snapshot = Snapshot()
    first = places(snapshot.take({"w": torch.randn(1000), "b": torch.randn(10)}))
    assert first == places(snapshot.take({"w": torch.randn(1000), "b": torch.randn(10)}))
    snapshot.take({"w": torch.randn(999)})
    assert 999 * 4 == sum(len(storage) for pile in snapshot._memory.values() for storage in pile)


def test_two_tensors_of_one_size_never_share_memory() -> None:
    snapshot = Snapshot()
    for _ in range(3):
        a, b = torch.randn(50), torch.randn(50)
        taken = snapshot.take({"a": a, "b": b})
        assert torch.equal(a, taken["a"])
        assert torch.equal(b, taken["b"])


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_the_kinds_of_containers_stay(kind: type[dict[str, Any]]) -> None:
    taken = Snapshot().take({"inner": kind(a=torch.zeros(2))})
    assert kind is type(taken["inner"])


def test_a_tensor_that_knows_itself_is_copied_once() -> None:
    loop: dict[str, Any] = {"w": torch.zeros(3)}
    loop["self"] = loop
    taken = Snapshot().take(loop)
    assert taken["self"]["w"] is taken["w"]


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["f4", "f8", "i8", "u1"])), min_size=1, max_size=6))
def test_any_states_one_after_another_come_out_as_they_were(sizes: list[tuple[int, str]]) -> None:
    dtypes = {"f4": torch.float32, "f8": torch.float64, "i8": torch.int64, "u1": torch.uint8}
    snapshot = Snapshot()
    for _ in range(2):
        state = {str(i): torch.randint(0, 9, (size,)).to(dtypes[kind]) for i, (size, kind) in enumerate(sizes)}
        before = copy.deepcopy(state)
        taken = snapshot.take(state)
        for tensor in state.values():
            tensor.fill_(1)
        assert as_bytes(before) == as_bytes(taken)


def test_parameters_with_gradients_are_copied_once_and_without_them() -> None:
    """Else a state of learned latents would take two or three times its size."""
    latents = nn.Parameter(torch.randn(1000))
    latents.grad = torch.randn(1000)
    snapshot = Snapshot()
    taken = snapshot.take({"latents": latents})
    assert isinstance(taken["latents"], nn.Parameter)
    assert None is taken["latents"].grad
    (pile,) = snapshot._memory.values()
    assert [taken["latents"].untyped_storage().data_ptr()] == [storage.data_ptr() for storage in pile]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_sparse_matrix_that_deepcopy_refuses_is_copied() -> None:
    matrix = torch.eye(3).to_sparse_csr()
    taken = Snapshot().take({"adjacency": matrix})["adjacency"]
    matrix.values().fill_(7)
    assert torch.equal(torch.eye(3), taken.to_dense())


def test_memory_is_taken_on_the_cpu_whatever_the_default_is() -> None:
    torch.set_default_device("meta")  # stands for an accelerator
    try:
        taken = Snapshot().take({"w": torch.zeros(2, device="cpu")})
    finally:
        torch.set_default_device(None)
    assert "cpu" == taken["w"].device.type
