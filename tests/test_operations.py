"""Every file operation is seen, counted as the system counts it, and made to fail as a disk fails."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core import interactiveshell

from koemorph_tutorial.testing import children
from koemorph_tutorial.testing.operations import Fault, Operations


def watched(
    folder: Path, work: Callable[[Path], Any], fault: Fault | None = None
) -> tuple[children.Ended, list[dict[str, Any]]]:
    """Run `work` in a child whose operations in ``folder/run`` are counted; return how it ended, and what was noted."""
    for name in ("run", "shadow"):
        (folder / name).mkdir(exist_ok=True)

    def run() -> Any:
        operations = Operations([str(folder / "run")], str(folder / "trail"), str(folder / "shadow"), fault)
        operations.install()
        work(folder / "run")
        operations.end()
        return operations.unseen()

    ended = children.run(run, folder, timeout=20)
    return ended, [json.loads(line) for line in (folder / "trail").read_text().splitlines()]


def seen(trail: list[dict[str, Any]]) -> list[str]:
    return [f"{entry['name']} {entry['path']}".strip() for entry in trail if "number" in entry]


def with_path(run: Path) -> None:
    (run / "a.txt").write_text("one")


def with_open(run: Path) -> None:
    with open(run / "a.txt", "w") as file:
        file.write("one")


def with_descriptors(run: Path) -> None:
    descriptor = os.open(run / "a.txt", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"one")
    os.close(descriptor)


def with_fdopen(run: Path) -> None:
    with os.fdopen(os.open(run / "a.txt", os.O_WRONLY | os.O_CREAT), "w") as file:
        file.write("one")


def with_an_opener(run: Path) -> None:
    with open(run / "a.txt", "w", opener=os.open) as file:
        file.write("one")


def with_the_open_of_a_notebook(run: Path) -> None:
    with interactiveshell._modified_open(run / "a.txt", "w") as file:
        file.write("one")


def from_the_folder_itself(run: Path) -> None:
    os.chdir(run)
    with open("a.txt", "wb", buffering=0) as file:
        file.write(b"one")


@pytest.mark.parametrize(
    "work",
    [
        with_path,
        with_open,
        with_descriptors,
        with_fdopen,
        with_an_opener,
        with_the_open_of_a_notebook,
        from_the_folder_itself,
    ],
)
def test_however_a_file_is_written_its_operations_are_two(work: Callable[[Path], None], tmp_path: Path) -> None:
    ended, trail = watched(tmp_path, work)
    assert ended.result == []
    assert seen(trail) == ["open a.txt", "write a.txt", "end"]
    assert (tmp_path / "run/a.txt").read_text() == "one"


def every_kind(run: Path) -> None:
    (run / "sub/deep").mkdir(parents=True)
    with open(run / "a", "wb") as file:
        file.write(b"x" * 20_000)  # more than a buffer
        file.flush()
        os.fsync(file.fileno())
        file.truncate(10)
    os.rename(src=run / "a", dst=run / "b")
    os.link(run / "b", run / "sub/c")
    os.symlink("b", run / "d")
    os.truncate(run / "b", 5)
    shutil.copyfile(run / "b", run / "e")
    descriptor, name = tempfile.mkstemp(dir=run)
    with open(descriptor, "wb") as file:
        file.write(b"gone soon")
    os.remove(name)
    descriptor = os.open(run, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    shutil.rmtree(run / "sub")
    (run / "d").unlink()
    with (run / "e").open("a") as file:
        file.write("more")


def test_every_kind_of_operation_is_seen(tmp_path: Path) -> None:
    ended, trail = watched(tmp_path, every_kind)
    assert ended.error is None
    assert ended.result == []
    kinds = Counter(line.split()[0] for line in seen(trail))
    assert kinds == Counter(mkdir=2, open=4, write=4, fsync=2, truncate=2, rename=1, link=2, unlink=5, end=1), seen(
        trail
    )


def test_nothing_outside_the_directory_is_counted(tmp_path: Path) -> None:
    _, trail = watched(tmp_path, lambda run: (run.parent / "elsewhere").write_text("x"))
    assert seen(trail) == ["end"]


@pytest.mark.parametrize(("mode", "size"), [("kill", 0), ("torn", 5_000)])
def test_a_kill_comes_before_the_operation_and_a_tear_in_its_middle(mode: str, size: int, tmp_path: Path) -> None:
    ended, _ = watched(tmp_path, lambda run: (run / "a").write_bytes(b"x" * 10_000), Fault(number=2, mode=mode))
    assert ended.killed
    assert (tmp_path / "run/a").stat().st_size == size


def test_a_full_disk_stays_full_and_still_removes(tmp_path: Path) -> None:
    def work(run: Path) -> None:
        refused = []
        for name in ("a", "b", "c"):
            try:
                (run / name).write_text("x")
            except OSError as error:
                refused.append((error.errno, error.filename))
        assert refused == [(errno.ENOSPC, str(run / "b")), (errno.ENOSPC, str(run / "c"))]
        (run / "a").unlink()

    ended, _ = watched(tmp_path, work, Fault(number=3, mode="enospc"))
    assert ended.error is None
    assert os.listdir(tmp_path / "run") == []


def test_an_input_output_error_comes_once(tmp_path: Path) -> None:
    def work(run: Path) -> None:
        with pytest.raises(OSError, match="Input/output error"):
            (run / "a").write_text("x")
        (run / "b").write_text("x")

    ended, _ = watched(tmp_path, work, Fault(number=1, mode="eio"))
    assert ended.error is None
    assert os.listdir(tmp_path / "run") == ["b"]


def test_what_is_not_written_by_python_is_named(tmp_path: Path) -> None:
    def work(run: Path) -> None:
        subprocess.run(["sh", "-c", f"echo foreign > '{run}/a'"], check=True)
        (run / "b").write_text("seen")

    ended, _ = watched(tmp_path, work)
    assert ended.result == ["a: none of its bytes was seen to be written"]


def test_a_file_that_vanishes_unseen_is_named(tmp_path: Path) -> None:
    """Its remover held on to the system's function before ours took its place."""

    def work(run: Path) -> None:
        with tempfile.NamedTemporaryFile(dir=run, prefix="x") as file:
            file.write(b"gone soon")

    ended, trail = watched(tmp_path, work)
    assert [line.split()[0] for line in seen(trail)] == ["open", "write", "end"]
    assert len(ended.result) == 1
    assert re.fullmatch(r"x\w+: was not seen to be removed", ended.result[0])


