"""52 numbers drawn as a friendly face, small enough to stand in a figure and clear enough to be read from its lips.

The canvas is x and y from -1 to 1. Left and right are the character's own, as in ARKit: "mouthSmileLeft" lifts the
corner of the mouth that a reader sees on the right. Every patch carries the name of its part of the face as its `gid`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from koemorph_tutorial.teaching.mouth import ALONG, Mouth
from koemorph_tutorial.teaching.pen import LINE, Array, Pen, between, curve, mirror, oval
from koemorph_tutorial.training.phonemes import ARKIT_NAMES

_SIDES = (("Left", 1), ("Right", -1))  # the character's left is the reader's right: x above 0
_DIZZY = np.isin(ARKIT_NAMES, ("jawOpen", "browInnerUp")) * 1.0  # what a NaN counts as


def draw_face(axes: Axes, blendshapes: Any) -> None:
    """Draw a face into axes of any size, which it takes over: their limits, their aspect, and an opaque background.

    `blendshapes`, (52,), are numbers in the order of ARKIT_NAMES, as an array or a tensor; below 0 counts as 0, above 1
    as 1. A NaN makes the face dizzy: its eyes are spirals, and a NaN counts as 1 for jawOpen and browInnerUp, else as
    0. So a network that was wrecked cries out, and looks like nothing that speech could do. Raises ValueError for
    another shape.

    >>> from matplotlib.figure import Figure
    >>> from koemorph_tutorial.training.phonemes import pose
    >>> axes = Figure(figsize=(2, 2)).add_axes((0, 0, 1, 1))
    >>> draw_face(axes, pose("a"))
    >>> "upper teeth" in {patch.get_gid() for patch in axes.patches}
    True
    """
    numbers = to_array(blendshapes)
    if numbers.shape != (len(ARKIT_NAMES),):
        raise ValueError(f"blendshapes: expected shape ({len(ARKIT_NAMES)},), found {numbers.shape}")
    missing = np.isnan(numbers)
    values = dict(zip(ARKIT_NAMES, np.clip(np.where(missing, _DIZZY, numbers), 0, 1).tolist(), strict=True))
    pen = Pen(axes)
    _draw_head(pen, values)
    _draw_nose(pen, values)
    for side, sign in _SIDES:
        _draw_cheek(pen, values, side, sign)
        if missing.any():
            _draw_dizzy_eye(pen, side, sign)
        else:
            _draw_eye(pen, values, side, sign)
    _draw_mouth(pen, Mouth.of(values, floor=_chin(values) + 0.06), values["tongueOut"])
    _draw_fringe(pen)
    for side, sign in _SIDES:
        _draw_brow(pen, values, side, sign)


def to_array(numbers: Any) -> Array:
    """Return an array of floats, of a tensor too, be it on another device or one that needs gradients."""
    if hasattr(numbers, "detach"):
        numbers = numbers.detach().cpu().double()
    return np.asarray(numbers, np.float64)


def _chin(values: Mapping[str, float]) -> float:
    """Return how high the tip of the chin lies."""
    return -0.76 - 0.17 * values["jawOpen"] - 0.03 * values["jawForward"] + 0.01 * values["mouthShrugLower"]


def _draw_head(pen: Pen, values: Mapping[str, float]) -> None:
    """Draw the hair behind, and a head whose chin follows the jaw."""
    crown = [(0.0, 0.97), (0.42, 0.90), (0.72, 0.62), (0.82, 0.22)]
    ends = [(0.83, -0.22), (0.76, -0.50), (0.58, -0.60), (0.30, -0.50), (0.0, -0.50)]
    pen.fill("hair", curve(mirror([*crown, *ends]), closed=True), "hair")

    chin, puff = _chin(values), 0.07 * values["cheekPuff"]
    skull = [(0.0, 0.84), (0.36, 0.78), (0.62, 0.50), (0.67, 0.15), (0.66 + puff, -0.18)]
    jaw = [(0.56 + puff, 0.27 * chin - 0.27), (0.31, chin + 0.08), (0.0, chin)]
    outline = mirror([*skull, *jaw])
    aside = 0.14 * (values["jawLeft"] - values["jawRight"])
    outline[:, 0] += aside * np.clip(-0.2 - outline[:, 1], 0, 0.5) / 0.5  # below the cheeks, more and more
    pen.fill("head", curve(outline, closed=True), "skin", line="line")

    push = values["jawForward"] + 0.6 * values["mouthShrugLower"]
    if push > 0:
        wide, high = 0.04 + 0.12 * push, chin + 0.08
        dent = [(aside - wide, high + 0.03 * push), (aside, high), (aside + wide, high + 0.03 * push)]
        pen.line("chin", dent, "shade", LINE * push**0.5)


def _draw_nose(pen: Pen, values: Mapping[str, float]) -> None:
    """Draw the tip of the nose, whose wings rise when it sneers, and wrinkles beside its bridge."""
    left, right = (0.08 * values["noseSneer" + side] for side, _ in _SIDES)
    pen.line("nose", [(-0.05, right - 0.12), (0.0, 0.1 * (left + right) - 0.15), (0.05, left - 0.12)])
    for side, sign in _SIDES:
        if (sneer := values["noseSneer" + side]) > 0:
            wrinkle = [(0.07 * sign, 0.03), ((0.09 + 0.03 * sneer) * sign, 0.01 - 0.05 * sneer)]
            pen.line("wrinkle " + side, wrinkle, "shade", LINE * sneer**0.5)


def _draw_cheek(pen: Pen, values: Mapping[str, float], side: str, sign: int) -> None:
    """Draw the blush of a cheek, which rises when it squints and grows when it is puffed."""
    squint, puff = values["cheekSquint" + side], values["cheekPuff"]
    size = 1 + 0.25 * squint + 0.35 * puff
    middle = (0.45 * sign, -0.19 + 0.07 * squint - 0.03 * puff)
    pen.fill("cheek " + side, oval(middle, 0.125 * size, 0.08 * size), "blush")


def _draw_eye(pen: Pen, values: Mapping[str, float], side: str, sign: int) -> None:
    """Draw an eye between its two lids; in a blink the upper lid comes down to the lower one."""
    blink, wide, squint = (values[f"eye{what}{side}"] for what in ("Blink", "Wide", "Squint"))
    out, up = (values[f"eyeLook{a}{side}"] - values[f"eyeLook{b}{side}"] for a, b in (("Out", "In"), ("Up", "Down")))
    x, arc = 0.29 * sign + 0.13 * ALONG, (1 - np.abs(ALONG) ** 2.4) ** 0.5
    lower = 0.07 - arc * (0.13 + 0.02 * wide - 0.07 * squint - 0.03 * values["cheekSquint" + side]) * (1 - 0.5 * blink)
    upper = lower + (0.07 + arc * (0.145 + 0.06 * wide - 0.03 * squint) - lower) * (1 - blink)
    if blink < 0.9:
        eye = pen.fill("eye " + side, between(x, upper, lower), "white")
        iris = ((0.28 + 0.05 * out) * sign, 0.075 + 0.06 * up)
        pen.fill("iris " + side, oval(iris, 0.102, 0.125), "iris", within=eye)
        pen.fill("pupil " + side, oval(iris, 0.058, 0.074), "pupil", within=eye)
        pen.fill("light " + side, oval((iris[0] + 0.034, iris[1] + 0.048), 0.030, 0.034), "white", within=eye)
        pen.line("lower lid " + side, [*zip(x, lower, strict=True)][3:-3], "shade", 0.6 * LINE)
    lash = (0.455 * sign, 0.09 - 0.05 * blink)
    pen.line("upper lid " + side, [*zip(x[::sign], upper[::sign], strict=True), lash], width=1.4 * LINE)


def _draw_dizzy_eye(pen: Pen, side: str, sign: int) -> None:
    """Draw a spiral where a number is none: clear, and more funny than frightening."""
    turn = np.linspace(0, 5 * np.pi, 41)
    radius = 0.02 + 0.11 * turn / turn[-1]
    spiral = np.stack([sign * (0.29 + radius * np.cos(turn)), 0.08 + radius * np.sin(turn)], 1)
    pen.fill("eye " + side, oval((0.29 * sign, 0.08), 0.15, 0.16), "white", line="line")
    pen.line("spiral " + side, spiral)


def _draw_brow(pen: Pen, values: Mapping[str, float], side: str, sign: int) -> None:
    """Draw a brow from its inner to its outer end."""
    down, inner, outer = values["browDown" + side], values["browInnerUp"], values["browOuterUp" + side]
    brow = [
        (0.14 * sign, 0.36 + 0.115 * inner - 0.11 * down),
        (0.28 * sign, 0.39 + 0.085 * inner + 0.06 * outer - 0.085 * down),
        (0.44 * sign, 0.35 + 0.01 * inner + 0.11 * outer - 0.03 * down),
    ]
    pen.line("brow " + side, brow, "brow", 1.8 * LINE)


def _draw_fringe(pen: Pen) -> None:
    """Draw the hair that falls onto the forehead."""
    outer = [(-0.72, -0.10), (-0.81, 0.30), (-0.69, 0.66), (-0.42, 0.90), (0.0, 0.97)]
    outer += [(-x, y) for x, y in outer[-2::-1]]
    inner = [(0.62, 0.38), (0.46, 0.56), (0.20, 0.60), (-0.12, 0.72), (-0.36, 0.62), (-0.58, 0.40)]
    pen.fill("fringe", curve([*outer, *inner], closed=True), "hair")
    pen.line("shine", [(-0.46, 0.74), (-0.22, 0.84), (0.06, 0.87)], "shine", 1.5 * LINE)


def _draw_mouth(pen: Pen, mouth: Mouth, tongue_out: float) -> None:
    """Draw lips, between them teeth and tongue as far as they open, and dimples beside them."""
    opening = between(mouth.inner_x, mouth.top, mouth.bottom)
    pen.fill("lips", between(mouth.outer_x, mouth.lip_top, mouth.lip_bottom), "lips", line="lip line", width=0.5 * LINE)
    inside = pen.fill("mouth", opening, "mouth")
    x, y = mouth.inner_x[len(ALONG) // 2], mouth.bottom[len(ALONG) // 2]
    pen.fill("tongue", oval((x, y), 0.31 * np.ptp(mouth.inner_x), mouth.tongue), "tongue", within=inside)
    rows = (("lower", mouth.bottom, mouth.lower_teeth), ("upper", mouth.top, -mouth.upper_teeth))
    for row, gums, length in rows:
        if np.any(length):
            teeth = between(mouth.inner_x, gums, np.clip(gums + length, mouth.bottom, mouth.top))
            pen.fill(row + " teeth", teeth, "white", within=inside, line="shade", width=0.4 * LINE)
    pen.fill("opening", opening, "", line="line", width=0.7 * LINE)
    if tongue_out > 0:
        long = 0.03 + 0.08 * tongue_out
        pen.fill("tongue out", oval((x, mouth.tongue_tip + long), 0.10, long), "tongue", line="line", width=0.5 * LINE)
    for side, sign in _SIDES:
        if (depth := mouth.dimples[side]) > 0:
            x, y = mouth.outer_x[::sign][-1], mouth.top[::sign][-1]
            fold = [(x + 0.03 * sign, y + 0.05), (x + 0.055 * sign, y), (x + 0.03 * sign, y - 0.05)]
            pen.line("dimple " + side, fold, "shade", depth * LINE)
