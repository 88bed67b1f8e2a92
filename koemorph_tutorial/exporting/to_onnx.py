"""To ONNX: captured by torch.export, written by torch's exporter, asked in onnxruntime."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from koemorph_tutorial.exporting.asking import arguments_of, as_cases, as_inputs, check_names
from koemorph_tutorial.exporting.examination import examine_export, expect_same_answers
from koemorph_tutorial.exporting.leaving import leave, needed
from koemorph_tutorial.exporting.onnx_file import (
    check,
    free_groups,
    name_dimensions,
    ports,
    runs_of,
    runtime_text,
    serialized,
    strip,
    write_facts,
)
from koemorph_tutorial.exporting.placing import new_file, place
from koemorph_tutorial.exporting.receipt import Receipt, versions_of
from koemorph_tutorial.exporting.shapes import Inputs, Place, resized
from koemorph_tutorial.exporting.words import explain, watching_frozen
from koemorph_tutorial.records import ExportError, PathLike

if TYPE_CHECKING:
    import onnx


def export_onnx(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    output_path: PathLike,
    *,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    free: Mapping[str, Sequence[int] | Mapping[int, str]] | None = None,
    cases: Sequence[tuple[Tensor, ...]] = (),
    tolerance: float | None = None,
    opset: int = 20,
    source: PathLike | None = None,
    force: bool = False,
) -> Receipt:
    """Export a model to ONNX, ask the file in onnxruntime, and return the receipt; it lies beside the file as JSON.

    `free` names the dimensions that may have any size, per input: ``{"audio": (0, 1)}``, or with names of theirs
    ``{"audio": {0: "batch", 1: "samples"}}``; without it the first of each input is free. Names of inputs are those of
    ``forward`` if not given, those of outputs the keys of a dict, or output, output_1 …

    Compared with PyTorch are the example, each free dimension at the smallest size that the model takes and at one
    above the example's, other values, and `cases`; in onnxruntime as it comes and with its optimizations off.
    `tolerance` is absolute below 1 and relative above; None: what the dtype leaves (1e-5 for float32). Where the
    answers differ the file is kept under a name with "parity-failed" in it and ``ok`` is False.

    The model is exported in eval mode, on the CPU, and has its modes again afterwards. `source` is the checkpoint that
    the weights are from, which is checked. `force` writes over a file.

    Raises:
        ExportError: something in ``forward`` cannot be exported, or holds a free dimension at one size; says where.
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointWriteError: no such folder, or a file that is there already.
        MismatchError: the weights are not those of `source`.
        TypeError, ValueError: inputs, names, dimensions or an opset that cannot be.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/model.onnx"
    >>> receipt = export_onnx(nn.Linear(3, 2), torch.randn(4, 3), path)
    >>> receipt.ok, receipt.free, str(receipt.outputs[0])
    (True, ('batch',), 'output (batch, 2) float32')
    """
    inputs = as_inputs(example_inputs, "example_inputs")
    more = as_cases(cases, inputs)
    target = new_file(output_path, source, force=force)
    onnx, onnxscript, runtime = needed("onnx", "onnxscript", "onnxruntime", what=f"{target}")
    _check_opset(opset, onnx.defs.onnx_opset_version())
    with leave(model, inputs, more, input_names=input_names, free=free, source=source, tolerance=tolerance) as leaving:
        names, places, answers = leaving.names, leaving.places, leaving.answers
        wide, widened = _widened(inputs, places)
        weights = set(leaving.model.state_dict())
        if input_names and not weights.isdisjoint(names):
            raise ValueError(f"input_names: expected others than {', '.join(sorted(weights & set(names)))}: taken")
        taken = {*names, *weights}
        usual = tuple(f"{name}_out" if name in taken else name for name in answers)
        check_names("output_names", output_names or usual, len(answers), "outputs")
        outputs = tuple(output_names or usual)
        if not taken.isdisjoint(outputs):
            raise ValueError(f"output_names: expected others than {', '.join(sorted(taken & set(outputs)))}: taken")
        program = _captured(leaving.model, wide, places, names)
        proto = _translated(program, names, outputs, opset)
        name_dimensions(proto, places, names)
        strip(proto)
        check(proto)
        runs = runs_of(serialized(proto), runtime)
        examined = examine_export(leaving, names=outputs, free=free_groups(proto, places), runs=runs)
        receipt = Receipt(
            path=target,
            format="onnx",
            size=0,
            sha256="",
            opset=opset,
            source=leaving.source,
            inputs=ports(proto.graph.input),
            outputs=ports(proto.graph.output),
            runtime=runtime_text(runtime),
            versions=versions_of(torch=torch.__version__, onnx=onnx.__version__, onnxscript=onnxscript.__version__),
            **examined.facts(*widened),
        )
        write_facts(proto, receipt)

        def reload(found: bytes) -> None:
            if receipt.ok:
                expect_same_answers(target, runs, runs_of(found, runtime), inputs)

        return place(serialized(proto), target, receipt, reload, force=force)


def _check_opset(opset: object, newest: int) -> None:
    if type(opset) is not int or not 1 <= opset <= newest:
        raise ValueError(f"opset: expected a whole number from 1 to {newest}, found {opset!r}; 20 is a good choice")


def _widened(inputs: Inputs, places: Mapping[Place, str]) -> tuple[Inputs, tuple[str, ...]]:
    """Double each free dimension of size 1: what is 1 in the example is taken for a constant."""
    ones = [place for place in places if inputs[place[0]].shape[place[1]] == 1]
    if not ones:
        return inputs, ()
    names = ", ".join(dict.fromkeys(places[place] for place in ones))
    return resized(inputs, ones, 2), (f"the example has 1 in {names}; exported with 2, since a 1 would be frozen",)


def _captured(
    model: nn.Module, inputs: Inputs, places: Mapping[Place, str], names: Sequence[str]
) -> torch.export.ExportedProgram:
    """Return the model as torch.export sees it.

    Raises:
        ExportError: what keeps it here, and in which line.
    """
    dynamic: list[Any] = [
        {dimension: torch.export.Dim.AUTO for which, dimension in places if which == index}
        for index in range(len(inputs))
    ]
    arguments, gathers = arguments_of(model)
    if gathers and len(arguments) < len(inputs):  # forward(self, first, *rest)
        dynamic[len(arguments) :] = [tuple(dynamic[len(arguments) :])]
    with watching_frozen() as frozen:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                program = torch.export.export(model, inputs, dynamic_shapes=tuple(dynamic), strict=False)
        except Exception as error:
            raise ExportError(explain(error, "forward")) from error
    sizes = _sizes(program)
    for which, dimension in places:
        size = sizes[which][dimension]
        if isinstance(size, int):
            others = tuple(each for index, each in places if index == which and each != dimension)
            line = frozen.lines.get((arguments[which] if which < len(arguments) else "", dimension), "")
            raise ExportError(
                f"{names[which]}: dimension {dimension} should be free, and forward holds it at {size}"
                + (f", in {line}" if line else "")
                + f"; make forward take any size, or say that it is fixed: free={{{names[which]!r}: {others}}}"
            )
    return program


def _sizes(program: torch.export.ExportedProgram) -> list[Sequence[Any]]:
    """Return the sizes of each input: a number where one is fixed, a symbol where it is free."""
    meta = {node.name: node.meta for node in program.graph.nodes}
    return [
        [int(size) if isinstance(size, int) or size.node.expr.is_number else size for size in meta[name]["val"].shape]
        for name in program.graph_signature.user_inputs
    ]


def _translated(
    program: torch.export.ExportedProgram, names: Sequence[str], outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    """Return the captured model as ONNX.

    Raises:
        ExportError: an operation that the exporter does not know. ValueError: an opset that it did not write.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            written = torch.onnx.export(
                program,
                (),
                None,
                input_names=list(names),
                output_names=list(outputs),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
            assert written is not None
            proto: onnx.ModelProto = written.model_proto
    except Exception as error:
        raise ExportError(explain(error, "forward")) from error
    found = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if found != opset:
        raise ValueError(
            f"opset: expected one that the exporter of torch {torch.__version__} can write for this model, found "
            f"{opset} (it would silently write {found}); {max(found, 20)} is a good choice"
        )
    return proto