def test_torch_save_to_a_path_is_given_a_file_that_is_seen(tmp_path: Path) -> None:
    import torch

    def work(run: Path) -> None:
        torch.save({"a": torch.zeros(5_000)}, run / "a.pth")
        assert torch.load(run / "a.pth")["a"].sum() == 0

    ended, trail = watched(tmp_path, work)
    assert ended.result == []
    assert [entry["routed"] for entry in trail if "routed" in entry] == ["a.pth"]
    assert Counter(line.split()[0] for line in seen(trail))["write"] > 1


def test_a_child_that_is_killed_took_only_its_own_hooks_along(tmp_path: Path) -> None:
    before = (open, os.open, os.replace)
    watched(tmp_path, with_path, Fault(number=1, mode="kill"))
    assert before == (open, os.open, os.replace)


_COUNTED = {
    "openat": "open",
    "open": "open",
    "creat": "open",
    "write": "write",
    "writev": "write",
    "pwrite64": "write",
    "fsync": "fsync",
    "fdatasync": "fsync",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "link": "link",
    "linkat": "link",
    "symlink": "link",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "rmdir": "unlink",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "truncate": "truncate",
    "ftruncate": "truncate",
}

_TRAINING = """
import sys
from functools import partial
from pathlib import Path
import torch
torch.set_num_threads(1)
from koemorph_tutorial.testing.example import train
from koemorph_tutorial.testing.operations import Operations
kernel, ours, trail, shadow = sys.argv[1:]
train(Path(kernel))
Operations([ours], trail, shadow).install()
train(Path(ours))
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_points_are_the_system_calls_that_change_the_directory(tmp_path: Path) -> None:
    """A training of four saves, once without any hook of ours, seen by the kernel, and once more with our eyes."""
    for name in ("ours", "kernel", "shadow"):
        (tmp_path / name).mkdir()
    python = [sys.executable, "-c", _TRAINING]
    calls = "trace=" + ",".join(f"?{name}" for name in _COUNTED)
    known = subprocess.run(["strace", "--help"], capture_output=True, text=True).stdout
    quick = [option for option in ("--seccomp-bpf",) if option in known]  # the other calls are not stopped at all
    strace = ["strace", *quick, "-f", "-y", "-qq", "-e", calls, "-e", "signal=none", "-o"]
    traced = subprocess.run(
        [*strace, tmp_path / "calls", *python, *(tmp_path / name for name in ("kernel", "ours", "trail", "shadow"))],
        capture_output=True,
        text=True,
    )
    if "ptrace" in traced.stderr or "PTRACE" in traced.stderr:
        pytest.skip("this machine does not let strace look")
    assert traced.returncode == 0, traced.stderr
    expected: Counter[str] = Counter()
    for line in (tmp_path / "calls").read_text().splitlines():
        match = re.match(r"\d+\s+(\w+)\(", line)
        if match is None or str(tmp_path / "kernel") not in line or " = -1 " in line:
            continue
        if _COUNTED[match[1]] != "open" or "O_CREAT" in line or "O_TRUNC" in line:
            expected[_COUNTED[match[1]]] += 1
    trail = [json.loads(line) for line in (tmp_path / "trail").read_text().splitlines()]
    assert Counter(entry["name"] for entry in trail) == expected
    assert sum(expected.values()) > 50


def test_a_child_says_how_it_ended(tmp_path: Path) -> None:
    def is_killed() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert children.run(lambda: [1, "a"], tmp_path, timeout=5) == children.Ended(result=[1, "a"])
    assert children.run(is_killed, tmp_path, timeout=5) == children.Ended(killed=True, error="killed by SIGTERM")
    assert children.run(lambda: sys.exit(3), tmp_path, timeout=5).error == "exit code 3"
    assert children.run(lambda: sys.exit(0), tmp_path, timeout=5).error is None
    assert children.run(lambda: 1 / 0, tmp_path, timeout=5).error == "ZeroDivisionError: division by zero"
    assert children.run(lambda: os._exit(4), tmp_path, timeout=5).error == "ended with exit code 4 and without a word"
    late = children.run(lambda: signal.pause(), tmp_path, timeout=0.2)
    assert late.timed_out
    assert late.why(0.2) == "it did not end within 0.2 s"
    assert children.run(lambda: 1 / 0, tmp_path, timeout=5).why(5) == "ZeroDivisionError: division by zero"
    assert children.run(lambda: None, tmp_path, timeout=5).why(5) == ""


def test_a_child_whose_parent_is_interrupted_is_gone_and_no_zombie(tmp_path: Path) -> None:
    def interrupted() -> None:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        (tmp_path / "inner").mkdir()
        with pytest.raises(KeyboardInterrupt):
            children.run(lambda: signal.pause(), tmp_path / "inner", timeout=30)
        os.waitpid(-1, os.WNOHANG)

    ended = children.run(interrupted, tmp_path, timeout=30)
    assert ended.error == f"ChildProcessError: [Errno {errno.ECHILD}] No child processes"


def test_children_that_share_work_report_as_they_go_and_raise_as_one() -> None:
    def numbers(worker: int) -> Iterator[int]:
        yield from range(worker, 7, 3)

    def fails(worker: int) -> Iterator[int]:
        yield 1
        raise ValueError("not this time")

    assert list(range(7)) == sorted(children.share(numbers, 3))
    with pytest.raises(RuntimeError, match="ValueError: not this time"):
        list(children.share(fails, 2))


def test_a_child_that_is_ended_before_it_began_does_not_go_on_with_its_parents_work(tmp_path: Path) -> None:
    """One of many fails at once, and the others have hardly been forked."""

    def work(worker: int) -> Iterator[int]:
        if worker == 0:
            raise ValueError("at once")
        yield from range(5)

    for number in range(20):
        with pytest.raises(RuntimeError, match="at once"):
            list(children.share(work, 4))
        (tmp_path / f"{number}-{os.getpid()}").touch()
    assert 20 == len(list(tmp_path.iterdir()))


def test_children_are_ended_at_once_where_ctrl_c_is_ignored() -> None:
    """As in what a shell has started in the background."""

    def work(worker: int) -> Iterator[int]:
        if worker == 0:
            raise ValueError("at once")
        for number in range(100):
            time.sleep(0.2)
            yield number

    before, began = signal.signal(signal.SIGINT, signal.SIG_IGN), time.monotonic()
    try:
        with pytest.raises(RuntimeError, match="at once"):
            list(children.share(work, 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 10


def test_a_child_begins_with_the_random_numbers_of_its_parent(tmp_path: Path) -> None:
    """Python itself gives every forked child others."""
    state = random.getstate()
    expected = random.random()
    random.setstate(state)
    assert children.run(random.random, tmp_path, timeout=5).result == expected
    assert list(children.share(lambda worker: iter([random.random()]), 1)) == [expected]
