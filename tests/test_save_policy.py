"""When to save: the table of the README row by row, and nothing but its arguments decides; what an interval costs."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial.records import (
    Best,
    CheckpointFile,
    CheckpointSettings,
    Position,
    kind_of,
    numbered_epoch,
    numbered_name,
    split_codec,
)
from koemorph_tutorial.save_policy import Decision, advise, decide, expected_overhead

BEST, LAST = "best_model.pth", "last_model.pth"
KNOWN = Best(value=0.5, epoch=2)
BETTER, WORSE = {"loss": 0.4}, {"loss": 0.6}
WITHOUT = CheckpointSettings(milestones=())
BEST_ONLY = CheckpointSettings(save_best_only=True, save_freq=1, milestones=(7,))
STEPS = CheckpointSettings(every_n_steps=10)
MINUTES = CheckpointSettings(every_minutes=1.5)


def number(epoch: int) -> str:
    return f"checkpoint_epoch_{epoch:03d}.pth"


def file(name: str, *, epoch: int | None = None, position: Position | None = None) -> CheckpointFile:
    if epoch is None:
        epoch = 7 if numbered_epoch(name) is None else numbered_epoch(name)
    assert epoch is not None
    return CheckpointFile(
        path=Path("run") / name,
        epoch=epoch,
        position=position or Position(epoch=epoch + 1),
        kind=kind_of(name),
        codec=split_codec(name)[1],
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
        pytest.param(WITHOUT, 7, {}, (), id="no metrics at all"),
        pytest.param(WITHOUT, 7, {"loss": math.nan}, (), id="not a number"),
        pytest.param(WITHOUT, 7, {"loss": math.inf}, (), id="infinite"),
        pytest.param(WITHOUT, 7, {"loss": -math.inf}, (), id="infinite, on the good side"),
        pytest.param(WITHOUT, 5, {"loss": 0.5}, (number(5), LAST), id="due and a tie"),
        pytest.param(
            CheckpointSettings(milestones=(7,)), 7, BETTER, (BEST, number(7), LAST), id="a milestone and best"
        ),
        pytest.param(CheckpointSettings(milestones=(0,), save_freq=9), 0, {}, (number(0), LAST), id="milestone 0"),
        pytest.param(CheckpointSettings(save_freq=1), 1, WORSE, (number(1), LAST), id="every epoch"),
        pytest.param(BEST_ONLY, 7, BETTER, (BEST, LAST), id="best only: a new best, at a milestone"),
        pytest.param(BEST_ONLY, 6, BETTER, (BEST, LAST), id="best only: a new best"),
        pytest.param(BEST_ONLY, 7, WORSE, (), id="best only: save_freq and milestones are off"),
        pytest.param(BEST_ONLY, 0, {}, (), id="best only: epoch 0 without metrics"),
        pytest.param(BEST_ONLY, 7, {"loss": math.nan}, (), id="best only: diverged"),
        pytest.param(STEPS, 7, WORSE, (), id="inside an epoch alone, not at its end"),
        pytest.param(MINUTES, 7, WORSE, (), id="the same for minutes"),
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


@pytest.mark.parametrize(
    ("value", "better"),
    [(0.6, True), (0.5, False), (0.4, False), (math.nan, False), (math.inf, False), (-math.inf, False), (None, False)],
)
def test_where_more_is_better(value: float | None, better: bool) -> None:
    """Monitor and mode are those of the best so far, whatever else is among the metrics."""
    best = Best(monitor="f1", mode="max", value=0.5, epoch=2)
    metrics = {"loss": 0.1} if value is None else {"loss": 0.1, "f1": value}
    decision = ask(metrics=metrics, best=best)
    assert ((BEST, LAST) if better else ()) == decision.names
    assert (Best(monitor="f1", mode="max", value=0.6, epoch=7) if better else best) == decision.best


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("value", "first"), [(1e300, True), (-1.0, True), (math.nan, False), (math.inf, False)])
def test_the_first_finite_value_is_the_best(mode: str, value: float, first: bool) -> None:
    """Whatever it is."""
    assert ((BEST, LAST) if first else ()) == ask(metrics={"loss": value}, best=Best(mode=mode)).names


@pytest.mark.parametrize(
    ("made", "changes", "reasons"),
    [
        pytest.param(STEPS, {"global_step": 80, "owed": 1}, ("every 10 steps",), id="steps, at the last batch"),
        pytest.param(STEPS, {"global_step": 81, "owed": 2}, ("every 10 steps",), id="steps, over it"),
        pytest.param(STEPS, {"global_step": 81, "owed": 1}, (), id="steps, after it"),
        pytest.param(STEPS, {"global_step": 80, "owed": 0}, (), id="steps, saved already"),
        pytest.param(MINUTES, {"seconds_since_save": 90.0, "owed": 1}, ("every 1.5 minutes",), id="time is up"),
        pytest.param(MINUTES, {"seconds_since_save": 89.9, "owed": 1}, (), id="time is not up"),
        pytest.param(BEST_ONLY, {"owed": 1}, (), id="nothing is set"),
        pytest.param(
            STEPS,
            {"global_step": 80, "owed": 1, "stopping": True},
            ("every 10 steps", "a stop was asked for"),
            id="all",
        ),
    ],
)
def test_what_the_last_batch_of_an_epoch_leaves_to_its_end(
    made: CheckpointSettings, changes: dict[str, Any], reasons: tuple[str, ...]
) -> None:
    """Last as well: a number and a best are for the epoch's own reasons."""
    decision = ask(made, **changes)
    assert ((LAST,) if reasons else ()) == decision.names
    assert not reasons or reasons == decision.reasons
    due = ask(made, **{**changes, "epoch": 5})
    assert (BEST, LAST) == ask(made, metrics=BETTER, **changes).names
    assert ((number(5), LAST) if made is not BEST_ONLY else ()) == due.names


