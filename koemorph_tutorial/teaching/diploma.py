"""A diploma for a training loop: what it went through, what that cost, and that nothing else came of it."""

from __future__ import annotations

import math
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.patches import Circle, Ellipse, Polygon, Rectangle

from koemorph_tutorial.text import cut, printable
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.phonemes import spread
from koemorph_tutorial.training.settings import ModelConfig
from koemorph_tutorial.training.voices import HOP, make_voice

from .examination import TOTAL, Examination, Outcome
from .face import draw_face
from .figures import BLACK, BLUE, GREEN, PURPLE, VERMILLION, sheet, style, to_small_png
from .vowels import SPEAKER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE, _HIGH, _DPI = 9.0, 6.6, 110  # inches, and dots in each
_HAPPY = {"mouthSmile": 1.0, "jawOpen": 0.3, "cheekSquint": 0.8, "mouthUpperUp": 0.3, "browInnerUp": 0.3}
_WORRIED = {"mouthFrown": 0.8, "browInnerUp": 0.9, "mouthPress": 0.4}
_GREY = "#595959"
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_MIDDLE: dict[str, Any] = {"ha": "center", "va": "center"}


def draw(examined: Examination, name: str | None = None) -> tuple[bytes, str]:
    """Draw the diploma of an examined loop as a PNG, and say what it says; with a `name` it is somebody's, and dated.

    >>> png, caption = draw(Examination(name="train", problem="it fails though nothing happens to it"))
    >>> print(caption)
    No diploma for train: it fails though nothing happens to it.
    """
    whose = cut(printable(name, 60), 34) if name else f"{cut(printable(examined.name), 30)}(folder)"
    with style():
        figure, ax = sheet(_WIDE, _HIGH)
        _frame(ax)
        _head(ax, examined, whose)
        for place, outcome in enumerate(examined.outcomes):
            across = (_WIDE - 1.2) / len(examined.outcomes)
            _medal(ax, 0.6 + across * (place + 0.5), 2.93, outcome)
        _foot(ax, examined, dated=name is not None)
    return to_small_png(figure, dpi=_DPI, colours=96), _said(examined, whose)


def speak(examined: Examination, *, seconds: float) -> npt.NDArray[np.float32]:
    """Let the surviving network hear a voice that no training has heard; return its faces, (time, 52).

    Raises:
        ValueError: none has survived.
    """
    if not examined.state:
        raise ValueError(f"{examined.name}: expected a network that has survived, found none")
    model = SimplifiedKoeMorphModel(ModelConfig())
    model.load_state_dict({name: value for name, value in examined.state.items() if not name.startswith("average.")})
    audio = make_voice(SPEAKER, seconds=seconds, seed=9).audio
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(audio, 3200), 6400)[:-1:HOP]
    with torch.no_grad():
        faces: npt.NDArray[np.float32] = model.eval()(torch.from_numpy(windows.copy())).numpy()
    return faces


def _said(examined: Examination, whose: str) -> str:
    if examined.problem or not examined.outcomes:
        return f"No diploma for {whose.removesuffix('(folder)')}: {examined.problem or 'nothing was examined'}."
    survived = f"{examined.survived} of {len(examined.outcomes)} ordeals survived"
    costs = ", ".join(f"{each.ordeal.name} {each.cost}" for each in examined.outcomes)
    equal = all(outcome.is_equal for outcome in examined.outcomes)
    bits = "not one bit differs" if equal else "bits differ"
    given = "Diploma" if examined.passed else "No diploma"
    stamp = "certified" if examined.certificate and examined.certificate.certified else "without a certificate"
    return f"{given} for {whose}: {survived} ({costs}); {bits}; {stamp}."


def _frame(ax: Axes) -> None:
    """Draw a border of woven waves, as on bank notes, between two lines."""
    for inset, width in ((0.16, 2.2), (0.42, 1.0)):
        size = (_WIDE - 2 * inset, _HIGH - 2 * inset)
        ax.add_artist(Rectangle((inset, inset), *size, facecolor="none", edgecolor=BLUE, linewidth=width))
    wave: dict[str, Any] = {"color": f"{BLUE}90", "linewidth": 0.7}
    middle, swing = 0.29, 0.1
    for shift in np.linspace(0, 2 * math.pi, 4, endpoint=False):
        for length, along_x in ((_WIDE, True), (_HIGH, False)):
            at = np.linspace(0.29, length - 0.29, 1200)
            off = swing * np.sin(2 * math.pi * (at - 0.29) / ((length - 0.58) / round((length - 0.58) / 0.42)) + shift)
            for side in (middle + off, (_HIGH if along_x else _WIDE) - middle - off):
                ax.plot(*((at, side) if along_x else (side, at)), **wave)
    for x in (0.29, _WIDE - 0.29):
        for y in (0.29, _HIGH - 0.29):
            _rosette(ax, x, y, 0.2, BLUE)


