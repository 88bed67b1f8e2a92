"""A file that is there at once and for good, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from koemorph_tutorial.durable import link, prepare_directory, sync_directory, write_file
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
