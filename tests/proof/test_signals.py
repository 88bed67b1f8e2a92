"""SIGTERM at every moment of a training: the run that resumes ends as the one that nobody stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.test_signals import moments_of_a_training, stopped_and_resumed


def test_a_stop_at_every_moment_leaves_a_run_that_resumes_bitwise(tmp_path: Path) -> None:
    """Before each forward, optimizer step, step and poll, between epochs, before each call of a save to the disk."""
    moments, expected = moments_of_a_training(tmp_path / "straight")
    for number, moment in enumerate(moments):
        how, ran_on, found = stopped_and_resumed(tmp_path / str(number), moment)
        assert ("exit code 3", False) == (how, ran_on), moment
        assert expected == found, moment
    phases = Counter(phase for phase, _, _ in moments)
    print(f"\nSIGTERM at {len(moments)} moments ({dict(phases)}): exit code 3 and bitwise equal after each of them")
