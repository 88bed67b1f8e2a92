"""What it costs to trust a file: its checksums, its verdict, its weights alone, what differs between two."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from measuring import Row, in_turns
from training import file_of_200_mb

# In a process of its own each: memory that was never touched before, as it is when somebody asks.
_TIMED = """
import sys, time
from pathlib import Path
import torch
from koemorph_tutorial import diff_checkpoints, load_weights, validate_checkpoint
what, *paths = sys.argv[1:]
begin = time.perf_counter()
if what == "load":
    for path in paths:
        torch.load(path, weights_only=True)
elif what == "diff":
    diff_checkpoints(*paths)
print(time.perf_counter() - begin)
"""


def verifying() -> Iterable[Row]:
    """Time the checksums alone against zipfile's, and the whole verdict against the same."""
    from koemorph_tutorial import archive, validate_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        path = file_of_200_mb(Path(folder))

        def ours(_: int) -> None:
            with archive.open_file(path) as file:
                archive.verify(file, path)

        def reference(_: int) -> None:
            with zipfile.ZipFile(path) as file:
                assert file.testzip() is None

        calls = {"ours": ours, "testzip": reference, "verdict": lambda _: validate_checkpoint(path)}
        times = in_turns(calls, rounds=11)
    yield Row(name="verify / zipfile.testzip, 200 MB", measured=times["ours"], reference=times["testzip"], bound=1.0)
    yield Row(name="validate_checkpoint / testzip", measured=times["verdict"], reference=times["testzip"])


def differing() -> Iterable[Row]:
    """Time what differs between two files, equal ones and two of which every number differs, against loading both."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = file_of_200_mb(Path(folder))
        same = Path(shutil.copy(path, path.with_name("same.pth")))
        other = path.with_name("other.pth")
        torch.save(_moved(torch.load(path, weights_only=True)), other)
        for name, second, bound in (("equal", same, 1.0), ("every number differs", other, 2.0)):
            turns = [[_seconds(what, path, second) for what in ("diff", "load")] for _ in range(6)][1:]
            ours, reference = (statistics.median(times) for times in zip(*turns, strict=True))
            yield Row(name=f"diff / two torch.load, {name}", measured=ours, reference=reference, bound=bound)


def _moved(value: object) -> object:
    import torch

    if isinstance(value, torch.Tensor):
        return value * 1.01 + 0.001 if value.is_floating_point() else value
    if isinstance(value, dict):
        return type(value)((key, _moved(item)) for key, item in value.items())
    return value


def _seconds(what: str, *paths: Path) -> float:
    command = [sys.executable, "-c", _TIMED, what, *paths]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