def _rosette(ax: Axes, x: float, y: float, radius: float, colour: str, *, turns: int = 8) -> None:
    ax.add_artist(Circle((x, y), radius, facecolor="white", edgecolor=colour, linewidth=1.0, zorder=4))
    angle = np.linspace(0, 2 * math.pi, 720)
    for shift in (0.0, math.pi / turns):
        reach = radius * (0.62 + 0.28 * np.cos(turns * (angle + shift)))
        ax.plot(x + reach * np.cos(angle), y + reach * np.sin(angle), color=colour, linewidth=0.7, zorder=5)


def _head(ax: Axes, examined: Examination, whose: str) -> None:
    """Draw the graduate, the title, and for whom and for what it is."""
    face = ax.inset_axes((0.75, 4.02, 1.75, 1.75), transform=ax.transData)
    draw_face(face, spread(_HAPPY if examined.passed else _WORRIED))
    if examined.passed:
        _cap(ax, 1.625, 5.62)
    serif: dict[str, Any] = {"family": "DejaVu Serif", **_MIDDLE}
    x = 5.45
    title = "D I P L O M A" if examined.passed else "N O   D I P L O M A   Y E T"
    ax.text(x, 5.72, title, fontsize=27 if examined.passed else 20, fontweight="bold", color=BLUE, **serif)
    ax.text(x, 5.28, "of a training that comes back", fontsize=12, color=_GREY, **serif)
    ax.text(x, 4.84, whose.replace("$", r"\$"), fontsize=20 if len(whose) < 26 else 15, style="italic", **serif)
    ax.plot([3.1, 7.8], [4.6, 4.6], color=_GREY, linewidth=0.8)
    for line, words in enumerate(_deeds(examined, "" if whose.endswith("(folder)") else "whose loop ")):
        ax.text(x, 4.37 - 0.26 * line, words, fontsize=11.5, **serif)


def _deeds(examined: Examination, who: str) -> tuple[str, ...]:
    if examined.problem:
        return ("was not examined",)
    trained = f"{who}trained {TOTAL} batches, was"
    ordeals = f"{_NUMBERS.get(len(examined.outcomes), len(examined.outcomes))} ordeals"
    if examined.passed:
        end = "and ended after each with the very network", "of the run that nobody disturbed."
    else:
        end = f"and survived {examined.survived} of them.", ""
    return (f"{trained} put through {ordeals},", *end)


def _cap(ax: Axes, x: float, y: float) -> None:
    """Draw a mortarboard, a little askew."""
    band = [(x - 0.52, y - 0.28), (x + 0.5, y - 0.2), (x + 0.46, y + 0.1), (x - 0.5, y + 0.02)]
    board = [(x - 0.98, y + 0.1), (x - 0.02, y + 0.42), (x + 0.96, y + 0.2), (x + 0.02, y - 0.14)]
    for shape in (band, board):
        ax.add_artist(Polygon(shape, facecolor="#333333", edgecolor=BLACK, linewidth=1.2, zorder=6))
    ax.plot([x, x + 0.78, x + 0.8], [y + 0.15, y + 0.02, y - 0.38], color=PURPLE, linewidth=2, zorder=7)
    ax.plot([x + 0.8], [y - 0.43], "v", color=PURPLE, markersize=9, zorder=7)
    ax.plot([x], [y + 0.15], "o", color=PURPLE, markersize=5, zorder=7)


def _medal(ax: Axes, x: float, y: float, outcome: Outcome) -> None:
    """Draw a medal: the ordeal in a ring, its name, and what was lost."""
    colour = GREEN if outcome.survived else VERMILLION
    ax.add_artist(Circle((x, y), 0.42, facecolor=f"{colour}18", edgecolor=colour, linewidth=3, zorder=4))
    _icon(ax, x, y, outcome.ordeal.name)
    ax.add_artist(Circle((x + 0.33, y - 0.3), 0.15, facecolor=colour, edgecolor="white", linewidth=1.5, zorder=8))
    mark: dict[str, Any] = {"color": "white", "fontsize": 12, "fontweight": "bold", "zorder": 9, **_MIDDLE}
    ax.text(x + 0.33, y - 0.31, "✓" if outcome.survived else "✗", **mark)
    ax.text(x, y - 0.63, outcome.ordeal.name, fontsize=13, fontweight="bold", **_MIDDLE)
    lines = (outcome.cost.replace("again", "trained again"), _bits(outcome))
    for line, words in enumerate(lines):
        ax.text(x, y - 0.87 - 0.22 * line, words, fontsize=10, color=BLACK if outcome.survived else colour, **_MIDDLE)


