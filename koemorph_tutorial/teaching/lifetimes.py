"""Which files of a run are on the disk, from their birth to their removal: as bars, and a widget that turns the knobs.

The run is that of `history`, which no disk has seen; `recipe` has one of real files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ipywidgets import Checkbox, GridBox, IntSlider, Layout, SelectionSlider  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from koemorph_tutorial.retention import Plan

from .figures import BLACK, BLUE, GREEN, PURPLE, VERMILLION, placed, style, to_png
from .history import LOSSES, MILESTONES, SAVE_FREQ, History, Life, enumerated, live, lives_of
from .recipe import copy, epochs, recipe_run
from .views import View

__all__ = ["WhatStays", "copy", "epochs", "recipe_run", "timeline", "two_clocks"]

BEFORE_THE_SPELL, FEW = range(13, 18), 7  # the lesson's task: an epoch of these, in so many files

# Why a file stays: a word of the reason that a plan gives -> how it looks. The first that fits colours the bar.
_LOOKS: Mapping[str, tuple[str, str]] = {
    "best": (GREEN, "*"),
    "milestone": (PURPLE, "D"),
    "every": (BLUE, "s"),
    "newest": (BLACK, "o"),
}
_REMOVED = (VERMILLION, "X")


def timeline(shown: History | Plan, *, epochs: int | None = None, titled: str = "") -> tuple[Figure, str]:
    """Draw the numbered files of a run as bars from birth to removal, one row each: figure and caption.

    Of a history the loss stands above them, and below how many files lie on the disk; of a plan all that goes goes now.
    `epochs` leaves room for as many; `titled` stands on top, its first line in bold.
    """
    if isinstance(shown, Plan):
        return _one_plan(shown, titled)
    end = (epochs or len(shown.losses)) - 1
    rows = 1 + max(len(shown.lives), sum(epoch % SAVE_FREQ == 0 or epoch == end for epoch in range(end + 1)))
    title = 0.25 * len(titled.splitlines()) + 0.07
    loss, bars, copies = 0.85, 0.26 * rows, 0.9  # inches
    height = title + loss + bars + copies + 0.8
    with style():
        figure = placed(9, height)
        heading, _, text = titled.partition("\n")
        figure.text(0.01, 1 - 0.06 / height, heading, va="top", fontweight="bold", fontsize=12)
        figure.text(0.01, 1 - 0.36 / height, text, va="top", linespacing=1.35)
        places = ((0.7 + copies + bars, loss), (0.6 + copies, bars), (0.5, copies))
        above, middle, below = (figure.add_axes((0.075, y / height, 0.92, tall / height)) for y, tall in places)
        for ax in (above, middle, below):
            ax.set(xlim=(-2, 1.66 * end), xticks=range(0, end + 1, 10))
            ax.spines["bottom"].set_bounds(-2, end + 1)
            ax.grid(visible=False)
        _loss(above, shown)
        for row, life in enumerate(shown.lives):
            _bar(middle, row, life, born=life.born, now=shown.epoch + 1, gap=1.4)
        _best(middle, rows - 1, shown)
        _bare(middle, rows)
        _copies(below, shown)
    return figure, str(shown)


def _one_plan(plan: Plan, titled: str) -> tuple[Figure, str]:
    now = max((item.file.epoch for item in plan.files), default=0) + 1
    lives = sorted(lives_of(plan, died=now), key=lambda life: life.born)
    with style():
        figure = Figure(figsize=(9, 0.26 * len(lives) + 0.95))
        ax = figure.subplots()
        for row, life in enumerate(lives):
            _bar(ax, row, life, born=life.born, now=now, gap=now / 40)
        ax.set(xlabel="epoch", xlim=(-now / 12, 1.6 * now), title=titled)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= now])
        ax.grid(visible=False)
        _bare(ax, len(lives))
        ax.tick_params(axis="x", labelbottom=True)
    stays = [str(life.born) for life in lives if life.died is None]
    return figure, f"Of {len(lives)} numbered files {len(stays)} stay: {enumerated(stays) or 'none'}."


def two_clocks(by_clock: Sequence[int], left: Sequence[int], *, losses: Sequence[float]) -> tuple[Figure, str]:
    """Draw the files of a copied run twice, by what they say and by their times: figure and caption.

    `by_clock` are their epochs in the order of their times, the oldest first; `left` are those that a cleanup by
    the clock left.
    """
    number, keep = len(by_clock), len(left)
    by_content = sorted(by_clock)
    newest, best = by_content[-keep:], min(by_content, key=lambda epoch: losses[epoch])
    panels = (
        ("by what the files say", "saved after epoch", by_content, {*newest, best}, 0),
        ("by the clock of the copy", "copied as number", list(by_clock), {*left}, 1),
    )
    with style():
        figure = Figure(figsize=(9, 0.27 * number + 1.15))
        for ax, (title, label, births, kept, first) in zip(figure.subplots(1, 2), panels, strict=True):
            ax.axvspan(number - keep - 0.25, number + 0.3, color=BLUE, alpha=0.09, linewidth=0)
            ax.text(number - keep / 2, -0.8, f"newest {keep}", ha="center", color=BLUE, fontweight="bold")
            for row, epoch in enumerate(by_content):
                born = births.index(epoch)
                reasons = ("the best",) if epoch == best else ("the newest",)
                life = Life(born=epoch, died=None if epoch in kept else number, reasons=reasons)
                _bar(ax, row, life, born=born, now=number, gap=0.35, says=False)
                if epoch in (*newest, best):  # what it is, whatever becomes of it
                    _plot(ax, born, row, *_LOOKS["best" if epoch == best else "newest"], size=9)
            ax.set(title=title, xlabel=label, xlim=(-1.4, number + 0.3))
            ax.set_xticks(range(number), [str(first + tick) for tick in range(number)])
            _bare(ax, number)
            ax.tick_params(axis="x", labelbottom=True)
    lost = [str(epoch) for epoch in newest if epoch not in left]
    return figure, (
        f"{number} files of one run, and a cleanup that keeps {keep} (solid bars).\nLeft by the epochs in them: "
        f"{enumerated(newest)} are the newest (●), {best} is the best (★).\n"
        f"Right by the times of the copy: {enumerated(by_clock[-keep:])} were copied last and stay. "
        f"Removed of the newest: {enumerated(lost) or 'none'}. The best is {'there' if best in left else 'removed'}."
    )


def _loss(ax: Axes, shown: History) -> None:
    ax.plot(shown.losses, color=BLACK, linewidth=1.2)
    for life in shown.lives:
        _plot(ax, life.born, shown.losses[life.born], *_look(life), size=6)
    best = shown.bests[-1]
    _plot(ax, best, shown.losses[best], *_LOOKS["best"], size=11)
    ax.text(shown.epoch + 2.4, shown.losses[-1], f"best: epoch {best}", va="center", color=GREEN, fontweight="bold")
    ax.set(ylabel="loss", yticks=[], ylim=(0.1, 0.95))
    ax.tick_params(axis="x", labelbottom=False)


def _best(ax: Axes, row: int, shown: History) -> None:
    """Draw what `best_model.pth` has held, one piece an epoch."""
    for born, died in pairwise([*shown.bests, shown.epoch + 1]):
        ax.barh(row, died - born, 0.6, born, facecolor=f"{GREEN}40", edgecolor=GREEN, hatch="....", linewidth=1)
    ax.text(-1, row, "best", ha="right", va="center")
    ax.text(
        shown.epoch + 2.4, row, f"best_model.pth: epoch {shown.bests[-1]}", va="center", color=GREEN, fontweight="bold"
    )


def _bar(ax: Axes, row: int, life: Life, *, born: float, now: float, gap: float, says: bool = True) -> None:
    """Draw one file's bar from `born` to its end or to `now`; by marker and words, if it `says` so, why it stays."""
    colour, marker = _look(life)
    if life.died is None:
        ax.barh(row, now - born, 0.6, born, color=colour)
        if says:
            _plot(ax, born, row, colour, marker, size=9)
            ax.text(now + gap, row, _why(life.reasons), va="center", color=colour, fontweight="bold")
    else:
        ax.barh(row, life.died - born, 0.6, born, facecolor="#0000000c", edgecolor="#00000050", hatch="////")
        _plot(ax, life.died, row, colour, marker, size=9)
    ax.text(born - gap, row, f"{life.born:03d}", ha="right", va="center")


