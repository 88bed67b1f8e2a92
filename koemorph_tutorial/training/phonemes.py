"""What a mouth can say: the sounds of the synthetic voices, the face that belongs to each, and six speakers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

__all__ = ["ARKIT_NAMES", "BANDWIDTHS", "CONSONANTS", "LABELS", "NASAL", "SPEAKERS", "VOWELS"]
__all__ += ["Consonant", "Formants", "Speaker", "pose", "spread"]

# The order of Apple's list of ARFaceAnchor.BlendShapeLocation, by region of the face.
_NAMES = """
    eyeBlinkLeft eyeLookDownLeft eyeLookInLeft eyeLookOutLeft eyeLookUpLeft eyeSquintLeft eyeWideLeft
    eyeBlinkRight eyeLookDownRight eyeLookInRight eyeLookOutRight eyeLookUpRight eyeSquintRight eyeWideRight
    jawForward jawLeft jawRight jawOpen mouthClose mouthFunnel mouthPucker mouthLeft mouthRight
    mouthSmileLeft mouthSmileRight mouthFrownLeft mouthFrownRight mouthDimpleLeft mouthDimpleRight
    mouthStretchLeft mouthStretchRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper
    mouthPressLeft mouthPressRight mouthLowerDownLeft mouthLowerDownRight mouthUpperUpLeft mouthUpperUpRight
    browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft cheekSquintRight
    noseSneerLeft noseSneerRight tongueOut
"""
ARKIT_NAMES: tuple[str, ...] = tuple(_NAMES.split())


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """Hold what makes one voice different from another."""

    pitch: float  # Hz
    tract: float  # formants relative to an adult male's: a shorter vocal tract is above 1
    expression: float  # how far the face moves
    asymmetry: float  # above 0 the left half of the face moves more, below 0 the right half
    breath: float  # noise within the vowels


SPEAKERS: Mapping[str, Speaker] = MappingProxyType(
    {
        "haru": Speaker(pitch=115, tract=1.00, expression=1.00, asymmetry=0.04, breath=0.02),
        "aki": Speaker(pitch=205, tract=1.16, expression=1.10, asymmetry=-0.05, breath=0.05),
        "ren": Speaker(pitch=135, tract=1.04, expression=0.85, asymmetry=0.00, breath=0.03),
        "yuki": Speaker(pitch=235, tract=1.20, expression=0.95, asymmetry=0.06, breath=0.06),
        "sora": Speaker(pitch=165, tract=1.10, expression=1.05, asymmetry=-0.03, breath=0.04),
        "mei": Speaker(pitch=290, tract=1.30, expression=1.15, asymmetry=0.02, breath=0.05),
    }
)

Formants = tuple[float, float, float, float]  # F1 to F4 of an adult male, in Hz
VOWELS: Mapping[str, Formants] = MappingProxyType(
    {
        "a": (750, 1200, 2500, 3500),
        "i": (290, 2250, 3000, 3600),
        "u": (340, 1250, 2300, 3400),
        "e": (470, 1900, 2500, 3500),
        "o": (450, 800, 2500, 3400),
    }
)
NASAL: Formants = (260, 1000, 2200, 3200)
BANDWIDTHS: Formants = (70, 90, 130, 200)


@dataclass(frozen=True, kw_only=True)
class Consonant:
    """Hold how a consonant sounds: how long, how much voice, and a band of noise."""

    seconds: float
    voicing: float = 0.0
    noise: float = 0.0
    centre: float = 1000.0  # of the noise, in Hz
    width: float = 500.0  # of the noise, in Hz


CONSONANTS: Mapping[str, Consonant] = MappingProxyType(
    {
        "k": Consonant(seconds=0.06, noise=0.25, centre=1800, width=900),
        "s": Consonant(seconds=0.09, noise=0.30, centre=6000, width=1500),
        "sh": Consonant(seconds=0.09, noise=0.35, centre=3600, width=1200),
        "t": Consonant(seconds=0.05, noise=0.25, centre=4500, width=2000),
        "h": Consonant(seconds=0.07, noise=0.18, centre=1500, width=1500),
        "p": Consonant(seconds=0.07, noise=0.10, centre=1200, width=1200),
        "n": Consonant(seconds=0.06, voicing=0.5),
        "m": Consonant(seconds=0.08, voicing=0.5),
        "w": Consonant(seconds=0.07, voicing=0.7),
        "r": Consonant(seconds=0.04, voicing=0.6),
    }
)

# A name without a side stands for both sides. "" is silence: the face at rest.
_POSES: dict[str, dict[str, float]] = {
    "": {"mouthSmile": 0.08},
    "a": {"jawOpen": 0.78, "mouthLowerDown": 0.40, "mouthUpperUp": 0.28, "mouthStretch": 0.08},
    "i": {
        "jawOpen": 0.14,
        "mouthSmile": 0.62,
        "mouthStretch": 0.50,
        "mouthDimple": 0.30,
        "mouthLowerDown": 0.28,
        "mouthUpperUp": 0.18,
    },
    "u": {"jawOpen": 0.12, "mouthPucker": 0.75, "mouthFunnel": 0.18, "jawForward": 0.15},
    "e": {
        "jawOpen": 0.38,
        "mouthSmile": 0.38,
        "mouthStretch": 0.34,
        "mouthLowerDown": 0.34,
        "mouthUpperUp": 0.20,
        "noseSneer": 0.08,
    },
    "o": {"jawOpen": 0.46, "mouthFunnel": 0.72, "mouthPucker": 0.28},
    "m": {"mouthClose": 0.30, "jawOpen": 0.04, "mouthPress": 0.55, "mouthRollLower": 0.25, "mouthRollUpper": 0.18},
    "s": {"jawOpen": 0.06, "mouthStretch": 0.30, "mouthSmile": 0.15, "mouthLowerDown": 0.22},
    "sh": {"jawOpen": 0.08, "mouthFunnel": 0.45, "mouthPucker": 0.25, "mouthShrugUpper": 0.15},
    "w": {"jawOpen": 0.10, "mouthPucker": 0.85},
}
_POSES |= {label: {"jawOpen": 0.18, "mouthLowerDown": 0.12} for label in ("k", "t", "h", "n", "r")}
_POSES["p"] = _POSES["m"] | {"cheekPuff": 0.18}
LABELS: tuple[str, ...] = tuple(sorted(_POSES))


def pose(label: str) -> npt.NDArray[np.float64]:
    """Return the face that a sound aims at, (52,) numbers from 0 to 1 in the order of ARKIT_NAMES.

    Raises KeyError for a label that is not in LABELS.

    >>> float(pose("o")[ARKIT_NAMES.index("mouthFunnel")])
    0.72
    """
    return spread(_POSES[label])


def spread(values: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Return blendshapes, (52,), from the few that are not 0; a name without a side stands for both sides.

    >>> spread({"mouthSmile": 0.5}).sum()
    np.float64(1.0)
    """
    # "mouthSmileLeft" takes the value of "mouthSmile"; "mouthLeft" stays a name of its own: nothing moves "mouth".
    sides = (name.removesuffix("Left").removesuffix("Right") for name in ARKIT_NAMES)
    return np.array([values.get(name, values.get(side, 0.0)) for name, side in zip(ARKIT_NAMES, sides, strict=True)])
