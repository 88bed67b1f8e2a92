"""What a reader has done in all lessons, as stamps: the picture of what `koemorph progress` says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.patches import Circle

from koemorph_tutorial.text import count

from . import logbook
from .figures import BLACK, BLUE, GREEN, VERMILLION, sheet, style, to_png
from .lessons import LESSONS, Choice, Exercise, lesson

_ROW = 0.44  # inches
_LOOKS: Mapping[str, tuple[str, str, str]] = {  # colour, mark, meaning
    "passed": (GREEN, "✓", "passed"),
    "tried": (VERMILLION, "…", "not yet"),
    "answered": (BLUE, "●", "answered"),
    "open": ("#c8c8c8", "", "still to do"),
}


def stamps() -> tuple[bytes, str]:
    """Draw a row for each lesson and a stamp for each of its questions, as far as they are done; a PNG and a caption.

    The caption says what there is to do, not what is done: it is the same for every reader.

    >>> stamps()[1].startswith("10 lessons, ")
    True
    """
    done = logbook.so_far()
    questions = {number: lesson(number).questions for number in LESSONS}
    most = max(map(len, questions.values()))
    rows = -(-len(questions) // 2)  # in two columns
    height = _ROW * rows + 0.45
    with style():
        figure, ax = sheet(9, height)
        for place, (number, asked) in enumerate(questions.items()):
            x, y = 0.1 + 4.55 * (place // rows), height - _ROW * (place % rows + 0.5)
            title = f"{number} {LESSONS[number].replace('_', ' ')}"
            ax.text(x, y, title, fontsize=12.5, fontweight="bold", va="center")
            for column, (name, question) in enumerate(asked.items()):
                state = _state(question, done.get(name))
                _stamp(ax, x + 4.3 - 0.46 * (most - column), y, state, name.partition(".")[2])
        for place, (state, (_, _, meaning)) in enumerate(_LOOKS.items()):
            _stamp(ax, 0.3 + 1.6 * place, 0.2, state, "")
            ax.text(0.52 + 1.6 * place, 0.2, meaning, va="center")
    total = count(sum(map(len, questions.values())), "question")
    return to_png(figure, dpi=100), f"{count(len(questions), 'lesson')}, {total}, and a stamp for each."


def _state(asked: Choice | Exercise, entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "open"
    if entry["passed"]:
        return "passed"
    judged = isinstance(asked, Exercise) or (asked.right is not None and entry["attempts"])
    return "tried" if judged else "answered"


def _stamp(ax: Any, x: float, y: float, state: str, number: str) -> None:
    colour, mark, _ = _LOOKS[state]
    fill = "white" if state == "open" else f"{colour}25"
    ax.add_artist(Circle((x, y), 0.17, facecolor=fill, edgecolor=colour, linewidth=2, zorder=2))
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11, "fontweight": "bold", "zorder": 3}
    ax.text(x, y - 0.005, mark or number, color=colour if mark else "#767676" if number else BLACK, **look)
