"""What to keep: histories with what stays of them, and what never goes whatever is asked."""

from __future__ import annotations

import json
import math
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial import CheckpointManager, cleanup_old_checkpoints, list_checkpoints, retention
from koemorph_tutorial.records import (
    Best,
    CheckpointFile,
    CheckpointNotFoundError,
    DirectoryLockedError,
    numbered_epoch,
    numbered_name,
)
from koemorph_tutorial.removal import is_sound
from koemorph_tutorial.retention import Plan, carry_out, plan_retention, prune_checkpoints
from koemorph_tutorial.storage import describe_all

from .histories import BEST, LAST, file, go, history, on_disk, stay, used, whole, write, write_run

NAN, INF = math.nan, math.inf
ACCURACY = Best(monitor="accuracy", mode="max")
RULES: dict[str, Any] = {"keep_last_n": 2, "keep_best_n": 0}
GOLDEN = Path(__file__).parent / "golden/retention"
REWRITE = os.environ.get("REWRITE_GOLDEN") == "1"  # REWRITE_GOLDEN=1 pytest tests/test_retention.py

# ------------------------------------------------------------------------------------------------------------ histories


@dataclass(frozen=True)
class Row:
    """A history, what is asked for, and the epochs of the numbered files that stay."""

    name: str
    files: list[CheckpointFile]
    kept: list[int]
    rules: dict[str, Any] = field(default_factory=dict)

    def plan(self) -> Plan:
        return plan_retention(self.files, **{**RULES, **self.rules})


def renewed(epoch: int, saves: int) -> CheckpointFile:
    return file(numbered_name(epoch), epoch=epoch, loss=1.0, saves=saves)


