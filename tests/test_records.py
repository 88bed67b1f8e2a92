"""The nouns: names and epochs, the best value, settings that are checked when made, the errors."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial import records
from koemorph_tutorial.records import (
    Best,
    CheckpointFile,
    CheckpointSettings,
    Position,
    SettingsOverrides,
    StopTraining,
    kind_of,
    numbered_epoch,
    numbered_name,
    plain_metrics,
    state_key,
)

NAN, INF = math.nan, math.inf
quick = settings(max_examples=100, deadline=None)


# ----------------------------------------------------------------------------------------------------- names and epochs


@quick
@given(st.integers())
def test_every_epoch_comes_back_from_its_name(epoch: int) -> None:
    """A name gives back its epoch, however many digits; no epoch is below 0."""
    name = numbered_name(epoch)
    assert (epoch if epoch >= 0 else None) == numbered_epoch(name)
    assert ("numbered" if epoch >= 0 else "other") == kind_of(name)


@quick
@given(st.one_of(st.text(), st.from_regex(r"\Acheckpoint_epoch_[+-]?\d+(\.\d)?\.pth\n?\Z")))
def test_a_name_counts_only_if_it_is_the_one_we_would_write(name: str) -> None:
    """No epoch has two names: what is read as an epoch is written as the same name."""
    epoch = numbered_epoch(name)
    assert epoch is None or name == numbered_name(epoch)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint_epoch_0025.pth",
        "checkpoint_epoch_25.pth",
        "checkpoint_epoch_01000.pth",
        "checkpoint_epoch_-01.pth",
        "checkpoint_epoch_+25.pth",
        "checkpoint_epoch_1e3.pth",
        "checkpoint_epoch_ 25.pth",
        "checkpoint_epoch_0_2.pth",
        "checkpoint_epoch_\u0660\u0662\u0665.pth",
        "checkpoint_epoch_0\u0661\u0662.pth",
        "checkpoint_epoch_.pth",
        "checkpoint_epoch_025.pth\n",
        "checkpoint_epoch_025.pth.xz",
        "checkpoint_epoch_25.pth.gz",
        "best_model.pth.gz",
        "last_model.shuffle.pth",
        "checkpoint_epoch_025.shuffle.pth.gz",
        "checkpoint_epoch_025.PTH",
        "Checkpoint_epoch_025.pth",
        "my_checkpoint_epoch_025.pth",
        "run/checkpoint_epoch_025.pth",
        ".checkpoint_epoch_025.pth.71-0a1b2c3d.tmp",
        "best_model.pt",
        "best_model.pth ",
        "last_model (1).pth",
        "",
    ],
)
def test_a_name_that_only_looks_like_ours_is_other(name: str) -> None:
    """Whatever we would not write is left alone."""
    assert numbered_epoch(name) is None
    assert "other" == kind_of(name)


@pytest.mark.parametrize(
    ("epoch", "name"),
    [
        (0, "checkpoint_epoch_000.pth"),
        (999, "checkpoint_epoch_999.pth"),
        (1000, "checkpoint_epoch_1000.pth"),
        (123456, "checkpoint_epoch_123456.pth"),
    ],
)
def test_a_numbered_name_has_three_digits_or_more(epoch: int, name: str) -> None:
    """Three digits, and more only where three are not enough."""
    assert name == numbered_name(epoch)


def test_best_and_last_have_one_name_each() -> None:
    """Their names say what they are."""
    assert ("best", "last") == (kind_of("best_model.pth"), kind_of("last_model.pth"))


def test_a_state_is_stored_under_its_objects_name() -> None:
    """The recipe's own keys come out for model, optimizer and scheduler."""
    assert ["model_state_dict", "optimizer_state_dict", "scheduler_state_dict"] == [
        state_key(name) for name in ("model", "optimizer", "scheduler")
    ]


# ------------------------------------------------------------------------------------------------------------ positions


@pytest.mark.parametrize("field", ["epoch", "batch", "global_step"])
@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, np.int64(1)])
def test_a_position_counts_in_plain_whole_numbers(field: str, value: Any) -> None:
    """What could not be stored as it is does not get into a position."""
    message = f"Position.{field}: expected a whole number from 0, found {value!r}"
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        Position(**{field: value})


@pytest.mark.parametrize("record", [Position(), Best(), CheckpointSettings()])
def test_a_record_does_not_change_after_it_was_made(record: Any) -> None:
    """Every field is frozen, and none is given by its place."""
    for field in fields(record):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field.name, getattr(record, field.name))
    with pytest.raises(TypeError, match="positional argument"):
        type(record)(*[getattr(record, field.name) for field in fields(record)])


