"""When to save: pure decisions, each with its reasons, and what an interval costs. No clock, no disk, no torch."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal

from .records import BEST_NAME, LAST_NAME, Best, CheckpointFile, CheckpointSettings, numbered_name
from .text import every, json_text


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
    next_epoch = settings.next_due(epoch - 1 if inside_epoch else epoch)  # inside, its own end is still to come
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
        there = next((file.path.name for file in files if _is_end_of(file, epoch)), None)
        if there is not None:
            return Decision(names=(), reasons=(f"{there} is there",), best=best, next_epoch=None)
        names = (*([BEST_NAME] if better else []), numbered, LAST_NAME)  # a new best whose own save failed, say
        return Decision(names=names, reasons=("the final epoch",), best=better or best, next_epoch=None)

    reasons = []
    if better:
        reasons.append(f"a new {better}")
    due = settings.is_due(epoch)
    if due:
        reasons.append(f"epoch {epoch} is a milestone" if epoch in settings.milestones else every(settings.save_freq))
    reasons += _inside(settings, global_step, owed, seconds_since_save, stopping) if owed or stopping else []
    names = (
        *([BEST_NAME] if better else []),
        *([numbered] if due else []),
        *([LAST_NAME] if reasons else []),
    )
    if not names:
        reasons = [f"{_not_better(metrics, best)}, and epoch {epoch} is not due"]
    return Decision(names=names, reasons=tuple(reasons), best=better or best, next_epoch=next_epoch)


def _is_end_of(file: CheckpointFile, epoch: int) -> bool:
    """Say whether a numbered file, compressed or not, holds the end of `epoch`; not if it was saved inside of it."""
    return file.kind == "numbered" and file.epoch == epoch < file.position.epoch


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
    if best.value is None or not math.isfinite(value):  # the first finite value would have been the best
        return f"{best.monitor} {value} is not finite"
    side = "below" if best.mode == "min" else "above"
    return f"{best.monitor} {value:.6g} is not {side} {best.value:.6g} (epoch {best.epoch})"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """How often to save, and what it costs: `overhead` is the time that a run takes longer, as a share of its work.

    `interval_seconds` is the time from the end of one save to the beginning of the next; `young_seconds` and
    `young_overhead` are the same by the older and simpler formula.
    """

    save_seconds: float
    mtbf_seconds: float
    interval_seconds: float
    overhead: float
    young_seconds: float
    young_overhead: float

    def lines(self) -> list[str]:
        """Return it as a person reads it: the advice, its setting, and the older formula beside it."""
        young = f"Young's simpler formula of 1974 would say every {_time(self.young_seconds)}"
        return [str(self), f"the setting: {self.setting}", young]

    @property
    def setting(self) -> str:
        """The line of a config, in three digits."""
        return f"every_minutes: {Decimal(f'{self.interval_seconds / 60:.3g}'):f}"  # YAML takes 1e+04 for a text

    def to_json(self) -> str:
        """Return one JSON object; an overhead that no number holds is null there."""
        return json_text({**asdict(self), "setting": self.setting})

    def __str__(self) -> str:
        return (
            f"save every {_time(self.interval_seconds)}: with saves of {_time(self.save_seconds)} and a failure every "
            f"{_time(self.mtbf_seconds)} on average, {_cost(self.overhead)}"
        )


def advise(save_seconds: float, mtbf_seconds: float) -> Advice:
    """Advise how often to save, given how long a save holds the training up and the mean time between two failures.

    With `s` seconds a save and a mean of `M` between failures that come at any moment alike: Young (A first order
    approximation to the optimum checkpoint interval, Communications of the ACM 17(9), 1974) saves every √(2sM) seconds.
    Daly (A higher order estimate of the optimum checkpoint interval for restart dumps, Future Generation Computer
    Systems 22(3), 2006, equation 37) corrects it to √(2sM) · (1 + √(s/2M)/3 + (s/2M)/9) − s, and to `M` where a save
    takes twice `M` or longer. How long a restart takes plays no part in it.

    Raises:
        ValueError: a time that is no finite number above 0.

    >>> print(advise(save_seconds=6, mtbf_seconds=24 * 3600))
    save every 16 min 54 s: with saves of 6 s and a failure every 24 h on average, saves and lost work add 1.19 % to \
