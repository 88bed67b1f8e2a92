"""A run seen from its names: what is read, when names are not enough, and the look at each file before it goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial import list_checkpoints, retention
from koemorph_tutorial import survey as room
from koemorph_tutorial.compressed_files import compress_checkpoint
from koemorph_tutorial.cut import Cut, write_cut
from koemorph_tutorial.plans import Plan
from koemorph_tutorial.records import Best, Codec, numbered_name
from koemorph_tutorial.removal import carry_out
from koemorph_tutorial.retention import plan_retention, prune_checkpoints
from koemorph_tutorial.survey import Survey, survey

from .histories import BEST, LAST, go, on_disk, stay, write, write_run

RULES: dict[str, Any] = {"keep_last_n": 3, "keep_best_n": 0}


def newest_three(epochs: Sequence[int]) -> set[int]:
    return set(epochs[:3])


def look(run: Path) -> Survey | None:
    return survey(run, newest_three)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run of nine epochs."""
    return write_run(tmp_path / "run", [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], best=8)


def test_names_say_what_goes_and_headers_what_stays(run: Path) -> None:
    """Newest first; a record of what goes holds what a name and the disk know."""
    (run / "checkpoint_epoch_7.pth").touch()
    (run / "notes.txt").touch()
    (run / ".lock").touch()
    (run / "abandoned-001").mkdir()
    seen = look(run)
    assert seen is not None
    assert [LAST, numbered_name(8), BEST, numbered_name(7), numbered_name(6)] == [file.path.name for file in seen.kept]
    assert [5, 4, 3, 2, 1, 0] == [epoch for epoch, _ in seen.going]
    assert (7, ("checkpoint_epoch_7.pth",)) == (seen.before, seen.unknown)
    listed = {file.path: file for file in list_checkpoints(run)}
    for file, frees in seen.records():
        assert file.size == frees
        known = listed[file.path]
        for name in ("path", "epoch", "kind", "codec", "size", "inode"):
            assert getattr(known, name) == getattr(file, name)
        assert known.position.epoch == file.position.epoch
        assert (None, 0, {}) == (file.line, file.saves, file.metrics)
        assert "" == seen.objection(file)


