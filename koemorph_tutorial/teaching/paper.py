"""The receipt of an export on paper: what was sold, what was tried, what it was off by, and a stamp."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Polygon, Rectangle

from koemorph_tutorial.text import count, printable, size
from koemorph_tutorial.training.phonemes import spread

from .face import draw_face
from .figures import BLACK, GREEN, VERMILLION, placed, style, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from koemorph_tutorial.exporting.receipt import Case, Receipt

_COLUMNS, _POINTS, _DPI = 42, 9.6, 125
_LINE = 0.185  # inches from one line to the next
_WIDTH = (_COLUMNS + 4) * 0.602 * _POINTS / 72  # inches: a letter of DejaVu Sans Mono is 0.602 of its size wide
_HEAD, _FOOT = 1.15, 1.75  # inches: the face above the lines; stamp, bars and thanks below them
_RULE = "-" * _COLUMNS
_PAPER, _EDGE = "#fffdf3", "#b9b3a0"
# Faces of whoever stands behind the counter; one eye that blinks is a wink.
_PLEASED = {"mouthSmile": 0.9, "cheekSquint": 0.6, "eyeBlinkLeft": 1.0, "jawOpen": 0.12}
_WORRIED = {"mouthFrown": 0.9, "browInnerUp": 0.9, "eyeWide": 0.5}


def receipts(*given: Receipt) -> tuple[bytes, str]:
    """Draw receipts side by side as a till would have printed them: PNG and caption.

    The PNG has fewer dots than other figures: so much print would fill a lesson.

    >>> from pathlib import Path
    >>> from koemorph_tutorial.exporting.receipt import Receipt
    >>> png, caption = receipts(Receipt(path=Path("face.onnx"), format="onnx", size=238_000, sha256="ab" * 32))
    >>> print(caption)
    face.onnx: NOT the same model, nothing was compared; free: none
    """
    texts = [list(_lines(receipt)) for receipt in given]
    height = _HEAD + _FOOT + _LINE * max(map(len, texts))
    width = (_WIDTH + 0.25) * len(given)
    with style():
        figure = placed(width, height + 0.1)
        for place, (receipt, text) in enumerate(zip(given, texts, strict=True)):
            tall = _HEAD + _FOOT + _LINE * len(text)
            left, bottom = 0.125 + place * (_WIDTH + 0.25), height + 0.05 - tall
            axes = figure.add_axes((left / width, bottom / (height + 0.1), _WIDTH / width, tall / (height + 0.1)))
            _print(axes, receipt, text, tall)
    return to_png(figure, dpi=_DPI, colours=48), "\n".join(_said(receipt) for receipt in given)


def _lines(receipt: Receipt) -> Iterator[tuple[str, bool]]:
    """Yield what stands on the paper, in `_COLUMNS` letters a line, and whether the line is one that complains."""
    for line in _goods(receipt):
        yield line, False
    yield _row("ASKED", "OFF BY"), False
    for case in receipt.cases:
        yield _row(_asked(case), _off_by(case)), bool(case.problem)
    for problem in receipt.problems:
        text = textwrap.wrap(printable(problem, 400), _COLUMNS - 2, max_lines=4, placeholder=" …")
        yield from ((f"  {line}", True) for line in text)
    yield _RULE, False
    if receipt.largest is not None:
        yield _row("THE MOST", f"{receipt.largest:.8f}"), False
    yield _row("ALLOWED", f"{receipt.tolerance:.8f}"), False
    if receipt.seconds is not None and receipt.seconds_torch is not None:
        yield _row("SERVED IN", f"{1000 * receipt.seconds:.2f} ms"), False
        yield _row("  (PyTorch)", f"{1000 * receipt.seconds_torch:.2f} ms"), False


def _goods(receipt: Receipt) -> Iterator[str]:
    """Yield who served, what goes over the counter, and what it takes and gives."""
    opset = "" if receipt.opset is None else f", opset {receipt.opset}"
    yield "THE EXPORT COUNTER".center(_COLUMNS)
    yield f"{printable(receipt.runtime, 60).partition(',')[0]}{opset}".center(_COLUMNS)
    yield _RULE
    yield _row(f"1 × {printable(receipt.path.name, 28)}", size(receipt.size))
    if receipt.source is not None:
        epoch = "" if receipt.source.epoch is None else f", epoch {receipt.source.epoch}"
        yield f"     of {printable(receipt.source.name, 24)}{epoch}"
    texts = [("in", str(port)) for port in receipt.inputs] + [("out", str(port)) for port in receipt.outputs]
    for word, text in (*texts, ("free", _free(receipt))):
        yield from textwrap.wrap(f"{word:4} {text}", _COLUMNS, subsequent_indent="     ")
    yield _RULE


def _free(receipt: Receipt) -> str:
    smallest = receipt.smallest
    return ", ".join(f"{n} from {smallest[n]}" if n in smallest else n for n in receipt.free) or "none"


def _row(left: str, right: str) -> str:
    room = _COLUMNS - len(right) - 1
    return f"{left[:room]:{room}} {right}"


def _asked(case: Case) -> str:
    shapes = " ".join(str(shape) for shape in case.shapes)
    label = case.label.removeprefix("the example, ")
    return f"{shapes} {printable(label.removeprefix('the example ').strip() or label, 40)}"


def _off_by(case: Case) -> str:
    if case.absolute is None:
        return "NO ANSWER" if case.problem else "0"
    return f"{case.absolute:.8f}"


def _print(axes: Axes, receipt: Receipt, text: list[tuple[str, bool]], tall: float) -> None:
    """Print one receipt into axes whose units are inches."""
    chance = random.Random(receipt.sha256)  # each paper is torn in its own way
    axes.set(xlim=(0, _WIDTH), ylim=(0, tall))
    axes.set_axis_off()
    teeth = np.linspace(0, _WIDTH, 35)
    torn = [0.02 + 0.07 * (tooth % 2) + chance.uniform(0, 0.03) for tooth in range(len(teeth))]
    outline = [*zip(teeth, torn, strict=True), *((x, tall - y) for x, y in zip(teeth[::-1], torn, strict=True))]
    axes.add_artist(Polygon(outline, facecolor=_PAPER, edgecolor=_EDGE, linewidth=1.2))
    for row, (line, complains) in enumerate(text):
        axes.text(
            (_WIDTH - _COLUMNS * 0.602 * _POINTS / 72) / 2,
            tall - _HEAD - (row + 0.5) * _LINE,
            line,
            family="monospace",
            fontsize=_POINTS,
            fontweight="bold" if row == 0 or complains else "normal",
            color=VERMILLION if complains else BLACK,
            va="center",
        )
    face = axes.inset_axes((_WIDTH / 2 - 0.45, tall - _HEAD - 0.02, 0.9, 0.9), transform=axes.transData)
    draw_face(face, spread(_PLEASED if receipt.ok else _WORRIED))
    face.patches[0].set_facecolor(_PAPER)
    _stamp(axes, receipt)
    _bars(axes, receipt.sha256)
    thanks = "Thank you for comparing!" if receipt.ok else "Please do not ship this."
    for height, words in ((0.34, thanks), (0.19, "No exchange without this receipt.")):
        axes.text(_WIDTH / 2, height, words, family="monospace", fontsize=_POINTS, ha="center", va="center")


def _stamp(axes: Axes, receipt: Receipt) -> None:
    colour, words = (GREEN, "SAME MODEL") if receipt.ok else (VERMILLION, "NOT THE SAME")
    box: Any = {"boxstyle": "round,pad=0.35", "facecolor": "none", "edgecolor": colour, "linewidth": 3}
    look: Any = {"fontsize": 19, "fontweight": "bold", "ha": "center", "va": "center", "rotation": 7}
    axes.text(_WIDTH / 2, 1.37, words, color=colour, bbox=box, **look)


def _bars(axes: Axes, sha256: str) -> None:
    """Draw the sha256 as a bar code that no till can read: a digit is the width of a bar or of the gap behind it."""
    left, unit = 0.35, (_WIDTH - 0.7) / sum(1 + int(digit, 16) % 4 for digit in sha256)
    for place, digit in enumerate(sha256):
        wide = unit * (1 + int(digit, 16) % 4)
        if place % 2 == 0:
            axes.add_artist(Rectangle((left, 0.66), wide, 0.3, facecolor=BLACK, edgecolor="none"))
        left += wide
    short = " ".join(textwrap.wrap(sha256[:24], 4))
    axes.text(_WIDTH / 2, 0.55, short, family="monospace", fontsize=_POINTS, ha="center", va="center")


def _said(receipt: Receipt) -> str:
    failed = sum(bool(case.problem) for case in receipt.cases)
    name = printable(receipt.path.name, 60)
    verdict = "the same model" if receipt.ok else "NOT the same model"
    if failed:
        how = f"{failed} of {count(len(receipt.cases), 'comparison')} failed"
    elif receipt.ok:
        how = "all comparisons held"
    else:
        how = printable(receipt.problems[0], 200) if receipt.problems else "nothing was compared"
    return f"{name}: {verdict}, {how}; free: {_free(receipt)}"
