"""When to save: the table of the format's description row by row, and nothing but its arguments decides."""

from __future__ import annotations

import copy
import math
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial.records import Best, CheckpointFile, CheckpointSettings, Position, kind_of, numbered_name
from koemorph_tutorial.save_policy import Decision, decide

BEST, LAST = "best_model.pth", "last_model.pth"
KNOWN = Best(value=0.5, epoch=2)
BETTER, WORSE = {"loss": 0.4}, {"loss": 0.6}
WITHOUT = CheckpointSettings(milestones=())
BEST_ONLY = CheckpointSettings(save_best_only=True, save_freq=1, milestones=(7,))


def number(epoch: int) -> str:
    return f"checkpoint_epoch_{epoch:03d}.pth"


def file(name: str) -> CheckpointFile:
    return CheckpointFile(
        path=Path("run") / name,
        epoch=7,
        position=Position(epoch=8),
        kind=kind_of(name),
        codec=None,
        line="a",
        saves=3,
        metrics={},
        size=1,
        inode=1,
    )


def ask(made: CheckpointSettings = WITHOUT, **changes: Any) -> Decision:
    return decide(made, **{"epoch": 7, "global_step": 80, "metrics": WORSE, "best": KNOWN, **changes})


# ------------------------------------------------------------------------------------------------------- an epoch ended


@pytest.mark.parametrize(
    ("made", "epoch", "metrics", "names"),
    [
        pytest.param(WITHOUT, 5, WORSE, (number(5), LAST), id="due by save_freq"),
        pytest.param(WITHOUT, 0, WORSE, (number(0), LAST), id="epoch 0 is due"),
        pytest.param(WITHOUT, 1000, WORSE, (number(1000), LAST), id="due past 999"),
        pytest.param(CheckpointSettings(), 10, WORSE, (number(10), LAST), id="both due and a milestone"),
        pytest.param(CheckpointSettings(milestones=(7,)), 7, WORSE, (number(7), LAST), id="a milestone"),
        pytest.param(WITHOUT, 5, BETTER, (BEST, number(5), LAST), id="due and a new best"),
        pytest.param(WITHOUT, 5, {}, (number(5), LAST), id="due without metrics"),
        pytest.param(WITHOUT, 5, {"loss": math.nan}, (number(5), LAST), id="due and diverged"),
        pytest.param(WITHOUT, 7, BETTER, (BEST, LAST), id="a new best, not due: no number"),
        pytest.param(WITHOUT, 7, WORSE, (), id="none of these"),
        pytest.param(WITHOUT, 7, {"loss": 0.5}, (), id="a tie is no new best"),
        pytest.param(WITHOUT, 7, {"mae": 0.1}, (), id="another metric"),
        pytest.param(WITHOUT, 7, {"loss": -math.inf}, (), id="not finite"),
        pytest.param(BEST_ONLY, 7, BETTER, (BEST, LAST), id="best only: a new best"),
        pytest.param(BEST_ONLY, 7, WORSE, (), id="best only: save_freq and milestones are off"),
    ],
)
def test_when_an_epoch_ended(
    made: CheckpointSettings, epoch: int, metrics: dict[str, float], names: tuple[str, ...]
) -> None:
    """Which names are written, best put in place first and last put in place last."""
    decision = ask(made, epoch=epoch, metrics=metrics)
    assert names == decision.names
    expected = Best(value=0.4, epoch=epoch) if BEST in names else KNOWN
    assert expected == decision.best


@pytest.mark.parametrize(
    ("made", "epoch", "names"),
    [
        pytest.param(WITHOUT, 7, (LAST,), id="not due"),
        pytest.param(WITHOUT, 5, (number(5), LAST), id="due"),
        pytest.param(BEST_ONLY, 7, (LAST,), id="best only"),
    ],
)
def test_when_a_stop_was_asked_for_as_an_epoch_ended(
    made: CheckpointSettings, epoch: int, names: tuple[str, ...]
) -> None:
    """Last is written, numbered if it is due anyway, best if it is one."""
    assert names == ask(made, epoch=epoch, stopping=True).names
    assert (BEST, *names) == ask(made, epoch=epoch, stopping=True, metrics=BETTER).names


# ------------------------------------------------------------------------------------------------------ inside an epoch

STEPS = CheckpointSettings(every_n_steps=10)
MINUTES = CheckpointSettings(every_minutes=1.5)


