"""What the exercises try answers on: a small run, a trip through a file, a copy of the process, and comparisons.

The run has two parts that only a whole checkpoint brings back: AdamW's memory, and the running statistics of BatchNorm.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.text import printable

from .lessons import NotAttemptedError, WrongAnswerError

if TYPE_CHECKING:
    import torch


def small_run() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return a network and its optimizer after three batches."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer)
    return model, optimizer


def small_network(seed: int) -> torch.nn.Module:
    """Return a network with two layers that behave otherwise in use than in training, the second one deep inside."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inner = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5))
        return nn.Sequential(nn.Linear(4, 8), inner, nn.Linear(8, 2))


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Train for three batches, always the same."""
    import torch

    for scale in (1.0, -2.0, 3.0):
        batch = scale * torch.linspace(-1, 1, 32).reshape(8, 4).sin()
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def is_nothing(value: Any) -> bool:
    """Say whether a value is that of a stub."""
    return value is None or value is ...


def raise_for_stub(answer: Any, source: str) -> None:
    """Raise NotAttemptedError if a reader's function or class still does what the lesson handed out, this `source`."""
    parts = vars(answer).values() if isinstance(answer, type) else [answer]
    codes = [part.__code__ for part in parts if hasattr(part, "__code__")]
    whole = ast.parse(source)
    # IPython compiles the statements of a cell one by one, and a name is called otherwise where its import is in sight.
    trees = [whole, *(ast.Module([statement], []) for statement in whole.body)]
    compiled = [_meaning(code) for tree in trees for code in _inside(compile(tree, "", "exec"))]
    if codes and all(_meaning(code) in compiled for code in codes):
        raise NotAttemptedError


def wrong_if(condition: object, says: str) -> None:
    """Raise WrongAnswerError, the name of a misconception or a sentence, if the condition holds."""
    if condition:
        raise WrongAnswerError(says)


def expect_something(found: Any, of: str) -> None:
    """Raise WrongAnswerError if the reader's function `of` this name returned nothing."""
    wrong_if(is_nothing(found), f"`{of}` returned None: is `return` missing?")


def expect_kind(found: Any, kind: type | tuple[type, ...], what: str, *, of: str) -> None:
    """Raise WrongAnswerError unless the reader's function `of` this name returned a `kind`, in words `what`."""
    expect_something(found, of)
    wrong_if(not isinstance(found, kind), f"expected {what}, found {type_of(found)}")


def type_of(found: Any) -> str:
    """Return the name of the type of what an answer returned, as it can be shown."""
    return printable(type(found).__name__, 60)


def shown(found: Any) -> str:
    """Return what an answer returned, as it can be shown."""
    return printable(repr(found), 60)


def names_in(function: Any) -> frozenset[str]:
    """Return the names that a reader's function uses, beside its own variables."""
    return frozenset(getattr(getattr(function, "__code__", None), "co_names", ()))


def through_a_file(state: Any) -> Any:
    """Return what comes back when `state` is saved and safely loaded.

    Raises:
        WrongAnswerError: it cannot be.
    """
    import torch

    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)|unsupported (?:class|operand|global) (\S+)", str(error))
        what = f"it holds `{refused[1] or refused[2]}`" if refused else first_line(error)
        raise WrongAnswerError(
            f"a safe `torch.load` does not bring it back: {printable(what)}. Numbers, text and tensors are safe, and "
            "lists and dicts of them"
        ) from error


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch puts a heading first, and what is the matter below it.
    said = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0] if lines else ""
    return printable(f"{type(error).__name__}: {said}", 300)


def same(one: Any, other: Any) -> bool:
    """Compare numbers, tensors and containers of them."""
    import torch

    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


PATIENCE = 60.0  # seconds, for an answer that is tried in a copy of the process


def apart(name: str, work: Callable[[], str | None]) -> str | None:
    """Return what `work` returns, called in a copy of this process and in a folder that goes away with it.

    There an answer may hang, remove files or end its process. What it prints is printed here.

    Raises:
        NotAttemptedError: raised there.
    """
    from koemorph_tutorial.testing.children import run

    with tempfile.TemporaryDirectory(prefix="koemorph-answer-") as folder:
        here = Path(folder, "here")
        here.mkdir()
        ended = run(lambda: _in_folder(here, work), Path(folder), timeout=PATIENCE)
        said = Path(folder, "said.txt")
        if said.exists():
            for line in said.read_text("utf-8", "replace").splitlines()[:20]:
                print(printable(line))  # noqa: T201
    if ended.timed_out:
        return f"`{name}` did not come to an end within {PATIENCE:g} seconds"
    if ended.killed or ended.error is not None:
        return f"`{name}` ended the process that it ran in: {printable(str(ended.error), 300)}"
    if ended.result == "not attempted":
        raise NotAttemptedError
    says: str | None = ended.result["says"]
    return says


def _in_folder(folder: Path, work: Callable[[], str | None]) -> Any:
    os.chdir(folder)
    try:
        return {"says": work()}
    except NotAttemptedError:
        return "not attempted"


def _inside(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of every function and class in `code`."""
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield item
            yield from _inside(item)


def _meaning(code: CodeType) -> tuple[Any, ...]:
    """Return what a function does, without where it stands."""
    consts = tuple(_meaning(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts)
    return code.co_code, code.co_names, consts
