"""To ONNX: captured by torch.export, written by torch's exporter, asked in onnxruntime."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from koemorph_tutorial.export.examination import examine_export, same_answers
from koemorph_tutorial.export.leaving import (
    PathLike,
    arguments_of,
    as_cases,
    as_inputs,
    at_rest,
    check_names,
    first_answers,
    free_places,
    names_of_inputs,
    needed,
    source_of,
)
from koemorph_tutorial.export.placing import new_file, place
from koemorph_tutorial.export.receipt import Port, Receipt, versions_of
from koemorph_tutorial.export.shapes import Inputs, Place, resized
from koemorph_tutorial.export.words import explain, first_line, watching_frozen
from koemorph_tutorial.records import ExportError

if TYPE_CHECKING:
    import onnx

_LARGEST = 2**31 - 1  # bytes: a protobuf message cannot be larger
_AS_WRITTEN = "with its optimizations off"


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
    with at_rest(model) as resting:
        names = names_of_inputs(resting, input_names, len(inputs))
        places = free_places(free, names, inputs)
        origin = source_of(source, resting)
        wide, widened = _widened(inputs, places)
        answers = first_answers(resting, inputs)
        check_names("output_names", output_names or tuple(answers), len(answers), "outputs")
        outputs = tuple(output_names or answers)
        program = _captured(resting, wide, places, names)
        proto = _translated(program, names, outputs, opset)
        _name_dimensions(proto, places, names)
        _strip(proto)
        onnx.checker.check_model(proto, full_check=True)
        runs = runs_of(_serialized(proto), runtime)
        examined = examine_export(
            resting,
            inputs,
            more,
            names=outputs,
            free=_grouped(proto, places),
            runs=runs,
            tolerance=tolerance,
        )
        receipt = Receipt(
            path=target,
            format="onnx",
            size=0,
            sha256="",
            opset=opset,
            source=origin,
            inputs=ports(proto.graph.input),
            outputs=ports(proto.graph.output),
            runtime=_runtime(runtime),
            versions=versions_of(torch=torch.__version__, onnx=onnx.__version__, onnxscript=onnxscript.__version__),
            notes=widened,
            **examined.facts(),
        )
        _write_facts(proto, receipt)

        def reload(found: bytes) -> None:
            if receipt.ok and not same_answers(runs, runs_of(found, runtime), inputs):
                raise ExportError(f"{target}: what was read back from the disk answers otherwise; try again")

        return place(_serialized(proto), target, receipt, reload, force=force)


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


def _name_dimensions(proto: onnx.ModelProto, places: Mapping[Place, str], names: Sequence[str]) -> None:
    """Give free dimensions the names that they were asked for by, and fixed ones their number, wherever they stand."""
    renamed: dict[str, str] = {}
    by_name = {value.name: value for value in proto.graph.input}
    for (which, dimension), name in places.items():
        symbol = (
            by_name[names[which]].type.tensor_type.shape.dim[dimension].dim_param if names[which] in by_name else ""
        )
        if symbol and symbol not in renamed:
            taken = set(renamed.values())
            renamed[symbol] = name if name not in taken else f"{names[which]}_{dimension}"
    del proto.graph.value_info[:]  # every reader infers it anew
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.isdecimal():  # so the exporter writes a free dimension that forward holds
                dim.dim_value = int(dim.dim_param)
            elif dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: renamed.get(word[0], word[0]), dim.dim_param)


def _grouped(proto: onnx.ModelProto, places: Mapping[Place, str]) -> dict[str, list[Place]]:
    """Return which places each free dimension of the file has: two of one name have one size."""
    groups: dict[str, list[Place]] = {}
    for which, value in enumerate(proto.graph.input):
        for dimension, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and (which, dimension) in places:
                groups.setdefault(dim.dim_param, []).append((which, dimension))
    return groups


def _strip(proto: onnx.ModelProto) -> None:
    """Take out what the exporter notes for its own authors: lines of source code, and the paths of this machine."""

    def clear(graph: Any) -> None:
        for each in (graph, *graph.node, *getattr(graph, "initializer", ())):
            del each.metadata_props[:]
            each.doc_string = ""
        for value in (*graph.input, *graph.output):
            if not isinstance(value, str):
                del value.metadata_props[:]
        for node in graph.node:
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    if inner.node:
                        clear(inner)

    del proto.metadata_props[:]
    for graph in (proto.graph, *proto.functions):
        clear(graph)


def _serialized(proto: onnx.ModelProto) -> bytes:
    if proto.ByteSize() > _LARGEST:
        raise ExportError(
            f"model: expected at most 2 GiB as one ONNX file, found {proto.ByteSize():,} bytes; export it in parts, "
            "or as safetensors"
        )
    return bytes(proto.SerializeToString())


def _write_facts(proto: onnx.ModelProto, receipt: Receipt) -> None:
    """Write what the receipt says into the file's metadata, under koemorph."""
    for key, value in receipt.facts().items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"koemorph.{key}", value if isinstance(value, str) else json.dumps(value)


def ports(values: Any) -> tuple[Port, ...]:
    """Return what an ONNX graph says of its inputs or outputs."""
    import onnx

    found = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(
            dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim
        )
        name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        found.append(
            Port(name=value.name, dtype={"float": "float32", "double": "float64"}.get(name, name), shape=shape)
        )
    return tuple(found)


def _runtime(runtime: Any) -> str:
    threads = torch.get_num_threads()
    return f"onnxruntime {runtime.__version__}, CPU, {threads} thread{'s' * (threads > 1)}, as it comes and as written"


def runs_of(data: bytes, runtime: Any) -> dict[str, Any]:
    """Return how to ask an ONNX file: in onnxruntime as it comes, and with its optimizations off.

    Raises:
        ExportError: the runtime does not take the file.
    """

    def session(level: Any) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or it takes PyTorch's time as well
        options.log_severity_level = 4  # what is wrong is raised as well
        options.graph_optimization_level = level
        try:
            return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(
                f"onnxruntime {runtime.__version__} does not take the file: {first_line(error)}"
            ) from None

    def runner(session: Any) -> Any:
        names = [each.name for each in session.get_inputs()]

        def run(inputs: Inputs) -> list[Tensor]:
            if len(names) != len(inputs):
                raise ValueError(f"expected {len(inputs)} inputs, found {len(names)} ({', '.join(names)})")
            arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
            return [torch.from_numpy(np.array(array)) for array in session.run(None, arrays)]

        return run

    levels = runtime.GraphOptimizationLevel
    return {"": runner(session(levels.ORT_ENABLE_ALL)), _AS_WRITTEN: runner(session(levels.ORT_DISABLE_ALL))}
