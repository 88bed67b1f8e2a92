"""What a plan takes away, and what it does not take whatever it says."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial import list_checkpoints
from koemorph_tutorial.plans import Plan, PlannedFile
from koemorph_tutorial.records import CheckpointFile, numbered_name
from koemorph_tutorial.removal import carry_out, spare_newest_sound
from koemorph_tutorial.retention import plan_retention

from .histories import BEST, LAST, file, go, on_disk, stay, used, write, write_run

RULES: dict[str, Any] = {"keep_last_n": 2, "keep_best_n": 0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run of four epochs."""
    return write_run(tmp_path / "run", [4.0, 3.0, 2.0, 1.0])


def planned(run: Path, **rules: Any) -> Plan:
    return plan_retention(list_checkpoints(run), **{**RULES, **rules})


def reasons(plan: Plan, name: str) -> tuple[str, ...]:
    return next(item.reasons for item in plan.files if item.file.path.name == name)


OLD = "older than the newest 2"


def test_a_plan_is_carried_out(run: Path) -> None:
    """What it says goes, all else is as it was, and what was done is what was planned."""
    before, plan = on_disk(run), planned(run)
    assert plan == carry_out(plan, dry_run=True)
    assert before == on_disk(run)
    assert plan == carry_out(plan)
    assert {str(run / numbered_name(epoch)) for epoch in (0, 1)} == before.keys() - on_disk(run).keys()
    assert before == {**before, **on_disk(run)}


# --------------------------------------------------------------------------------------------------- refused as a whole


def item(name: str, keep: bool, **fields: Any) -> PlannedFile:
    return PlannedFile(file=replace(file(name, epoch=1), **fields), keep=keep, reasons=("asked for",))


KEPT, GONE = item(numbered_name(3), True), item(numbered_name(1), False)
REFUSED = {
    "keeps a file of the run, found one that keeps none": [
        [GONE],
        [GONE, item(numbered_name(2), False)],
        [GONE, item("mine.pth", True)],
    ],
    "removes only numbered files, found one that removes a file of the kind last": [[KEPT, GONE, item(LAST, False)]],
    "removes only numbered files, found one that removes a file of the kind best": [
        [KEPT, item(BEST, False)],
        [KEPT, item(BEST, False, kind="numbered")],
        [KEPT, item(numbered_name(1), False, kind="best")],
    ],
    "removes only numbered files, found one that removes a file of the kind other": [
        [KEPT, item("mine.pth", False)],
        [KEPT, item("best_model.pth.gz", False)],
        [KEPT, item("checkpoint_epoch_1.pth", False, kind="numbered")],
    ],
    "decides once about each file, found one that keeps and removes this one": [[KEPT, item(numbered_name(3), False)]],
}


@pytest.mark.parametrize(("why", "items"), [(why, items) for why, plans in REFUSED.items() for items in plans])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_plan_that_nobody_should_carry_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, why: str, items: list[PlannedFile], dry_run: bool
) -> None:
    """Before the first file is touched: which file, what was expected, what was found."""
    monkeypatch.setattr(os, "unlink", lambda path: pytest.fail(f"removed {path}"))
    for order in (items, items[::-1]):
        with pytest.raises(ValueError, match=rf"^run/.*: expected a plan that {re.escape(why)}; nothing was removed"):
            carry_out(Plan(files=tuple(order)), dry_run=dry_run)


def test_a_plan_of_nothing_is_carried_out() -> None:
    """There is nothing to refuse."""
    assert Plan() == carry_out(Plan())


# ----------------------------------------------------------------------------------------------- one file after another


def test_a_file_that_is_gone_already_is_said(run: Path) -> None:
    """Somebody was faster: the others are removed all the same, and its bytes are not counted."""
    plan = planned(run)
    (run / numbered_name(1)).unlink()
    done = carry_out(plan)
    assert [numbered_name(2), numbered_name(3), LAST] == sorted(os.listdir(run))
    assert (OLD, "was gone already") == reasons(done, numbered_name(1))
    assert (OLD,) == reasons(done, numbered_name(0))
    assert plan.files[-1].file.size == done.bytes_freed < plan.bytes_freed


def change_inode(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


def change_size(path: Path) -> None:
    path.write_bytes(b"short")


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("change", [change_inode, change_size, make_a_folder, make_a_link])
def test_a_file_that_has_changed_since_stays(run: Path, change: Any) -> None:
    """It is not the one of which it was said that it may go; the other one goes."""
    plan = planned(run)
    held = (run / numbered_name(1)).open("rb")  # so that the inode is not given to the next file
    change(run / numbered_name(1))
    done = carry_out(plan)
    held.close()
    assert (OLD, "stays: it has changed since") == reasons(done, numbered_name(1))
    assert [numbered_name(0)] == go(done)
    assert os.path.lexists(run / numbered_name(1))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EIO])
