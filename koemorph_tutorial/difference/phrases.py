"""Changes in the words of people: a relative one, from what to what, a few names of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from koemorph_tutorial.inspection.values import value_text
from koemorph_tutorial.text import printable

_NAMED = 3  # things named before the rest is counted


def listed(names: Sequence[str]) -> str:
    """Return the first of different names, and how many more there are.

    >>> listed(["a", "b", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    different = list(dict.fromkeys(names))
    few = different if len(different) <= _NAMED + 1 else different[:_NAMED]
    more = f" and {len(different) - len(few):,} more" if len(few) < len(different) else ""
    return printable(", ".join(few), 400) + more


def percent(part: float) -> str:
    """Return a relative change as people say it.

    >>> percent(0.0081), percent(0.5), percent(3.2), percent(80.0), percent(float("inf"))
    ('0.81 %', '50 %', '320 %', '80 times', 'from zero')
    """
    if math.isinf(part):
        return "from zero"
    if part >= 10:
        return f"{part:,.0f} times" if part < 1e6 else f"{part:.2g} times"
    return f"{100 * part:.0f} %" if part >= 0.1 else f"{100 * part:.2g} %"


def arrow(a: Any, b: Any) -> str:
    """Return two values with an arrow between them: as few digits as tell them apart, three at least.

    >>> arrow(0.021412, 0.019301), arrow(0.5, 0.50000001), arrow(None, [1, 2])
    ('0.0214 -> 0.0193', '0.5 -> 0.50000001', 'none -> [1, 2]')
    """
    if isinstance(a, float) and isinstance(b, float) and a != b:
        for digits in (3, 4, 6, 8, 10, 17):
            texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
            if texts[0] != texts[1]:
                break
        return " -> ".join(texts)
    return f"{value_text(a)} -> {value_text(b)}"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(90.0), duration(7200.0)
    ('90 s', '2 hours')
    """
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
