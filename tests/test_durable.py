"""A file that is there at once and for good, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from koemorph_tutorial.durable import link, prepare_directory, sweep, sync_directory, write_file
from koemorph_tutorial.records import CheckpointWriteError


def names(directory: Path) -> list[str]:
    """Return the names in a directory, hidden ones included."""
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    """While it is written the old one is there, whole; afterwards the new one, and nothing else."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert b"old" == path.read_bytes()

    write_file(path, write)
    assert b"new" == path.read_bytes()
    assert ["file"] == names(tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt(), ValueError("wrong")])
@pytest.mark.parametrize("when", ["write", "check"])
def test_whatever_goes_wrong_the_old_file_stays(tmp_path: Path, error: BaseException, when: str) -> None:
    """Also Ctrl-C, also a check that finds other bytes than were meant: no temporary file is left."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        raise error

    with pytest.raises(type(error)):
        write_file(path, fail if when == "write" else lambda file: file.write(b"new"), check=fail)
    assert b"old" == path.read_bytes()
    assert ["file"] == names(tmp_path)


def test_what_was_written_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename before the fsync would put an empty file in place after a power cut."""
    calls: list[str] = []

    def note(name: str) -> Any:
        call = getattr(os, name)

        def noted(*arguments: Any) -> Any:
            calls.append(name)
            return call(*arguments)

        return noted

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, note(name))
    write_file(tmp_path / "file", lambda file: file.write(b"x"))
    assert ["fsync", "replace"] == calls


def test_a_link_replaces_what_had_the_name(tmp_path: Path) -> None:
    """One step, one inode."""
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_a_name_that_is_the_same_file_already_leaves_no_temporary(tmp_path: Path) -> None:
    """os.replace does nothing between two names of one inode, and leaves the first."""
    (tmp_path / "a.pth").write_text("x")
    for _ in range(2):
        link(tmp_path / "a.pth", tmp_path / "b.pth")
    assert ["a.pth", "b.pth"] == names(tmp_path)


