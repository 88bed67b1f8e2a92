"""Every lesson, every cell, compared as `make test` does, on machines that are set up in another way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "Nepal, in C, two threads": {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "OMP_NUM_THREADS": "2"},
    "Tokyo, in Japanese, one thread": {"TZ": "Asia/Tokyo", "LANG": "ja_JP.UTF-8", "OMP_NUM_THREADS": "1"},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_all_lessons_show_the_same(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--nbval", "notebooks"]
    environment = {**os.environ, **ELSEWHERE[name]}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(f"\n{name}: {done.stdout.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout[-5000:]
