"""The pictures at the door, in README and in lesson 01: the map of the ten lessons, and faces that talk."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Mapping
from itertools import pairwise
from operator import methodcaller
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from koemorph_tutorial.durable import refusals_named, write_file
from koemorph_tutorial.records import numbered_name
from koemorph_tutorial.training.dataset import cut_windows
from koemorph_tutorial.training.phonemes import spread
from koemorph_tutorial.training.settings import DataConfig
from koemorph_tutorial.training.voices import FRAME_RATE, SAMPLE_RATE, make_voice

from . import vowels
from .face import draw_face
from .figures import BLACK, BLUE, GREEN, VERMILLION, sheet, style, to_png
from .talking import talking_face, talking_faces

# What each lesson is about, and where it stands on the map: the route, the place along it, the row.
_ROUTES: Mapping[str, tuple[str, Mapping[str, tuple[str, float]]]] = {
    "my run crashed": (VERMILLION, {"01": ("state", 0.0), "02": ("storage", 3.2), "03": ("resume", 4.9)}),
    "I pay for disks": (GREEN, {"05": ("save policy", 0.0), "06": ("retention", 1.15), "07": ("compression", 2.3)}),
    "I inherit files": (BLUE, {"04": ("inference", 6.15), "08": ("validation", 7.25), "09": ("export", 8.5)}),
}
_END = ("10", "end to end", 9.8)
# The five parts of the way, each with a face: where it stands, and what moves.
_WAY: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "save": (1.0, {"mouthSmile": 0.25}),
    "crash": (3.2, {"jawOpen": 0.5, "mouthFunnel": 0.7, "eyeWide": 1.0, "browInnerUp": 1.0, "browOuterUp": 0.6}),
    "resume": (4.9, {"mouthSmile": 0.7, "eyeBlink": 1.0, "browInnerUp": 0.5, "cheekSquint": 0.7}),
    "trust": (6.7, {"browDownRight": 0.8, "browOuterUpLeft": 1.0, "eyeSquintRight": 0.7, "mouthLeft": 0.5}),
    "ship": (9.0, {"jawOpen": 0.55, "mouthSmile": 1.0, "mouthUpperUp": 0.4, "cheekSquint": 0.9, "eyeSquint": 0.4}),
}

_EPOCHS = (0, 3, 11)
_FIRST = 37  # the face that is shown where nothing moves: an open mouth


def lesson_map() -> Figure:
    """Draw the ten lessons as stations of three lines that meet in the last one, below the way that a run takes."""
    with style():
        figure, ax = sheet(12, 4.2)
        ax.set(xlim=(-2.3, 10.85), ylim=(-0.85, 3.8))
        for name, (x, shapes) in _WAY.items():
            face = ax.inset_axes((x - 0.5, 2.38, 1.0, 1.0), transform=ax.transData)
            draw_face(face, spread(shapes))
            ax.text(x, 3.5, name, ha="center", va="center", fontsize=15, fontweight="bold")
        places = [x for x, _ in _WAY.values()]
        for left, right in pairwise(places):
            arrow = {"arrowstyle": "-|>", "color": "#8c8c8c", "linewidth": 2, "mutation_scale": 16}
            ax.annotate("", (right - 0.6, 2.88), (left + 0.6, 2.88), arrowprops=arrow)
        number, about, end = _END
        for row, (route, (colour, stations)) in enumerate(_ROUTES.items()):
            y = 1.7 - row
            first = min(x for _, x in stations.values())
            ax.plot([first, end - 0.7, end], [y, y, 0.7], color=colour, linewidth=6, solid_joinstyle="round", zorder=1)
            ax.text(first - 0.35, y, route, color=colour, fontsize=13, fontweight="bold", ha="right", va="center")
            for station, (name, x) in stations.items():
                _station(ax, x, y, station, name, colour)
        _station(ax, end, 0.7, number, "", BLACK)
        ax.text(end + 0.3, 0.7, about.replace(" to ", "\nto "), fontsize=12, va="center")
    return figure


def _station(ax: Axes, x: float, y: float, number: str, name: str, colour: str) -> None:
    ax.plot([x], [y], "o", markersize=27, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=3, zorder=2)
    ax.text(x, y - 0.01, number, ha="center", va="center", fontsize=12, fontweight="bold", zorder=3)
    ax.text(x, y - 0.4, name, ha="center", va="center", fontsize=12, zorder=3)


def describe_map() -> str:
    """Return the map in words, for whoever does not see it."""
    lines = (f"{route}: {', '.join(stations)}" for route, (_, stations) in _ROUTES.items())
    return f"Ten lessons on three lines that meet in lesson {_END[0]}. {'; '.join(lines)}."


def describe_hero() -> str:
    """Return the faces of `hero` in words."""
    *first, last = map(str, _EPOCHS)
    return (
        f"Five faces say one sentence: after epoch {', '.join(first)} and {last} of one training, as it should be, and "
        "with one bit of the file flipped."
    )


def describe_talk(seconds: float) -> str:
    """Return the talking face in words."""
    return f"{seconds:g} seconds of a synthetic voice, as the face that says it."


def hero(seconds: float = 2.5) -> bytes:
    """Draw what checkpoints of one run say to a voice that the training never heard, and what belongs to it.

    The run is the one of lesson 04, trained here; the flipped bit is that of lesson 08: chance chose the weight.
    """
    import torch

    from . import flips, timemachine

    data = DataConfig()
    voice = make_voice(vowels.SPEAKER, seconds=data.seconds, seed=data.seed)
    audio, truth = cut_windows(voice, data.most_windows("test"), round(data.window_seconds * SAMPLE_RATE))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = timemachine.train(folder)
            models = {epoch: timemachine.network(run / numbered_name(epoch))[0] for epoch in _EPOCHS}
            times = slice(_FIRST, _FIRST + round(seconds * FRAME_RATE))
            with torch.no_grad():
                says = {f"epoch {epoch}": model(audio[times]) for epoch, model in models.items()}
                flipped = shutil.copy(run / numbered_name(_EPOCHS[-1]), Path(folder, "flipped.pth"))
                flips.flip(flipped, flips.draw(flipped, seed=8), bit=30)
                last = models[_EPOCHS[-1]]
                last.load_state_dict(torch.load(flipped)["model_state_dict"])  # ours would refuse the file
                harmed = last(audio[times])
    finally:
        torch.set_num_threads(threads)
    return talking_faces({**says, "as it should be": truth[times], "one bit flipped": harmed})


def draw_images(folder: Path) -> None:
    """Write ``map.png``, ``talking.png`` and ``hero.png`` into `folder`.

    Each says in a text chunk, Description, what it shows.

    Raises:
        CheckpointWriteError: the disk refused.
    """
    seconds = 3.0
    images = {
        "hero.png": (hero(), describe_hero()),
        "map.png": (to_png(lesson_map()), describe_map()),
        "talking.png": (talking_face(make_voice("aki", seconds=seconds).blendshapes), describe_talk(seconds)),
    }
    with refusals_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (png, words) in images.items():
            write_file(folder / name, methodcaller("write", _described(png, words)))


def _described(png: bytes, words: str) -> bytes:
    """Put a text chunk behind the header of a PNG (PNG specification, 11.3.3.2); the images stay as they are."""
    text = b"tEXtDescription\0" + words.encode("latin-1")
    chunk = len(text[4:]).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    header = 8 + 25  # the signature, and IHDR with 13 bytes of its own
    return png[:header] + chunk + png[header:]
