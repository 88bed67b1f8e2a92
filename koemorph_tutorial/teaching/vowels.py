"""Five moments of speech, one a vowel, and a lip reader: what a network says to them can be looked at, and read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from koemorph_tutorial.text import count
from koemorph_tutorial.training.dataset import cut_windows
from koemorph_tutorial.training.phonemes import pose
from koemorph_tutorial.training.settings import DataConfig
from koemorph_tutorial.training.voices import HOP, SAMPLE_RATE, make_voice

from .face import draw_face
from .figures import GREEN, VERMILLION, placed, style, to_png
from .talking import talking_face

VOWELS = "aiueo"
SPEAKER = "sora"  # one of those that no training hears
TRUTH = "as it should be"


@cache
def moments() -> tuple[Tensor, Tensor]:
    """Return audio, (5, samples), and the face that belongs to each, (5, 52): per vowel where it is said most clearly.

    >>> audio, faces = moments()
    >>> audio.shape, read(faces)
    (torch.Size([5, 6400]), 'aiueo')
    """
    data = DataConfig()
    voice, length = make_voice(SPEAKER, seconds=data.seconds, seed=data.seed), round(data.window_seconds * SAMPLE_RATE)
    first = length // 2 // HOP  # before it, and after the last, a window would reach over the end of the speech
    audio, faces = cut_windows(voice, data.most_windows("test"), length)
    labels = voice.labels[first : first + len(faces)]
    chosen = [
        min(
            (at for at, label in enumerate(labels) if label == vowel),
            key=lambda at, vowel=vowel: float(np.abs(faces[at].numpy() - pose(vowel)).sum()),  # type: ignore[misc]
        )
        for vowel in VOWELS
    ]
    return audio[chosen], faces[chosen]


def say(model: nn.Module) -> Tensor:
    """Return the faces, (5, 52), that a network makes to the five vowels, in the mode that it is in."""
    with torch.no_grad():
        found: Tensor = model(moments()[0])
    return found


def read(faces: Tensor) -> str:
    """Read faces from their lips: per face the vowel whose own face is nearest."""
    return "".join(VOWELS[nearest] for nearest in torch.cdist(faces, moments()[1]).argmin(1))


def is_right(read_vowels: str) -> list[bool]:
    """Say of each vowel that was read whether it is the one that was said."""
    return [vowel == said for vowel, said in zip(read_vowels, VOWELS, strict=True)]


def grid(rows: Mapping[str, Tensor], *, below: Mapping[str, str] | None = None) -> bytes:
    """Draw a row of five faces per name, and under each what a lip reader takes it for; `below` is put under a name.

    Returns a PNG of fewer dots than `to_png` writes: so many faces would fill a lesson.
    """
    below = below or {}
    title, face = 0.3, 1.34
    inches = title + face * len(rows) - (0.2 if TRUTH in rows else 0.0)  # below the truth there is nothing to read
    with style():
        figure = placed(7.2, inches)
        for column, said in enumerate(VOWELS):
            x = 0.28 + 0.16 * column
            figure.text(x, 1 - 0.1 / inches, f"“{said}”", ha="center", va="top", fontweight="bold")
        for row, (name, faces) in enumerate(rows.items()):
            middle = 1 - (title + (row + 0.5) * face) / inches
            figure.text(0.005, middle, name, fontweight="bold", va="bottom" if name in below else "center")
            figure.text(0.005, middle - 0.06 / inches, below.get(name, ""), va="top")
            for column, vowel in enumerate(read(faces)):
                ax = figure.add_axes((0.2 + 0.16 * column, middle - 0.33 * face / inches, 0.16, 0.83 * face / inches))
                draw_face(ax, faces[column])
                if name != TRUTH:
                    colour, mark = (GREEN, "✓") if vowel == VOWELS[column] else (VERMILLION, "✗")
                    ax.text(0, -1.02, f"reads {vowel} {mark}", color=colour, ha="center", va="top", fontsize=11)
    return to_png(figure, dpi=130)


def ways(models: Mapping[str, nn.Module]) -> tuple[bytes, str]:
    """Draw what networks say, and say which of them can be read from the lips."""
    faces = {name: say(model) for name, model in models.items()}
    said = "; ".join(f"{how_read(read(found))} ({' '.join(name.split())})" for name, found in faces.items())
    return grid(faces), f"Five vowels, read from the lips: {said}."


def how_read(read_vowels: str) -> str:
    """Say in words what was read; a face that never changes is right once, by luck.

    >>> how_read("aiueo"), how_read("aiuea"), how_read("eeeee")
    ('all right', 'not all', 'always e')
    """
    if len(set(read_vowels)) == 1:
        return f"always {read_vowels[0]}"
    return "all right" if all(is_right(read_vowels)) else "not all"


def trembling(model: nn.Module, times: int = 12) -> tuple[bytes, str]:
    """Show the faces that a network makes to one sound, asked again and again; count them, and read their lips."""
    sound = moments()[0][1:2]
    with torch.no_grad():
        faces = torch.cat([model(sound) for _ in range(times)])
    different, is_read = len(faces.unique(dim=0)), set(read(faces)) == {"i"}
    png = talking_face(faces, faces_per_second=8, pixels=192)
    how = "all read right" if is_read else "not all read right"
    return png, f"One sound, an “i”, asked {times} times: {count(different, 'different face')}, {how}."
