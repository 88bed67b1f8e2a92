"""The pictures of what a run forgot, and a widget that chooses what; `amnesia` trains the runs."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from ipywidgets import Checkbox, GridBox, Layout  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .amnesia import BATCHES, PARTS, STOP, Outcome, forget, straight
from .figures import BLACK, BLUE, GREEN, LINES, VERMILLION, placed, style, to_png
from .views import View

_LEGEND = (
    "Weights: how far from those of the run that never stopped, in % of their length.\n"
    "Last loss: ▲ higher than in that run, ▼ lower.   = equal to the last bit."
)


def matrix(outcomes: Sequence[Outcome]) -> tuple[Figure, str]:
    """Draw a row per outcome: the distance at the end of each epoch, how the last loss compares, what was first."""
    epochs = list(outcomes[0].distances)
    reference = straight().losses[epochs[-1]]
    right = len(epochs)
    with style():
        figure = placed(9, 0.34 * len(outcomes) + 1.4)
        ax = figure.add_axes((0.155, 0.01, 0.84, 0.98))
        ax.set(xlim=(-0.5, right + 5.25), ylim=(len(outcomes) + 0.95, -2.35))
        ax.set_axis_off()
        heading: dict[str, Any] = {"va": "center", "fontweight": "bold"}
        ax.text(-0.62, -1.75, "forgotten", ha="right", **heading)
        ax.text((right - 1) / 2, -1.75, "distance of the weights\nafter epoch …", ha="center", **heading)
        ax.text(right + 0.2, -1.75, "last\nloss", ha="center", **heading)
        ax.text(right + 0.95, -1.75, "what is different first", **heading)
        for column, epoch in enumerate(epochs):
            ax.text(column, -0.82, str(epoch), ha="center", va="center")
        for row, outcome in enumerate(outcomes):
            ax.text(-0.62, row, outcome.name, ha="right", va="center")
            for column, epoch in enumerate(epochs):
                _cell(ax, column, row, outcome.distances[epoch])
            loss = outcome.losses[epochs[-1]]
            mark, colour = ("=", GREEN) if loss == reference else ("▲", VERMILLION) if loss > reference else ("▼", BLUE)
            ax.text(right + 0.2, row, mark, color=colour, ha="center", va="center", fontweight="bold")
            ax.text(right + 0.95, row, outcome.first, va="center")
        ax.text(-0.47, len(outcomes) + 0.25, _LEGEND, va="center", linespacing=1.35)
    return figure, _caption(outcomes, reference, epochs)


def _cell(ax: Axes, column: int, row: int, distance: float) -> None:
    if distance == 0:
        ax.text(column, row, "=", color=GREEN, fontsize=15, fontweight="bold", ha="center", va="center")
        return
    # The darker the further, from a tenth of a percent to all of it; black is read on every tint.
    depth = min(1.0, max(0.0, 1 + np.log10(distance) / 3))
    box = {"width": 0.94, "height": 0.86, "facecolor": VERMILLION, "alpha": 0.08 + 0.62 * depth, "linewidth": 0}
    ax.add_artist(Rectangle((column - 0.47, row - 0.43), **box))
    ax.text(
        column,
        row,
        f"{100 * distance:.2g} %" if distance < 0.1 else f"{100 * distance:.0f} %",
        ha="center",
        va="center",
    )


def _caption(outcomes: Sequence[Outcome], reference: float, epochs: Sequence[int]) -> str:
    groups: dict[str, list[str]] = {"equal to the last bit": [], "equal at first": [], "different at once": []}
    for outcome in outcomes:
        equal = [outcome.distances[epoch] == 0 for epoch in epochs]
        says = "equal to the last bit" if all(equal) else "equal at first" if equal[0] else "different at once"
        groups[says].append(outcome.name)
    weights = ";\n".join(f"{says}: {', '.join(names)}" for says, names in groups.items() if names)
    ends = [outcome.losses[epochs[-1]] - reference for outcome in outcomes]
    sides = [side for side, there in (("higher", max(ends) > 0), ("lower", min(ends) < 0)) if there]
    losses = "higher in some, lower in others" if len(sides) == 2 else sides[0] if sides else "the same"
    return (
        f"Stopped inside epoch {STOP.epoch}, brought back, and trained to epoch {epochs[-1]}. "
        f"Weights:\n{weights}.\nThe last loss of those that differ: {losses}."
    )


def compare(outcome: Outcome, *, titled: bool = True) -> tuple[Figure, str]:
    """Draw a run that came back beside the one that never stopped: losses on the left, how far apart on the right."""
    reference = straight().losses
    epochs = list(outcome.losses)
    with style():
        figure = Figure(figsize=(9, 3.2))
        if titled:
            title = f"Forgotten: {outcome.name}. Different first: {outcome.first}."
            figure.suptitle(fill(title, 95), x=0.01, ha="left", fontsize=11)
        left, right = figure.subplots(1, 2)
        left.plot(list(reference), [1000 * loss for loss in reference.values()], **LINES[0], label="never stopped")
        left.plot(epochs, [1000 * outcome.losses[epoch] for epoch in epochs], **LINES[1], label="came back")
        left.axvline(STOP.epoch - 1 + STOP.batch / BATCHES, color=BLACK, linewidth=1.5, linestyle=":", label="the stop")
        left.set(title="Loss on other voices × 1000", xlabel="epoch", xticks=list(reference))
        left.legend(loc="best")
        far = [100 * outcome.distances[epoch] for epoch in epochs]
        right.bar(epochs, far, 0.6, facecolor=f"{VERMILLION}50", edgecolor=VERMILLION, hatch="//")
        for epoch, distance in zip(epochs, far, strict=True):
            text, colour = (f"{distance:.2g}", BLACK) if distance else ("=", GREEN)
            right.text(epoch, distance, text, color=colour, fontweight="bold", ha="center", va="bottom")
        right.set(title="Weights apart by, %", xlabel="epoch", xticks=epochs, ylim=(0, 1.2 * max(far) or 1.0))
        right.grid(axis="x", visible=False)
    equal = [epoch for epoch in epochs if outcome.distances[epoch] == 0]
    weights = (
        "equal to the last bit"
        if len(equal) == len(epochs)
        else f"different from epoch {min(set(epochs) - set(equal))} on"
    )
    return figure, f"Forgotten: {outcome.name}. Weights: {weights}. Different first: {outcome.first}."


class Forget(View):
    """Boxes to tick what a run forgets, and the picture of what becomes of it, trained at once.

    `value` is what is ticked; to set it ticks the boxes. Where nothing runs the picture alone is shown.
    """

    def __init__(self, *parts: str) -> None:
        self._boxes = {name: Checkbox(value=name in parts, description=name, indent=False) for name in PARTS}
        self._busy = False
        for box in self._boxes.values():
            box.observe(self._ticked, "value")
        super().__init__(GridBox(list(self._boxes.values()), layout=Layout(grid_template_columns="repeat(3, 12em)")))
        self._draw()

    @property
    def value(self) -> tuple[str, ...]:
        """What is forgotten."""
        return tuple(name for name, box in self._boxes.items() if box.value)

    @value.setter
    def value(self, parts: str | Sequence[str]) -> None:
        wanted = forget(*([parts] if isinstance(parts, str) else parts)).forgotten
        self._busy = True  # one picture for all boxes
        for name, box in self._boxes.items():
            box.value = name in wanted
        self._busy = False
        self._draw()

    def _ticked(self, change: object) -> None:
        if not self._busy:
            self._draw()

    def _draw(self) -> None:
        figure, caption = compare(forget(*self.value), titled=False)  # the caption stands below it
        self._show(to_png(figure), caption)

    def _still(self) -> bytes:
        return to_png(compare(forget(*self.value))[0])