TWINS = [file(numbered_name(epoch), epoch=epoch, loss=1.0, inode=7) for epoch in (1, 0)]
HISTORIES = [
    Row("nothing", [], []),
    Row("one file", history(1.0), [0]),
    Row("no more than are kept", history(3, 2, 1), [0, 1, 2], {"keep_last_n": 3}),
    Row("the newest", history(4, 3, 2, 1), [2, 3]),
    Row("all", history(4, 3, 2, 1), [0, 1, 2, 3], {"keep_last_n": None}),
    Row("the best is old", history(1, 2, 3, 4, 5), [0, 3, 4], {"keep_best_n": 1}),
    Row("three best", history(5, 1, 2, 3, 4, 6), [1, 2, 3, 4, 5], {"keep_best_n": 3}),
    Row("best and newest are the same", history(5, 4, 3, 2, 1), [3, 4], {"keep_best_n": 2}),
    Row("a tie goes to the earlier epoch", history(1, 1, 1, 5, 5), [0, 3, 4], {"keep_best_n": 1}),
    Row("the largest is the best", history(1, 9, 2, 3, 4), [1, 3, 4], {"keep_best_n": 1, "best": ACCURACY}),
    Row("a tie of the largest", history(9, 9, 2, 3, 4), [0, 3, 4], {"keep_best_n": 1, "best": ACCURACY}),
    Row("milestones", history(5, 4, 3, 2, 1, 0), [1, 2, 4, 5], {"milestones": (1, 2)}),
    Row("a milestone not there", history(5, 4, 3, 2, 1, 0), [4, 5], {"milestones": (5, 77)}),
    Row("every third", history(6, 5, 4, 3, 2, 1, 0), [0, 3, 5, 6], {"keep_every_n": 3}),
    Row("every one", history(4, 3, 2, 1, 0), [0, 1, 2, 3, 4], {"keep_every_n": 1}),
    Row("every tenth of a run saved each fifth", history(*[1] * 7, step=5), [0, 10, 20, 25, 30], {"keep_every_n": 10}),
    Row(
        "the union of all",
        history(9, 1, 9, 9, 9, 9, 9, 9, 9, 9),
        [0, 1, 3, 4, 8, 9],
        {"keep_best_n": 1, "keep_every_n": 4, "milestones": (3,)},
    ),
    Row("NaN among the newest", history(3, 2, NAN, 1), [1, 2, 3]),
    Row("NaN that is older", history(3, NAN, 2, 1), [2, 3]),
    Row("the newest is NaN", history(3, 2, 1, NAN), [1, 2, 3]),
    Row("diverged for long", history(3, 2, NAN, NAN, NAN), [0, 1, 3, 4]),
    Row("infinity is as NaN", history(3, 2, INF, -INF, 1), [1, 3, 4]),
    Row("nothing finite", history(NAN, NAN, NAN), [1, 2]),
    Row("nothing finite and all are kept", history(NAN, NAN, NAN), [0, 1, 2], {"keep_last_n": None}),
    Row("NaN is never the best", history(2, NAN, -INF, 3, 4), [0, 3, 4], {"keep_best_n": 1}),
    Row("a milestone that is NaN", history(NAN, 2, 3, 4), [0, 2, 3], {"milestones": (0,)}),
    Row("no metrics", history(None, None, None, None), [2, 3], {"keep_best_n": 2}),
    Row("one that has a loss", history(None, 5, None, None), [1, 2, 3], {"keep_best_n": 1}),
    Row("another monitor", history(1, 5, 5, 5), [2, 3], {"keep_best_n": 1, "best": Best(monitor="mae")}),
    Row(
        "the best lies elsewhere",
        history(1, 5, 5, 5),
        [0, 2, 3],
        {"keep_best_n": 1, "best": Best(value=0.5, epoch=77)},
    ),
    Row("links of best and last", whole(4, 1, 2, 3, 4, 5, best=1), [4, 5]),
    Row("best and last are one", whole(4, 3, 2, 1, best=3), [2, 3], {"keep_best_n": 1}),
    Row("compressed names", history(4, 3, 2, 1, suffix=".shuffle.pth"), [2, 3]),
    Row(
        "compressed and plain",
        [*history(4, 3, 2, 1)[:2], *history(4, 3, suffix=".pth.gz")],
        [0, 2, 3],
        {"keep_every_n": 4},
    ),
    Row(
        "two forms of one epoch",
        [file(f"{numbered_name(1)}{end}", epoch=1, inode=inode) for end, inode in (("", 7), (".gz", 8), (".zst", 9))]
        + history(4, 3, 2, 1)[:2],
        [1, 2, 3],
        {"keep_last_n": 3},
    ),
    Row("saved anew after a roll back", [renewed(9, 1), renewed(1, 4), renewed(5, 2), renewed(0, 3)], [0, 1]),
    Row(
        "files of other names",
        [file("mine.pth", epoch=3), file("checkpoint_epoch_0007.pth", epoch=7), *history(3, 2, 1)],
        [1, 2],
    ),
    Row("two numbers of the same bytes", [*history(1, 1, 1, 1)[:2], *TWINS], [2, 3]),
]


@pytest.mark.parametrize("row", HISTORIES, ids=lambda row: row.name)
def test_what_stays_of_a_history(row: Row) -> None:
    """The epochs of the numbered files that stay, and the whole printed plan as it was once read and approved."""
    plan = row.plan()
    assert row.kept == sorted(item.file.epoch for item in plan.files if item.keep and item.file.kind == "numbered")
    golden = GOLDEN / f"{row.name.replace(' ', '-')}.txt"
    printed = "\n".join(plan.lines()) + "\n"
    if REWRITE:
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(printed, "utf-8")
    assert golden.exists(), f"no golden file {golden.name}: REWRITE_GOLDEN=1 writes it; read it before it is committed"
    assert golden.read_text("utf-8") == printed


def test_each_golden_file_belongs_to_a_history() -> None:
    """None is left behind by a row that was renamed."""
    assert {f"{row.name.replace(' ', '-')}.txt" for row in HISTORIES} == set(os.listdir(GOLDEN))
    assert len(HISTORIES) == len({row.name for row in HISTORIES}) >= 25


