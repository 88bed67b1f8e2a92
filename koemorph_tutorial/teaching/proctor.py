"""The run that is examined, and who sits beside it: strikes at a certain batch, and notes what the loop does.

A `Run` is what a training loop needs, and knows nothing of files. In a process that `sit` has made it also reports to
the proctor: every batch, every part of a validation. Everywhere else it is a run like any other.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial.loading import ResumableLoader
from koemorph_tutorial.manager import CheckpointManager
from koemorph_tutorial.training.dataset import augment, make_split
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import DataConfig, ModelConfig, TrainingConfig
from koemorph_tutorial.training.trainer import evaluate_model, seed_everything

from . import small_disk

# Half of the example's windows in batches of 16, a higher learning rate: after 60 batches, in half a second, the face
# says its vowels. The seed is the first one.
EPOCHS, BATCHES, PARTS = 6, 10, 4  # batches of an epoch, parts of its validation
_SEED, _BATCH_SIZE, _RATE = 0, 16, 0.01
_LEAST = 1 << 16  # bytes that a full disk has left at least: the journal may have to fit there as well
_DATA = DataConfig(train_windows=_BATCH_SIZE * BATCHES, validation_windows=32)

Loop = Callable[[Path], object]
Kind = Literal["batch", "part"]


@cache
def _windows() -> tuple[TensorDataset, tuple[TensorDataset, ...]]:
    audio, faces = make_split(_DATA, "validation").tensors
    size = len(audio) // PARTS
    parts = (TensorDataset(*both) for both in zip(audio.split(size), faces.split(size), strict=True))
    return make_split(_DATA, "train"), tuple(parts)


class Run:
    """A run of `EPOCHS` epochs, begun anew: seeds set, parts made. An epoch has `BATCHES` batches.

    `model`, `optimizer`, `scheduler` and `loader` (a plain DataLoader) are for the loop, `parts` those of the
    validation. With ``average=True`` there is a moving average of the network as well, `average`, which the loop calls
    ``average.update_parameters(model)``.
    """

    def __init__(self, *, average: bool = False) -> None:
        seed_everything(_SEED)
        windows, self.parts = _windows()
        self.model = SimplifiedKoeMorphModel(ModelConfig())
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if average else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=_RATE)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, T_max=2 * EPOCHS, eta_min=_RATE / 20
        )
        self.loader: DataLoader[tuple[Tensor, ...]] = DataLoader(windows, _BATCH_SIZE, shuffle=True, drop_last=True)
        if _proctor is not None:
            _proctor.run = self

    def step(self, batch: Sequence[Tensor]) -> float:
        """Train on one batch and return its loss."""
        if _proctor is not None:
            _proctor.begin()
        self.model.train()
        audio, faces = augment(batch[0], batch[1], TrainingConfig())
        loss = mse_loss(self.model(audio), faces)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        found = loss.item()
        if _proctor is not None:
            _proctor.done("batch", loss=found)
        return found

    def loss(self, part: TensorDataset, network: nn.Module | None = None) -> float:
        """Return the loss of the network, or of another one, on one of the `parts`."""
        if _proctor is not None:
            _proctor.begin()
        found = evaluate_model(network or self.model, part)["loss"]
        if _proctor is not None:
            _proctor.done("part")
        return found

    def validate(self, network: nn.Module | None = None) -> float:
        """Return the mean loss over all parts."""
        return sum(self.loss(part, network) for part in self.parts) / PARTS

    def networks(self) -> dict[str, Tensor]:
        """Return the weights of the network, and of its average if it has one."""
        average = {} if self.average is None else dict(self.average.state_dict())
        return {**self.model.state_dict(), **{f"average.{name}": value for name, value in average.items()}}


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What happens to a process, at the end of the `number`-th batch, or part of a validation, that it does.

    "kill": SIGKILL. "term": SIGTERM, and SIGKILL when it has begun one more and begins another. "fill": the disk of its
    folder is filled up, to half the size of the newest file there.
    """

    deed: Literal["kill", "term", "fill"]
    number: int
    kind: Kind = "batch"


class Proctor:
    """Sits in one process, beside the run that it makes: counts, notes in the file `journal`, and strikes."""

    def __init__(self, folder: Path, journal: Path, strike: Strike | None) -> None:
        self.run: Run | None = None
        self._folder, self._strike = folder, strike
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._counts = {"batch": 0, "part": 0}
        self._grace: int | None = None  # how many more may be begun before the kill

    def note(self, what: str, **details: Any) -> None:
        """Write down what the loop did; what is noted survives any kill."""
        os.write(self._journal, (json.dumps({"what": what, **details}) + "\n").encode())

    def begin(self) -> None:
        """A batch, or a part of the validation, begins."""
        if self._grace is not None:
            if self._grace == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._grace -= 1

    def done(self, kind: Kind, **details: Any) -> None:
        """One is done."""
        self._counts[kind] += 1
        self.note(kind, **details)
        strike = self._strike
        if strike is None or (kind, self._counts[kind]) != (strike.kind, strike.number):
            return
        if strike.deed == "fill":
            file = newest(self._folder)
            small_disk.fill(self._folder.parent, max(file.stat().st_size // 2 if file else 0, _LEAST))
        elif strike.deed == "term":
            self._grace = 1
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_managers(self) -> None:
        """Note what every CheckpointManager of this process is given and asked for."""
        make = CheckpointManager.__init__

        def made(manager: CheckpointManager, directory: Any, objects: Any, *rest: Any, **options: Any) -> None:
            make(manager, directory, objects, *rest, **options)
            given = {str(name): self._part(item) for name, item in objects.items()}
            self.note("made", here=manager.directory.is_relative_to(self._folder.resolve()), given=given)

        CheckpointManager.__init__ = made  # type: ignore[method-assign,assignment]  # in a process that is there for this
        for name in ("epochs", "step", "save", "poll"):
            setattr(CheckpointManager, name, self._noted(name, getattr(CheckpointManager, name)))

    def _noted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            self.note(name, rates=self.run.scheduler.last_epoch if self.run else 0)
            return method(*arguments, **options)

        return noted

    def _part(self, item: object) -> str:
        """Say which part of the run an object is."""
        for name in ("model", "average", "optimizer", "scheduler"):
            if self.run is not None and item is getattr(self.run, name):
                return name
        return "loader" if isinstance(item, ResumableLoader) else type(item).__name__


_proctor: Proctor | None = None  # of a process that `sit` is called in


def sit(loop: Loop, folder: Path, journal: Path, final: Path, strike: Strike | None) -> None:
    """Call ``loop(folder)`` with a proctor beside it, in a process that is there for this and ends with it.

    What the loop's networks are in the end goes into the file `final`, if it comes to an end.
    """
    global _proctor
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)  # as in a new process, whatever this one was forked from
    _proctor = Proctor(folder, journal, strike)
    _proctor.watch_managers()
    loop(folder)
    if _proctor.run is not None:
        torch.save(_proctor.run.networks(), final)


def newest(folder: Path) -> Path | None:
    """Return ``last_model.pth``, or else the file that was written last; None if there is none."""
    last = folder / "last_model.pth"
    files = [last] if last.exists() else [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
