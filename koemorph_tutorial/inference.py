"""Weights alone: into a model that shall answer, or into one whose training begins from them.

Only the weights' share of a file is read, each storage of it after its checksum was checked, by a reader of our own:
nothing in the file can run, whoever wrote it. What else the file holds, an optimizer's state say, is not looked at, so
damage there does not matter here. A model is filled as a whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from .archive import open_file
from .filling import fill
from .fitting import Fit, dtype_name, left_out, match_tensors, place_of, tensors_to_fill
from .header import Header, read_header
from .naming import plain_name, plain_versions
from .rebuild import kind_text
from .records import MismatchError, PathLike, UnsupportedCheckpointError
from .storage import describe_content
from .stubs import find_tensors
from .tensors import TensorReader
from .text import count, listed, printable
from .unpickling import Opaque
from .weights import Weights, find_weights

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """What was filled from where, and what was left as it is.

    `where` is the key of the weights in the file, `prefix` what was taken off their names; `filled` and `missing` are
    names in the model, `unexpected` in the file; `reshaped` says of each tensor of another shape what was expected and
    what found; `notes` are further things to know, one sentence each.
    """

    where: str
    prefix: str = ""
    filled: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        phrases = (
            f"{count(len(self.filled), 'tensor')} filled"
            + (f" from {printable(self.where, 80)}" if self.where else ""),
            f"{printable(self.prefix, 80)!r} taken off their names" if self.prefix else "",
            listed("not in the file, left as they were", self.missing),
            listed("only in the file, not used", self.unexpected),
            listed("of another shape or kind, left as they were", self.reshaped),
            *self.notes,
        )
        return "; ".join(filter(None, phrases))


def load_for_inference(
    path: PathLike,
    model: M,
    *,
    weights: str = "model",
    strict: bool = True,
    map_location: str | torch.device = "cpu",
) -> tuple[M, dict[str, float]]:
    """Fill `model` with the weights in a file and make it ready to answer: on `map_location`, in eval mode.

    Return it, and the metrics that the file holds. What `load_weights` would say beyond that is logged.

    Raises:
        CheckpointError: as `load_weights`.
        ValueError: no such device here.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pth"
    >>> torch.save({"model_state_dict": nn.Linear(2, 1).state_dict(), "metrics": {"loss": 0.5}}, path)
    >>> model, metrics = load_for_inference(path, nn.Linear(2, 1))
    >>> model.training, metrics
    (False, {'loss': 0.5})
    """
    try:
        torch.empty(0, device=map_location)
    except (RuntimeError, AssertionError) as error:  # before the model is touched
        why = str(error).partition("\n")[0]
        raise ValueError(f"map_location: expected a device of this machine, found {map_location!r}: {why}") from None
    loaded, metrics = _load(Path(path), model, weights, strict)
    doubtful = loaded.missing or loaded.unexpected or loaded.reshaped or any(_NAN in note for note in loaded.notes)
    logger.log(logging.WARNING if doubtful else logging.INFO, "%s: %s", path, loaded)
    model.to(map_location).eval()
    return model, metrics


def load_weights(path: PathLike, model: nn.Module, *, weights: str = "model", strict: bool = True) -> LoadedWeights:
    """Fill `model` with the weights in a file and leave all else as it is: a warm start.

    Its mode, its ``requires_grad`` and its optimizer are not touched. The file is any checkpoint of torch, a
    TorchScript archive or ``.safetensors``; `weights` is "model", "ema" for the averaged ones, or the name of another
    state in it. Names are matched whatever wrapped the model when it was saved, or wraps it here. `strict=False` fills
    what fits and says what does not.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: no file, or one whose weights are damaged.
        UnsupportedCheckpointError: a class in place of the weights.
        MismatchError: no such weights in it; under `strict`, any that do not fit; without it, none that fits.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.pth"
    >>> torch.save({"state_dict": nn.DataParallel(nn.Linear(2, 1)).state_dict()}, path)
    >>> print(load_weights(path, nn.Linear(2, 1)))
    2 tensors filled from state_dict; 'module.' taken off their names
    """
    return _load(Path(path), model, weights, strict)[0]


@torch.inference_mode(False)  # within it what is made can never be trained
def _load(path: Path, model: nn.Module, weights: str, strict: bool) -> tuple[LoadedWeights, dict[str, float]]:
    live = tensors_to_fill(model)
    with open_file(path):  # held open, so that a compressed one is unpacked once
        header = read_header(path)
        metrics = _metrics(path, header)
        found = _find(path, header, weights)
        constants = left_out(model) if header.kind == "torchscript" else set()
        ignored = {"n_averaged", *constants}  # the count of an AveragedModel
        fit = match_tensors(live, {**found.tensors, **found.others}, ignored=ignored)
        problems = fit.problems()
        if not fit.stubs or (strict and problems):
            raise _mismatch(path, header, found.where, problems, some=bool(fit.stubs))
        with TensorReader(path, header) as reader:
            tensors = {name: _as_torch(reader.read(stub), stub.dtype) for name, stub in fit.stubs.items()}
    torn = _torn(live, tensors)
    if strict and torn:
        raise _mismatch(path, header, found.where, torn, some=True)
    notes = (*torn, *_notes(header, live, fit), *_wrecked(tensors))
    try:
        fill(model, tensors, None if found.metadata is None else plain_versions(found.metadata, fit.prefix))
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from error.__cause__
    loaded = LoadedWeights(
        where=found.where,
        prefix=fit.prefix,
        filled=tuple(fit.stubs),
        missing=fit.missing,
        unexpected=fit.unexpected,
        reshaped=fit.reshaped,
        notes=notes,
    )
    return loaded, metrics


def _find(path: Path, header: Header, which: str) -> Weights:
    """Return the weights of a file by their plain names."""
    content = header.content
    try:
        found = find_weights(content, which, path=path)
    except MismatchError:
        values = content if isinstance(content, dict) else {"": content}
        pickled = [value for value in values.values() if isinstance(value, Opaque) and any(find_tensors(value))]
        if not pickled:
            raise
        raise UnsupportedCheckpointError(
            f"{path}: expected a dict of weights, found {kind_text(pickled[0])}; where you trust that code, load it "
            "with torch.load(weights_only=False) and save its state_dict()"
        ) from None
    tensors, others = (
        {plain_name(name): value for name, value in each.items()} for each in (found.tensors, found.others)
    )
    return replace(found, tensors=tensors, others=others)


def _mismatch(path: Path, header: Header, where: str, problems: list[str], *, some: bool) -> MismatchError:
    place = f"{path}: {printable(where, 80)}" if where else str(path)
    nothing = "" if some else "nothing in it fits the model; "
    config = isinstance(header.content, dict) and isinstance(header.content.get("config"), dict)
    return MismatchError(
        f"{place}: {nothing}{'; '.join(problems)}; this is the checkpoint of another model: build the model that "
        f"it was saved from{' (the config in the file may say how)' if config else ''}"
        + (", or fill what fits by strict=False" if some else "")
    )


def _metrics(path: Path, header: Header) -> dict[str, float]:
    """Return the metrics in a file; raise for a file of a newer format."""
    content = header.content if isinstance(header.content, dict) else {}
    metrics = dict(describe_content(path, content, size=header.size, inode=0).metrics)
    loose = {name: content.get(name) for name in ("loss", "metric")}  # where others keep the only one
    return metrics or {name: value for name, value in loose.items() if isinstance(value, float)}


def _as_torch(array: Any, dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).view(getattr(torch, dtype))  # the array is a view of the whole storage


_NAN = "with NaN in it"


def _wrecked(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Name the tensors that a run which had diverged left behind: they fit, and no answer of the model is a number."""
    nan = [name for name, value in tensors.items() if value.is_floating_point() and bool(value.isnan().any())]
    return [listed(_NAN, nan)] if nan else []


def _torn(live: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Name the tensors that are one in the model and two different ones in the file."""
    first: dict[Any, str] = {}
    pairs = [(first.setdefault(place_of(live[name]), name), name) for name in tensors]
    torn = [f"{a} and {b}" for a, b in pairs if a != b and not _same(tensors[a], tensors[b])]
    return [listed("tied in the model, but not in the file", torn)] if torn else []


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (a, b)))


def _notes(header: Header, live: Mapping[str, Any], fit: Fit) -> list[str]:
    cast = [
        f"{name} ({stub.dtype} in the file, {dtype_name(live[name])} here)"
        for name, stub in fit.stubs.items()
        if stub.dtype != dtype_name(live[name])
    ]
    phrases = (
        listed("stored as another dtype", cast),
        listed(f"outside of {printable(fit.prefix, 80)!r}, not used", fit.beside),
        listed(f"more under which the names fit as under {printable(fit.prefix, 80)!r}", fit.others),
        "" if header.checksums else "the file has no checksums, so whether it is sound cannot be told",
        listed("named in the file and not run", header.foreign),
    )
    return [phrase for phrase in phrases if phrase]