def test_ten_thousand_names_are_planned_without_their_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes is not opened, but for the newest and the oldest of it: here these files are empty."""
    for epoch in range(10_000):
        (tmp_path / numbered_name(epoch)).touch()
    for epoch in (0, 9996, *range(9997, 10_000)):
        write(tmp_path / numbered_name(epoch), epoch=epoch)
    os.link(tmp_path / numbered_name(9999), tmp_path / LAST)
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **more: opened.append(str(path)) or real(path, *args, **more))
    monkeypatch.setattr(retention, "list_checkpoints", lambda _: pytest.fail("listed them all"))
    plan = prune_checkpoints(tmp_path, **RULES, dry_run=True)
    assert [*map(numbered_name, (9997, 9998, 9999)), LAST] == stay(plan)
    assert 9997 == len(plan.removed)
    # The newest number is a name of last_model.pth, and what the one says the other does.
    assert {LAST, *map(numbered_name, (0, 9996, 9997, 9998))} == {Path(path).name for path in opened}
    assert 10_001 == len(os.listdir(tmp_path))


def test_a_plan_from_names_stays_what_it_is(run: Path) -> None:
    """Looked at when all is done, it still says which files go; the sizes of what is gone by then are unknown."""
    looked_at, late = (prune_checkpoints(run, **RULES, dry_run=True) for _ in range(2))
    assert (6, True) == (len(looked_at.files) - 5, looked_at.bytes_freed > 0)
    done = prune_checkpoints(run, **RULES)
    assert done.bytes_freed == looked_at.bytes_freed
    assert done.removed == looked_at.removed == late.removed
    assert 0 == late.bytes_freed
    assert "keep 5 files, remove 6, free 0 bytes" == str(late)


# ------------------------------------------------------------------------------------------- where names are not enough


def another_line(run: Path, epoch: int) -> None:
    write(run / numbered_name(epoch), epoch=epoch, line="b")


def saved_anew(run: Path, epoch: int, saves: int) -> None:
    write(run / numbered_name(epoch), epoch=epoch, saves=saves)


def no_checkpoint(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).write_text("mine")


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "nothing goes": lambda run: [(run / numbered_name(epoch)).unlink() for epoch in range(6)],
    "no last_model.pth": lambda run: (run / LAST).unlink(),
    "last_model.pth cannot be read": lambda run: no_checkpoint(run, LAST),
    "best_model.pth cannot be read": lambda run: no_checkpoint(run, BEST),
    "best_model.pth leads nowhere": lambda run: ((run / BEST).unlink(), (run / BEST).symlink_to("gone")),
    "a link of any name": lambda run: (run / "final").symlink_to(numbered_name(0)),
    "a roll-back that was interrupted": lambda run: write_cut(run, Cut(line="a", after=7, until=9)),
    "one epoch twice": lambda run: (run / f"{numbered_name(2)}.gz").touch(),
    "a folder with a number": lambda run: ((run / numbered_name(2)).unlink(), (run / numbered_name(2)).mkdir()),
    "a kept one cannot be read": lambda run: no_checkpoint(run, numbered_name(7)),
    "a kept one is of another line": lambda run: another_line(run, 6),
    "a kept one is of no line": lambda run: write(run / numbered_name(6), epoch=6, line=None),
    "a kept one holds another epoch": lambda run: write(run / numbered_name(7), epoch=6, saves=8),
    "kept ones are not in order": lambda run: saved_anew(run, 7, 9),
    "the newest of the others is newer": lambda run: saved_anew(run, 5, 20),
    "the oldest is of another line": lambda run: another_line(run, 0),
    "the oldest is of the recipe": lambda run: write(run / numbered_name(0), epoch=0, line=None),
    "the oldest cannot be read": lambda run: no_checkpoint(run, numbered_name(0)),
    "last is older": lambda run: ((run / LAST).unlink(), write(run / LAST, epoch=3)),
    "last went on from an earlier epoch": lambda run: ((run / LAST).unlink(), write(run / LAST, epoch=3, saves=99)),
    "last is of another line": lambda run: ((run / LAST).unlink(), write(run / LAST, epoch=8, line="b")),
    "best is of another line": lambda run: ((run / BEST).unlink(), write(run / BEST, epoch=3, line="b")),
    "best is newer than last": lambda run: ((run / BEST).unlink(), write(run / BEST, epoch=9, saves=99)),
}
UNSOUND: dict[str, Callable[[Path], object]] = {
    "the newest is damaged": lambda run: write(run / numbered_name(8), epoch=8, loss=1.0, damaged=True),
    "a kept one is not finite": lambda run: write(run / numbered_name(7), epoch=7, loss=float("nan")),
}


@pytest.mark.parametrize("name", IRREGULAR)
def test_where_names_are_not_enough_there_is_no_survey(run: Path, name: str) -> None:
    """And the plan is that of a listing of all headers."""
    IRREGULAR[name](run)
    assert look(run) is None
    assert_planned_from_headers(run)


@pytest.mark.parametrize("name", UNSOUND)
def test_where_what_stays_is_not_enough_all_headers_are_read(run: Path, name: str) -> None:
    """The names are in order, but more of the files must stay than they say."""
    UNSOUND[name](run)
    assert look(run) is not None
    assert_planned_from_headers(run)


def assert_planned_from_headers(run: Path) -> None:
    listed: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "list_checkpoints", lambda folder: listed.append(folder) or list_checkpoints(folder))
        before = on_disk(run)
        plan = prune_checkpoints(run, **RULES, dry_run=True)
        assert [run] == listed
        assert before == on_disk(run)
        assert plan == prune_checkpoints(run, **RULES)
        assert [run, run] == listed


def test_a_folder_that_cannot_be_read_has_no_survey(tmp_path: Path) -> None:
    """Whoever lists it is told why."""
    assert look(tmp_path / "gone") is None


# ------------------------------------------------------------------------------------------------ names against headers


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.sampled_from([None, 1.0, 2.0]), min_size=3, max_size=12),
    best=st.none() | st.integers(0, 11),
    line=st.sampled_from(["a", None]),
    keep_last_n=st.integers(2, 4),
    keep_every_n=st.none() | st.integers(2, 4),
    milestones=st.lists(st.integers(0, 11), max_size=3),
)
def test_names_and_headers_give_the_same_plan(
    tmp_path_factory: pytest.TempPathFactory,
    losses: list[float | None],
    best: int | None,
    line: str | None,
    keep_last_n: int,
    keep_every_n: int | None,
    milestones: list[int],
) -> None:
    """Of a run that is what it seems to be: the same files, for the same reasons, with the same bytes."""
    run = write_run(
        tmp_path_factory.mktemp("root") / "run", losses, best=None if best is None else best % len(losses), line=line
    )
    asked: dict[str, Any] = {"keep_last_n": keep_last_n, "keep_every_n": keep_every_n, "milestones": milestones}
    headers = carry_out(plan_retention(list_checkpoints(run), **asked, keep_best_n=0), dry_run=True)
    names = retention._by_names(
        run, retention._Rules(**{**asked, "milestones": tuple(milestones)}, keep_best_n=0, best=Best())
    )
    if not headers.removed:
        assert names is None
    else:
        assert names is not None
        assert said(headers) == said(names[0]) == said(carry_out(names[0], dry_run=True))
        before = set(os.listdir(run))
        done = prune_checkpoints(run, **asked, keep_best_n=0)
        assert said(headers) == said(done)
        assert {path.name for path in headers.removed} == before - set(os.listdir(run))


def said(plan: Plan) -> list[tuple[str, bool, tuple[str, ...], int, int]]:
    return [(i.file.path.name, i.keep, i.reasons, i.file.size, i.frees) for i in plan.files]


# ------------------------------------------------------------------------------------------ a look before each one goes

OBJECTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another line": (lambda run: another_line(run, 2), "it belongs to another line of runs (b)"),
    "no line": (lambda run: write(run / numbered_name(2), epoch=2, line=None), "it belongs to no line of runs"),
    "no checkpoint": (
        lambda run: no_checkpoint(run, numbered_name(2)),
        "nobody knows what it is (expected a zip archive as torch.save writes it, found a file that begins with "
        "b'mine'; check the path)",
    ),
    "newer than its name": (
        lambda run: saved_anew(run, 2, 20),
        "it is newer than its name says (epoch 2, save 20 of the run)",
    ),
    "as new as what stays": (
        lambda run: saved_anew(run, 2, 7),
        "it is newer than its name says (epoch 2, save 7 of the run)",
    ),
    "another epoch": (
        lambda run: write(run / numbered_name(2), epoch=4, saves=3),
        "it is newer than its name says (epoch 4, save 3 of the run)",
    ),
}


@pytest.mark.parametrize("name", OBJECTIONS)
def test_a_file_that_is_another_than_its_name_says_stays(run: Path, name: str) -> None:
    """In the midst of those that go, where only a look shows it: it stays, that is said, and the others go."""
    change, why = OBJECTIONS[name]
    change(run)
    plan = prune_checkpoints(run, **RULES, dry_run=True)
    assert numbered_name(2) in go(plan)  # from its name it would
    assert any("looked into right before it goes" in note for note in plan.notes)
    done = prune_checkpoints(run, **RULES)
    assert [numbered_name(epoch) for epoch in (5, 4, 3, 1, 0)] == go(done)
    assert {numbered_name(epoch) for epoch in (2, 6, 7, 8)} | {LAST, BEST, ".lock"} == set(os.listdir(run))
    (item,) = (item for item in done.files if item.file.path.name == numbered_name(2))
    assert ("older than the newest 3", f"stays: {why}") == item.reasons


def test_the_look_comes_right_before_each_removal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the lock, one file after another: nothing lies between the two."""
    calls: list[tuple[str, str]] = []
    describe, unlink = room.describe, os.unlink
    monkeypatch.setattr(room, "describe", lambda path: calls.append(("look", Path(path).name)) or describe(path))
    monkeypatch.setattr(os, "unlink", lambda path: calls.append(("unlink", Path(path).name)) or unlink(path))
    prune_checkpoints(run, **RULES)
    assert [(what, numbered_name(epoch)) for epoch in range(5, -1, -1) for what in ("look", "unlink")] == calls[-12:]