@pytest.mark.parametrize(
    ("made", "epoch", "inside", "expected"),
    [
        pytest.param(WITHOUT, 0, False, 5, id="by save_freq"),
        pytest.param(WITHOUT, 4, False, 5, id="the next one"),
        pytest.param(WITHOUT, 5, False, 10, id="after one that was due"),
        pytest.param(WITHOUT, 0, True, 0, id="inside the first epoch, whose end is due"),
        pytest.param(WITHOUT, 5, True, 5, id="inside an epoch whose end is due"),
        pytest.param(WITHOUT, 6, True, 10, id="inside one that is not"),
        pytest.param(CheckpointSettings(), 7, False, 10, id="a milestone that is due anyway"),
        pytest.param(CheckpointSettings(milestones=(8,)), 7, False, 8, id="a milestone before it"),
        pytest.param(CheckpointSettings(milestones=(8,)), 8, True, 8, id="inside a milestone"),
        pytest.param(CheckpointSettings(milestones=(8,)), 8, False, 10, id="past the last milestone"),
        pytest.param(CheckpointSettings(save_freq=1000, milestones=(3, 2)), 200, False, 1000, id="long past them"),
        pytest.param(BEST_ONLY, 3, False, None, id="best only"),
        pytest.param(BEST_ONLY, 7, True, None, id="best only, inside a milestone"),
    ],
)
def test_when_the_next_epoch_is_due(made: CheckpointSettings, epoch: int, inside: bool, expected: int | None) -> None:
    """Whatever the metrics are, and whatever is written now; None once the loop is over."""
    for metrics in (BETTER, WORSE):
        for stopping in (False, True):
            asked = {"epoch": epoch, "metrics": metrics, "stopping": stopping}
            assert expected == ask(made, inside_epoch=inside, **asked).next_epoch
            assert ask(made, ending=True, **asked).next_epoch is None


