"""What every export begins with: the model at rest on the CPU, inputs it takes, and the checkpoint it is from."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from koemorph_tutorial.exporting.parity import Outputs, answer, refused
from koemorph_tutorial.exporting.receipt import Source
from koemorph_tutorial.exporting.shapes import Inputs, Place
from koemorph_tutorial.exporting.words import first_line
from koemorph_tutorial.inference import load_weights
from koemorph_tutorial.naming import unwrap
from koemorph_tutorial.records import CheckpointError, CheckpointFile, ExportError, MismatchError, MissingPackageError
from koemorph_tutorial.storage import describe

PathLike = str | os.PathLike[str]
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
        raise TypeError(f"model: expected a torch.nn.Module, found {_type(model)}")
    model = unwrap(model)
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta or is_lazy(tensor) for tensor in tensors):
        raise ExportError("model: expected weights, found parameters without numbers (meta or lazy); load them first")
    if any(tensor.device.type != "cpu" or tensor.is_inference() for tensor in tensors):
        with torch.inference_mode(False):
            model = copy.deepcopy(model).cpu()
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    root = model.training
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(quiet())
        try:
            model.eval()
            for module, _ in modes:
                module.training = False  # whatever its own train() makes of it
            yield model
        finally:
            for buffer, value in buffers:  # of a model that counts its calls
                if not same(buffer, value):
                    buffer.copy_(value)
            if root:
                model.train()  # what a module of its own does then, it does
            for module, mode in modes:
                module.training = mode


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def as_inputs(inputs: object, name: str) -> Inputs:
    """Return inputs as a tuple of tensors of their own on the CPU.

    Raises:
        TypeError, ValueError: something else than tensors, or tensors without numbers.
    """
    tensors = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    if not tensors:
        raise ValueError(f"{name}: expected a tensor or a tuple of tensors, found an empty {_type(inputs)}")
    for index, tensor in enumerate(tensors):
        where = f"{name}[{index}]" if isinstance(inputs, (tuple, list)) else name
        if not isinstance(tensor, Tensor):
            hint = "; torch.from_numpy makes one" if type(tensor).__module__ == "numpy" else ""
            raise TypeError(f"{where}: expected a tensor, found {_type(tensor)}{hint}")
        if tensor.is_meta:
            raise ValueError(f"{where}: expected a tensor with numbers in it, found one on the meta device")
        if tensor.layout != torch.strided:
            raise ValueError(f"{where}: expected a dense tensor, found one of layout {tensor.layout}; use .to_dense()")
        if not tensor.numel():
            raise ValueError(f"{where}: expected numbers in it, found the empty shape {tuple(tensor.shape)}")
    return tuple(tensor.detach().cpu().clone().contiguous() for tensor in tensors)


def as_cases(cases: object, like: Inputs) -> list[Inputs]:
    """Return further inputs to compare on, each a tuple of tensors as the example has.

    Raises:
        TypeError, ValueError: as `as_inputs`, or another number of tensors or dtype than the example's.
    """
    if isinstance(cases, Tensor) or not isinstance(cases, Sequence):
        raise TypeError(f"cases: expected a sequence of tuples of tensors, found {_type(cases)}")
    found = [as_inputs(case, f"cases[{index}]") for index, case in enumerate(cases)]
    for index, case in enumerate(found):
        if [each.dtype for each in case] != [each.dtype for each in like]:
            kinds = [", ".join(str(each.dtype).removeprefix("torch.") for each in inputs) for inputs in (like, case)]
            raise ValueError(f"cases[{index}]: expected tensors as in the example ({kinds[0]}), found {kinds[1]}")
    return found


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def names_of_inputs(model: nn.Module, given: Sequence[str], number: int) -> tuple[str, ...]:
    """Return the names of a model's inputs: those given, else those of forward's arguments.

    Raises:
        ValueError: another number of names than of inputs, or one that is there twice.
    """
    names = given or _arguments(model, number)
    check_names("input_names", names, number, "example inputs")
    return tuple(names)


def check_names(what: str, names: Sequence[str], number: int, of: str) -> None:
    """Raise a ValueError where names are not one for each, or one is there twice or is no word."""
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{what}: expected a sequence of names, found {names!r}")
    if len(names) != number:
        raise ValueError(f"{what}: expected {number} names for {number} {of}, found {len(names)}")
    if len(set(names)) < number:
        raise ValueError(f"{what}: expected names that differ, found {', '.join(names)}")


def arguments_of(model: nn.Module) -> tuple[list[str], bool]:
    """Return the names of forward's arguments, and whether it gathers more of them in one."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return [], True
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return names, any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)


def _arguments(model: nn.Module, number: int) -> tuple[str, ...]:
    names, _ = arguments_of(model)
    if len(names) >= number:
        return tuple(names[:number])
    return ("input",) if number == 1 else tuple(f"input_{index}" for index in range(number))


def first_answers(model: nn.Module, inputs: Inputs) -> Outputs:
    """Return what the model answers to the example.

    Raises:
        ExportError: it does not take it, or answers something else than tensors.
    """
    try:
        found = answer(model, inputs)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(refused("example_inputs", inputs, error)) from error
    if not found:
        raise ExportError("forward: expected tensors as its answer, found none")
    return found


def free_places(
    free: Mapping[str, Sequence[int] | Mapping[int, str]] | None, names: Sequence[str], inputs: Inputs
) -> dict[Place, str]:
    """Return which dimensions of which inputs are free, and their names; without a word the first of each is.

    Raises:
        ValueError: an input or a dimension that there is not.
    """
    if free is None:
        free = {name: (0,) for name, tensor in zip(names, inputs, strict=True) if tensor.dim()}
    if not isinstance(free, Mapping):
        raise ValueError(f"free: expected the free dimensions per input, as {{{names[0]!r}: (0,)}}, found {free!r}")
    places: dict[Place, str] = {}
    sizes: dict[str, int] = {}
    for name, dimensions in free.items():
        if name not in names:
            raise ValueError(f"free: expected names of inputs ({', '.join(names)}), found {name!r}")
        if isinstance(dimensions, str) or not isinstance(dimensions, (Sequence, Mapping)):
            raise ValueError(f"free[{name!r}]: expected dimensions, as (0,) or {{0: 'batch'}}, found {dimensions!r}")
        which = names.index(name)
        shape = inputs[which].shape
        for dimension in dimensions:
            if type(dimension) is not int or not 0 <= dimension < len(shape):
                raise ValueError(f"free[{name!r}]: expected dimensions from 0 to {len(shape) - 1}, found {dimension!r}")
            called = "batch" if dimension == 0 else f"{name}_{dimension}"
            if isinstance(dimensions, Mapping):
                called = dimensions[dimension]
                if isinstance(called, str) and sizes.get(called, shape[dimension]) != shape[dimension]:
                    found = f"found {sizes[called]} and {shape[dimension]} in the example"
                    raise ValueError(f"free[{name!r}]: expected one size for all that is called {called!r}, {found}")
            elif sizes.get(called, shape[dimension]) != shape[dimension]:
                called = f"{name}_{dimension}"  # the first of an input may be its length
            if not isinstance(called, str) or not called.isidentifier():
                raise ValueError(
                    f"free[{name!r}]: expected a word as the name of dimension {dimension}, found {called!r}"
                )
            sizes[called] = shape[dimension]
            places[which, dimension] = called
    return dict(sorted(places.items()))


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