# ------------------------------------------------------------------------------------------------------- the best value


@pytest.mark.parametrize(
    ("mode", "known", "metrics", "wins"),
    [
        ("min", None, {"loss": 3.0}, True),
        ("min", 1.0, {"loss": 0.9}, True),
        ("min", 1.0, {"loss": 1.1}, False),
        ("min", 1.0, {"loss": 1.0}, False),
        ("min", 1.0, {"loss": -INF}, False),
        ("min", 1.0, {"loss": INF}, False),
        ("min", 1.0, {"loss": NAN}, False),
        ("min", 1.0, {}, False),
        ("min", 1.0, {"mae": 0.1}, False),
        ("min", 0.0, {"loss": -0.0}, False),
        ("min", None, {"loss": NAN}, False),
        ("min", None, {"loss": INF}, False),
        ("min", None, {"loss": -INF}, False),
        ("min", None, {}, False),
        ("min", None, {"loss": 0}, True),
        ("max", None, {"loss": -3.0}, True),
        ("max", 1.0, {"loss": 1.1}, True),
        ("max", 1.0, {"loss": 0.9}, False),
        ("max", 1.0, {"loss": 1.0}, False),
        ("max", 1.0, {"loss": INF}, False),
        ("max", 1.0, {"loss": -INF}, False),
        ("max", 1.0, {"loss": NAN}, False),
    ],
)
def test_only_a_better_finite_value_is_a_new_best(
    mode: str, known: float | None, metrics: dict[str, float], wins: bool
) -> None:
    """NaN, infinity and a missing metric never win, and a tie is no win."""
    best = Best(mode=mode, value=known, epoch=None if known is None else 2)
    improved = best.improved_by(metrics, 7)
    assert (Best(mode=mode, value=float(metrics["loss"]), epoch=7) if wins else None) == improved
    assert Best(mode=mode, value=known, epoch=None if known is None else 2) == best


@quick
@given(st.sampled_from(["min", "max"]), st.lists(st.floats(allow_nan=True, allow_infinity=True, width=16)))
def test_a_history_ends_with_its_best_and_a_tie_keeps_the_earlier_epoch(mode: str, history: list[float]) -> None:
    """Told epoch by epoch, the best is what one look at the whole history finds."""
    best = Best(monitor="mae", mode=mode)
    for epoch, value in enumerate(history):
        best = best.improved_by({"mae": value, "loss": -value}, epoch) or best
    finite = [value for value in history if math.isfinite(value)]
    expected = (min if mode == "min" else max)(finite, default=None)
    assert expected == best.value
    assert (None if expected is None else history.index(expected)) == best.epoch
    assert ("mae", mode) == (best.monitor, best.mode)


def test_a_best_is_a_plain_float_whatever_the_metric_was() -> None:
    """A numpy number would make the next checkpoint unreadable."""
    improved = Best().improved_by({"loss": np.float32(0.5)}, 3)
    assert improved is not None
    assert float is type(improved.value)


def test_a_best_prints_as_a_sentence() -> None:
    """With and without a value."""
    assert "no best mae yet" == str(Best(monitor="mae"))
    assert "best loss 0.123457 at epoch 4" == str(Best(value=0.12345678, epoch=4))


# ------------------------------------------------------------------------------------------------------------- settings

BAD = [
    ("save_freq", 0, "a whole number of epochs from 1"),
    ("save_freq", -3, "a whole number of epochs from 1"),
    ("save_freq", True, "a whole number of epochs from 1"),
    ("save_freq", 2.0, "a whole number of epochs from 1"),
    ("save_freq", "5", "a whole number of epochs from 1"),
    ("save_freq", None, "a whole number of epochs from 1"),
    ("milestones", (10, -1), "whole epoch numbers from 0"),
    ("milestones", (True,), "whole epoch numbers from 0"),
    ("milestones", (10.0,), "whole epoch numbers from 0"),
    ("milestones", 10, "whole epoch numbers from 0"),
    ("milestones", "10", "whole epoch numbers from 0"),
    ("milestones", None, "whole epoch numbers from 0"),
    ("save_best_only", 1, "true or false"),
    ("save_best_only", "no", "true or false"),
    ("save_best_only", None, "true or false"),
    ("keep_last_n", 0, "2 or more, or null to keep all"),
    ("keep_last_n", -1, "2 or more, or null to keep all"),
    ("keep_last_n", True, "2 or more, or null to keep all"),
    ("keep_last_n", 2.0, "2 or more, or null to keep all"),
    ("keep_best_n", -1, "a whole number from 0"),
    ("keep_best_n", False, "a whole number from 0"),
    ("keep_best_n", None, "a whole number from 0"),
    ("monitor", "", "the name of a metric"),
    ("monitor", "  ", "the name of a metric"),
    ("monitor", False, "the name of a metric"),
    ("monitor", None, "the name of a metric"),
    ("mode", "lowest", "'min' or 'max'"),
    ("mode", None, "'min' or 'max'"),
    ("mode", ["min"], "'min' or 'max'"),
    ("every_n_steps", 0, "a whole number of batches from 1, or null"),
    ("every_n_steps", True, "a whole number of batches from 1, or null"),
    ("every_n_steps", 0.5, "a whole number of batches from 1, or null"),
    ("every_minutes", 0, "a time above 0, or null"),
    ("every_minutes", -1.5, "a time above 0, or null"),
    ("every_minutes", True, "a time above 0, or null"),
    ("every_minutes", "5", "a time above 0, or null"),
    ("every_minutes", NAN, "a time above 0, or null"),
    ("every_minutes", INF, "a time above 0, or null"),
    ("background", 1, "true or false"),
]


