"""Every moment of every kind of save: what tests/test_crash.py samples. The figures are printed, for the README."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from koemorph_tutorial.testing import Campaign, crash_test
from koemorph_tutorial.testing.example import recover, train, train_and_go_back, train_in_background
from tests.savers import SmallSaver, the_recipe
from tests.test_compressed_files import train_and_go_back_to_a_compressed_file, train_and_tidy_up, what_is_there


def told(name: str, campaign: Campaign) -> Campaign:
    print(f"\n{name}:", *(f"  {line}" for line in campaign.lines()), sep="\n")
    return campaign


@pytest.mark.parametrize(
    ("training", "recovery"),
    [
        (train, recover),
        (train_in_background, recover),
        (train_and_go_back, recover),
        (train_and_tidy_up, what_is_there),
        (train_and_go_back_to_a_compressed_file, recover),
    ],
)
def test_at_every_moment_the_run_comes_back(
    training: Callable[[Path], None], recovery: Callable[[Path], str | None]
) -> None:
    campaign = told(training.__name__, crash_test(training, recovery))
    assert campaign.not_ok == ()
    assert {trial.point for trial in campaign.trials} == set(campaign.points)


def test_the_recipe() -> None:
    campaign = told("the recipe", crash_test(*the_recipe()))
    assert {"LOST", "MISLED", "BLOCKED"} <= {trial.verdict for trial in campaign.not_ok}


@pytest.mark.parametrize(
    ("flaw", "verdict"), [("remove_first", "LOST"), ("trust_the_newest_name", "WRONG"), ("no fsync", "LOST"), ("", "")]
)
def test_a_small_saver_broken_on_purpose(flaw: str, verdict: str) -> None:
    saver = SmallSaver(sync=flaw != "no fsync", **({flaw: True} if "_" in flaw else {}))
    campaign = told(flaw or "not broken", crash_test(saver.train, saver.recover))
    points = {trial.point.number for trial in campaign.not_ok if trial.verdict == verdict}
    assert len(points) > 1 if flaw else campaign.not_ok == ()
