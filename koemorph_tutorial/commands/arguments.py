"""What several commands take: numbers and words that are refused in one line, and the parsers of the commands."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
LAYOUT = argparse.RawDescriptionHelpFormatter  # texts are laid out where they are written


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
    description: str,
    examples: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command that `run` carries out, and return its parser."""
    parser = commands.add_parser(name, help=what, description=description, epilog=examples, formatter_class=LAYOUT)
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse.ArgumentParser, what: str = "") -> None:
    """Add `--json` to a command; `what` says what is in it."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs" + (f": {what}" if what else ""))


def whole(least: int, what: str = "a whole number") -> Callable[[str], int]:
    """Return the type of a whole number from `least`, plain decimal.

    >>> whole(2)("10")
    10
    """

    def read(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= least:
            return int(text)
        raise argparse.ArgumentTypeError(f"expected {what} from {least}, found {text!r}")

    return read


def above_zero(most: float, what: str) -> Callable[[str], float]:
    """Return the type of a number above 0, up to `most`.

    >>> above_zero(1e7, "a time above 0, in seconds")("2.5")
    2.5
    """

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 < float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"expected {what}, found {text!r}")

    return read


def one_of(*words: str) -> Callable[[str], Any]:
    """Return the type of one word out of some.

    >>> one_of("gzip", "zstd")("zstd")
    'zstd'
    """

    def read(text: str) -> str:
        if text in words:
            return text
        raise argparse.ArgumentTypeError(f"expected {', '.join(words[:-1])} or {words[-1]}, found {text!r}")

    return read
