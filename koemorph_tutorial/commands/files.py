"""`koemorph inspect`, `diff` and `validate`: what is in a file, what differs between two, and are they sound."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from koemorph_tutorial.commands.arguments import Commands, add_command, add_json
from koemorph_tutorial.commands.outcome import DONE, NO, UNUSABLE, show, unusable
from koemorph_tutorial.records import CheckpointError

_INSPECT = """\
Say what is in a checkpoint file, ours or any that torch.save wrote: where the run was and goes on, its metrics, its
config, and its tensors as a tree that adds up to the size of the file. Of a run's folder: its checkpoints as a table.

Only the headers are read, without torch, and nothing in a file can run.
"""
_DIFF = """\
Say in one sentence what differs between two checkpoint files, of whatever program, and then in detail, what matters
first: the model, where the runs are, metrics, weights, optimizer, config, random states. Tensors are compared bit by
bit, by their names; a .pth can be compared with the .safetensors made of its weights.

It reads both files once, without torch, and nothing in a file can run. Exit code 0: identical; 1: something differs.
"""
_VALIDATE = """\
Say of each file whether it is sound: every byte as it was written, every tensor in its place, every weight a number;
damaged: where, what was expected, what was found; incomplete: whole, but something that it takes is missing or is no
number; or that it cannot be told, and why. Any file of torch.save will do, TorchScript and safetensors as well; of a
folder, every checkpoint in it. Nothing in a file can run.
"""


def add(commands: Commands) -> None:
    """Add the three commands."""
    inspect = add_command(commands, "inspect", _inspect, "say what is in a file or a run", _INSPECT)
    inspect.add_argument("path", metavar="PATH|DIR", type=Path, help="a checkpoint file, or a run's folder")
    add_json(inspect, "every tensor; long texts are cut")

    diff = add_command(commands, "diff", _diff, "say what differs between two files", _DIFF)
    diff.add_argument("a", metavar="A", type=Path, help="a checkpoint file")
    diff.add_argument("b", metavar="B", type=Path, help="another one")
    add_json(diff, "everything that differs")

    validate = add_command(commands, "validate", _validate, "say whether files are sound", _VALIDATE)
    validate.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a checkpoint file, or a run's folder")
    add_json(validate, "every finding of every file")


def _inspect(options: argparse.Namespace) -> int:
    from koemorph_tutorial.inspection.folder import inspect_directory
    from koemorph_tutorial.inspection.summary import inspect_checkpoint
    from koemorph_tutorial.inspection.views import directory_lines, file_lines

    if os.path.isdir(options.path):
        run = inspect_directory(options.path)
        show([run.to_json()] if options.json else directory_lines(run, _columns()))
    else:
        file = inspect_checkpoint(options.path)
        show([file.to_json()] if options.json else file_lines(file, _columns()))
    return DONE


def _diff(options: argparse.Namespace) -> int:
    from koemorph_tutorial.difference.compare import diff_checkpoints
    from koemorph_tutorial.difference.views import difference_lines

    difference = diff_checkpoints(options.a, options.b)
    show([difference.to_json()] if options.json else difference_lines(difference, _columns()))
    return DONE if difference.identical else NO


def _validate(options: argparse.Namespace) -> int:
    from koemorph_tutorial.validation import checkpoints_in, validate_checkpoint

    reports, refused = [], []
    for path in (found for given in options.paths for found in checkpoints_in(given)):
        try:
            reports.append(validate_checkpoint(path))
        except CheckpointError as error:
            refused.append(str(error))
        else:
            if not options.json:
                show(reports[-1].lines())
    if options.json:
        show(["[" + ",\n".join(report.to_json() for report in reports) + "]"])
    for message in refused:
        unusable(message)
    return UNUSABLE if refused else DONE if all(reports) else NO


def _columns() -> int:
    return max(shutil.get_terminal_size().columns, 60)
