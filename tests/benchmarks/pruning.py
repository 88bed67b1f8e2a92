"""What it costs to clear a run of ten thousand files: beside the recipe, which sorts by the clock and removes.

The files are small, so that what is timed is the work per file. The page cache is warm for both; each plan reads its
headers anew.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from measuring import Row, in_turns

FILES = 10_000
KEPT = 10


def pruning() -> Iterable[Row]:
    """Time a plan from names alone against the recipe's listing; then, without a bound, what else one may ask."""
    from koemorph_tutorial import list_checkpoints, plan_retention
    from koemorph_tutorial.listing import _DESCRIBED
    from koemorph_tutorial.retention import prune_checkpoints

    def plan(folder: Path, **rules: Any) -> Any:
        return prune_checkpoints(folder, keep_last_n=KEPT, dry_run=True, **rules)

    with tempfile.TemporaryDirectory() as root:
        run = _run(Path(root))
        listing = list_checkpoints(run)
        calls: dict[str, Callable[[int], object]] = {
            "recipe": lambda _: _by_clock(run),
            "names": lambda _: plan(run, keep_best_n=0),
            "said": lambda _: plan(run, keep_best_n=0).lines(),
            "pure": lambda _: plan_retention(listing, keep_last_n=KEPT),
        }
        times = in_turns(calls, rounds=15, before=lambda *_: _DESCRIBED.clear())
        calls = {"headers": lambda _: plan(run)}
        times |= in_turns(calls, rounds=3, before=lambda *_: _DESCRIBED.clear())
        many = f"{FILES:,} files"
        for name, what, bound in (
            ("names", f"plan from names, {many} / the recipe's listing", 1.0),
            ("said", "  the same, each file said with its size", None),
            ("pure", "  plan_retention of a listing that is there", None),
            ("headers", "  plan from all headers", None),
        ):
            yield Row(name=what, measured=times[name], reference=times["recipe"], bound=bound)

        def afresh(name: str, turn: int) -> None:
            shutil.rmtree(Path(root, "copy"), ignore_errors=True)
            shutil.copytree(run, Path(root, "copy"))
            os.sync()
            _DESCRIBED.clear()

        copy = Path(root, "copy")
        acts: dict[str, Callable[[int], object]] = {
            "recipe": lambda _: [path.unlink() for path in _by_clock(copy)[KEPT:]],
            "names": lambda _: prune_checkpoints(copy, keep_last_n=KEPT, keep_best_n=0),
            "headers": lambda _: prune_checkpoints(copy, keep_last_n=KEPT),
        }
        times = in_turns(acts, rounds=2, warm_up=0, before=afresh)
        for name, what in (
            ("names", f"  clear {many}, each looked into / unread"),
            ("headers", "  the same, planned from all headers"),
        ):
            yield Row(name=what, measured=times[name], reference=times["recipe"])


def _by_clock(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint_epoch_*.pth"), key=lambda p: p.stat().st_mtime, reverse=True)


def _run(root: Path) -> Path:
    """Write the run: numbers of one line in their order, best and last as links."""
    import torch

    run = root / "run"
    run.mkdir()
    for epoch in range(FILES):
        header = {
            "format_version": 1,
            "run": {"line": "benchmark", "parent": None, "saves": epoch + 1},
            "epoch": epoch,
            "position": {"epoch": epoch + 1, "batch": 0, "global_step": epoch + 1},
            "metrics": {"loss": 1.0 + abs(epoch - FILES // 2)},
        }
        file = io.BytesIO()
        torch.save(header, file)
        (run / f"checkpoint_epoch_{epoch:03d}.pth").write_bytes(file.getbuffer())
    os.link(run / f"checkpoint_epoch_{FILES // 2}.pth", run / "best_model.pth")
    os.link(run / f"checkpoint_epoch_{FILES - 1}.pth", run / "last_model.pth")
    return run
