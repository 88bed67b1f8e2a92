"""Fifty interleaved starts of two trainings, where tests/test_lock.py makes ten."""

from __future__ import annotations

from pathlib import Path

import pytest

from koemorph_tutorial import lock
from tests.test_lock import interleave


def test_two_trainings_in_one_directory_never_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_GRACE", 0.02)
    trained, refused = interleave(tmp_path / "run/checkpoints", 50)
    print(f"\n100 starts in 50 pairs: {trained} trained, {refused} were told who writes")
    assert 100 == trained + refused
    assert 0 < refused < 50
