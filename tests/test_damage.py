"""Bits, cuts, overwrites and noise, some of those that `make proof` tries: a verdict each, none silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from . import damage
from .hostile import bait, torch_file

MAKERS: dict[str, Callable[[Path], Path]] = {
    "ours.pth": lambda path: torch_file(path, bait()),
    "plain.pth": damage.plain_state,
    "script.pt": damage.script,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_flipped_bit_is_found_or_touches_no_state(name: str, tmp_path: Path) -> None:
    """Of sixty bits anywhere in the file, none is called sound and loads as something else, or not at all."""
    path = MAKERS[name](tmp_path / name)
    original, state = path.read_bytes(), damage.loaded(path)
    assert "touches no state" == damage.outcome_of(path, state)
    outcomes: dict[str, list[str]] = {}
    for what, data in damage.flips(original, 60):
        path.write_bytes(data)
        outcomes.setdefault(damage.outcome_of(path, state), []).append(what)
    assert {"found", "touches no state"} >= set(outcomes), outcomes
    assert len(outcomes["found"]) > 15


@pytest.mark.parametrize("harm", ["truncations", "overwrites"])
@pytest.mark.parametrize("name", MAKERS)
def test_cuts_and_overwrites_are_told_in_one_line(name: str, harm: str, tmp_path: Path) -> None:
    """By the command line; what is called sound loads as before."""
    path = MAKERS[name](tmp_path / name)
    original, state = path.read_bytes(), damage.loaded(path)
    damages = list(getattr(damage, harm)(original, 20))
    for (what, data), verdict in zip(damages, damage.told_in_one_line(path, damages), strict=True):
        path.write_bytes(data)
        if verdict == "sound":
            assert "touches no state" == damage.outcome_of(path, state), what


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors"])
def test_noise_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    """Random bytes, most of which begin as a real format does."""
    assert "sound" not in damage.told_in_one_line(tmp_path / name, damage.random_files(48))
