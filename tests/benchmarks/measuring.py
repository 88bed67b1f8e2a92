"""Times of two or more ways to do one thing, taken in turns; a row of the table."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. Without a bound it only informs."""

    name: str
    measured: float
    reference: float
    bound: float | None = None
    unit: str = "s"

    @property
    def ratio(self) -> float:
        return self.measured / self.reference

    @property
    def holds(self) -> bool:
        return self.bound is None or self.ratio <= self.bound

    def __str__(self) -> str:
        numbers = f"{self.measured:8.3f} {self.unit:2} {self.reference:8.3f} {self.unit:2} {self.ratio:7.3f}"
        if self.bound is None:
            return f"{self.name:56} {numbers}"
        return f"{self.name:56} {numbers} {self.bound:7.3f}  {'holds' if self.holds else 'BROKEN'}"


def medians(ours: Callable[[], object], reference: Callable[[], object], *, rounds: int = 7) -> tuple[float, float]:
    """Time both in turns, so that a busy machine slows both; a first round, which fills the caches, does not count."""
    times = in_turns({"ours": lambda _: ours(), "reference": lambda _: reference()}, rounds=rounds)
    return times["ours"], times["reference"]


def in_turns(
    calls: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    before: Callable[[str, int], object] = lambda name, turn: None,
) -> dict[str, float]:
    """Return the median seconds of each call; each gets the number of its turn. `before` a call is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            before(name, turn)
            begin = time.perf_counter()
            call(turn)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times[warm_up:]) for name, times in seconds.items()}


def process(*command: str | Path) -> Callable[[], object]:
    """Return a call that runs a command to its end, quietly; one that fails ends the measurement."""
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
