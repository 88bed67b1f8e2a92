"""An exported file is asked what PyTorch was asked: which inputs, how exactly, how fast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from koemorph_tutorial.exporting.leaving import Leaving
from koemorph_tutorial.exporting.parity import Run, answer, examine, seconds_per_call
from koemorph_tutorial.exporting.receipt import Case
from koemorph_tutorial.exporting.shapes import Inputs, Place, Trial, resized, smallest, trials
from koemorph_tutorial.records import ExportError


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What was found: the fields of a `Receipt` of those names, and what the file answered to the example."""

    cases: tuple[Case, ...]
    problems: tuple[str, ...]
    tolerance: float
    why: str
    smallest: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    seconds_torch: float | None = None
    notes: tuple[str, ...] = ()

    def facts(self, *notes: str) -> dict[str, Any]:
        """Return it as the fields of a `Receipt`, with more notes before its own."""
        return {**vars(self), "notes": (*notes, *self.notes)}


def examine_export(
    leaving: Leaving,
    *,
    names: Sequence[str],
    free: Mapping[str, Sequence[Place]],
    runs: Mapping[str, Run],
    calls: int = 1,
) -> Examined:
    """Ask PyTorch and the runs about the example, what follows from it, and further cases; see how long it takes.

    `names` are the outputs'. `free` are the places of each free dimension.
    """
    model, inputs = leaving.model, leaving.inputs
    allowed, why = leaving.tolerance

    def takes(tried: Inputs) -> bool:
        try:
            answer(model, tried)
        except Exception:
            return False
        return True

    least = {name: smallest(inputs, places, takes) for name, places in free.items()}
    sizes = {name: inputs[places[0][0]].shape[places[0][1]] for name, places in free.items()}
    stuck = {name: size for name, size in sizes.items() if not takes(resized(inputs, free[name], size + 1))}
    doubled = {name: resized(inputs, free[name], 2 * size) for name, size in stuck.items()}  # sizes that go by steps
    stepped = {name: tried for name, tried in doubled.items() if takes(tried)}
    steps = [Trial(f"the example, {name} {2 * stuck[name]}", tried) for name, tried in stepped.items()]
    untried = [
        f"{name}: of the sizes that were tried the model itself takes {size} alone, as in the example"
        for name, size in stuck.items()
        if least[name] == size and name not in stepped
    ]
    given = [Trial(f"case {index}", case, given=True) for index, case in enumerate(leaving.cases)]
    cases, problems = examine(
        model, [*trials(inputs, free, least), *steps, *given], runs, allowed, names=names, calls=calls
    )
    times: list[float | None] = [None, None]
    run = runs[""]
    if not any(case.problem for case in cases):
        times = [*seconds_per_call([lambda: run(inputs), lambda: call(model, inputs)])]
    return Examined(
        cases=tuple(cases),
        problems=tuple(problems),
        tolerance=allowed,
        why=why,
        smallest={name: size for name, size in least.items() if name not in stepped},
        seconds=times[0],
        seconds_torch=times[1],
        notes=tuple(untried),
    )


def call(model: nn.Module, inputs: Inputs) -> None:
    """Call a model as for use, for its time."""
    with torch.no_grad():
        model(*inputs)


def expect_same_answers(path: Path, first: Mapping[str, Run], second: Mapping[str, Run], inputs: Inputs) -> None:
    """Raise ExportError where two sessions of what should be one file answer the example otherwise, by a bit."""
    for name, run in first.items():
        pairs: Iterator[tuple[Tensor, Tensor]] = zip(run(inputs), second[name](inputs), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise ExportError(f"{path}: what was read back from the disk answers otherwise; try again")