the training time
    >>> advise(save_seconds=6, mtbf_seconds=24 * 3600).setting
    'every_minutes: 16.9'
    """
    save = _above_zero("save_seconds", save_seconds)
    mtbf = _above_zero("mtbf_seconds", mtbf_seconds)
    young = math.sqrt(2 * save) * math.sqrt(mtbf)  # one root of the product could overflow
    part = math.sqrt(save / mtbf / 2)
    interval = young * (1 + part / 3 + part**2 / 9) - save if save < 2 * mtbf else mtbf
    return Advice(
        save_seconds=save,
        mtbf_seconds=mtbf,
        interval_seconds=interval,
        overhead=expected_overhead(interval, save, mtbf),
        young_seconds=young,
        young_overhead=expected_overhead(young, save, mtbf),
    )


def expected_overhead(
    interval_seconds: float, save_seconds: float, mtbf_seconds: float, *, restart_seconds: float = 0.0
) -> float:
    """Return how much longer a run takes than its work alone, as a share of it: saves, work done twice and restarts.

    `interval_seconds` of work lie between two saves; `mtbf_seconds` is the mean time between failures, which come at
    any moment alike, in a save and in a restart too. It is the complete model of Daly 2006 (equation 20): for `T`
    seconds of work a run takes M · exp(R/M) · (exp((t + s)/M) − 1) · T/t seconds. Infinite where no number holds it.

    Raises:
        ValueError: a time that is no finite number above 0; `restart_seconds` may be 0.

    >>> day = 24 * 3600
    >>> [f"{expected_overhead(minutes * 60, 6, day, restart_seconds=60):.2%}" for minutes in (1, 17, 240)]
    ['10.12%', '1.26%', '8.94%']
    """
    interval = _above_zero("interval_seconds", interval_seconds)
    save = _above_zero("save_seconds", save_seconds)
    mtbf = _above_zero("mtbf_seconds", mtbf_seconds)
    restart = _above_zero("restart_seconds", restart_seconds, or_zero=True)
    attempt = (interval + save) / mtbf
    if attempt + restart / mtbf > 700:  # of exp, of which a float holds no more than that of 709
        return math.inf
    share = math.exp(restart / mtbf) * (math.expm1(attempt) / attempt) * (1 + save / interval) - 1
    return max(share, 0.0)  # less than 1e-16 is lost in rounding


def _above_zero(name: str, value: object, *, or_zero: bool = False) -> float:
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number) and (number > 0 or (or_zero and number == 0)):
                return number
    except OverflowError:  # a whole number that no float holds
        pass
    raise ValueError(f"{name}: expected a time {'from' if or_zero else 'above'} 0, in seconds, found {value!r}")


def _time(seconds: float) -> str:
    """Return a time in the two units that a person would say it in."""
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    if round(seconds) < 3600:
        large, small, (whole, rest) = "min", "s", divmod(round(seconds), 60)
    elif round(seconds / 60) < 48 * 60:
        large, small, (whole, rest) = "h", "min", divmod(round(seconds / 60), 60)
    else:
        large, small, (whole, rest) = "d", "h", divmod(round(seconds / 3600), 24)
    return f"{whole:,} {large}" + (f" {rest} {small}" if rest else "")


def _cost(overhead: float) -> str:
    if overhead < 1:
        return f"saves and lost work add {100 * overhead:.3g} % to the training time"
    if overhead < 1e9:
        return f"saves and lost work make the run {1 + overhead:,.{1 if overhead < 99 else 0}f} times as long"
    return "the run never gets to its end"