def _copies(ax: Axes, shown: History) -> None:
    ax.step(range(len(shown.written)), shown.written, where="post", color=VERMILLION, linestyle="--", linewidth=1.5)
    ax.step(range(len(shown.copies)), shown.copies, where="post", color=BLACK)
    top = max(15, 1.1 * shown.written[-1])
    above = max(min(shown.written[-1], 0.9 * top), 0.4 * top)  # so that the two texts find room
    right: dict[str, Any] = {"x": shown.epoch + 2.4, "va": "center", "fontweight": "bold"}
    ax.text(y=above, s=f"{shown.written[-1]} if all stayed", color=VERMILLION, **right)
    ax.text(y=min(shown.copies[-1], above - 0.3 * top), s=f"{shown.copies[-1]} on the disk", **right)
    ax.set(xlabel="epoch", ylabel="files", ylim=(0, top))


def _bare(ax: Axes, rows: int) -> None:
    ax.set(ylim=(rows - 0.4, -0.6), yticks=[])
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(axis="x", labelbottom=False, length=0)


def _plot(ax: Axes, x: float, y: float, colour: str, marker: str, *, size: float) -> None:
    look: dict[str, Any] = {"marker": marker, "markerfacecolor": colour, "markeredgecolor": "white", "clip_on": False}
    ax.plot(x, y, markersize=1.6 * size if marker == "*" else size, zorder=3, **look)