# ------------------------------------------------------------------------------------------------------ inside an epoch


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
        pytest.param(MINUTES, {"seconds_since_save": 0.0}, (), id="just saved"),
        pytest.param(MINUTES, {"seconds_since_save": 1e6, "steps": 0}, ("every 1.5 minutes",), id="long up"),
        pytest.param(
            CheckpointSettings(every_minutes=1e-9), {"seconds_since_save": 1e-7}, ("every 1e-09 minutes",), id="always"
        ),
        pytest.param(
            CheckpointSettings(save_best_only=True, every_n_steps=10),
            {"global_step": 80},
            ("every 10 steps",),
            id="best only switches epochs off, not steps",
        ),
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


@pytest.mark.parametrize(
    ("there", "written"),
    [
        pytest.param(file("checkpoint_epoch_007.pth.gz"), False, id="compressed by gzip"),
        pytest.param(file("checkpoint_epoch_007.pth.zst"), False, id="by zstd"),
        pytest.param(file("checkpoint_epoch_007.shuffle.pth"), False, id="shuffled"),
        pytest.param(file("checkpoint_epoch_006.pth.gz"), True, id="another epoch, compressed"),
        pytest.param(file("checkpoint_epoch_007.pth", epoch=3), True, id="its name, another epoch in it"),
        pytest.param(file(number(7), position=Position(epoch=7, batch=3)), True, id="saved inside the epoch"),
        pytest.param(file(BEST), True, id="the best is that epoch"),
        pytest.param(file("final.pth"), True, id="a name of somebody else"),
    ],
)
def test_the_final_epoch_has_its_file_by_what_is_in_it(there: CheckpointFile, written: bool) -> None:
    """Not by its name, which a compressed file has not."""
    decision = ask(ending=True, files=[file(number(5)), there, file(LAST)])
    assert ((number(7), LAST) if written else ()) == decision.names
    assert (("the final epoch",) if written else (f"{there.path.name} is there",)) == decision.reasons


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
            "nothing written: loss nan is not finite, and epoch 7 is not due; next at epoch 10",
        ),
        (
            WITHOUT,
            {"metrics": {"loss": -math.inf}},  # and so it is not "not below 0.5"
            "nothing written: loss -inf is not finite, and epoch 7 is not due; next at epoch 10",
        ),
        (WITHOUT, {"inside_epoch": True, "epoch": 5}, "nothing written: inside an epoch; next at epoch 5"),
        (BEST_ONLY, {"inside_epoch": True}, "nothing written: inside an epoch"),
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
    next_one = decision.next_epoch
    first = epoch if moment.get("inside_epoch") else epoch + 1
    assert next_one is None or (next_one >= first and made.is_due(next_one))
    assert next_one is None or not any(made.is_due(between) for between in range(first, next_one))
    assert (next_one is None) == (made.save_best_only or moment.get("ending", False))


def test_a_decision_does_not_change_after_it_was_made() -> None:
    """It is data, for the log, the widget and the test alike."""
    with pytest.raises(FrozenInstanceError):
        ask().names = ()  # type: ignore[misc]


# -------------------------------------------------------------------------------------------------- what a save costs

DAY = 24 * 3600.0