def test_a_file_that_cannot_be_removed_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """With the words of the disk, in the plan and in the log; the training goes on and the other file goes."""
    unlink = os.unlink

    def refuse(path: Path) -> None:
        if Path(path).name == numbered_name(1):
            raise OSError(code, os.strerror(code))
        unlink(path)

    plan = planned(run)
    monkeypatch.setattr(os, "unlink", refuse)
    done = carry_out(plan)
    said = f"could not be removed: {os.strerror(code)}"
    assert (OLD, said) == reasons(done, numbered_name(1))
    assert [f"{run / numbered_name(1)}: {said}"] == caplog.messages
    assert ([numbered_name(0)], plan.files[-1].file.size) == (go(done), done.bytes_freed)


def test_who_may_not_write_removes_nothing() -> None:
    """A folder that somebody else may only read: each file is said, none is gone."""
    with tempfile.TemporaryDirectory() as root:  # pytest's own are closed to others
        run = write_run(Path(root, "run"), [4.0, 3.0, 2.0, 1.0])
        plan = planned(run)
        run.chmod(0o555)
        Path(root).chmod(0o755)
        pid = os.fork()
        if pid == 0:
            if os.geteuid() == 0:
                os.setuid(65534)
            done = carry_out(plan)
            why = "could not be removed: Permission denied"
            said = [reasons(done, numbered_name(epoch)) for epoch in (0, 1)] == [(OLD, why)] * 2
            os._exit(0 if said and (0, 5) == (done.bytes_freed, len(os.listdir(run))) else 1)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        run.chmod(0o755)


def test_where_nothing_is_left_of_what_stays_nothing_goes(run: Path) -> None:
    """A plan that is old by now: what it keeps was removed since, so what it removes is all there is."""
    plan = planned(run)
    for name in (LAST, numbered_name(2), numbered_name(3)):
        (run / name).unlink()
    done = carry_out(plan)
    assert [] == go(done)
    assert "stays: none of the files that the plan keeps is there any more" in reasons(done, numbered_name(0))
    assert [numbered_name(0), numbered_name(1)] == sorted(os.listdir(run))


def test_who_carries_out_may_object(run: Path) -> None:
    """Asked about each file right before it goes; a dry run asks as well."""
    asked: list[str] = []

    def look(file: CheckpointFile) -> str:
        asked.append(file.path.name)
        assert file.path.exists()
        return "I need it" if file.epoch == 1 else ""

    for dry_run in (True, False):
        done = carry_out(planned(run), look=look, dry_run=dry_run)
        assert (OLD, "stays: I need it") == reasons(done, numbered_name(1))
    assert [numbered_name(1), numbered_name(0)] * 2 == asked
    assert [numbered_name(0)] == go(done)


@pytest.mark.parametrize("name", [BEST, "final.pth", "a", numbered_name(7)])
def test_what_a_symbolic_link_beside_it_leads_to_stays(run: Path, name: str) -> None:
    """The link would lead nowhere, and the best be lost."""
    (run / name).symlink_to(numbered_name(0))
    (run / "over there").symlink_to(run / name)
    done = carry_out(planned(run, keep_last_n=2))
    assert (OLD, "stays: a symbolic link leads to it") == reasons(done, numbered_name(0))
    assert numbered_name(0) in os.listdir(run)
    assert numbered_name(1) in go(done)


def test_a_link_goes_and_frees_nothing(run: Path) -> None:
    """A number that is a symbolic link: the bytes are those of the file that stays."""
    (run / numbered_name(1)).unlink()
    (run / numbered_name(1)).symlink_to(BEST)
    write(run / BEST, epoch=1, loss=0.1)
    before = used(run)
    done = carry_out(planned(run))
    assert [numbered_name(1), numbered_name(0)] == go(done)
    assert before - used(run) == done.bytes_freed == done.files[-1].file.size


def test_links_in_a_folder_of_another_name_are_found(run: Path, tmp_path: Path) -> None:
    """The folder itself may be a link, and the path as short as it gets."""
    (tmp_path / "run2").symlink_to(run)
    (run / BEST).symlink_to((tmp_path / "run2" / numbered_name(0)).resolve())
    assert [numbered_name(1)] == go(carry_out(planned(tmp_path / "run2")))


