"""`koemorph lab` and `progress`: your copies of the lessons, and what you have answered in them."""

from __future__ import annotations

import argparse

from koemorph_tutorial.commands.arguments import Commands, add_command
from koemorph_tutorial.commands.outcome import DONE, show

_LAB = """\
Copy the lessons that you have no copy of to outputs/my-notebooks, and open JupyterLab in the first one.

A copy that is there is yours and is never written to. It needs the project's folder, where the lessons are.
"""
_PROGRESS = "List the questions of the lessons, and how you answered them so far."


def add(commands: Commands) -> None:
    """Add the two commands."""
    lab = add_command(commands, "lab", _lab, "open your copies of the lessons in JupyterLab", _LAB)
    lab.add_argument("--reset", metavar="NN", help="bring this lesson back as it comes; your copy is moved aside")

    add_command(commands, "progress", _progress, "list what you have answered in the lessons", _PROGRESS)


def _lab(options: argparse.Namespace) -> int:
    from koemorph_tutorial.teaching.copies import launch, reset_copy
    from koemorph_tutorial.teaching.places import project_root

    root = project_root()
    if options.reset is None:
        launch(root)  # does not come back: this process becomes JupyterLab
    else:
        show(reset_copy(root, options.reset))
    return DONE


def _progress(options: argparse.Namespace) -> int:
    from rich.console import Console

    from koemorph_tutorial.teaching.logbook import progress_file, read, to_table
    from koemorph_tutorial.teaching.places import project_root

    Console().print(to_table(read(progress_file(project_root()))))
    return DONE
