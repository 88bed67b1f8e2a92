"""Flip one bit of a weight in a file, and see what becomes of the face; with a widget that chooses which bit.

Every flip is made on a disk, in a copy of a real checkpoint, and loaded as everybody loads: by ``torch.load``.
"""

from __future__ import annotations

import re
import shutil
import struct
import tempfile
import textwrap
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ipywidgets import Layout, SelectionSlider  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from koemorph_tutorial.training.dataset import make_split
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.phonemes import ARKIT_NAMES
from koemorph_tutorial.training.settings import DataConfig

from .face import draw_face
from .figures import BLACK, BLUE, GREEN, PARTS_OF_A_FLOAT, VERMILLION, placed, style, to_small_png
from .flips import BITS, Weight, bits_of, draws, flip
from .views import View

_VISIBLE = 0.05  # a change of a blendshape that one sees


def says(path: str | Path) -> Tensor:
    """Return the faces, (8, 52), that the model in a file makes of eight sounds; the first opens its mouth widest.

    The file is opened by ``torch.load``, and raises what that raises.
    """
    model = SimplifiedKoeMorphModel().eval()
    model.load_state_dict(torch.load(path)["model_state_dict"])
    with torch.inference_mode():
        said: Tensor = model(_sounds())
    return said


@cache
def _sounds() -> Tensor:
    audio, faces = make_split(DataConfig(), "validation").tensors
    widest = int(faces[:, ARKIT_NAMES.index("jawOpen")].argmax())  # by the face that belongs to the sound
    return audio[[widest, *range(0, len(audio), len(audio) // 7)][:8]]


def _change(before: Tensor, after: Tensor) -> float:
    """Return by how much the blendshape that changed most did; NaN if one is not a number."""
    return (after - before).abs().max().item()


def _in_words(change: float) -> str:
    if change != change:
        return "NaN, not a number"
    return "equal to the last bit" if change == 0 else "another one" if change > _VISIBLE else "the same to the eye"


@contextmanager
def _copy(path: str | Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="koemorph-bits-") as folder:
        yield Path(shutil.copy(path, Path(folder, "copy.pth")))


_OF_THIS_MACHINE = re.compile(r"\b[0-9a-f]{8}\b|\d+(?= kB)")


def in_lines(said: object) -> str:
    """Return a sentence in lines, with … for what is of this machine alone: checksums, the size of a file.

    >>> print(
    ...     in_lines(
    ...         "record 5: expected CRC32 43c81e05, found a9c97339; 1 number of 12,288 differs: 0.0435 -> 1.48e+37"
    ...     )
    ... )
    record 5: expected CRC32 …, found …; 1 number of 12,288 differs: 0.0435 -> 1.48e+37
    """
    masked = _OF_THIS_MACHINE.sub("…", str(said))
    return textwrap.fill(masked, 96, break_long_words=False, break_on_hyphens=False)


# ------------------------------------------------------------------------------------------------------- two files


def faces(files: Mapping[str, str | Path]) -> tuple[Figure, str]:
    """Draw what the models in two files say to one sound, side by side: figure and caption."""
    said = {name: says(path)[0] for name, path in files.items()}
    (first, before), (second, after) = said.items()
    with style():
        figure = placed(5.6, 2.95)
        for column, (name, face) in enumerate(said.items()):
            ax = figure.add_axes((0.5 * column + 0.02, 0, 0.46, 0.46 * 5.6 / 2.95))
            draw_face(ax, face)
            ax.set_title(name, loc="center")
    return figure, (
        f"What the networks in {first} and {second} say to one sound. Second face: {_in_words(_change(before, after))}."
    )


# -------------------------------------------------------------------------------------------------------- many flips


@dataclass(frozen=True, kw_only=True)
class Flipped:
    """What came of one flip: how far the face moved (NaN: it is none), what torch.load and the checksums said."""

    bit: int
    change: float
    face: Tensor
    is_loaded: bool
    is_found: bool


def flip_many(path: str | Path, *, each: int, seed: int) -> tuple[Flipped, ...]:
    """Flip every bit of `each` weights that are drawn, one bit at a time, in a copy of a file; load it each time."""
    before = says(path)
    found = []
    with _copy(path) as copy:
        for _, weight in zip(range(each), draws(Path(path), seed), strict=False):
            for bit in BITS:
                flip(copy, weight, bit)
                found.append(_examined(copy, before, bit))
                flip(copy, weight, bit)  # back
    return tuple(found)


def _examined(path: Path, before: Tensor, bit: int) -> Flipped:
    try:
        after = says(path)
    except Exception:
        return Flipped(bit=bit, change=0.0, face=before[0], is_loaded=False, is_found=_is_found(path))
    return Flipped(bit=bit, change=_change(before, after), face=after[0], is_loaded=True, is_found=_is_found(path))


def _is_found(path: Path) -> bool:
    """Say whether a checksum in the file does not fit."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is not None


_KINDS: Mapping[str, tuple[str, str]] = {  # what a face became: its colour and its marker
    "NaN": (VERMILLION, "X"),
    "another face": (BLUE, "D"),
    "looks the same": (GREEN, "o"),
}


def _kind(one: Flipped) -> str:
    return "NaN" if one.change != one.change else "another face" if one.change > _VISIBLE else "looks the same"


def survey(flips: Sequence[Flipped]) -> tuple[Figure, str]:
    """Draw, bit by bit, how far each flip moved the face; beside it the face that moved most, of each kind."""
    least, most = 1e-9, 30.0  # where no change and NaN are drawn
    across = _side_by_side(flips)
    with style():
        figure = Figure(figsize=(9, 4.4))
        grid = figure.add_gridspec(3, 2, width_ratios=[4.2, 1])
        ax = figure.add_subplot(grid[:, 0])
        for row, (kind, (colour, marker)) in enumerate(_KINDS.items()):
            seen = [place for place, one in enumerate(flips) if _kind(one) == kind]
            heights = [most if kind == "NaN" else max(flips[place].change, least) for place in seen]
            look: dict[str, Any] = {"linestyle": "", "marker": marker, "color": colour}
            ax.plot([across[place] for place in seen], heights, markersize=4, **look)
            small = figure.add_subplot(grid[row, 1])
            if seen:
                draw_face(small, max((flips[place] for place in seen), key=lambda one: np.nan_to_num(one.change)).face)
            else:
                small.set_axis_off()
            small.set_title(kind, color=colour, loc="center", fontsize=11)
        ax.axhline(_VISIBLE, color=BLACK, linewidth=1, linestyle=":")
        ax.text(31.3, 1.5 * _VISIBLE, "visible above this line", ha="right")
        ax.set(yscale="log", ylim=(least / 3, 5 * most), xlim=(-0.6, 31.6), ylabel="largest change in a face of 0 to 1")
        ax.set_yticks([most, 1, 1e-3, 1e-6, least], ["NaN", "1", "$10^{-3}$", "$10^{-6}$", "none"])
        parts = [(name, colour, high, low, 31 - (high + low) / 2) for name, colour, high, low in PARTS_OF_A_FLOAT]
        names = [f"{high if high == low else f'{high} to {low}'}\n{name}" for name, _, high, low, _ in parts]
        ax.set_xticks([middle for *_, middle in parts], names)
        ax.tick_params(axis="x", length=0)
        ax.minorticks_off()
        ax.grid(axis="x", visible=False)
        for _, colour, high, low, _ in parts:
            ax.axvspan(30.5 - high, 31.5 - low, color=colour, alpha=0.09, linewidth=0)
        if alike := _alike(flips):
            said = f"bits {alike[0]} to {alike[-1]}:\nthe weight is\nnow nearly 0"
            ax.text(31 - sum(alike) / len(alike), 7e-7, said, ha="center", va="center")
        ax.set_xlabel(f"the bit that was flipped; a dot for each of {len(flips) // len(BITS)} weights")
    return figure, _told(flips)


def _alike(flips: Sequence[Flipped]) -> list[int]:
    """Return the bits of the exponent, from 29 down, that do what 29 does: they bring the weights to nearly 0."""
    changes = {bit: [one.change for one in flips if one.bit == bit] for bit in range(29, 22, -1)}
    alike = takewhile(lambda bit: np.allclose(changes[bit], changes[29], rtol=0.05, atol=0), changes)
    return bits if len(bits := list(alike)) > 1 else []


def _side_by_side(flips: Sequence[Flipped]) -> list[float]:
    """Return where on the axis of bits each flip is drawn: those of one bit beside each other."""
    total, seen = Counter(one.bit for one in flips), Counter[int]()
    places = []
    for one in flips:
        seen[one.bit] += 1
        places.append(31 - one.bit + 0.7 * (seen[one.bit] / (1 + total[one.bit]) - 0.5))
    return places


def _told(flips: Sequence[Flipped]) -> str:
    weights = len(flips) // len(BITS)
    loaded, found = sum(one.is_loaded for one in flips), sum(one.is_found for one in flips)
    return (
        f"{len(flips)} flips: each of the {len(BITS)} bits of {weights} weights. Loaded without an error: {loaded}. "
        f"Found by checksums: {found}.\n"
        f"NaN came from {_bits_that_made('NaN', flips)}, another face from {_bits_that_made('another face', flips)}."
    )


def _bits_that_made(kind: str, flips: Sequence[Flipped]) -> str:
    bits = sorted({one.bit for one in flips if _kind(one) == kind}, reverse=True)
    return f"bit{'s' * (len(bits) > 1)} {', '.join(map(str, bits))} only" if bits else "no bit"


# --------------------------------------------------------------------------------------------------------- the widget


def one_flip(path: str | Path, weight: Weight, bit: int, *, titled: bool = False) -> tuple[Figure, str]:
    """Flip a bit of a weight in a copy of a file, load it, and draw number, bits and face before and after."""
    with _copy(path) as copy:
        flip(copy, weight, bit)
        rows = {"before": bits_of(path, weight), "after": bits_of(copy, weight)}
        before, after = says(path), says(copy)
        is_found = _is_found(copy)
    caption = (
        f"Bit {bit} of {weight} ({_part_of(bit)[0]}): {_effect(rows['before'], bit)}.\ntorch.load: no error. "
        f"The face: {_in_words(_change(before, after))}. Checksum: {'does not fit' if is_found else 'fits'}."
    )
    numbers = {name: _number(row) for name, row in rows.items()}
    with style():
        width, height = 9, 4.62 if titled else 4.05  # inches
        figure = placed(width, height)
        if titled:
            figure.text(0.01, 0.985, caption, va="top", linespacing=1.35)
        for column, (name, value) in enumerate(numbers.items()):
            colour = (BLACK, VERMILLION)[column]
            left, side = 0.5 * column, 0.265 * width
            ax = figure.add_axes((left + 0.2, 1.62 / height, 0.265, side / height))
            draw_face(ax, (before, after)[column][0])
            text: dict[str, Any] = {"ha": "center", "color": colour}
            figure.text(left + 0.105, 3.2 / height, name, **text)
            figure.text(left + 0.105, 2.75 / height, _scientific(value), fontsize=16, **text)
        ax = figure.add_axes((0.085, 0.09 / height, 0.905, 1.5 / height))
        _bits(ax, rows, bit)
    return figure, caption


def _bits(ax: Axes, rows: Mapping[str, str], flipped: int) -> None:
    ax.text(-0.8, -0.8, "bit", ha="right", va="center")
    for x, bit in enumerate(BITS):
        weight = "bold" if bit == flipped else "normal"
        ax.text(x, -0.8, str(bit), ha="center", va="center", fontsize=10, fontweight=weight)
    for y, (name, row) in enumerate(rows.items()):
        ax.text(-0.8, y, name, ha="right", va="center")
        for x, digit in enumerate(row):
            is_it = 31 - x == flipped
            colour = VERMILLION if is_it else _part_of(31 - x)[1]
            is_loud = is_it and name == "after"
            box: dict[str, Any] = {"width": 0.9, "height": 0.86, "linewidth": 0, "facecolor": colour}
            ax.add_artist(Rectangle((x - 0.45, y - 0.43), alpha=1.0 if is_loud else 0.16, **box))
            colour, bold = ("white" if is_loud else BLACK), ("bold" if is_it else "normal")
            ax.text(x, y, digit, ha="center", va="center", color=colour, fontweight=bold)
    for name, colour, high, low in PARTS_OF_A_FLOAT:
        ax.text(31 - (high + low) / 2, 1.95, name, ha="center", va="center", color=colour, fontweight="bold")
    ax.set(xlim=(-0.6, 31.6), ylim=(2.4, -1.15))
    ax.set_axis_off()


def _number(row: str) -> float:
    number: float = struct.unpack("<f", struct.pack("<I", int(row, 2)))[0]
    return number


def _scientific(value: float) -> str:
    if not np.isfinite(value) or value == 0:
        return str(value).replace("-", "−")
    if 1e-4 <= abs(value) < 1e4:
        return f"{value:.5f}".replace("-", "−")  # as a power of ten has it
    digits, _, power = f"{value:.2e}".partition("e")
    return rf"${digits} \times 10^{{{int(power)}}}$"


def _part_of(bit: int) -> tuple[str, str]:
    """Return the part of a float that a bit belongs to, and its colour."""
    return next((name, colour) for name, colour, high, low in PARTS_OF_A_FLOAT if low <= bit <= high)


def _effect(before: str, bit: int) -> str:
    """Say what a flip does to the number, as far as it does not depend on the number's last digits."""
    if bit == 31:
        return "the number changes its sign"
    if bit < 23:
        return f"the number changes by at most 1/{2 ** (23 - bit):,} of itself"
    power = 2 ** (bit - 23)
    large = before[31 - bit] == "0"
    return f"the number becomes 2^{power} times as {'large' if large else 'small'}"


_png = partial(to_small_png, dpi=180, colours=48)  # a notebook holds two of these


class WhichBit(View):
    """A slider over the 32 bits of one weight, and the picture of what flipping that bit on the disk does.

    `value` is the bit; to set it moves the slider. Where nothing runs the picture alone is shown.
    """

    def __init__(self, path: str | Path, weight: Weight, bit: int = 30) -> None:
        self._path, self._weight = path, weight
        self._slider = SelectionSlider(
            options=list(BITS), value=bit, description="bit", continuous_update=False, layout=Layout(width="700px")
        )
        self._slider.observe(self._draw, "value")
        super().__init__(self._slider, lines=2)
        self._draw()

    @property
    def value(self) -> int:
        """The bit that is flipped."""
        bit: int = self._slider.value
        return bit

    @value.setter
    def value(self, bit: int) -> None:
        if bit not in BITS:
            raise ValueError(f"bit: expected 0 to 31, found {bit!r}")
        self._slider.value = bit

    def _draw(self, change: object = None) -> None:
        figure, caption = one_flip(self._path, self._weight, self.value)  # the caption stands below it
        self._show(_png(figure), caption)

    def _still(self) -> bytes:
        return _png(one_flip(self._path, self._weight, self.value, titled=True)[0])
