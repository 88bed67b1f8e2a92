"""What an export wrote down, as a tape: one cell an operation, and the cells that should not be there stand out."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from koemorph_tutorial.text import count

from .figures import BLACK, PURPLE, VERMILLION, placed, style

_PLAIN: Mapping[str, Any] = {"facecolor": "#eeeeee", "edgecolor": "#9a9a9a", "linewidth": 0.8}
_LOOKS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "dropout": ({"facecolor": f"{VERMILLION}50", "edgecolor": VERMILLION, "hatch": "xxx", "linewidth": 1.5}, "Dropout"),
    "frozen": ({"facecolor": f"{PURPLE}60", "edgecolor": PURPLE, "hatch": "///", "linewidth": 1.5}, "a fixed shape"),
}


def hush() -> None:
    """Let torch's exporters and onnxruntime say nothing for the rest of the process: what matters is raised."""
    import onnxruntime

    warnings.simplefilter("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(4)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of an ONNX file: what it is, and whether it is one that should make a reader stop.

    `kind` is "dropout", "frozen" (it brings its input into a shape in which every size is a fixed number) or "";
    `shape` is that shape.
    """

    name: str
    kind: str = ""
    shape: tuple[int, ...] = ()


def operations(path: str | os.PathLike[str]) -> list[Operation]:
    """Return the operations of an ONNX file in the order in which they are carried out.

    >>> import tempfile
    >>> import onnx.parser
    >>> text = '<ir_version: 8, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Dropout (x) }'
    >>> path = Path(tempfile.mkdtemp(), "small.onnx")
    >>> onnx.save(onnx.parser.parse_model(text), path)
    >>> [each.kind for each in operations(path)]
    ['dropout']
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(os.fspath(path), load_external_data=False).graph
    constants = {each.name: each for each in graph.initializer if not each.external_data}
    found = []
    for node in graph.node:
        name, kind, shape = node.op_type, "", ()
        if name == "Dropout":
            kind = "dropout"
        elif name == "Reshape" and node.input[1] in constants:
            sizes = tuple(to_array(constants[node.input[1]]).tolist())
            if sizes and min(sizes) > 0:  # a -1 is "whatever is left", a 0 "as it was"
                kind, shape = "frozen", sizes
        found.append(Operation(name=name, kind=kind, shape=shape))
    return found


def as_run(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> Path:
    """Let onnxruntime write down what it makes of a file before it runs it; return where."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # else it warns that this is for one kind of processor: we only look at it
    options.optimized_model_filepath = os.fspath(to)
    onnxruntime.InferenceSession(os.fspath(path), options)
    return Path(to)


def strips(*paths: str | os.PathLike[str]) -> tuple[Figure, str]:
    """Draw the operations of ONNX files, one strip below the other: figure and caption."""
    tapes = {Path(path).name: operations(path) for path in paths}
    longest = max(len(tape) for tape in tapes.values())
    with style():
        figure = placed(9, 0.3 + 0.72 * len(tapes))
        ax = figure.add_axes((0.01, 0, 0.98, 1))
        ax.set(xlim=(0, longest), ylim=(-len(tapes), 0.42))
        ax.set_axis_off()
        shown = {each.kind: None for tape in tapes.values() for each in tape if each.kind}
        for row, (name, tape) in enumerate(tapes.items()):
            ax.text(0, -row - 0.36, name, va="bottom", fontweight="bold")
            ax.text(longest, -row - 0.36, count(len(tape), "operation"), va="bottom", ha="right")
            for place, each in enumerate(tape):
                look = _LOOKS[each.kind][0] if each.kind else _PLAIN
                ax.add_artist(Rectangle((place + 0.08, -row - 0.9), 0.84, 0.48, **look))
        for place, kind in enumerate(shown):
            look, words = _LOOKS[kind]
            left = longest * (0.62 + 0.19 * place)
            ax.add_artist(Rectangle((left, 0.1), 0.84, 0.26, **look))
            ax.text(left + 1.4, 0.22, words, va="center", color=BLACK)
    return figure, "\n".join(_said(name, tape) for name, tape in tapes.items())


def _said(name: str, tape: list[Operation]) -> str:
    dropouts = sum(each.kind == "dropout" for each in tape)
    frozen = [each.shape for each in tape if each.kind == "frozen"]
    shapes = f" ({', '.join(map(str, dict.fromkeys(frozen)))})" if frozen else ""
    return f"{name}: {count(dropouts, 'Dropout')}, {count(len(frozen), 'fixed shape')}{shapes}"
