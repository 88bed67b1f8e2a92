"""A roll-back that is stopped at each of its system calls, in each of the ways that `make test` shares among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_cut import HOW, assert_ends_well


@pytest.mark.parametrize("how", [how for how, _ in HOW], ids=["kill", "ENOSPC", "EIO"])
def test_a_roll_back_stopped_at_every_call_ends_well(tmp_path: Path, how: int | str) -> None:
    assert_ends_well(tmp_path, how)
