"""Out of PyTorch with a receipt: the door to the exports, and whether a file that is there already is that model.

How a file is made, asked and placed stands in ``exporting``: a module for each format, and what they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from koemorph_tutorial.exporting.asking import as_cases, as_inputs
from koemorph_tutorial.exporting.examination import examine_export
from koemorph_tutorial.exporting.leaving import at_rest, leave, needed, source_of
from koemorph_tutorial.exporting.onnx_file import other_weights, ports, runs_of, runtime_text, second_files
from koemorph_tutorial.exporting.receipt import Format, Port, Receipt, versions_of
from koemorph_tutorial.exporting.shapes import Inputs, Place, grouped
from koemorph_tutorial.exporting.to_onnx import export_onnx
from koemorph_tutorial.exporting.to_safetensors import compare_weights, export_safetensors
from koemorph_tutorial.exporting.to_torchscript import CALLS, export_torchscript, torchscript_runs
from koemorph_tutorial.exporting.words import first_line
from koemorph_tutorial.records import (
    CheckpointNotFoundError,
    DamagedCheckpointError,
    PathLike,
    UnsupportedCheckpointError,
)
from koemorph_tutorial.text import listed

__all__ = ["Receipt", "export_onnx", "export_safetensors", "export_torchscript", "verify_export"]


def verify_export(
    model: nn.Module,
    path: PathLike,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    *,
    cases: Sequence[tuple[Tensor, ...]] = (),
    free: Mapping[str, Sequence[int] | Mapping[int, str]] | None = None,
    tolerance: float | None = None,
    source: PathLike | None = None,
) -> Receipt:
    """Compare an exported file with the model that it should be, and return the receipt; nothing is written.

    ONNX, TorchScript and safetensors are told apart by their content. `free` are the dimensions in which the file must
    take every size that the model takes: the first of each input if not given. The inputs of the file are taken in
    their order. Else as `export_onnx`; safetensors need no `example_inputs`. The file is run: of TorchScript that is a
    program, so ask only files from whom you would run one.

    Raises:
        CheckpointNotFoundError, UnsupportedCheckpointError: no file, or none of these. ExportError: its runtime does
            not take it. MissingPackageError, MismatchError, TypeError, ValueError: as `export_onnx`.

    >>> import tempfile
    >>> model, path = nn.Linear(3, 2), tempfile.mkdtemp() + "/model.safetensors"
    >>> _ = export_safetensors(model, path)
    >>> verify_export(model, path).ok, verify_export(nn.Linear(3, 2), path).ok
    (True, False)
    """
    path = Path(path)
    data = _read(path)
    kind = _kind(path, data)
    common: dict[str, Any] = {
        "path": path,
        "format": kind,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if kind == "safetensors":
        with at_rest(model) as resting:
            origin = source_of(source, resting)
            (safetensors,) = needed("safetensors", what=str(path))
            version = f"safetensors {safetensors.__version__}"
            state = {name: value.detach() for name, value in resting.state_dict().items() if isinstance(value, Tensor)}
            case = compare_weights(state, data)
            return Receipt(**common, source=origin, cases=(case,), why="every bit", runtime=version)
    if example_inputs is None:
        raise TypeError(f"example_inputs: expected a tensor or a tuple of tensors to ask {path.name}, found None")
    inputs = as_inputs(example_inputs, "example_inputs")
    with leave(model, inputs, as_cases(cases, inputs), free=free, source=source, tolerance=tolerance) as leaving:
        places, calls = leaving.places, 1
        if kind == "onnx":
            onnx, runtime = needed("onnx", "onnxruntime", what=str(path))
            try:
                proto = onnx.load_from_string(data)
            except Exception as error:
                why = f"found one that cannot be read ({first_line(error)}); export it anew"
                raise DamagedCheckpointError(f"{path}: expected a whole ONNX file, {why}") from None
            opset = next((entry.version for entry in proto.opset_import if entry.domain == ""), None)
            common |= {"opset": opset, "inputs": ports(proto.graph.input), "outputs": ports(proto.graph.output)}
            places = {**_declared(common["inputs"], inputs, places), **places}
            beside = second_files(proto)  # whose bytes the sha256 does not cover
            weights = listed("weights are not the model's", other_weights(proto, leaving.model.state_dict()))
            notes = [f"weights lie in a second file, {', '.join(beside)}: ship both"] if beside else []
            runs, version = runs_of(str(path) if beside else data, runtime), runtime_text(runtime)
        else:
            notes, weights, calls = [], "", CALLS
            runs, version = torchscript_runs(data), f"torch {torch.__version__}, each input three times"
        examined = examine_export(
            leaving,
            names=tuple(port.name for port in common.get("outputs", ())) or tuple(leaving.answers),
            free=grouped(places),
            runs=runs,
            calls=calls,
        )
        versions = versions_of(torch=torch.__version__)
        found = examined.facts(*notes)
        if weights and any(isinstance(module, _NormBase) for module in leaving.model.modules()):
            found["notes"] += (f"{weights}: a BatchNorm may be folded into them",)
        elif weights:
            found["problems"] += (weights,)
        return Receipt(**common, source=leaving.source, runtime=version, versions=versions, **found)


def _declared(ports: Sequence[Port], inputs: Inputs, asked: Mapping[Place, str]) -> dict[Place, str]:
    """Return the dimensions that a file itself says are free; those of one name are one, also with one asked for."""
    names = {
        size: asked[which, dimension]
        for which, port in enumerate(ports)
        for dimension, size in enumerate(port.shape or ())
        if isinstance(size, str) and (which, dimension) in asked
    }
    return {
        (which, dimension): names.get(size, f"{size} (in the file)")
        for which, port in enumerate(ports[: len(inputs)])
        for dimension, size in enumerate(port.shape or ())
        if isinstance(size, str) and dimension < inputs[which].dim()
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointNotFoundError(f"{path}: expected an exported file, found: {error.strerror}") from None


def _kind(path: Path, data: bytes) -> Format:
    if data.startswith(b"PK"):
        if b"constants.pkl" in data:
            return "torchscript"
    elif data[8:9] == b"{":
        return "safetensors"
    elif data.startswith(b"\x08"):  # field 1, a number: the version of the format
        return "onnx"
    raise UnsupportedCheckpointError(
        f"{path}: expected an ONNX, TorchScript or safetensors file, found something else; name the exported file"
    )