# ------------------------------------------------------------------------------------------------- bytes, as a disk has


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5000), min_size=3, max_size=8),
    links=st.dictionaries(st.sampled_from([BEST, LAST]), st.integers(0, 7)),
    same=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=3),
    outside=st.sets(st.integers(0, 7)),
    fails=st.sets(st.integers(0, 7), max_size=2),
)
def test_the_bytes_freed_are_those_that_leave_the_disk(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    links: dict[str, int],
    same: list[tuple[int, int]],
    outside: set[int],
    fails: set[int],
) -> None:
    """Bytes with another name are not freed, be that name in another folder or its removal refused."""
    root = tmp_path_factory.mktemp("root")
    run, elsewhere = root / "run", root / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    count = len(sizes)
    for epoch, size in enumerate(sizes):
        (run / numbered_name(epoch)).write_bytes(bytes(size))
    for one, other in same:
        if one % count != other % count:
            (run / numbered_name(one % count)).unlink()
            os.link(run / numbered_name(other % count), run / numbered_name(one % count))
    for name, at in links.items():
        os.link(run / numbered_name(at % count), run / name)
    for at in outside:
        (elsewhere / str(at % count)).unlink(missing_ok=True)
        os.link(run / numbered_name(at % count), elsewhere / str(at % count))
    files = []
    for path in sorted(run.iterdir()):
        status, epoch = path.stat(), int(re.sub(r"\D", "", path.name) or 9)
        files.append(file(path, epoch=epoch, inode=status.st_ino, size=status.st_size))
    plan = plan_retention(files, keep_last_n=2)
    before = used(run, elsewhere)
    promised = carry_out(plan, dry_run=True)
    assert before == used(run, elsewhere)
    if not outside:
        assert plan.bytes_freed == promised.bytes_freed
    unlink = os.unlink

    def refuse(path: Path) -> None:
        if Path(path).name in map(numbered_name, fails):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        done = carry_out(plan)
    assert before - used(run, elsewhere) == done.bytes_freed <= promised.bytes_freed
    if not fails:
        assert promised == done


def test_the_bytes_freed_are_the_blocks_that_the_file_system_gets_back(tmp_path: Path) -> None:
    """Four files go: two had their bytes for themselves, one has a name elsewhere, one is the best as well."""
    run, size = tmp_path / "run", 1 << 20
    run.mkdir()
    files = []
    for epoch in range(6):
        path = run / numbered_name(epoch)
        with path.open("wb") as big:
            big.write(os.urandom(size))
            os.fsync(big.fileno())
        files.append(file(path, epoch=epoch, inode=path.stat().st_ino, size=size))
    os.link(run / numbered_name(0), tmp_path / "backup")
    os.link(run / numbered_name(1), run / BEST)
    files.append(file(run / BEST, epoch=1, inode=files[1].inode, size=size))

    def blocks() -> int:
        taken = {path.stat().st_ino: path.stat().st_blocks * 512 for path in [tmp_path / "backup", *run.iterdir()]}
        return sum(taken.values())

    before = blocks()
    done = carry_out(plan_retention(files, **RULES))
    assert [numbered_name(epoch) for epoch in (3, 2, 1, 0)] == go(done)
    assert 2 * size == done.bytes_freed
    assert 0 <= before - blocks() - done.bytes_freed < 2 * 8192  # whole blocks


# ------------------------------------------------------------------------------------------------ the newest sound file


@pytest.mark.parametrize(
    ("damaged", "rules", "expected", "damaged_ones"),
    [
        ((), {}, [2, 3], []),
        ((3,), {}, [2, 3], [3]),
        ((3, 2), {}, [1, 2, 3], [3, 2]),
        ((3, 2, 1), {}, [0, 2, 3], [3, 2, 1]),
        ((3, 2), {"milestones": (1,)}, [1, 2, 3], [3, 2]),
        ((3, 2), {"milestones": (0,)}, [0, 1, 2, 3], [3, 2]),  # a sound one stays, and is not the newest
        ((3, 2, 1, 0), {}, [0, 1, 2, 3], [3, 2, 1, 0]),
        ((1, 0), {}, [2, 3], []),
    ],
)
def test_the_newest_sound_file_is_spared(
    tmp_path: Path, damaged: tuple[int, ...], rules: dict[str, Any], expected: list[int], damaged_ones: list[int]
) -> None:
    """The files are read from the newest on, until one is sound; those that are not are said."""
    for epoch in range(4):
        write(tmp_path / numbered_name(epoch), epoch=epoch, damaged=epoch in damaged)
    plan = planned(tmp_path, **rules)
    spared = spare_newest_sound(plan)
    assert [numbered_name(epoch) for epoch in expected] == stay(spared)
    assert tuple(f"{numbered_name(epoch)} is damaged" for epoch in damaged_ones) == spared.notes
    if not damaged:
        assert plan == spared


def test_bytes_that_another_name_keeps_are_spared_already(tmp_path: Path) -> None:
    """The newest sound number goes, as best_model.pth has the same bytes."""
    for epoch in range(4):
        write(tmp_path / numbered_name(epoch), epoch=epoch, damaged=epoch > 1)
    os.link(tmp_path / numbered_name(1), tmp_path / BEST)
    assert [numbered_name(1), numbered_name(0)] == go(spare_newest_sound(planned(tmp_path)))


def test_what_goes_nowhere_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that removes nothing reads nothing; another one reads the newest file, under one of its names."""
    read: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *args: read.append(Path(path).name) or real(path, *args))
    files = list_checkpoints(run)
    read.clear()
    spare_newest_sound(plan_retention(files, keep_last_n=None))
    assert [] == read
    spare_newest_sound(plan_retention(files, **RULES))
    assert [LAST] == read
