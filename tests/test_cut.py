"""The mark of a roll-back: what it hides, and a roll-back that is stopped at each of its system calls."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import CheckpointManager, list_checkpoints, load_checkpoint, save_checkpoint
from koemorph_tutorial.__main__ import main
from koemorph_tutorial.cut import Cut, read_cut, remove_cut, write_cut
from koemorph_tutorial.directory import abandon
from koemorph_tutorial.records import CheckpointError, CheckpointNotFoundError, DamagedCheckpointError, numbered_name
from koemorph_tutorial.resume import find

HOW = (("kill", 0), (errno.ENOSPC, 1), (errno.EIO, 2))  # how it is stopped, and the first call that is
CALLS = ("open", "mkdir", "link", "rename", "replace", "unlink", "fsync")


def save(directory: Path, epoch: int, *names: str, loss: float = 0.5, line: str | None = "line") -> None:
    """Save a checkpoint of `epoch` that holds a model of four weights."""
    directory.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "format_version": 1,
        "run": {"line": line, "parent": None, "saves": epoch + 1},
        "epoch": epoch,
        "position": {"epoch": epoch + 1, "batch": 0, "global_step": epoch + 1},
        "model_state_dict": {"weight": torch.full((4,), float(epoch))},
        "metrics": {"loss": loss},
    }
    save_checkpoint(content, directory / names[0], also=names[1:])


def make_run(directory: Path) -> None:
    """Make a run of six epochs, numbered up to 5; the best is epoch 4, and what came last has no other name."""
    for epoch in range(4):
        save(directory, epoch, numbered_name(epoch), loss=0.5 - epoch / 10)
    save(directory, 4, "best_model.pth", numbered_name(4), loss=0.1)
    save(directory, 5, numbered_name(5))
    save(directory, 6, "last_model.pth")


def manager(directory: Path) -> CheckpointManager:
    """Return a manager of a model that fits."""
    return CheckpointManager(directory, {"model": torch.nn.PReLU(4)}, save_freq=1, keep_last_n=None)


def go_back(directory: Path) -> None:
    """Go back to epoch 2."""
    manager(directory).resume(directory / numbered_name(2))


def go_on(directory: Path) -> None:
    """Go on from wherever the run is."""
    manager(directory).resume()


def epochs(directory: Path) -> dict[str, int]:
    """Return which epoch each name of a directory holds."""
    return {file.path.name: file.epoch for file in list_checkpoints(directory)}


def in_a_process(
    act: Callable[[Path], None], directory: Path, *, at: int | None = None, how: int | str = "kill"
) -> int:
    """Do something in a process of its own; stop it at one of its calls; 0 done, 1 one clear line, 9 killed."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 2
    try:
        calls, opened = itertools.count(), os.open

        def stopped(call: Callable[..., Any]) -> Callable[..., Any]:
            def maybe(*arguments: Any, **more: Any) -> Any:
                if call is opened and arguments[1] & os.O_NONBLOCK:  # to read a checkpoint, which changes nothing
                    return call(*arguments, **more)
                if next(calls) == at:
                    if isinstance(how, str):
                        os._exit(9)
                    raise OSError(how, os.strerror(how))
                return call(*arguments, **more)

            return maybe

        for name in CALLS:
            setattr(os, name, stopped(getattr(os, name)))
        act(directory)
        (directory.parent / "calls").write_text(str(next(calls)))
        code = 0
    except CheckpointError as error:
        code = 1 if "\n" not in str(error) else 3
    finally:
        os._exit(code)


def assert_rolled_back(directory: Path, expected: int) -> None:
    """Check that the run goes on from an epoch, that nothing is lost, and that nothing is left lying about."""
    aside = [path for path in directory.iterdir() if path.is_dir()]
    everywhere = [load_checkpoint(path)["epoch"] for path in directory.rglob("*.pth")]
    assert set(range(7)) == set(everywhere)
    here = epochs(directory)
    if expected == 2:
        names = {"best_model.pth": 2, "last_model.pth": 2, **{numbered_name(epoch): epoch for epoch in range(3)}}
        assert names == here
        assert all(list(path.iterdir()) for path in aside)
    else:
        assert {"best_model.pth": 4, "last_model.pth": 6} == {name: here[name] for name in here if "epoch" not in name}
    assert {".lock", *here, *(path.name for path in aside)} == {path.name for path in directory.iterdir()}


def assert_ends_well(tmp_path: Path, how: int | str, *, every: int = 1, first: int = 0) -> None:
    """Stop a roll-back at every so many of its calls, beginning with the `first`.

    Once the mark is there the run goes on from the epoch asked for, else from its newest; the next start is stopped as
    well, somewhere, and the one after it ends what was begun. No file is lost.
    """
    make_run(tmp_path / "run")
    marked = 0
    shutil.copytree(tmp_path / "run", tmp_path / "straight")
    assert 0 == in_a_process(go_back, tmp_path / "straight")
    calls = int((tmp_path / "calls").read_text())
    for at in range(first, calls, every):
        run = tmp_path / str(at)
        shutil.copytree(tmp_path / "run", run)
        assert in_a_process(go_back, run, at=at, how=how) in ((9,) if how == "kill" else (0, 1))
        expected = list_checkpoints(run)[0].epoch
        assert expected == (2 if (run / ".cut").exists() or list(run.glob("abandoned-*/*")) else expected)
        marked += expected == 2
        assert in_a_process(go_on, run, at=at * 5 % 17, how=how) in (0, 1, 9)
        assert expected == list_checkpoints(run)[0].epoch
        assert 0 == in_a_process(go_on, run)
        assert_rolled_back(run, expected)
        shutil.rmtree(run)
    assert marked > 10 / every


