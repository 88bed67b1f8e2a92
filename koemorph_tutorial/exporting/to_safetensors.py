"""To safetensors: the weights alone, for other programs; compared with the model's after they were read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from koemorph_tutorial.exporting.leaving import at_rest, needed, same, source_of
from koemorph_tutorial.exporting.placing import new_file, place
from koemorph_tutorial.exporting.receipt import Case, Receipt, versions_of
from koemorph_tutorial.exporting.words import first_line
from koemorph_tutorial.records import ExportError, PathLike
from koemorph_tutorial.text import count, listed

_ARE_WEIGHTS = "weights alone: the code of the model is not in it"


def export_safetensors(
    model: nn.Module, output_path: PathLike, *, source: PathLike | None = None, force: bool = False
) -> Receipt:
    """Export the weights of a model as safetensors, read them back, and return the receipt, JSON beside the file.

    Every name of the state dict is in the file, so that ``model.load_state_dict(load_file(path))`` fills all: a tensor
    under two names is there twice, which a note says.

    Raises:
        ExportError: the state dict holds something that is no dense tensor. MissingPackageError: no safetensors here.
            CheckpointWriteError, MismatchError, TypeError: as in `export_onnx`.

    >>> import tempfile
    >>> receipt = export_safetensors(nn.Linear(3, 2), tempfile.mkdtemp() + "/model.safetensors")
    >>> print(receipt.verdict())
    same weights: yes, bit for bit
    """
    target = new_file(output_path, source, force=force)
    (library, safetensors) = needed("safetensors.torch", "safetensors", what=f"{target}")
    with at_rest(model) as resting:
        origin = source_of(source, resting)
        state = resting.state_dict()
        _check(state)
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        places = {name: (value.data_ptr(), value.shape) for name, value in state.items() if value.numel()}
        shared = [name for name, at in places.items() if list(places.values()).count(at) > 1]
        note = listed("names that share their numbers, each written whole", shared)
        data = library.save(tensors)
        receipt = Receipt(
            path=target,
            format="safetensors",
            size=0,
            sha256="",
            source=origin,
            cases=(compare_weights(tensors, data),),
            why="every bit",
            runtime=f"safetensors {safetensors.__version__}",
            versions=versions_of(torch=torch.__version__, safetensors=safetensors.__version__),
            notes=(_ARE_WEIGHTS, *([note] if note else [])),
        )
        facts = {f"koemorph.{key}": json.dumps(value) for key, value in receipt.facts().items()}
        data = library.save(tensors, metadata={"format": "pt", **facts})

        def reload(found: bytes) -> None:
            problem = compare_weights(tensors, found).problem
            if problem:
                raise ExportError(f"{target}: what was read back from the disk is something else: {problem}")

        return place(data, target, receipt, reload, force=force)


def _check(state: Mapping[str, Any]) -> None:
    others = [name for name, value in state.items() if not isinstance(value, Tensor) or value.layout != torch.strided]
    if others:
        raise ExportError(
            f"model: expected dense tensors alone in its state dict, found {listed('others', others)}; safetensors "
            "holds nothing else"
        )


def compare_weights(tensors: Mapping[str, Any], data: bytes) -> Case:
    """Compare the weights of a model with those in a safetensors file, bit by bit."""
    from safetensors.torch import load

    label = count(len(tensors), "tensor")
    try:
        found = load(data)
    except Exception as error:
        return Case(label=label, shapes=(), problem=f"safetensors does not take the file: {first_line(error)}")
    missing = listed("not in the file", [name for name in tensors if name not in found])
    more = listed("only in the file", [name for name in found if name not in tensors])
    other = listed(
        "with other bits", [name for name in tensors if name in found and not same(tensors[name], found[name])]
    )
    problem = "; ".join(filter(None, (missing, more, other)))
    return Case(label=label, shapes=(), absolute=0.0, relative=0.0, problem=problem)
