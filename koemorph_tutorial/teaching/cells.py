"""The cell of an exercise: a form with one blank, which the stub fills, each wrong answer and the solution.

Where wrong answers differ from the solution by a word or a line they are made of it.
"""

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


def changed(cell: str, *changes: tuple[str, str]) -> str:
    """Return a cell in which something stands for something else, each pair in its turn.

    Raises:
        ValueError: what is to be replaced is not in it, or not once.

    >>> changed("return 2 * number", ("2 *", "3 *"))
    'return 3 * number'
    """
    for old, new in changes:
        if cell.count(old) != 1:
            raise ValueError(f"expected {old!r} once in the cell, found {cell.count(old)}")
        cell = cell.replace(old, new)
    return cell
