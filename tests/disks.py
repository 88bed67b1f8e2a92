"""Disks that are really full, really read-only, really without hard links: each in a child process of its own.

A child (``python -m tests.disks WHAT DIRECTORY …``) mounts a small tmpfs where nobody else sees it, trains there, and
prints what was left as JSON; the tests judge that. `seen_by_a_child` is their side of it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import CheckpointManager, list_checkpoints, load_checkpoint, save_checkpoint
from koemorph_tutorial.records import CheckpointError, CheckpointWriteError

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
NOBODY = 65534
LINK_CALLS = {"x86_64": (86, 265), "aarch64": (37,)}  # the numbers of link and linkat
EPOCHS = 6
SETTINGS: dict[str, Any] = {"save_freq": 1, "keep_last_n": 2, "keep_best_n": 0, "milestones": ()}

Outcome = dict[str, Any]


def seen_by_a_child(what: str, directory: Path, *arguments: object, mounts: bool = True) -> list[Outcome]:
    """Return what the child `what` says of `directory`; skip where a child may not mount."""
    command = [sys.executable, "-m", "tests.disks", what, str(directory), *map(str, arguments)]
    if mounts:
        if shutil.which("unshare") is None:
            pytest.skip("unshare is not here, so nothing can be mounted for the test alone")
        trial = [*NAMESPACE, "mount", "-t", "tmpfs", "none", str(directory)]
        tried = subprocess.run(trial, capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            pytest.skip(f"a user namespace that may mount is not allowed here: {tried.stderr.strip()}")
        command = [*NAMESPACE, *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    outcomes: list[Outcome] = json.loads(done.stdout)
    return outcomes


def assert_full_disks_lost_nothing(outcomes: list[Outcome]) -> int:
    """Judge what `full` and `trained_until_full` said; return on how many disks a save was refused."""
    for outcome in outcomes:
        where = f"with {outcome['free']} free: {outcome}"
        for error in filter(None, (outcome["error"], outcome.get("restart"))):
            assert ("CheckpointWriteError", errno.ENOSPC) == (error["kind"], error["errno"]), where
            assert "\n" not in error["line"], where
            in_use = error is outcome["error"] and outcome["full"]["epochs"]
            # Before a run begins somebody may have looked how much room there is, and say so in other words.
            expected = ": could not be written: No space left on device; " if in_use else " free"
            assert expected in error["line"], where
        for state in (outcome["full"], outcome.get("still full", outcome["full"]), outcome["after"]):
            assert ([], []) == (state["unsound"], state["litter"]), where
            newest = max(state["epochs"].values(), default=-1)
            names = {f"checkpoint_epoch_{epoch:03d}.pth" for epoch in range(newest + 1)[-2:]}
            assert newest < 0 or {*names, "best_model.pth", "last_model.pth"} <= {*state["epochs"]}, where
            assert newest < 0 or state["epochs"]["last_model.pth"] >= newest - 1, where
        last = outcome["until"] - 1
        names_after = outcome["after"]["epochs"]
        assert (None, last, last) == (outcome["again"], names_after["last_model.pth"], names_after["best_model.pth"]), (
            where
        )
    return sum(outcome["error"] is not None for outcome in outcomes)


def can_refuse_links() -> bool:
    return sys.platform == "linux" and platform.machine() in LINK_CALLS


# -- the child's side --------------------------------------------------------------------------------------------------


def train(
    directory: Path, until: int, meanwhile: Callable[[int], object] = lambda epoch: None, **settings: Any
) -> Outcome | None:
    """Train to the epoch `until`, from where the run is; return what a user reads if it cannot be saved.

    Before each save `meanwhile` is told the epoch, and may do something to the disk.
    """
    model = torch.nn.Linear(64, 256, bias=False)  # 64 KiB: more than one page, and less than a disk
    try:
        with CheckpointManager(directory, {"model": model}, **{**SETTINGS, **settings}) as checkpoints:
            for epoch in checkpoints.epochs(until):
                torch.nn.init.constant_(model.weight, float(epoch))
                checkpoints.wait()  # so that it is known how much room there is
                meanwhile(epoch)
                checkpoints.save({"loss": 1 / (1 + epoch)})  # each epoch is the best, so each save has three names
    except CheckpointError as error:
        return said(error)
    return None


def train_without_end(directory: Path) -> Outcome:
    """Train, keep everything, count by hand, so that nobody can know beforehand how much room that will take."""
    model = torch.nn.Linear(64, 256, bias=False)
    epoch = 0
    try:
        with CheckpointManager(directory, {"model": model}, **{**SETTINGS, "keep_last_n": None}) as checkpoints:
            while True:
                torch.nn.init.constant_(model.weight, float(epoch))
                checkpoints.save({"loss": 1 / (1 + epoch)}, epoch=epoch, global_step=epoch)
                epoch += 1
    except CheckpointError as error:
        return said(error)


def said(error: CheckpointError) -> Outcome:
    return {"kind": type(error).__name__, "errno": getattr(error, "errno", None), "line": str(error)}


def left(directory: Path) -> Outcome:
    """Return the epoch that each sound file holds, what is not sound, and what lies about."""
    epochs, unsound = {}, []
    listing = list_checkpoints(directory)
    for file in listing:
        try:
            weight = load_checkpoint(file.path)["model_state_dict"]["weight"]
        except CheckpointError as error:
            unsound.append(str(error))
        else:
            epochs[file.path.name] = file.epoch
            if not bool((weight == file.epoch).all()):
                unsound.append(f"{file.path.name}: epoch {file.epoch} with the weights of another one")
    unsound += [f"{name}: {error}" for name, error in listing.ignored]
    litter = sorted({*os.listdir(directory)} - {*epochs} - {".lock"})
    return {"epochs": epochs, "unsound": unsound, "litter": litter}


def mount(directory: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", directory], check=True)


def full(directory: Path, unit: str, *amounts: str) -> Iterator[Outcome]:
    """Leave so many KiB (or names) free after three epochs, start again on the full disk, make room, start again."""
    for amount in map(int, amounts):
        disk = directory / f"{unit}-{amount}"
        disk.mkdir()
        mount(disk, "size=2m,nr_inodes=100")
        run, ballast = disk / "run", disk / "ballast"
        ballast.mkdir()

        def somebody_fills_the_disk(
            epoch: int, disk: Path = disk, ballast: Path = ballast, amount: int = amount
        ) -> None:
            if epoch == 3:
                status = os.statvfs(disk)
                if unit == "KiB":
                    with (ballast / "bytes").open("wb") as file:
                        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - 1024 * amount)
                else:
                    for number in range(status.f_favail - amount):
                        (ballast / str(number)).touch()

        outcome: Outcome = {"free": amount, "error": train(run, EPOCHS, somebody_fills_the_disk), "full": left(run)}
        outcome |= {"restart": train(run, EPOCHS), "still full": left(run)}
        shutil.rmtree(ballast)
        yield {**outcome, "again": train(run, EPOCHS), "after": left(run), "until": EPOCHS}
        subprocess.run(["umount", disk], check=True)


def full_without_links(directory: Path, unit: str, *amounts: str) -> Iterator[Outcome]:
    refuse_links()
    yield from full(directory, unit, *amounts)


def full_in_background(directory: Path, unit: str, *amounts: str) -> Iterator[Outcome]:
    SETTINGS["background"] = True
    yield from full(directory, unit, *amounts)


def filled_in_background(directory: Path, *sizes: str) -> Iterator[Outcome]:
    SETTINGS["background"] = True
    yield from trained_until_full(directory, *sizes)


def trained_until_full(directory: Path, *sizes: str) -> Iterator[Outcome]:
    """Keep every epoch on disks of so many KiB until they are full, make room, and train for three epochs more."""
    for size in sizes:
        disk = directory / size
        disk.mkdir()
        mount(disk, f"size={size}k")
        run = disk / "run"
        outcome: Outcome = {"free": size, "error": train_without_end(run), "full": left(run)}
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        until = max(outcome["full"]["epochs"].values(), default=-1) + 4
        yield {**outcome, "again": train(run, until, keep_last_n=None), "after": left(run), "until": until}
        subprocess.run(["umount", disk], check=True)


def read_only(directory: Path) -> Iterator[Outcome]:
    mount(directory, "size=2m")
    run = directory / "run"
    assert train(run, 3) is None
    subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
    yield from refused(run)
    subprocess.run(["mount", "-o", "remount,rw", directory], check=True)
    yield {"error": train(run, EPOCHS), "left": left(run)}


def another_user(directory: Path) -> Iterator[Outcome]:
    """Train, and go on as somebody who may only read; whoever is not root takes the right to write from themselves."""
    run, locked = directory / "run", directory / "locked"
    assert train(run, 3) is None
    locked.mkdir()
    if os.geteuid() == 0:
        run.chmod(0o755)
        locked.chmod(0o700)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    else:
        run.chmod(0o555)
        locked.chmod(0)
    yield from refused(run)
    for call in (list_checkpoints, lambda path: CheckpointManager(path, model()).resume()):
        for path in (locked, locked / "run"):
            try:
                call(path)
            except CheckpointError as error:
                yield {"error": said(error), "path": str(path)}


def model() -> dict[str, Any]:
    return {"model": torch.nn.Linear(2, 1)}


def refused(run: Path) -> Iterator[Outcome]:
    """Try a run that goes on, a new run beside it, and a single save."""
    yield {"error": train(run, EPOCHS), "left": left(run)}
    yield {"error": train(run / "new", EPOCHS), "left": left(run)}
    try:
        save_checkpoint({"epoch": 9}, run / "last_model.pth")
    except CheckpointWriteError as error:
        yield {"error": said(error), "left": left(run)}


def without_links(directory: Path) -> Iterator[Outcome]:
    refuse_links()
    try:
        os.link(__file__, directory / "link")
    except OSError as error:
        yield {"errno": error.errno}
    yield {"error": train(directory / "run", 3), "left": left(directory / "run")}
    yield {"error": train(directory / "run", EPOCHS), "left": left(directory / "run")}


def refuse_links() -> None:
    """Have the kernel refuse every hard link to this process with EPERM, as a FAT file system does: by seccomp."""
    calls = LINK_CALLS[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06  # BPF: the number of the call, compare, return
    program = [(load, 0, 0, 0)]
    program += [(equal, len(calls) - index, 0, call) for index, call in enumerate(calls)]
    program += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050000 | errno.EPERM)]  # allow, or refuse

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("count", ctypes.c_uint16), ("first", ctypes.POINTER(Instruction)))

    instructions = (Instruction * len(program))(*(Instruction(*each) for each in program))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    no_new_privileges, set_seccomp, filtered = 38, 22, 2
    for arguments in (
        (no_new_privileges, 1, 0, 0, 0),
        (set_seccomp, filtered, ctypes.byref(Program(len(program), instructions)), 0, 0),
    ):
        if prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


CHILDREN: dict[str, Callable[..., Iterator[Outcome]]] = {
    child.__name__: child
    for child in (
        full,
        full_in_background,
        filled_in_background,
        full_without_links,
        trained_until_full,
        read_only,
        another_user,
        without_links,
    )
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    _, what, directory, *arguments = sys.argv
    sys.stdout.write(json.dumps([*CHILDREN[what](Path(directory), *arguments)]))
