"""The training of the example: somebody's own loop, with a CheckpointManager in it."""

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial.drift import Change, config_in_use
from koemorph_tutorial.durable import refusals_named, sweep, sync_directory, write_file
from koemorph_tutorial.loading import ResumableLoader
from koemorph_tutorial.manager import CheckpointManager
from koemorph_tutorial.records import Best
from koemorph_tutorial.resume import Resumed
from koemorph_tutorial.save_policy import Decision
from koemorph_tutorial.training.config import load_config, to_plain, to_yaml
from koemorph_tutorial.training.dataset import Split, augment, make_split
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.runs import CHECKPOINTS
from koemorph_tutorial.training.settings import Config, ConfigError
from koemorph_tutorial.training.tracking import EarlyStopping, RunningMean

__all__ = ["EpochReport", "KoeMorphTrainer", "TrainingResult", "evaluate_model", "seed_everything"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """Say how an epoch went: `metrics` as they were saved, what was written and why, and how long it took."""

    epoch: int
    total: int
    metrics: dict[str, float]
    decision: Decision
    seconds: float

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.5f}" for name, value in self.metrics.items())
        done = f"{self.epoch + 1:{len(str(self.total))}}/{self.total}"  # epochs are counted from 0, as in the files
        return f"[{done}] epoch {self.epoch}: {values} ({self.seconds:.1f} s); {self.decision}"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Say how a call of `train` ended; `epochs` counts those that it finished itself."""

    epochs: int
    finished_before: bool
    stopped_early: bool
    best: Best
    resumed: Resumed | None
    seconds: float

    def __str__(self) -> str:
        if self.finished_before:
            why = "stopped early" if self.stopped_early else "all epochs are done"
            return f"this run had finished already ({why}); nothing was changed; {self.best}"
        epochs = f"{self.epochs} epoch{'s' if self.epochs != 1 else ''}"
        early = ", stopped early" if self.stopped_early else ""
        return f"trained {epochs} in {self.seconds:.1f} s{early}; {self.best}"


class KoeMorphTrainer:
    """Train the example in `run_dir`: ``config.yaml`` and ``checkpoints/``; making a trainer writes nothing.

    Seeds Python's, numpy's and torch's random numbers with ``config.seed``. It never prints: `train` reports to its
    callbacks.

    Raises:
        ConfigError: the device is not there.

    >>> import tempfile
    >>> from koemorph_tutorial.training.config import load_config
    >>> short = load_config(["training.epochs=1", "data.train_windows=16", "data.seconds=2.0"])
    >>> trainer = KoeMorphTrainer(short, tempfile.mkdtemp())
    >>> trainer.train().epochs
    1
    >>> sorted(trainer.evaluate("test"))
    ['loss', 'mae']
    """

    def __init__(self, config: Config, run_dir: str | os.PathLike[str]) -> None:
        settings = config.training
        self.config = config
        self.run_dir = Path(run_dir)
        self.device = _device(settings.device)
        seed_everything(config.seed)
        self._splits: dict[Split, TensorDataset] = {}
        self.model = SimplifiedKoeMorphModel(config.model).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        # Half of a cosine, so that the last epochs still move: where they creep, the last is hardly ever worse.
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, T_max=2 * settings.epochs, eta_min=settings.lr / 20
        )
        order = torch.Generator().manual_seed(config.seed)
        batches: DataLoader[tuple[Tensor, ...]] = DataLoader(
            self.windows("train"),
            settings.batch_size,
            shuffle=True,
            drop_last=True,
            generator=order,
            num_workers=settings.workers,
        )
        self.loader = ResumableLoader(batches)
        self.early_stopping = EarlyStopping(settings.patience, settings.checkpoint)
        self.train_loss = RunningMean()

    @property
    def objects(self) -> dict[str, object]:
        """What this run is made of, by the names in the file; the random numbers come along by themselves."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "early_stopping": self.early_stopping,
            "train_loss": self.train_loss,
            "loader": self.loader,
        }

    def describe(self) -> str:
        """Return in one line what is trained on what."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        data = self.config.data
        return (
            f"{parameters:,} parameters on {self.device}, {data.train_windows} windows of "
            f"{' and '.join(data.train_speakers)}, validated on {' and '.join(data.validation_speakers)}, "
            f"{self.config.training.epochs} epochs"
        )

    def train(
        self,
        resume: str | os.PathLike[str] | None = None,
        *,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_resumed: Callable[[Resumed], None] | None = None,
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1),
    ) -> TrainingResult:
        """Train until the epochs are done or patience has run out; a run that had finished is left as it is.

        `resume` is "auto" (the newest sound file of this run, or a fresh start), a checkpoint file or a directory of
        them; None is a fresh start and refuses a used directory before anything is written. `on_resumed` is called
        once, before the first batch; `on_epoch` after each save. `signals` stop it, as those of `CheckpointManager`.

        Raises:
            CheckpointError: no sound file, or one of another model; another process trains here. StopTraining: stopped
                from outside, and saved.
        """
        began = time.monotonic()
        seed_everything(self.config.seed)  # whatever was drawn since the trainer was made must not matter
        settings = self.config.training
        done, resumed = 0, None
        with CheckpointManager(
            self.run_dir / CHECKPOINTS,
            self.objects,
            settings.checkpoint,
            config=to_plain(self.config),
            signals=signals,
        ) as checkpoints:
            if resume is not None:
                resumed = checkpoints.resume(resume)
                if on_resumed:
                    on_resumed(resumed)
            finished = self.early_stopping.should_stop or checkpoints.position.epoch >= settings.epochs
            # A run that had finished gets no epoch, but its final one gets its number, should a kill have come between.
            epochs = checkpoints.epochs(checkpoints.position.epoch if finished else settings.epochs, resume=False)
            sweep(self.run_dir)  # nobody else writes config.yaml while the checkpoints are ours
            if not finished:
                self._write_config(resumed.changed if resumed else ())
            for epoch in epochs:
                epoch_began = time.monotonic()
                self._train_epoch(checkpoints)
                measured = evaluate_model(self.model, self.windows("validation"), on_part=checkpoints.poll)
                metrics = {**measured, "train_loss": self.train_loss.take()}
                self.scheduler.step()
                self.early_stopping.update(metrics, epoch)
                decision = checkpoints.save(metrics)
                done += 1
                report = EpochReport(
                    epoch=epoch,
                    total=settings.epochs,
                    metrics=metrics,
                    decision=decision,
                    seconds=time.monotonic() - epoch_began,
                )
                logger.info("%s", report)
                if on_epoch:
                    on_epoch(report)
                if self.early_stopping.should_stop:
                    break
        return TrainingResult(
            epochs=done,
            finished_before=finished,
            stopped_early=self.early_stopping.should_stop,
            best=checkpoints.best,
            resumed=resumed,
            seconds=time.monotonic() - began,
        )

    def evaluate(self, split: Split = "test") -> dict[str, float]:
        """Measure the model as it is on the windows of a split, not augmented."""
        return evaluate_model(self.model, self.windows(split))

    def windows(self, split: Split) -> TensorDataset:
        """Return the windows of a split, made when they are first asked for."""
        if split not in self._splits:
            self._splits[split] = make_split(self.config.data, split)
        return self._splits[split]

    def _train_epoch(self, checkpoints: CheckpointManager) -> None:
        self.model.train()
        for clean_audio, clean_faces in self.loader:
            audio, faces = augment(clean_audio.to(self.device), clean_faces.to(self.device), self.config.training)
            loss = nn.functional.mse_loss(self.model(audio), faces)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.train_loss.add(loss.item(), count=len(audio))
            checkpoints.step()

    def _write_config(self, changed: Sequence[Change]) -> None:
        """Put the settings beside the checkpoints, for people: a resume takes those in the checkpoint."""
        used = load_config([], base=config_in_use(to_plain(self.config), changed))
        path, text = self.run_dir / "config.yaml", to_yaml(used).encode()
        with refusals_named(path):
            write_file(path, lambda file: file.write(text))
            sync_directory(self.run_dir)


def evaluate_model(
    model: nn.Module,
    windows: TensorDataset,
    *,
    batch_size: int = 64,
    on_part: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Return `loss` (mean squared error) and `mae` (mean absolute error) over windows of audio and faces.

    The model is measured in eval mode and left in the mode it was in; `on_part` is called after each part of the
    windows. No random number is drawn: a DataLoader would take one from torch's, and training would go on differently
    for having been watched.
    """
    audio, faces = windows.tensors
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = []
            for part in audio.split(batch_size):
                parts.append(model(part.to(device)).cpu())
                if on_part is not None:
                    on_part()
            found = torch.cat(parts)
    finally:
        model.train(was_training)
    difference = found - faces
    return {"loss": difference.square().mean().item(), "mae": difference.abs().mean().item()}


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's (global) and torch's random numbers, those of every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"training.device: expected a device that is here, found {name!r} and {torch.cuda.device_count()} CUDA "
            "devices; use auto or cpu"
        )
    return device
