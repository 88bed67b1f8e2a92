"""What a run counts beside its weights: patience, and the losses of an epoch that is under way.

Both have a state dict, so a run that comes back goes on counting.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from koemorph_tutorial.records import Best, CheckpointSettings

__all__ = ["EarlyStopping", "RunningMean"]


class EarlyStopping:
    """Count the epochs since the monitored metric was last better; `patience` of them are enough, None is never.

    >>> stopping = EarlyStopping(2, CheckpointSettings())
    >>> for epoch, loss in enumerate([0.5, 0.6, 0.7]):
    ...     stopping.update({"loss": loss}, epoch)
    >>> stopping.should_stop
    True
    """

    def __init__(self, patience: int | None, settings: CheckpointSettings) -> None:
        self.patience = patience
        self.best = Best(monitor=settings.monitor, mode=settings.mode)
        self.count = 0

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.count >= self.patience

    def update(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Take in the metrics of an epoch that has ended; call it before the save, or the file is one epoch behind."""
        better = self.best.improved_by(metrics, epoch)
        self.best, self.count = (better, 0) if better else (self.best, self.count + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the count and what it is counted from."""
        return {"count": self.count, **asdict(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; a count for another metric than the one now monitored says nothing and is left."""
        if (state_dict["monitor"], state_dict["mode"]) == (self.best.monitor, self.best.mode):
            self.count = state_dict["count"]
            self.best = Best(**{name: state_dict[name] for name in ("monitor", "mode", "value", "epoch")})


class RunningMean:
    """Average the losses of an epoch; those of half an epoch survive a stop inside it.

    >>> mean = RunningMean()
    >>> mean.add(1.0, count=3)
    >>> mean.add(2.0, count=1)
    >>> mean.take()
    1.25
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def add(self, value: float, *, count: int) -> None:
        """Take in the mean `value` of `count` samples."""
        self.total += value * count
        self.count += count

    def take(self) -> float:
        """Return the mean and start over; NaN if there was nothing."""
        mean = self.total / self.count if self.count else math.nan
        self.total, self.count = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Return the sum so far."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a sum."""
        self.total, self.count = state_dict["total"], state_dict["count"]
