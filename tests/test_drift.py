"""What was asked for at a resume against what the file says: each difference, which of the two is used, as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from koemorph_tutorial import CheckpointManager, load_checkpoint
from koemorph_tutorial.drift import ABSENT, Change, config_in_use, find_changes, settings_of, table
from koemorph_tutorial.records import Best, Position
from koemorph_tutorial.state import build, restore

Objects = dict[str, Any]


def sgd(**settings: Any) -> Objects:
    model = nn.Linear(2, 1)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), **{"lr": 0.1, **settings})}


def adamw(**settings: Any) -> Objects:
    model = nn.Linear(2, 1)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), **settings)}


def groups(first: float, second: float, **settings: Any) -> Objects:
    model = nn.Linear(2, 1)
    each = [{"params": [model.weight], "lr": first}, {"params": [model.bias], "lr": second}]
    return {"model": model, "optimizer": torch.optim.SGD(each, lr=0.1, **settings)}


def scheduled(make: Callable[[Any], Any], **settings: Any) -> Objects:
    items = sgd(**settings)
    return {**items, "scheduler": make(items["optimizer"])}


def learn(items: Objects, epochs: int = 3) -> None:
    """Move whatever moves."""
    for _ in range(epochs):
        items["model"](torch.ones(1, 2)).sum().backward()
        items["optimizer"].step()
        if "scheduler" in items:
            plateau = isinstance(items["scheduler"], lr_scheduler.ReduceLROnPlateau)
            items["scheduler"].step(*[1.0] * plateau)


def resumed(saved: Objects, here: Objects, config: Any = None, stored: Any = None) -> tuple[Change, ...]:
    """Train and save `saved`, fill `here` from it, and return what is not as it was asked for."""
    learn(saved)
    checkpoint = build(saved, epoch=0, position=Position(), metrics={}, best=Best(), run={}, config=stored, copy=True)
    before = settings_of(here)
    restore(checkpoint, here)
    return find_changes(before, settings_of(here), config, checkpoint["config"])


def rows(changed: tuple[Change, ...]) -> list[tuple[str, object, object, str]]:
    return [(row.name, row.in_file, row.asked, row.wins) for row in changed]


# ------------------------------------------------------------------------------------------- optimizers and schedulers


@pytest.mark.parametrize(
    ("saved", "here", "changed"),
    [
        pytest.param(sgd(), sgd(), [], id="the same"),
        pytest.param(sgd(lr=0.1), sgd(lr=0.001), [("optimizer.lr", 0.1, 0.001)], id="lr"),
        pytest.param(
            sgd(momentum=0.9),
            sgd(momentum=0.5, weight_decay=0.1),
            [("optimizer.momentum", 0.9, 0.5), ("optimizer.weight_decay", 0, 0.1)],
            id="two at once",
        ),
        pytest.param(adamw(betas=(0.9, 0.99)), adamw(), [("optimizer.betas", (0.9, 0.99), (0.9, 0.999))], id="betas"),
        pytest.param(adamw(betas=[0.9, 0.99]), adamw(betas=(0.9, 0.99)), [], id="a list for a tuple"),
        pytest.param(adamw(amsgrad=True), adamw(), [("optimizer.amsgrad", True, False)], id="amsgrad"),
        pytest.param(adamw(foreach=False), adamw(foreach=None), [], id="None for no"),
        pytest.param(adamw(lr=torch.tensor(0.5)), adamw(lr=0.5), [], id="a tensor for a number"),
        pytest.param(groups(0.1, 0.2), groups(0.1, 0.3), [("optimizer.lr (group 1)", 0.2, 0.3)], id="one group"),
        pytest.param(
            groups(0.1, 0.2),
            groups(0.3, 0.4),
            [("optimizer.lr (group 0)", 0.1, 0.3), ("optimizer.lr (group 1)", 0.2, 0.4)],
            id="each group otherwise",
        ),
        pytest.param(
            groups(0.1, 0.2, momentum=0.9), groups(0.1, 0.2), [("optimizer.momentum", 0.9, 0)], id="all groups alike"
        ),
    ],
)
def test_an_optimizer_is_used_as_the_file_says(saved: Objects, here: Objects, changed: list[Any]) -> None:
    """Each setting of each group: torch takes the file's without a word, so the row says so."""
    assert [(*row, "file") for row in changed] == rows(resumed(saved, here))


def step(every: int, gamma: float = 0.1) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.StepLR(optimizer, every, gamma)


def warm_up(first: int, then: int, at: int = 2) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, total_iters=first), lr_scheduler.StepLR(optimizer, then)],
        [at],
    )


def plateau(**settings: Any) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, **settings)


def one_cycle(most: float, steps: int = 10) -> Callable[[Any], Any]:
    return lambda optimizer: lr_scheduler.OneCycleLR(optimizer, most, total_steps=steps)


