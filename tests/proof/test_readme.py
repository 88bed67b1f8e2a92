"""The README's lines, killed as often as `make test` has no time for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.test_readme import README, assert_survives


def test_killed_five_times_the_readme_lines_end_with_the_same_bits(tmp_path: Path) -> None:
    assert_survives(tmp_path, 2, 1, 5, 3, 4)


def test_the_command_at_the_door_measures_the_figures_at_the_door() -> None:
    """`koemorph crash-test`, by whoever does not believe the first table."""
    ran = subprocess.run([sys.executable, "-m", "koemorph_tutorial", "crash-test"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (shown,) = re.findall(r"\| \*\*this library\*\* \| \*\*(\d+) of (\d+) times\*\*", README)
    (_, trials, bad), *_ = re.findall(r"(\d+) points, .* (\d+) trials: (\d+) not OK", ran.stdout)
    assert shown == (bad, trials)
