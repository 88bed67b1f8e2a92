"""The README's lines, killed as often as `make test` has no time for."""

from __future__ import annotations

from pathlib import Path

from tests.test_readme import assert_survives


def test_killed_five_times_the_readme_lines_end_with_the_same_bits(tmp_path: Path) -> None:
    assert_survives(tmp_path, 2, 1, 5, 3, 4)
