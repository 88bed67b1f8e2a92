"""How a command ends: its exit code, one line for what is wrong, and text that any output takes."""

from __future__ import annotations

import sys
from collections.abc import Iterable

DONE, NO, UNUSABLE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130


def unusable(message: str) -> int:
    """Say in one line on stderr what cannot be used, and return the exit code for that."""
    from koemorph_tutorial.text import printable

    print(f"koemorph: {printable(' '.join(message.split()), 2000)}", file=sys.stderr)
    return UNUSABLE


def interrupted() -> int:
    """Say that somebody has ended the command before it was done, and return the exit code for that."""
    print("\nkoemorph: interrupted", file=sys.stderr)
    return INTERRUPTED


def show(lines: Iterable[str]) -> None:
    """Print lines as the output can take them: what it cannot show is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding), flush=True)
