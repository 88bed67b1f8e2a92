"""A run whose machine is taken away again and again: what saving costs, and what a kill costs.

Hours are counted here, nothing is trained: a day is 24 hours of work on machines that are preempted at any moment
alike. Another one is there at once, and goes on from the newest save. Times are in minutes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from koemorph_tutorial.save_policy import advise, expected_overhead

from .crashes import killed as killed
from .figures import BLACK, BLUE, GREEN, PURPLE, VERMILLION, style

WORK, SAVE, BETWEEN = 24 * 60, 2, 4 * 60  # a day's work, a save, and from one preemption to the next on average
COPY = SAVE / 10  # how long a save in the background holds the training up
DAYS = 100  # that a score is made of
INTERVALS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 90, 120, 180, 240)

FORMULA = round(advise(SAVE * 60, BETWEEN * 60).interval_seconds / 60)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one machine did: from `start` to `end` on the clock, with that many `saves` from which one can go on."""

    start: float
    end: float
    saves: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """A day's work, done by one machine after another, with a save after every `interval` minutes of work."""

    interval: int
    hold_up: float  # by a save
    machines: tuple[Machine, ...]

    @property
    def total(self) -> float:
        """How long it took on the clock."""
        return self.machines[-1].end

    @property
    def lost(self) -> float:
        """How much of that was work that had to be done again, unfinished saves included."""
        return sum(machine.end - machine.start - machine.saves * self._cycle for machine in self.machines[:-1])

    @property
    def _cycle(self) -> float:
        return self.interval + self.hold_up

    def spans(self) -> Iterator[tuple[str, float, float]]:
        """Yield what was done, "work", "save" or "lost", and from when to when on the clock."""
        for machine in self.machines:
            at = machine.start
            for _ in range(machine.saves):
                yield "work", at, at + self.interval
                yield "save", at + self.interval, at + self._cycle
                at += self._cycle
            if machine is self.machines[-1]:  # less than an interval is left, and a last save
                yield "work", at, machine.end - self._last_save
                yield "save", machine.end - self._last_save, machine.end
            else:
                yield "lost", at, machine.end

    @property
    def _last_save(self) -> float:
        return self.hold_up if self.hold_up == SAVE else self.hold_up + SAVE  # the end waits for the background


@cache
def work(interval: int, day: int, *, background: bool = False) -> Run:
    """Do a day's work; the same `day` takes the machines away at the same times, whatever the interval is.

    In the background a save holds the training up for a tenth of its time, and counts only once it is written.

    >>> run = work(30, day=0)
    >>> round(run.total / 60, 1), len(run.machines) - 1
    (27.3, 6)
    """
    chance = random.Random(day)
    hold_up, written_later = (COPY, SAVE) if background else (SAVE, 0)
    machines, now, left = [], 0.0, float(WORK)
    while True:
        up = chance.expovariate(1 / BETWEEN)
        saves = math.ceil(left / interval)
        to_the_end = left + saves * hold_up + written_later
        if up >= to_the_end:
            machines.append(Machine(start=now, end=now + to_the_end, saves=saves - 1))
            return Run(interval=interval, hold_up=hold_up, machines=tuple(machines))
        saves = max(math.floor((up - written_later) / (interval + hold_up)), 0)
        machines.append(Machine(start=now, end=now + up, saves=saves))
        now, left = now + up, left - saves * interval


def cost_curve() -> tuple[Figure, str]:
    """Draw what saving costs against the interval: saves, work done twice, their sum, and simulated days beside it."""
    minutes = np.geomspace(2, 300, 200)
    saves = 100 * SAVE / minutes
    sums = np.array([_longer(interval) for interval in minutes])
    best = _longer(FORMULA)
    as_good = [interval for interval in range(2, 300) if _longer(interval) < best + 1]
    with style(), rc_context({"hatch.linewidth": 0.6}):
        figure = Figure(figsize=(9, 4.4))
        ax = figure.subplots()
        twice: dict[str, Any] = {"facecolor": f"{VERMILLION}30", "edgecolor": f"{VERMILLION}b0", "hatch": "//"}
        ax.fill_between(minutes, saves, facecolor=f"{BLACK}22", edgecolor=f"{BLACK}70", hatch="||", linewidth=0)
        ax.fill_between(minutes, saves, sums, linewidth=0, **twice)
        ax.plot(minutes, saves, color=BLACK, linewidth=1.2, linestyle="--")
        ax.plot(minutes, sums, color=BLACK, linewidth=3)
        for interval in (3, *INTERVALS):
            days = [100 * (work(interval, day).total / WORK - 1) for day in range(DAYS)]
            low, high = np.quantile(days, (0.1, 0.9))
            ax.plot([interval, interval], [low, high], color=GREEN, linewidth=2.5, solid_capstyle="butt")
            ax.plot([interval], [np.mean(days)], "o", color=GREEN, markersize=8, markeredgecolor="white")
        ax.plot([as_good[0], as_good[-1]], [best + 11, best + 11], color=BLUE, linewidth=2.5, marker="|", markersize=12)
        ax.plot([FORMULA], [best], "*", color=PURPLE, markersize=21, markeredgecolor="white", zorder=5)
        said: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold"}
        ax.text(FORMULA, best + 20, f"every {FORMULA} minutes: {best:.0f} %", color=PURPLE, fontsize=13, **said)
        as_good_said = f"{as_good[0]} to {as_good[-1]}: at most 1 % more"
        ax.text(FORMULA, best + 15, as_good_said, color=BLUE, **said)
        ax.text(4.9, 12, "saving", fontsize=13, bbox=_PATCH, **said)
        ax.text(150, 7, "work done twice", color=VERMILLION, fontsize=13, bbox=_PATCH, **said)
        ax.text(3.5, 70, "the two together", fontsize=13, ha="left", fontweight="bold")
        ax.text(72, 62, f"{DAYS} simulated days:\ntheir mean, and\n8 of 10 days", color=GREEN, **said)
        ax.set(xscale="log", xlim=(2.6, 290), ylim=(0, 77), xlabel="minutes of work between two saves")
        ax.set(title="The run takes longer by, %", yticks=range(0, 80, 10))
        ticks = [3, 5, 10, 20, 30, 60, 120, 240]
        ax.set_xticks(ticks, [f"{tick}" if tick < 60 else f"{tick}\n{tick // 60} h" for tick in ticks])
        ax.minorticks_off()
        ax.grid(axis="x", visible=False)
    return figure, (
        f"A save takes {SAVE} minutes, and a machine lasts {BETWEEN // 60} hours on average.\nThe run takes longer by "
        f"{_longer(3):.0f} % with a save every 3 minutes, by {_longer(240):.0f} % with one every 4 hours.\nLeast: "
        f"{best:.0f} %, every {FORMULA} minutes; from {as_good[0]} to {as_good[-1]} minutes hardly more."
    )


_PATCH = {"facecolor": "white", "edgecolor": "none", "boxstyle": "round,pad=0.25"}


def _longer(interval: float) -> float:
    """Return by how much longer a run takes on average, in %."""
    return 100 * expected_overhead(60 * interval, 60 * SAVE, 60 * BETWEEN)
