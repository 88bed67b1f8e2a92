"""What it costs to be able to go on: the random states and the bookkeeping in each save, and the way to batch k.

The same durable save is measured with everything that `CheckpointManager` puts into it and with the two states alone.
Going on is measured from a restored loader to its first batch, in an epoch of 100,000 batches.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from measuring import Row, in_turns
from training import after_a_step, objects_of_200_mb

BATCHES = 100_000
CONFIG = {"training": {"epochs": 16, "batch_size": 8, "lr": 5e-3, "seed": 1}, "data": {"window": 0.4, "speakers": 6}}


def bookkeeping() -> Iterable[Row]:
    """Compare a save that can be gone on from exactly with one of model and optimizer alone: seconds and bytes.

    What is added does not grow with the model, so it is looked for where the model is small: the example's.
    """
    from koemorph_tutorial.training.model import SimplifiedKoeMorphModel

    for size, objects, rounds, in_time, in_bytes in (
        ("0.6 MB", after_a_step(SimplifiedKoeMorphModel()), 41, 2.0, 1.10),
        ("200 MB", objects_of_200_mb(), 15, 1.10, 1.001),
    ):
        with tempfile.TemporaryDirectory() as folder:
            seconds, megabytes = _saves(objects, Path(folder), rounds)
        what = f"with RNG and bookkeeping / without, {size}"
        yield Row(name=f"save {what}", measured=seconds["with"], reference=seconds["without"], bound=in_time)
        yield Row(
            name=f"file {what}", measured=megabytes["with"], reference=megabytes["without"], bound=in_bytes, unit="MB"
        )


def _saves(objects: dict[str, Any], folder: Path, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds and the size in MB of both saves."""
    from torch.utils.data import DataLoader

    from koemorph_tutorial import Position, ResumableLoader, save_checkpoint
    from koemorph_tutorial.records import Best
    from koemorph_tutorial.state import build

    everything = {**objects, "loader": ResumableLoader(DataLoader(range(64), batch_size=8, shuffle=True))}

    def with_them(turn: int) -> None:
        checkpoint = build(
            everything,
            epoch=turn,
            position=Position(epoch=turn + 1, global_step=8 * turn + 8),
            metrics={"loss": 0.5, "mae": 0.25, "train_loss": 0.4},
            best=Best(),
            run={"line": "0123456789abcdef", "parent": None, "saves": turn},
            config=CONFIG,
            training_time=1.0 + turn,
        )
        save_checkpoint(checkpoint, folder / "with.pth")

    def without_them(turn: int) -> None:
        states = {f"{name}_state_dict": item.state_dict() for name, item in objects.items()}
        save_checkpoint(states, folder / "without.pth")

    calls = {"with": with_them, "without": without_them}
    seconds = in_turns(calls, rounds=rounds, before=lambda name, turn: os.sync())
    return seconds, {name: (folder / f"{name}.pth").stat().st_size / 1e6 for name in calls}


def going_on() -> Iterable[Row]:
    """Compare the first batch after k with the first after 10; and skipping with reading, as one does by hand.

    Drawing the order is most of it, and that is the same for each k. In batches of one sample there is little to draw,
    and what skipping itself costs is seen: a fraction of a microsecond a batch. Reading takes many times that, even of
    data that cost nothing.
    """
    from torch.utils.data import DataLoader

    for size, rounds, bounds in ((32, 7, {10_000: 1.5, 90_000: 2.0}), (1, 21, {10_000: None, 90_000: None})):
        loader = DataLoader(range(size * BATCHES), batch_size=size, shuffle=True)
        seconds = _first_batches(loader, [10, *bounds], rounds)
        for k, bound in bounds.items():
            name = f"go on at batch {k:,} / at 10, epoch of {BATCHES:,} x {size}"
            yield Row(name=name, measured=seconds[k], reference=seconds[10], bound=bound)
    begin = time.perf_counter()
    next(islice(loader, 90_000, None))
    read = time.perf_counter() - begin
    yield Row(name="go on at batch 90,000 / read up to it", measured=seconds[90_000], reference=read, bound=0.10)


def _first_batches(loader: Any, places: list[int], rounds: int) -> dict[int, float]:
    """Return the median seconds from a restored loader to its first batch, for each place; in turns."""
    from koemorph_tutorial import ResumableLoader

    times: dict[int, list[float]] = {k: [] for k in places}
    for _ in range(1 + rounds):
        for k in places:
            resumed = ResumableLoader(loader)
            state = {**resumed.state_dict(), "batches": k}
            begin = time.perf_counter()
            resumed.load_state_dict(state)
            next(iter(resumed))
            times[k].append(time.perf_counter() - begin)
    return {k: statistics.median(each[1:]) for k, each in times.items()}
