"""What a model is asked on its way out: inputs that it takes, their names, and which of their dimensions are free."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from koemorph_tutorial.exporting.parity import Outputs, answer, refused
from koemorph_tutorial.exporting.shapes import Inputs, Place
from koemorph_tutorial.fitting import dtype_name
from koemorph_tutorial.records import ExportError


def as_inputs(inputs: object, name: str) -> Inputs:
    """Return inputs as a tuple of tensors of their own on the CPU.

    Raises:
        TypeError, ValueError: something else than tensors, or tensors without numbers.
    """
    tensors = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    if not tensors:
        raise ValueError(f"{name}: expected a tensor or a tuple of tensors, found an empty {type_name(inputs)}")
    for index, tensor in enumerate(tensors):
        where = f"{name}[{index}]" if isinstance(inputs, (tuple, list)) else name
        if not isinstance(tensor, Tensor):
            hint = "; torch.from_numpy makes one" if type(tensor).__module__ == "numpy" else ""
            raise TypeError(f"{where}: expected a tensor, found {type_name(tensor)}{hint}")
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
        raise TypeError(f"cases: expected a sequence of tuples of tensors, found {type_name(cases)}")
    found = [as_inputs(case, f"cases[{index}]") for index, case in enumerate(cases)]
    for index, case in enumerate(found):
        if [each.dtype for each in case] != [each.dtype for each in like]:
            kinds = [", ".join(map(dtype_name, inputs)) for inputs in (like, case)]
            raise ValueError(f"cases[{index}]: expected tensors as in the example ({kinds[0]}), found {kinds[1]}")
    return found


def type_name(value: object) -> str:
    """Return the name of a value's type, and where it is from."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def names_of_inputs(model: nn.Module, given: Sequence[str], number: int) -> tuple[str, ...]:
    """Return the names of a model's inputs: those given, else those of forward's arguments.

    Raises:
        ValueError: another number of names than of inputs, or one that is there twice.
    """
    arguments, _ = arguments_of(model)
    if len(arguments) < number:
        arguments = ["input"] if number == 1 else [f"input_{index}" for index in range(number)]
    names = given or arguments[:number]
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


def first_answers(model: nn.Module, inputs: Inputs, what: str = "example_inputs") -> Outputs:
    """Return what the model answers to inputs that were given, which are called `what`.

    Raises:
        ExportError: it does not take them, or answers something else than tensors.
    """
    try:
        found = answer(model, inputs)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(refused(what, inputs, error)) from error
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
                why = f"expected a word as the name of dimension {dimension}, found {called!r}"
                raise ValueError(f"free[{name!r}]: {why}")
            sizes[called] = shape[dimension]
            places[which, dimension] = called
    return dict(sorted(places.items()))
