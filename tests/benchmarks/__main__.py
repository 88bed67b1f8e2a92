"""Measure what is promised about speed: ``make bench``.

Absolute times belong to one machine; ratios travel. So each row times our way and another one, in turns, in the same
run, and compares the ratio of the two medians with its bound. A new row is a function in ``ROWS``.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; times in seconds."""

    name: str
    ours: float
    reference: float
    bound: float

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    @property
    def holds(self) -> bool:
        return self.ratio <= self.bound


def medians(ours: Callable[[], object], reference: Callable[[], object], *, rounds: int = 7) -> tuple[float, float]:
    """Time both in turns, so that a busy machine slows both; a first round, which fills the caches, does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for call, times in zip((ours, reference), seconds, strict=True):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


def process(*command: str | Path) -> Callable[[], object]:
    """Return a call that runs a command to its end, quietly; one that fails ends the measurement."""
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def help_is_there_at_once() -> Row:
    ours, reference = medians(process(BIN / "koemorph", "--help"), process(sys.executable, "-c", "import torch"))
    return Row(name="koemorph --help / import torch", ours=ours, reference=reference, bound=0.15)


ROWS: list[Callable[[], Row]] = [
    help_is_there_at_once,
]


def main() -> int:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores, {platform.system()}")
    print(f"\n{'':40} {'ours':>10} {'reference':>10} {'ratio':>7} {'bound':>7}")
    failed = 0
    for measure in ROWS:
        row = measure()
        failed += not row.holds
        print(
            f"{row.name:40} {row.ours:8.3f} s {row.reference:8.3f} s {row.ratio:7.3f} {row.bound:7.3f}"
            f"  {'holds' if row.holds else 'BROKEN'}",
            flush=True,
        )
    print(f"\n{len(ROWS) - failed} of {len(ROWS)} bounds hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