@pytest.mark.parametrize("row", HISTORIES, ids=lambda row: row.name)
def test_the_order_of_the_files_does_not_matter(row: Row) -> None:
    """The plan is the same, and the list that was handed over is as it was."""
    for seed in range(3):
        files = random.Random(seed).sample(row.files, len(row.files))
        before = list(files)
        assert row.plan() == plan_retention(files, **{**RULES, **row.rules})
        assert before == files


# ------------------------------------------------------------------------------------------------------------- refusals

LEAST = "keep_last_n: expected 2 or more, or null to keep all, found "
WHOLE = "keep_best_n: expected a whole number from 0, found "
EVERY = "keep_every_n: expected a whole number of epochs from 1, or null, found "
REFUSED = [
    *(({"keep_last_n": value}, f"{LEAST}{value!r}") for value in (0, -1, -(10**30), True, False, 2.0, 2.5, NAN, "3")),
    ({"keep_last_n": 1}, f"{LEAST}1; all names of the newest save share one copy of its bytes"),
    *(({"keep_best_n": value}, f"{WHOLE}{value!r}") for value in (-1, True, 1.0, None)),
    *(({"keep_every_n": value}, f"{EVERY}{value!r}") for value in (0, -2, True, 2.0, "2")),
    ({"milestones": (1, -1)}, "milestones: expected whole epoch numbers from 0, found (1, -1)"),
    ({"milestones": (True,)}, "milestones: expected whole epoch numbers from 0, found (True,)"),
    ({"milestones": (1.5,)}, "milestones: expected whole epoch numbers from 0, found (1.5,)"),
    ({"best": Best(mode="less")}, "mode: expected 'min' or 'max', found 'less'"),
]


@pytest.mark.parametrize(("rules", "message"), REFUSED, ids=lambda value: str(value))
def test_a_rule_that_could_leave_one_copy_or_makes_no_sense_is_refused(
    tmp_path: Path, rules: dict[str, Any], message: str
) -> None:
    """By name, before anything is planned or looked at, even for no files and a folder that is none."""
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
        plan_retention([], **{**RULES, **rules})
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
        prune_checkpoints(tmp_path / "gone", **{**RULES, **rules})
    assert [] == os.listdir(tmp_path)


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
    files = []
    for epoch in epochs:
        name = numbered_name(epoch).removesuffix(".pth") + draw(st.sampled_from([".pth", ".pth.gz", ".shuffle.pth"]))
        files.append(file(name, epoch=epoch, loss=draw(losses), saves=draw(st.integers(0, 9))))
    for name in draw(st.lists(st.sampled_from([BEST, LAST, "mine.pth"]), unique=True)):
        inode = draw(st.sampled_from([99, *[f.inode for f in files]]))
        files.append(file(name, epoch=20, loss=draw(losses), inode=inode))
    return draw(st.permutations(files))


@settings(max_examples=100, deadline=None)
@given(directories(), rules)
def test_what_holds_for_every_plan(files: list[CheckpointFile], rules: dict[str, Any]) -> None:
    """Best, last, unknown names and the newest number stay; so do the newest finite ones; each file has a reason."""
    plan = plan_retention(files, **rules)
    assert sorted(f.path for f in files) == sorted(item.file.path for item in plan.files)
    assert all(item.reasons for item in plan.files)
    assert all(item.keep for item in plan.files if item.file.kind != "numbered")
    numbered = [item for item in plan.files if item.file.kind == "numbered"]
    numbered.sort(key=lambda item: (item.file.saves, item.file.epoch), reverse=True)
    last_n = rules["keep_last_n"]
    assert all(item.keep for item in numbered[:last_n])  # finite or not, the newest stay
    monitor = rules.get("best", Best()).monitor
    finite = [item for item in numbered if math.isfinite(item.file.metrics.get(monitor, 0.0))]
    assert all(item.keep for item in finite[:last_n])
    assert all(item.keep for item in numbered if item.file.epoch in rules.get("milestones", ()))
    assert {item.file.path for item in plan.files if not item.keep} == set(plan.removed)
    # Bytes as a disk counts them: those of which no name stays.
    sizes = {f.inode: f.size for f in files}
    held = {item.file.inode for item in plan.files if item.keep}
    assert sum(size for inode, size in sizes.items() if inode not in held) == plan.bytes_freed
    assert sum(sizes[inode] for inode in held) == plan.bytes_kept


