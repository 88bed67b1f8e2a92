"""What every widget of the lessons is: controls, the picture that they change, and below it in words what it shows."""

from __future__ import annotations

from typing import Any

from IPython.display import display
from ipywidgets import Image, Label, Layout, VBox  # type: ignore[import-untyped]


class View(VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Controls, a picture and its caption, of so many `lines`. Where nothing runs the picture alone is shown."""

    def __init__(self, *controls: Any, lines: int = 1, width: int = 900) -> None:
        self._image = Image(layout=Layout(max_width=f"{width}px"))
        self._labels = tuple(Label() for _ in range(lines))
        self.caption = ""
        super().__init__([*controls, self._image, *self._labels])

    def _show(self, png: bytes, caption: str) -> None:
        self._image.value, self.caption = png, caption
        for label, line in zip(self._labels, caption.splitlines(), strict=True):
            label.value = line

    def _still(self) -> bytes:
        """Return the picture for where nothing runs: the same one, or one that says more, since no control is seen."""
        return bytes(self._image.value)

    def __repr__(self) -> str:
        return self.caption

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        live: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return live | {"image/png": self._still(), "text/plain": self.caption}

    def show(self) -> None:
        """Display it in a notebook, print its caption elsewhere."""
        display(self)
