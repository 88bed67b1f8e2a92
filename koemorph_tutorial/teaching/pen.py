"""A pen for round things: named shapes in the colours of a theme, whose lines grow with the axes.

The canvas is x and y from -1 to 1, whatever the size of the axes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

Array = npt.NDArray[np.float64]
Theme = Literal["light", "dark"]

_LIGHT = {
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
_DARK = _LIGHT | {
    "background": "#14171f",
    "text": "#ececf2",
    "skin": "#f5cfae",
    "shade": "#d99f7c",
    "blush": "#f0a892",
    "hair": "#8d86d3",
    "shine": "#b9b4ef",
    "brow": "#5a5399",
}
THEMES: Mapping[Theme, Mapping[str, str]] = MappingProxyType({"light": _LIGHT, "dark": _DARK})

LINE = 0.028  # the usual width of a line on the canvas


def colours_of(theme: Theme) -> Mapping[str, str]:
    """Return the colours of a theme by name. Raises ValueError where there is no such theme."""
    if theme not in THEMES:
        raise ValueError(f"theme: expected one of {', '.join(THEMES)}, found {theme!r}")
    return THEMES[theme]


class Pen:
    """Draws into axes, which it takes over: their limits, their aspect, and an opaque background.

    A later shape lies above an earlier one, and carries its name as `gid`. Raises ValueError for an unknown theme.
    """

    def __init__(self, axes: Axes, theme: Theme) -> None:
        self._axes, self._colours = axes, colours_of(theme)
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
        patch.set(facecolor=self._colours.get(fill, "none"), edgecolor=self._colours.get(line, "none"))
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
