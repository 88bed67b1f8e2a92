"""The cell of an exercise: a form with one blank, which the stub fills, each wrong answer and the solution."""

from __future__ import annotations

from collections.abc import Callable


def form(cell: str) -> Callable[..., str]:
    r"""Return what fills the blank of a cell, ``{lines}``, with lines; each is indented as the first one.

    >>> double = form("def double(number):\n    {lines}\n")
    >>> print(double("twice = 2 * number", "return twice"), end="")
    def double(number):
        twice = 2 * number
        return twice
    """
    before = cell.partition("{lines}")[0].rpartition("\n")[2]
    indent = before[: len(before) - len(before.lstrip())]
    return lambda *lines: cell.replace("{lines}", f"\n{indent}".join(lines))
