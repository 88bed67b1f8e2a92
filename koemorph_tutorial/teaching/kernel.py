"""setup and show: what a lesson needs of the kernel that it runs in, and how it speaks."""

from __future__ import annotations

import atexit
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import logbook
from .lessons import LESSONS, Exercise, lesson
from .places import project_of_kernel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_scratch: list[Path] = []  # of this process; the last one is in use
_keepers: list[subprocess.Popen[bytes]] = []  # each holds a pipe for as long as this process lives


def setup() -> None:
    """Make the kernel ready for a lesson; silent unless something is wrong. A second call changes nothing.

    One torch thread, so that results are the same on every machine with the same processor. The current folder becomes
    a scratch folder that goes away with the kernel, however that ends: a lesson leaves no file.
    """
    import torch

    torch.set_num_threads(1)
    if not _scratch:
        logbook.keep_in(project_of_kernel())
        shell = _shell()
        if shell is not None:
            shell.events.register("post_run_cell", _explain_missing_answer)
    if not _scratch or not _scratch[-1].is_dir():  # somebody who tidies up may have removed it
        _scratch.append(_make_scratch())
    os.chdir(_scratch[-1])


def _make_scratch() -> Path:
    folder = tempfile.mkdtemp(prefix="koemorph-lesson-")
    # The shell holds the other end of a pipe that nobody writes to: when this process ends, even by SIGKILL, it reads
    # the end of it and removes the folder.
    try:
        keeper = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; rm -rf -- "$1"', "sh", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:  # no shell: then an end by SIGKILL leaves the folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        _keepers.append(keeper)
    return Path(folder)


def _shell() -> Any:
    """Return the IPython shell that this runs in, None in plain Python."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _explain_missing_answer(result: Any) -> None:
    """Below the NameError of a stub that was deleted say which exercise wanted it."""
    error = result.error_in_exec
    if not isinstance(error, NameError):
        return
    for number in LESSONS:
        for name, asked in lesson(number).questions.items():
            in_cell = re.search(rf"check\(\s*['\"]{name}['\"]", result.info.raw_cell)
            if isinstance(asked, Exercise) and asked.answer == error.name and in_cell:
                print(
                    f"{name} checks `{asked.answer}`, which is not defined: write it anew, or bring the lesson back "
                    f"with `koemorph lab --reset {number}` (your copy is moved aside, not lost)"
                )


class Message:
    """What a question says: a title, paragraphs, and parts that stay folded until they are opened."""

    def __init__(
        self, title: str, *paragraphs: str, passed: bool | None = None, folded: Mapping[str, str] | None = None
    ) -> None:
        self.title, self.paragraphs, self.passed, self.folded = title, paragraphs, passed, folded or {}

    def show(self) -> None:
        """Display it in a notebook, print it elsewhere."""
        if _shell() is None:
            print(repr(self))
        else:
            from IPython.display import display

            display(self)

    def __repr__(self) -> str:
        # What is folded has no place in plain text, where it could not be folded.
        return "\n".join((self.title, *self.paragraphs))

    def _repr_html_(self) -> str:
        # Colours that are told apart on white and on dark; the words say the same.
        colour = {None: "#8c8c8c", True: "#009E73", False: "#D55E00"}[self.passed]
        parts = "<br>".join((f"<b>{_html(self.title)}</b>", *map(_html, self.paragraphs)))
        for name, text in self.folded.items():
            parts += f"<details><summary>{name}</summary>{_html(text)}</details>"
        return f'<div style="border-left: 4px solid {colour}; padding-left: 0.8em; max-width: 60em">{parts}</div>'


def code_block(source: str) -> str:
    """Return source code as a message shows it."""
    return f"```{source.strip()}"


def _html(text: str) -> str:
    """Return text as HTML: what stands between backticks is code, and so is all of a `code_block`."""
    if text.startswith("```"):
        return f"<pre>{html.escape(text[3:])}</pre>"
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


class Picture:
    """A PNG that says in words what it shows: the caption is its plain text, so a changed figure is noticed."""

    def __init__(self, png: bytes, caption: str, width: int | None = None) -> None:
        self.png, self.caption, self.width = png, caption, width

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        metadata = {"image/png": {"width": self.width}} if self.width else {}
        return {"image/png": self.png, "text/plain": self.caption}, metadata


def show(figure: Figure | bytes, caption: str) -> None:
    """Display a figure, or the bytes of a PNG, and print its caption, which is computed from the data.

    In plain Python only the caption is printed.
    """
    if _shell() is not None:
        from IPython.display import display

        if isinstance(figure, bytes):
            display(Picture(figure, caption))
        else:
            from .figures import to_png

            display(Picture(to_png(figure), caption, round(figure.get_figwidth() * 100)))
    print(caption)
