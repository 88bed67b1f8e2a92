"""Every setting of the example, with its default and its range: the only place where they are written.

A setting out of range is a ConfigError when the dataclass is made, so a run fails before it has begun.
"""

import math
import re
from dataclasses import dataclass, field

from koemorph_tutorial.records import CheckpointSettings
from koemorph_tutorial.training.phonemes import SPEAKERS
from koemorph_tutorial.training.voices import FRAME_RATE, HOP, SAMPLE_RATE

__all__ = ["METRICS", "Config", "ConfigError", "DataConfig", "ModelConfig", "TrainingConfig"]


METRICS = ("loss", "mae", "train_loss")  # what an epoch is measured by; the first two on the validation voices


class ConfigError(ValueError):
    """A setting is unknown, of another type, or out of range: one line with its full name."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Say who talks, for how long, and into how many windows it is cut."""

    # What the voices say. Seed and speakers were chosen together to show what checkpoints are for: a loss that halves,
    # and a best epoch that is not the last. With them the training seeds 0 to 9 all show both; with the training seed
    # 1, nine of the data seeds 0 to 9. It is a choice, not a law.
    seed: int = 1
    seconds: float = 12.0  # that each speaker talks
    window_seconds: float = 0.4  # of audio that the network hears for one face
    train_speakers: tuple[str, ...] = ("aki",)
    validation_speakers: tuple[str, ...] = ("yuki", "sora")
    test_speakers: tuple[str, ...] = ("ren",)
    train_windows: int = 320
    validation_windows: int = 128
    test_windows: int = 128

    def __post_init__(self) -> None:
        _whole("data.seed", self.seed, 0, 2**32 - 1)
        _number("data.window_seconds", self.window_seconds, 0.032, 10)
        _number("data.seconds", self.seconds, 1, 3600)
        taken: dict[str, str] = {}
        for split in ("train", "validation", "test"):
            key, speakers = f"data.{split}_speakers", getattr(self, f"{split}_speakers")
            _require(key, speakers, isinstance(speakers, tuple) and len(speakers) > 0, "a tuple of at least one name")
            for speaker in speakers:
                _require(key, speaker, speaker in SPEAKERS, f"speakers out of {', '.join(SPEAKERS)}")
                # A voice that is heard in training says nothing about voices that are not.
                _require(key, speaker, speaker not in taken, f"nobody who is in {taken.get(speaker)} already")
                taken[speaker] = key
            windows, most = getattr(self, f"{split}_windows"), self.most_windows(split)
            holds = type(windows) is int and len(speakers) <= windows <= most
            expected = f"a whole number from {len(speakers)} to {most}, which is what data.seconds holds"
            _require(f"data.{split}_windows", windows, holds, expected)

    def most_windows(self, split: str) -> int:
        """Return how many different windows the speech of a split holds."""
        spare = round(self.seconds * FRAME_RATE) * HOP - round(self.window_seconds * SAMPLE_RATE)
        return max(spare // HOP, 0) * len(getattr(self, f"{split}_speakers"))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Say how large the network is, and what it hears."""

    n_fft: int = 512  # samples in one frame of the spectrogram
    hop: int = 320  # samples from one frame to the next: 50 frames a second
    n_mels: int = 40
    width: int = 64  # features per frame and per query
    heads: int = 4
    hidden: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _whole("model.n_fft", self.n_fft, 64, 4096)
        _whole("model.hop", self.hop, 1, self.n_fft)
        _whole("model.n_mels", self.n_mels, 1, self.n_fft // 4)
        _whole("model.heads", self.heads, 1, 64)
        _whole("model.width", self.width, 2, 4096)
        multiple = math.lcm(2, self.heads)
        _require("model.width", self.width, self.width % multiple == 0, f"a multiple of {multiple} (2 and model.heads)")
        _whole("model.hidden", self.hidden, 1, 4096)
        _number("model.dropout", self.dropout, 0, 0.9)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Say how the network learns, and when the run is saved."""

    epochs: int = 16
    batch_size: int = 8
    lr: float = 5e-3  # the highest; half a cosine of twice the epochs takes it down
    weight_decay: float = 1e-2
    patience: int | None = 10  # epochs without a better monitored metric before the run stops; null: never
    device: str = "auto"  # auto: the GPU where there is one
    # On the CPU, set by the command line; null: as torch thinks. One is enough for a network of this size, many times
    # faster on a machine that is busy, and part of what makes two runs bitwise the same.
    threads: int | None = 1
    workers: int = 0  # processes that fetch the batches; 0: this one does
    target_jitter: float = 0.05  # standard deviation, on blendshapes that move
    gain: float = 0.5  # louder or softer by up to 2 to the power of this
    noise: float = 0.003  # the largest standard deviation of noise on the audio
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def __post_init__(self) -> None:
        _whole("training.epochs", self.epochs, 1, 100_000)
        _whole("training.batch_size", self.batch_size, 1, 100_000)
        _number("training.lr", self.lr, 0, 10, above=True)
        _number("training.weight_decay", self.weight_decay, 0, 10)
        if self.patience is not None:
            _whole("training.patience", self.patience, 1, 100_000)
        known = isinstance(self.device, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None
        _require("training.device", self.device, known, "auto, cpu, cuda or cuda:N")
        if self.threads is not None:
            _whole("training.threads", self.threads, 1, 1024)
        _whole("training.workers", self.workers, 0, 64)
        _number("training.target_jitter", self.target_jitter, 0, 1)
        _number("training.gain", self.gain, 0, 10)
        _number("training.noise", self.noise, 0, 1)
        ours = isinstance(self.checkpoint, CheckpointSettings)
        _require("training.checkpoint", self.checkpoint, ours, "CheckpointSettings")
        monitor = self.checkpoint.monitor
        _require("training.checkpoint.monitor", monitor, monitor in METRICS, f"one of {', '.join(METRICS)}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hold all settings of a run.

    >>> Config(training=TrainingConfig(epochs=2)).training.lr
    0.005
    >>> TrainingConfig(lr=-1.0)
    Traceback (most recent call last):
        ...
    koemorph_tutorial.training.settings.ConfigError: training.lr: expected a number above 0, up to 10, found -1.0
    """

    # Of the first weights, the order of the windows, dropout and augmentation. 1 is chosen: of the seeds 0 to 9 it ends
    # the furthest above its best epoch, and still by a fifth or more where a processor rounds differently. The others
    # end above their best too, by less: 8 % at the least.
    seed: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _whole("seed", self.seed, 0, 2**32 - 1)
        for key, kind in (("data", DataConfig), ("model", ModelConfig), ("training", TrainingConfig)):
            _require(key, getattr(self, key), isinstance(getattr(self, key), kind), kind.__name__)
        # The last batch of an epoch is dropped unless it is full, so there must be a full one.
        _whole("training.batch_size", self.training.batch_size, 1, self.data.train_windows)
        heard = self.model.n_fft / SAMPLE_RATE
        _number("data.window_seconds", self.data.window_seconds, heard, 10)


def _require(key: str, found: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{key}: expected {expected}, found {found!r}")


def _whole(key: str, value: object, least: int, most: int) -> None:
    # `type`, not isinstance: True is an int as well.
    holds = type(value) is int and least <= value <= most
    _require(key, value, holds, f"a whole number from {least} to {most}")


def _number(key: str, value: object, least: float, most: float, *, above: bool = False) -> None:
    # The comparisons refuse NaN and infinity too.
    holds = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    holds = holds and not (above and value == least)
    expected = f"a number above {least}, up to {most}" if above else f"a number from {least} to {most}"
    _require(key, value, holds, expected)
