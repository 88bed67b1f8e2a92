"""The figures of the lessons: one style, nothing of the reader's changed, nothing that overlaps."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from koemorph_tutorial.teaching.figures import LINES, first_step, style, to_png
from koemorph_tutorial.training.phonemes import pose

STEPS = {"careful": np.linspace(0, 0.3, 1000), "leaping": np.full(1000, 0.99)}
FACES = {"a": pose("a"), "i": pose("i")}


def luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_five_lines_are_told_apart_without_colour_and_seen_on_white() -> None:
    assert 5 == len({str(line["linestyle"]) for line in LINES}) == len({line["marker"] for line in LINES})
    contrasts = [1.05 / (luminance(line["color"]) + 0.05) for line in LINES]
    assert [] == [contrast for contrast in contrasts if contrast < 3]


def test_a_reader_s_own_style_is_neither_used_nor_changed() -> None:
    with mpl.rc_context({"figure.facecolor": "black", "font.size": 30.0, "savefig.bbox": "tight"}):
        before = dict(mpl.rcParams)
        odd = to_png(first_step(STEPS, FACES))
        assert before == dict(mpl.rcParams)
    assert to_png(first_step(STEPS, FACES)) == odd


def test_a_png_is_opaque_white_and_small() -> None:
    png = to_png(first_step(STEPS, FACES))
    image = Image.open(io.BytesIO(png))
    assert ("P", (255, 255, 255)) == (image.mode, image.convert("RGB").getpixel((2, 2)))
    assert "transparency" not in image.info
    assert len(png) < 80_000


def test_equal_figures_are_equal_bytes() -> None:
    assert to_png(first_step(STEPS, FACES)) == to_png(first_step(STEPS, FACES))


@pytest.mark.parametrize("steps", [STEPS, {"one": np.zeros(10)}, {"long": np.full(10, 7.0), "short": np.full(10, 0.1)}])
def test_the_names_of_the_runs_stand_within_the_axes(steps: dict[str, np.ndarray]) -> None:
    figure = first_step(steps, FACES)
    figure.canvas.draw()
    axes = figure.axes[0]
    for text in axes.texts:
        box = text.get_window_extent()
        assert axes.bbox.x0 <= box.x0, text.get_text()
        assert box.x1 <= axes.bbox.x1, text.get_text()
    assert list(steps) == [text.get_text() for text in axes.texts]


def test_text_is_at_least_as_large_as_the_notebook_s() -> None:
    with style():
        assert mpl.rcParams["font.size"] >= 10.5  # 14 pixels at 96 to an inch
    figure = first_step(STEPS, FACES)
    labels = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, *axes.get_xticklabels())]
    assert min(text.get_fontsize() for text in labels) >= 10.5


def test_a_plain_figure_keeps_its_look() -> None:
    """`to_png` takes any figure, also one that a reader made."""
    figure = Figure(figsize=(2, 1), facecolor="red")
    assert (255, 0, 0) == Image.open(io.BytesIO(to_png(figure))).convert("RGB").getpixel((5, 5))
