"""Full disks at every page and every name of a save: what tests/test_storage.py tries at a few."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import disks

PAGE = 4  # KiB; a tmpfs gives no less


@pytest.mark.parametrize("child", ["trained_until_full", "filled_in_background"])
def test_a_training_fills_disks_of_every_size(tmp_path: Path, child: str) -> None:
    """From one page, on which nothing fits, to a megabyte, page by page."""
    sizes = range(PAGE, 1024 + PAGE, PAGE)
    outcomes = disks.seen_by_a_child(child, tmp_path, *sizes)
    assert len(sizes) == disks.assert_full_disks_lost_nothing(outcomes)


@pytest.mark.parametrize(
    ("child", "unit", "amounts", "at_least"),
    [
        ("full", "KiB", range(0, 160, PAGE), 16),
        ("full", "names", range(8), 2),
        ("full_in_background", "KiB", range(0, 160, PAGE), 16),
        ("full_in_background", "names", range(8), 2),
        ("full_without_links", "KiB", range(0, 320, PAGE), 32),
        ("full_without_links", "names", range(8), 2),
    ],
)
def test_a_disk_gets_full_at_every_point_of_a_save(
    tmp_path: Path, child: str, unit: str, amounts: range, at_least: int
) -> None:
    """From no room at all to room for everything; with links a save is one file, without them three."""
    if child == "full_without_links" and not disks.can_refuse_links():
        pytest.skip("no filter of system calls is known for this machine")
    outcomes = disks.seen_by_a_child(child, tmp_path, unit, *amounts)
    errors = [outcome["error"] is not None for outcome in outcomes]
    assert sorted(errors, reverse=True) == errors  # more room is never worse
    refused = disks.assert_full_disks_lost_nothing(outcomes)
    assert at_least <= refused < len(amounts)  # the weights alone are 16 pages; where a copy is made, twice that
