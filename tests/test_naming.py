"""A parameter keeps its name under any wrapper, and an optimizer's state finds its parameter by that name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from koemorph_tutorial.naming import (
    Match,
    describe_parameters,
    match_optimizer,
    plain_name,
    unwrap,
)

compiled = partial(torch.compile, backend="eager")  # wraps in the same way and brings no compiler
Make = Callable[[nn.Module], torch.optim.Optimizer]


class Net(nn.Module):
    """Two layers of one shape, so that a mistake is silent unless names are looked at."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.second = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def net(width: int = 3) -> Net:
    torch.manual_seed(0)
    return Net(width)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take steps that depend on their number alone."""
    for step in steps:
        optimizer.zero_grad()
        x = torch.linspace(-1, 1, 12).reshape(4, 3) * (step + 1)
        model(x).square().sum().backward()
        optimizer.step()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1)


def backwards(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(model.parameters())[::-1], lr=0.1)


def named(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.named_parameters(), lr=0.1)


def named_backwards(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(model.named_parameters())[::-1], lr=0.1)


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def momentum_backwards(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(model.parameters())[::-1], lr=0.01, momentum=0.9)


def grouped(model: nn.Module) -> torch.optim.Optimizer:
    first, second = list(model.first.parameters()), list(model.second.parameters())
    return torch.optim.AdamW([{"params": first, "lr": 0.01}, {"params": second}], lr=0.1)


def grouped_backwards(model: nn.Module) -> torch.optim.Optimizer:
    first, second = list(model.first.parameters())[::-1], list(model.second.parameters())[::-1]
    return torch.optim.AdamW([{"params": first, "lr": 0.01}, {"params": second}], lr=0.1)


def saved(make: Make, model: nn.Module | None = None) -> tuple[dict[str, Any], list[Any]]:
    """Return the state and the description of an optimizer that has taken three steps."""
    model = net() if model is None else model
    optimizer = make(model)
    train(model, optimizer, range(3))
    described = describe_parameters({"model": model, "optimizer": optimizer})["optimizer"]
    return copy.deepcopy(optimizer.state_dict()), described


def matched(make: Make, state: dict[str, Any], described: Any, model: nn.Module | None = None) -> Match:
    model = net() if model is None else model
    return match_optimizer("optimizer", make(model), state, described, {"model": model})


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda model: model, id="as it is"),
        pytest.param(nn.DataParallel, id="data parallel"),
        pytest.param(compiled, id="compiled"),
        pytest.param(lambda model: nn.DataParallel(compiled(model)), id="compiled, then data parallel"),
        pytest.param(lambda model: compiled(nn.DataParallel(model)), id="data parallel, then compiled"),
    ],
)
def test_a_wrapper_changes_no_name(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Wrapped or not, the names and shapes in the file are those of the model inside."""
    model = net()
    wrapped = wrap(model)
    optimizer = adamw(wrapped)
    expected = [
        {"name": "model.first.weight", "shape": [3, 3]},
        {"name": "model.first.bias", "shape": [3]},
        {"name": "model.second.weight", "shape": [3, 3]},
        {"name": "model.second.bias", "shape": [3]},
    ]
    assert {"optimizer": [expected]} == describe_parameters({"model": wrapped, "optimizer": optimizer})
    assert model is unwrap(wrapped)


def test_a_compiled_part_changes_no_name() -> None:
    """The name that torch.compile puts into the middle is taken out."""
    model = net()
    model.second = compiled(model.second)
    assert any("_orig_mod" in name for name, _ in model.named_parameters())
    described = describe_parameters({"model": model, "optimizer": adamw(model)})
    assert [f"model.{name}" for name, _ in net().named_parameters()] == [e["name"] for e in described["optimizer"][0]]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("weight", "weight"),
        ("_orig_mod.weight", "weight"),
        ("encoder._orig_mod.0._orig_mod.weight", "encoder.0.weight"),
        ("module.weight", "module.weight"),
        ("_orig_modx.weight", "_orig_modx.weight"),
    ],
)
def test_only_what_torch_compile_put_there_is_taken_out(name: str, plain: str) -> None:
    """A layer called module is the caller's own."""
    assert plain == plain_name(name)


@pytest.mark.parametrize("item", [net(), torch.Generator(), "text", None, {"_orig_mod": 1}])
def test_what_is_not_wrapped_stays_what_it_is(item: Any) -> None:
    """Nothing else is unwrapped."""
    assert item is unwrap(item)


def test_an_attribute_called_like_a_wrappers_is_no_wrapper() -> None:
    """A model that keeps something else under torch.compile's name is not taken apart."""
    model = net()
    model._orig_mod = "a note"
    assert model is unwrap(model)


