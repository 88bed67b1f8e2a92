"""One writer per directory, whoever dies, forks or forgets; readers never lock."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from koemorph_tutorial import CheckpointManager, cleanup_old_checkpoints, list_checkpoints, load_checkpoint, lock
from koemorph_tutorial.__main__ import main
from koemorph_tutorial.lock import hold
from koemorph_tutorial.records import CheckpointError, CheckpointWriteError, DirectoryLockedError

HOST = lock._host()
DEAD = 2**22 + 1  # above what Linux gives to any process


def is_free(directory: Path) -> bool:
    """Say whether nobody holds a directory, by asking the kernel."""
    with open(directory / ".lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def held_by_somebody(directory: Path, text: bytes, seconds: float = 60) -> Iterator[None]:
    """Hold the lock through another descriptor, which for flock is somebody else; let go after so many seconds."""
    file = open(directory / ".lock", "wb", buffering=0)  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(text)
    timer = threading.Timer(seconds, file.close)
    timer.start()
    yield
    timer.cancel()
    timer.join()
    file.close()


@contextmanager
def another_process(directory: Path) -> Iterator[int]:
    """Hold a directory in a process of its own."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = hold(directory)
        os.write(said, b"x")
        time.sleep(60)
        kept.release()
        os._exit(0)
    os.read(ready, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(said)


def test_who_writes_stands_in_the_lock_and_is_named(tmp_path: Path) -> None:
    """Which directory, which process, where, since when, and what to do: one line, without a long wait."""
    with another_process(tmp_path) as pid:
        began = time.monotonic()
        with pytest.raises(DirectoryLockedError) as refused:
            hold(tmp_path)
        assert time.monotonic() - began < 2
    since = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    line = rf"{tmp_path}: expected to be the only one who writes here, found process {pid} on {re.escape(HOST)}, "
    line += rf"since {since}; wait until it is done, or end it, or name another directory"
    assert re.fullmatch(line, str(refused.value))
    hold(tmp_path).release()


def test_a_writer_on_another_machine_is_alive_for_all_we_know(tmp_path: Path) -> None:
    """Its number says nothing here."""
    text = f"pid {DEAD} on another-machine since 2026-01-01T00:00:00+00:00\n".encode()
    with held_by_somebody(tmp_path, text), pytest.raises(DirectoryLockedError, match=f"process {DEAD} on another-m"):
        hold(tmp_path)


@pytest.mark.parametrize(
    "text",
    [f"pid {DEAD} on {HOST} since 2026-01-01T00:00:00+00:00\n".encode(), b"", b"\xff\x00\xfe" * 900, b"pid 0 on x"],
    ids=["dead", "empty", "binary", "torn"],
)
def test_a_holder_that_is_dead_or_unknown_is_waited_for(
    tmp_path: Path, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process started may keep the lock a little longer; not for ever."""
    with held_by_somebody(tmp_path, text, seconds=0.8):
        began = time.monotonic()
        hold(tmp_path).release()
        assert 0.7 < time.monotonic() - began < 5
    monkeypatch.setattr(lock, "_WAIT", 0.1)
    with held_by_somebody(tmp_path, text), pytest.raises(DirectoryLockedError, match=r"found (another )?process"):
        hold(tmp_path)


@pytest.mark.parametrize("text", [b"", b"\x80garbage", b"pid 99999999999999999999 on x since y", b"[" * 5000])
def test_garbage_in_the_lock_file_is_written_over(tmp_path: Path, text: bytes) -> None:
    """The kernel's lock counts, not the text."""
    (tmp_path / ".lock").write_bytes(text)
    with hold(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"pid {os.getpid()} on {HOST} since ")


def test_one_process_may_hold_a_directory_twice(tmp_path: Path) -> None:
    """By any path; the last one who lets go frees it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "alias").symlink_to("run")
    first, second = hold(tmp_path / "run"), hold(tmp_path / "alias")
    first.release()
    first.release()
    assert not is_free(tmp_path / "run")
    second.release()
    assert is_free(tmp_path / "run")


def test_two_threads_of_one_process_are_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where both ask before either has it."""
    sign, held = lock._sign, []

    def slow(descriptor: int) -> None:
        sign(descriptor)
        time.sleep(1)

    monkeypatch.setattr(lock, "_sign", slow)
    threads = [threading.Thread(target=lambda: held.append(hold(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 == len(held)


def test_a_hold_that_is_forgotten_is_let_go(tmp_path: Path) -> None:
    """Without close, and without a warning."""
    kept = hold(tmp_path)
    del kept
    assert is_free(tmp_path)
    checkpoints = CheckpointManager(tmp_path, {"model": torch.nn.Linear(1, 1)})
    checkpoints.resume()
    assert not is_free(tmp_path)
    del checkpoints
    gc.collect()
    assert is_free(tmp_path)


def test_a_lock_file_that_was_removed_is_no_lock(tmp_path: Path) -> None:
    """The folder was removed and made again while a manager lived: others lock the new file, so we must."""
    older = hold(tmp_path)
    (tmp_path / ".lock").unlink()
    newer = hold(tmp_path)
    assert not is_free(tmp_path)
    newer.release()
    assert is_free(tmp_path)
    older.release()


def test_a_forked_child_neither_keeps_the_lock_nor_writes(tmp_path: Path) -> None:
    """A loader's worker, or a fork of the loop itself: it is told, and its life does not block the next start."""
    model = torch.nn.Linear(1, 1)
    checkpoints = CheckpointManager(tmp_path, {"model": model}, save_freq=1)
    checkpoints.save({"loss": 1.0}, epoch=0)
    before = sorted(os.listdir(tmp_path))
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        lines = []
        for write in (lambda: checkpoints.save({"loss": 0.5}, epoch=1), checkpoints.close):
            try:
                write()
            except RuntimeError as error:
                lines.append(str(error))
        try:
            hold(tmp_path)
        except DirectoryLockedError as error:
            lines.append(str(error))
        os.write(tell, "\n".join(lines).encode())
        time.sleep(60)
        os._exit(0)
    try:
        save, close, again = os.read(told, 10_000).decode().split("\n")
        line = f"process {pid} was forked from process {os.getpid()}, which writes in this directory; save there, or "
        assert line + "name another directory here" == save == close
        assert f"found process {os.getpid()} on {HOST}" in again
        assert before == sorted(os.listdir(tmp_path))
        assert not is_free(tmp_path)
        checkpoints.close()
        assert is_free(tmp_path)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some network file systems: one warning, and the training goes on."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), hold(tmp_path), hold(tmp_path) as again:
        again.check()
    assert [f"{tmp_path}: this file system knows no locks; make sure that nobody else writes here"] == caplog.messages


@pytest.mark.parametrize("kind", ["directory", "dangling", "foreign", "full"])
def test_a_lock_that_cannot_be_written_is_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a symbolic link leads to is not touched."""
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "precious").write_text("mine")
    words = {"directory": "Is a directory", "full": "No space left on device"}.get(kind, "a symbolic link is in the pl")
    if kind == "directory":
        (run / ".lock").mkdir()
    elif kind == "full":

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "open", refuse)
    else:
        (run / ".lock").symlink_to(tmp_path / ("nowhere" if kind == "dangling" else "precious"))
    with pytest.raises(CheckpointWriteError, match=rf"run/\.lock: could not be written: {words}") as refused:
        hold(run)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "nowhere").exists()
    assert "mine" == (tmp_path / "precious").read_text()


def test_readers_never_lock_and_a_clean_up_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Listing, loading, inspecting and a dry run go on beside a training; what removes files is refused."""
    with CheckpointManager(tmp_path, {"model": torch.nn.Linear(1, 1)}, save_freq=1) as checkpoints:
        for epoch in checkpoints.epochs(4):
            checkpoints.save({"loss": 4.0 - epoch})
    with another_process(tmp_path) as pid:
        before = sorted(os.listdir(tmp_path))
        assert [3] * 3 == [file.epoch for file in list_checkpoints(tmp_path)[:3]]
        load_checkpoint(tmp_path / "last_model.pth")
        assert 0 == main(["inspect", str(tmp_path)])
        assert 2 == len(cleanup_old_checkpoints(tmp_path, 2, dry_run=True).removed)
        with pytest.raises(DirectoryLockedError, match=f"found process {pid} on "):
            cleanup_old_checkpoints(tmp_path, 2)
        assert before == sorted(os.listdir(tmp_path))
    assert 2 == len(cleanup_old_checkpoints(tmp_path, 2).removed)
    assert "checkpoint_epoch_003.pth" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------- two trainings, one place


def start(directory: Path, wait: float) -> tuple[int, int]:
    """Start a training of two more epochs in a process of its own; return its number and where it says how it ended."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        return pid, told
    said = "a traceback"
    try:
        time.sleep(wait)
        with CheckpointManager(directory, {"model": torch.nn.Linear(2, 2)}, save_freq=1, keep_last_n=2) as checkpoints:
            checkpoints.resume()
            for epoch in checkpoints.epochs(checkpoints.position.epoch + 2):
                time.sleep(0.04)
                checkpoints.save({"loss": 1.0 + epoch})
        said = "trained"
    except CheckpointError as error:
        said = str(error)
    finally:
        os.write(tell, said.encode())
        os._exit(0)


def interleave(directory: Path, pairs: int) -> tuple[int, int]:
    """Start pairs of trainings at random distances; return how many trained and how many were told who does.

    Asserts after each pair that every file is sound and no epoch is missing.
    """
    waits, trained, refused = random.Random(5), 0, 0
    for _ in range(pairs):
        children = [start(directory, waits.uniform(0, 0.12)) for _ in range(2)]
        ends = []
        for pid, told in children:
            ends.append(os.read(told, 10_000).decode())
            os.close(told)
            os.waitpid(pid, 0)
        others = [said for said in ends if said != "trained"]
        assert all("expected to be the only one who writes here, found process " in said for said in others), ends
        assert len(others) < 2
        trained, refused = trained + ends.count("trained"), refused + len(others)
        listing = list_checkpoints(directory)
        assert ((), 2 * trained - 1) == (listing.ignored, listing[0].epoch)
        for file in listing:
            load_checkpoint(file.path)
    return trained, refused


def test_two_trainings_in_one_directory_never_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten interleaved starts: each trains or is told who does; never a damaged file, a lost epoch or a traceback."""
    monkeypatch.setattr(lock, "_GRACE", 0.02)
    trained, refused = interleave(tmp_path / "run/checkpoints", 10)
    assert refused
    names = {".lock", "best_model.pth", "last_model.pth"} | {f"checkpoint_epoch_{n:03d}.pth" for n in (0, 10, 25)}
    names |= {f"checkpoint_epoch_{2 * trained - n:03d}.pth" for n in (1, 2)}
    assert set(os.listdir(tmp_path / "run/checkpoints")) <= names


def test_a_second_koemorph_train_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line; config.yaml is the other one's."""
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("the other one's")
    with another_process(tmp_path / "run/checkpoints") as pid:
        small = ["data.train_windows=16", "data.seconds=2.0", "training.epochs=1"]
        assert 2 == main(["train", "--run-dir", str(tmp_path / "run"), *small])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"koemorph: {tmp_path}/run/checkpoints: expected to be the only one who writes here, found ")
    assert f"process {pid} on {HOST}" in line
    assert "the other one's" == (tmp_path / "run/config.yaml").read_text()
    assert [".lock"] == os.listdir(tmp_path / "run/checkpoints")


TRAINER = """
import sys, time
import torch
from torch.utils.data import DataLoader, Dataset
from koemorph_tutorial import CheckpointManager, ResumableLoader

class Slow(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        time.sleep(0.02)
        return torch.zeros(2)

loader = ResumableLoader(DataLoader(Slow(), batch_size=2, num_workers=2))
model = torch.nn.Linear(2, 1)
with CheckpointManager(sys.argv[1], {"model": model, "loader": loader}, save_freq=1) as checkpoints:
    for epoch in checkpoints.epochs(1000):
        for x in loader:
            checkpoints.step()
            if epoch == 2:
                print("training", flush=True)
        checkpoints.save({"loss": 1.0})
"""


def test_after_kill_9_of_a_training_with_loader_workers_the_next_goes_on_at_once(tmp_path: Path) -> None:
    """Its orphaned workers live on for seconds, and do not keep the lock."""
    command = [sys.executable, "-c", TRAINER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "training\n" == process.stdout.readline()
        process.kill()
        began = time.monotonic()
        with CheckpointManager(tmp_path, {"model": torch.nn.Linear(2, 1)}, save_freq=1) as checkpoints:
            resumed = checkpoints.resume()
            assert time.monotonic() - began < 3
            checkpoints.save({"loss": 0.5}, epoch=resumed.position.epoch)
    assert resumed.position.epoch >= 2
    assert resumed.position.epoch == list_checkpoints(tmp_path)[0].epoch
