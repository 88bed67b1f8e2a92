"""The course of an examined loop, ordeal by ordeal: how far it came, where it went on, what it did twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.patches import Rectangle

from .examination import BATCHES, EPOCHS, TOTAL, Examination, Outcome
from .figures import BLACK, BLUE, GREEN, VERMILLION, placed, style, to_small_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIRST: dict[str, Any] = {"facecolor": f"{BLUE}45", "edgecolor": BLUE}
_SECOND: dict[str, Any] = {"facecolor": f"{GREEN}45", "edgecolor": GREEN}
_AGAIN: dict[str, Any] = {"facecolor": f"{VERMILLION}38", "edgecolor": VERMILLION, "hatch": "////"}
_DPI = 115
_HIGH = 0.3  # of a bar, where a row is 1
_STRUCK = {"kill -9": "killed", "SIGTERM": "warned", "full disk": "no room", "flipped bit": "killed, a bit flips"}


def comebacks(examined: Examination) -> tuple[bytes, str]:
    """Draw each ordeal: the first process from left to right, below it the second, and what was trained twice.

    >>> print(comebacks(Examination(name="train"))[1])
    train survived 0 of 0. No ordeal.
    """
    rows = len(examined.outcomes)
    height = 0.62 + 0.78 * max(rows, 1)  # inches
    with style(), rc_context({"hatch.linewidth": 0.8}):
        figure = placed(9, height)
        ax = figure.add_axes((0.115, 0.52 / height, 0.865, 0.78 * max(rows, 1) / height))
        for row, outcome in enumerate(examined.outcomes):
            _draw(ax, row, outcome)
        ax.set(xlim=(0, 1.36 * TOTAL), ylim=(max(rows, 1) - 0.4, -0.55))
        ax.set_xticks(range(0, TOTAL + 1, BATCHES), [str(epoch) for epoch in range(EPOCHS)] + ["end"])
        ax.set_xlabel("epoch begins", x=0.5 / 1.36)
        ax.set_yticks(range(rows), [outcome.ordeal.name for outcome in examined.outcomes], fontweight="bold")
        ax.tick_params(length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.grid(axis="y", visible=False)
    return to_small_png(figure, dpi=_DPI, colours=48), _told(examined)


def _draw(ax: Axes, row: int, outcome: Outcome) -> None:
    first, second = outcome.batches
    start = max(TOTAL - second, 0)
    _bar(ax, 0, first, row - 0.36, _FIRST)
    if not outcome.error:
        _bar(ax, start, TOTAL, row + 0.04, _SECOND)
    if not outcome.error and start < first:
        _bar(ax, start, first, row + 0.04, _AGAIN)
        back = {"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.4, "connectionstyle": "arc3,rad=-0.35"}
        ax.annotate("", (start, row + 0.03), (first, row - 0.06), arrowprops=back)
    ax.plot([first], [row - 0.21], "X", color=VERMILLION, markersize=12, markeredgecolor="white", zorder=5)
    ax.text(first + 1.2, row - 0.21, _STRUCK.get(outcome.ordeal.name, ""), va="center")
    good, mark = (GREEN, "✓") if outcome.is_equal else (VERMILLION, "✗")
    ax.text(TOTAL + 1.2, row + 0.06, f"{mark} {outcome.network}", color=good, fontweight="bold", va="center")
    colour = BLACK if outcome.survived or not outcome.is_equal else VERMILLION
    ax.text(TOTAL + 1.2, row + 0.34, f"   {outcome.cost}", color=colour, va="center")


def _bar(ax: Axes, left: float, right: float, top: float, look: dict[str, Any]) -> None:
    ax.add_artist(Rectangle((left, top), right - left, _HIGH, linewidth=1.2, zorder=3, **look))


def _told(examined: Examination) -> str:
    said = [f"{each.ordeal.name}: {each.cost}, {each.network}" for each in examined.outcomes]
    return f"{examined.name} survived {examined.survived} of {len(said)}. {'; '.join(said) or 'No ordeal'}."
