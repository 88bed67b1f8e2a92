"""Damage by chance, and what became of it: found, without effect, or silently wrong."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from koemorph_tutorial.__main__ import main
from koemorph_tutorial.validation import validate_checkpoint

from .comparing import difference
from .forging import zipped


def flipped(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit turned over."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def flips(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield what was done and the result, for single bits anywhere, none twice."""
    for bit in random.Random(seed).sample(range(len(data) * 8), count):
        yield f"bit {bit % 8} of byte {bit // 8}", flipped(data, bit)


def truncations(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield beginnings of the file: the first and last few lengths, and others."""
    lengths = {*range(min(5, len(data))), *range(max(len(data) - 30, 0), len(data))}
    rng = random.Random(seed)
    while len(lengths) < min(count, len(data)):
        lengths.add(rng.randrange(len(data)))
    for length in sorted(lengths, key=lambda length: rng.random())[:count]:
        yield f"cut to {length} bytes", data[:length]


def overwrites(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield the file with a stretch of zeros, of random bytes, or of another part of itself in it."""
    rng = random.Random(seed)
    for number in range(count):
        length = min(int(2 ** rng.uniform(0, 16)), len(data))
        at, other = rng.randrange(len(data) - length + 1), rng.randrange(len(data) - length + 1)
        what, new = (
            ("zeros", bytes(length)),
            ("random bytes", rng.randbytes(length)),
            ("another part of the file", data[other : other + length]),
        )[number % 3]
        yield f"{length} bytes of {what} at {at}", data[:at] + new + data[at + length :]


STARTS: dict[str, bytes] = {  # how the files begin that a checkpoint can be taken for
    "nothing": b"",
    "a zip": b"PK\x03\x04",
    "an empty zip": b"PK\x05\x06",
    "a pickle": b"\x80\x02",
    "a pickle of today": b"\x80\x05\x95",
    "the old format": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    "safetensors": struct.pack("<Q", 64) + b'{"weight":{"dtype":"F32","shape":[',
    "gzip": b"\x1f\x8b\x08\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "a shell script": b"#!/bin/sh\n",
}


def random_files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield files of random bytes, of up to 64 kB, most of which begin as a real format does."""
    rng = random.Random(seed)
    starts = list(STARTS.items())
    for number in range(count):
        what, start = starts[number % len(starts)]
        length = int(2 ** rng.uniform(0, 16))
        end = zipped([]) if number % 5 == 0 else b""  # and some end as a zip does
        yield f"{length} random bytes after the start of {what}", start + rng.randbytes(length) + end


# ------------------------------------------------------------------------------------------------ what became of it

Outcome = Literal["found", "touches no state", "silently wrong", "called sound, not loaded by torch"]


def plain_state(path: Path) -> Path:
    """Write the state dict of a small network by torch.save."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 4))
    torch.save(model.state_dict(), path)
    return path


def script(path: Path) -> Path:
    """Write the same network by torch.jit."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and there all the same
        torch.jit.save(torch.jit.script(model), path)
    return path


def loaded(path: Path) -> Any:
    """Return all that torch makes of a file; for an archive of TorchScript also its source.

    Raises:
        Exception: torch does not load it.
    """
    if path.suffix != ".pt":
        return torch.load(path, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(path)
    parts = {name: part.code for name, part in module.named_modules() if hasattr(part, "code")}
    flags = {name: part.training for name, part in module.named_modules()}
    return {"state": dict(module.state_dict()), "code": parts, "training": flags}


def outcome_of(path: Path, original: Any) -> Outcome:
    """Say what became of a damaged file, whose state was `original` before."""
    if not validate_checkpoint(path):
        return "found"
    try:
        now = loaded(path)
    except Exception:  # whatever torch raises
        return "called sound, not loaded by torch"
    return "silently wrong" if difference(original, now) else "touches no state"


@dataclass(frozen=True)
class Answer:
    """What a command said of a file."""

    code: int
    out: list[str]
    err: list[str]


def ask(*arguments: str) -> Answer:
    """Run a command of the command line in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode().splitlines())  # type: ignore[attr-defined]
    return Answer(code, *texts)


def told_in_one_line(path: Path, damages: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write each damaged file to `path`, ask the command line, and return the verdicts; each is one line.

    What else there is to say of a file stands in lines of their own below it, set in.
    """
    verdicts = []
    for what, data in damages:
        path.write_bytes(data)
        answer = ask("validate", str(path))
        told = [line for line in answer.out + answer.err if not line.startswith(("  also: ", "  note: "))]
        assert 1 == len(told), (what, answer)
        assert not (answer.out if answer.code == 2 else answer.err), (what, answer)
        begin = f"{path}: " if answer.code < 2 else f"koemorph: {path}: "
        assert told[0].startswith(begin), (what, answer)
        verdict = told[0].removeprefix(begin).partition(":")[0] if answer.code < 2 else "refused"
        assert verdict in ("sound", "damaged", "incomplete", "cannot tell", "refused"), (what, answer)
        assert (verdict == "sound") == (answer.code == 0), (what, answer)
        verdicts.append(verdict)
    return verdicts
