"""setup and show: what a lesson needs of the kernel it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from koemorph_tutorial.teaching.kernel import Message, Picture, code_block, show
from koemorph_tutorial.teaching.lessons import LessonError

# A kernel without a notebook: IPython's shell, which is what runs a cell.
IN_IPYTHON = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
for cell in sys.stdin.read().split("# %%\\n"):
    shell.run_cell(cell)
    print("end of a cell")
"""
END = "end of a cell\n"


def run_cells(folder: Path, *cells: str) -> list[str]:
    """Run cells one after another in one kernel and return what each of them prints."""
    environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython")}
    ran = subprocess.run(
        [sys.executable, "-c", IN_IPYTHON],
        cwd=folder,
        env=environment,
        input="# %%\n".join(cells),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == ""
    return ran.stdout.split(END)[:-1]


IMPORT = "from koemorph_tutorial.teaching import check, predict, setup\n"


SCENES = {
    "twice": "setup()\nsetup()",
    "threads": "import torch; print('threads', torch.get_num_threads())",
    "deleted": 'check("01.4", photo_of)',
    "deleted, other quotes": "check( '01.4', photo_of)",
    "misspelt": "print(photo_off)",
    "alone": "photo_of",
    "number": 'check("01.9", 1)',
    "removed": "import os; first = os.getcwd(); os.rmdir(first)\nsetup()\nprint(os.getcwd() != first)",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what one kernel says to each scene."""
    outputs = run_cells(tmp_path_factory.mktemp("kernel"), IMPORT, *SCENES.values())
    return dict(zip(SCENES, outputs[1:], strict=True))


def test_setup_is_silent_and_uses_one_thread(said: dict[str, str]) -> None:
    assert ("", "threads 1\n") == (said["twice"], said["threads"])


def test_setup_makes_a_new_scratch_folder_where_somebody_removed_the_first(said: dict[str, str]) -> None:
    assert "True\n" == said["removed"]


@pytest.mark.parametrize("scene", ["deleted", "deleted, other quotes"])
def test_a_stub_that_was_deleted_is_explained_below_the_error(scene: str, said: dict[str, str]) -> None:
    assert "NameError: name 'photo_of' is not defined" in said[scene]
    line = said[scene].strip().splitlines()[-1]
    assert line == (
        "01.4 checks `photo_of`, which is not defined: write it anew, or bring the lesson back with "
        "`koemorph lab --reset 01` (your copy is moved aside, not lost)"
    )


@pytest.mark.parametrize("scene", ["misspelt", "alone"])
def test_any_other_missing_name_is_left_to_python(scene: str, said: dict[str, str]) -> None:
    assert "NameError" in said[scene]
    assert "koemorph" not in said[scene]


def test_a_wrong_number_is_one_line_in_a_notebook(said: dict[str, str]) -> None:
    assert "there is no question 01.9; there are 01.1, 01.2, 01.3, 01.4, 01.5" == said["number"].strip()


@pytest.mark.parametrize("end", ["pass", "import os; os.kill(os.getpid(), 9)"])
def test_the_scratch_folder_goes_away_however_the_kernel_ends(end: str, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    code = f"{IMPORT}setup()\nimport os\nopen('a file', 'w').write('x')\nprint(os.getcwd(), flush=True)\n{end}"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    folder = Path(process.stdout.strip())
    assert scratch == folder.parent, process.stderr
    _wait_until(lambda: not folder.exists())
    assert [] == list(scratch.iterdir())


def _wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)


def test_a_lesson_in_the_project_keeps_progress_there_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "koemorph-tutorial"\n', "utf-8")
    inside = tmp_path / "outputs/my-notebooks"
    inside.mkdir(parents=True)
    run_cells(inside, f"{IMPORT}setup()", 'check("01.1", "a")\nprint()')
    assert (tmp_path / "outputs/progress.json").exists()


def test_a_lesson_whose_outputs_are_a_link_keeps_progress_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's folder is then in no project, so JupyterLab hands the project on."""
    project, elsewhere = tmp_path / "project", tmp_path / "big disk"
    project.mkdir()
    elsewhere.mkdir()
    (project / "outputs").symlink_to(elsewhere)
    monkeypatch.setenv("KOEMORPH_PROJECT", str(project))
    run_cells(elsewhere, f"{IMPORT}setup()", 'check("01.1", "a")\nprint()')
    assert (project / "outputs/progress.json").exists()


# ------------------------------------------------------------------------------------------------ what is shown


def test_a_message_is_words_in_plain_text_and_folds_in_html() -> None:
    message = Message("01.3: not yet", "use `<b>`", passed=False, folded={"The solution": code_block("a < b\n")})
    assert "01.3: not yet\nuse `<b>`" == repr(message)
    html = message._repr_html_()
    assert "<b>01.3: not yet</b><br>use <code>&lt;b&gt;</code>" in html
    assert "<details><summary>The solution</summary><pre>a &lt; b</pre></details>" in html


def test_a_picture_says_its_caption_as_plain_text() -> None:
    bundle, metadata = Picture(b"png", "three bars", 900)._repr_mimebundle_()
    assert ({"image/png": b"png", "text/plain": "three bars"}, {"image/png": {"width": 900}}) == (bundle, metadata)


def test_outside_of_a_notebook_show_prints_the_caption(capsys: pytest.CaptureFixture[str]) -> None:
    show(Figure(), "an empty figure")
    assert "an empty figure\n" == capsys.readouterr().out


def test_a_lesson_error_is_a_value_error() -> None:
    assert issubclass(LessonError, ValueError)
