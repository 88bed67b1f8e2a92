"""Two hundred saves in the background of a state of 20 MB, while everything in it is changed; others while all wait."""

from __future__ import annotations

from pathlib import Path

from tests.test_manager import saves_while_others_wait
from tests.underload import saves_under_load


def test_two_hundred_saves_hold_what_was_there_at_the_call(tmp_path: Path) -> None:
    right = saves_under_load(tmp_path, saves=200, width=1300)
    print(f"\nsaves in the background, bitwise as at the call: {right} of 200")
    assert 200 == right


def test_a_hundred_saves_while_others_wait_for_them_are_all_made(tmp_path: Path) -> None:
    saves_while_others_wait(tmp_path, 100)
