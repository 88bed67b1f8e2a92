"""Forks from large pages, of which one takes a third of the time and less.

A fork copies the table of all pages, and each page has its entry there: 512 of them for what one large page holds.
Memory is born in small pages, and where a process writes while a child of its lives, the kernel cuts a large one up.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from contextlib import suppress
from pathlib import Path

LARGE = 1 << 21  # bytes
COLLAPSE = 25  # MADV_COLLAPSE, since Linux 6.1 (madvise(2)): an older kernel refuses it, and all is as it was

_forking = 0.0  # seconds, since pages were last put together
_price = 0.2  # seconds that it takes to put them together; at first a guess


def fork() -> int:
    """Fork as `os.fork` does; put pages together first once that is worth it: forks have taken as long meanwhile."""
    global _forking
    if _forking > _price:
        put_together()
    began = time.monotonic()
    child = os.fork()
    _forking += time.monotonic() - began
    return child


def put_together() -> None:
    """Put the small pages of this process together, where 512 lie side by side."""
    global _forking, _price
    began = time.monotonic()
    with suppress(OSError, AttributeError):  # no /proc, no madvise: all stays as it is
        advise = ctypes.CDLL(None).madvise
        for line in Path("/proc/self/maps").read_text().splitlines():
            mapping = re.fullmatch(r"(\w+)-(\w+) rw-p \S+ \S+ 0 *(\[heap\])?", line)
            if mapping:
                first, end = -(-int(mapping[1], 16) // LARGE) * LARGE, int(mapping[2], 16) // LARGE * LARGE
                if first < end:
                    advise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), COLLAPSE)
    _forking, _price = 0.0, max(0.1, time.monotonic() - began)
