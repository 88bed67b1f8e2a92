"""`koemorph consolidate`: a folder that many ranks have written, as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from koemorph_tutorial.commands.arguments import Commands, add_command
from koemorph_tutorial.commands.outcome import DONE, show

_CONSOLIDATE = """\
Write a sharded checkpoint, the folder that save_sharded has made on any number of ranks, as one .pth of the library's
own format. Every byte of the folder is checked first, and it stays as it is.

One process is enough, without torchrun, where all of the state finds room in memory. Then inspect, validate, evaluate,
load_for_inference and load_weights take the file.
"""
_EXAMPLES = """\
examples:
  koemorph consolidate outputs/run/step_1000 -o step_1000.pth
"""


def add(commands: Commands) -> None:
    """Add the command."""
    consolidate = add_command(
        commands, "consolidate", _consolidate, "write a sharded folder as one file", _CONSOLIDATE, _EXAMPLES
    )
    consolidate.add_argument("folder", metavar="DIR", type=Path, help="a sharded checkpoint")
    consolidate.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="the .pth to write")


def _consolidate(options: argparse.Namespace) -> int:
    from koemorph_tutorial.folders import read_manifest
    from koemorph_tutorial.text import count, printable, size

    manifest = read_manifest(options.folder)  # says what is wrong with it before torch is loaded

    from koemorph_tutorial.sharded import consolidate
    from koemorph_tutorial.storage import describe

    written = describe(consolidate(options.folder, options.output))
    what = f"{size(written.size)}, {', '.join(manifest.objects)} of {count(manifest.ranks, 'rank')}"
    show([printable(f"{written.path}: {what}, from {options.folder}", 2000)])
    return DONE
