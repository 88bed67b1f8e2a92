"""What a whole file may lack all the same: keys, weights, numbers that are numbers; and what cannot be told of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from .findings import Finding
from .header import Header, Kind
from .rebuild import is_numpy_number, kind_text
from .records import FORMAT_TYPES, FORMAT_VERSION, OPTIONAL_KEYS, is_for_inference
from .stubs import TensorStub, find_tensors
from .text import count, printable, size
from .weights import find_states

_REQUIRED = tuple(key for key in FORMAT_TYPES if key not in OPTIONAL_KEYS)
_RECIPE = ("model_state_dict", "epoch", "config")  # section 8.1
_WEIGHTS = ("model_state_dict", "state_dict")
_MOST, _VIEWS = 20, 100  # tensors that are named; times that a storage is looked at for them

_KINDS: Mapping[Kind, str] = {
    "torch": "a file of torch.save",
    "torchscript": "an archive of TorchScript",
    "legacy": "a file as torch.save wrote it before 1.6",
    "safetensors": "a safetensors file",
}


def find_lacking(header: Header) -> Iterator[Finding]:
    """Yield what a checkpoint of its kind must have and this one has not: section 8.1 of the recipe."""
    content = header.content
    if not isinstance(content, Mapping) or header.kind not in ("torch", "legacy"):
        return
    if not content:
        yield Finding(where="", expected="a checkpoint", found="nothing in it", todo="look at what saves it")
    ours = "format_version" in content
    if ours and _is_newer(content["format_version"]):
        return
    recipe = "model_state_dict" in content or (
        sum(key in content for key in _RECIPE) > 1 and not any(True for _ in find_states(content))
    )
    left_out = ("rng_state",) if is_for_inference(content) else ()
    for key in _REQUIRED if ours else _RECIPE if recipe else ():
        if key not in content and key not in left_out:
            yield Finding(where=key, expected="it in the file", found="nothing of that name", todo=_FOR_WANT[key])
    for key, kind in (FORMAT_TYPES if ours else {}).items():
        if key in content and not isinstance(content[key], kind):
            found = kind_text(content[key])
            yield Finding(
                where=key, expected=f"a {kind.__name__}", found=found, todo="it was not saved by this library"
            )
    if ours and not any(isinstance(key, str) and key.endswith("_state_dict") for key in content):
        yield Finding(where="", expected="the state of an object", found="none", todo="hand over what is trained")
    for key in _WEIGHTS:
        if key in content and not any(True for _ in find_tensors(content[key])):
            todo = "save the state dict of the network"
            yield Finding(where=key, expected="weights", found="no tensor in it", todo=todo)


_ANEW = "it was not saved by this version of the library; use another file of the run"
_FOR_WANT = dict.fromkeys(_REQUIRED, _ANEW) | {
    "model_state_dict": "save the state dict of the network",
    "epoch": "a resume begins at epoch 0; save the epoch as well",
    "config": "who has the file alone cannot build its network; save the config as well",
}


def find_not_finite(path: Path, header: Header) -> Iterator[Finding]:
    """Yield each tensor of weights, or of an optimizer's memory, that holds NaN or an infinity.

    Each storage is looked at once, however many tensors say to lie in it.
    """
    from .tensors import TensorReader, count_not_finite

    states = {id(stub) for weights in find_states(header.content) for stub in weights.tensors.values()}
    groups: dict[tuple[str, str], list[tuple[str, TensorStub]]] = {}
    for keys, stub in find_tensors(header.content):
        if ("float" in stub.dtype or "complex" in stub.dtype) and stub.numbers and (stub.shape or id(stub) in states):
            name = ".".join(printable(str(key), 60) for key in keys)
            groups.setdefault((stub.storage.key, stub.dtype), []).append((name, stub))
    found = 0
    with TensorReader(path, header, check=False) as reader:
        for tensors in groups.values():
            if not any(count_not_finite(reader.blocks(tensors[0][1]), tensors[0][1].dtype)[:2]):
                continue
            named = found
            left = _VIEWS * tensors[0][1].storage.elements  # views that lie over each other could go on without end
            for name, stub in tensors:
                left -= stub.end
                if found == _MOST or left < 0:
                    break
                nan, infinite, rest = count_not_finite([reader.flat(stub)], stub.dtype)
                if nan or (infinite and rest):  # infinities and zeros alone: a mask for attention
                    kinds = [f"{number:,} {what}" for number, what in ((nan, "NaN"), (infinite, "infinite")) if number]
                    yield _wrecked(name, f"{' and '.join(kinds)} of {stub.numbers:,}")
                    found += 1
            if found == named and left < 0:
                yield _wrecked(tensors[0][0], "others in the storage that it shares with so many")


def _wrecked(where: str, found: str) -> Finding:
    todo = "the run had diverged, or memory was wrong when it was saved: use an older checkpoint"
    return Finding(where=where, expected="finite numbers", found=found, todo=todo)


def find_unknown(header: Header) -> Iterator[Finding]:
    """Yield why it cannot be told whether a file is sound that nothing speaks against."""
    if not header.checksums:
        yield Finding(
            where="",
            expected="checksums",
            found=f"{_KINDS[header.kind]} without any",
            todo="its structure is whole, its bytes may be any; save it anew with torch.save to have checksums",
        )
    version = header.content.get("format_version", 0) if isinstance(header.content, Mapping) else 0
    if _is_newer(version):
        yield Finding(
            where="format_version",
            expected=f"{FORMAT_VERSION} or older",
            found=printable(repr(version), 40) if type(version) in (int, str) else type(version).__name__,
            todo="update koemorph-tutorial, which wrote it",
        )
    code = [name for name in header.foreign if not is_numpy_number(name)]
    if code:
        more = f" and {len(code) - 5:,} more" if len(code) > 5 else ""
        yield Finding(
            where="",
            expected="numbers, text and tensors",
            found=f"the names of code, which an ordinary unpickler runs: {', '.join(code[:5])}{more}",
            todo="load_weights takes weights out of it and runs nothing; to load all of it is to trust who made it",
        )


def _is_newer(version: Any) -> bool:
    return type(version) is not int or version > FORMAT_VERSION


def find_notes(header: Header) -> Iterator[str]:
    """Yield what is worth knowing, and says nothing about whether the file is sound."""
    content = header.content
    if not isinstance(content, Mapping):
        return
    if is_for_inference(content):
        yield "made for inference: what a training needs to go on was left out"
    metrics = content.get("metrics")
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{printable(str(name), 40)} was {value} when it was saved: the run had diverged"
    for where, text in islice(_interpolations(content.get("config")), 5):
        yield (
            f"{where} is {printable(text, 60)}: OmegaConf would put there what it names on the machine that loads it, "
            "the environment as well; here it stays a text"
        )


def _interpolations(config: Any) -> Iterator[tuple[str, str]]:
    """Yield each text of a config that OmegaConf would put something else in the place of."""
    left, stack = 20_000, [("config", config)]
    while stack and left:
        where, value = stack.pop()
        left -= 1
        if isinstance(value, str) and "${" in value:
            yield where, value
        elif isinstance(value, (dict, list)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [
                (f"{where}.{printable(str(key), 40)}" if len(where) < 200 else where, item) for key, item in items
            ]


def say_what_was_checked(header: Header, checked: int) -> str:
    """Return for a sound file what was looked at; `checked` counts the records."""
    tensors = sum(1 for _ in find_tensors(header.content))
    return (
        f"{_KINDS[header.kind]}, {size(header.size)}; {count(checked, 'record')} as written, "
        f"{count(tensors, 'tensor')} without NaN or infinity"
    )
