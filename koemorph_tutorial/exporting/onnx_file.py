"""An ONNX file in memory: what its dimensions are called, what is taken out and written in, how it is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from koemorph_tutorial.exporting.parity import Run
from koemorph_tutorial.exporting.receipt import Port, Receipt
from koemorph_tutorial.exporting.shapes import Inputs, Place
from koemorph_tutorial.exporting.words import first_line
from koemorph_tutorial.records import ExportError

if TYPE_CHECKING:
    import onnx

_LARGEST = 2**31 - 1  # bytes: a protobuf message cannot be larger
AS_WRITTEN = "with its optimizations off"


def name_dimensions(proto: onnx.ModelProto, places: Mapping[Place, str], names: Sequence[str]) -> None:
    """Give free dimensions the names that they were asked for by, and fixed ones their number, wherever they stand."""
    renamed: dict[str, str] = {}
    by_name = {value.name: value for value in proto.graph.input}
    for (which, dimension), name in places.items():
        if value := by_name.get(names[which]):
            symbol = value.type.tensor_type.shape.dim[dimension].dim_param
            renamed.setdefault(symbol, name)
    del proto.graph.value_info[:]  # every reader infers it anew
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.isdecimal():  # so the exporter writes a free dimension that forward holds
                dim.dim_value = int(dim.dim_param)
            elif dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: renamed.get(word[0], word[0]), dim.dim_param)


def free_groups(proto: onnx.ModelProto, places: Mapping[Place, str]) -> dict[str, list[Place]]:
    """Return which places each free dimension of the file has: two of one name have one size."""
    groups: dict[str, list[Place]] = {}
    for which, value in enumerate(proto.graph.input):
        for dimension, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and (which, dimension) in places:
                groups.setdefault(dim.dim_param, []).append((which, dimension))
    return groups


def strip(proto: onnx.ModelProto) -> None:
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


def serialized(proto: onnx.ModelProto) -> bytes:
    """Return the bytes of a file; raise ExportError for one that is too large for a single one."""
    if proto.ByteSize() > _LARGEST:
        raise ExportError(
            f"model: expected at most 2 GiB as one ONNX file, found {proto.ByteSize():,} bytes; export it in parts, "
            "or as safetensors"
        )
    return bytes(proto.SerializeToString())


def check(proto: onnx.ModelProto) -> None:
    """Raise ExportError where the file breaks a rule of the format."""
    import onnx

    try:
        onnx.checker.check_model(serialized(proto), full_check=True)
    except Exception as error:
        raise ExportError(f"the exporter wrote a file that onnx.checker refuses: {first_line(error)}") from error


def write_facts(proto: onnx.ModelProto, receipt: Receipt) -> None:
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


def runtime_text(runtime: Any) -> str:
    """Return in what the file is asked, for the receipt."""
    threads = torch.get_num_threads()
    return f"onnxruntime {runtime.__version__}, CPU, {threads} thread{'s' * (threads > 1)}, as it comes and as written"


def second_files(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of further files in which weights of this one lie, as torch writes it unless told not to."""
    places = (entry for tensor in proto.graph.initializer for entry in tensor.external_data if entry.key == "location")
    return tuple(dict.fromkeys(entry.value for entry in places))


def other_weights(proto: onnx.ModelProto, state: Mapping[str, Any]) -> list[str]:
    """Return the names of weights that are in the file under their own name, with other numbers.

    What an answer shows of a weight may be less than the tolerance. A weight that was transposed or renamed on the way
    is not found by its name, and one into which a BatchNorm was folded differs.
    """
    from onnx import numpy_helper

    different = []
    for tensor in proto.graph.initializer:
        ours = state.get(tensor.name)
        if isinstance(ours, Tensor) and not tensor.external_data and ours.dtype == torch.float32:
            theirs = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            if ours.shape == theirs.shape and not torch.equal(ours, theirs):
                different.append(tensor.name)
    return different


def runs_of(data: bytes | str, runtime: Any) -> dict[str, Run]:
    """Return how to ask an ONNX file (bytes or path): in onnxruntime as it comes, and with its optimizations off.

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

    def runner(session: Any) -> Run:
        names = [each.name for each in session.get_inputs()]

        def run(inputs: Inputs) -> list[Tensor]:
            if len(names) != len(inputs):
                raise ValueError(f"expected {len(inputs)} inputs, found {len(names)} ({', '.join(names)})")
            arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
            return [torch.from_numpy(np.array(array)) for array in session.run(None, arrays)]

        return run

    levels = runtime.GraphOptimizationLevel
    return {"": runner(session(levels.ORT_ENABLE_ALL)), AS_WRITTEN: runner(session(levels.ORT_DISABLE_ALL))}