@pytest.mark.parametrize("codec", ["gzip", "zstd", "shuffle-zstd"])
@pytest.mark.parametrize("best", [0, 1])
def test_compressed_numbers_count_like_plain_ones(run: Path, codec: Codec, best: int) -> None:
    """Planned from names or from headers: the older ones go, and the bytes freed are those of the compressed files."""
    packed = [compress_checkpoint(run / numbered_name(e), codec=codec, replace=True) for e in (0, 1, 2, 3, 6)]
    sizes = {path: path.stat().st_size for path in packed}
    asked: dict[str, Any] = {"keep_last_n": 3, "keep_best_n": best, "milestones": (1,)}
    plan = prune_checkpoints(run, **asked, dry_run=True)
    promised = said(plan)  # looked at, so its sizes are asked for
    assert promised == said(prune_checkpoints(run, **asked))
    plain = [numbered_name(epoch) for epoch in (5, 4)]
    assert [*plain, packed[3].name, packed[2].name, packed[0].name] == go(plan)
    assert sum(sizes[packed[at]] for at in (0, 2, 3)) == sum(i.frees for i in plan.files if i.file.codec == codec)
    assert {packed[1].name, packed[4].name, *map(numbered_name, (7, 8)), LAST, BEST} == set(os.listdir(run)) - {".lock"}
