"""When to save: pure decisions, each with its reasons. No clock, no disk, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .records import BEST_NAME, LAST_NAME, Best, CheckpointFile, CheckpointSettings, numbered_name


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which names to write, in this order, and why; `best` is the best once they are durable.

    `next_epoch` is the next epoch that is due whatever the metrics are, None if there is none.
    """

    names: tuple[str, ...]
    reasons: tuple[str, ...]
    best: Best
    next_epoch: int | None

    def __str__(self) -> str:
        why = "; ".join(self.reasons)
        if self.names:
            return f"{', '.join(self.names)}: {why}"
        return f"nothing written: {why}" + (f"; next at epoch {self.next_epoch}" if self.next_epoch is not None else "")


def decide(
    settings: CheckpointSettings,
    *,
    epoch: int,
    global_step: int,
    metrics: Mapping[str, float],
    best: Best,
    files: Sequence[CheckpointFile] = (),
    seconds_since_save: float = 0.0,
    steps: int = 1,
    owed: int = 0,
    inside_epoch: bool = False,
    ending: bool = False,
    stopping: bool = False,
) -> Decision:
    """Decide what the state of a run is worth writing now.

    By default `epoch` has just ended and `metrics` are its own. `inside_epoch`: after one of its batches. `ending`: the
    loop over the epochs is over and `epoch` was its last. `stopping`: the process is asked to leave. `global_step`
    counts batches, `steps` those since the last question, `owed` those of the last question of an epoch that was put
    off to its end; `seconds_since_save` is the age of the newest save; `files` are those of the directory.

    >>> print(
    ...     decide(CheckpointSettings(), epoch=3, global_step=40, metrics={"loss": 1.0}, best=Best(value=0.5, epoch=2))
    ... )
    nothing written: loss 1 is not below 0.5 (epoch 2), and epoch 3 is not due; next at epoch 5
    """
    next_epoch = settings.next_due(epoch)
    if inside_epoch:
        reasons = _inside(settings, global_step, steps, seconds_since_save, stopping)
        return Decision(
            names=(LAST_NAME,) if reasons else (),
            reasons=tuple(reasons or ["inside an epoch"]),
            best=best,
            next_epoch=next_epoch,
        )

    numbered = numbered_name(epoch)
    better = best.improved_by(metrics, epoch)
    if ending:
        if any(file.path.name == numbered for file in files):
            return Decision(names=(), reasons=(f"{numbered} is there",), best=best, next_epoch=None)
        names = (*([BEST_NAME] if better else []), numbered, LAST_NAME)  # a new best whose own save failed, say
        return Decision(names=names, reasons=("the final epoch",), best=better or best, next_epoch=None)

    reasons = []
    if better:
        reasons.append(f"a new {better}")
    due = settings.is_due(epoch)
    if due:
        reasons.append(
            f"epoch {epoch} is a milestone" if epoch in settings.milestones else f"every {settings.save_freq} epochs"
        )
    reasons += _inside(settings, global_step, owed, seconds_since_save, stopping) if owed or stopping else []
    names = (
        *([BEST_NAME] if better else []),
        *([numbered] if due else []),
        *([LAST_NAME] if reasons else []),
    )
    if not names:
        reasons = [f"{_not_better(metrics, best)}, and epoch {epoch} is not due"]
    return Decision(names=names, reasons=tuple(reasons), best=better or best, next_epoch=next_epoch)


def _inside(settings: CheckpointSettings, global_step: int, steps: int, seconds: float, stopping: bool) -> list[str]:
    reasons = []
    if settings.every_n_steps is not None and global_step % settings.every_n_steps < steps:
        reasons.append(f"every {settings.every_n_steps} steps")
    if settings.every_minutes is not None and seconds >= settings.every_minutes * 60:
        reasons.append(f"every {settings.every_minutes:g} minutes")
    if stopping:
        reasons.append("a stop was asked for")
    return reasons


def _not_better(metrics: Mapping[str, float], best: Best) -> str:
    value = metrics.get(best.monitor)
    if value is None:
        return f"no {best.monitor} among the metrics"
    if best.value is None:
        return f"{best.monitor} {value} is not finite"
    side = "below" if best.mode == "min" else "above"
    return f"{best.monitor} {value:.6g} is not {side} {best.value:.6g} (epoch {best.epoch})"
