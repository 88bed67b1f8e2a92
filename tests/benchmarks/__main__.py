"""Measure what is promised about speed: ``make bench``.

Absolute times belong to one machine; ratios travel. So each row times our way and another one, in turns, in the same
run, and compares the ratio of the two medians with its bound. A new row is a function in ``ROWS``.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; times in seconds."""

    name: str
    ours: float
    reference: float
    bound: float

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    @property
    def holds(self) -> bool:
        return self.ratio <= self.bound


def medians(ours: Callable[[], object], reference: Callable[[], object], *, rounds: int = 7) -> tuple[float, float]:
    """Time both in turns, so that a busy machine slows both; a first round, which fills the caches, does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for call, times in zip((ours, reference), seconds, strict=True):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


def process(*command: str | Path) -> Callable[[], object]:
    """Return a call that runs a command to its end, quietly; one that fails ends the measurement."""
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def help_is_there_at_once() -> Row:
    ours, reference = medians(process(BIN / "koemorph", "--help"), process(sys.executable, "-c", "import torch"))
    return Row(name="koemorph --help / import torch", ours=ours, reference=reference, bound=0.15)


def a_training_of_200_mb(folder: Path) -> Path:
    """Save a language model of 17 M parameters with its AdamW state, as a training loop would."""
    import torch
    from torch import nn

    from koemorph_tutorial import Position, save_checkpoint
    from koemorph_tutorial.records import Best
    from koemorph_tutorial.state import build

    layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True)
    model = nn.Sequential(nn.Embedding(3300, 768), nn.TransformerEncoder(layer, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    checkpoint = build(
        {"model": model, "optimizer": optimizer},
        epoch=0,
        position=Position(epoch=1, global_step=1),
        metrics={"loss": 0.5},
        best=Best(),
        run={"line": "benchmark", "parent": None, "saves": 1},
    )
    return save_checkpoint(checkpoint, folder / "last_model.pth").path


def a_file_is_inspected_without_loading_it() -> Row:
    load = "import sys, torch; torch.load(sys.argv[1], weights_only=True)"
    with tempfile.TemporaryDirectory() as folder:
        path = a_training_of_200_mb(Path(folder))
        ours, reference = medians(
            process(BIN / "koemorph", "inspect", path), process(sys.executable, "-c", load, path), rounds=5
        )
    return Row(name="koemorph inspect / torch.load, 200 MB", ours=ours, reference=reference, bound=0.15)


# A load into memory that the process has never touched, as the load of a run is: torch.load again and again in one
# process gets the memory of the one before, and takes a fraction of the time.
_ONE_CALL = """
import sys, time, torch
from koemorph_tutorial import inspect_checkpoint
begin = time.perf_counter()
inspect_checkpoint(sys.argv[1])
middle = time.perf_counter()
torch.load(sys.argv[1], weights_only=True)
print(middle - begin, time.perf_counter() - middle)
"""


def a_header_is_asked_in_a_fraction_of_a_load() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _ONE_CALL, a_training_of_200_mb(Path(folder))]
        said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(8)]
    ours, reference = (statistics.median(float(line.split()[at]) for line in said[1:]) for at in (0, 1))
    return Row(name="inspect_checkpoint / torch.load, 200 MB", ours=ours, reference=reference, bound=0.05)


def a_lesson_takes_seconds() -> Row:
    """Time all cells of lesson 01 after its kernel has started; the reference is one second."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbformat import read

    lesson = Path(__file__).resolve().parents[2] / "notebooks/01_state.ipynb"
    notebook = read(lesson, as_version=4)
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(notebook, km=kernel, extra_arguments=["--log-level=CRITICAL"])
    with client.setup_kernel():
        begin = time.perf_counter()
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        seconds = time.perf_counter() - begin
    return Row(name="lesson 01 / one second", ours=seconds, reference=1.0, bound=10.0)


ROWS: list[Callable[[], Row]] = [
    help_is_there_at_once,
    a_file_is_inspected_without_loading_it,
    a_header_is_asked_in_a_fraction_of_a_load,
    a_lesson_takes_seconds,
]


def main() -> int:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores, {platform.system()}")
    print(f"\n{'':40} {'ours':>10} {'reference':>10} {'ratio':>7} {'bound':>7}")
    failed = 0
    for measure in ROWS:
        row = measure()
        failed += not row.holds
        print(
            f"{row.name:40} {row.ours:8.3f} s {row.reference:8.3f} s {row.ratio:7.3f} {row.bound:7.3f}"
            f"  {'holds' if row.holds else 'BROKEN'}",
            flush=True,
        )
    print(f"\n{len(ROWS) - failed} of {len(ROWS)} bounds hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
