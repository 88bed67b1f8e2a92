"""The disk that is slow, full or held, and the gate that holds threads up."""

from __future__ import annotations

import builtins
import io
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial.teaching.slow_disk import Gate, SlowDisk

DATA = b"x" * 100_000


def opened(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(DATA)


def unbuffered(path: Path) -> None:
    with open(path, "w+b", buffering=0) as file:
        file.write(DATA)


def saved_into_a_file(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(DATA, file)


WAYS: list[Callable[[Path], Any]] = [
    *(opened, unbuffered, saved_into_a_file),
    lambda path: torch.save(DATA, path),
    lambda path: torch.save(DATA, str(path), _use_new_zipfile_serialization=False),
    lambda path: path.write_bytes(DATA),
]


@pytest.mark.parametrize("write", WAYS)
def test_a_full_disk_is_full_once_for_every_way_to_it(write: Callable[[Path], Any], tmp_path: Path) -> None:
    write(tmp_path / "before")
    with SlowDisk(full=1) as disk:
        with pytest.raises((OSError, RuntimeError)):
            write(tmp_path / "full")
        assert disk.failed is threading.current_thread()
        write(tmp_path / "after")
    assert min((tmp_path / name).stat().st_size for name in ("before", "after")) >= len(DATA)
    assert not (tmp_path / "full").exists() or len((tmp_path / "full").read_bytes()) == 0
    assert (disk.in_front, disk.overlapping) == (True, False)


def test_a_disk_that_is_really_full_says_the_same_of_torch(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, limit[1]))
    try:
        with pytest.raises(RuntimeError):
            torch.save(DATA, tmp_path / "file")
        with pytest.raises(OSError, match="large"):
            (tmp_path / "file").write_bytes(DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with SlowDisk(full=2):
        with pytest.raises(RuntimeError, match="file write failed"):
            torch.save(DATA, tmp_path / "file")
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "file").write_bytes(DATA)


def test_what_is_read_or_kept_in_memory_or_text_is_no_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with SlowDisk(full=1) as disk:
        torch.save(DATA, io.BytesIO())
        assert (tmp_path / "file").read_bytes() == DATA
        (tmp_path / "text").write_text("a line", "utf-8")
    assert not disk.reached.is_set()


def test_everything_is_as_it_was_afterwards() -> None:
    before = torch.save, builtins.open, io.open, threading.excepthook
    with SlowDisk(), Gate():
        assert torch.save is not before[0]
    assert before == (torch.save, builtins.open, io.open, threading.excepthook)
    assert threading.getprofile() is None


def test_two_at_a_time_are_noted_and_waited_for(tmp_path: Path) -> None:
    with SlowDisk(slow=1) as disk:
        threads = [threading.Thread(target=opened, args=(tmp_path / name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        disk.reached.wait()
        for thread in threads:
            thread.join()
        disk.settle()
    assert (disk.in_front, disk.overlapping) == (False, True)


def test_a_held_write_begins_when_it_is_let(tmp_path: Path) -> None:
    with SlowDisk(held=True) as disk:
        thread = threading.Thread(target=opened, args=(tmp_path / "file",))
        thread.start()
        assert disk.reached.wait(5)
        assert (tmp_path / "file").stat().st_size == 0
        disk.opened.set()
        thread.join()
    assert (tmp_path / "file").read_bytes() == DATA
    assert not disk.in_front


def test_a_closed_gate_lets_no_thread_read_what_changes_before_it_is_opened() -> None:
    for _ in range(20):
        seen: list[int] = []
        state = {"epoch": 1}
        with Gate() as gate:
            gate.close()
            thread = threading.Thread(target=lambda: seen.append(state.copy()["epoch"]))  # noqa: B023
            thread.start()
            state["epoch"] = 2
            gate.open()
            thread.join()
        assert seen == [2]


def test_who_waits_for_a_thread_behind_the_gate_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koemorph_tutorial.teaching.slow_disk.HELD", 0.1)
    with Gate() as gate:
        gate.close()
        thread = threading.Thread(target=lambda: sorted([2, 1]))
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
