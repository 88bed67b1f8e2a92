"""Where two runs are, one seen from the other: how many epochs and batches further, in the same run or another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koemorph_tutorial.inspection.values import whole
from koemorph_tutorial.text import count


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is: the next epoch and batch, the batches seen; None where the file does not say."""

    epoch: int | None
    batch: int
    step: int | None
    line: Any
    parent: Any


def find_place(content: Any) -> Place:
    """Return where a run is by what its checkpoint says."""
    tree = content if isinstance(content, dict) else {}
    position = tree.get("position")
    run = tree["run"] if isinstance(tree.get("run"), dict) else {}
    epoch, step, batch = whole(tree.get("epoch")), whole(tree.get("global_step")), 0
    if isinstance(position, dict) and whole(position.get("epoch")) is not None:
        epoch, batch = position["epoch"], whole(position.get("batch")) or 0
        step = whole(position.get("global_step"))
    elif epoch is not None:
        epoch += 1  # saved when it had ended
    elif isinstance(tree.get("trainer"), dict):  # of Ignite
        step = whole(tree["trainer"].get("iteration"))
    return Place(epoch=epoch, batch=batch, step=step, line=run.get("line"), parent=run.get("parent"))


def tell_place(paths: tuple[Path, Path], a: Place, b: Place) -> str:
    """Say where B is, seen from A, and in which run; "" where the files do not say or there is nothing to say."""
    run = ""
    if a.line is not None and b.line is not None:
        run = " in the same run" if a.line == b.line else " in another run"
        if a.line != b.line and _is_parent(paths[0], b.parent):
            run = " in a run that went on from A"
        elif a.line != b.line and _is_parent(paths[1], a.parent):
            run = ", in the run that A went on from"
    known = a.epoch is not None and b.epoch is not None
    epochs = b.epoch - a.epoch if a.epoch is not None and b.epoch is not None else 0
    steps = b.step - a.step if a.step is not None and b.step is not None else 0
    moved = epochs, b.batch - a.batch, steps
    if not any(moved):
        return (
            "" if run in ("", " in the same run") else f"B is{' at the same place' * known}{run}".replace("is,", "is")
        )
    batches = f"{abs(steps):,} batch{'es' * (abs(steps) > 1)}"
    if a.batch == b.batch == 0 and epochs:
        far = count(abs(epochs), "epoch") + f" ({batches})" * bool(steps)
    elif known and not any(moved[:2]):  # of another program, which counts its steps and not where an epoch is
        far = count(abs(steps), "step")
    else:
        far = (batches if steps else count(abs(epochs), "epoch")) + known * (
            f" (epoch {a.epoch}, batch {a.batch} -> epoch {b.epoch}, batch {b.batch})"
        )
    return f"B is {far} {'further' if moved > (0, 0, 0) else 'behind'}{run}"


def _is_parent(path: Path, parent: Any) -> bool:
    return isinstance(parent, str) and "\0" not in parent and os.path.realpath(parent) == os.path.realpath(path)
