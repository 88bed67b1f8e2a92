"""What every export begins with: the model at rest on the CPU, what it is asked, and the checkpoint it is from."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from koemorph_tutorial.exporting.asking import first_answers, free_places, names_of_inputs, type_name
from koemorph_tutorial.exporting.parity import Outputs, tolerance_for
from koemorph_tutorial.exporting.receipt import Source
from koemorph_tutorial.exporting.shapes import Inputs, Place
from koemorph_tutorial.exporting.words import first_line
from koemorph_tutorial.inference import load_weights
from koemorph_tutorial.naming import unwrap
from koemorph_tutorial.records import (
    CheckpointError,
    CheckpointFile,
    ExportError,
    MismatchError,
    MissingPackageError,
    PathLike,
)
from koemorph_tutorial.storage import describe

_NOISY = ("torch.onnx", "torch.export", "torch._export", "torch._dynamo", "onnxscript", "onnx_ir")


def needed(*names: str, what: str) -> list[ModuleType]:
    """Import packages that only an export needs.

    Raises:
        MissingPackageError: one of them is not installed; says how to install it.
    """
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ImportError as error:
            raise MissingPackageError(
                f"{what}: expected the package {name}, found none that can be imported ({first_line(error, 100)}); "
                "install it: pip install 'koemorph-tutorial[export]'"
            ) from None
    return modules


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[nn.Module]:
    """Give the model as it answers: in eval mode, on the CPU, without autocast, gradients and noise on the screen.

    One that is elsewhere is copied; one on the CPU is used itself and has every module's mode again afterwards. The
    random numbers of torch go on as if nothing had happened.

    Raises:
        TypeError: no nn.Module. ExportError: it has no numbers yet (meta device, lazy modules).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, found {type_name(model)}")
    model = unwrap(model)
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta or is_lazy(tensor) for tensor in tensors):
        raise ExportError("model: expected weights, found parameters without numbers (meta or lazy); load them first")
    if any(tensor.device.type != "cpu" or tensor.is_inference() for tensor in tensors):
        with torch.inference_mode(False):
            model = copy.deepcopy(model).cpu()
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module, _ in modes
        for name, buffer in module.named_buffers(recurse=False)
    ]
    root = model.training
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_quiet())
        try:
            model.eval()
            for module, _ in modes:
                module.training = False  # whatever its own train() makes of it
            yield model
        finally:
            for module, name, buffer, value in buffers:  # of a model that counts its calls
                if getattr(module, name, None) is not buffer:  # forward has put another one there
                    setattr(module, name, buffer)
                if not same(buffer, value):
                    buffer.copy_(value)
            if root:
                model.train()  # what a module of its own does then, it does
            for module, mode in modes:
                module.training = mode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and what exporters log off the screen."""
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in _NOISY]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger, _ in levels:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """A model at rest, with what it is asked and what it answers.

    `cases` are further inputs, `names` those of the inputs, `places` their free dimensions and what these are called,
    `tolerance` how far the answers of another runtime may lie apart, and why.
    """

    model: nn.Module
    inputs: Inputs
    cases: Sequence[Inputs]
    names: Sequence[str]
    places: Mapping[Place, str]
    source: Source | None
    answers: Outputs
    tolerance: tuple[float, str]


@contextlib.contextmanager
def leave(
    model: nn.Module,
    inputs: Inputs,
    cases: Sequence[Inputs],
    *,
    input_names: Sequence[str] = (),
    free: Mapping[str, Sequence[int] | Mapping[int, str]] | None,
    source: PathLike | None,
    tolerance: float | None,
) -> Iterator[Leaving]:
    """Give a model as it answers, `at_rest`, once it has answered to all inputs and is that of its `source`.

    Raises:
        TypeError, ValueError: names, dimensions or a tolerance that cannot be. ExportError: it does not take inputs.
        CheckpointError: as `source_of`.
    """
    with at_rest(model) as resting:
        names = names_of_inputs(resting, input_names, len(inputs))
        places = free_places(free, names, inputs)
        answers = first_answers(resting, inputs)
        for index, case in enumerate(cases):
            first_answers(resting, case, f"case {index}")
        yield Leaving(
            model=resting,
            inputs=inputs,
            cases=cases,
            names=names,
            places=places,
            source=source_of(source, resting),
            answers=answers,
            tolerance=tolerance_for(answers, tolerance),
        )


def source_of(path: PathLike | None, model: nn.Module) -> Source | None:
    """Return which checkpoint a model is from, once every weight of it was compared with the file's, bit by bit.

    Raises:
        CheckpointError: the file cannot be read. MismatchError: its weights are not those of the model.
    """
    if path is None:
        return None
    path = Path(path)
    copied = copy.deepcopy(model)
    wanted = model.state_dict()
    found = ""
    for weights in ("model", "ema"):
        try:
            loaded = load_weights(path, copied, weights=weights)
        except MismatchError:
            if weights == "ema":
                break
            raise
        state = copied.state_dict()
        different = [
            name for name, value in wanted.items() if isinstance(value, Tensor) and not same(value, state[name])
        ]
        if not different:
            file = _described(path)
            return Source(
                name=path.name,
                weights=loaded.where,
                line=file.line if file else None,
                epoch=file.epoch if file else None,
                sha256=_sha256(path),
            )
        found = found or f"{len(different)} of {len(wanted)} tensors differ, the first is {different[0]}"
    raise MismatchError(f"{path}: expected the weights of the model that is exported, found others: {found}")


def same(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are the same to the last bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))


def _described(path: Path) -> CheckpointFile | None:
    with contextlib.suppress(CheckpointError):
        return describe(path)
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
