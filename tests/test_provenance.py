"""Where a checkpoint came from, and what is no longer as it was there."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from koemorph_tutorial import provenance
from koemorph_tutorial.plain import check_plain
from koemorph_tutorial.provenance import collect_metadata, find_drift, git_commit, surroundings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is in no repository, with a git that reads no settings of this machine."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A learner")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "learner@example.org")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "init", "--quiet")
    (folder / "train.py").write_text("lr = 0.1\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "--quiet", "-m", "Train")
    return git(folder, "rev-parse", "HEAD")


# ----------------------------------------------------------------------------------------------------------- the commit


def test_the_commit_is_the_full_one_that_is_checked_out(folder: Path) -> None:
    """Forty digits, though a tag would be shorter; from a folder inside as well."""
    expected = commit(folder)
    git(folder, "tag", "-a", "v1", "-m", "First")
    (folder / "inside").mkdir()
    assert 40 == len(expected)
    assert [expected, expected] == [git_commit(folder), git_commit(folder / "inside")]


def test_a_changed_file_makes_the_commit_dirty(folder: Path) -> None:
    """The code that ran is not the code of the commit, and the name says so."""
    expected = commit(folder)
    (folder / "train.py").write_text("lr = 0.2\n")
    assert f"{expected}-dirty" == git_commit(folder)


def test_a_new_file_makes_no_commit_dirty(folder: Path) -> None:
    """Outputs of the run lie beside the code."""
    expected = commit(folder)
    (folder / "last_model.pth").touch()
    assert expected == git_commit(folder)


def leave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the folder as it is."""


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(folder, "init", "--quiet")


def spoil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(folder)
    (folder / ".git" / "HEAD").write_text("nothing that git understands\n")


