"""What a power cut leaves, in both worlds: with all names and without those that were not synced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from koemorph_tutorial.testing.operations import Fault

from .test_operations import watched


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def left(folder: Path, work: Callable[[Path], None], mode: str) -> dict[str, str]:
    """Return names and texts of what a cut at the end of `work` leaves."""
    undisturbed, cut = folder / f"{mode} undisturbed", folder / mode
    for place in (undisturbed, cut):
        place.mkdir()
    _, trail = watched(undisturbed, work)
    points = sum("number" in entry for entry in trail)
    ended, _ = watched(cut, work, Fault(number=points, mode=mode))
    assert ended.killed
    run = cut / "run"
    return {str(path.relative_to(run)): path.read_text() for path in sorted(run.rglob("*")) if path.is_file()}


def renamed_without_fsync(run: Path) -> None:
    (run / "tmp").write_text("new")
    os.replace(run / "tmp", run / "a")
    sync(run)


def overwritten_in_place(run: Path) -> None:
    (run / "a").write_text("old")
    sync(run / "a")
    sync(run)
    (run / "a").write_text("new and longer")


def appended(run: Path) -> None:
    (run / "a").write_text("synced,")
    sync(run / "a")
    sync(run)
    with open(run / "a", "a") as file:
        file.write("not synced")


def replaced(run: Path) -> None:
    for text in ("old", "new"):
        (run / "tmp").write_text(text)
        sync(run / "tmp")
        os.replace(run / "tmp", run / "a")
        if text == "old":
            sync(run)


def replaced_and_synced(run: Path) -> None:
    replaced(run)
    sync(run)


def removed(run: Path) -> None:
    """The removal overtakes the name that should have come before it."""
    for name in ("a", "b"):
        (run / name).write_text(name)
        sync(run / name)
        if name == "a":
            sync(run)
    (run / "a").unlink()


def linked(run: Path) -> None:
    (run / "a").write_text("a")
    sync(run / "a")
    sync(run)
    os.link(run / "a", run / "b")


def moved_into_a_new_folder(run: Path) -> None:
    (run / "a").write_text("a")
    sync(run / "a")
    sync(run)
    (run / "aside").mkdir()
    os.rename(run / "a", run / "aside/a")
    sync(run / "aside")


@pytest.mark.parametrize(
    ("work", "bytes_cut", "names_cut"),
    [
        (renamed_without_fsync, {"a": ""}, {"a": ""}),
        (overwritten_in_place, {"a": ""}, {"a": ""}),
        (appended, {"a": "synced,"}, {"a": "synced,"}),
        (replaced, {"a": "new"}, {"a": "old"}),
        (replaced_and_synced, {"a": "new"}, {"a": "new"}),
        (removed, {"b": "b"}, {}),
        (linked, {"a": "a", "b": "a"}, {"a": "a"}),
        (moved_into_a_new_folder, {"aside/a": "a"}, {"a": "a"}),
    ],
)
def test_a_cut_leaves_what_was_synced(
    work: Callable[[Path], None], bytes_cut: dict[str, str], names_cut: dict[str, str], tmp_path: Path
) -> None:
    assert left(tmp_path, work, "power") == bytes_cut
    assert {name: text for name, text in left(tmp_path, work, "power names").items() if name != "tmp"} == names_cut