@settings(max_examples=60, deadline=None)
@given(directories(), rules)
def test_of_what_stayed_the_same_rules_remove_nothing(files: list[CheckpointFile], rules: dict[str, Any]) -> None:
    """Asked again, there is nothing to do."""
    stayed = [item.file for item in plan_retention(files, **rules).files if item.keep]
    assert () == plan_retention(stayed, **rules).removed


class Counted(dict[str, float]):
    """Metrics that count how often they are asked."""

    asked = 0

    def get(self, *args: Any) -> Any:
        Counted.asked += 1
        return super().get(*args)

    def __eq__(self, other: object) -> bool:
        raise AssertionError("records are compared with one another")

    __hash__ = None  # type: ignore[assignment]


def test_ten_thousand_files_are_planned_without_comparing_each_with_each() -> None:
    """A few questions a file, whatever is asked for, and no file is looked for among the others."""
    Counted.asked = 0
    files = [
        CheckpointFile(**{**vars(f), "metrics": Counted(f.metrics)})
        for f in history(*[NAN if epoch % 7 == 3 else float(epoch) for epoch in range(10_000)])
    ]
    milestones = range(0, 10_000, 2)
    plan = plan_retention(files, keep_last_n=100, keep_best_n=100, keep_every_n=1001, milestones=milestones)
    assert 0 < Counted.asked < 5 * 10_000
    # The newest hundred finite ones reach back 116 epochs; half of all are milestones.
    assert 10_000 == len(plan.files)
    assert 5000 + 50 + 50 + 5 < 10_000 - len(plan.removed) < 5000 + 50 + 60 + 10


# ------------------------------------------------------------------------------------------------------- how it is said


def test_a_plan_prints_how_much_it_frees() -> None:
    """The bytes of the newest file count once, and stay: last is a name of them too."""
    last = file(LAST, epoch=3, inode=103)
    assert "keep 3 files, remove 2, free 2,000 bytes" == str(plan_retention([last, *history(4, 3, 2, 1)], **RULES))
    assert "keep 0 files, remove 0, free 0 bytes" == str(plan_retention([], **RULES))
    assert "keep 1 file, remove 0, free 0 bytes" == str(plan_retention(history(1), **RULES))


def test_bytes_with_two_names_are_freed_once_and_only_with_the_last_of_them() -> None:
    """Two numbers that are links to the same bytes: both go, or one stays. So do best and last hold theirs."""
    newer = history(1, 1, 1, 1)[:2]
    both = plan_retention([*newer, *TWINS], **RULES)
    assert (1000, [0, 1000]) == (both.bytes_freed, [item.frees for item in both.files if not item.keep])
    assert 0 == plan_retention([*newer, *TWINS], **RULES, milestones=(0,)).bytes_freed
    for name in (BEST, LAST):
        plan = plan_retention([*newer, *TWINS, file(name, epoch=1, saves=9, inode=7)], **RULES)
        assert (2, 0) == (len(plan.removed), plan.bytes_freed)
        assert plan.lines()[-1].endswith("older than the newest 2; frees nothing: the same bytes have another name")