class Own(lr_scheduler.LRScheduler):
    """Somebody's own scheduler, with a setting and a counter."""

    def __init__(self, optimizer: Any, warm_up: int = 5) -> None:
        self.warm_up, self.seen = warm_up, 0
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        self.seen += 1
        return [lr * min(1, self.seen / self.warm_up) for lr in self.base_lrs]


@pytest.mark.parametrize(
    ("saved", "here", "changed"),
    [
        (step(2), step(2), []),
        (step(2), step(3, 0.5), [("scheduler.step_size", 2, 3), ("scheduler.gamma", 0.1, 0.5)]),
        (
            lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
            lambda o: lr_scheduler.CosineAnnealingLR(o, 20, 0.01),
            [("scheduler.T_max", 10, 20), ("scheduler.eta_min", 0.0, 0.01)],
        ),
        (
            lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
            lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4]),
            [("scheduler.milestones", [2, 4], [2, 4, 4])],
        ),
        (
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
            [],
        ),
        (plateau(patience=0), plateau(patience=0), []),
        (
            plateau(patience=0, min_lr=0.01),
            plateau(patience=5),
            [("scheduler.min_lrs", [0.01], [0]), ("scheduler.patience", 0, 5)],
        ),
        (lambda o: lr_scheduler.LambdaLR(o, lambda e: 0.9), lambda o: lr_scheduler.LambdaLR(o, lambda e: 0.8), []),
        (warm_up(4, 6), warm_up(4, 6), []),
        (
            warm_up(4, 6),
            warm_up(5, 7, at=3),
            [("scheduler.milestones", [2], [3]), ("scheduler.0.total_iters", 4, 5), ("scheduler.1.step_size", 6, 7)],
        ),
        (one_cycle(0.1), one_cycle(0.1), []),
        (Own, Own, []),
        (Own, lambda o: Own(o, 9), [("scheduler.warm_up", 5, 9)]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*the epoch parameter in:UserWarning", "ignore:Detected call of:UserWarning")
def test_a_schedulers_settings_are_told_from_its_counters(
    saved: Callable[[Any], Any], here: Callable[[Any], Any], changed: list[Any]
) -> None:
    """After three epochs its counters have moved, and the lr and momentum with them: nobody asked for these."""
    found = rows(resumed(scheduled(saved, momentum=0.9), scheduled(here, momentum=0.9)))
    assert sorted((*row, "file") for row in changed) == sorted(found)


def test_a_learning_rate_that_a_scheduler_moves_is_compared_as_it_was_to_begin_with() -> None:
    """After two halvings it is 0.025: said is 0.1 against 0.2, once, and not the scheduler's own note of it as well."""
    assert [("optimizer.lr", 0.1, 0.2, "file")] == rows(
        resumed(scheduled(step(1, 0.5)), scheduled(step(1, 0.5), lr=0.2))
    )
    # A scheduler that comes new to a run takes what the run began with.
    assert [] == rows(resumed(sgd(), scheduled(step(1, 0.5))))


def test_the_base_rates_of_a_scheduler_are_said_where_no_optimizer_says_them() -> None:
    """An optimizer that the file does not hold starts afresh; the scheduler's own rates are the file's."""
    saved, here = scheduled(step(1, 0.5)), scheduled(step(1, 0.5), lr=0.2)
    here["another"] = here.pop("optimizer")
    assert [("scheduler.base_lrs", [0.1], [0.2], "file")] == rows(resumed(saved, here))


def test_a_scaler_is_used_as_the_file_says() -> None:
    """How fast it grows is a setting, its scale is not; one that is switched off has neither."""

    def scaled(**settings: Any) -> Objects:
        return {**sgd(), "scaler": torch.amp.GradScaler("cpu", **settings)}

    found = rows(resumed(scaled(init_scale=4.0, growth_interval=5), scaled(init_scale=2.0)))
    assert [("scaler.growth_interval", 5, 2000, "file")] == found
    assert [] == rows(resumed(scaled(), scaled(enabled=False)))


# ---------------------------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("stored", "asked", "changed"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": [1, (2,)]}}, {"a": {"b": (1, [2])}}, []),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"training": {"epochs": 16}}, {"training": {"epochs": 20}}, [("training.epochs", 16, 20)]),
        ({"a": 1, "old": {"x": 2}}, {"a": 1, "new": None}, [("new", ABSENT, None), ("old.x", 2, ABSENT)]),
        ({"a": None}, {"a": False}, [("a", None, False)]),
        ({}, {"a": 1}, []),
        ({"a": 1}, {}, []),
        ({"a": 1}, None, []),
        (None, {"a": 1}, []),
    ],
)
def test_a_config_is_used_as_it_was_asked_for(stored: Any, asked: Any, changed: list[Any]) -> None:
    """By full names; where there was none, or none is given, there is nothing to compare."""
    assert [(*row, "asked") for row in changed] == rows(find_changes({}, {}, asked, stored))