@pytest.mark.parametrize(("field", "value", "expected"), BAD)
def test_a_setting_out_of_range_is_named_with_what_was_expected(field: str, value: Any, expected: str) -> None:
    """The message is one line: field, expected, found."""
    message = f"{field}: expected {expected}, found {value!r}"
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}($|; )"):
        CheckpointSettings(**{field: value})


def test_every_setting_is_checked() -> None:
    """The table above has a row for each field."""
    assert {field.name for field in fields(CheckpointSettings)} == {field for field, _, _ in BAD}


def test_keeping_one_file_is_refused_with_the_reason() -> None:
    """Best, last and the newest number can be links to one copy of the bytes."""
    message = (
        "keep_last_n: expected 2 or more, or null to keep all, found 1; all names of the newest save share one copy of "
        "its bytes, so one more file is the only second copy"
    )
    with pytest.raises(ValueError, match=rf"^{message}$"):
        CheckpointSettings(keep_last_n=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("save_freq", 1),
        ("milestones", ()),
        ("milestones", (0,)),
        ("save_best_only", True),
        ("keep_last_n", 2),
        ("keep_last_n", None),
        ("keep_best_n", 0),
        ("monitor", "mae"),
        ("mode", "max"),
        ("every_n_steps", 1),
        ("every_n_steps", None),
        ("every_minutes", 5),
        ("every_minutes", 0.5),
        ("every_minutes", Fraction(1, 3)),
        ("every_minutes", None),
    ],
)
def test_a_setting_in_range_is_taken_as_it_is(field: str, value: Any) -> None:
    """The smallest allowed values and null are allowed."""
    assert value == getattr(CheckpointSettings(**{field: value}), field)


def test_milestones_may_come_as_a_list() -> None:
    """YAML and checkpoints hold lists; the settings compare as if they were made in Python."""
    assert CheckpointSettings(milestones=(1, 2)) == CheckpointSettings(milestones=[1, 2])  # type: ignore[arg-type]


def test_a_bad_override_is_refused_as_a_bad_setting() -> None:
    """`replace`, which the manager uses for overrides, checks again."""
    with pytest.raises(ValueError, match=r"^save_freq: expected"):
        replace(CheckpointSettings(), save_freq=0)


def test_the_overrides_are_the_settings_by_name_and_type() -> None:
    """The typed keywords of the manager cannot fall behind the dataclass."""
    assert get_type_hints(CheckpointSettings) == get_type_hints(SettingsOverrides)
    assert frozenset({field.name for field in fields(CheckpointSettings)}) == SettingsOverrides.__optional_keys__


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, [0, 5, 10, 15, 20, 25]),
        ({"save_freq": 1, "milestones": ()}, list(range(28))),
        ({"save_freq": 10, "milestones": (3, 25)}, [0, 3, 10, 20, 25]),
        ({"save_freq": 1000, "milestones": (7,)}, [0, 7]),
        ({"save_best_only": True}, []),
        ({"save_best_only": True, "save_freq": 1, "milestones": (3,)}, []),
    ],
)
def test_an_epoch_is_due_by_frequency_or_as_a_milestone(changes: dict[str, Any], due: list[int]) -> None:
    """Counted from 0, and by neither where only a new best is saved."""
    settings_ = CheckpointSettings(**changes)
    assert due == [epoch for epoch in range(28) if settings_.is_due(epoch)]


