"""Build the lessons: execute their ``.py`` halves from top to bottom and write what they show as ``.ipynb``.

``make notebooks``, or ``python -m koemorph_tutorial.teaching.notebooks 01 03`` for some of them. The same source gives
the same bytes, figures drawn by another matplotlib apart: positions for ids, and no times, versions or widget states.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from koemorph_tutorial.durable import refusals_named, write_file
from koemorph_tutorial.records import CheckpointError

from .places import NOTEBOOKS, PROJECT_VARIABLE, LabError, choose, lessons_in, project_root

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TIMEOUT = 120  # seconds; `make test` gives a cell as many

_METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},  # here and not in a settings file: the working copies are no pairs
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {  # as the kernel says it, without the version of Python
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# What would change how a cell shows things, and is the business of whoever builds.
_NOT_FOR_LESSONS = (
    *("COLUMNS", "FORCE_COLOR", "JUPYTER_COLUMNS", "MPLBACKEND", "NO_COLOR", "PYTHONWARNINGS"),
    PROJECT_VARIABLE,
)


def build(source: Path) -> Path:
    """Execute the lesson `source`, a ``.py``, and put the ``.ipynb`` beside it in place; nothing changes if it fails.

    Raises:
        LabError: a cell failed; CheckpointWriteError: the disk refused.
    """
    import jupytext

    notebook = jupytext.reads(source.read_text("utf-8"), fmt="py:percent")
    execute(notebook, source)
    settle(notebook, source.stem[:2])
    target = source.with_suffix(".ipynb")
    put(notebook, target)
    return target


def put(notebook: NotebookNode, target: Path) -> None:
    """Write a notebook in place, at once and whole.

    Raises:
        CheckpointWriteError: the disk refused.
    """
    import nbformat

    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    with refusals_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, lambda file: file.write(text.encode()))


def execute(notebook: NotebookNode, source: Path, *, folder: Path | None = None) -> None:
    """Run all cells in a fresh kernel of this Python, whatever kernels are registered on this machine.

    It starts in `folder`, whose project's progress it shows; without one in that of the lesson `source`, with none.

    Raises:
        LabError: a cell failed; it is named.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    quiet = ["--log-level=CRITICAL"]  # the kernel would speak to the terminal about its sockets
    client = NotebookClient(notebook, km=kernel, timeout=CELL_TIMEOUT, record_timing=False, extra_arguments=quiet)
    # What somebody's IPython does at its start is no part of a lesson.
    with tempfile.TemporaryDirectory() as no_profile:
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_LESSONS}
        environment["IPYTHONDIR"] = no_profile
        if folder is None:  # what whoever builds has answered is no part of it either
            environment[PROJECT_VARIABLE] = no_profile
        with client.setup_kernel(cleanup_kc=True, cwd=str(folder or source.parent), env=environment):
            for index, cell in enumerate(notebook.cells):
                try:
                    client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
                except CellExecutionError as error:
                    raise _failed(source, index, cell, f"{error.ename}: {error.evalue}") from error
                except CellTimeoutError as error:
                    raise _failed(source, index, cell, f"it ran for more than {CELL_TIMEOUT} s") from error
                except DeadKernelError as error:
                    raise _failed(source, index, cell, "it ended the kernel") from error


def _failed(source: Path, index: int, cell: NotebookNode, reason: str) -> LabError:
    code = "\n".join(f"    {line}" for line in cell.source.splitlines())
    return LabError(f"{source}: cell {_cell_id(source.stem[:2], index)} failed: {reason}\n{code}")


def _cell_id(number: str, index: int) -> str:
    return f"{number}-{index + 1:02d}"


def settle(notebook: NotebookNode, number: str) -> None:
    """Take out of an executed notebook what another execution would write otherwise."""
    from nbformat import from_dict

    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = from_dict(_METADATA)
    for index, cell in enumerate(notebook.cells):
        cell.id = _cell_id(number, index)
        if cell.cell_type == "code":
            cell.outputs = list(_settled(cell.outputs))


def _settled(outputs: list[NotebookNode]) -> Iterator[NotebookNode]:
    streams: dict[str, NotebookNode] = {}  # in how many pieces they arrive, and which comes first, is chance
    for output in outputs:
        if output.output_type == "stream":
            if output.name in streams:
                streams[output.name].text += output.text
            else:
                streams[output.name] = output
            continue
        yield from _in_order(streams)
        if output.output_type == "error":
            output.traceback = [f"{output.ename}: {output.evalue}"]  # the rest names folders of this machine
        else:
            output.data.pop(_WIDGET_VIEW, None)  # it points at a widget of a kernel that has ended
        yield output
    yield from _in_order(streams)


def _in_order(streams: dict[str, NotebookNode]) -> Iterator[NotebookNode]:
    for name in ("stdout", "stderr"):
        if name in streams:
            yield streams.pop(name)


def main(numbers: Sequence[str] | None = None) -> int:
    """Build the lessons of these numbers; if none is given, all, and their images. Returns the exit code."""
    try:
        folder = project_root() / NOTEBOOKS
        lessons = lessons_in(folder, ".py")
        asked = [choose(lessons, number) for number in numbers or ()]
        if not asked:
            from .door import draw_images

            draw_images(folder / "images")
    except CheckpointError as error:
        return _complain(error, 2)
    except ModuleNotFoundError as error:
        return _complain(f"{error.name} is not installed: pip install 'koemorph-tutorial[lab]'", 2)
    return build_all(asked or lessons)


def build_all(lessons: Sequence[Path]) -> int:
    """Build each lesson and say so; one that fails is reported and does not keep the others from being built."""
    code = 0
    for lesson in lessons:
        started = time.monotonic()
        try:
            built = build(lesson)
        except CheckpointError as error:
            code = _complain(error, 1)
        except ModuleNotFoundError as error:
            return _complain(f"{error.name} is not installed: pip install 'koemorph-tutorial[lab]'", 2)
        except KeyboardInterrupt:
            return _complain(f"interrupted; {lesson.with_suffix('.ipynb')} is as it was", 130)
        else:
            print(f"{built}: {built.stat().st_size / 1000:.0f} kB, {time.monotonic() - started:.1f} s", flush=True)
    return code


def _complain(what: object, code: int) -> int:
    print(f"make notebooks: {what}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
