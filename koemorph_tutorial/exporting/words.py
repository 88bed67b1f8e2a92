"""What keeps a model in PyTorch, in the reader's words: what it is, in which line, and what to do."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from koemorph_tutorial.text import printable

_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_PYTHON = str(Path(logging.__file__).parent.parent)
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_SHAPES = "torch.fx.experimental.symbolic_shapes"

_BRANCH = (
    "what it does next depends on the values of a tensor, which an export cannot follow",
    "use torch.where, or torch.cond, or a fixed number of steps",
)
_NUMPY = (
    "the tensor leaves PyTorch for numpy, or for a library on top of it, where no export can follow",
    "use torch's own operations (torch.stft for librosa.stft, torch.log for np.log), or do it before the model",
)
_RULES: tuple[tuple[re.Pattern[str], tuple[str, str]], ...] = (
    (re.compile(r"numpy|__array__|ufunc|`.*\b(?:np|librosa)\.\w+\(", re.IGNORECASE), _NUMPY),
    (re.compile(r"data-dependent|DataDependent|_local_scalar_dense|\.item\(\)|\.tolist\(\)|GuardOnData"), _BRANCH),
    (
        re.compile(r"torch\.jit|ScriptModule|ScriptFunction"),
        ("it is TorchScript already", "export the module it was made from"),
    ),
    (
        re.compile(r"cannot infer type|Only tensors, lists, tuples", re.IGNORECASE),
        ("its answer is of a kind that TorchScript does not know", "return a tensor, or a tuple of tensors"),
    ),
)


def users_line(error: BaseException) -> str:
    """Return the line of the model's own code at which something was raised: "net.py:12 `y = x.numpy()`"; or ""."""
    seen: set[int] = set()
    lines: list[str] = []
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        lines.append(_last_own(traceback.extract_tb(current.__traceback__)))
        current = current.__cause__ or current.__context__
    written = re.findall(r'File "([^"<>]+)", line (\d+), in (?:forward|\w+)\n\s+(.+)', str(error))
    lines += [f"{Path(path).name}:{line} `{code.strip()}`" for path, line, code in written if not _is_tool(path)][-1:]
    return next((line for line in lines if line), "")


def _last_own(frames: traceback.StackSummary | list[traceback.FrameSummary]) -> str:
    """Return the innermost line that is neither of torch nor of this package; one in nobody's library if there is."""
    own = [frame for frame in frames if not _is_tool(frame.filename) and frame.line]
    own = [frame for frame in own if not _INSTALLED.search(frame.filename)] or own
    if not own:
        return ""
    frame = own[-1]
    cell = "ipykernel_" in frame.filename  # whose file has a number for a name
    where = f"line {frame.lineno} of the cell" if cell else f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{where} `{printable(frame.line or '', 120)}`"


def _is_tool(filename: str) -> bool:
    return filename.startswith((_TORCH, _HERE, "<")) or (
        filename.startswith(_PYTHON) and not _INSTALLED.search(filename)
    )


def _is_exporting(filename: str) -> bool:
    return filename.startswith(_HERE) and filename != __file__


def explain(error: BaseException, what: str) -> str:
    """Return one line: what cannot be exported, where, and what to do."""
    line = users_line(error)
    where = f"{what}, in {line}" if line else what
    unknown = re.search(r"No (?:ONNX function|decompositions?) (?:found|registered) for .*?(\w+\.\w+)", str(error))
    if unknown:
        return f"{where}: the exporter knows nothing in ONNX for {unknown[1]}; use other operations there"
    text = " ".join((*(kind.__name__ for kind in type(error).__mro__), str(error), line))
    for pattern, (why, remedy) in _RULES:
        if pattern.search(text):
            return f"{where}: {why}; {remedy}"
    return f"{where}: {type(error).__name__}: {first_line(error, 300)}"


def first_line(error: BaseException, limit: int = 200) -> str:
    """Return what an error says, in one short line: the first; of one of TorchScript the last, of a runtime's all."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", "", str(error))
    text = re.sub(
        r".*Status Message: (?:\S+:\d+ .* was false\. )?", "", text, flags=re.DOTALL
    )  # where it says so in C++
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if text != str(error):
        lines = [" ".join(lines)]
    return printable(lines[-1 if "TorchScript interpreter" in lines[0] else 0], limit)


class FrozenLines(logging.Handler):
    """Where a dimension that was to be free was held at one size: the line of the model, by input and dimension.

    torch says it in a log only, while that line is being run.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._places: dict[str, tuple[str, int]] = {}
        self.lines: dict[tuple[str, int], str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Read one line of the log."""
        message = record.getMessage()
        made = re.match(r"create_symbol (\w+) = \d+ for L\['(\w+)'\]\.size\(\)\[(\d+)\]", message)
        if made:
            self._places[made[1]] = (made[2], int(made[3]))
        held = re.match(r"set_replacement (\w+) = \d+ ", message)
        if held and held[1] in self._places:
            frames = traceback.extract_stack()[:-1]
            inside = max((i for i, frame in enumerate(frames) if _is_exporting(frame.filename)), default=-1) + 1
            self.lines.setdefault(self._places[held[1]], _last_own(frames[inside:]))


@contextmanager
def watching_frozen() -> Iterator[FrozenLines]:
    """Listen to what torch decides about free dimensions, and say nothing on the screen."""
    logger = logging.getLogger(_SHAPES)
    before = logger.level, logger.propagate, list(logger.handlers), logger.disabled
    handler = FrozenLines()
    logger.handlers, logger.propagate, logger.disabled = [handler], False, False
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        level, logger.propagate, logger.handlers, logger.disabled = before
        logger.setLevel(level)
