"""A pen for round things: named shapes in the colours of a face, whose lines grow with the axes.

The canvas is x and y from -1 to 1, whatever the size of the axes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

Array = npt.NDArray[np.float64]

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "background": "#ffffff",
        "text": "#2b2b33",
        "skin": "#ffdcbf",
        "shade": "#eeb08d",
        "blush": "#fbb7a3",
        "line": "#4a332d",
        "hair": "#3d3b66",
        "shine": "#6461a0",
        "brow": "#3d3b66",
        "white": "#ffffff",
        "iris": "#3f7fa6",
        "pupil": "#1d2733",
        "lips": "#e0837a",
        "lip line": "#b5574f",
        "mouth": "#74202f",
        "tongue": "#f08f8f",
    }
)

LINE = 0.028  # the usual width of a line on the canvas


class Pen:
    """Draws into axes, which it takes over: their limits, their aspect, and an opaque background.

    A later shape lies above an earlier one, and carries its name as `gid`.
    """

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        axes.set_axis_off()
        self._add("background", Path([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]), fill="background")

    def fill(
        self, name: str, path: Path, fill: str, *, within: PathPatch | None = None, line: str = "", width: float = LINE
    ) -> PathPatch:
        """Fill a closed path, as far as it lies within another patch, and draw a line around it if asked."""
        return self._add(name, path, fill=fill, within=within, line=line, width=width)

    def line(self, name: str, points: npt.ArrayLike, line: str = "line", width: float = LINE) -> None:
        """Draw a curve through points."""
        self._add(name, curve(points), line=line, width=width)

    def _add(
        self,
        name: str,
        path: Path,
        *,
        fill: str = "",
        within: PathPatch | None = None,
        line: str = "",
        width: float = 0,
    ) -> PathPatch:
        patch = _Shape(path, gid=name, capstyle="round", joinstyle="round")
        patch.width_on_canvas = width if line else 0.0
        patch.set(facecolor=COLOURS.get(fill, "none"), edgecolor=COLOURS.get(line, "none"))
        self._axes.add_artist(patch)  # add_patch would ask each path for its extent: seven times as slow
        patch.set_clip_path(within or self._axes.patch)
        return patch


class _Shape(PathPatch):
    """A patch whose line keeps its share of the axes, which may change their size until they are drawn."""

    width_on_canvas = 0.0

    def draw(self, renderer: Any) -> None:
        if self.axes is not None and (figure := self.axes.get_figure(root=True)) is not None:
            points = self.axes.bbox.width / 2 * 72 / figure.dpi  # per unit of the canvas
            self.set_linewidth(self.width_on_canvas * points)
        super().draw(renderer)


def curve(points: npt.ArrayLike, *, closed: bool = False) -> Path:
    """Return a smooth curve through points, (n, 2), as cubic Bezier pieces (Catmull and Rom 1974)."""
    through = np.asarray(points, np.float64)
    ends = through[[-1, 0, 1]] if closed else 2 * through[[0, -1]] - through[[1, -2]]
    around = np.concatenate([ends[:1], through, ends[1:]])
    before, start, end, after = (around[k : len(around) - 3 + k] for k in range(4))
    pieces = np.stack([start + (end - before) / 6, end - (after - start) / 6, end], 1).reshape(-1, 2)
    return Path(np.concatenate([start[:1], pieces]), [Path.MOVETO] + [Path.CURVE4] * len(pieces))


def between(x: Array, top: Array, bottom: Array) -> Path:
    """Return the closed curve around what lies between two edges that share their ends."""
    return curve([*zip(x, top, strict=True), *zip(x[-2:0:-1], bottom[-2:0:-1], strict=True)], closed=True)


def mirror(half: list[tuple[float, float]]) -> Array:
    """Return the points of a closed outline from its right half, which begins and ends in the middle."""
    return np.array([*half, *((-x, y) for x, y in half[-2:0:-1])])


def oval(middle: npt.ArrayLike, width: float, height: float) -> Path:
    """Return an ellipse from its two radii."""
    circle = Path.unit_circle()
    return Path(np.asarray(circle.vertices) * (width, height) + np.asarray(middle), circle.codes)
