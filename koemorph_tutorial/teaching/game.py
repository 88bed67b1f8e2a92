"""A game of preemptions: a slider over the minutes between two saves, against the interval that the formula advises.

The days are those of `preemptions`; a picture shows what became of one, and the score over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from ipywidgets import Button, Checkbox, HBox, Layout, SelectionSlider  # type: ignore[import-untyped]
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from koemorph_tutorial.training.phonemes import spread

from .face import draw_face
from .figures import BLACK, BLUE, GREEN, PURPLE, VERMILLION, placed, style, to_small_png
from .preemptions import DAYS, FORMULA, INTERVALS, SAVE, Run, work
from .views import View

_ROW, _ROWS = 8 * 60, 5  # minutes of the clock in a row of the picture, and how many rows it has
_MOST = 48  # hours that the score has room for
_FORMULA: dict[str, Any] = {"color": PURPLE, "marker": "*", "markersize": 17}
_YOU: dict[str, Any] = {"color": GREEN, "marker": "o", "markersize": 13}
_LOOKS: dict[str, dict[str, Any]] = {
    "work": {"facecolor": f"{BLUE}45"},
    "save": {"facecolor": BLACK},
    "lost": {"facecolor": f"{VERMILLION}38", "edgecolor": VERMILLION, "hatch": "////"},
}
_MOODS = {  # of somebody who waits for the run
    "won": {"mouthSmile": 1.0, "jawOpen": 0.45, "cheekSquint": 0.9, "mouthUpperUp": 0.4, "browInnerUp": 0.3},
    "level": {"mouthSmile": 0.35},
    "late": {"mouthFrown": 0.8, "browInnerUp": 0.9, "mouthPress": 0.4},
    "very late": {"jawOpen": 0.55, "mouthFunnel": 0.7, "eyeWide": 1.0, "browInnerUp": 1.0, "browOuterUp": 0.6},
}


def play(interval: int, day: int, *, background: bool = False, titled: bool = True) -> tuple[Figure, str]:
    """Draw a day with a save every `interval` minutes, when the formula was done on it, and the score over all days."""
    yours, formula = work(interval, day, background=background), work(FORMULA, day)
    scores = {
        "you": [work(interval, other, background=background).total for other in range(DAYS)],
        "formula": [work(FORMULA, other).total for other in range(DAYS)],
    }
    caption = _told(yours, formula, day, scores)
    height = 4.85 if titled else 4.35  # inches
    with style(), rc_context({"hatch.linewidth": 0.8}):
        figure = placed(9, height)
        if titled:
            figure.text(0.01, 0.985, caption, va="top", linespacing=1.35)
        _draw_day(figure.add_axes((0.055, 1.75 / height, 0.935, 2.2 / height)), yours, formula)
        _draw_score(figure.add_axes((0.09, 0.5 / height, 0.74, 1.0 / height)), scores)
        mood = _MOODS[_mood(yours.total, formula.total)]
        draw_face(figure.add_axes((0.845, 0.1 / height, 0.15, 1.35 / height)), spread(mood))
    return figure, caption


def _draw_day(ax: Axes, yours: Run, formula: Run) -> None:
    """Draw the clock in rows: work, saves, work done twice, preemptions, and when the two runs were done."""
    for kind, begin, end in yours.spans():
        end = max(end, begin + 1) if kind == "save" else end  # minutes: less would not be seen
        for row in range(math.floor(begin / _ROW), min(math.ceil(end / _ROW), _ROWS)):
            left, right = max(begin - row * _ROW, 0), min(end - row * _ROW, _ROW)
            ax.add_artist(Rectangle((left, row - 0.33), right - left, 0.66, linewidth=0, **_LOOKS[kind]))
    taken: dict[str, Any] = {"color": VERMILLION, "marker": "X", "markersize": 11}
    for machine in yours.machines[:-1]:
        _mark(ax, machine.end, taken)
    _mark(ax, formula.total, _FORMULA)
    _mark(ax, yours.total, _YOU)
    ax.set(xlim=(0, _ROW), ylim=(_ROWS - 0.5, -0.5), xticks=[])
    ax.set_yticks(range(_ROWS), [f"{_ROW // 60 * row} h" for row in range(_ROWS)])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.grid(visible=False)
    handles: list[Artist] = [Patch(label=label, **_LOOKS[kind]) for kind, label in _KINDS.items()]
    handles += [
        Line2D([], [], linestyle="", markeredgecolor="white", label=label, **look)
        for label, look in (("preempted", taken), ("done", _YOU), ("the formula is done", _FORMULA))
    ]
    beside: dict[str, Any] = {"ncols": 6, "columnspacing": 1.3, "handlelength": 1.2}
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 0.99), **beside)


_KINDS = {"work": "work", "save": "a save", "lost": "work done twice"}


def _mark(ax: Axes, minute: float, look: dict[str, Any]) -> None:
    """Put a mark at a minute of the clock; at the end of the last row if that is over by then."""
    row, at = divmod(minute, _ROW)
    if row >= _ROWS:
        row, at, look = _ROWS - 1, _ROW, look | {"marker": ">"}
    ax.plot([at], [row], markeredgecolor="white", linestyle="", zorder=5, clip_on=False, **look)


def _draw_score(ax: Axes, scores: Mapping[str, Sequence[float]]) -> None:
    """Draw a line for each day, and the mean of all."""
    for row, (minutes, look) in enumerate(zip(scores.values(), (_YOU, _FORMULA), strict=True)):
        hours = np.array(minutes) / 60
        colour = look["color"]
        ax.plot(np.minimum(hours, _MOST), [row] * DAYS, "|", color=colour, markersize=13, markeredgewidth=1, alpha=0.6)
        mean = hours.mean()
        ax.plot([mean], [row], markeredgecolor="white", **look)
        ax.text(mean, row - 0.36, f"{mean:.1f}", color=colour, fontweight="bold", ha="center", va="bottom")
    ax.set(xlim=(24, _MOST + 0.1), ylim=(1.4, -0.95), xlabel=f"hours, for each of {DAYS} days, and their mean")
    ax.set_yticks(range(len(scores)), list(scores))
    ticks = range(24, _MOST + 1, 4)
    ax.set_xticks(ticks, [*map(str, ticks[:-1]), f"{_MOST}+"])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="y", visible=False)


def _mood(yours: float, formula: float) -> str:
    if yours <= formula:
        return "level" if yours == formula else "won"
    return "late" if yours < 1.15 * formula else "very late"


def _told(yours: Run, formula: Run, day: int, scores: Mapping[str, Sequence[float]]) -> str:
    how, its_unit = (" in the background", "min in front") if yours.hold_up < SAVE else ("", "minutes")
    mine, its = (sum(minutes) / 60 / DAYS for minutes in scores.values())
    faster = sum(you < it for you, it in zip(*scores.values(), strict=True))
    return (
        f"Day {day}, a save every {yours.interval} minutes{how}: done after {_hours(yours.total)}; "
        f"{_hours(yours.lost)} of work done twice.\n"
        f"The formula, every {FORMULA} {its_unit}: {_hours(formula.total)}. "
        f"Mean of {DAYS} days: {mine:.1f} h against {its:.1f} h; you were faster on {faster}."
    )


def _hours(minutes: float) -> str:
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"


# ---------------------------------------------------------------------------------------------------------- the widget


_png = partial(to_small_png, dpi=150, colours=96)  # a notebook holds several of these


class Game(View):
    """A slider over the minutes between two saves, a day of preemptions, and the score against the formula.

    `value` is the interval, `day` and `background` the rest; to set one moves its control. Where nothing runs the
    picture alone is shown.
    """

    def __init__(self, interval: int = 120, day: int = 0, *, background: bool = False) -> None:
        self._slider = SelectionSlider(
            options=[(f"{minutes} min", minutes) for minutes in INTERVALS],
            description="a save every",
            continuous_update=False,
            style={"description_width": "initial"},
            layout=Layout(width="30em"),
        )
        self._box = Checkbox(value=background, description="in the background", indent=False)
        self._box.layout.width = "11em"
        self._next = Button(description="another day", layout=Layout(width="9em"))
        super().__init__(HBox([self._slider, self._box, self._next]), lines=2)
        self.value = interval
        self._slider.observe(self._draw, "value")
        self._box.observe(self._draw, "value")
        self._next.on_click(self._another_day)
        self.day = day  # which draws it

    @property
    def value(self) -> int:
        """The minutes of work between two saves."""
        interval: int = self._slider.value
        return interval

    @value.setter
    def value(self, interval: int) -> None:
        if interval not in INTERVALS:
            raise ValueError(f"minutes: expected one of {', '.join(map(str, INTERVALS))}, found {interval!r}")
        self._slider.value = interval

    @property
    def day(self) -> int:
        """Which day it is: when the machines are taken away."""
        return self._day

    @day.setter
    def day(self, day: int) -> None:
        if day not in range(DAYS):
            raise ValueError(f"day: expected 0 to {DAYS - 1}, found {day!r}")
        self._day = day
        self._draw()

    @property
    def background(self) -> bool:
        """Whether a save only holds the training up while the state is copied."""
        is_ticked: bool = self._box.value
        return is_ticked

    @background.setter
    def background(self, is_ticked: bool) -> None:
        self._box.value = is_ticked

    def _another_day(self, button: object) -> None:
        self.day = (self.day + 1) % DAYS

    def _draw(self, change: object = None) -> None:
        figure, caption = self._play(titled=False)  # the caption stands below it
        self._show(_png(figure), caption)

    def _still(self) -> bytes:
        return _png(self._play(titled=True)[0])

    def _play(self, *, titled: bool) -> tuple[Figure, str]:
        return play(self.value, self.day, background=self.background, titled=titled)