def test_what_an_object_overrules_is_not_what_was_asked_for() -> None:
    """The same name and the same two values as a row of the optimizer: the file's is what is used."""

    def config(lr: float, epochs: int) -> dict[str, Any]:
        return {
            "training": {"lr": lr, "weight_decay": lr, "epochs": epochs},
            "learning_rate": lr,
            "warm": {"lr": 9 * lr},
        }

    asked = config(0.001, 20)
    changed = resumed(sgd(lr=0.1), sgd(lr=0.001), config=asked, stored=config(0.1, 16))
    assert [
        ("optimizer.lr", 0.1, 0.001, "file"),
        ("learning_rate", 0.1, 0.001, "file"),
        ("training.epochs", 16, 20, "asked"),
        ("training.lr", 0.1, 0.001, "file"),
        ("training.weight_decay", 0.1, 0.001, "asked"),
        ("warm.lr", 0.9, 0.009, "asked"),
    ] == [(name, pytest.approx(a), pytest.approx(b), wins) for name, a, b, wins in rows(changed)]

    used = config_in_use(asked, changed)
    assert {**asked, "learning_rate": 0.1, "training": {**asked["training"], "lr": 0.1}} == used
    assert 0.001 == asked["training"]["lr"]


def test_a_learning_rate_whose_beginning_nobody_knows_makes_no_row() -> None:
    """ReduceLROnPlateau keeps no note of what it was; what the config asked for is overruled all the same."""
    changed = resumed(
        scheduled(plateau(patience=0), lr=0.1), scheduled(plateau(patience=0), lr=0.2), {"lr": 0.2}, {"lr": 0.1}
    )
    assert [("lr", 0.1, 0.2, "file")] == rows(changed)
    changed = resumed(
        scheduled(plateau(patience=0), lr=0.1), scheduled(plateau(patience=0), lr=0.2), {"lr": 0.2}, {"old": 1}
    )
    assert [("lr", ABSENT, 0.2, "asked"), ("old", 1, ABSENT, "asked")] == rows(changed)


def test_a_config_that_names_its_optimizer_gets_no_second_row() -> None:
    """``optimizer: {lr: …}`` has the very name of the optimizer's own row."""
    changed = resumed(sgd(lr=0.1), sgd(lr=0.2), {"optimizer": {"lr": 0.2}}, {"optimizer": {"lr": 0.1}})
    assert [("optimizer.lr", 0.1, 0.2, "file")] == rows(changed)
    assert {"optimizer": {"lr": 0.1}} == config_in_use({"optimizer": {"lr": 0.2}}, changed)


# ----------------------------------------------------------------------------------------------------------- the table


def change(name: str, in_file: object, asked: object, wins: Any = "asked") -> Change:
    return Change(name=name, in_file=in_file, asked=asked, wins=wins)


def test_the_table_is_aligned() -> None:
    """What a reader sees at a resume."""
    assert [
        "setting          in the file  asked for  used",
        "optimizer.lr     0.1          0.001      the file's, with the state",
        "training.epochs  16           20         what was asked for",
        "note             absent       '声'       what was asked for",
    ] == table(
        [
            change("optimizer.lr", 0.1, 0.001, "file"),
            change("training.epochs", 16, 20),
            change("note", ABSENT, "声"),
        ]
    )
    assert [] == table([])


@pytest.mark.parametrize("wins", ["file", "asked"])
def test_the_table_fits_a_terminal(wins: Any) -> None:
    """A long list is cut, and from where the two differ on; a long name is cut; nothing in it moves the cursor."""
    speakers = [f"speaker_{number}" for number in range(50)]
    lines = table(
        [
            change("data.train_speakers", speakers, [*speakers[:40], "nobody"], wins),
            change("training.checkpoint.every_n_steps", None, 10_000_000, wins),
            change("x" * 300, "\x1b[2J" * 50, 1, wins),
        ]
    )
    assert max(map(len, lines)) <= 100
    assert "…', 'speaker_40" in lines[1]
    assert "…', 'nobody']" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_a_change_prints_as_a_sentence() -> None:
    """For a log."""
    row = change("optimizer.lr", 0.1, 0.001, "file")
    assert "optimizer.lr: 0.1 in the file, 0.001 asked for; used: the file's, with the state" == str(row)


def test_a_learning_rate_that_the_loop_itself_sets_is_no_change(tmp_path: Path) -> None:
    """Asked for is what was asked for before, and the config is left as it is. Another one is said, each time."""

    def run(epochs: int, lr: float) -> tuple[Change, ...]:
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        objects = {"model": model, "optimizer": optimizer}
        with CheckpointManager(tmp_path, objects, save_freq=1, config={"lr": lr}) as checkpoints:
            resumed = checkpoints.resume()
            for epoch in checkpoints.epochs(epochs):
                optimizer.param_groups[0]["lr"] = 0.001 / (epoch + 2)
                checkpoints.save({"loss": 1.0})
        return resumed.changed

    assert [(), (), ()] == [run(epochs, 0.001) for epochs in (1, 2, 3)]
    assert {"lr": 0.001} == load_checkpoint(tmp_path / "last_model.pth")["config"]
    for epochs in (4, 5):
        assert "optimizer.lr" in [change.name for change in run(epochs, 0.5)]
