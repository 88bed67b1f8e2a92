"""To TorchScript: scripted, or traced where the code cannot be scripted; asked in a module that was loaded anew.

TorchScript is deprecated: torch.export is what came after it. It is here for the programs in C++ that still load it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from koemorph_tutorial.exporting.asking import as_cases, as_inputs
from koemorph_tutorial.exporting.examination import examine_export, expect_same_answers
from koemorph_tutorial.exporting.leaving import leave
from koemorph_tutorial.exporting.parity import Run, answer
from koemorph_tutorial.exporting.placing import new_file, place
from koemorph_tutorial.exporting.receipt import Port, Receipt, versions_of
from koemorph_tutorial.exporting.shapes import Inputs, Place, grouped
from koemorph_tutorial.exporting.words import explain, first_line
from koemorph_tutorial.fitting import dtype_name
from koemorph_tutorial.records import ExportError, PathLike

CALLS = 3  # its executor compiles anew in the second


def export_torchscript(
    model: nn.Module,
    output_path: PathLike,
    *,
    example_inputs: Tensor | tuple[Tensor, ...],
    cases: Sequence[tuple[Tensor, ...]] = (),
    free: Mapping[str, Sequence[int] | Mapping[int, str]] | None = None,
    tolerance: float | None = None,
    source: PathLike | None = None,
    force: bool = False,
) -> Receipt:
    """Export a model to TorchScript, load it anew, and return the receipt; it lies beside the file as JSON.

    The model is scripted; where that cannot be, it is traced with the example, and a note says so. What is compared,
    and all else, is as in `export_onnx`; each input is asked three times, since TorchScript compiles on the way.

    Raises:
        ExportError: it can neither be scripted nor traced. CheckpointWriteError, MismatchError, TypeError, ValueError:
            as in `export_onnx`.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/model.pt"
    >>> export_torchscript(nn.Linear(3, 2), path, example_inputs=torch.randn(4, 3)).largest
    0.0
    """
    inputs = as_inputs(example_inputs, "example_inputs")
    more = as_cases(cases, inputs)
    target = new_file(output_path, source, force=force)
    with leave(model, inputs, more, free=free, source=source, tolerance=tolerance) as leaving:
        answers, places = leaving.answers, leaving.places
        script, notes = _made(leaving.model, inputs)
        buffer = io.BytesIO()
        torch.jit.save(script, buffer)
        runs = torchscript_runs(buffer.getvalue())
        examined = examine_export(leaving, names=tuple(answers), free=grouped(places), runs=runs, calls=CALLS)
        named = zip(leaving.names, inputs, strict=True)
        receipt = Receipt(
            path=target,
            format="torchscript",
            size=0,
            sha256="",
            source=leaving.source,
            inputs=tuple(_port(name, tensor, index, places) for index, (name, tensor) in enumerate(named)),
            outputs=tuple(Port(name=name, dtype=dtype_name(tensor), shape=None) for name, tensor in answers.items()),
            runtime=f"torch {torch.__version__}, loaded anew, each input three times",
            versions=versions_of(torch=torch.__version__),
            **examined.facts(*notes),
        )
        buffer = io.BytesIO()
        torch.jit.save(script, buffer, _extra_files={"receipt.json": json.dumps(receipt.facts())})

        def reload(found: bytes) -> None:
            if receipt.ok:
                expect_same_answers(target, runs, torchscript_runs(found), inputs)

        return place(buffer.getvalue(), target, receipt, reload, force=force)


def _made(model: nn.Module, inputs: Inputs) -> tuple[Any, tuple[str, ...]]:
    """Return the model as TorchScript, and what is to be said about how."""
    if isinstance(model, torch.jit.ScriptModule):
        return model, ("it was TorchScript already",)
    try:
        script = torch.jit.script(model)
        answer(script, inputs)  # what can be compiled may not run
        return script, ()
    except Exception as error:
        why = re.sub(r"\S*/", "", first_line(error, 160))  # without the folders of this machine
    try:
        traced = torch.jit.trace(model, inputs, check_trace=False, strict=False)
    except Exception as error:
        raise ExportError(explain(error, "forward: it can neither be scripted nor traced")) from error
    return traced, (f"traced, not scripted ({why}): what the example did not do is not in it",)


def torchscript_runs(data: bytes) -> dict[str, Run]:
    """Return how to ask a TorchScript archive, loaded anew.

    Raises:
        ExportError: torch does not take it.
    """
    try:
        module = torch.jit.load(io.BytesIO(data), map_location="cpu")
    except Exception as error:
        raise ExportError(f"torch {torch.__version__} does not take the file: {first_line(error)}") from None

    def run(inputs: Inputs) -> list[Tensor]:
        return list(answer(module, inputs).values())

    return {"": run}


def _port(name: str, tensor: Tensor, which: int, places: Mapping[Place, str]) -> Port:
    shape = tuple(places.get((which, dimension), size) for dimension, size in enumerate(tensor.shape))
    return Port(name=name, dtype=dtype_name(tensor), shape=shape)