@pytest.mark.parametrize(
    ("made", "changes", "reasons"),
    [
        pytest.param(STEPS, {"global_step": 80}, ("every 10 steps",), id="at a multiple"),
        pytest.param(STEPS, {"global_step": 81}, (), id="one after"),
        pytest.param(STEPS, {"global_step": 79}, (), id="one before"),
        pytest.param(STEPS, {"global_step": 81, "steps": 2}, ("every 10 steps",), id="two steps, over it"),
        pytest.param(STEPS, {"global_step": 82, "steps": 2}, (), id="two steps, after it"),
        pytest.param(STEPS, {"global_step": 84, "steps": 4}, (), id="accumulated, asked at the last one"),
        pytest.param(STEPS, {"global_step": 83, "steps": 4}, ("every 10 steps",), id="accumulated, over it"),
        pytest.param(STEPS, {"global_step": 87, "steps": 25}, ("every 10 steps",), id="more steps than n"),
        pytest.param(STEPS, {"global_step": 80, "steps": 0}, (), id="no step since the last question"),
        pytest.param(MINUTES, {"seconds_since_save": 90.0}, ("every 1.5 minutes",), id="time is up"),
        pytest.param(MINUTES, {"seconds_since_save": 89.9}, (), id="time is not up"),
        pytest.param(
            CheckpointSettings(every_n_steps=10, every_minutes=1),
            {"global_step": 80, "seconds_since_save": 60.0},
            ("every 10 steps", "every 1 minutes"),
            id="both",
        ),
        pytest.param(WITHOUT, {"stopping": True}, ("a stop was asked for",), id="a stop"),
        pytest.param(BEST_ONLY, {"stopping": True}, ("a stop was asked for",), id="a stop under best only"),
        pytest.param(
            STEPS, {"global_step": 80, "stopping": True}, ("every 10 steps", "a stop was asked for"), id="all"
        ),
        pytest.param(WITHOUT, {"global_step": 80, "seconds_since_save": 1e9}, (), id="nothing is set"),
        pytest.param(WITHOUT, {"epoch": 5, "metrics": BETTER}, (), id="due and better, but not yet ended"),
    ],
)
def test_inside_an_epoch(made: CheckpointSettings, changes: dict[str, Any], reasons: tuple[str, ...]) -> None:
    """Only last, and neither a new best nor a number: the epoch's own metrics are not there yet."""
    decision = ask(made, inside_epoch=True, **changes)
    assert ((LAST,) if reasons else ()) == decision.names
    assert (reasons or ("inside an epoch",)) == decision.reasons
    assert KNOWN == decision.best


@settings(max_examples=100, deadline=None)
@given(every=st.integers(1, 12), strides=st.lists(st.integers(1, 15), max_size=30))
def test_no_multiple_of_every_n_steps_is_missed_or_saved_twice(every: int, strides: list[int]) -> None:
    """However many batches lie between two questions."""
    made, step = CheckpointSettings(every_n_steps=every), 0
    for stride in strides:
        before, step = step, step + stride
        crossed = any(at % every == 0 for at in range(before + 1, step + 1))
        assert crossed is bool(ask(made, inside_epoch=True, global_step=step, steps=stride).names)


# ----------------------------------------------------------------------------------------------------- the loop is over


@pytest.mark.parametrize("made", [WITHOUT, BEST_ONLY, CheckpointSettings(save_freq=1)])
@pytest.mark.parametrize("metrics", [BETTER, WORSE, {}])
@pytest.mark.parametrize(
    ("names", "written"),
    [
        ([], (number(7), LAST)),
        ([BEST, LAST], (number(7), LAST)),
        ([number(5), number(17), LAST], (number(7), LAST)),
        ([number(5), number(7), LAST], ()),
        ([number(7)], ()),
    ],
)
def test_when_the_loop_is_over(
    made: CheckpointSettings, metrics: dict[str, float], names: list[str], written: tuple[str, ...]
) -> None:
    """The final epoch gets its number, once, whatever the settings and the metrics say."""
    decision = ask(made, metrics=metrics, ending=True, files=[file(name) for name in names])
    better = KNOWN.improved_by(metrics, 7) if written else None  # its own save failed, and this is the next try
    assert ((BEST, *written) if better else written) == decision.names
    assert (better or KNOWN, None) == (decision.best, decision.next_epoch)


# ---------------------------------------------------------------------------------------------------------- the reasons


