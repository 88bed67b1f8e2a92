"""The command line, killed as often as `make test` has no time for."""

from __future__ import annotations

from pathlib import Path

from tests.test_main import assert_survives, straight  # noqa: F401


def test_killed_five_times_the_run_ends_with_the_same_bits(straight: Path, tmp_path: Path) -> None:  # noqa: F811
    assert_survives(straight, tmp_path, 2, 1, 2, 1, 3)
