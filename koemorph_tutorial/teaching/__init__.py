"""What the lessons use: questions that answer back, figures, the face; and how they are built, copied and followed.

The names of a lesson's first line are resolved when they are used, so that a command which only lists progress loads
neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import check as check
    from .answers import predict as predict
    from .answers import reveal as reveal
    from .kernel import setup as setup
    from .kernel import show as show

_ROOMS = {"check": "answers", "predict": "answers", "reveal": "answers", "setup": "kernel", "show": "kernel"}

__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