def test_each_group_and_each_optimizer_is_described() -> None:
    """A parameter of no module among the objects has a shape and no name."""
    generator, critic = net(), nn.Linear(2, 1)
    objects = {
        "generator": generator,
        "critic": critic,
        "optimizer": grouped(generator),
        "critic_optimizer": torch.optim.SGD([critic.bias, nn.Parameter(torch.zeros(2, 5))], lr=0.1),
        "scheduler": object(),
    }
    described = describe_parameters(objects)
    assert ["optimizer", "critic_optimizer"] == list(described)
    assert [
        ["generator.first.weight", "generator.first.bias"],
        ["generator.second.weight", "generator.second.bias"],
    ] == [[entry["name"] for entry in group] for group in described["optimizer"]]
    assert [[{"name": "critic.bias", "shape": [1]}, {"name": None, "shape": [2, 5]}]] == described["critic_optimizer"]


def test_a_parameter_of_two_modules_has_the_name_of_the_first() -> None:
    """Tied weights and an averaged copy's source have one name."""
    model = net()
    described = describe_parameters({"model": model, "again": nn.Sequential(model), "optimizer": adamw(model)})
    assert {"model"} == {entry["name"].partition(".")[0] for entry in described["optimizer"][0]}


# ------------------------------------------------------------------------------------------------------------- matching