def _bits(outcome: Outcome) -> str:
    if outcome.wrong_bits is None or outcome.error:
        return "no network"
    return f"{outcome.wrong_bits:,} of {outcome.bits:,} bits differ"


def _icon(ax: Axes, x: float, y: float, name: str) -> None:
    line: dict[str, Any] = {"color": BLACK, "linewidth": 2.6, "solid_capstyle": "round", "zorder": 6}
    if name == "kill -9":
        bolt = [(0.06, 0.3), (-0.17, -0.04), (-0.02, -0.04), (-0.08, -0.3), (0.17, 0.08), (0.02, 0.08)]
        ax.add_artist(Polygon([(x + a, y + b) for a, b in bolt], facecolor=BLACK, edgecolor=BLACK, zorder=6))
    elif name == "full disk":
        dark = "#333333"
        ax.add_artist(Ellipse((x, y - 0.22), 0.44, 0.16, facecolor=dark, edgecolor="none", zorder=6))
        ax.add_artist(Rectangle((x - 0.22, y - 0.22), 0.44, 0.42, facecolor=dark, edgecolor="none", zorder=6))
        for level in (-0.1, 0.05, 0.2):
            disk = Ellipse((x, y + level), 0.44, 0.16, facecolor=dark, edgecolor="white", linewidth=1.4, zorder=6.1)
            ax.add_artist(disk)
    elif name == "flipped bit":
        ax.text(x - 0.17, y, "0", fontsize=17, fontweight="bold", family="monospace", zorder=6, **_MIDDLE)
        ax.text(x + 0.19, y, "1", fontsize=17, fontweight="bold", family="monospace", zorder=6, **_MIDDLE)
        arrow = {"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (x + 0.1, y), (x - 0.08, y), arrowprops=arrow, zorder=6)
    else:  # a bell: a warning
        angle = np.linspace(0, math.pi, 40)
        ax.plot(x + 0.15 * np.cos(angle), y + 0.04 + 0.2 * np.sin(angle), **line)
        ax.plot([x + 0.15, x + 0.23, x - 0.23, x - 0.15], [y + 0.04, y - 0.17, y - 0.17, y + 0.04], **line)
        ax.plot([x], [y - 0.24], "o", color=BLACK, markersize=6, zorder=6)


def _foot(ax: Axes, examined: Examination, *, dated: bool) -> None:
    """Draw the seal, what the certificate compared, and who signs."""
    certificate = examined.certificate
    x, y = 1.5, 1.05
    if certificate is not None and certificate.certified:
        points = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        teeth = np.where(np.arange(48) % 2, 0.45, 0.5)
        star = np.column_stack((x + teeth * np.cos(points), y + teeth * np.sin(points)))
        for sign in (-1, 1):
            ribbon = [(x + 0.08 * sign, y - 0.3), (x + 0.36 * sign, y - 0.56), (x + 0.12 * sign, y - 0.58)]
            ax.add_artist(Polygon(ribbon, facecolor=GREEN, edgecolor="none", zorder=4))
        ax.add_artist(Polygon(star, facecolor=GREEN, edgecolor="white", linewidth=1, zorder=5))
        ax.add_artist(Circle((x, y), 0.38, facecolor="none", edgecolor="white", linewidth=1.2, zorder=6))
        white: dict[str, Any] = {"color": "white", "fontweight": "bold", "zorder": 7, **_MIDDLE}
        ax.text(x, y + 0.08, "EVERY", fontsize=11, **white)
        ax.text(x, y - 0.1, "BIT", fontsize=13, **white)
        trials = certificate.trials
        moments, batches = sum(t.moments for t in trials), sum(t.batches for t in trials)
        lines = [
            f"Certified: killed {len(trials)} more times, and {batches} batches and {moments} states compared,",
            f"{', '.join(name for name in certificate.components if '.' not in name and ' ' not in name)}:",
            "bitwise equal.",
        ]
    elif examined.passed:
        lines = ["Without a certificate: that is for a loop with a manager, which tells what is saved."]
    else:
        lines = ["Not certified: a certificate is given once all ordeals are survived."]
    ax.text(2.3, 1.27, lines[0], fontsize=10.5, va="center")
    for line, words in enumerate(lines[1:], start=1):
        ax.text(2.3, 1.27 - 0.21 * line, words, fontsize=10.5, va="center")
    small: dict[str, Any] = {"family": "monospace", "fontsize": 9, "color": _GREY, "va": "center"}
    if examined.state:
        digest = sha256(b"".join(value.numpy().tobytes() for value in examined.state.values())).hexdigest()
        ax.text(2.3, 0.62, f"network {digest[:8]} {digest[8:16]} {digest[16:24]}", **small)
    if dated:
        ax.text(_WIDE - 0.65, 0.62, date.today().isoformat(), ha="right", **small)  # noqa: DTZ011  # the reader's own day
