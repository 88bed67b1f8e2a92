"""Whether two runtimes give the same answers: each output of each case, number by number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from koemorph_tutorial.exporting.receipt import Case
from koemorph_tutorial.exporting.shapes import Inputs, Trial
from koemorph_tutorial.exporting.words import explain, first_line
from koemorph_tutorial.fitting import dtype_name
from koemorph_tutorial.records import ExportError
from koemorph_tutorial.text import printable

Outputs: TypeAlias = dict[str, Tensor]
Run: TypeAlias = Callable[[Inputs], Sequence[Tensor]]
_KEEPS = {"float64": (1e-9, 16), "float32": (1e-5, 7), "float16": (1e-2, 3), "bfloat16": (5e-2, 2)}  # and digits
_SECONDS = 0.15  # of calls, for a time per call
_CALLS = 3


def named_outputs(answer: Any) -> Outputs:
    """Return the tensors of an answer by name, in the order in which an export numbers them.

    >>> list(named_outputs({"logits": torch.zeros(2), "state": (torch.zeros(1), None, torch.zeros(3))}))
    ['logits', 'state_0', 'state_2']
    """
    return {path or "output": tensor for path, tensor in _outputs(answer, "")}


def _outputs(answer: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(answer, Tensor):
        yield path, answer
    elif isinstance(answer, Mapping):
        for key, value in answer.items():
            yield from _outputs(value, f"{path}_{key}" if path else str(key))
    elif isinstance(answer, (tuple, list)):
        for index, value in enumerate(answer):
            yield from _outputs(value, f"{path or 'output'}_{index}" if len(answer) > 1 else path)
    elif answer is not None:
        kind = f"{type(answer).__module__}.{type(answer).__qualname__}".removeprefix("builtins.")
        where = f" under {path}" if path else ""
        raise ExportError(f"forward: expected tensors, in tuples, lists or dicts, as its answer, found {kind}{where}")


def answer(model: nn.Module, inputs: Inputs) -> Outputs:
    """Return what the model itself answers, the inputs being its own to change."""
    with torch.no_grad():
        found = named_outputs(model(*map(Tensor.clone, inputs)))
    return {name: value.detach().clone() for name, value in found.items()}


def tolerance_for(outputs: Outputs, tolerance: float | None) -> tuple[float, str]:
    """Return how far two answers may lie apart, and why: what is given, or what the coarsest dtype leaves.

    >>> tolerance_for({"y": torch.zeros(2)}, None)[0]
    1e-05
    """
    if tolerance is not None:
        if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < float("inf"):
            raise ValueError(f"tolerance: expected a number from 0, found {tolerance!r}")
        why = "every bit" if tolerance == 0 else "as asked for"
    else:
        dtypes = [name for name in map(dtype_name, outputs.values()) if name in _KEEPS] or ["float32"]
        tolerance, digits, coarsest = max((*_KEEPS[name], name) for name in dtypes)
        why = f"{coarsest} keeps {digits} digits, and another runtime adds in another order"
    return tolerance, f"{why}; of a value above 1, that share of it" if tolerance else why


def compare(trial: Trial, expected: Outputs, found: Sequence[Tensor], tolerance: float) -> Case:
    """Compare the answers of two runtimes; the first output that differs is named.

    A value may differ by the tolerance, one above 1 by that share of it. Whole numbers and booleans must be equal, an
    infinity must stand where the other has it, and where PyTorch itself says NaN nothing is proved.
    """
    shapes = tuple(tuple(each.shape) for each in trial.inputs)
    if len(found) != len(expected):
        problem = f"expected {len(expected)} outputs ({', '.join(expected)}), found {len(found)}"
        return Case(label=trial.label, shapes=shapes, problem=problem)
    absolute = relative = 0.0
    problem = ""
    for (name, ours), theirs in zip(expected.items(), found, strict=True):
        why, difference, scale = _difference(ours, theirs, tolerance)
        absolute = max(absolute, difference)
        relative = max(relative, difference / scale if scale else difference and float("inf"))
        if why and not problem:
            problem = f"{name if name.startswith('output') else f'output {printable(name, 60)}'}: {why}"
    return Case(label=trial.label, shapes=shapes, absolute=absolute, relative=relative, problem=problem)


def examine(
    model: nn.Module,
    trials: Iterable[Trial],
    runs: Mapping[str, Run],
    tolerance: float,
    *,
    names: Sequence[str] = (),
    calls: int = 1,
) -> tuple[list[Case], list[str]]:
    """Try each of the inputs in PyTorch and in every one of the `runs`; return the comparisons and what else is wrong.

    `runs` are by what is to be said of a difference there, "" for nothing; `names` are those of the outputs. Inputs
    that were made up, and which the model itself refuses or has no number for, are left out. `calls`: how often each is
    asked, for a runtime that compiles on the way.
    """
    cases: list[Case] = []
    problems: list[str] = []
    for trial in trials:
        try:
            expected = list(answer(model, trial.inputs).items())
        except Exception as error:
            if trial.given:
                raise ExportError(refused(trial.label, trial.inputs, error)) from error
            continue
        if not trial.given and any(bool(value.isnan().any()) for _, value in expected):
            continue
        if len(names) == len(expected):
            expected = [(name, value) for name, (_, value) in zip(names, expected, strict=True)]
        if not cases and not _alike([value for _, value in expected], list(answer(model, trial.inputs).values())):
            problems.append(f"the model itself answers the same input in two ways: {_DRAWS}")
        case = Case(label=trial.label, shapes=tuple(tuple(each.shape) for each in trial.inputs))
        for name, run in runs.items():
            found: list[Sequence[Tensor]] = []
            try:
                found.extend(run(trial.inputs) for _ in range(calls if cases else max(calls, 2)))
            except Exception as error:
                case = _worse(case, replace(case, problem=f"the runtime refuses it: {first_line(error)}"), name)
            for each in found:
                case = _worse(case, compare(trial, dict(expected), each, tolerance), name)
            if len(found) > 1 and not problems and not _alike(found[0], found[-1]):
                problems.append(f"{name or 'the exported file'}: the same input is answered in two ways: {_TRAIN}")
        cases.append(case)
    return cases, problems


_DRAWS = "its forward draws random numbers, or counts its calls"
_TRAIN = "dropout is on in it: it was exported in train mode"


def refused(what: str, inputs: Inputs, error: BaseException) -> str:
    """Return that the model itself does not take some inputs, and why, in one line."""
    shapes = ", ".join(f"{tuple(each.shape)} {dtype_name(each)}" for each in inputs)
    return explain(error, f"{what} ({shapes}): the model itself does not take them")


def _alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)
    )


def _worse(a: Case, b: Case, where: str) -> Case:
    """Return two comparisons of one case as one: the larger differences, the first problem."""
    problem = a.problem or (f"{where}: {b.problem}" if b.problem and where else b.problem)
    largest = [
        max((x for x in pair if x is not None), default=None)
        for pair in ((a.absolute, b.absolute), (a.relative, b.relative))
    ]
    return replace(a, absolute=largest[0], relative=largest[1], problem=problem)


def _difference(ours: Tensor, theirs: Tensor, tolerance: float) -> tuple[str, float, float]:
    """Return what is wrong, the largest difference, and the largest value."""
    if ours.shape != theirs.shape:
        return f"expected shape {tuple(ours.shape)}, found {tuple(theirs.shape)}", 0.0, 0.0
    if ours.dtype != theirs.dtype:
        return f"expected {dtype_name(ours)}, found {dtype_name(theirs)}", 0.0, 0.0
    if ours.numel() == 0:
        return "", 0.0, 0.0
    exact = not (ours.is_floating_point() or ours.is_complex())
    if ours.is_complex():
        ours, theirs = torch.view_as_real(ours), torch.view_as_real(theirs)
    a, b = ours.double().reshape(-1), theirs.double().reshape(-1)
    if bool(a.isnan().any()):
        return "PyTorch's own answer has NaN in it, so nothing can be compared", 0.0, 0.0
    if bool(b.isnan().any()):
        return f"NaN at {_at(ours, b.isnan())}, where PyTorch has a number", 0.0, 0.0
    infinite = a.isinf() | b.isinf()
    if bool((infinite & (a != b)).any()):
        return f"an infinity at {_at(ours, infinite & (a != b))} in one of the two", 0.0, 0.0
    apart = torch.where(infinite, 0.0, a - b).abs()
    size = torch.where(infinite, 0.0, a).abs()
    beyond = apart > (0.0 if exact else tolerance * size.clamp(min=1.0))
    why = ""
    if bool(beyond.any()):
        worst = torch.where(beyond, apart, -1.0).argmax()
        share = int(beyond.sum()) / beyond.numel()
        why = f"differs by {float(apart[worst]):.2g} at {_at(ours, beyond & (apart == apart[worst]))}"
        why += f" ({float(a[worst]):.4g} in PyTorch, {float(b[worst]):.4g} here; {share:.0%} of its values are too far)"
    return why, float(apart.max()), float(size.max())


def _at(like: Tensor, where: Tensor) -> str:
    """Return the place of the first value that is meant, as an index."""
    place = torch.unravel_index(where.nonzero()[0, 0], like.shape)
    return f"[{', '.join(str(int(each)) for each in place)}]"


def seconds_per_call(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median time of a call of each, in seconds, measured by turns; one call of each warms up."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    until = time.perf_counter() + _SECONDS * len(runs)
    while time.perf_counter() < until or len(times[0]) < _CALLS:
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
            if len(taken) > 200:
                until = 0.0
    return [median(taken) for taken in times]
