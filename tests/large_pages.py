"""The memory of this process in large pages, which a fork copies in a third of the time and less.

`make test` asks the C library for them. But where a process writes while a child of its lives, the kernel cuts the page
in 512 small ones, and so it stays: after some hundred forks they take as long as if nobody had asked.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from pathlib import Path

LARGE = 1 << 21  # bytes
COLLAPSE = 25  # MADV_COLLAPSE, since Linux 6.1: an older kernel refuses it, and all is as it was
EVERY = 5.0  # seconds

_asked = sys.platform == "linux" and "hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
_last = 0.0


def put_together() -> None:
    """Put what was cut together again, unless that was done a moment ago or nobody has asked for large pages."""
    global _last
    if not _asked or time.monotonic() - _last < EVERY:
        return
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        mapping = re.fullmatch(r"(\w+)-(\w+) rw-p \S+ \S+ \d+ *(\[heap\])?", line)
        if mapping:
            first, end = int(mapping[1], 16), int(mapping[2], 16)
            for page in range(-(-first // LARGE) * LARGE, end // LARGE * LARGE, LARGE):
                advise(ctypes.c_void_p(page), ctypes.c_size_t(LARGE), COLLAPSE)
    _last = time.monotonic()