def test_a_plan_is_one_json_object() -> None:
    """Per file the name, whether it stays, why, its size; then the totals."""
    plan = plan_retention([file(LAST, epoch=2, loss=NAN), *history(1, 2, NAN)], **RULES | {"keep_last_n": 2})
    plan = Plan(files=(*plan.files, *plan_retention(history(5, 5, 5), **RULES).files[2:]), notes=("a note",))
    said = json.loads(plan.to_json())
    assert {
        "name": "checkpoint_epoch_000.pth",
        "keep": False,
        "reasons": ["older than the newest 2"],
        "size": 1000,
        "frees": 1000,
    } == said["files"][-1]
    assert ["last is never removed"] == said["files"][0]["reasons"]
    del said["files"]
    assert {"kept": 4, "removed": 1, "bytes_kept": 3000, "bytes_freed": 1000, "notes": ["a note"]} == said
    assert {"files": [], "kept": 0, "removed": 0, "bytes_kept": 0, "bytes_freed": 0, "notes": []} == json.loads(
        plan_retention([], **RULES).to_json()
    )


# -------------------------------------------------------------------------------------------------------------- by hand


def test_a_directory_is_cleaned_up(tmp_path: Path) -> None:
    """The newest and the best stay, and everything that is not a numbered checkpoint; what looks like one is said."""
    run = write_run(tmp_path / "run", [1.0, 0.2, 0.3, 0.4, 0.5], best=1)
    (run / "notes.txt").touch()
    (run / "checkpoint_epoch_7.pth").touch()
    (run / "checkpoint_epoch_009.pth").write_text("not a checkpoint")
    write(run / "checkpoint_epoch_008.pth", epoch=8, line="b")
    before, names = on_disk(run), set(os.listdir(run))
    plan = cleanup_old_checkpoints(run, 2, dry_run=True)
    assert (before, names) == (on_disk(run), set(os.listdir(run)))  # not even a lock
    assert plan == cleanup_old_checkpoints(run, 2)
    assert {numbered_name(0), numbered_name(2)} == names - set(os.listdir(run))
    assert [numbered_name(2), numbered_name(0)] == go(plan)
    said = [note.partition(":")[0] for note in plan.notes]
    assert sorted(f"checkpoint_epoch_{number}.pth stays" for number in ("7", "008", "009")) == sorted(said)


def test_a_directory_is_cleaned_up_by_the_numbers_asked_for(tmp_path: Path) -> None:
    """Ten newest and the best one unless others are asked for."""
    run = write_run(tmp_path / "run", [float(epoch) for epoch in range(13)], best=0)
    assert [numbered_name(2), numbered_name(1)] == go(cleanup_old_checkpoints(run))
    assert 8 == len(cleanup_old_checkpoints(run, keep_n=3, keep_best_n=0).removed)
    assert {BEST, *[numbered_name(e) for e in (10, 11, 12)], LAST} == set(os.listdir(run)) - {".lock"}


@pytest.mark.parametrize("keep", [1, 0, -1, True, 2.0, None])
def test_a_clean_up_that_keeps_too_little_is_refused(tmp_path: Path, keep: Any) -> None:
    """By the name that the caller wrote; nothing is removed."""
    run = write_run(tmp_path / "run", [1.0, 0.2, 0.3])
    before = on_disk(run)
    with pytest.raises(ValueError, match=rf"^keep_n: expected 2 or more, found {keep!r}$"):
        cleanup_old_checkpoints(run, keep)
    assert before == on_disk(run)


def test_the_folder_of_the_run_will_do_as_well(tmp_path: Path) -> None:
    """What a training has made: the checkpoints lie one floor down."""
    write_run(tmp_path / "checkpoints", [4.0, 3.0, 2.0, 1.0])
    assert [numbered_name(1), numbered_name(0)] == go(prune_checkpoints(tmp_path, **RULES))
    assert ["checkpoints"] == os.listdir(tmp_path)


NO_RUN = {
    "gone": "expected a directory of checkpoints, found: No such file or directory; check the path",
    "a file": "expected a directory of checkpoints, found: Not a directory; check the path",
    "empty": "expected the checkpoints of a run, found none by the names of this library; nothing was removed",
    "others": "expected the checkpoints of a run, found none by the names of this library; nothing was removed",
    "unreadable": r"expected the checkpoints of a run, found none that can be read \(checkpoint_epoch_003.pth: "
    "expected a zip archive",
    "rubbish\0": "expected a directory of checkpoints, found: .*null byte; check the path",
}


