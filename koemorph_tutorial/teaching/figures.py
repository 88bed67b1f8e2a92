"""The figures of the lessons, all in one style: opaque white, five colours that everybody tells apart, large text.

Figures are made without pyplot, so nothing is drawn twice and no setting of the reader's is changed. Words and numbers
are English: matplotlib brings no Japanese glyphs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure

from koemorph_tutorial.training.phonemes import ARKIT_NAMES

from .face import draw_face

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor, nn

# Of Okabe and Ito (2008) those that reach a contrast of 3 : 1 on white; each goes with a marker and a dash of its own.
BLACK, BLUE, VERMILLION, GREEN, PURPLE = "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
LINES: tuple[Mapping[str, Any], ...] = (
    {"color": BLACK, "marker": "o", "linestyle": "-"},
    {"color": VERMILLION, "marker": "D", "linestyle": "--"},
    {"color": BLUE, "marker": "s", "linestyle": "-."},
    {"color": GREEN, "marker": "^", "linestyle": ":"},
    {"color": PURPLE, "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
)

_STYLE: Any = {  # a type for every key of it would be a page
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}

# Of a float32: the name of a part, its colour, its highest bit and its lowest.
PARTS_OF_A_FLOAT = (("sign", PURPLE, 31, 31), ("exponent", BLUE, 30, 23), ("mantissa", GREEN, 22, 0))


@contextmanager
def style() -> Iterator[None]:
    """Draw in the one style of the lessons, whatever a reader has set."""
    with rc_context():
        rcdefaults()
        rcParams.update(_STYLE)
        yield


def placed(width: float, height: float) -> Figure:
    """Return a figure, in inches, whose axes stay where they are put."""
    return Figure(figsize=(width, height), layout="none")  # type: ignore[arg-type]  # matplotlib forgot this one


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure and axes that cover it, in inches from its lower left corner: for a picture without a scale."""
    figure = placed(width, height)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    return figure, ax


def to_png(figure: Figure, *, dpi: int = 200, colours: int = 128) -> bytes:
    """Return a figure as a PNG with a palette: a third of the size, and no loss that is seen."""
    image = _drawn(figure, dpi).convert("RGB").quantize(colours, dither=PIL.Image.Dither.NONE)
    return _written(image)


def to_small_png(figure: Figure, *, dpi: int, colours: int) -> bytes:
    """Return a figure as a PNG of its most frequent colours, flat tints among them: for widgets that come in pairs."""
    pixels = np.asarray(_drawn(figure, dpi).convert("RGBA"))
    packed, index, counts = np.unique(pixels.view(np.uint32), return_inverse=True, return_counts=True)
    found = packed.view(np.uint8).reshape(-1, 4)[:, :3]
    palette = found[np.argsort(-counts)[:colours]]
    nearest = np.square(found[:, None].astype(int) - palette).sum(2).argmin(1)
    image = PIL.Image.fromarray(nearest[index].astype(np.uint8).reshape(pixels.shape[:2]))
    image.putpalette(np.ascontiguousarray(palette).tobytes())
    return _written(image)


def _drawn(figure: Figure, dpi: int) -> PIL.Image.Image:
    drawn = io.BytesIO()
    with style():
        figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 0})  # it is read again at once
    return PIL.Image.open(drawn)


def _written(image: PIL.Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, format="png", optimize=True)
    return written.getvalue()


def first_step(steps: Mapping[str, npt.ArrayLike], faces: Mapping[str, Any]) -> Figure:
    """Draw how far each weight moved in one step, per run, and faces beside it.

    `steps` are absolute values as multiples of the learning rate, one per weight; `faces` blendshapes, (52,) each.
    """
    with style():
        figure = Figure(figsize=(9, 3.4))
        grid = figure.add_gridspec(1, 1 + len(faces), width_ratios=[2.6, *[1.0] * len(faces)])
        ax = figure.add_subplot(grid[0])
        for (name, values), line, hatch in zip(steps.items(), LINES, ("", "//", "..", "xx", "--"), strict=False):
            lengths = np.asarray(values)
            heights, edges = np.histogram(lengths, bins=np.linspace(0, 1.25, 26))
            share = 100 * heights / lengths.size
            colour = line["color"]
            ax.stairs(share, edges, fill=True, facecolor=f"{colour}30", edgecolor=colour, hatch=hatch, linewidth=2)
            at = edges[share.argmax()]
            beside = {"x": at + 0.1, "ha": "left"} if at < 0.6 else {"x": at - 0.05, "ha": "right"}
            ax.text(y=0.85 * share.max(), s=name, color=colour, fontweight="bold", va="center", **beside)
        ax.set(xlabel="length of one step, in learning rates", ylabel="% of the weights", xlim=(0, 1.25))
        ax.grid(axis="x", visible=False)
        for column, (name, face) in enumerate(faces.items(), start=1):
            ax = figure.add_subplot(grid[column])
            draw_face(ax, face)
            ax.set_title(name, fontsize=11, fontweight="normal", loc="center")
    return figure


def after_one_batch(
    before: Mapping[str, Tensor], models: Mapping[str, nn.Module], audio: Tensor, faces: Tensor, *, lr: float
) -> tuple[Figure, str]:
    """Compare two networks that began with the weights `before` and have seen one batch since: figure and caption.

    Left, how far each weight has moved, in learning rates; right, what both say to the one of `audio`, (snippets,
    samples), at which their mouths differ most, beside the face in `faces`, (snippets, 52), that belongs to it.
    """
    import torch

    steps = {
        name: torch.cat([(value - before[key]).abs().flatten() for key, value in model.state_dict().items()]) / lr
        for name, model in models.items()
    }
    with torch.inference_mode():
        says = {name: model.eval()(audio) for name, model in models.items()}
    mouth = torch.tensor([name.startswith(("mouth", "jaw")) for name in ARKIT_NAMES])
    one, other = (face[:, mouth] for face in says.values())
    snippet = (one - other).square().sum(1).argmax()
    shown = {"it should be": faces[snippet], **{name: face[snippet] for name, face in says.items()}}
    leapt = "; ".join(f"{name}: {_share((step > 0.8).float().mean().item())}" for name, step in steps.items())
    return first_step(steps, shown), (
        f"How far one batch moved the weights. By more than 0.8 learning rates: {leapt}. Right: the one of "
        f"{len(faces)} snippets at which the two mouths now differ most."
    )


def _share(part: float) -> str:
    """Say roughly how many of the weights that is: a caption holds on any processor."""
    return "nearly all weights" if part > 0.9 else "hardly any weight" if part < 0.05 else "some of the weights"
