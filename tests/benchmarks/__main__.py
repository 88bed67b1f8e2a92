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
from collections.abc import Callable, Iterable
from pathlib import Path

import peers
from beside import in_the_background
from compressing import compressing
from exporting import exporting
from measuring import Row, medians, process
from pruning import pruning
from resuming import bookkeeping, going_on
from saving import loading, memory, saving
from training import file_of_200_mb
from trusting import differing, verifying

BIN = Path(sys.executable).parent


def help_is_there_at_once() -> Iterable[Row]:
    ours, reference = medians(process(BIN / "koemorph", "--help"), process(sys.executable, "-c", "import torch"))
    yield Row(name="koemorph --help / import torch", measured=ours, reference=reference, bound=0.15)


def a_file_is_inspected_without_loading_it() -> Iterable[Row]:
    load = "import sys, torch; torch.load(sys.argv[1], weights_only=True)"
    with tempfile.TemporaryDirectory() as folder:
        path = file_of_200_mb(Path(folder))
        ours, reference = medians(
            process(BIN / "koemorph", "inspect", path), process(sys.executable, "-c", load, path), rounds=5
        )
    yield Row(name="koemorph inspect / torch.load, 200 MB", measured=ours, reference=reference, bound=0.15)


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


def a_header_is_asked_in_a_fraction_of_a_load() -> Iterable[Row]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _ONE_CALL, file_of_200_mb(Path(folder))]
        said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(8)]
    ours, reference = (statistics.median(float(line.split()[at]) for line in said[1:]) for at in (0, 1))
    yield Row(name="inspect_checkpoint / torch.load, 200 MB", measured=ours, reference=reference, bound=0.05)


# Eleven forgetful runs and six kills; nine exports, the first of which loads much; 25 processes and torchrun, twice.
_LONGER = {"03": 20.0, "09": 30.0, "10": 30.0}


def a_lesson_takes_seconds() -> Iterable[Row]:
    """Time all cells of each lesson after its kernel has started; the reference is one second."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbformat import read

    for lesson in sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9]*.ipynb")):
        notebook = read(lesson, as_version=4)
        kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        client = NotebookClient(notebook, km=kernel, extra_arguments=["--log-level=CRITICAL"])
        with client.setup_kernel():
            begin = time.perf_counter()
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            seconds = time.perf_counter() - begin
        number = lesson.stem[:2]
        bound = _LONGER.get(number, 10.0)
        yield Row(name=f"lesson {number} / one second", measured=seconds, reference=1.0, bound=bound)


ROWS: list[Callable[[], Iterable[Row]]] = [
    help_is_there_at_once,
    a_file_is_inspected_without_loading_it,
    a_header_is_asked_in_a_fraction_of_a_load,
    a_lesson_takes_seconds,
    saving,
    memory,
    in_the_background,
    loading,
    verifying,
    differing,
    compressing,
    bookkeeping,
    pruning,
    exporting,
    going_on,
]


def main() -> int:
    packages = ["torch", "numpy", *peers.installed()]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores, {platform.system()}")
    print(f"\n{'':56} {'measured':>11} {'reference':>11} {'ratio':>7} {'bound':>7}")
    bound, failed = 0, 0
    for measure in ROWS:
        for row in measure():
            print(row, flush=True)
            bound += row.bound is not None
            failed += not row.holds
    print(f"\n{bound - failed} of {bound} bounds hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
