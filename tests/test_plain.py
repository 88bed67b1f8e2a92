"""What is let into a checkpoint is what torch.load(weights_only=True) gives back, equal and of the same types."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import io
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import omegaconf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial.plain import check_plain
from koemorph_tutorial.records import UnsavableStateError


def loaded(value: Any) -> Any:
    """Return `value` as it comes back from a file."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Say whether two values are equal to the bit and of the same types, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad)
        as_bytes = [tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in (one, other)]
        return alike and torch.equal(*as_bytes) and same(vars(one), vars(other))
    if isinstance(one, dict):
        keys = len(one) == len(other) and all(map(same, one, other))
        attributes = same(vars(one), vars(other)) if isinstance(one, OrderedDict) else True
        return keys and attributes and all(map(same, one.values(), other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    return repr(one) == repr(other)  # tells 0.0 from -0.0, and NaN is itself


# -------------------------------------------------------------------------------------- whatever is accepted comes back

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
text = st.text(st.characters(), max_size=4)
whole = st.one_of(st.integers(), st.integers(-(2**2040), 2**2040), st.sampled_from([2**2039 - 1, 2**2039, -(2**2039)]))
hashable = st.recursive(
    st.one_of(st.none(), st.booleans(), whole, st.floats(allow_nan=False), text, st.binary(max_size=3)),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
tensors = st.builds(
    lambda dtype, shape, step: torch.arange(64).to(dtype)[: 16 // step].reshape(shape)[..., ::step],
    st.sampled_from(DTYPES),
    st.sampled_from([(-1,), (1, -1), (2, -1)]),
    st.sampled_from([1, 2]),
)
leaves = st.one_of(
    hashable,
    st.floats(),
    st.complex_numbers(),
    st.binary(max_size=4).map(bytearray),
    st.lists(st.integers(0, 9), max_size=3).map(torch.Size),
    st.sampled_from(
        [*DTYPES, torch.float8_e5m2, torch.device("cpu"), torch.device("cuda", 1), frozenset(), print, str]
    ),
    tensors,
    tensors.filter(lambda tensor: tensor.is_floating_point()).map(nn.Parameter),
    st.sets(hashable, max_size=3),
    st.dictionaries(hashable, st.integers(), max_size=3).map(Counter),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(hashable, inner, max_size=4),
        st.dictionaries(text, inner, max_size=3).map(OrderedDict),
        st.builds(lambda item: [item, item], inner),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_whatever_is_accepted_comes_back_as_it_was(value: Any) -> None:
    """Any structure: refused by its path, or read back equal and of the same types."""
    try:
        check_plain(value)
    except UnsavableStateError:
        return
    assert same(value, loaded(value))


class Half:
    """An object with a state, of whatever kind."""


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"epoch": 3, "metrics": {"loss": 0.5}, "config": {"lr": [1, 2.5, None, True]}}, id="plain"),
        pytest.param({2: "a", 2.5: "b", None: "c", (1, ("x", None)): "d", True: "e"}, id="keys"),
        pytest.param({"": {"": 1}, "a.b": {"[0]": 2}}, id="odd names"),
        pytest.param([2**2039 - 1, -(2**2039 - 1), 0, -1, 2**31, 2**63], id="large numbers"),
        pytest.param([b"\x00\xff", bytearray(), bytearray(b"\x00"), "\ud800", "声"], id="bytes and text"),
        pytest.param([set(), {1, "a", (2, None)}, 1j, torch.Size([]), torch.Size([2, 3])], id="rarer values"),
        pytest.param([torch.float32, torch.bfloat16, torch.device("cpu"), torch.device("cuda:1")], id="torch's own"),
        pytest.param([torch.tensor(1.5), torch.zeros(0, 3), torch.arange(12).reshape(3, 4).t()[1:, ::2]], id="views"),
        pytest.param(
            [torch.zeros(2, requires_grad=True), nn.Parameter(torch.zeros(2), requires_grad=False)], id="grad"
        ),
        pytest.param([Counter("abba"), Counter(), OrderedDict(b=1, a=OrderedDict(c=2))], id="dicts with a name"),
        pytest.param(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict(), id="a model"),
    ],
)
def test_what_training_states_are_made_of_is_accepted(value: Any) -> None:
    """Nothing is raised, and it comes back."""
    check_plain(value)
    assert same(value, loaded(value))


def test_the_states_of_optimizers_and_schedulers_are_accepted_with_their_types() -> None:
    """The betas stay a tuple, the milestones a Counter, the model's dict an OrderedDict with its versions."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for kind in (torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop):
        optimizer = kind(model.parameters(), lr=0.1)
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()
        schedulers = [
            torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5]),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
            torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        ]
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {str(place): scheduler.state_dict() for place, scheduler in enumerate(schedulers)}
        check_plain(state)
        back = loaded(state)
        assert same(state, back)
        assert (OrderedDict, Counter) == (type(back["model"]), type(back["0"]["milestones"]))
        assert back["model"]._metadata["1"] == {"version": 2}


def test_a_value_may_be_there_twice() -> None:
    """Only a container inside itself is refused, not one that two names share."""
    shared = [1, {"a": torch.zeros(2)}]
    check_plain({"one": shared, "two": [shared, shared]})


# ----------------------------------------------------------------------------------- whatever else is named by its path


class Color(enum.Enum):
    """Members are objects of a class of the caller's."""

    RED = "red"


class Level(enum.IntEnum):
    """Members are ints, but not plain ones."""

    HIGH = 3


class Pair(NamedTuple):
    """A tuple with a name."""

    left: int
    right: int


@dataclass
class Setting:
    """A value of a class of the caller's."""

    lr: float = 0.1


class Text(str):
    """A str that is not plain."""


class Marked(torch.Tensor):
    """A tensor that is not plain."""


def holding_itself() -> list[Any]:
    value: list[Any] = [1]
    value.append([value])
    return value


def with_attribute(value: Any, attribute: Any) -> Any:
    value.hook = attribute
    return value


REFUSED = [
    ("function", lambda: {"scheduler": {"fn": [print]}}, "scheduler.fn[0]", "builtin_function_or_method"),
    ("lambda", lambda: {"lr_lambdas": [lambda epoch: 1.0]}, "lr_lambdas[0]", "function"),
    ("class", lambda: {"kind": nn.Linear}, "kind", "type"),
    ("module", lambda: {"model": nn.Linear(1, 1)}, "model", "torch.nn.modules.linear.Linear"),
    ("numpy array", lambda: {"a": [1, np.zeros(2)]}, "a[1]", "numpy.ndarray"),
    ("path", lambda: {"config": {"out": Path("run")}}, "config.out", f"{type(Path()).__module__}.PosixPath"),
    ("enum", lambda: {"color": Color.RED}, "color", f"{__name__}.Color"),
    ("int enum", lambda: {"level": Level.HIGH}, "level", f"{__name__}.Level"),
    ("torch's version", lambda: {"v": torch.__version__}, "v", "torch.torch_version.TorchVersion"),
    ("str subclass", lambda: {"text": Text("a")}, "text", f"{__name__}.Text"),
    ("named tuple", lambda: {"pair": Pair(1, 2)}, "pair", f"{__name__}.Pair"),
    ("dataclass", lambda: {"setting": Setting()}, "setting", f"{__name__}.Setting"),
    ("object", lambda: {"a": ({"b": Half()},)}, "a[0].b", f"{__name__}.Half"),
    ("frozenset", lambda: {"names": frozenset("ab")}, "names", "frozenset"),
    ("in a set", lambda: {"names": {frozenset("ab")}}, "names[0]", "frozenset"),
    ("range", lambda: {"steps": range(3)}, "steps", "range"),
    ("slice", lambda: {"part": slice(3)}, "part", "slice"),
    ("date", lambda: {"day": datetime.date(2026, 1, 31)}, "day", "datetime.date"),
    ("decimal", lambda: {"lr": decimal.Decimal("0.1")}, "lr", "decimal.Decimal"),
    ("default dict", lambda: {"seen": defaultdict(int, a=1)}, "seen", "collections.defaultdict"),
    ("deque", lambda: {"losses": collections.deque([1.0])}, "losses", "collections.deque"),
    ("config", lambda: {"config": omegaconf.OmegaConf.create({"a": 1})}, "config", "omegaconf.dictconfig.DictConfig"),
    ("list config", lambda: {"c": omegaconf.OmegaConf.create([1])}, "c", "omegaconf.listconfig.ListConfig"),
    ("generator", lambda: {"rng": torch.Generator()}, "rng", "torch._C.Generator"),
    ("tensor subclass", lambda: {"m": torch.zeros(2).as_subclass(Marked)}, "m", f"{__name__}.Marked"),
    ("tensor's attribute", lambda: {"m": with_attribute(torch.zeros(2), [print])}, "m.hook[0]", "builtin_function_or"),
    (
        "parameter's attribute",
        lambda: {"m": with_attribute(nn.Parameter(torch.zeros(2)), nn.Linear)},
        "m.hook",
        "type",
    ),
    ("dict's attribute", lambda: {"m": with_attribute(OrderedDict(), print)}, "m.hook", "builtin_function_or_method"),
    ("key of text", lambda: {"m": {Text("a"): 1}}, "m.'a'", f"the key of type {__name__}.Text"),
    ("key of bytes", lambda: {b"": 1}, "b''", "the key of type bytes"),
    ("key of enum", lambda: {"m": {Color.RED: 1}}, "m.<Color.RED: 'red'>", f"the key of type {__name__}.Color"),
    ("in a tuple key", lambda: {"m": {(1, (2, b"")): 1}}, "m.<key>[1][1]", "empty bytes"),
    ("large key", lambda: {2**3000: 1}, "<key>", "a number of 3001 bits"),
    ("huge key", lambda: {"m": {10**5000: 1}}, "m.<key>", "a number of 16610 bits"),
    ("large number", lambda: {"seed": 2**2040}, "seed", "a number of 2041 bits"),
    ("empty bytes", lambda: {"data": b""}, "data", "empty bytes"),
    ("at the top", lambda: print, "checkpoint", "builtin_function_or_method"),
]


@pytest.mark.parametrize(("value", "path", "found"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_what_would_not_come_back_is_refused_by_its_path(value: Callable[[], Any], path: str, found: str) -> None:
    """The first such value is named, and what it is; and it really would not have come back."""
    message = f"{path}: expected numbers, text, tensors and containers of them, found {found}"
    with pytest.raises(UnsavableStateError, match=rf"^{re.escape(message)}[a-z_]*; nothing was saved\. \S"):
        check_plain(value())
    try:
        back = loaded(value())
    except Exception:  # whatever pickle or torch say
        return
    assert not same(value(), back)


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True)])
def test_a_numpy_number_is_refused_with_the_way_out(number: Any) -> None:
    """The commonest of all: a metric as numpy left it."""
    message = (
        f"metrics.loss: expected numbers, text, tensors and containers of them, found numpy.{type(number).__name__}; "
        "nothing was saved. Turn it into a plain number"
    )
    with pytest.raises(UnsavableStateError, match=rf"^{re.escape(message)}$"):
        check_plain({"metrics": {"loss": number}})