def test_directory_fsync_tolerates_einval_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot sync a directory is no error; a broken disk is."""

    def refuse(code: int) -> Any:
        def fsync(_: int) -> None:
            raise OSError(code, os.strerror(code))

        return fsync

    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    sync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_directory(tmp_path)


def test_preparing_a_directory_tries_to_write_it(tmp_path: Path) -> None:
    """Made where absent; a path below a regular file is refused in the disk's words."""
    prepare_directory(tmp_path / "a/b")
    assert [] == names(tmp_path / "a/b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointWriteError, match="file/run: could not be written: Not a directory"):
        prepare_directory(tmp_path / "file/run")


@pytest.mark.parametrize("place", ["file", "file/run", "file/run/deeper"])
def test_a_directory_that_is_a_file_or_below_one_is_one_line(tmp_path: Path, place: str) -> None:
    """The file stays what it is."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointWriteError) as refused:
        prepare_directory(tmp_path / place)
    line = f"{tmp_path / place}: could not be written: Not a directory; nothing that was there before is lost; "
    assert line + "name a place that can be written" == str(refused.value)
    assert errno.ENOTDIR == refused.value.errno
    assert "mine" == (tmp_path / "file").read_text()


def test_every_new_parent_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut would else take the folder away with everything in it."""
    synced: list[int] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    made = prepare_directory(tmp_path / "a/b/c")
    assert [tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c"] == made
    assert [path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a/b")] == synced
    assert [] == prepare_directory(tmp_path / "a/b/c")


def test_a_directory_that_could_not_be_made_leaves_none_of_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second folder has no room; the first goes again."""
    real = os.mkdir

    def full(path: Any, *more: Any) -> None:
        if Path(path).name == "b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, *more)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(CheckpointWriteError, match="No space left on device"):
        prepare_directory(tmp_path / "a/b/c")
    assert [] == names(tmp_path)


@pytest.mark.parametrize("call", ["link", "replace", "fsync"])
def test_a_link_that_fails_leaves_the_old_name_and_no_temporary(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C included; as a hard link, and where it is a copy."""
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if call == "fsync":
        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        link(tmp_path / "a", tmp_path / "b")
    assert (["a", "b"], "old") == (names(tmp_path), (tmp_path / "b").read_text())


def test_a_copy_that_is_not_the_same_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no links, what was copied is compared before it takes the name."""
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    link(tmp_path / "a", tmp_path / "b")
    assert b"new" == (tmp_path / "b").read_bytes()
    monkeypatch.setattr(shutil, "copyfileobj", lambda old, new, size: new.write(b"nex"))
    with pytest.raises(OSError, match="the copy is not what was copied"):
        link(tmp_path / "a", tmp_path / "b")
    assert (["a", "b"], b"new") == (names(tmp_path), (tmp_path / "b").read_bytes())


def test_a_symbolic_link_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    """As the target of a write or of a link, and as a source it stands for the file."""
    (tmp_path / "precious").write_text("mine")
    for name in ("written", "linked", "source"):
        (tmp_path / name).symlink_to("precious")
    write_file(tmp_path / "written", lambda file: file.write(b"new"))
    link(tmp_path / "written", tmp_path / "linked")
    link(tmp_path / "source", tmp_path / "copy")
    assert "mine" == (tmp_path / "precious").read_text()
    assert (tmp_path / "copy").samefile(tmp_path / "precious")
    assert not any((tmp_path / name).is_symlink() for name in ("written", "linked", "copy"))


# ---------------------------------------------------------------------------------------------------- stale temporaries


def test_a_sweep_takes_what_a_kill_has_left_and_nothing_else(tmp_path: Path) -> None:
    """Only what is exactly a name of ours; a second name of a checkpoint takes none of its bytes away."""
    stale = [".last_model.pth.123-0123abcd.tmp", ".config.yaml.9-00000000.tmp", ".a\nb.1-ffffffff.tmp"]
    others = [".x.tmp", "x.pth.123-0123abcd.tmp", ".x.pth.123-0123ABCD.tmp", ".x.pth.123-0123abcd.tmp~", ".1-01.tmp"]
    for name in (*stale, *others, "checkpoint"):
        (tmp_path / name).write_text("x")
    os.link(tmp_path / "checkpoint", tmp_path / ".checkpoint.5-00000000.tmp")
    (tmp_path / ".folder.5-00000000.tmp").mkdir()
    (tmp_path / ".link.5-00000000.tmp").symlink_to("checkpoint")
    os.mkfifo(tmp_path / ".pipe.5-00000000.tmp")
    sweep(tmp_path)
    kept = [".folder.5-00000000.tmp", ".link.5-00000000.tmp", ".pipe.5-00000000.tmp", *others, "checkpoint"]
    assert sorted(kept) == names(tmp_path)
    sweep(tmp_path / "missing")


def test_a_sweep_leaves_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save by somebody who holds no lock on the directory: each of its temporaries lives until it has its name."""
    swept: list[list[str]] = []

    def sweep_now(*_: object) -> None:
        sweep(tmp_path)
        swept.append(names(tmp_path))

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        sweep_now()

    replace = os.replace

    def replace_swept(old: Any, new: Any) -> None:
        sweep_now()
        replace(old, new)

    monkeypatch.setattr(os, "replace", replace_swept)
    write_file(tmp_path / "a", write)
    link(tmp_path / "a", tmp_path / "b")
    assert [1, 1, 2] == [len(found) for found in swept]
    assert ["a", "b"] == names(tmp_path)


def test_a_sweep_between_birth_and_lock_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary is gone before it was marked as busy: another one is made."""
    real, removed = fcntl.flock, []

    def sweep_first(file: Any, kind: int) -> None:
        if not removed:
            removed.extend(names(tmp_path))
            (tmp_path / removed[0]).unlink()
        real(file, kind)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    write_file(tmp_path / "a", lambda file: file.write(b"new"))
    assert (["a"], 1, b"new") == (names(tmp_path), len(removed), (tmp_path / "a").read_bytes())
