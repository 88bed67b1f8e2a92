"""The command line: `koemorph`, or ``python -m koemorph_tutorial``. A command imports only the rooms that it uses."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .commands import advice, disks, example, files, lessons, sharding, shipping, trials
from .commands.arguments import LAYOUT
from .commands.outcome import DONE, UNUSABLE, interrupted, unusable
from .records import CheckpointError

_DESCRIPTION = """\
Train the KoeMorph example, stop it whenever you like, and bring it back.

The example learns to move a face (52 ARKit blendshapes) from synthetic speech, in a few seconds. Every run has a folder
of its own with its config and its checkpoints; the same library saves and resumes any PyTorch training loop.
"""
_EXIT_CODES = """\
exit codes: 0 done; 1 a test found something; 2 a setting, a file or a folder cannot be used, and one line says why;
3 stopped after saving; 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each names the function that runs it."""
    parser = _Parser(prog="koemorph", description=_DESCRIPTION, epilog=_EXIT_CODES, formatter_class=LAYOUT)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for rooms in (example, files, disks, advice, shipping, sharding, trials, lessons):
        rooms.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = make_parser().parse_args(arguments)
    logging.getLogger(__package__).addHandler(logging.NullHandler())  # what the library logs is printed here anyway
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        code = run(options)
        if sys.stdout is not None:  # None where it was closed
            sys.stdout.flush()
        return code
    except CheckpointError as error:
        return unusable(str(error))
    except KeyboardInterrupt:  # before anything has begun that could be saved
        return interrupted()
    except BrokenPipeError:  # the reader of our output has left: `koemorph train | head`
        sys.stderr.close()
        return DONE
    except OSError as error:  # of our output, or of a folder on the way to a file
        where = f"{error.filename}: " if error.filename else ""
        _close_refusing_output()
        return unusable(f"{where}{error.strerror or error}")


def _close_refusing_output() -> None:
    """Close an output that takes nothing, or Python would try it once more at its end, and complain."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: there is no output
        try:
            sys.stdout.flush()
        except OSError:
            sys.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