@pytest.mark.parametrize("name", NO_RUN)
@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("best", [0, 1])
def test_a_directory_that_is_no_run_is_one_line(tmp_path: Path, name: str, dry_run: bool, best: int) -> None:
    """Which, what was expected, what was found; nothing is removed and nothing left, not even a lock."""
    (tmp_path / "a file").write_text("mine")
    for folder in ("empty", "others", "unreadable"):
        (tmp_path / folder).mkdir()
    (tmp_path / "others/model.pt").touch()
    (tmp_path / "others/checkpoint_epoch_5.pth").touch()
    (tmp_path / "unreadable/checkpoint_epoch_003.pth").write_text("mine, and no checkpoint")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointNotFoundError, match=NO_RUN[name]) as refused:
        prune_checkpoints(tmp_path / name, keep_last_n=2, keep_best_n=best, dry_run=dry_run)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert before == sorted(tmp_path.rglob("*"))


def test_links_to_another_folder_are_no_run(tmp_path: Path) -> None:
    """A folder of nothing but links: what they lead to is not this run's."""
    run = write_run(tmp_path / "run", [4.0, 3.0, 2.0, 1.0])
    (tmp_path / "links").mkdir()
    for path in run.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    with pytest.raises(CheckpointNotFoundError, match=r"found none that can be used \(.* symbolic link to "):
        prune_checkpoints(tmp_path / "links", **RULES)
    assert 5 == len(os.listdir(run)) == len(set(os.listdir(tmp_path / "links")) - {".lock"})