@pytest.mark.parametrize(("how", "first"), HOW, ids=["kill", "ENOSPC", "EIO"])
def test_a_roll_back_stopped_at_any_call_ends_well(tmp_path: Path, how: int | str, first: int) -> None:
    """Each call is stopped in one of the three ways; `make proof` stops each in all of them."""
    assert_ends_well(tmp_path, how, every=len(HOW), first=first)


def test_what_is_saved_after_a_roll_back_is_newer_than_all_that_was(tmp_path: Path) -> None:
    """Counted on from the highest save, so that no mark could ever hide it."""
    make_run(tmp_path)
    with manager(tmp_path) as checkpoints:
        checkpoints.resume(tmp_path / numbered_name(2))
        checkpoints.save({"loss": 0.2}, epoch=3)
    assert [8, 3] == [list_checkpoints(tmp_path)[0].saves, list_checkpoints(tmp_path)[0].epoch]


def test_what_is_rolled_back_is_said_and_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a listing, by resume and by inspect; another line's file is not part of it, and is moved aside as well."""
    make_run(tmp_path)
    save(tmp_path, 5, "checkpoint_epoch_009.pth", line="other")
    write_cut(tmp_path, Cut(line="line", after=3, until=7))
    assert 2 == find(tmp_path).file.epoch
    listing = list_checkpoints(tmp_path)
    rolled_back = {
        name for name, why in listing.ignored if "rolled back: newer than checkpoint_epoch_002.pth" in str(why)
    }
    assert {numbered_name(3), numbered_name(4), numbered_name(5), "best_model.pth", "last_model.pth"} == rolled_back
    assert 0 == main(["inspect", str(tmp_path)])
    assert "rolled back: newer than checkpoint_epoch_002.pth, where the run goes on" in " ".join(
        capsys.readouterr().out.split()
    )
    abandon(find(tmp_path), tmp_path, read_cut(tmp_path))
    assert (tmp_path / "abandoned-001/checkpoint_epoch_009.pth").exists()


def test_going_back_further_or_less_far_takes_the_place_of_a_roll_back_that_was_interrupted(tmp_path: Path) -> None:
    """What a person asks for last counts."""
    for asked in (1, 4, 6):
        run = tmp_path / str(asked)
        make_run(run)
        write_cut(run, Cut(line="line", after=3, until=7))
        name = "last_model.pth" if asked == 6 else numbered_name(asked)
        manager(run).resume(run / name)
        assert asked == max(epochs(run).values()) == epochs(run)["last_model.pth"]
        assert not (run / ".cut").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[" * 9000,
        b"[1, 2]",
        b'{"after": 3}',
        b'{"line": null, "after": 5, "until": 3}',
        b'{"line": null, "after": -1, "until": 3}',
        b'{"line": 7, "after": 1, "until": 3}',
        b'{"line": "x", "after": true, "until": 3}',
        b'{"line": "x", "after": 1.0, "until": 3}',
        None,
    ],
)
def test_a_mark_that_is_garbage_is_one_line_and_loses_nothing(tmp_path: Path, text: bytes | None) -> None:
    """What it is, and what to do; then the file that the run should go on from is taken."""
    make_run(tmp_path)
    before = epochs(tmp_path)
    if text is None:
        (tmp_path / ".cut").mkdir()
    else:
        (tmp_path / ".cut").write_bytes(text)
    for act in (list_checkpoints, go_on, go_back):
        with pytest.raises(DamagedCheckpointError) as refused:
            act(tmp_path)
        assert str(refused.value).startswith(
            f"{tmp_path}/.cut: expected the mark of a roll-back that was interrupted, found "
        )
        assert "no checkpoint is lost: remove it, and resume from the file that the run should go on" in str(
            refused.value
        )
        assert "\n" not in str(refused.value)
    (tmp_path / ".cut").rmdir() if text is None else (tmp_path / ".cut").unlink()
    assert before == epochs(tmp_path)
    go_back(tmp_path)
    assert 2 == epochs(tmp_path)["last_model.pth"]


def test_a_mark_whose_file_is_gone_is_no_fresh_start(tmp_path: Path) -> None:
    """Somebody removed all that was left; what is hidden is still there, and the mark is named."""
    save(tmp_path, 5, numbered_name(5))
    write_cut(tmp_path, Cut(line="line", after=3, until=7))
    with pytest.raises(
        CheckpointNotFoundError, match=r"found 1 file and none that can be used \(rolled back: .*\.cut s"
    ):
        go_on(tmp_path)


def test_a_mark_that_was_left_in_an_empty_directory_hides_nothing_new(tmp_path: Path) -> None:
    """The files of the old run were moved away by hand."""
    write_cut(tmp_path, Cut(line=None, after=0, until=99))
    assert {"line": None, "after": 0, "until": 99} == json.loads((tmp_path / ".cut").read_text())
    with manager(tmp_path) as checkpoints:
        for _ in checkpoints.epochs(2):
            checkpoints.save({"loss": 1.0})
    assert 1 == epochs(tmp_path)["last_model.pth"]
    assert read_cut(tmp_path) is None
    remove_cut(tmp_path)
