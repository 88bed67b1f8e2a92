"""Whether a state that another class saved can fill an optimizer or a scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, lr_scheduler

from koemorph_tutorial.kinds import kind_of_object, match_class


class Clipped(AdamW):
    """Somebody's AdamW, with something around its step."""


class Lion(Optimizer):
    """Somebody's optimizer that is made from none of torch's."""

    def __init__(self, parameters: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": 0.0})


class Gentle(lr_scheduler.StepLR):
    """Somebody's StepLR."""


def made(kind: Any, **settings: Any) -> Any:
    return kind([torch.zeros(2)], **settings)


def match(there: Any, here: Any, kind: str | None = "as saved") -> tuple[str, str]:
    return match_class(here, kind_of_object(there) if kind == "as saved" else kind, there.state_dict())


CURE = "build the optimizer that the run was saved with, or hand this one over under another name to start it afresh"


@pytest.mark.parametrize(
    ("there", "here", "problem", "drift"),
    [
        (AdamW, AdamW, "", ""),
        (SGD, AdamW, f"expected the state of AdamW, found that of SGD; {CURE}", ""),
        (AdamW, SGD, f"expected the state of SGD, found that of AdamW; {CURE}", ""),
        (Adam, AdamW, f"expected the state of AdamW, found that of Adam; {CURE}", ""),  # torch's AdamW is an Adam
        (RAdam, Adamax, f"expected the state of Adamax, found that of RAdam; {CURE}", ""),
        (AdamW, Clipped, "", "saved by AdamW, here it is Clipped"),
        (Clipped, AdamW, "", "saved by Clipped, here it is AdamW"),
        (Clipped, Clipped, "", ""),
        (Adam, Clipped, f"expected the state of Clipped, found that of Adam; {CURE}", ""),
        (Clipped, Adam, f"expected the state of Adam, found that of Clipped; {CURE}", ""),
        (Clipped, SGD, f"expected the state of SGD, found that of Clipped; {CURE}", ""),
        (Lion, Lion, "", ""),
        (Lion, AdamW, f"expected the state of AdamW, found that of Lion; {CURE}", ""),
        (AdamW, Lion, f"expected the state of Lion, found that of AdamW; {CURE}", ""),
    ],
)
def test_another_class_of_optimizer_is_refused(there: Any, here: Any, problem: str, drift: str) -> None:
    """Torch's own by name; somebody's own where it is made from the same one, and then it is said."""
    assert (problem, drift) == match(made(there), made(here))


def test_a_class_that_moved_to_another_module_is_the_same() -> None:
    """`python train.py` saves ``__main__.Lion``, and a notebook that imports it resumes ``train.Lion``."""
    assert ("", "") == match(made(Lion), made(Lion), "__main__.Lion")
    problem, _ = match(made(SGD), made(Lion), "__main__.Lion")
    assert problem.startswith("expected the state of Lion, found that of Lion;")


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, NAdam, RAdam, Adamax, torch.optim.LBFGS, torch.optim.Adagrad, Lion])
def test_a_file_that_does_not_say_fits_the_class_that_saved_it(kind: Any) -> None:
    """The recipe's format: the settings of the groups are all there is; a scheduler's beside them do not matter."""
    saved = made(kind)
    saved.param_groups[0]["name"] = "backbone"
    lr_scheduler.StepLR(saved, 1)
    assert ("", "") == match(saved, made(kind), None)


@pytest.mark.parametrize(
    ("there", "here", "found"),
    [(SGD, Adam, "SGD"), (Adam, SGD, "Adam"), (AdamW, Adam, "AdamW"), (Adam, AdamW, "Adam"), (NAdam, Adam, "NAdam")],
)
def test_a_file_that_does_not_say_shows_its_class_all_the_same(there: Any, here: Any, found: str) -> None:
    """By which settings there are, and Adam from AdamW by how the weights decay."""
    problem, _ = match(made(there), made(here), None)
    assert f"expected the state of {here.__name__}, found that of {found}; {CURE}" == problem
    problem, _ = match(made(there), made(Lion), None)
    assert problem.startswith(f"expected the state of Lion, found that of {found}; ")


def test_a_file_of_an_older_torch_fits() -> None:
    """It did not have all that says how to compute, and no word on the decay."""
    state = made(Adam).state_dict()
    for name in ("foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"):
        del state["param_groups"][0][name]
    assert ("", "") == match_class(made(Adam), None, state) == match_class(made(AdamW), None, state)


def stepped(kind: Any, **settings: Any) -> Any:
    return kind(made(SGD), **settings)


@pytest.mark.parametrize(
    ("there", "here", "problem", "drift"),
    [
        ((lr_scheduler.StepLR, 2), (lr_scheduler.StepLR, 3), "", ""),
        ((lr_scheduler.StepLR, 2), (lr_scheduler.ExponentialLR, 0.9), "ExponentialLR, found that of StepLR; build", ""),
        ((lr_scheduler.StepLR, 2), (Gentle, 2), "", "saved by StepLR, here it is Gentle"),
        ((Gentle, 2), (lr_scheduler.StepLR, 2), "", "saved by Gentle, here it is StepLR"),
        (
            (Gentle, 2),
            (lr_scheduler.ExponentialLR, 0.9),
            "ExponentialLR, found that of Gentle; build the scheduler",
            "",
        ),
    ],
)
def test_another_class_of_scheduler_is_refused(there: Any, here: Any, problem: str, drift: str) -> None:
    """It would take the other's settings as attributes that nobody reads."""
    (first, *a), (second, *b) = there, here
    found, said = match(first(made(SGD), *a), second(made(SGD), *b))
    assert (bool(problem), drift) == (bool(found), said)
    assert problem in found


def test_a_scheduler_of_a_file_that_does_not_say_is_looked_at_as_well() -> None:
    """Written before the format held the classes."""
    there, here = lr_scheduler.StepLR(made(SGD), 2), lr_scheduler.CosineAnnealingLR(made(SGD), 9)
    same = lr_scheduler.StepLR(made(SGD), 2)
    assert ("", "") == match(there, same, None) == match_class(same, None, {**there.state_dict(), "verbose": False})
    problem, _ = match(there, here, None)
    assert problem.startswith("expected the state of CosineAnnealingLR, found that of another class; build the sche")