@pytest.mark.parametrize("best", [0, 1])
@pytest.mark.parametrize(
    ("damaged", "kept", "why"),
    [
        ({5}, [3, 4, 5], None),
        ({4, 5}, [3, 4, 5], "the newest sound file"),
        ({2, 3, 4, 5}, [1, 4, 5], "the newest sound file"),
        ({0, 1, 2, 3, 4, 5}, [0, 1, 2, 3, 4, 5], "stays: no file here is sound"),
    ],
)
def test_the_newest_sound_file_stays_whatever_is_asked(
    tmp_path: Path, best: int, damaged: set[int], kept: list[int], why: str | None
) -> None:
    """What is kept is read through, the newest first; the rules alone would have left damaged files only."""
    run = write_run(tmp_path / "run", [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    for epoch in damaged:
        write(run / numbered_name(epoch), epoch=epoch, loss=6.0 - epoch, damaged=True)  # last is a link: so is it
    expected = kept if why else [4, 5]
    plan = prune_checkpoints(run, keep_last_n=2, keep_best_n=best, dry_run=True)
    assert plan == prune_checkpoints(run, keep_last_n=2, keep_best_n=best)
    assert [numbered_name(epoch) for epoch in expected] == [name for name in stay(plan) if name != LAST]
    spared = {item.reasons[-1] for item in plan.files if item.keep and item.file.epoch not in (4, 5)}
    assert ({why} if why else set()) == spared
    assert f"{LAST} is damaged" in plan.notes  # the newest save, by its first name


def test_files_without_checksums_may_be_sound_and_are_not_counted_on(tmp_path: Path) -> None:
    """The newest that has some stays beside them; where none has any the newest are kept as asked."""
    run = write_run(tmp_path / "run", [4.0, 3.0, 2.0, 1.0])

    def rewrite(epoch: int) -> None:
        with torch.utils.serialization.config.patch("save.compute_crc32", False):
            checkpoint = torch.load(run / numbered_name(epoch), weights_only=True)
            torch.save(checkpoint, run / numbered_name(epoch))

    for epoch in (3, 2):
        rewrite(epoch)
    plan = prune_checkpoints(run, **RULES, dry_run=True)
    assert [*map(numbered_name, (1, 2, 3)), LAST] == stay(plan)
    for epoch in (1, 0):
        rewrite(epoch)
    assert [numbered_name(1), numbered_name(0)] == go(prune_checkpoints(run, **RULES))


# ----------------------------------------------------------------------------------------- whatever lies in a directory

numbers = st.fixed_dictionaries(
    {"loss": st.sampled_from([None, NAN, INF, 0.5, 1.0, 2.0, 3.0])},
    optional={
        "damaged": st.sampled_from([False, False, True]),
        "line": st.sampled_from(["a", "a", "a", "b", None]),
        "saves": st.integers(1, 12),
    },
)
asked = st.fixed_dictionaries(
    {"keep_last_n": st.integers(2, 4) | st.none(), "keep_best_n": st.sampled_from([0, 0, 1, 2])},
    optional={"keep_every_n": st.integers(2, 4), "milestones": st.lists(st.integers(0, 9), max_size=2)},
)


@settings(max_examples=120, deadline=None)
@given(
    numbers=st.lists(numbers, min_size=1, max_size=9) | st.lists(st.just({"loss": 1.0}), min_size=4, max_size=9),
    links=st.dictionaries(st.sampled_from([BEST, LAST]), st.integers(0, 8)),
    softly=st.booleans(),
    outside=st.sets(st.integers(0, 8), max_size=3),
    twin=st.none() | st.integers(0, 8),
    asked=asked,
)
def test_nothing_that_must_stay_ever_goes(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[dict[str, Any]],
    links: dict[str, int],
    softly: bool,
    outside: set[int],
    twin: int | None,
    asked: dict[str, Any],
) -> None:
    """Best, last, the newest sound bytes, another line, unknown files; and the bytes promised are those that go."""
    root = tmp_path_factory.mktemp("root")
    run, elsewhere = root / "run", root / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    for epoch, number in enumerate(numbers):
        write(run / numbered_name(epoch), **{"epoch": epoch, **number})
    count = len(numbers)
    if twin is not None and twin % count:  # two numbers of the same bytes
        (run / numbered_name(twin % count)).unlink()
        os.link(run / numbered_name(0), run / numbered_name(twin % count))
    for name, at in links.items():
        if softly and name == BEST:
            (run / name).symlink_to(numbered_name(at % count))
        else:
            os.link(run / numbered_name(at % count), run / name)
    for at in outside:  # a backup made of links
        (elsewhere / str(at)).unlink(missing_ok=True)
        os.link(run / numbered_name(at % count), elsewhere / str(at))
    (run / "mine.pth").write_bytes(b"mine")
    (run / "checkpoint_epoch_3.pth").write_bytes(b"not a name of ours")

    before, listing = on_disk(run, elsewhere), list_checkpoints(run)
    line_of = {file.inode: file.line for file in describe_all(run)[0]}
    foreign = {file.path for file in listing if file.kind != "numbered"}
    bytes_before = used(run, elsewhere)
    sound = max((f for f in listing if is_sound(f)), key=lambda f: (f.saves, f.epoch), default=None)
    dry = prune_checkpoints(run, **asked, dry_run=True)
    assert before == on_disk(run, elsewhere)  # which also looks at what a dry run puts off
    promised, gone_by_plan = dry.bytes_freed, set(dry.removed)
    assert ".lock" not in os.listdir(run)
    done = prune_checkpoints(run, **asked)
    after = on_disk(run, elsewhere)

    gone = {Path(path) for path in before.keys() - after.keys()}
    assert gone == set(done.removed)
    assert gone <= gone_by_plan
    assert {path: before[path] for path in after} == after  # whatever stays has its bytes, through links too
    assert bytes_before - used(run, elsewhere) == done.bytes_freed <= promised
    if not any("stays: " in reason for item in done.files for reason in item.reasons):
        assert dry == done
        assert promised == done.bytes_freed
    assert not gone & foreign
    assert all(numbered_epoch(path.name) is not None for path in gone)
    if sound is not None:
        assert before[str(sound.path)][3] in [content for *_, content in after.values()]
    if asked["keep_best_n"]:  # all headers were read: what goes is of the run as a listing has it
        assert gone <= {file.path for file in listing}
    assert len({line_of[before[str(path)][0]] for path in gone} - {None}) <= 1
    assert not gone or any(f.kind != "other" for f in list_checkpoints(run))


# ----------------------------------------------------------------------------------------------- somebody else is there


@contextmanager
def a_training_elsewhere(folder: Path) -> Iterator[int]:
    """Have another process train four epochs, and stay in its loop."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        checkpoints = CheckpointManager(folder, {"model": torch.nn.Linear(1, 1)}, save_freq=1, keep_last_n=None)
        for epoch in checkpoints.epochs(99):
            checkpoints.save({"loss": 9.0 - epoch})
            if epoch == 3:
                os.write(said, b"x")
                time.sleep(60)
        os._exit(0)
    os.close(said)
    assert b"x" == os.read(ready, 1)
    try:
        yield pid
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(ready)


@pytest.mark.parametrize("best", [0, 1])
def test_where_another_process_trains_nothing_is_removed(tmp_path: Path, best: int) -> None:
    """One line that says who; to plan is allowed. Once the other is dead the same call does it."""
    asked = {"keep_last_n": 2, "keep_best_n": best}
    with a_training_elsewhere(tmp_path) as pid:
        before = on_disk(tmp_path)
        plan = prune_checkpoints(tmp_path, **asked, dry_run=True)  # type: ignore[arg-type]
        assert [numbered_name(1), numbered_name(0)] == go(plan)
        with pytest.raises(
            DirectoryLockedError, match=rf"^{re.escape(str(tmp_path))}: .* found process {pid} on "
        ) as e:
            prune_checkpoints(tmp_path, **asked)  # type: ignore[arg-type]
        assert "\n" not in str(e.value)
        assert before == on_disk(tmp_path)
    assert plan == prune_checkpoints(tmp_path, **asked)  # type: ignore[arg-type]


def test_it_is_planned_anew_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that came before the lock was there is one of the newest, and what it made old goes."""
    run = write_run(tmp_path / "run", [4.0, 3.0, 2.0, 1.0])
    real = retention.hold

    def late(folder: Path) -> Any:
        write(run / numbered_name(4), epoch=4, loss=0.5)
        write(run / "new", epoch=4, loss=0.5).replace(run / LAST)
        return real(folder)

    monkeypatch.setattr(retention, "hold", late)
    for best in (0, 1):
        assert [numbered_name(3), numbered_name(4)] == stay(prune_checkpoints(run, keep_last_n=2, keep_best_n=best))[:2]


def test_a_run_that_trains_keeps_by_the_same_plan(tmp_path: Path) -> None:
    """After each save: the newest, the best, the milestones; and what is said of it counts the bytes that went."""
    saved = []
    asked: dict[str, Any] = {"save_freq": 1, "keep_last_n": 2, "keep_best_n": 1, "milestones": (0,)}
    with CheckpointManager(tmp_path, {"model": torch.nn.Linear(3, 1)}, on_saved=saved.append, **asked) as checkpoints:
        for epoch in checkpoints.epochs(8):
            checkpoints.save({"loss": [8.0, 7, 1, 6, 5, 4, 3, 2][epoch]})
    numbers = sorted(name for name in os.listdir(tmp_path) if numbered_epoch(name) is not None)
    assert [numbered_name(epoch) for epoch in (0, 2, 6, 7)] == numbers
    plans = [carry.plan for carry in saved]
    assert [1, 3, 4, 5] == sorted(numbered_epoch(name) or 0 for plan in plans for name in go(plan))
    assert all(item.frees == item.file.size for plan in plans for item in plan.files if not item.keep)
    assert () == carry_out(plan_retention(list_checkpoints(tmp_path), keep_last_n=2, milestones=(0,))).removed
