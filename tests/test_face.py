"""The face: which vowel it says, that nothing tears at any extreme, and that it fits wherever it is drawn."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.transforms import Bbox

from koemorph_tutorial.teaching.face import draw_face
from koemorph_tutorial.teaching.mouth import Mouth
from koemorph_tutorial.teaching.pen import COLOURS
from koemorph_tutorial.training.voices import ARKIT_NAMES, SPEAKERS, make_voice, pose

Array = npt.NDArray[np.float64]


def face(**values: float) -> Array:
    """Return blendshapes: a name without a side stands for both sides."""
    sides = [(name, name.removesuffix("Left").removesuffix("Right")) for name in ARKIT_NAMES]
    return np.array([values.get(name, values.get(side, 0.0)) for name, side in sides])


def drawn(blendshapes: Any) -> dict[str, PathPatch]:
    axes = Figure(figsize=(2, 2)).add_axes((0, 0, 1, 1))
    draw_face(axes, blendshapes)
    return {str(patch.get_gid()): patch for patch in axes.patches if isinstance(patch, PathPatch)}


def box(blendshapes: Any, part: str) -> Bbox:
    """Return the box around a part of the face, on the canvas."""
    return drawn(blendshapes)[part].get_path().get_extents()


def pixels(figure: Figure) -> npt.NDArray[np.int64]:
    file = io.BytesIO()
    figure.savefig(file, format="rgba", dpi=100)
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    return np.frombuffer(file.getvalue(), np.uint8).reshape(height, width, 4).astype(int)


def photo(blendshapes: Any) -> npt.NDArray[np.int64]:
    figure = Figure(figsize=(2, 2))
    draw_face(figure.add_axes((0, 0, 1, 1)), blendshapes)
    return pixels(figure)


# What a wrecked network hands over: mostly the ends of the scale, all at once.
anything = st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0, 1), min_size=52, max_size=52).map(np.array)


# --------------------------------------------------------------------------------------------------- what a face says


@pytest.mark.parametrize(("measure", "order"), [("height", "aoeiu"), ("width", "ieaou")])
def test_vowels_differ_in_how_high_and_how_wide_the_mouth_is(measure: str, order: str) -> None:
    sizes = [getattr(box(pose(vowel), "mouth"), measure) for vowel in order]
    assert [] == [f"{order[k]} {order[k + 1]}" for k in range(4) if sizes[k] < 1.15 * sizes[k + 1]]


def test_only_o_and_u_are_round_and_hide_the_teeth() -> None:
    round_ones = {vowel for vowel in "aiueo" if "upper teeth" not in drawn(pose(vowel))}
    assert {"o", "u"} == round_ones
    assert box(pose("o"), "mouth").height > box(pose("o"), "mouth").width
    assert box(pose("u"), "lips").width < 0.5 * box(face(), "lips").width


def test_in_i_teeth_fill_the_mouth_and_in_a_and_e_it_stands_open_below_them() -> None:
    filled = set()
    for vowel in "iae":
        parts = drawn(pose(vowel))
        mouth = parts["mouth"].get_path().get_extents()
        middle = (0.0, (mouth.y0 + mouth.y1) / 2)
        teeth = [patch.get_path() for part, patch in parts.items() if part.endswith("teeth")]
        filled |= {vowel} if any(path.contains_point(middle) for path in teeth) else set()
    assert {"i"} == filled


def test_m_is_shut_and_a_blink_closes_the_eyes() -> None:
    assert box(pose("m"), "mouth").height < 0.04
    parts = drawn(face(eyeBlinkLeft=1.0))
    assert {"eye Right"} == {part for part in parts if part.startswith("eye ")}
    assert parts["upper lid Left"].get_path().get_extents().y1 < parts["upper lid Right"].get_path().get_extents().y1


@pytest.mark.parametrize(("side", "sign"), [("Left", 1), ("Right", -1)])
def test_left_and_right_are_those_of_the_character(side: str, sign: int) -> None:
    """The character's left is the reader's right, as in a face across the table."""
    parts = drawn(face(**{"mouthSmile" + side: 1.0}))
    mouth = np.asarray(parts["mouth"].get_path().vertices)
    corner, other = mouth[(sign * mouth[:, 0]).argmax()], mouth[(sign * mouth[:, 0]).argmin()]
    assert corner[1] > other[1] + 0.08
    for part in ("iris ", "brow ", "cheek ", "dimple "):
        assert 0 < sign * np.mean(np.asarray(parts[part + side].get_path().vertices)[:, 0])


def test_each_of_the_52_shapes_moves_something() -> None:
    rest = photo(face())
    still = [name for name in ARKIT_NAMES if np.sum(np.abs(photo(face(**{name: 1.0})) - rest).max(2) > 40) < 20]
    assert [] == still


def test_what_speech_moves_is_seen() -> None:
    """Even the shape that speech moves least, as far as it moves it, changes pixels of a face at 200 pixels."""
    speech = np.concatenate([make_voice(speaker, seconds=6).blendshapes for speaker in SPEAKERS])
    rest, most = photo(face()), speech.max(0)
    moved = [name for name, value in zip(ARKIT_NAMES, most, strict=True) if value > 0]
    assert len(moved) > 30
    unseen = [
        name
        for name, value in zip(ARKIT_NAMES, most, strict=True)
        if value > 0 and np.sum(np.abs(photo(face(**{name: float(value)})) - rest).max(2) > 16) < 5
    ]
    assert [] == unseen


# --------------------------------------------------------------------------------------------------- nothing tears


@settings(max_examples=40, deadline=None)
@given(anything)
def test_no_face_leaves_its_canvas_and_no_mouth_its_face(blendshapes: Array) -> None:
    parts = drawn(blendshapes)
    for part in set(parts) - {"tongue"}:  # of which no more is drawn than the mouth shows
        extent = parts[part].get_path().get_extents()
        assert min(extent.x0, extent.y0) >= -1
        assert max(extent.x1, extent.y1) <= 1
    head = parts["head"].get_path()
    for part in {"lips", "mouth", "tongue out"} & set(parts):
        corners = np.asarray(parts[part].get_path().vertices)[::3]
        assert head.contains_points(corners).all(), part


@settings(max_examples=40, deadline=None)
@given(anything)
def test_lips_never_cross_and_lids_never_turn_inside_out(blendshapes: Array) -> None:
    mouth = Mouth.of(dict(zip(ARKIT_NAMES, blendshapes.tolist(), strict=True)), floor=-0.7)
    for upper, lower in ((mouth.lip_top, mouth.top), (mouth.top, mouth.bottom), (mouth.bottom, mouth.lip_bottom)):
        assert (upper >= lower - 1e-12).all()
    assert (np.diff(mouth.inner_x) > 0).all()
    parts = drawn(blendshapes)
    for side in ("Left", "Right"):
        if "eye " + side in parts:
            points = np.asarray(parts["eye " + side].get_path().vertices)[::3]
            upper, lower = points[1:12, 1], points[:12:-1, 1]  # 13 points there, 11 back, the first one again
            assert (upper >= lower[1:12] - 1e-12).all()


@settings(max_examples=15, deadline=None)
@given(anything, st.lists(st.sampled_from([-np.inf, -1e30, -0.5, 1.5, 1e30, np.inf]), min_size=52, max_size=52))
def test_what_lies_outside_of_0_and_1_is_drawn_as_the_nearest_of_them(blendshapes: Array, far: list[float]) -> None:
    where = blendshapes == 0.0
    wild, tame = np.where(where, far, blendshapes), np.where(where, np.greater(far, 0), blendshapes)
    expected, found = drawn(tame), drawn(wild)
    assert expected.keys() == found.keys()
    for part, patch in expected.items():
        np.testing.assert_array_equal(patch.get_path().vertices, found[part].get_path().vertices)


def test_a_face_without_numbers_is_dizzy_and_cries_out() -> None:
    parts = drawn(np.full(52, np.nan))
    assert {"spiral Left", "spiral Right"} <= set(parts)
    assert box(np.full(52, np.nan), "mouth").height > box(pose("a"), "mouth").height


@pytest.mark.parametrize("name", ARKIT_NAMES)
def test_a_single_nan_is_enough_to_see_it(name: str) -> None:
    parts = drawn(pose("i") + np.where(np.isin(ARKIT_NAMES, name), np.nan, 0.0))
    assert "spiral Left" in parts
    assert all(np.isfinite(np.asarray(patch.get_path().vertices)).all() for patch in parts.values())


# --------------------------------------------------------------------------------------------- wherever it is drawn


def test_equal_numbers_make_equal_pictures_from_whatever_they_are() -> None:
    expected = photo(pose("e"))
    assert np.array_equal(expected, photo(pose("e")))
    assert np.array_equal(expected, photo(pose("e").tolist()))
    assert np.array_equal(expected, photo(torch.tensor(pose("e"), requires_grad=True)))
    half = torch.tensor(pose("e")).bfloat16()  # a type that numpy does not know
    assert np.array_equal(photo(half.double().numpy()), photo(half))


def test_lines_keep_their_share_of_a_face_of_any_size_and_of_one_that_is_resized_later() -> None:
    widths = {}
    for inches in (1.0, 4.0):
        figure = Figure(figsize=(inches, inches))
        axes = figure.add_axes((0, 0, 1, 1))
        draw_face(axes, pose("a"))
        for size in (inches, 2 * inches):
            figure.set_size_inches(size, size)
            figure.draw_without_rendering()
            widths[size] = {patch.get_gid(): patch.get_linewidth() for patch in axes.patches}
    assert {1.0, 2.0, 4.0, 8.0} == set(widths)
    for size, width in widths.items():
        assert {part: size * value for part, value in widths[1.0].items()} == pytest.approx(width)


@pytest.mark.parametrize(("part", "ground"), [("hair", "background"), ("text", "background"), ("brow", "skin")])
def test_what_must_be_seen_stands_out_from_its_ground(part: str, ground: str) -> None:
    """With a contrast of 3 : 1 at least, as WCAG 2.1 asks of graphics."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(COLOURS[colour])]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    darker, lighter = sorted([luminance(part), luminance(ground)])
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_a_face_leaves_the_axes_beside_it_alone() -> None:
    figure = Figure(figsize=(6, 2), layout="constrained")
    plot, beside = figure.subplots(1, 2)
    plot.plot([0, 1], [5, 7])
    before = plot.get_xlim(), plot.get_ylim()
    draw_face(beside, pose("u"))
    figure.draw_without_rendering()
    assert before == (plot.get_xlim(), plot.get_ylim())


@pytest.mark.parametrize(
    ("blendshapes", "line"),
    [
        (np.zeros((1, 52)), "blendshapes: expected shape (52,), found (1, 52)"),
        (np.zeros(51), "blendshapes: expected shape (52,), found (51,)"),
        (0.5, "blendshapes: expected shape (52,), found ()"),
    ],
)
def test_what_is_no_face_is_refused_in_one_line(blendshapes: Any, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        drawn(blendshapes)


def test_drawing_loads_neither_torch_nor_pyplot() -> None:
    script = "import sys, koemorph_tutorial.teaching.face; print({'torch', 'matplotlib.pyplot'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "set()" == ran.stdout.strip()
