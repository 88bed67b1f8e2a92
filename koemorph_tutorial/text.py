"""Text for a terminal: what a stranger's file says made harmless, and lines that fit.

Nothing that is shown moves the cursor, starts a line or fills the screen.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_LABEL = 16


def printable(text: str, limit: int = 200) -> str:
    r"""Return `text` as it can be shown: what is no visible character is escaped, what is too long is cut and counted.

    >>> print(printable("loss\x1b[31m\n"))
    loss\x1b[31m\n
    >>> printable("x" * 50, limit=20)
    'xxxxx… (50 characters)'
    """
    if len(text) <= limit and text.isprintable():
        return text
    length = f"… ({len(text):,} characters)"
    shown = text if len(text) <= limit else text[: max(limit - len(length), 5)]
    # Surrogates, which no terminal can encode, are not printable either.
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return escaped if len(text) <= limit else escaped + length


def width(text: str) -> int:
    """Return how many columns `text` takes on a terminal: 声 takes two, a combining accent none.

    >>> width("koe 声")
    6
    """
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def every(epochs: int) -> str:
    """Return how often, in words.

    >>> every(1), every(5)
    ('every epoch', 'every 5 epochs')
    """
    return "every epoch" if epochs == 1 else f"every {epochs} epochs"


def json_text(value: Any) -> str:
    r"""Return plain containers as JSON that every program reads: a number that is not finite is null.

    >>> json_text([1.5, float("nan")])
    '[\n  1.5,\n  null\n]'
    """

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: finite(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=2, allow_nan=False)


def wrapped(label: str, phrases: Sequence[str], columns: int) -> Iterator[str]:
    """Yield lines of the phrases with commas between them, the label in front; none without a phrase.

    A phrase is broken only if it is longer than a line.
    """
    room = columns - _LABEL
    line, empty = pad(cut(printable(label, 40), _LABEL - 2), _LABEL), True
    for number, phrase in enumerate(phrases):
        ended = phrase + "," * (number + 1 < len(phrases))
        for word in [ended] if width(ended) <= room else ended.split(" "):
            for piece in pieces(word, room):
                if width(line) + (not empty) + width(piece) > columns:
                    yield line
                    line, empty = " " * _LABEL, True
                line, empty = f"{line}{'' if empty else ' '}{piece}", False
    if phrases:
        yield line


def pieces(word: str, room: int) -> Iterator[str]:
    """Yield a word in parts that fit into so many columns each; none of them is empty but that of an empty word."""
    while True:
        count = max(_fitting(word, room), 1)
        yield word[:count]
        word = word[count:]
        if not word:
            return


def cut(text: str, columns: int, mark: str = "…") -> str:
    """Return `text` if it fits into so many columns, else its beginning and the mark."""
    if _fitting(text, columns) == len(text):
        return text
    return text[: _fitting(text, columns - width(mark))] + mark


def _fitting(text: str, columns: int) -> int:
    """Return how many characters of `text` fit into so many columns; at least one of a text without end."""
    used = 0
    for count, character in enumerate(text[: 4 * columns + 16]):  # a column may hold several that take none
        used += width(character)
        if used > columns:
            return count
    return len(text) if len(text) <= 4 * columns + 16 else max(4 * columns, 1)


def pad(text: str, columns: int, *, left: bool = True) -> str:
    """Return `text` with spaces, so that it takes so many columns."""
    space = " " * max(columns - width(text), 0)
    return text + space if left else space + text


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "file"), count(1200, "file")
    ('1 file', '1,200 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(what: str, names: Iterable[str], most: int = 5) -> str:
    """Return how many there are of what, and the first of them; "" where there are none.

    >>> listed("missing", ["a", "b"]), listed("missing", [])
    ('2 missing: a, b', '')
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}: {', '.join(printable(name) for name in names[:most])}{more}" if names else ""


def size(number: float) -> str:
    """Return a number of bytes in three digits.

    >>> size(622024), size(12)
    ('622 kB', '12 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.0f} TB"
