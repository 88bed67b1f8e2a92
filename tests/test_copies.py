"""Working copies: what is the reader's is never written to again."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from koemorph_tutorial.records import CheckpointWriteError
from koemorph_tutorial.teaching import copies
from koemorph_tutorial.teaching.copies import launch, make_copies, reset_copy
from koemorph_tutorial.teaching.places import LabError, find_root, project_root

FOLDER = "outputs/my-notebooks"
NEW_ONE = "`koemorph lab --reset 01` brings the new one and moves yours aside"


def lesson(text: str = "x = 1") -> dict[str, Any]:
    link = "[a](../README.md) [b](02_storage.ipynb) [c](https://a.b/../c) ![d](../notebooks/d.png)"
    shown = {"output_type": "stream", "name": "stdout", "text": ["spoiler"]}
    return {
        "cells": [
            {"cell_type": "markdown", "id": "01-01", "metadata": {}, "source": ["# A lesson\n", link]},
            {
                "cell_type": "code",
                "execution_count": 1,
                "id": "01-02",
                "metadata": {"tags": ["raises-exception"]},
                "outputs": [shown],
                "source": [text, "\n# [e](../f)"],
            },
        ],
        "metadata": {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": {"name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "a project"
    for name in ("01_state", "02_storage"):
        write(root / f"notebooks/{name}.ipynb", lesson())
    (root / "notebooks/Untitled.ipynb").write_text("{}")
    (root / "pyproject.toml").write_text('[project]\nname = "koemorph-tutorial"\n')
    return root


def edit(copy: Path) -> bytes:
    """Do what a reader does, and return what is theirs from then on."""
    content = json.loads(copy.read_text("utf-8"))
    content["cells"].append({"cell_type": "code", "source": "mine"})
    write(copy, content)
    return copy.read_bytes()


# ------------------------------------------------------------------------------------------------------------- made


def test_a_copy_is_pristine_and_its_links_lead_where_those_of_the_lesson_do(root: Path) -> None:
    assert [f"{FOLDER}: new: 01_state, 02_storage"] == make_copies(root)
    assert ["01_state.ipynb", "02_storage.ipynb"] == sorted(os.listdir(root / FOLDER))  # no .py beside them, no strays
    copy = json.loads((root / FOLDER / "01_state.ipynb").read_text("utf-8"))
    text, code = copy["cells"]
    assert text["source"] == (
        "# A lesson\n[a](../../README.md) [b](02_storage.ipynb) [c](https://a.b/../c) ![d](../../notebooks/d.png)"
    )
    assert (None, [], ["raises-exception"]) == (code["execution_count"], code["outputs"], code["metadata"]["tags"])
    assert "".join(code["source"]) == "x = 1\n# [e](../f)"  # code is left as it is
    assert {"kernelspec", "koemorph_tutorial"} == set(copy["metadata"])  # a pair would make JupyterLab write a .py
    assert json.dumps(lesson()) == (root / "notebooks/01_state.ipynb").read_text("utf-8")


def test_a_copy_that_is_there_is_kept(root: Path) -> None:
    make_copies(root)
    mine = edit(root / FOLDER / "01_state.ipynb")
    (root / FOLDER / "02_storage.ipynb").unlink()
    assert [f"{FOLDER}: new: 02_storage", f"{FOLDER}: kept as you left it: 01_state"] == make_copies(root)
    assert mine == (root / FOLDER / "01_state.ipynb").read_bytes()


def test_a_copy_of_a_lesson_that_has_changed_since_is_kept_and_that_is_said(root: Path) -> None:
    make_copies(root)
    mine = edit(root / FOLDER / "01_state.ipynb")
    changed = lesson()
    changed["cells"][1]["outputs"] = []  # built anew, on another machine: not what a copy is made of
    write(root / "notebooks/01_state.ipynb", changed)
    assert [f"{FOLDER}: kept as you left it: 01_state, 02_storage"] == make_copies(root)

    write(root / "notebooks/01_state.ipynb", lesson("x = 2"))
    assert make_copies(root) == [
        f"{FOLDER}: kept as you left it: 02_storage",
        f"{FOLDER}/01_state.ipynb: kept as you left it, but the lesson has changed since: {NEW_ONE}",
    ]
    assert mine == (root / FOLDER / "01_state.ipynb").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"metadata": []}', b"[1]", b"\xff\xfe", b'{"cells": [{"cell_t'])
def test_a_damaged_copy_is_kept_and_the_way_out_is_named(root: Path, content: bytes) -> None:
    make_copies(root)
    copy = root / FOLDER / "01_state.ipynb"
    copy.write_bytes(content)
    assert f"{FOLDER}/01_state.ipynb: kept, but it cannot be read as a notebook: {NEW_ONE}" == make_copies(root)[-1]
    assert content == copy.read_bytes()

    reset_copy(root, "01")
    assert content == (root / FOLDER / "01_state-earlier-1.ipynb").read_bytes()
    assert [f"{FOLDER}: kept as you left it: 01_state, 02_storage"] == make_copies(root)


def test_a_copy_that_is_not_ours_is_kept(root: Path) -> None:
    write(root / FOLDER / "01_state.ipynb", {"metadata": {}, "cells": []})
    (root / FOLDER / "02_storage.ipynb").symlink_to("nowhere.ipynb")
    assert [f"{FOLDER}: kept as you left it: 01_state"] == make_copies(root)[:1]
    assert not (root / FOLDER / "nowhere.ipynb").exists()


def test_several_at_once_make_each_copy_once(root: Path) -> None:
    command = (
        "import sys, time; from koemorph_tutorial.teaching.copies import make_copies; from pathlib import Path;"
        "sys.stdin.read(); print(*make_copies(Path(sys.argv[1])), sep='\\n')"
    )
    one_pipe, start = os.pipe()
    try:
        crowd = [
            subprocess.Popen(
                [sys.executable, "-c", command, str(root)], stdin=one_pipe, stdout=subprocess.PIPE, text=True
            )
            for _ in range(6)
        ]
    finally:
        os.close(one_pipe)
        os.close(start)  # all of them go on now
    said = [process.communicate()[0] for process in crowd]
    assert all(process.returncode == 0 for process in crowd)
    for name in ("01_state", "02_storage"):
        assert 1 == sum(name in line for text in said for line in text.splitlines() if ": new: " in line)
    assert "cannot be read" not in "".join(said)
    assert ["01_state.ipynb", "02_storage.ipynb"] == sorted(os.listdir(root / FOLDER))


# ---------------------------------------------------------------------------------------------------------- made anew


@pytest.mark.parametrize("number", ["1", "01"])
def test_a_reset_moves_the_old_copy_aside_and_brings_the_lesson(root: Path, number: str) -> None:
    make_copies(root)
    pristine = (root / FOLDER / "01_state.ipynb").read_bytes()
    earlier = [edit(root / FOLDER / "01_state.ipynb")]
    for count in (1, 2):
        assert reset_copy(root, number) == [
            f"{FOLDER}/01_state-earlier-{count}.ipynb: your copy as it was",
            f"{FOLDER}/01_state.ipynb: the lesson as it comes",
        ]
        assert pristine == (root / FOLDER / "01_state.ipynb").read_bytes()
        assert earlier == [(root / FOLDER / f"01_state-earlier-{i + 1}.ipynb").read_bytes() for i in range(count)]
        earlier.append(pristine)
    assert [f"{FOLDER}: kept as you left it: 01_state, 02_storage"] == make_copies(root)


def test_a_reset_of_what_was_never_copied_makes_the_copy(root: Path) -> None:
    assert [f"{FOLDER}/02_storage.ipynb: the lesson as it comes"] == reset_copy(root, "2")
    assert ["02_storage.ipynb"] == os.listdir(root / FOLDER)


@pytest.mark.parametrize("number", ["11", "x", "", "-1", "001", "0", "\N{FULLWIDTH DIGIT ONE}"])
def test_a_lesson_that_does_not_exist_is_refused_with_those_that_do(root: Path, number: str) -> None:
    with pytest.raises(LabError) as refused:
        reset_copy(root, number)
    assert f"there is no lesson {number}; there are 01 state, 02 storage" == str(refused.value)
    assert not (root / "outputs").exists()


def test_where_there_are_no_hard_links_it_goes_on_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    make_copies(root)
    mine = edit(root / FOLDER / "01_state.ipynb")
    make_copies(root)
    assert mine == (root / FOLDER / "01_state.ipynb").read_bytes()
    (root / FOLDER / "01_state-earlier-1.ipynb").write_text("of mine")
    reset_copy(root, "1")
    assert mine == (root / FOLDER / "01_state-earlier-2.ipynb").read_bytes()
    assert "of mine" == (root / FOLDER / "01_state-earlier-1.ipynb").read_text()
    assert len(os.listdir(root / FOLDER)) == 4


def test_a_ctrl_c_that_comes_with_the_rename_takes_no_copy_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def interrupted(source: Path, target: Path) -> None:
        source.rename(target)
        raise KeyboardInterrupt

    make_copies(root)
    mine = edit(root / FOLDER / "01_state.ipynb")
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reset_copy(root, "1")
    assert mine in [file.read_bytes() for file in (root / FOLDER).iterdir()]


# ----------------------------------------------------------------------------------------------- what cannot be written


def test_outputs_that_is_a_file_gets_one_line(root: Path) -> None:
    (root / "outputs").write_text("mine")
    with pytest.raises(
        CheckpointWriteError, match=r"01_state\.ipynb: could not be written: Not a directory; nothing that"
    ):
        make_copies(root)
    assert "mine" == (root / "outputs").read_text()


def test_outputs_that_lies_elsewhere_is_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a big disk").mkdir()
    (root / "outputs").symlink_to(tmp_path / "a big disk")
    make_copies(root)
    assert (tmp_path / "a big disk/my-notebooks/01_state.ipynb").is_file()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_leaves_everything_as_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    make_copies(root)
    (root / FOLDER / "02_storage.ipynb").unlink()
    mine = edit(root / FOLDER / "01_state.ipynb")
    with monkeypatch.context() as patch, pytest.raises(CheckpointWriteError) as refused:
        patch.setattr(os, "fsync", refuse)
        make_copies(root)
    assert str(refused.value).startswith(
        f"{root / FOLDER / '02_storage.ipynb'}: could not be written: {os.strerror(code)}; nothing that was there"
    )
    with monkeypatch.context() as patch, pytest.raises(CheckpointWriteError):
        patch.setattr(os, "fsync", refuse)
        reset_copy(root, "01")
    assert {"01_state.ipynb": mine} == {file.name: file.read_bytes() for file in (root / FOLDER).iterdir()}


# ------------------------------------------------------------------------------------------------------------- launched


def test_the_lab_opens_the_first_copy_in_this_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[list[str]] = []

    def execve(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        became.append([program, *arguments, environment["KOEMORPH_PROJECT"]])

    monkeypatch.setattr(os, "execve", execve)
    for user in (1000, 0):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        launch(root)
    python = [sys.executable, sys.executable, "-P", "-m", "jupyterlab"]
    where = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{FOLDER}/01_state.ipynb"]
    assert [[*python, *where, str(root)], [*python, *where, "--allow-root", str(root)]] == became
    assert capsys.readouterr().out.splitlines() == [
        f"{FOLDER}: new: 01_state, 02_storage",
        f"{FOLDER}: kept as you left it: 01_state, 02_storage",
    ]


def test_without_jupyterlab_one_line_says_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LabError, match=r"JupyterLab is not installed: pip install 'koemorph-tutorial\[lab\]'"):
        launch(root)
    assert not (root / "outputs").exists()


def test_without_lessons_one_line_says_so(root: Path) -> None:
    for file in (root / "notebooks").glob("0*"):
        file.unlink()
    with pytest.raises(LabError, match="notebooks: no lesson is here"):
        make_copies(root)
    write(root / "notebooks/01_state.ipynb", {"cells": 1})
    with pytest.raises(LabError, match=r"01_state\.ipynb: this is no notebook, so there is nothing to copy"):
        make_copies(root)


def test_the_project_is_found_from_inside_it_and_from_anywhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(__file__).resolve().parent.parent
    monkeypatch.chdir(root / "notebooks")
    assert root == project_root()
    (root / "notebooks/pyproject.toml").write_text("[project")  # of something else, or half written
    assert root == project_root()
    monkeypatch.chdir(tmp_path)
    assert find_root(tmp_path) is None
    assert own == project_root()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert own == project_root()


def test_where_only_the_wheel_is_installed_one_line_says_where_the_lessons_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("koemorph_tutorial.teaching.places.__file__", str(tmp_path / "site-packages/places.py"))
    with pytest.raises(LabError, match="the lessons are not here: they are in the project's repository"):
        project_root()


def test_asking_for_copies_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "matplotlib", "nbformat", "jupytext", "nbclient", "jupyterlab", "IPython", "rich")
    code = (
        "import sys, koemorph_tutorial.teaching.copies, koemorph_tutorial.teaching.notebooks;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert (
        "[]" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )


def test_a_reset_that_fails_half_way_leaves_the_copy_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_copies(root)
    copy = root / FOLDER / "01_state.ipynb"
    copy.write_text("mine", "utf-8")
    real, calls = copies._rename_to_free, []

    def full_the_second_time(source: Path, target: Path) -> bool:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(copies, "_rename_to_free", full_the_second_time)
    with pytest.raises(CheckpointWriteError, match="No space left on device; nothing that was there before is lost"):
        reset_copy(root, "01")
    assert "mine" == copy.read_text("utf-8")
    assert [] == [file.name for file in copy.parent.iterdir() if "earlier" in file.name or file.name.startswith(".")]
