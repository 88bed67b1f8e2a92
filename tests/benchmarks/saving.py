"""What a save costs that survives a power cut and was read back, beside those that promise less.

Each saver writes into a folder of its own, as one does in the middle of a training: the numbered name is new, the other
names replace those of the save before, and old numbered files go between two saves. `os.sync` before each one, so that
nobody pays for what another left to be written. The disk is that of TMPDIR; where that is memory (a tmpfs), fsync is
free and the ratios say nothing about disks.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peers
from measuring import Row, in_turns
from training import checkpoint_of_200_mb, file_of_200_mb

Save = Callable[[int], object]  # is told the epoch

KEPT = 2  # numbered files beside the one that is written


def numbered(epoch: int) -> str:
    return f"checkpoint_epoch_{epoch:03d}.pth"


def durable(checkpoint: dict[str, Any], folder: Path) -> Save:
    """Save as `CheckpointManager` does: one write, fsync, verified, three names."""
    from koemorph_tutorial import save_checkpoint

    return lambda epoch: save_checkpoint(
        checkpoint, folder / "best_model.pth", also=[numbered(epoch), "last_model.pth"]
    )


def recipe(checkpoint: dict[str, Any], folder: Path) -> Save:
    """Save as the recipe does: each name is written anew, in place, without fsync."""
    import torch

    def save(epoch: int) -> None:
        for name in (numbered(epoch), "best_model.pth", "last_model.pth"):
            torch.save(checkpoint, folder / name)

    return save


def plain(checkpoint: dict[str, Any], folder: Path) -> Save:
    """Save once, to a new name: the least that anybody does."""
    import torch

    return lambda epoch: torch.save(checkpoint, folder / numbered(epoch))


Savers = dict[str, Callable[[dict[str, Any], Path], Save]]


def saving() -> Iterable[Row]:
    """Time ours against the recipe's and against the least; then, without a bound, all others against the least."""
    checkpoint = checkpoint_of_200_mb()
    seconds = _times(checkpoint, {"ours": durable, "recipe": recipe, "torch.save": plain}, rounds=15)
    ours = "our durable, verified save, 3 names"
    for reference, name, bound in (("recipe", "recipe's 3", 0.40), ("torch.save", "one torch.save", 2.0)):
        yield Row(name=f"{ours} / {name}", measured=seconds["ours"], reference=seconds[reference], bound=bound)
    if peers.missing():
        print(
            f"  not installed, so not beside it: {', '.join(peers.missing())}; to have them:"
            " .venv/bin/python -m pip install -c constraints.txt -e '.[peers]'"
        )
        return
    savers = {"recipe, 3 names, no fsync": recipe, **peers.SAVERS}
    seconds = _times(checkpoint, {**savers, "torch.save": plain}, rounds=7)
    for name in savers:
        yield Row(name=f"  {name} / one torch.save", measured=seconds[name], reference=seconds["torch.save"])


def _times(checkpoint: dict[str, Any], savers: Savers, *, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root, str(number)) for number, name in enumerate(savers)}
        calls = {}
        for name, saver in savers.items():
            folders[name].mkdir()
            calls[name] = saver(checkpoint, folders[name])

        def before(name: str, turn: int) -> None:
            for old in folders[name].glob(f"*_{turn - KEPT - 1:03d}*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            os.sync()

        return in_turns(calls, rounds=rounds, warm_up=KEPT + 1, before=before)


# The process that has loaded a checkpoint says by how much, at its peak, a save went beyond that.
_PEAK = """
import sys
from pathlib import Path
import torch
from koemorph_tutorial import save_checkpoint

def said(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

checkpoint = torch.load(sys.argv[2], weights_only=True)
path = Path(sys.argv[2]).with_name("saved.pth")
if sys.argv[1] == "ours":
    save_checkpoint(checkpoint, path, also=["best.pth", "last.pth"])
else:
    torch.save(checkpoint, path)
print(said("VmHWM"))
"""


def memory() -> Iterable[Row]:
    """Compare the peak memory of the whole process, which Linux keeps for each; Python's own tools do not see torch."""
    if platform.system() != "Linux":
        return
    with tempfile.TemporaryDirectory() as folder:
        path = file_of_200_mb(Path(folder))
        ours, reference = (
            statistics.median(_numbers(_PEAK, saver, path)[0] for _ in range(3)) for saver in ("ours", "torch")
        )
    yield Row(
        name="peak memory, our save / torch.save, 200 MB",
        measured=ours / 1024,
        reference=reference / 1024,
        bound=1.05,
        unit="MB",
    )


# A load into memory that the process has never touched, as the load of a run is: torch.load again and again in one
# process gets the memory of the one before, and takes a fraction of the time. So each of the two has its own process.
_LOAD = """
import sys, time, torch
from koemorph_tutorial import load_checkpoint
begin = time.perf_counter()
load_checkpoint(sys.argv[2]) if sys.argv[1] == "ours" else torch.load(sys.argv[2], weights_only=True)
print(time.perf_counter() - begin)
"""


def loading() -> Iterable[Row]:
    """Time a load that checks every byte."""
    with tempfile.TemporaryDirectory() as folder:
        path = file_of_200_mb(Path(folder))
        turns = [[_numbers(_LOAD, saver, path)[0] for saver in ("ours", "torch")] for _ in range(8)][1:]
    ours, reference = (statistics.median(times) for times in zip(*turns, strict=True))
    yield Row(name="load_checkpoint, verified / torch.load, 200 MB", measured=ours, reference=reference, bound=1.4)


def _numbers(script: str, *arguments: str | Path) -> list[float]:
    command = [sys.executable, "-c", script, *arguments]
    return [float(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]
