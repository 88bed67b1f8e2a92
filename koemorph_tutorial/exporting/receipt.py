"""What an export proved, as a receipt: from which checkpoint, in which runtime, on which shapes, how near. No torch."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from koemorph_tutorial.text import count, json_text, printable, size, wrapped

Format: TypeAlias = Literal["onnx", "torchscript", "safetensors"]
SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
_COLUMNS = 100
_TITLES: Mapping[Format, str] = {"onnx": "ONNX", "torchscript": "TorchScript", "safetensors": "safetensors"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint whose weights were exported: the name of the file, its line of runs, epoch and sha256.

    `weights` is the key that they stand under. A file of another program may have neither line nor epoch.
    """

    name: str
    weights: str
    line: str | None
    epoch: int | None
    sha256: str

    def __str__(self) -> str:
        line = f", line {self.line[:8]}" if self.line else ""
        epoch = f", epoch {self.epoch}" if self.epoch is not None else ""
        return f"{printable(self.name, 60)}{line}{epoch}, {printable(self.weights, 40)}, sha256 {self.sha256[:12]}"


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: its name, dtype and shape; a size that is a name, not a number, is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        shape = "" if self.shape is None else f"({', '.join(map(str, self.shape))}) "
        return f"{printable(self.name, 40)} {shape}{self.dtype}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison: which inputs were tried, and how far the answers lay apart.

    `label` says what was in them, `shapes` is one per input. `absolute` is the largest difference from PyTorch,
    `relative` the largest share of the largest value of its output; None where there was nothing to subtract.
    `problem` is empty where all is within the tolerance.
    """

    label: str
    shapes: tuple[tuple[int, ...], ...]
    absolute: float | None = None
    relative: float | None = None
    problem: str = ""

    def __str__(self) -> str:
        shapes = " ".join(str(shape).replace(",)", ")") for shape in self.shapes)
        if self.problem:
            return f"{shapes} {self.label}: {self.problem}"
        apart = f"{self.absolute:.1e} (relative {self.relative:.1e})" if self.absolute else "every bit equal"
        return f"{shapes} {self.label}: {apart}".lstrip()


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What an export proved. `ok` is True where every comparison held, and there was one.

    `path` is the exported file and `size` is in bytes. `inputs` and `outputs` are as the file declares them. `smallest`
    is per free dimension the smallest size that the model takes. `seconds` are per call on the example inputs, in the
    runtime and in PyTorch. `problems` say what is not proved or not so, `notes` what else there is to know.

    >>> case = Case(label="the example", shapes=((2, 8),), absolute=2e-7, relative=1e-7)
    >>> receipt = Receipt(
    ...     path=Path("model.onnx"), format="onnx", size=900, sha256="ab" * 32, cases=(case,), tolerance=1e-5, why="…"
    ... )
    >>> receipt.ok
    True
    """

    path: Path
    format: Format
    size: int
    sha256: str
    opset: int | None = None
    source: Source | None = None
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    smallest: Mapping[str, int] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    tolerance: float = 0.0
    why: str = ""
    runtime: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    seconds_torch: float | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the exported model is the model."""
        return not self.problems and bool(self.cases) and not any(case.problem for case in self.cases)

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the free dimensions, each once."""
        sizes = (size for port in self.inputs for size in port.shape or ())
        return tuple(dict.fromkeys(size for size in sizes if isinstance(size, str)))

    @property
    def largest(self) -> float | None:
        """The largest absolute difference of all cases."""
        return max((case.absolute for case in self.cases if case.absolute is not None), default=None)

    def facts(self) -> dict[str, Any]:
        """Return all but what the file itself decides, as plain values: where it lies, its size and its sha256."""
        facts = asdict(self)
        for name in ("path", "size", "sha256"):
            del facts[name]
        return {"ok": self.ok, "free": list(self.free), **facts}

    def to_json(self) -> str:
        """Return one JSON object; the path is the file's name alone, so that both can be moved together."""
        return json_text({"file": self.path.name, "size": self.size, "sha256": self.sha256, **self.facts()})

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, columns: int = _COLUMNS) -> Iterator[str]:
        """Yield the receipt line by line."""
        opset = f", opset {self.opset}" if self.opset is not None else ""
        yield f"{printable(str(self.path), 200)}: {_TITLES[self.format]}{opset}, {size(self.size)}"
        for label, phrases in self._rows():
            yield from wrapped(label, phrases, columns)
        if self.cases:
            what = "against PyTorch, the largest difference of each" if self.format != "safetensors" else "compared"
            yield f"{what}:"
        for case in self.cases:
            yield f"  {'no ' if case.problem else 'yes'} {printable(str(case), 400)}"
        for problem in self.problems:
            yield f"  no  {printable(problem, 600)}"
        yield self.verdict()

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        yield "from", [str(self.source)] if self.source else []
        yield "sha256", [self.sha256]
        yield "inputs", [str(port) for port in self.inputs]
        yield "outputs", [str(port) for port in self.outputs]
        yield "free", [f"{name} (from {self.smallest[name]})" if name in self.smallest else name for name in self.free]
        yield "compared in", [self.runtime] if self.runtime else []
        yield "tolerance", [f"{self.tolerance:g}: {self.why}"] if self.why else []
        if self.seconds is not None and self.seconds_torch is not None:
            times = f"{1000 * self.seconds:.3g} ms, PyTorch {1000 * self.seconds_torch:.3g} ms"
            yield "time per call", [f"{times}, on the example"]
        yield "made by", [f"{name} {version}" for name, version in self.versions.items()]
        for note in self.notes:
            yield "note", [printable(note, 400)]

    def verdict(self) -> str:
        """Return the last line: whether the file is the model."""
        failed = [case for case in self.cases if case.problem]
        if self.ok and self.format == "safetensors":
            return "same weights: yes, bit for bit"
        if self.ok:
            apart = f"{self.largest:.1e} at most" if self.largest else "every bit equal"
            return f"same model: yes, {apart} over {count(len(self.cases), 'case')}"
        reason = failed[0].problem if failed else self.problems[0] if self.problems else "nothing was compared"
        return f"same model: NO, {printable(reason, 400)}"


def versions_of(**modules: str) -> dict[str, str]:
    """Return the versions of Python and of some packages by their names."""
    return {"python": platform.python_version(), **modules}