def _look(life: Life) -> tuple[str, str]:
    if life.died is not None:
        return _REMOVED
    return next((look for word, look in _LOOKS.items() if word in " ".join(life.reasons)), _LOOKS["newest"])


def _why(reasons: Sequence[str]) -> str:
    """Say in few words why a file stays.

    >>> _why(["one of the newest 3", "the newest", "the best", "every 20 epochs"])
    'newest, best, every 20'
    """
    short = [re.sub(r"every (\d+).*", r"every \1", reason) for reason in reasons]
    words = [next((word for word in _LOOKS if word in reason and word != "every"), reason) for reason in short]
    return ", ".join(dict.fromkeys(words))


# ---------------------------------------------------------------------------------------------------------- the widget


class WhatStays(View):
    """Sliders for the rules of a run of sixty epochs, and the picture of which files lie on the disk after an epoch.

    Each slider is an attribute named after what it sets: `keep_last_n`, `keep_best_n`, `keep_every_n` (0: off),
    `milestones` (ticked: 10, 25, 50) and `epoch`; to set its `value` moves it. `history` is what the picture shows.
    Where nothing runs the picture alone is shown.
    """

    def __init__(
        self,
        *,
        keep_last_n: int = 3,
        keep_best_n: int = 1,
        keep_every_n: int | None = None,
        milestones: bool = False,
        epoch: int = len(LOSSES) - 1,
    ) -> None:
        look: dict[str, Any] = {"style": {"description_width": "7em"}, "continuous_update": False}
        self.keep_last_n = IntSlider(keep_last_n, 2, 13, description="keep_last_n", **look)
        self.keep_best_n = IntSlider(keep_best_n, 0, 5, description="keep_best_n", **look)
        steps = [("off", 0), *((str(step), step) for step in (10, 15, 20, 25, 30))]
        self.keep_every_n = SelectionSlider(options=steps, value=keep_every_n or 0, description="keep_every_n", **look)
        self.milestones = Checkbox(milestones, description="milestones 10, 25, 50", indent=False)
        self.epoch = IntSlider(epoch, 0, len(LOSSES) - 1, description="after epoch", **look)
        knobs = (self.keep_last_n, self.keep_best_n, self.keep_every_n, self.milestones, self.epoch)
        for knob in knobs:
            knob.observe(self._moved, "value")
        grid = GridBox(list(knobs), layout=Layout(grid_template_columns="repeat(2, 25em)"))
        super().__init__(grid, lines=4)
        self._moved()

    @property
    def history(self) -> History:
        """What lies on the disk, and what has lain there."""
        return live(
            until=self.epoch.value,
            keep_last_n=self.keep_last_n.value,
            keep_best_n=self.keep_best_n.value,
            keep_every_n=self.keep_every_n.value or None,
            milestones=MILESTONES if self.milestones.value else (),
        )

    @property
    def rules(self) -> str:
        """What the knobs say, in words."""
        numbers = f"keep_last_n = {self.keep_last_n.value}, keep_best_n = {self.keep_best_n.value}"
        milestones = f", {self.milestones.description}" if self.milestones.value else ""
        return f"{numbers}, keep_every_n = {self.keep_every_n.value or 'off'}{milestones}"

    def _told(self) -> str:
        """Say what is to be seen, and in the last line what of the lesson's task holds."""
        history = self.history
        spell = [file.epoch for file in history.files if file.epoch in BEFORE_THE_SPELL]
        there = f"epoch {min(spell)} is there" if spell else "missing"
        few = "yes" if history.copies[-1] <= FEW else "no"
        first, last = BEFORE_THE_SPELL[0], BEFORE_THE_SPELL[-1]
        best = "is there" if any(file.kind == "best" for file in history.files) else "is missing"
        return (
            f"{history}\n"
            f"The task: the best {best}. One of the epochs {first} to {last}: {there}. At most {FEW} files: {few}."
        )

    def _moved(self, change: object = None) -> None:
        self._show(to_png(timeline(self.history, epochs=len(LOSSES))[0]), self._told())

    def _still(self) -> bytes:
        figure, _ = timeline(self.history, epochs=len(LOSSES), titled=f"{self.rules}\n{self.caption}")
        return to_png(figure)
