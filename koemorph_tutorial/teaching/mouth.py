"""The shape of a mouth, from the blendshapes that move it: curves on the canvas of the face, nothing drawn yet.

What a reader tells vowels apart by is how wide, how high, how round the mouth is, and whether teeth show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from koemorph_tutorial.teaching.pen import Array

ALONG = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 13))  # from -1 to 1, closer together at the ends, where curves bend
_CORNER = np.abs(ALONG)  # 0 in the middle of the mouth, 1 at its corners
_LEFT = (1 + ALONG) / 2  # how much a point belongs to the character's left, which is the reader's right


@dataclass(frozen=True, kw_only=True, eq=False)
class Mouth:
    """Hold a mouth as curves, (13,) each, from the reader's left corner to the right one."""

    outer_x: Array  # of the lips
    inner_x: Array  # of what they open
    lip_top: Array
    top: Array
    bottom: Array
    lip_bottom: Array
    upper_teeth: float  # how far down they reach
    lower_teeth: Array  # how far up
    tongue: float  # how high it lies
    tongue_tip: float  # how low it reaches when it is out
    dimples: Mapping[str, float]  # how deep, per side

    @classmethod
    def of(cls, values: Mapping[str, float], *, floor: float) -> Mouth:
        """Return the mouth of a face whose `values`, 0 to 1, go by the names of ARKit. It ends above `floor`."""
        pucker, jaw = values["mouthPucker"], values["jawOpen"]
        roundness = min(1.0, 0.8 * pucker + 0.6 * values["mouthFunnel"])
        half = 0.27 * (1 - 0.70 * pucker) * (1 - 0.35 * values["mouthFunnel"]) * (1 - 0.12 * jaw)

        smile, stretch, dimple = (_sides(values, "mouth" + name) for name in ("Smile", "Stretch", "Dimple"))
        reach = half + (0.07 * smile + 0.085 * stretch + 0.03 * dimple) * (1 - 0.6 * roundness)
        centre = 0.10 * (values["mouthLeft"] - values["mouthRight"]) + 0.04 * (values["jawLeft"] - values["jawRight"])
        lift = 0.03 * (1 - roundness) + 0.10 * smile - 0.11 * _sides(values, "mouthFrown") - 0.02 * stretch
        height = -0.38 - 0.04 * jaw + 0.03 * values["mouthShrugLower"] + 0.03 * values["mouthClose"] * (1 - jaw)
        middle = height + lift * np.minimum(1, reach / 0.27) * _CORNER**1.7

        up, down = _opening(values, roundness, most=3 * half)  # no higher slit than lips can form
        above, below = _lips(values, roundness)
        down = np.clip(down, 0, np.maximum(0, middle - below - floor))
        teeth = max(0.0, 1 - 1.6 * roundness)  # round lips hide them
        return cls(
            outer_x=centre + ALONG * reach,
            inner_x=centre + ALONG * reach * (1 - 0.20 * roundness - 0.20 * pucker),
            lip_top=middle + up + above,
            top=middle + up,
            bottom=middle - down,
            lip_bottom=middle - down - below,
            upper_teeth=0.075 * teeth,
            lower_teeth=0.16 * np.clip(stretch - 0.1, 0, None) * max(0.0, 1 - 2.5 * jaw) * teeth,
            tongue=0.42 * float(np.max(up + down)) * max(0.6, teeth),
            tongue_tip=max(floor, float((middle - down)[len(ALONG) // 2]) - 0.01 - 0.16 * values["tongueOut"]),
            dimples={
                side: max(values["mouthDimple" + side], values["mouthPress" + side], 0.8 * values["mouthSmile" + side])
                for side in ("Left", "Right")
            },
        )


def _opening(values: Mapping[str, float], roundness: float, *, most: float) -> tuple[Array, Array]:
    """Return how far the lips part, upwards and downwards: an ellipse if they are round, else flat on top."""
    pucker, funnel = values["mouthPucker"], values["mouthFunnel"]
    gap = 0.42 * max(0.0, values["jawOpen"] - values["mouthClose"]) * (1 - 0.5 * pucker)
    gap = min(most, gap + 0.15 * funnel * (1 - 0.5 * pucker) + 0.03 * pucker + 0.04 * values["tongueOut"])
    curved = min(1.0, 1.5 * roundness)
    arc = (1 - _CORNER ** (2.4 - 0.4 * curved)) ** (0.7 - 0.2 * curved) * (1 - _sides(values, "mouthPress"))
    pulled = 1 - 0.7 * pucker
    up = (0.3 + 0.2 * roundness) * gap + 0.08 * pulled * _sides(values, "mouthUpperUp")
    down = (0.7 - 0.2 * roundness) * gap + 0.09 * pulled * _sides(values, "mouthLowerDown")
    return arc * up, arc * down


def _lips(values: Mapping[str, float], roundness: float) -> tuple[Array, Array]:
    """Return how thick the lips are, the upper one with a bow in its middle, and the lower one."""
    thickness = 0.038 + 0.030 * roundness + 0.020 * values["mouthPucker"]
    full = thickness * (1 - 0.5 * _sides(values, "mouthPress")) * (1 - _CORNER**2) ** 0.5
    bow = (0.8 + 0.2 * roundness) * (1 - 0.3 * (1 - roundness) * np.exp(-((ALONG / 0.25) ** 2)))
    upper = bow * (1 - 0.9 * values["mouthRollUpper"]) + 0.8 * values["mouthShrugUpper"]
    lower = 1 - 0.9 * values["mouthRollLower"] + 0.6 * values["mouthShrugLower"]
    return full * upper, full * lower


def _sides(values: Mapping[str, float], name: str) -> Array:
    """Return a value of both sides, blended from one corner of the mouth to the other."""
    right, left = values[name + "Right"], values[name + "Left"]
    return right + (left - right) * _LEFT