def test_a_state_of_somebody_elses_is_refused_with_the_way_out() -> None:
    """The literal message of what cannot be turned into something plain."""
    message = (
        "scheduler_state_dict.fn[0]: expected numbers, text, tensors and containers of them, found function; nothing "
        "was saved. Leave it out of the object's state_dict"
    )
    with pytest.raises(UnsavableStateError, match=rf"^{re.escape(message)}$"):
        check_plain({"epoch": 3, "scheduler_state_dict": {"fn": [lambda epoch: 1.0]}})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (holding_itself(), "[1][0]"),
        ({"state": holding_itself()}, "state[1][0]"),
        (with_attribute(OrderedDict(a=1), holding_itself()), "hook[1][0]"),
    ],
)
def test_a_container_that_holds_itself_is_refused(value: Any, path: str) -> None:
    """torch would read it back, but nothing that walks through a checkpoint would ever end."""
    with pytest.raises(UnsavableStateError, match=rf"^{re.escape(path)}: .* found a container that holds itself"):
        check_plain(value)


@pytest.mark.parametrize(("value", "found"), [(-(2**2039), "a number of 2040 bits"), (torch.strided, "torch.layout")])
def test_a_few_values_are_refused_though_torch_reads_them(value: Any, found: str) -> None:
    """The smallest number of 255 bytes, a layout: in no state, and not worth a rule of their own."""
    assert value == loaded(value)
    with pytest.raises(UnsavableStateError, match=re.escape(found)):
        check_plain(value)