@pytest.mark.parametrize(
    ("before", "after", "permuted"),
    [
        (adamw, adamw, False),
        (adamw, backwards, True),
        (backwards, adamw, True),
        (named, named, False),
        (named, named_backwards, True),
        (named, adamw, False),
        (adamw, named_backwards, True),
        (momentum, momentum, False),
        (momentum, momentum_backwards, True),
        (grouped, grouped, False),
        (grouped, grouped_backwards, True),
    ],
)
def test_training_goes_on_bitwise_the_same_in_whatever_order_the_parameters_stand(
    before: Make, after: Make, permuted: bool
) -> None:
    """Each parameter goes on with its own moments; that the order was another is said."""
    straight = net()
    optimizer = before(straight)
    train(straight, optimizer, range(3))
    described = describe_parameters({"model": straight, "optimizer": optimizer})["optimizer"]
    weights, state = copy.deepcopy(straight.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(straight, optimizer, range(3, 6))

    resumed = net()
    resumed.load_state_dict(weights)
    taking_over = after(resumed)
    match = match_optimizer("optimizer", taking_over, state, described, {"model": resumed})
    assert ([], permuted) == (match.problems, match.permuted)
    match.fill()
    train(resumed, taking_over, range(3, 6))
    assert [] == [name for name, value in straight.state_dict().items() if not value.equal(resumed.state_dict()[name])]


def weights(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([model.first.weight, model.second.weight], lr=0.1)


def weights_backwards(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([model.second.weight, model.first.weight], lr=0.1)


def test_without_names_parameters_of_one_shape_would_swap_their_moments() -> None:
    """The harm that names prevent: torch loads without a word, and each goes on with a stranger's moments."""
    state, described = saved(weights)
    first, second = (state["state"][place]["exp_avg"] for place in (0, 1))
    assert not first.equal(second)
    for description, expected in ((None, second), (described, first)):
        model = net()
        optimizer = weights_backwards(model)
        match = match_optimizer("optimizer", optimizer, state, description, {"model": model})
        assert ([], description is not None) == (match.problems, match.permuted)
        match.fill()
        assert expected.equal(optimizer.state[model.first.weight]["exp_avg"])


def test_the_names_of_a_permuted_optimizer_stay_beside_their_parameters() -> None:
    """An optimizer built from named parameters keeps its own list of names, in its own order."""
    state, described = saved(named)
    model = net()
    optimizer = named_backwards(model)
    match_optimizer("optimizer", optimizer, state, described, {"model": model}).fill()
    assert ["second.bias", "second.weight", "first.bias", "first.weight"] == optimizer.param_groups[0]["param_names"]
    assert ["first.weight", "first.bias", "second.weight", "second.bias"] == state["param_groups"][0]["param_names"]


def test_to_match_fills_nothing() -> None:
    """Neither the optimizer nor the saved state changes before `fill`."""
    state, described = saved(adamw)
    kept = copy.deepcopy(state)
    model = net()
    optimizer = backwards(model)
    match_optimizer("optimizer", optimizer, state, described, {"model": model})
    assert {} == dict(optimizer.state)
    assert str(kept) == str(state)


def only_first(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.first.parameters(), lr=0.1)


def only_second(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.second.parameters(), lr=0.1)


def regrouped(model: nn.Module) -> torch.optim.Optimizer:
    (w1, b1), (w2, b2) = model.first.parameters(), model.second.parameters()
    return torch.optim.AdamW([{"params": [w1, w2]}, {"params": [b1, b2]}], lr=0.1)


def swapped(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": model.second.parameters()}, {"params": model.first.parameters()}], lr=0.1)


FIRST = "model.first.weight (3, 3), model.first.bias (3,)"
SECOND = "model.second.weight (3, 3), model.second.bias (3,)"
CURE = "; give it the parameters it was saved with, grouped as then"


@pytest.mark.parametrize(
    ("before", "after", "width", "problems"),
    [
        (adamw, grouped, 3, ["expected 2 parameter groups, found 1 in the file; group them as they were"]),
        (grouped, adamw, 3, ["expected 1 parameter groups, found 2 in the file; group them as they were"]),
        (adamw, only_first, 3, [f"group 0: 2 only in this group of the file: {SECOND}{CURE}"]),
        (only_first, adamw, 3, [f"group 0: 2 not in the file: {SECOND}{CURE}"]),
        (
            only_first,
            only_second,
            3,
            [f"group 0: 2 not in the file: {SECOND}; 2 only in this group of the file: {FIRST}{CURE}"],
        ),
        (
            grouped,
            regrouped,
            3,
            [
                "group 0: 1 in another group of the file: model.second.weight of its group 1; 1 only in this group of "
                f"the file: model.first.bias (3,){CURE}",
                "group 1: 1 in another group of the file: model.first.bias of its group 0; 1 only in this group of the "
                f"file: model.second.weight (3, 3){CURE}",
            ],
        ),
        (
            grouped,
            swapped,
            3,
            [
                "group 0: 2 in another group of the file: model.second.bias of its group 1, model.second.weight of its "
                f"group 1; 2 only in this group of the file: {FIRST}{CURE}",
                "group 1: 2 in another group of the file: model.first.bias of its group 0, model.first.weight of its "
                f"group 0; 2 only in this group of the file: {SECOND}{CURE}",
            ],
        ),
        (
            adamw,
            backwards,
            4,
            [
                "group 0: 3 of another shape: model.second.weight (expected (3, 4), found (3, 3)), model.first.bias "
                "(expected (4,), found (3,)), model.first.weight (expected (4, 3), found (3, 3))"
            ],
        ),
        (momentum, momentum, 3, []),
    ],
)
def test_what_does_not_fit_is_said_group_by_group(before: Make, after: Make, width: int, problems: list[str]) -> None:
    """Names and shapes, expected and found."""
    state, described = saved(before)
    assert problems == matched(after, state, described, net(width)).problems


def test_at_most_five_names_are_listed() -> None:
    """A message stays one line that can be read."""
    layers = [nn.Linear(1, 1) for _ in range(8)]
    optimizer = torch.optim.SGD(nn.ModuleList(layers[:4]).parameters(), lr=0.1)
    described = describe_parameters({"old": nn.ModuleList(layers[:4]), "optimizer": optimizer})["optimizer"]
    new = nn.ModuleList(layers[4:])
    taking_over = torch.optim.SGD(new.parameters(), lr=0.1)
    (problem,) = match_optimizer("optimizer", taking_over, optimizer.state_dict(), described, {"new": new}).problems
    assert (
        "group 0: 8 not in the file: new.0.weight (1, 1), new.0.bias (1,), new.1.weight (1, 1), new.1.bias (1,), "
        "new.2.weight (1, 1) and 3 more; 8 only in this group of the file: old.0.weight (1, 1), "
    ) == problem.partition("old.0.bias")[0]


# ------------------------------------------------------------------------------------------------- without descriptions


@pytest.mark.parametrize("make", [adamw, momentum])
def test_a_file_of_the_recipe_is_matched_by_order_and_by_the_shapes_of_the_moments(make: Make) -> None:
    """It stores no names; what the moments show is checked, and another model is refused."""
    state, _ = saved(make)
    match = matched(make, state, None)
    assert ([], False) == (match.problems, match.permuted)
    (problem,) = matched(make, state, None, net(4)).problems
    assert problem.startswith("group 0: 3 of another shape: model.first.weight (expected (4, 3), found (3, 3)), ")


def test_a_file_of_the_recipe_that_shows_no_shape_is_taken_by_order() -> None:
    """Plain SGD keeps nothing per parameter, so there is nothing to be wrong about."""
    state, _ = saved(lambda model: torch.optim.SGD(model.parameters(), lr=0.5))
    model = net(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    match = match_optimizer("optimizer", optimizer, state, None, {"model": model})
    assert [] == match.problems
    match.fill()
    assert 0.5 == optimizer.param_groups[0]["lr"]


def test_parameters_of_no_module_are_matched_by_order_and_shape() -> None:
    """A free parameter has no name on either side."""
    free = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    optimizer = torch.optim.SGD(free, lr=0.1)
    described = describe_parameters({"optimizer": optimizer})["optimizer"]
    same = torch.optim.SGD([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))], lr=0.1)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))], lr=0.1)
    assert [] == match_optimizer("optimizer", same, optimizer.state_dict(), described, {}).problems
    assert [
        "group 0: 2 of another shape: parameter 0 (expected (3,), found (2,)), parameter 1 (expected (2,), found (3,))"
    ] == (match_optimizer("optimizer", other, optimizer.state_dict(), described, {}).problems)


def test_lbfgs_in_another_order_is_refused() -> None:
    """Its history is one flat vector over all parameters: nothing in it can be found by name."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first, second = (
        torch.optim.LBFGS(parameters) for parameters in (list(model.parameters()), list(model.parameters())[::-1])
    )
    described = describe_parameters({"model": model, "optimizer": first})["optimizer"]
    match = match_optimizer("optimizer", second, first.state_dict(), described, {"model": model})
    assert ["LBFGS keeps one history for all parameters: hand them over in the order in which it was saved"] == (
        match.problems
    )
