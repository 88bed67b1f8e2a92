"""A face that talks: an animated PNG, which JupyterLab, GitHub and every browser show as they show any image."""

from collections.abc import Mapping
from io import BytesIO
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from koemorph_tutorial.teaching.face import draw_face, to_array
from koemorph_tutorial.teaching.pen import COLOURS, Array
from koemorph_tutorial.training.voices import ARKIT_NAMES, FRAME_RATE

Indices = npt.NDArray[np.uint8]

_MILLISECONDS = 50  # an image is shown for: 20 a second make a mouth move smoothly, and a second of it 28 kB
_DPI = 64  # a power of two: pixels / dpi * dpi is pixels again


def talking_face(faces: Any, *, faces_per_second: float = FRAME_RATE, pixels: int = 200) -> bytes:
    r"""Draw faces one after another, and return the bytes of an animated PNG (APNG) that is `pixels` high and wide.

    `faces`, (time, 52), are blendshapes as `draw_face` takes them. The animation lasts as long as they do, to the
    millisecond, and starts again when it ends: a reader who looks late still sees it. Its first image is the first
    face, whole: that is what a viewer without animation shows. Equal arguments give equal bytes on one machine. Raises
    ValueError for another shape, and for a number of faces per second or of pixels that makes no sense.

    >>> from koemorph_tutorial.training.voices import make_voice
    >>> png = talking_face(make_voice("aki", seconds=0.5).blendshapes)
    >>> png[:8], Image.open(BytesIO(png)).size
    (b'\x89PNG\r\n\x1a\n', (200, 200))
    """
    numbers = _checked(faces)
    for name, value, least in (("faces_per_second", faces_per_second, 1), ("pixels", pixels, 16)):
        if not least <= value < np.inf:
            raise ValueError(f"{name}: expected {least} or above, found {value}")
    shown, durations = _timing(len(numbers), faces_per_second)
    palette = _palette()
    images = {index: _draw(numbers[index], palette, pixels) for index in np.unique(shown)}
    return _animate([images[index] for index in shown], durations, palette)


def talking_faces(faces: Mapping[str, Any], *, pixels: int = 200) -> bytes:
    """Draw several that talk at once, side by side, and return the bytes of one animated PNG.

    `faces` maps what stands above a face to its blendshapes, (time, 52), of the same times. The image is `pixels` wide
    per face, and a fifth higher. Else as `talking_face`, which also says what is raised.

    >>> from koemorph_tutorial.training.voices import make_voice
    >>> face = make_voice("aki", seconds=0.5).blendshapes
    >>> Image.open(BytesIO(talking_faces({"one": face, "other": face[:, ::-1]}))).size
    (400, 240)
    """
    numbers = {name: _checked(shapes) for name, shapes in faces.items()}
    lengths = {len(shapes) for shapes in numbers.values()}
    if len(lengths) != 1:
        raise ValueError(f"faces: expected some of the same times, found {sorted(lengths)}")
    (times,) = lengths
    shown, durations = _timing(times, FRAME_RATE)
    palette = _palette()
    names = np.hstack([_draw_name(name, palette, pixels) for name in numbers])
    images = {
        index: np.vstack([names, np.hstack([_draw(shapes[index], palette, pixels) for shapes in numbers.values()])])
        for index in np.unique(shown)
    }
    return _animate([images[index] for index in shown], durations, palette)


def _checked(faces: Any) -> Array:
    """Return faces as numbers, (time, 52); ValueError for another shape."""
    numbers = to_array(faces)
    if numbers.ndim != 2 or numbers.shape[0] < 1 or numbers.shape[1] != len(ARKIT_NAMES):
        raise ValueError(f"faces: expected shape (time, {len(ARKIT_NAMES)}), found {numbers.shape}")
    return numbers


def _timing(times: int, faces_per_second: float) -> tuple[Array, list[int]]:
    """Return which of the faces are shown one after another, and each for how many milliseconds."""
    length = max(1, round(1000 * times / faces_per_second))
    starts = np.arange(0, length, _MILLISECONDS)
    shown = np.minimum(starts * faces_per_second // 1000, times - 1).astype(int)
    return shown, np.diff(starts, append=length).tolist()


def _palette() -> Indices:
    """Return the colours of a face and the middle of each two, (colours, 3): enough for smooth edges.

    One palette for all images, whatever they show: what stands still keeps its colour.
    """
    colours = sorted({to_rgb(colour) for colour in COLOURS.values()})
    blends = np.array([np.add(a, b) / 2 for a, b in combinations_with_replacement(colours, 2)])
    return np.unique(np.round(255 * blends).astype(np.uint8), axis=0)


def _draw(face: Array, palette: Indices, pixels: int) -> Indices:
    """Return a picture of a face, (pixels, pixels), as indices of the palette's nearest colours."""
    figure = Figure(figsize=(pixels / _DPI, pixels / _DPI), dpi=_DPI)
    figure.set_layout_engine("none")
    draw_face(figure.add_axes((0, 0, 1, 1)), face)
    return _indices(figure, palette)


def _draw_name(name: str, palette: Indices, pixels: int) -> Indices:
    """Return a name, as wide as its face and a fifth as high, as indices of the palette's nearest colours."""
    high = pixels // 5
    figure = Figure(figsize=(pixels / _DPI, high / _DPI), dpi=_DPI, facecolor=COLOURS["background"])
    points = 0.42 * 72 * high / _DPI
    figure.text(0.5, 0.5, name, color=COLOURS["text"], fontsize=points, fontweight="bold", ha="center", va="center")
    return _indices(figure, palette)


def _indices(figure: Figure, palette: Indices) -> Indices:
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib does not type it
    canvas.draw()
    colours = Image.new("P", (1, 1))
    colours.putpalette(palette.tobytes())
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    return np.asarray(image.quantize(palette=colours, dither=Image.Dither.NONE))


def _animate(images: list[Indices], milliseconds: list[int], palette: Indices) -> bytes:
    """Return an APNG in which each image lies over the one before it, transparent where nothing changed."""
    transparent = len(palette)
    layers, durations = [images[0]], milliseconds[:1]
    for before, image, duration in zip(images, images[1:], milliseconds[1:], strict=False):
        if np.array_equal(before, image):
            durations[-1] += duration
        else:
            layers.append(np.where(image == before, np.uint8(transparent), image))
            durations.append(duration)
    frames = []
    for layer in layers:
        frames.append(Image.fromarray(layer))
        frames[-1].putpalette(palette.tobytes() + bytes(3))
        frames[-1].info["transparency"] = transparent
    file = BytesIO()
    over = {"duration": durations, "loop": 0, "disposal": 0, "blend": 1}
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], compress_level=9, **over)
    return file.getvalue()