@pytest.mark.parametrize(
    ("made", "changes", "text"),
    [
        (
            CheckpointSettings(),
            {"epoch": 10, "metrics": BETTER},
            f"{BEST}, {number(10)}, {LAST}: a new best loss 0.4 at epoch 10; epoch 10 is a milestone",
        ),
        (WITHOUT, {"epoch": 5}, f"{number(5)}, {LAST}: every 5 epochs"),
        (WITHOUT, {"stopping": True}, f"{LAST}: a stop was asked for"),
        (WITHOUT, {"ending": True}, f"{number(7)}, {LAST}: the final epoch"),
        (WITHOUT, {"ending": True, "files": [file(number(7))]}, f"nothing written: {number(7)} is there"),
        (STEPS, {"inside_epoch": True}, f"{LAST}: every 10 steps"),
        (WITHOUT, {"inside_epoch": True}, "nothing written: inside an epoch; next at epoch 10"),
        (
            WITHOUT,
            {},
            "nothing written: loss 0.6 is not below 0.5 (epoch 2), and epoch 7 is not due; next at epoch 10",
        ),
        (
            CheckpointSettings(milestones=(8,)),
            {},
            "nothing written: loss 0.6 is not below 0.5 (epoch 2), and epoch 7 is not due; next at epoch 8",
        ),
        (BEST_ONLY, {}, "nothing written: loss 0.6 is not below 0.5 (epoch 2), and epoch 7 is not due"),
        (
            WITHOUT,
            {"best": Best(monitor="accuracy", mode="max", value=0.5, epoch=2), "metrics": {"accuracy": 0.5}},
            "nothing written: accuracy 0.5 is not above 0.5 (epoch 2), and epoch 7 is not due; next at epoch 10",
        ),
        (
            WITHOUT,
            {"metrics": {"mae": 1.0}},
            "nothing written: no loss among the metrics, and epoch 7 is not due; next at epoch 10",
        ),
        (
            WITHOUT,
            {"metrics": {"loss": math.nan}, "best": Best()},
            "nothing written: loss nan is not finite, and epoch 7 is not due; next at epoch 10",
        ),
        (
            WITHOUT,
            {"metrics": {"loss": math.nan}},
            "nothing written: loss nan is not below 0.5 (epoch 2), and epoch 7 is not due; next at epoch 10",
        ),
    ],
)
def test_a_decision_prints_as_a_sentence_with_its_reasons(
    made: CheckpointSettings, changes: dict[str, Any], text: str
) -> None:
    """What is written and why, or why nothing and when next."""
    assert text == str(ask(made, **changes))


@settings(max_examples=100, deadline=None)
@given(
    made=st.builds(
        CheckpointSettings,
        save_freq=st.integers(1, 6),
        milestones=st.lists(st.integers(0, 20), max_size=3).map(tuple),
        save_best_only=st.booleans(),
        every_n_steps=st.none() | st.integers(1, 9),
    ),
    epoch=st.integers(0, 20),
    step=st.integers(1, 40),
    metrics=st.dictionaries(st.sampled_from(["loss", "mae"]), st.floats(width=16)),
    best=st.sampled_from([Best(), KNOWN]),
    moment=st.sampled_from([{}, {"inside_epoch": True}, {"ending": True}]),
    stopping=st.booleans(),
    names=st.lists(st.sampled_from([BEST, LAST, number(3), number(5)]), unique=True),
)
def test_what_holds_for_every_decision(
    made: CheckpointSettings,
    epoch: int,
    step: int,
    metrics: dict[str, float],
    best: Best,
    moment: dict[str, bool],
    stopping: bool,
    names: list[str],
) -> None:
    """Whatever is written is `last` too, and last; a stop always writes; the same question has the same answer."""
    asked = {"epoch": epoch, "global_step": step, "metrics": metrics, "best": best, "stopping": stopping, **moment}
    asked["files"] = [file(name) for name in names]
    before = copy.deepcopy(asked)
    decision = decide(made, **asked)
    assert str(before) == str(asked)
    assert decision == decide(made, **asked)
    assert decision.reasons
    assert not decision.names or LAST == decision.names[-1]
    assert (BEST in decision.names) == (decision.best != best)
    assert BEST not in decision.names or BEST == decision.names[0]
    assert set(decision.names) <= {BEST, numbered_name(epoch), LAST}
    assert decision.names or not stopping or moment.get("ending")
    assert decision.next_epoch is None or (decision.next_epoch > epoch and made.is_due(decision.next_epoch))


def test_a_decision_does_not_change_after_it_was_made() -> None:
    """It is data, for the log, the widget and the test alike."""
    with pytest.raises(FrozenInstanceError):
        ask().names = ()  # type: ignore[misc]