@quick
@given(
    save_freq=st.integers(1, 40),
    milestones=st.lists(st.integers(0, 120), max_size=6).map(tuple),
    save_best_only=st.booleans(),
    epoch=st.integers(-1, 100),
)
def test_the_next_due_epoch_is_the_first_that_is_due(
    save_freq: int, milestones: tuple[int, ...], save_best_only: bool, epoch: int
) -> None:
    """What is announced is what a walk from epoch to epoch would meet first."""
    made = CheckpointSettings(save_freq=save_freq, milestones=milestones, save_best_only=save_best_only)
    assert next((later for later in range(epoch + 1, epoch + 42) if made.is_due(later)), None) == made.next_due(epoch)


# ---------------------------------------------------------------------------------------------- files, stops and errors


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position(epoch=26, batch=0, global_step=1040), "last_model.pth: epoch 25, 1,234,567 bytes"),
        (
            Position(epoch=25, batch=7, global_step=1007),
            "last_model.pth: epoch 25, inside at batch 7, 1,234,567 bytes",
        ),
    ],
)
def test_a_checkpoint_file_prints_as_a_sentence(position: Position, text: str) -> None:
    """Name, epoch, whether it is inside it, and size."""
    file = CheckpointFile(
        path=Path("run/last_model.pth"),
        epoch=25,
        position=position,
        kind="last",
        codec=None,
        line="a",
        saves=6,
        metrics={},
        size=1234567,
        inode=1,
    )
    assert text == str(file)
    with pytest.raises(FrozenInstanceError):
        file.epoch = 26  # type: ignore[misc]


def test_a_stop_that_nobody_catches_ends_the_process_with_code_3() -> None:
    """Not 0, which would say that the training is done, and no traceback."""
    program = (
        "import atexit\n"
        "from koemorph_tutorial.records import StopTraining\n"
        "atexit.register(print, 'cleaned up')\n"
        "try:\n"
        "    raise StopTraining('saved at epoch 3, batch 7')\n"
        "except Exception:\n"
        "    print('swallowed')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (3, "cleaned up\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_stop_says_where_it_stopped() -> None:
    """Its text is the message, its code stays 3."""
    stop = StopTraining("saved at epoch 3, batch 7")
    assert ("saved at epoch 3, batch 7", 3) == (str(stop), stop.code)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("CheckpointNotFoundError", FileNotFoundError),
        ("DamagedCheckpointError", ValueError),
        ("UnsupportedCheckpointError", ValueError),
        ("MismatchError", ValueError),
        ("UnsavableStateError", TypeError),
        ("UsedDirectoryError", FileExistsError),
        ("DirectoryLockedError", BlockingIOError),
        ("CheckpointWriteError", OSError),
    ],
)
def test_every_error_is_a_checkpoint_error_and_the_builtin_that_it_is(error: str, builtin: type[Exception]) -> None:
    """One `except` catches all of ours; code that knows only Python catches each as well."""
    kind = getattr(records, error)
    assert issubclass(kind, records.CheckpointError)
    assert issubclass(kind, builtin)
    assert "which file, what to do" == str(kind("which file, what to do"))


# -------------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(0.5).requires_grad_()],
)
def test_metrics_become_plain_floats(value: Any) -> None:
    """A number of numpy or torch would make the checkpoint unreadable, or as large as its graph."""
    plain = plain_metrics({"loss": value})
    assert {"loss": 0.5} == plain
    assert float is type(plain["loss"])


def test_metrics_that_are_not_finite_stay_as_they_are() -> None:
    """That a loss was NaN is worth knowing."""
    plain = plain_metrics({"loss": NAN, "mae": INF, "count": 3})
    assert ["nan", "inf", "3.0"] == [str(value) for value in plain.values()]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("low", "str"),
        ("0.5", "str"),
        (10**400, "int"),
        (None, "NoneType"),
        ([0.5], "list"),
        ({"a": 1}, "dict"),
        (torch.zeros(2), "Tensor"),
        (1 + 2j, "complex"),
    ],
)
def test_a_metric_that_is_no_number_is_named(value: Any, found: str) -> None:
    """The message names the metric and what it was."""
    with pytest.raises(TypeError) as caught:
        plain_metrics({"mae": 1.0, "loss": value})
    assert f"metrics['loss']: expected one number, found {found}" == str(caught.value)


def test_a_bare_number_is_told_that_metrics_have_names() -> None:
    """`save(loss)` for `save({"loss": loss})`."""
    with pytest.raises(TypeError, match=r"^metrics: expected numbers by name, as {'loss': 0.5}, found float$"):
        plain_metrics(0.5)  # type: ignore[arg-type]
