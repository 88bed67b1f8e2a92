"""What a run is made of, written down as digests while it runs: what a resume certificate compares.

A process records if it was told to, by a certificate that made it or by the environment variable ``KOEMORPH_RECORD``, a
file. One JSON object a line, each durable before the training goes on, so that a killed process leaves its trail. Where
several processes train together, each has a file of its own: see `trail_of`.
"""

from __future__ import annotations

import json
import os
import platform
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from .digests import digest, leaves
from .provenance import package_version, surroundings
from .records import Position, UsedDirectoryError
from .rng import capture_rng, prepare_rng
from .state import check_objects, lies_in_parts, state_of

TRAIL, STOP, FOLDER = "KOEMORPH_RECORD", "KOEMORPH_STOP", "KOEMORPH_FOLDER"

Moment = Literal["begin", "inside", "end"]  # of the process's run; inside an epoch; at the end of one


class Recorder:
    """Write to the file `trail` what a run is made of, and kill this process at the position `stop`, if given.

    A `CheckpointManager` records by itself, if its directory lies in `folder`. A loop with another way of saving calls
    `record` at the end of each epoch, and once more right after it restored.
    """

    def __init__(self, trail: Path, folder: Path, stop: Position | None = None) -> None:
        self._file = os.open(trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._folder = folder.resolve()
        self._stop = stop
        self._position = Position()
        self._handed_out: dict[str, int] = {}  # batches since that position, by the name of their loader
        self._opened = 0  # loaders whose iteration began since then
        self._run, self._runs = 0, 0  # the one that was noted last; one for each manager
        self._began = False
        self._watch_loaders()

    def record(self, position: Position, /, **objects: object) -> None:
        """Write down `objects`, and the random states, at `position`, that of the next batch.

        Call it once an epoch has been saved (``Position(epoch=epoch + 1)``), and right after a restore.
        """
        check_objects(objects)
        self.note(position, "inside" if position.batch else "end", objects, {}, saved=True)
        self.stop_at(position)

    def join(self, directory: Path) -> int:
        """Return the number of a manager that begins in `directory`.

        Raises:
            UsedDirectoryError: it lies where a run of the user's may be, which would be gone on with.
        """
        if not directory.resolve().is_relative_to(self._folder):
            raise UsedDirectoryError(
                f"{directory}: expected a directory in the folder that the certificate made for this process, "
                f"{self._folder}; give the CheckpointManager a relative path"
            )
        self._runs += 1
        return self._runs

    def note(
        self,
        position: Position,
        moment: Moment,
        objects: Mapping[str, Any],
        record: Mapping[str, Any],
        *,
        run: int = 0,
        saved: bool = False,
        rng: Any = None,
    ) -> None:
        """Write down the state of `objects`, what else is in `record`, and the random states: `rng`, else today's.

        `saved`: what is written down has been saved as well, so that a resume can begin from here.
        """
        random_states = capture_rng()
        states: dict[str, Any] = {"position": asdict(position)}
        states |= {name: _part_of(item) if lies_in_parts(item) else state_of(item) for name, item in objects.items()}
        states |= record
        states |= {f"rng.{name}": state for name, state in (rng or random_states).items()}
        if not self._began:
            self._began = True
            self._write({"environment": _environment(objects)})
        self._run = run
        self.at(position)
        components = {name: dict(leaves(state)) for name, state in states.items()}
        prepare_rng(random_states)()  # a state_dict may draw random numbers
        place = {"run": run, "position": _numbers(position)}
        self._write({"moment": moment, **place, "saved": saved, "components": components})

    def at(self, position: Position) -> None:
        """Say where the run is: what loaders hand out from now on comes after that."""
        self._position = position
        self._handed_out.clear()
        self._opened = 0

    def is_stop(self, position: Position) -> bool:
        """Say whether the process is to be killed at `position`."""
        return self._stop is not None and (position.epoch, position.batch) == (self._stop.epoch, self._stop.batch)

    def stop_at(self, position: Position) -> None:
        """Kill this process if it is to be killed at `position`."""
        if self.is_stop(position):
            self._write({"stop": _numbers(position)})  # any other kill is not ours
            os.kill(os.getpid(), signal.SIGKILL)

    def handed_out(self, name: str, batch: object) -> None:
        """Write down a batch of the loader called `name`."""
        if self._began:  # before that nobody knows where the run is
            count = self._handed_out[name] = self._handed_out.get(name, 0) + 1
            place = {"run": self._run, "position": _numbers(self._position)}
            self._write({"loader": name, **place, "count": count, "batch": digest(batch)})

    def _watch_loaders(self) -> None:
        """Write down what any DataLoader hands out, but for those in a `ResumableLoader` that is watched itself."""
        iterate = DataLoader.__iter__

        def watched(loader: DataLoader[Any]) -> Any:
            batches = iterate(loader)
            return batches if vars(loader).get("watched_above") else _Watched(batches, self)

        DataLoader.__iter__ = watched  # type: ignore[method-assign]  # in a process that is there for this

    def opened(self) -> str:
        """Return the name of a loader whose iteration begins: one made anew for each validation has it each time."""
        self._opened += 1
        return f"DataLoader {self._opened}"

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = (json.dumps(entry) + "\n").encode()
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)


class _Watched:
    """The iterator of a DataLoader, whose batches are written down."""

    def __init__(self, batches: Any, recorder: Recorder) -> None:
        self._batches, self._recorder, self._name = batches, recorder, recorder.opened()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        self._recorder.handed_out(self._name, batch)
        return batch

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def _numbers(position: Position) -> list[int]:
    return [position.epoch, position.batch, position.global_step]


def _part_of(optimizer: Any) -> dict[str, Any]:
    """Return what this rank has of an optimizer that lies in parts: nobody has all of it unless all are asked."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    return {"state": optimizer.optim.state_dict()["state"], "param_groups": groups}


def _environment(objects: Mapping[str, Any]) -> dict[str, Any]:
    modules = (item for item in objects.values() if isinstance(item, nn.Module))
    devices = (str(parameter.device) for module in modules for parameter in module.parameters())
    return {
        "koemorph_tutorial": package_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": next(devices, "cpu"),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        **surroundings(),
    }


def trail_of(trail: Path, rank: int) -> Path:
    """Return the file of a rank; `trail` is that of rank 0.

    >>> trail_of(Path("run.jsonl"), 1).name
    'run.rank1.jsonl'
    """
    return trail.with_suffix(f".rank{rank}{trail.suffix}") if rank else trail


_recorder: Recorder | None = None


def begin(trail: Path, folder: Path, stop: Position | None = None) -> Recorder:
    """Make this process record, all managers in it included, whose directories must lie in `folder`."""
    global _recorder
    _recorder = Recorder(trail, folder, stop)
    return _recorder


def current() -> Recorder | None:
    """Return the recorder of this process, None where nobody asked for one."""
    trail = os.environ.pop(TRAIL, None)  # not for the processes that it starts
    if _recorder is None and trail is not None:
        begun = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if begun else 0
        stop = None
        if text := os.environ.get(STOP):
            epoch, batch, *only = map(int, text.split(","))
            stop = Position(epoch=epoch, batch=batch) if not only or only == [rank] else None
        folder = Path(os.environ.get(FOLDER, Path.cwd()))
        return begin(trail_of(Path(trail), rank), folder, stop)
    return _recorder