def hide_git(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(folder)
    monkeypatch.setenv("PATH", str(folder))


def remove(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rmdir()


def replace_git(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    fake = folder / "bin/git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")


def complain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse as git does in a repository of somebody else's, with a path that is no UTF-8."""
    replace_git(folder, monkeypatch, r"printf 'fatal: dubious ownership in \377\n' >&2; exit 128")


def take_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_git(folder, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(provenance, "_PATIENCE", 0.1)


def disown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    monkeypatch.delenv("SUDO_UID", raising=False)
    commit(folder)
    for path in (folder, folder / ".git"):
        os.chown(path, 12345, 12345)


@pytest.mark.parametrize("make", [leave, begin, spoil, hide_git, remove, complain, take_long, disown])
def test_without_a_commit_there_is_none_and_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    """No repository, an empty, a broken, a stranger's or a huge one, no git, no folder: no save fails for that."""
    make(folder, monkeypatch)
    assert git_commit(folder) is None


# --------------------------------------------------------------------------------------------------------- the metadata


def test_the_metadata_say_where_a_checkpoint_came_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key of the format, with what is true here, in types that torch reads back."""
    expected = commit(folder)
    monkeypatch.chdir(folder)
    before = time.time()
    metadata = collect_metadata({"model": nn.Linear(3, 2)}, 12.5)
    assert before <= metadata.pop("timestamp") <= time.time()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", metadata.pop("package_version"))
    assert metadata == {
        "hostname": socket.gethostname(),
        "git_commit": expected,
        "pytorch_version": str(torch.__version__),
        "model_params": 8,
        "training_time": 12.5,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "ranks": 1,
        "cuda_devices": 0,
    }
    check_plain(metadata)


@pytest.mark.parametrize(
    ("modules", "parameters", "device"),
    [
        ({}, 0, "cpu"),
        ({"ema": nn.Linear(1, 1), "model": nn.Linear(9, 1)}, 10, "cpu"),
        ({"generator": nn.Linear(2, 1), "critic": nn.Linear(9, 1)}, 3, "cpu"),
        ({"model": nn.Identity()}, 0, "cpu"),
        ({"model": nn.Linear(2, 1, device="meta")}, 3, "meta"),
    ],
)
def test_the_parameters_counted_are_those_of_the_model(
    modules: dict[str, nn.Module], parameters: int, device: str
) -> None:
    """Of the module called model, else of the first; none without a module."""
    metadata = collect_metadata(modules, 0.0)
    assert (parameters, device) == (metadata["model_params"], metadata["device"])


# ---------------------------------------------------------------------------------------------------------------- drift


def checkpoint(**changes: Any) -> dict[str, Any]:
    here = {"pytorch_version": str(torch.__version__), **surroundings(), "hostname": "elsewhere", "git_commit": None}
    return {"rng_state": {}, "metadata": {**here, **changes}}


TORCH = f"saved with torch 1.13.1, here {torch.__version__}; install that one to go on exactly"
RANKS = "saved with ranks 4, here 1; each rank sees other batches now; start 4 processes to go on exactly"


@pytest.mark.parametrize(
    ("changes", "drift"),
    [
        ({}, ()),
        ({"hostname": "another", "git_commit": "0" * 40, "platform": "another"}, ()),
        ({"pytorch_version": "1.13.1"}, (TORCH,)),
        ({"ranks": 4}, (RANKS,)),
        (
            {"cuda_devices": 2},
            ("saved with CUDA devices 2, here 0; their random states stay as they are; show it 2 to go on exactly",),
        ),
        ({"ranks": 4, "pytorch_version": "1.13.1"}, (TORCH, RANKS)),
    ],
)
def test_what_is_not_as_it_was_is_said_one_reason_each(changes: dict[str, Any], drift: tuple[str, ...]) -> None:
    """Another torch, threads, ranks or devices compute other bits; another host or commit need not."""
    assert drift == find_drift(checkpoint(**changes))


def test_a_thread_more_is_drift() -> None:
    """The count is asked for when it is needed, not when the library is loaded."""
    then, threads = checkpoint(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        cure = f"torch.set_num_threads({threads}) goes on exactly"
        assert (f"saved with threads {threads}, here {threads + 1}; {cure}",) == find_drift(then)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("then", "here", "said"),
    [
        ("cuda:0 (NVIDIA H100)", "cpu", "saved on cuda:0 (NVIDIA H100), here on cpu, which rounds otherwise; "),
        ("cpu", "cuda:0 (NVIDIA H100)", "saved on cpu, here on cuda:0 (NVIDIA H100), which rounds otherwise; "),
        ("cuda:0 (NVIDIA A100)", "cuda:0 (NVIDIA H100)", "saved on cuda:0 (NVIDIA A100), here on cuda:0 (NVIDIA H100)"),
        ("cuda:0 (NVIDIA H100)", "cuda:3 (NVIDIA H100)", ""),
        ("cpu", "cpu", ""),
    ],
)
def test_another_device_is_one_line(then: str, here: str, said: str) -> None:
    """A file from a GPU on a CPU: how many GPUs there are follows from it, and is not said again."""
    lines = find_drift(checkpoint(device=then, cuda_devices=1 if said else 0), here)
    assert bool(said) == len(lines)
    assert "".join(lines).startswith(said)


@pytest.mark.parametrize(
    "then", [{}, {"epoch": 3, "metadata": {"pytorch_version": "1.13.1"}}, {"model_state_dict": {}}]
)
def test_a_file_without_random_states_says_so_first(then: dict[str, Any]) -> None:
    """As the recipe's: whatever else drifted does not matter any more."""
    assert ("the file holds no random states",) == find_drift(then)


def test_what_a_file_does_not_say_is_no_drift() -> None:
    """A file with random states and no metadata."""
    assert () == find_drift({"rng_state": {}})
    assert () == find_drift({"rng_state": {}, "metadata": {"hostname": "a"}})


def test_a_working_directory_that_was_removed_fails_no_save(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody cleaned up while the training ran."""
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    assert collect_metadata({}, 0.0)["git_commit"] is None


def test_a_copied_package_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied into a project instead of installed: unknown, and no failure."""
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "unknown" == collect_metadata({}, 0.0)["package_version"]
