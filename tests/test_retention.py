"""What to keep: histories with what stays of them, and what never goes whatever is asked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koemorph_tutorial.records import Best, CheckpointFile, CheckpointNotFoundError, Position, kind_of, numbered_name
from koemorph_tutorial.retention import carry_out, cleanup_old_checkpoints, plan_retention

NAN, INF = math.nan, math.inf
ACCURACY = Best(monitor="accuracy", mode="max")
RULES: dict[str, Any] = {"keep_last_n": 2, "keep_best_n": 0}


def file(
    name: str,
    *,
    epoch: int,
    loss: float | None = None,
    saves: int | None = None,
    inode: int | None = None,
    size: int = 10,
) -> CheckpointFile:
    return CheckpointFile(
        path=Path("run") / name,
        epoch=epoch,
        position=Position(epoch=epoch + 1),
        kind=kind_of(name),
        codec=None,
        line="a",
        saves=epoch + 1 if saves is None else saves,
        metrics={} if loss is None else {"loss": loss, "accuracy": loss},
        size=size,
        inode=100 + epoch if inode is None else inode,
    )


def history(*losses: float | None, step: int = 1) -> list[CheckpointFile]:
    """Return one numbered file per loss, newest first as a listing has them."""
    return [file(numbered_name(at * step), epoch=at * step, loss=loss) for at, loss in enumerate(losses)][::-1]


def kept(files: Sequence[CheckpointFile], **rules: Any) -> list[int]:
    return sorted(item.file.epoch for item in plan_retention(files, **rules).files if item.keep)


# ------------------------------------------------------------------------------------------------------------ histories


@pytest.mark.parametrize(
    ("losses", "rules", "expected"),
    [
        pytest.param([], {}, [], id="nothing"),
        pytest.param([1.0], {}, [0], id="one file"),
        pytest.param([3, 2, 1], {"keep_last_n": 3}, [0, 1, 2], id="no more than are kept"),
        pytest.param([4, 3, 2, 1], {}, [2, 3], id="the newest"),
        pytest.param([4, 3, 2, 1], {"keep_last_n": None}, [0, 1, 2, 3], id="all"),
        pytest.param([1, 2, 3, 4, 5], {"keep_best_n": 1}, [0, 3, 4], id="the best is old"),
        pytest.param([5, 1, 2, 3, 4, 6], {"keep_best_n": 3}, [1, 2, 3, 4, 5], id="three best"),
        pytest.param([5, 4, 3, 2, 1], {"keep_best_n": 2}, [3, 4], id="best and newest are the same"),
        pytest.param([1, 1, 1, 5, 5], {"keep_best_n": 1}, [0, 3, 4], id="a tie: the earlier epoch is the best"),
        pytest.param([1, 9, 2, 3, 4], {"keep_best_n": 1, "best": ACCURACY}, [1, 3, 4], id="the largest is the best"),
        pytest.param([9, 9, 2, 3, 4], {"keep_best_n": 1, "best": ACCURACY}, [0, 3, 4], id="a tie of the largest"),
        pytest.param([5, 4, 3, 2, 1, 0], {"milestones": (1, 2)}, [1, 2, 4, 5], id="milestones"),
        pytest.param([5, 4, 3, 2, 1, 0], {"milestones": (5, 77)}, [4, 5], id="a milestone that is new, one not there"),
        pytest.param([6, 5, 4, 3, 2, 1, 0], {"keep_every_n": 3}, [0, 3, 5, 6], id="every third"),
        pytest.param([6, 5, 4, 3, 2, 1, 0], {"keep_every_n": 1}, [0, 1, 2, 3, 4, 5, 6], id="every one"),
        pytest.param(
            [9, 1, 9, 9, 9, 9, 9, 9, 9, 9],
            {"keep_best_n": 1, "keep_every_n": 4, "milestones": (3,)},
            [0, 1, 3, 4, 8, 9],
            id="the union of all",
        ),
        pytest.param([3, 2, NAN, 1], {}, [1, 3], id="NaN does not count"),
        pytest.param([3, 2, 1, NAN], {}, [1, 2, 3], id="the newest is NaN: it stays and does not count"),
        pytest.param([3, 2, NAN, NAN, NAN], {}, [0, 1, 4], id="diverged: the finite ones outlast it"),
        pytest.param([3, 2, INF, -INF, 1], {}, [1, 4], id="infinity does not count either"),
        pytest.param([NAN, NAN, NAN], {}, [2], id="nothing finite: the newest stays"),
        pytest.param([NAN, NAN, NAN], {"keep_last_n": None}, [0, 1, 2], id="nothing finite, all are kept"),
        pytest.param([2, NAN, -INF, 3, 4], {"keep_best_n": 1}, [0, 3, 4], id="NaN and -inf are not the best"),
        pytest.param([NAN, 2, 3, 4], {"milestones": (0,)}, [0, 2, 3], id="a milestone stays though it is NaN"),
        pytest.param([None, None, None, None], {"keep_best_n": 2}, [2, 3], id="no metrics: counted, none is best"),
        pytest.param([None, 5, None, None], {"keep_best_n": 1}, [1, 2, 3], id="the only one with a loss is the best"),
        pytest.param([1, 5, 5, 5], {"keep_best_n": 1, "best": Best(monitor="mae")}, [2, 3], id="another monitor"),
        pytest.param(
            [1, 5, 5, 5], {"keep_best_n": 1, "best": Best(value=0.5, epoch=77)}, [0, 2, 3], id="best elsewhere"
        ),
    ],
)
def test_what_stays_of_a_history(losses: list[float | None], rules: dict[str, Any], expected: list[int]) -> None:
    """Losses from epoch 0 on, and the epochs that stay."""
    assert expected == kept(history(*losses), **{**RULES, **rules})


def test_the_newest_are_those_saved_last() -> None:
    """Neither the highest epoch nor the order of the list decides, but the count of saves in the run."""
    files = [
        file(numbered_name(9), epoch=9, saves=1),
        file(numbered_name(1), epoch=1, saves=4),
        file(numbered_name(5), epoch=5, saves=2),
        file(numbered_name(0), epoch=0, saves=3),
    ]
    assert [0, 1] == kept(files, **RULES)
    assert [0, 1] == kept(files[::-1], **RULES)


@pytest.mark.parametrize(
    ("losses", "rules", "lines"),
    [
        (
            [1, 3, 4, NAN, 2, 5],
            {"keep_last_n": 2, "milestones": (2,), "keep_every_n": 5},
            [
                "keep checkpoint_epoch_005.pth: one of the newest 2, the newest, every 5 epochs",
                "keep checkpoint_epoch_004.pth: one of the newest 2",
                "remove checkpoint_epoch_003.pth: its loss is not finite",
                "keep checkpoint_epoch_002.pth: a milestone",
                "remove checkpoint_epoch_001.pth: older than the newest 2",
                "keep checkpoint_epoch_000.pth: the best, every 5 epochs",
            ],
        ),
        (
            [1, NAN, 2],
            {"keep_last_n": None, "keep_best_n": 2},
            [
                "keep checkpoint_epoch_002.pth: all are kept, the newest, one of the best 2",
                "keep checkpoint_epoch_001.pth: all are kept",
                "keep checkpoint_epoch_000.pth: all are kept, one of the best 2",
            ],
        ),
    ],
)
def test_every_file_has_its_reasons(losses: list[float], rules: dict[str, Any], lines: list[str]) -> None:
    """In the order of the listing, one line a file."""
    assert lines == [str(item) for item in plan_retention(history(*losses), **rules).files]


def test_what_is_not_numbered_is_never_removed() -> None:
    """Best, last and files of other names say so themselves."""
    others = [
        file("last_model.pth", epoch=1, loss=9.0),
        file("best_model.pth", epoch=0, loss=NAN),
        file("checkpoint_epoch_0007.pth", epoch=7),
        file("mine.pth", epoch=3),
    ]
    plan = plan_retention([*others, *history(1, 2, 3, 4)], **RULES)
    assert [
        "keep last_model.pth: last is never removed",
        "keep best_model.pth: best is never removed",
        "keep checkpoint_epoch_0007.pth: other is never removed",
        "keep mine.pth: other is never removed",
    ] == [str(item) for item in plan.files[:4]]
    assert [2, 3] == [item.file.epoch for item in plan.files[:3:-1] if item.keep]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep_last_n": 1}, "keep_last_n: expected 2 or more, or None to keep all, found 1"),
        ({"keep_last_n": 0}, "keep_last_n: expected 2 or more, or None to keep all, found 0"),
        ({"keep_last_n": -1}, "keep_last_n: expected 2 or more, or None to keep all, found -1"),
        ({"keep_last_n": 2, "keep_best_n": -1}, "keep_best_n: expected 0 or more, found -1"),
        ({"keep_last_n": 2, "keep_every_n": 0}, "keep_every_n: expected 1 or more, or None, found 0"),
        ({"keep_last_n": 2, "keep_every_n": -2}, "keep_every_n: expected 1 or more, or None, found -2"),
    ],
)
def test_a_rule_that_could_leave_one_copy_or_makes_no_sense_is_refused(rules: dict[str, int], message: str) -> None:
    """By name, before anything is planned, even for no files at all."""
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        plan_retention([], **rules)


# ---------------------------------------------------------------------------------------------------- what always holds

losses = st.one_of(st.none(), st.floats(width=16), st.sampled_from([NAN, INF, -INF, 1.0]))
rules = st.fixed_dictionaries(
    {"keep_last_n": st.none() | st.integers(2, 6), "keep_best_n": st.integers(0, 3)},
    optional={
        "keep_every_n": st.none() | st.integers(1, 5),
        "milestones": st.lists(st.integers(0, 12), max_size=3),
        "best": st.sampled_from([Best(), ACCURACY, Best(monitor="mae")]),
    },
)


@st.composite
def directories(draw: st.DrawFn) -> list[CheckpointFile]:
    """Return files in any order, of any kind, some of them names of the same bytes."""
    epochs = draw(st.lists(st.integers(0, 12), unique=True, max_size=9))
    files = [
        file(numbered_name(epoch), epoch=epoch, loss=draw(losses), saves=draw(st.integers(0, 9))) for epoch in epochs
    ]
    for name in draw(st.lists(st.sampled_from(["best_model.pth", "last_model.pth", "mine.pth"]), unique=True)):
        files.append(
            file(name, epoch=20, loss=draw(losses), inode=draw(st.sampled_from([99, *[f.inode for f in files]])))
        )
    return draw(st.permutations(files))


@settings(max_examples=100, deadline=None)
@given(directories(), rules)
def test_what_holds_for_every_plan(files: list[CheckpointFile], rules: dict[str, Any]) -> None:
    """Best, last, unknown names and the newest number stay; so do the newest finite ones; each file has a reason."""
    given_files = list(files)
    plan = plan_retention(files, **rules)
    assert given_files == files
    assert [id(f) for f in files] == [id(item.file) for item in plan.files]
    assert all(item.reasons for item in plan.files)
    assert all(item.keep for item in plan.files if item.file.kind != "numbered")
    numbered = [item for item in plan.files if item.file.kind == "numbered"]
    newest = max(numbered, key=lambda item: (item.file.saves, item.file.epoch), default=None)
    assert newest is None or newest.keep
    monitor = rules.get("best", Best()).monitor
    finite = [item for item in numbered if math.isfinite(item.file.metrics.get(monitor, 0.0))]
    finite.sort(key=lambda item: (item.file.saves, item.file.epoch), reverse=True)
    assert all(item.keep for item in finite[: rules["keep_last_n"]])
    assert all(item.keep for item in numbered if item.file.epoch in rules.get("milestones", ()))
    assert {item.file.path for item in plan.files if not item.keep} == set(plan.removed)


@settings(max_examples=60, deadline=None)
@given(directories(), rules)
def test_a_plan_carried_out_leaves_nothing_to_do(files: list[CheckpointFile], rules: dict[str, Any]) -> None:
    """Asked again of what stayed, the same rules remove nothing."""
    stayed = [item.file for item in plan_retention(files, **rules).files if item.keep]
    assert () == plan_retention(stayed, **rules).removed


def on_disk(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        entry.name: (entry.stat().st_ino, entry.stat().st_size, entry.stat().st_mtime_ns)
        for entry in os.scandir(folder)
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rules=rules,
    sizes=st.lists(st.tuples(st.integers(0, 5000), losses), min_size=1, max_size=8),
    links=st.dictionaries(st.sampled_from(["best_model.pth", "last_model.pth"]), st.integers(0, 7)),
    shared=st.booleans(),
)
def test_the_bytes_freed_are_those_that_leave_the_disk(
    tmp_path_factory: pytest.TempPathFactory,
    rules: dict[str, Any],
    sizes: list[tuple[int, float | None]],
    links: dict[str, int],
    shared: bool,
) -> None:
    """Bytes with another name are not freed; the plan touches nothing, and what it says is what happens."""
    folder = tmp_path_factory.mktemp("run")
    for epoch, (size, _) in enumerate(sizes):
        (folder / numbered_name(epoch)).write_bytes(bytes(size))
    for name, epoch in links.items():
        os.link(folder / numbered_name(epoch % len(sizes)), folder / name)
    if shared and len(sizes) > 1:  # two numbers of the same bytes
        (folder / numbered_name(1)).unlink()
        os.link(folder / numbered_name(0), folder / numbered_name(1))
    files = []
    for place, name in enumerate(sorted(os.listdir(folder))):
        status = (folder / name).stat()
        loss = sizes[place % len(sizes)][1]
        files.append(file(str(folder / name), epoch=place, loss=loss, inode=status.st_ino, size=status.st_size))
    files = [CheckpointFile(**{**vars(f), "kind": kind_of(f.path.name)}) for f in files]

    before = on_disk(folder)
    plan = plan_retention(files, **rules)
    assert before == on_disk(folder)
    done = carry_out(plan)
    after = on_disk(folder)
    assert plan == done
    assert {name: seen for name, seen in before.items() if folder / name not in plan.removed} == after
    used = [sum({inode: size for inode, size, _ in seen.values()}.values()) for seen in (before, after)]
    assert used[0] - used[1] == plan.bytes_freed


# --------------------------------------------------------------------------------------------------------- carrying out


def test_a_plan_prints_how_much_it_frees() -> None:
    """The bytes of the newest file count once, and stay: last is a name of them too."""
    last = file("last_model.pth", epoch=3, inode=103, size=1000)
    numbered = [file(numbered_name(epoch), epoch=epoch, size=1000) for epoch in (3, 2, 1, 0)]
    assert "keep 3 files, remove 2, free 2,000 bytes" == str(plan_retention([last, *numbered], **RULES))
    assert "keep 0 files, remove 0, free 0 bytes" == str(plan_retention([], **RULES))


def test_bytes_with_two_names_are_freed_once_and_only_with_the_last_of_them() -> None:
    """Two numbers that are links to the same bytes: both go, or one stays."""
    two = [file(numbered_name(epoch), epoch=epoch, inode=7, size=1000) for epoch in (1, 0)]
    newer = [file(numbered_name(epoch), epoch=epoch, size=10) for epoch in (3, 2)]
    assert 1000 == plan_retention([*newer, *two], **RULES).bytes_freed
    assert 0 == plan_retention([*newer, *two], **RULES, milestones=(0,)).bytes_freed


def test_a_file_that_is_gone_already_is_said(tmp_path: Path) -> None:
    """Somebody was faster: the others are removed all the same."""
    files = []
    for epoch in (3, 2, 1, 0):
        path = tmp_path / numbered_name(epoch)
        path.touch()
        files.append(file(str(path), epoch=epoch))
    files = [CheckpointFile(**{**vars(f), "kind": "numbered"}) for f in files]
    plan = plan_retention(files, **RULES)
    (tmp_path / numbered_name(1)).unlink()
    done = carry_out(plan)
    assert ["checkpoint_epoch_002.pth", "checkpoint_epoch_003.pth"] == sorted(os.listdir(tmp_path))
    assert [
        "remove checkpoint_epoch_001.pth: older than the newest 2, was gone already",
        "remove checkpoint_epoch_000.pth: older than the newest 2",
    ] == [str(item) for item in done.files if not item.keep]


def save_run(folder: Path, losses: list[float]) -> None:
    """Write a run as the recipe does: real checkpoints with metrics, best and last."""
    for epoch, loss in enumerate(losses):
        torch.save({"epoch": epoch, "metrics": {"loss": loss}}, folder / numbered_name(epoch))
    best = min(range(len(losses)), key=losses.__getitem__)
    os.link(folder / numbered_name(best), folder / "best_model.pth")
    os.link(folder / numbered_name(len(losses) - 1), folder / "last_model.pth")


def test_a_directory_is_cleaned_up(tmp_path: Path) -> None:
    """The newest and the best stay, and everything that is not a numbered checkpoint."""
    save_run(tmp_path, [1.0, 0.2, 0.3, 0.4, 0.5])
    (tmp_path / "notes.txt").touch()
    (tmp_path / "checkpoint_epoch_7.pth").touch()
    (tmp_path / "checkpoint_epoch_009.pth").write_text("not a checkpoint")
    everything = set(os.listdir(tmp_path))
    plan = cleanup_old_checkpoints(tmp_path, 2, dry_run=True)
    assert everything == set(os.listdir(tmp_path))
    assert plan == cleanup_old_checkpoints(tmp_path, 2)
    assert {"checkpoint_epoch_000.pth", "checkpoint_epoch_002.pth"} == everything - set(os.listdir(tmp_path))
    assert [tmp_path / numbered_name(2), tmp_path / numbered_name(0)] == list(plan.removed)


def test_a_directory_is_cleaned_up_by_the_numbers_asked_for(tmp_path: Path) -> None:
    """Ten newest and the best one unless others are asked for."""
    save_run(tmp_path, [float(epoch) for epoch in range(13)])
    assert [numbered_name(2), numbered_name(1)] == [path.name for path in cleanup_old_checkpoints(tmp_path).removed]
    plan = cleanup_old_checkpoints(tmp_path, keep_n=3, keep_best_n=0)
    assert 8 == len(plan.removed)
    left = {"best_model.pth", *[numbered_name(e) for e in (10, 11, 12)], "last_model.pth"}
    assert left == set(os.listdir(tmp_path)) - {".lock"}


def test_a_clean_up_that_cannot_be_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    """One file to keep, or no such directory."""
    save_run(tmp_path, [1.0, 0.2, 0.3])
    everything = set(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=r"^keep_n: expected 2 or more, found 1$"):
        cleanup_old_checkpoints(tmp_path, 1)
    with pytest.raises(CheckpointNotFoundError, match=rf"^{re.escape(str(tmp_path / 'gone'))}: expected a directory"):
        cleanup_old_checkpoints(tmp_path / "gone")
    assert everything == set(os.listdir(tmp_path))