def play(
    interval: float, save: float, mtbf: float, restart: float, *, work: float, runs: int, seed: object
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Play so many runs, from failure to failure, and return what each took longer than its work, as a share of it.

    A run works and saves in turn. A failure takes back what was done since the last save, and costs a restart, in which
    the next failure may come already. The clock of failures knows nothing of saves.
    """
    random = np.random.default_rng(seed)
    pieces = round(work / interval)
    left, clock, going = np.full(runs, pieces), np.zeros(runs), np.arange(runs)
    begins = 0.0  # after the failure before; the first time there was none
    while going.size:
        fails = random.exponential(mtbf, going.size)
        done = np.minimum(np.maximum(fails - begins, 0) // (interval + save), left[going])
        left[going] -= done.astype(int)
        ended = left[going] == 0
        clock[going] += np.where(ended, begins + done * (interval + save), fails)
        going, begins = going[~ended], restart
    return clock / (pieces * interval) - 1


@pytest.mark.parametrize(
    ("save", "mtbf", "restart"),
    [
        pytest.param(6, DAY, 60, id="a small network, a failure a day"),
        pytest.param(300, DAY, 600, id="a large one"),
        pytest.param(60, 3600, 0, id="preempted each hour, back at once"),
        pytest.param(300, 900, 600, id="a save takes a third of the time between failures"),
    ],
)
def test_the_curve_is_what_played_runs_cost(save: float, mtbf: float, restart: float) -> None:
    """Within 5 % of the mean of 600 runs, at ten intervals from a tenth of the advised one to ten times it."""
    advised = advise(save, mtbf).interval_seconds
    for number_, interval in enumerate(np.geomspace(advised / 10, advised * 10, 10).tolist()):
        costs = play(interval, save, mtbf, restart, work=50 * mtbf, runs=600, seed=[8, number_])
        expected = expected_overhead(interval, save, mtbf, restart_seconds=restart)
        assert pytest.approx(expected, rel=0.05) == costs.mean(), f"{interval:.0f} s"


@pytest.mark.parametrize(
    ("mtbf_minutes", "interval_minutes", "half_a_digit"), [(24 * 60, 117, 0.5), (6 * 60, 57, 0.5), (15, 9.1, 0.05)]
)
def test_the_advice_is_that_of_the_paper(mtbf_minutes: float, interval_minutes: float, half_a_digit: float) -> None:
    """The three examples of Daly 2006, with saves of 5 minutes."""
    advice = advise(5 * 60, mtbf_minutes * 60)
    assert interval_minutes == pytest.approx(advice.interval_seconds / 60, abs=half_a_digit)


@settings(max_examples=200, deadline=None)
@given(mtbf=st.floats(1e-3, 1e9), share=st.floats(1e-9, 10))
def test_no_interval_is_much_better_than_the_advised_one(mtbf: float, share: float) -> None:
    """The run is never more than 0.2 % longer than by the best of many intervals, and by Young's never shorter."""
    advice = advise(share * mtbf, mtbf)
    times = [1 + expected_overhead(advice.interval_seconds * f, share * mtbf, mtbf) for f in np.geomspace(0.1, 10, 201)]
    assert 1 + advice.overhead <= 1.002 * min(times)
    assert advice.overhead <= advice.young_overhead + 1e-12
    assert advice.interval_seconds > 0
    assert (share >= 2) == (advice.interval_seconds == mtbf)


def test_what_an_interval_costs_grows_with_everything_that_costs() -> None:
    """And has no number where a run never gets to its end."""
    base = {"interval_seconds": 600, "save_seconds": 6, "mtbf_seconds": DAY, "restart_seconds": 60}
    cost = expected_overhead(**base)
    assert cost > expected_overhead(**{**base, "restart_seconds": 0}) > 0
    assert cost < expected_overhead(**{**base, "restart_seconds": 120})
    assert cost < expected_overhead(**{**base, "save_seconds": 7})
    assert cost < expected_overhead(**{**base, "mtbf_seconds": DAY / 2})
    assert math.inf == expected_overhead(DAY, 6, 1)
    assert math.inf == expected_overhead(1, 6, 10, restart_seconds=1e9)
    assert 0 <= expected_overhead(1e-3, 1e-30, 1e30) < 1e-15
    assert 0.01 == pytest.approx(expected_overhead(100, 1, 1e12), rel=1e-6)  # without failures the saves alone cost


@pytest.mark.parametrize(
    ("save", "mtbf", "says"),
    [
        (6, DAY, ["every 16 min 54 s", "saves of 6 s", "every 24 h on average", "add 1.19 % to the training time"]),
        (0.05, 2 * DAY, ["every 2 min 11 s", "saves of 0.05 s", "every 2 d on average", "add 0.0761 % to"]),
        (119.7, 71.9 * 3600, ["every 2 h 10 min", "saves of 2 min", "every 3 d on average"]),
        (59.6, 3599.6, ["every 10 min", "saves of 1 min", "every 1 h on average"]),
        (300, 900, ["every 9 min 8 s", "make the run 2.6 times as long"]),
        (100, 10, ["every 10 s", "make the run 59,873 times as long"]),
        (1e5, 1, ["every 1 s", "saves of 27 h 47 min", "the run never gets to its end"]),
    ],
)
def test_advice_prints_as_a_sentence_with_units(save: float, mtbf: float, says: list[str]) -> None:
    """In the two units in which a person would say it."""
    text = str(advise(save, mtbf))
    assert text.startswith("save every ")
    for words in says:
        assert words in text, text


@pytest.mark.parametrize(
    ("save", "mtbf", "minutes"),
    [(6, DAY, "16.9"), (1, 3600, "1.4"), (3600, 3650 * DAY, "25100"), (1e-6, 1, "0.0000236"), (1e-3, 5e-1, "0.000516")],
)
def test_advice_is_a_line_of_a_config(save: float, mtbf: float, minutes: str) -> None:
    """As YAML reads it, to which 1e-05 is a text; and as the settings take it."""
    import yaml

    advice = advise(save, mtbf)
    assert f"every_minutes: {minutes}" == advice.setting
    found = yaml.safe_load(advice.setting)["every_minutes"]
    assert CheckpointSettings(every_minutes=found).every_minutes == pytest.approx(
        advice.interval_seconds / 60, rel=5e-3
    )
    assert advice.lines()[1].endswith(advice.setting)


def test_advice_is_json_for_programs() -> None:
    """What was asked, what is advised, and the older formula beside it; what no number holds is null."""
    plain = json.loads(advise(6, DAY).to_json())
    assert [6.0, DAY, "every_minutes: 16.9"] == [plain[n] for n in ("save_seconds", "mtbf_seconds", "setting")]
    assert [1014.238, 0.011878] == [round(plain["interval_seconds"], 3), round(plain["overhead"], 6)]
    assert math.sqrt(2 * 6 * DAY) == pytest.approx(plain["young_seconds"])
    assert plain["overhead"] < plain["young_overhead"] < 1.0001 * plain["overhead"]
    assert json.loads(advise(1e5, 1).to_json())["overhead"] is None


BAD = [0, -1, -0.0, math.nan, math.inf, -math.inf, True, "6", None, 10**400, 1 + 0j, [6]]


@pytest.mark.parametrize("found", BAD, ids=lambda found: str(found)[:8])
def test_a_time_that_is_none_is_refused_by_name(found: Any) -> None:
    """Each argument, in one line."""
    for name in ("save_seconds", "mtbf_seconds"):
        with pytest.raises(ValueError, match=rf"^{name}: expected a time above 0, in seconds, found "):
            advise(**{"save_seconds": 6, "mtbf_seconds": DAY, name: found})
    for name in ("interval_seconds", "save_seconds", "mtbf_seconds", "restart_seconds"):
        asked = {"interval_seconds": 60, "save_seconds": 6, "mtbf_seconds": DAY, name: found}
        if name == "restart_seconds" and found == 0:
            assert expected_overhead(**asked) > 0
            continue
        expected = "from" if name == "restart_seconds" else "above"
        with pytest.raises(ValueError, match=rf"^{name}: expected a time {expected} 0, in seconds, found "):
            expected_overhead(**asked)


def test_any_real_number_is_a_time() -> None:
    """Of numpy, or a fraction: the same advice, in plain floats."""
    plain = advise(1.5, 3600)
    for save, mtbf in ((np.float64(1.5), np.int64(3600)), (Fraction(3, 2), 3600), (np.float32(1.5), 3600.0)):
        assert plain == advise(save, mtbf)  # type: ignore[arg-type]
        assert float is type(advise(save, mtbf).save_seconds)  # type: ignore[arg-type]
